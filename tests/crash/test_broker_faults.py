"""What a broker may do to the gateway: flood it with kept messages, let a stranger take its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from gateway.kinds import FACTS, Kind
from simulators._clock import RealClock
from tests.conftest import tool
from tests.crash.sweep import settled
from tests.crash.test_signals import assert_balanced, connections, status_kb
from tests.crash.town import OWN_ACCOUNT, SECRET, Town, town
from tests.stories.box import until

RETAINED = 50_000
TAKEN_WITHIN_S = 60.0
GROWTH_MAX_KB = 64 << 10
INTRUDES_EVERY_S = 0.05
TOLD_WITHIN_S = 120.0
NEW = 1
CALLS_MAX = 25
"""Of the gateway at the broker in that time. Without a back-off it would be thousands."""


def string(text: str) -> bytes:
    """As MQTT 3.1.1, 1.5.3."""
    return len(text).to_bytes(2) + text.encode()


def publish(topic: str, payload: str, packet_id: int) -> bytes:
    """PUBLISH at QoS 1, retained (3.3)."""
    body = string(topic) + packet_id.to_bytes(2) + payload.encode()
    assert len(body) < 0x80
    return bytes([0x33, len(body)]) + body


async def leave_retained(place: Town, count: int) -> None:
    """That many devices have each left an alarm with the broker, which is against the page of the driver."""
    address = place.broker.address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    hello = string("MQTT") + bytes([4, 0xC2, 0, 60]) + string("flood") + string("demo") + string(SECRET)  # 3.1
    writer.write(bytes([0x10, len(hello)]) + hello)
    assert await reader.readexactly(4) == bytes([0x20, 2, 0, 0])
    event = '{{"v":1,"device":"{0}","session":"s","seq":1,"kind":"panic"}}'
    names = [f"r{number}" for number in range(1, count + 1)]
    writer.writelines(
        publish(f"fangkong/v1/{name}/event", event.format(name), packet_id) for packet_id, name in enumerate(names, 1)
    )
    await asyncio.gather(writer.drain(), reader.readexactly(4 * count))  # a PUBACK for each
    writer.close()
    await writer.wait_closed()


@pytest.mark.full
@pytest.mark.row("D3")
async def test_fifty_thousand_retained_alarms_are_no_news_and_cost_no_memory(tmp_path: Path) -> None:
    tool("mosquitto")
    async with town(tmp_path, seed=3) as place:
        place.switch_on(1)
        gateway = await place.start()
        await place.ready()
        before = status_kb(gateway.pid, "VmRSS")
        await place.kill()
        await leave_retained(place, RETAINED)

        gateway = await place.start()
        await place.ready()
        await place.devices[0].do("panic")
        await settled(place)
        await until(
            lambda: place.metric("fangkong_rejected_frames_total") == RETAINED,
            within_s=TAKEN_WITHIN_S,
            what="each is refused and counted",
        )
        grown = status_kb(gateway.pid, "VmHWM") - before
        print(f"grew by {grown >> 10} MB")

        assert grown < GROWTH_MAX_KB
        assert place.metric("fangkong_events_total", kind="panic") == 1
        assert len({row.key for row in place.centre.received if row.code == FACTS[Kind.PANIC].contact_id}) == 1
        assert await place.end() == 0, place.log[-3000:]
    assert_balanced(place)


@asynccontextmanager
async def intruder(place: Town) -> AsyncIterator[None]:
    """Another gateway with our name, that comes back whenever it is thrown out."""

    async def intrude() -> None:
        address = place.broker.address
        while True:
            try:
                async with aiomqtt.Client(
                    address.host,
                    address.port,
                    username="demo",
                    password=SECRET,
                    identifier="fangkong-crash-alarms",
                    protocol=aiomqtt.ProtocolVersion.V5,
                ) as client:
                    async for _ in client.messages:
                        pass
            except aiomqtt.MqttError:
                await RealClock().sleep(INTRUDES_EVERY_S)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(intrude())
        yield
        task.cancel()


@pytest.mark.full
@pytest.mark.row("D6")
async def test_two_gateways_under_one_name_are_a_fault_and_no_storm(tmp_path: Path) -> None:
    tool("mosquitto")
    fault = FACTS[Kind.COMM_FAULT].contact_id
    async with town(tmp_path, seed=6) as place:
        place.switch_on(1)
        await place.start()
        await settled(place)
        before = connections(place.to_broker)
        async with intruder(place):
            await place.centre.wait_for(
                lambda centre: any(
                    (row.account, row.code, row.qualifier) == (OWN_ACCOUNT, fault, NEW) for row in centre.received
                ),
                timeout_s=TOLD_WITHIN_S,
            )
            calls = connections(place.to_broker) - before
            print(f"called {calls} times before it was told")
            await place.devices[0].do("panic")
        await settled(place)

        assert 1 <= calls <= CALLS_MAX
        assert await place.end() == 0, place.log[-3000:]
    assert_balanced(place)
