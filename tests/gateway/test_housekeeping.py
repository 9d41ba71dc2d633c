"""What is removed by age: where a vehicle was and who passed a door, long before what was raised."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import housekeeping, logs
from gateway.config import StoreSection
from gateway.housekeeping import GRANTS, Housekeeping
from gateway.ids import EventIds
from gateway.intake import Source, judge
from gateway.metrics import Metrics
from gateway.model import Kind, Observation, Place, Position
from gateway.store import Entry, EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

DAY_S = 86_400.0


class AuditRecord:
    """Its own age is tried elsewhere (test_audit.py); the real one prunes in a thread, which no jumping clock waits for."""

    async def prune(self) -> int:
        return 0


async def test_positions_and_grants_go_long_before_alarms(
    tmp_path: Path, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the days that a site file has by itself: 30, 90 and 730."""
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", DAY_S)
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    nobody: Any = None
    said = io.StringIO()
    logs.set_up("info", said)
    record: Any = AuditRecord()
    usual = StoreSection()
    keeping = Housekeeping(
        store=store, registry=nobody, health=nobody, intake=nobody, metrics=Metrics(), clock=jumping_clock, log=logs.logger(),
        own=Source("gateway", "gateway"), destinations=list, boot="", alive=nobody, status=nobody, audit=record,
        keep=lambda: usual,
    )  # fmt: skip
    ids = EventIds(jumping_clock, Random(1))
    place = Place("s1", "A101", "金库", None, 0, "")

    async def stored() -> Counter[Kind]:
        return Counter(event.kind for event in await store.events(EventFilter()))

    async with asyncio.TaskGroup() as tasks:
        pruning = tasks.create_task(keeping.prune())
        for kind in (Kind.POSITION, Kind.GEOFENCE, Kind.ACCESS_DENIED, *GRANTS):
            seen = Observation("van-7", kind, at=jumping_clock.now(), position=Position(37.5, 121.4))
            event = judge(
                seen, Source("nmea", "van"), place=place, event_id=ids.next(), now=jumping_clock.now(), boot=""
            )
            await (await store.append([Entry(event)]))
        kept = {}
        for day in range(1, 733):
            await jumping_clock.advance(DAY_S)
            kept[day] = await stored()
        assert [day for day in kept if kept[day] != kept.get(day - 1, kept[1])] == [31, 91, 731]
        always = {Kind.GEOFENCE, Kind.ACCESS_DENIED}
        assert (kept[30].keys(), kept[90].keys()) == ({Kind.POSITION, *always, *GRANTS}, {Kind.POSITION, *always})
        assert (kept[730].keys(), kept[732]) == (always, {})
        told = [json.loads(line) for line in said.getvalue().splitlines()]
        assert [(each["what"], each["count"]) for each in told] == [("grants", len(GRANTS)), ("bulk", 1), ("all", 2)]
        pruning.cancel()
    await store.close()
