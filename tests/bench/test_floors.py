"""The floors keep the gateway's promise: nobody is answered before the commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from bench.estate import Devices
from bench.peer import Ends, carry
from bench.systems import Floor
from tests.bench.test_peer import SMALL, both_ends

COUNT = 10
PATIENCE_S = 10.0


@asynccontextmanager
async def running(folder: Path, kind: str) -> AsyncIterator[Ends]:
    """A floor between two ends in this process."""
    async with both_ends() as (ends, mqtt, centre):
        floor = Floor(kind, kind, SMALL)
        floor.start(folder, mqtt=mqtt, centre=centre)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ends.is_subscribed.wait()
                await ends.is_called.wait()
            yield ends
        finally:
            floor.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks at another process


@pytest.mark.parametrize("kind", ["bare", "paho"])
async def test_a_floor_confirms_a_repeat_and_sends_it_once(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind) as ends:
        broker = ends.broker
        assert broker is not None
        for _ in range(2):
            packets = Devices(SMALL, Random(9)).publishes(COUNT, first=0, session="s", packet_id=1, is_5=False)
            broker.transport.write(b"".join(packets))
        await until(lambda: broker.expected_id > 2 * COUNT)
        verdict = await carry(ends, COUNT, 0, 1, give_up_s=PATIENCE_S)  # behind all that was sent before

        assert verdict["acked"] == COUNT
        assert ends.others == COUNT


@pytest.mark.parametrize("kind", ["bare", "paho"])
async def test_a_floor_answers_nobody_before_the_commit(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path, kind) as ends:
        database = sqlite3.connect(tmp_path / "floor.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")  # nobody else can commit

        verdict = await carry(ends, COUNT, 0, 1, give_up_s=0.3)

        assert (verdict["confirmed"], verdict["acked"]) == (0, 0)
        before = ends.others
        database.execute("ROLLBACK")
        database.close()
        broker = ends.broker
        assert broker is not None
        # They come now, after their load was given up.
        await until(lambda: ends.others == before + COUNT and broker.expected_id > COUNT)
        verdict = await carry(ends, COUNT, 0, 2, give_up_s=PATIENCE_S)
        assert (verdict["confirmed"], verdict["acked"], verdict["doubled"]) == (COUNT, COUNT, 0)
