"""The peer is no flatterer: what a gateway loses, sends twice, damages or confirms out of order is counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from time import perf_counter  # noqa: TID251  # the peer measures by it
from typing import Any

import pytest

from bench import wire
from bench.estate import Devices, Estate
from bench.peer import Broker, Centre, Ends, arrivals, carry

SMALL = Estate(devices=20, accounts=3)
COUNT = 40
GIVE_UP_S = 0.2


class Gateway:
    """One by hand: takes `COUNT` events, and says what a test makes it say."""

    def __init__(self, ends: Ends, mqtt: asyncio.StreamWriter, centre: asyncio.StreamWriter) -> None:
        self._ends = ends
        self.mqtt = mqtt
        self.centre = centre

    async def carry(self, frames: Sequence[bytes], packet_ids: Sequence[int]) -> dict[str, Any]:
        """The peer's verdict on these frames and confirmations."""
        async with asyncio.TaskGroup() as group:
            verdict = group.create_task(carry(self._ends, COUNT, 0, 1, GIVE_UP_S))
            self.mqtt.write(wire.pubacks(list(packet_ids)))
            self.centre.write(b"".join(frames))
        return verdict.result()


def frames(*indices: int) -> list[bytes]:
    """What a gateway sends for these events."""
    return [
        wire.frame(b'"ADM-CID"%04dL0#A000[#A000|1130 00 001][I x e%09d]' % (index % 9999 + 1, index))
        for index in indices
    ]


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[Ends, int, int]]:
    """The ends of one gateway, with the ports of broker and centre."""
    loop = asyncio.get_running_loop()
    ends = Ends(SMALL, seed=1)
    servers = [
        await loop.create_server(lambda: Broker(ends), "127.0.0.1", 0),
        await loop.create_server(lambda: Centre(ends), "127.0.0.1", 0),
    ]
    mqtt, centre = (server.sockets[0].getsockname()[1] for server in servers)
    try:
        yield ends, mqtt, centre
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    async with both_ends() as (ends, *ports):
        _, mqtt = await asyncio.open_connection("127.0.0.1", ports[0])
        _, centre = await asyncio.open_connection("127.0.0.1", ports[1])
        mqtt.write(wire.connect(b"by hand") + wire.subscribe(b"#"))
        async with asyncio.timeout(5):
            await ends.is_subscribed.wait()
            await ends.is_called.wait()
        try:
            yield Gateway(ends, mqtt, centre)
        finally:
            for writer in (mqtt, centre):
                writer.close()
                await writer.wait_closed()


EVERYTHING = range(COUNT)
IN_ORDER = range(1, COUNT + 1)
DAMAGED = [frames(0)[0].replace(b"#A000|1", b"#A000|3"), *frames(*range(1, COUNT))]
VERDICTS = {
    "all is well": (frames(*EVERYTHING), IN_ORDER, {"acked": COUNT, "doubled": 0, "damaged": 0, "misordered": 0}),
    "one is lost": (frames(*EVERYTHING[1:]), IN_ORDER, {"acked": COUNT - 1, "doubled": 0}),
    "one comes twice": (frames(*EVERYTHING, 7), IN_ORDER, {"acked": COUNT, "doubled": 1}),
    "one is damaged": (DAMAGED, IN_ORDER, {"acked": COUNT - 1, "damaged": 1}),
    "rubbish between frames": ([b"??", *frames(*EVERYTHING)], IN_ORDER, {"acked": COUNT, "damaged": 1}),
    "of no load": (frames(*EVERYTHING, 999_999), IN_ORDER, {"acked": COUNT, "others": 1}),
    "confirmed twice": (frames(*EVERYTHING), [1, *IN_ORDER], {"misordered": COUNT, "confirmed": COUNT + 1}),
    "not confirmed": (frames(*EVERYTHING), IN_ORDER[1:], {"acked": COUNT, "confirmed": COUNT - 1}),
}


@pytest.mark.parametrize("name", VERDICTS)
async def test_the_peer_counts(name: str) -> None:
    sent, packet_ids, expected = VERDICTS[name]
    async with gateway() as by_hand:
        verdict = await by_hand.carry(sent, packet_ids)

    assert {key: verdict[key] for key in expected} == expected
    assert len(verdict["latencies_ms"]) == verdict["acked"]


async def test_latency_ends_with_the_answer_to_the_events_own_frame() -> None:
    async with gateway() as by_hand:
        began = perf_counter()
        verdict = await by_hand.carry(frames(*reversed(EVERYTHING)), IN_ORDER)
        took_ms = (perf_counter() - began) * 1000

    assert all(0 < latency <= took_ms for latency in verdict["latencies_ms"])


def test_the_same_seed_says_the_same_at_the_same_moments() -> None:
    def said() -> list[bytes]:
        devices = Devices(SMALL, Random(5))
        packets = devices.publishes(30, first=0, session="s", packet_id=1, is_5=False)
        return [re.sub(rb'"at":"[^"]*"|"crc":"[^"]*"', b"", packet) for packet in packets]

    assert said() == said()
    assert arrivals(100, 50, 3) == arrivals(100, 50, 3)


def test_each_device_ends_what_it_began_before_it_begins_again() -> None:
    devices = Devices(SMALL, Random(5))
    active: set[tuple[bytes, bytes]] = set()
    for packet in devices.publishes(500, first=0, session="s", packet_id=1, is_5=False):
        [(device, kind, qualifier)] = re.findall(rb'"device":"(.*?)".*"kind":"(.*?)","qualifier":"(.*?)"', packet)
        if kind != b"panic":
            assert ((device, kind) in active) == (qualifier == b"restore")
            active ^= {(device, kind)}
