"""The intake: who, where, how urgent, and is it a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.errors import FrameError, StoreError
from gateway.ids import EventIds
from gateway.intake import DEVIATING_MAX, REJECTS_WAITING, REUSED_KEY_S, Intake, Route, Source, repeat_key
from gateway.kinds import FACTS
from gateway.metrics import Metrics
from gateway.model import Kind, Lane, Observation, Place, Qualifier, TimeQuality
from gateway.receipt import Receipt, Series
from gateway.store import Entry, EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

SOURCE = Source("test", "c1", 60.0)
ALL = frozenset(Lane)


@dataclass
class Places:
    claimed: set[str] = field(default_factory=lambda: {"a001"})

    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A10B", "阳泗小区", "p1", zone or 0, "东门") if device in self.claimed else None


class TryingStore(SqliteStore):
    """The real store, which can be short of room, and one append of which fails."""

    room: asyncio.Event
    fails: StoreError | None = None

    async def append(self, entries: Sequence[Entry], *, series: Series | None = None) -> Receipt:
        await self.room.wait()
        if self.fails is None:
            return await super().append(entries, series=series)
        failed, error, self.fails = Receipt(), self.fails, None
        asyncio.get_running_loop().call_soon(failed.settle, error)
        return failed


@dataclass
class Bench:
    store: TryingStore
    intake: Intake
    metrics: Metrics
    clock: JumpingClock
    heard: list[str]

    async def stored(self) -> int:
        return len(await self.store.events(EventFilter()))

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"fangkong_{name}_total", labels)


def intake_on(store: SqliteStore, clock: JumpingClock, metrics: Metrics, heard: list[str]) -> Intake:
    return Intake(
        store=store,
        places=Places(),
        routes=[Route("110", frozenset({Lane.LIFE, Lane.ALARM})), Route("mirror", ALL)],
        ids=EventIds(clock, Random(1)),
        clock=clock,
        metrics=metrics,
        heard=lambda device, _: heard.append(device),
    )


@pytest.fixture
async def bench(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Bench]:
    store = await TryingStore.open(tmp_path, jumping_clock, inline=True)
    assert isinstance(store, TryingStore)
    store.room = asyncio.Event()
    store.room.set()
    heard: list[str] = []
    metrics = Metrics()
    yield Bench(store, intake_on(store, jumping_clock, metrics, heard), metrics, jumping_clock, heard)
    await store.close()


async def test_each_destination_gets_its_lanes(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC), Observation("a001", Kind.RF_BATT_LOW)]))

    life = await bench.store.pending("110", Lane.LIFE, after_seq=0, limit=9)
    fault = await bench.store.pending("110", Lane.FAULT, after_seq=0, limit=9)
    mirrored = await bench.store.deliveries(destination="mirror")
    assert ([row.event.kind for row in life], len(fault), len(mirrored)) == ([Kind.PANIC], 0, 2)


async def test_a_poisonous_event_costs_its_batch_nothing(bench: Bench) -> None:
    """One report holds what arrived together; refused, all of it would come again, for ever."""
    poison = Observation("a001", Kind.PANIC, code="\ud800", repeat_key="s/50", values={"driver's mistake": object()})  # type: ignore[dict-item]  # that is the mistake
    batch = [Observation("a001", Kind.PANIC, repeat_key=f"s/{number}") for number in range(50)]
    receipt = await bench.intake.report(SOURCE, [*batch[:25], poison, *batch[25:]])
    await receipt
    again = await bench.intake.report(SOURCE, [poison])
    await again

    assert await bench.stored() == 51
    life = await bench.store.pending("110", Lane.LIFE, after_seq=0, limit=99)
    assert [row.event.seq for row in life] == list(range(1, 52))
    assert [row.event.seq for row in life if "cannot be stored" in (row.event.text or "")] == [26]
    assert bench.count("repeats") == 1


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


async def test_a_real_alarm_right_after_a_walk_test_is_no_repeat_of_it(bench: Bench) -> None:
    for test in (True, False):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=1, test=test)]))

    (row,) = await bench.store.pending("110", Lane.ALARM, after_seq=0, limit=9)
    assert not row.event.test


async def test_a_repeat_beside_news_is_not_answered_when_its_first_was_not_stored(bench: Bench) -> None:
    """A panel repeats zone 1, whose commit then fails, together with zone 2, whose commit succeeds."""
    bench.store.fails = StoreError("the disk says no")
    first = await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=1)])
    both = await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=zone) for zone in (1, 2)])
    for receipt in (first, both):
        with pytest.raises(StoreError):
            await receipt

    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=zone) for zone in (1, 2)]))
    assert [event.zone for event in await bench.store.events(EventFilter())] == [2, 1]


async def test_a_condition_reported_again_while_the_store_makes_room_is_stored_once(bench: Bench) -> None:
    """The device's patience ends before the store has room, and it dials in again."""
    bench.store.room.clear()
    condition = [Observation("a001", Kind.BURGLARY, zone=1)]
    async with asyncio.TaskGroup() as group:
        reports = [group.create_task(bench.intake.report(SOURCE, condition)) for _ in range(2)]
        await bench.clock.settle()
        bench.store.room.set()
    for report in reports:
        await report.result()

    assert await bench.stored() == 1


