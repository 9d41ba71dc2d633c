"""What is removed by age: where a vehicle was and who passed a door, long before what was raised."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import housekeeping, logs
from gateway.config import StoreSection
from gateway.housekeeping import GRANTS, UNKEPT_TOLD_S, Housekeeping
from gateway.ids import EventIds
from gateway.intake import Intake, Source, judge
from gateway.metrics import Metrics
from gateway.model import Kind, Observation, Place, Position
from gateway.store import Entry, EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.timekeeping import BEAT_S, Heartbeat, is_synchronised
from tests.conftest import JumpingClock

DAY_S = 86_400.0


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_clock_that_nobody_keeps_right_is_one_event_once_it_lasts_and_one_when_it_is_over(
    tmp_path: Path, jumping_clock: JumpingClock, is_restarted: bool
) -> None:
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    nobody: Any = None
    kept: list[bool | None] = [None]
    metrics, own = (
        Metrics(),
        Source("gateway", "gateway", place=Place("box", "0001", "箱", None, 0, ""), proves_life=False),
    )

    def keeper() -> Housekeeping:
        intake = Intake(
            store=store, places=nobody, routes=[], ids=EventIds(jumping_clock, Random()), clock=jumping_clock, metrics=metrics,
            heard=lambda device, source: None,
        )  # fmt: skip
        return Housekeeping(
            store=store, registry=nobody, health=nobody, intake=intake, metrics=metrics, clock=jumping_clock, log=logs.logger(),
            own=own, destinations=list, boot="", alive=nobody, status=nobody, audit=nobody, keep=StoreSection,
            is_synchronised=lambda: kept[0],
        )  # fmt: skip

    keeping = keeper()

    async def after(seconds: float, is_kept: bool | None) -> list[str]:
        kept[0] = is_kept
        await keeping._clock_kept()
        await jumping_clock.advance(seconds)
        await keeping._clock_kept()
        return [event.qualifier.value for event in await store.events(EventFilter(kind=Kind.CLOCK_FAULT))]

    assert await after(2 * UNKEPT_TOLD_S, is_kept=None) == []
    assert await after(UNKEPT_TOLD_S - 1, is_kept=False) == []
    assert await after(1, is_kept=True) == []
    assert await after(UNKEPT_TOLD_S - 1, is_kept=False) == []
    assert await after(2, is_kept=False) == ["new"]
    assert metrics.registry.get_sample_value("fangkong_clock_synchronised") == 0
    assert await after(DAY_S, is_kept=False) == ["new"]
    if is_restarted:
        keeping = keeper()
        assert await after(2 * UNKEPT_TOLD_S, is_kept=False) == ["new"]
        keeping = keeper()
    assert await after(1, is_kept=True) == ["new", "restore"]
    assert metrics.registry.get_sample_value("fangkong_clock_synchronised") == 1
    await store.close()


def test_the_time_off_is_from_the_last_beat_to_the_start(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    path = tmp_path / "alive"

    def off(seconds: float) -> timedelta | None:
        jumping_clock._move(jumping_clock.monotonic() + seconds)
        found = Heartbeat(path, jumping_clock).off()
        return found and found[1] - found[0]

    assert off(0) is None, "the first start"
    beating = Heartbeat(path, jumping_clock)
    for _ in range(100):
        beating.beat()
        jumping_clock._move(jumping_clock.monotonic() + 1)
    assert off(0) is None
    found = off(3600)
    assert found is not None
    assert timedelta(0, 3600) <= found <= timedelta(0, 3600 + BEAT_S)
    jumping_clock.jump_wall(-2 * DAY_S)
    assert off(0) is None, "the clock went back: nobody knows"
    Heartbeat(tmp_path / "nowhere" / "alive", jumping_clock).beat()  # a disk that fails stops nobody


def test_the_kernel_says_whether_the_clock_is_kept_or_nothing() -> None:
    assert is_synchronised() in (True, False, None)


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
        keep=lambda: usual, is_synchronised=nobody,
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
