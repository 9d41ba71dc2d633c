"""Anything that offers its alarm points as Modbus bits or registers: fence controllers, remote I/O, end-of-line modules.

What a model means is a profile (`drivers/profiles/*.toml`), checked by `profile`; `readings` turns values into edges,
`poll` is the bus scheduler, `outputs` switches what people ask for, `capture` explains recorded RTU transactions.
"""

from typing import Final, Literal

from drivers.modbus_points.capture import decode, split
from drivers.modbus_points.poll import Memory, run
from drivers.modbus_points.profile import HEARD_WITHIN_S, Profile, Settings, heard_within_s, mistakes, obeys

__all__ = [
    "HEARD_WITHIN_S",
    "LINK",
    "Memory",
    "Profile",
    "Settings",
    "decode",
    "heard_within_s",
    "mistakes",
    "obeys",
    "run",
    "split",
]

LINK: Final[Literal["bus"]] = "bus"
