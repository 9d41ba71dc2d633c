"""Another maker's bridge in a whole town: what mosquitto's own client publishes is at 110, and a lost bridge is one event."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import simulators
from gateway.model import Device, Point
from simulators.police_centre import PoliceCentre
from tests.conftest import tool
from tests.stories.town import Town, town

SCENARIO = Path(simulators.__file__).parent / "scenarios" / "bridge_is_lost.toml"
SCENARIO_S = 40
LEAVES = [f"leaf-{n}" for n in range(1, 5)]
WINDOW_S = 4.0
ZIGBEE = """
[[connection]]
name = "zigbee"
driver = "zigbee2mqtt"
link = "mqtt://broker"
"""
LEDGER = [
    Device("zigbee2mqtt", "yangsi", "Zigbee 网关"),
    Point("p-bridge", "yangsi", 950, "Zigbee 网关", "zigbee2mqtt"),
    *(Device(leaf, "yangsi", leaf, WINDOW_S) for leaf in LEAVES),
    *(Point(f"p-{leaf}", "yangsi", 950 + n, leaf, leaf) for n, leaf in enumerate(LEAVES, 1)),
]
ALARM_WITHIN_S = 15.0


def at_110(place: Town, code: str, zone: int, qualifier: int = 1) -> int:
    """How many such events the centre took for the estate."""
    return sum(
        (row.account, row.code, row.zone, row.qualifier) == ("A101", code, f"{zone:03d}", qualifier)
        for row in place.accepted()
    )


async def publish(place: Town, topic: str, payload: str, *more: str) -> None:
    """By mosquitto's own client."""
    client = await asyncio.create_subprocess_exec(
        tool("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(place.box.mqtt), "-u", "demo", "-P", "for-this-test-only",
        "-q", "1", "-t", topic, "-m", payload, *more,
    )  # fmt: skip
    async with asyncio.timeout(ALARM_WITHIN_S):
        assert await client.wait() == 0


def silences(place: Town) -> list[Any]:
    """What the gateway says of devices that cannot be heard, but for the demo's own."""
    events = place.box.get("api/v1/events?limit=1000")["items"]
    return [
        (event["device"], event["kind"], event["qualifier"])
        for event in events
        if event["kind"] in ("silent", "comm_fault") and event["device"] in ("zigbee2mqtt", *LEAVES)
    ]


@pytest.mark.full
@pytest.mark.peer("mosquitto")
async def test_what_mosquittos_client_publishes_is_at_110_and_retained_is_not(tmp_path: Path) -> None:
    async with town(tmp_path, *LEDGER, receiver=ZIGBEE, topics=["zigbee2mqtt/#"]) as place:
        await place.line_is_up("zigbee")
        await publish(place, "zigbee2mqtt/leaf-2", '{"contact":false,"battery":100}', "-r")
        await place.centre.wait_for(lambda _: at_110(place, "130", 952) == 1, timeout_s=ALARM_WITHIN_S)
        await place.box.kill()
        await place.box.start()  # subscribes anew, and is told again what the broker remembers
        await publish(place, "zigbee2mqtt/leaf-1", '{"action":"emergency"}')
        await place.centre.wait_for(lambda _: at_110(place, "120", 951) == 1, timeout_s=ALARM_WITHIN_S)

        assert at_110(place, "130", 952) == 1
        place.assert_unhurt()


@pytest.mark.driver_story("mqtt_json", "unplug")
@pytest.mark.full
async def test_a_lost_bridge_is_one_event_in_the_whole_town(tmp_path: Path) -> None:
    """What is behind it misses its deadline several times over while it is away, and none is blamed."""
    record = tmp_path / "centre.jsonl"
    async with (
        PoliceCentre(record=record) as centre,
        town(tmp_path, *LEDGER, centre=centre, receiver=ZIGBEE, topics=["zigbee2mqtt/#"]) as place,
    ):
        await place.line_is_up("zigbee")
        played = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "simulators", str(SCENARIO), "--seconds", str(SCENARIO_S), "--record", str(record),
            f"--set=mqtt={place.box.broker_url}",
        )  # fmt: skip
        async with asyncio.timeout(2 * SCENARIO_S):
            assert await played.wait() == 0, "110 has not what the scenario expects"

        assert sorted(silences(place)) == [
            ("zigbee2mqtt", "comm_fault", "new"),
            ("zigbee2mqtt", "comm_fault", "restore"),
        ]
        place.assert_unhurt()
