"""Wireless alarms behind somebody else's MQTT bridge: zigbee2mqtt, ChirpStack, rtl_433, Tasmota, OwnTracks ...

What a family says is a profile (`drivers/profiles/*.toml`), checked by `profile`; `reading` turns a message into facts,
`hearing` decides what of them is news, `obeying` tells locks and sirens what to do.
"""

from typing import Final, Literal

from drivers.mqtt_json.hearing import run
from drivers.mqtt_json.masking import mask
from drivers.mqtt_json.obeying import Memory, obeys
from drivers.mqtt_json.profile import (
    HEARD_WITHIN_S,
    Profile,
    Settings,
    behind,
    heard_within_s,
    mistakes,
    subscriptions,
)
from drivers.mqtt_json.reading import decode

__all__ = [
    "HEARD_WITHIN_S", "LINK", "Memory", "Profile", "Settings", "behind", "decode", "heard_within_s", "mask", "mistakes", "obeys",
    "run",
    "subscriptions",
]  # fmt: skip

LINK: Final[Literal["topics"]] = "topics"
