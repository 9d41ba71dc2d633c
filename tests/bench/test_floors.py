"""The floors keep the gateway's promise: nobody is answered before the commit."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bench.peer import carry
from bench.systems import Floor
from tests.bench.test_peer import SMALL, both_ends

COUNT = 10
PATIENCE_S = 10.0


@pytest.mark.parametrize("kind", ["bare", "paho"])
async def test_a_floor_answers_nobody_before_the_commit(tmp_path: Path, kind: str) -> None:
    async with both_ends() as (ends, mqtt, centre):
        floor = Floor(kind, kind, SMALL)
        floor.start(tmp_path, mqtt=mqtt, centre=centre)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ends.is_subscribed.wait()
                await ends.is_called.wait()
            database = sqlite3.connect(tmp_path / "floor.db", isolation_level=None)
            database.execute("BEGIN IMMEDIATE")  # nobody else can commit

            verdict = await carry(ends, COUNT, 0, 1, give_up_s=0.3)

            assert (verdict["confirmed"], verdict["acked"]) == (0, 0)
            before = ends.others
            database.execute("ROLLBACK")
            database.close()
            async with asyncio.timeout(PATIENCE_S):
                while ends.others < before + COUNT:  # they come now, after their load was given up
                    await asyncio.sleep(0.01)  # noqa: TID251  # between two looks at another process
            verdict = await carry(ends, COUNT, 0, 2, give_up_s=PATIENCE_S)
            assert (verdict["confirmed"], verdict["acked"], verdict["doubled"]) == (COUNT, COUNT, 0)
        finally:
            floor.end()