async def test_a_report_broken_off_while_the_store_makes_room_leaves_nothing_to_wait_for(bench: Bench) -> None:
    bench.store.room.clear()
    condition = [Observation("a001", Kind.BURGLARY, zone=1)]
    async with asyncio.TaskGroup() as group:
        broken_off = group.create_task(bench.intake.report(SOURCE, condition))
        await bench.clock.settle()
        broken_off.cancel()
    bench.store.room.set()

    await (await bench.intake.report(SOURCE, condition))
    assert await bench.stored() == 1


async def test_the_same_condition_twice_in_one_report_is_one_event(bench: Bench) -> None:
    await (await bench.intake.report(SOURCE, [Observation("a001", Kind.BURGLARY, zone=1)] * 2))

    assert (await bench.stored(), bench.count("repeats")) == (1, 1)


@pytest.mark.row("A2")
async def test_a_device_whose_answer_died_with_us_repeats_and_is_stored_once(bench: Bench) -> None:
    """Killed between the commit and the answer, on a protocol without numbers."""
    said = [
        Observation("a001", Kind.BURGLARY, zone=1),
        Observation("a001", Kind.BURGLARY, Qualifier.RESTORE, zone=1),
        Observation("a001", Kind.TAMPER),
        Observation("a001", Kind.PANIC),
    ]
    await (await bench.intake.report(SOURCE, said[:1]))
    await bench.clock.advance(50)
    await (await bench.intake.report(SOURCE, said[1:]))
    restarted = intake_on(bench.store, bench.clock, Metrics(), [])
    await restarted.load()

    await (await restarted.report(SOURCE, said[1:3]))
    assert await bench.stored() == len(said)
    await (await restarted.report(SOURCE, said[3:]))  # a press is never merged by content
    await (await restarted.report(SOURCE, said[:1]))  # and an alarm after its restore is another alarm
    assert await bench.stored() == len(said) + 2


def numbered(number: str = "0007/c0ffee") -> Observation:
    """As of a panel whose four digits begin anew."""
    return Observation("dc09-A10B", Kind.PANIC, repeat_key=number, key_is_reused=True)


async def test_a_number_that_is_given_anew_tells_a_repeat_for_five_minutes(bench: Bench) -> None:
    """Wherever in the clock's five minutes the first one fell."""
    await bench.clock.advance(REUSED_KEY_S - 10)
    for seconds, stored in ((0, 1), (20, 1), (REUSED_KEY_S - 20, 1), (1, 2)):
        await bench.clock.advance(seconds)
        await (await bench.intake.report(SOURCE, [numbered()]))

        assert await bench.stored() == stored
    await (await bench.intake.report(SOURCE, [numbered("0008/c0ffee")]))
    assert await bench.stored() == 3


