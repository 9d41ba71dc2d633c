"""The intake: who, where, how urgent, and is it a repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.errors import FrameError
from gateway.ids import EventIds
from gateway.intake import REJECTS_WAITING, Intake, Route, Source
from gateway.kinds import FACTS
from gateway.metrics import Metrics
from gateway.model import Kind, Lane, Observation, Place, Qualifier, TimeQuality
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

SOURCE = Source("test", "c1", 60.0)
ALL = frozenset(Lane)


@dataclass
class Places:
    claimed: set[str] = field(default_factory=lambda: {"a001"})

    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A10B", "阳泗小区", "p1", zone or 0, "东门") if device in self.claimed else None


@dataclass
class Bench:
    store: SqliteStore
    intake: Intake
    metrics: Metrics
    clock: JumpingClock
    heard: list[str]

    async def stored(self) -> int:
        return len(await self.store.events(EventFilter()))


@pytest.fixture
async def bench(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Bench]:
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    heard: list[str] = []
    metrics = Metrics()
    intake = Intake(
        store=store,
        places=Places(),
        routes=[Route("110", frozenset({Lane.LIFE, Lane.ALARM})), Route("mirror", ALL)],
        ids=EventIds(jumping_clock, Random(1)),
        clock=jumping_clock,
        metrics=metrics,
        heard=lambda device, _: heard.append(device),
    )
    yield Bench(store, intake, metrics, jumping_clock, heard)
    await store.close()


async def test_each_destination_gets_its_lanes(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC), Observation("a001", Kind.RF_BATT_LOW)]))

    life = await bench.store.pending("110", Lane.LIFE, after_seq=0, limit=9)
    fault = await bench.store.pending("110", Lane.FAULT, after_seq=0, limit=9)
    mirrored = await bench.store.deliveries(destination="mirror")
    assert ([row.event.kind for row in life], len(fault), len(mirrored)) == ([Kind.PANIC], 0, 2)


async def test_an_unclaimed_device_is_stored_and_sent_to_nobody(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("stranger", Kind.PANIC)]))

    (event,) = await bench.store.events(EventFilter(claimed=False))
    assert event.device == "stranger"
    assert await bench.store.deliveries() == []


async def test_a_restore_rides_in_its_alarms_lane_behind_it(bench: Bench) -> None:
    for qualifier in (Qualifier.NEW, Qualifier.RESTORE):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, qualifier)]))

    rows = await bench.store.pending("110", Lane.ALARM, after_seq=0, limit=9)
    assert [row.event.qualifier for row in rows] == [Qualifier.NEW, Qualifier.RESTORE]


async def test_a_test_event_never_rides_with_alarms(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC, test=True)]))

    (event,) = await bench.store.events(EventFilter())
    assert (event.lane, event.test) == (Lane.STATUS, True)


async def test_an_alarm_after_its_restore_is_another_alarm_however_soon(bench: Bench) -> None:
    """A door contact that opens, closes and opens again within a second, on a protocol without numbers."""
    told = [Qualifier.NEW, Qualifier.NEW, Qualifier.RESTORE, Qualifier.RESTORE, Qualifier.NEW]
    for qualifier in told:
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, qualifier, zone=1)]))

    rows = await bench.store.pending("110", Lane.ALARM, after_seq=0, limit=9)
    assert [row.event.qualifier for row in rows] == [Qualifier.NEW, Qualifier.RESTORE, Qualifier.NEW]


async def test_a_driver_that_says_a_device_is_lost_does_not_prove_that_it_lives(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.COMM_FAULT)]))
    assert bench.heard == []

    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.COMM_FAULT, Qualifier.RESTORE)]))
    assert bench.heard == ["a001"]


async def test_a_numbered_repeat_is_answered_and_stored_once(bench: Bench) -> None:
    for _ in range(3):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC, repeat_key="boot/7")]))

    assert await bench.stored() == 1


async def test_the_same_number_after_a_reboot_is_another_event(bench: Bench) -> None:
    for key in ("boot-1/7", "boot-2/7"):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC, repeat_key=key)]))

    assert await bench.stored() == 2


async def test_two_presses_without_any_sequence_are_two_events(bench: Bench) -> None:
    for _ in range(2):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC)]))

    assert await bench.stored() == 2


async def test_an_unnumbered_condition_is_merged_for_a_minute_and_not_longer(bench: Bench) -> None:
    async def report() -> None:
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=2)]))

    await report()
    await bench.clock.advance(59)
    await report()
    assert await bench.stored() == 1

    await bench.clock.advance(2)
    await report()
    assert await bench.stored() == 2


@pytest.mark.parametrize(
    ("at", "quality"),
    [
        (None, TimeQuality.UNKNOWN),
        (datetime(1970, 1, 1, 0, 5, tzinfo=UTC), TimeQuality.UNKNOWN),
        (datetime(2027, 1, 15, 8, 29, tzinfo=UTC), TimeQuality.OK),
        (datetime(2027, 1, 15, 8, 33, tzinfo=UTC), TimeQuality.UNKNOWN),
        (datetime(2027, 1, 12, 8, 30, tzinfo=UTC), TimeQuality.OK),
    ],
)
async def test_device_time_is_believed_only_where_it_can_be_true(
    bench: Bench, at: datetime | None, quality: TimeQuality
) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, at=at)]))

    (event,) = await bench.store.events(EventFilter())
    assert (event.time_quality, event.device_time) == (quality, at)
    assert event.occurred_at == (at if quality is TimeQuality.OK else event.received_at)


async def test_a_heartbeat_is_proof_of_life_and_no_event(bench: Bench) -> None:
    receipt = await bench.intake.report(SOURCE, [Observation("a001", Kind.HEARTBEAT)])

    assert receipt.is_settled
    assert (bench.heard, await bench.stored()) == (["a001"], 0)


async def test_what_the_gateway_says_of_a_device_does_not_prove_that_it_lives(bench: Bench) -> None:
    own = Source("gateway", "gateway", proves_life=False)
    await (await bench.intake.report(own, [Observation("a001", Kind.SILENT)]))

    assert bench.heard == []


async def test_an_unknown_code_travels_with_the_alarms(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.UNKNOWN, code="7F3")]))

    (row,) = await bench.store.pending("110", Lane.ALARM, after_seq=0, limit=9)
    assert row.event.code == "7F3"


def test_every_kind_has_facts() -> None:
    assert set(FACTS) == set(Kind)


async def test_refused_frames_are_counted_by_reason_and_kept_within_a_bound(bench: Bench) -> None:
    for n in range(REJECTS_WAITING + 5):
        bench.intake.reject(SOURCE, bytes([n % 256]), FrameError("CRC is 1234, expected 5678", "checksum"))

    assert bench.metrics.registry.get_sample_value(
        "fangkong_rejected_frames_total", {"connection": "c1", "reason": "checksum"}
    ) == (REJECTS_WAITING + 5)
    assert len(bench.intake._rejects) == REJECTS_WAITING


def test_ids_rise_also_when_the_clock_steps_back() -> None:
    clock = JumpingClock()
    ids = EventIds(clock, Random(3))
    given = []
    for step in (0, 0, 5, -3600, 0, 10):
        clock.jump_wall(step)
        given.append(ids.next())

    assert given == sorted(given)
    assert len(set(given)) == len(given)
    assert timedelta(0) <= clock.now() - datetime(2027, 1, 15, 7, 30, tzinfo=UTC)
