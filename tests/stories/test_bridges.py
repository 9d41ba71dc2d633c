"""Another maker's bridge in a whole town: what mosquitto's own client publishes is at 110, and a lost bridge is one event."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import simulators
from gateway.kinds import Kind
from gateway.model import Device, Point
from simulators.police_centre import PoliceCentre
from tests.conftest import tool
from tests.stories.box import until
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


@pytest.mark.driver_story("mqtt_json", "slow peer")
@pytest.mark.driver_story("alarm_json", "slow peer")
@pytest.mark.full
async def test_devices_that_send_a_byte_at_a_time_hold_up_nobody_and_are_heard(tmp_path: Path) -> None:
    panic = b'{"v":1,"device":"a003","session":"s1","seq":1,"kind":"panic"}'
    async with town(tmp_path, *LEDGER, receiver=ZIGBEE, topics=["zigbee2mqtt/#"]) as place:
        await place.line_is_up("zigbee")
        neighbour = place.alarm("a002")
        async with asyncio.TaskGroup() as slow:
            slow.create_task(drip(place, b"fangkong/v1/a003/event", panic))
            slow.create_task(drip(place, b"zigbee2mqtt/leaf-1", b'{"action":"emergency"}'))
            await neighbour.do("panic")
            await place.at_110("a002", Kind.PANIC, within_s=ALARM_WITHIN_S)
        await place.at_110("a003", Kind.PANIC, within_s=ALARM_WITHIN_S)
        await place.centre.wait_for(lambda _: at_110(place, "120", 951) == 1, timeout_s=ALARM_WITHIN_S)
        place.assert_unhurt()


async def drip(place: Town, topic: bytes, payload: bytes) -> None:
    """One message of an MQTT 3.1.1 client over a line that carries a hundred bytes a second."""

    def text(value: bytes) -> bytes:
        return len(value).to_bytes(2, "big") + value

    connect = text(b"MQTT") + b"\x04\xc2\x00\x3c" + text(topic[-20:]) + text(b"demo") + text(b"for-this-test-only")
    publish = text(topic) + payload
    reader, writer = await asyncio.open_connection("127.0.0.1", place.box.mqtt)
    packets = (b"\x10", connect), (b"\x30", publish)
    for byte in b"".join(head + bytes([len(body)]) + body for head, body in packets):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)  # noqa: TID251  # the slow line itself
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    writer.close()


@pytest.mark.full
async def test_a_modbus_bridge_that_reaches_nobody_is_one_event(tmp_path: Path) -> None:
    """It takes every call; none of the four units behind it answers for longer than their own windows."""
    fences = [f"fence-{n}" for n in range(1, 5)]

    def faults(place: Town) -> list[Any]:
        events = place.box.get("api/v1/events?limit=1000")["items"]
        return sorted(
            (event["device"], event["kind"], event["qualifier"])
            for event in events
            if event["kind"] in ("silent", "comm_fault") and event["device"] in ("connection/perimeter", *fences)
        )

    async with town(tmp_path) as place:
        units = await place.fences()
        await units[0].do("perimeter", zone=1)
        await place.at_110("fence-1", Kind.PERIMETER, zone=1, within_s=ALARM_WITHIN_S)
        before = faults(place)  # the line was down until the units were switched on
        for unit in units:
            await unit.do("silent")
        lost = ("connection/perimeter", "comm_fault", "new")
        await until(
            lambda: faults(place).count(lost) > before.count(lost), within_s=SCENARIO_S, what="the line is lost"
        )
        await place.world.clock.sleep(12)  # longer than the window of a fence
        for unit in units:
            await unit.do("back")
        await units[3].do("perimeter", zone=4)
        await place.at_110("fence-4", Kind.PERIMETER, zone=4, within_s=SCENARIO_S)
        back = ("connection/perimeter", "comm_fault", "restore")
        await until(lambda: faults(place).count(back) > before.count(back), within_s=SCENARIO_S, what="it is back")
        assert faults(place) == sorted([*before, lost, back])
        place.assert_unhurt()