async def test_it_does_so_across_a_restart_and_its_border(bench: Bench) -> None:
    await bench.clock.advance(REUSED_KEY_S - bench.clock.now().timestamp() % REUSED_KEY_S - 1)
    await (await bench.intake.report(SOURCE, [numbered()]))
    await bench.clock.advance(120)
    after = intake_on(bench.store, bench.clock, bench.metrics, [])
    await after.load()
    await (await after.report(SOURCE, [numbered()]))
    assert await bench.stored() == 1

    await bench.clock.advance(REUSED_KEY_S)
    await (await after.report(SOURCE, [numbered()]))
    assert await bench.stored() == 2


def test_a_clock_that_was_not_set_makes_no_repeats_of_another_runs_messages() -> None:
    at = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)

    assert repeat_key(numbered(), at, "boot-1") != repeat_key(numbered(), at, "boot-2")


@pytest.mark.row("C1")
@pytest.mark.row("C2")
@pytest.mark.parametrize("back_s", [2 * 3600, 57 * 365 * 86_400], ids=["2 h", "1970"])
async def test_an_old_alarm_hides_no_new_one_when_the_clock_went_back_at_the_restart(
    bench: Bench, back_s: float
) -> None:
    condition = [Observation("a001", Kind.BURGLARY, zone=1)]
    await (await bench.intake.report(SOURCE, condition))
    await bench.clock.advance(3600)
    bench.clock.jump_wall(-back_s)
    restarted = intake_on(bench.store, bench.clock, Metrics(), [])
    await restarted.load()

    await (await restarted.report(SOURCE, condition))
    assert await bench.stored() == 2


async def test_what_is_remembered_over_a_restart_ages_as_before(bench: Bench) -> None:
    condition = [Observation("a001", Kind.BURGLARY, zone=1)]
    await (await bench.intake.report(SOURCE, condition))
    await bench.clock.advance(50)
    restarted = intake_on(bench.store, bench.clock, Metrics(), [])
    await restarted.load()
    await bench.clock.advance(11)

    await (await restarted.report(SOURCE, condition))
    assert await bench.stored() == 2


@pytest.mark.parametrize("kind", [Kind.BURGLARY, Kind.PANIC])
async def test_a_clock_that_stands_still_hides_no_later_alarm(bench: Bench, kind: Kind) -> None:
    """A device that starts in 2000 and never moves on gives every alarm the same time."""
    frozen = [Observation("a001", kind, at=datetime(2000, 1, 1, tzinfo=UTC))]
    for _ in range(2):  # the second: its answer was lost
        await (await bench.intake.report(SOURCE, frozen))
    assert await bench.stored() == 1

    await bench.clock.advance(61)
    await (await bench.intake.report(SOURCE, frozen))
    assert await bench.stored() == 2


async def test_a_repeat_that_the_store_recognises_is_counted_as_one(bench: Bench) -> None:
    for _ in range(3):
        await (await bench.intake.report(SOURCE, [Observation("a001", Kind.PANIC, repeat_key="boot/7")]))

    assert (bench.count("events", kind="panic", lane="life"), bench.count("repeats")) == (1, 2)


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
@pytest.mark.row("C2")
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


async def test_departures_are_counted_by_device_up_to_a_bound(bench: Bench) -> None:
    for number in range(DEVIATING_MAX + 5):
        bench.intake.deviated(SOURCE, f"dc09-{number:04}", ["crc_raw"])
    bench.intake.deviated(SOURCE, "dc09-0000", ["crc_raw", "no_timestamp"])

    def count(device: str, deviation: str) -> float:
        return bench.count("deviations", connection=SOURCE.connection, device=device, deviation=deviation)

    assert (count("dc09-0000", "crc_raw"), count("dc09-0000", "no_timestamp"), count("other", "crc_raw")) == (2, 1, 5)


async def test_refused_frames_are_counted_by_reason_and_kept_within_a_bound(bench: Bench) -> None:
    for n in range(REJECTS_WAITING + 5):
        bench.intake.reject(SOURCE, bytes([n % 256]), FrameError("CRC is 1234, expected 5678", "checksum"))

    assert bench.metrics.registry.get_sample_value(
        "fangkong_rejected_frames_total", {"connection": "c1", "reason": "checksum"}
    ) == (REJECTS_WAITING + 5)
    assert len(bench.intake._rejects) == REJECTS_WAITING


@pytest.mark.row("C1")
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
