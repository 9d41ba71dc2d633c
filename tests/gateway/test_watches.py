"""Watches: what follows from an event is stored with it, and what was not stored has never been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from gateway.config import StormsSection
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.intake import UNLIMITED, Intake, Route, Source
from gateway.metrics import Metrics
from gateway.model import Event, Kind, Lane, Observation, Place, Qualifier
from gateway.receipt import Receipt, Series
from gateway.rules.watching import Memory, Words
from gateway.store import Entry, EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

SOURCE = Source("test", "c1", 60.0)
CLOSES_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Count:
    """How often a cover was opened, and since when the alarm for the third time stands."""

    opened: int = 0
    raised_s: float | None = None


class Covers:
    """Says SECURITY when a cover was opened for the third time, and takes it back after ten seconds."""

    memory_s = 600.0
    devices: Collection[str] = ("a001",)

    def __init__(self) -> None:
        self.memory = Memory[Count](lambda _: Count(), self._step)
        self.recalled: Mapping[str, Words] = {}

    @staticmethod
    def _step(state: Count, event: Event, at_s: float) -> Count:
        if event.kind is Kind.SECURITY:
            return Count(0, at_s if event.qualifier is Qualifier.NEW else None)
        return Count(state.opened + 1, state.raised_s)

    def keeps(self, observation: Observation) -> bool:
        return observation.kind is not Kind.POSITION

    def seen(self, event: Event, now_s: float) -> Iterable[Observation]:
        if event.kind in (Kind.TAMPER, Kind.SECURITY) and event.qualifier is not Qualifier.UPDATE:
            state = self.memory.take(event.device, event, now_s)
            if event.kind is Kind.TAMPER and state.opened == 3:
                return [Observation(event.device, Kind.SECURITY, text="third time")]
        return ()

    def settled(self, event: Event, *, is_stored: bool) -> None:
        self.memory.settled(event, is_stored=is_stored)

    def due(self, now_s: float, now: datetime) -> Iterable[Observation]:
        raised_s = self.memory["a001"].raised_s
        if raised_s is not None and now_s - raised_s >= CLOSES_AFTER_S:
            yield Observation("a001", Kind.SECURITY, Qualifier.RESTORE)

    def recall(self, words: Mapping[str, Words], events: Iterable[Event], now_s: float, now: datetime) -> None:
        self.recalled = words
        for event in events:
            if event.kind in (Kind.TAMPER, Kind.SECURITY):
                self.memory.recall(event.device, event, now_s - (now - event.received_at).total_seconds())


class Places:
    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A10B", "阳泗小区", "p1", zone or 0, "东门")


class FailingStore(SqliteStore):
    """The real store, an append of which fails when told to."""

    fails: bool = False

    async def append(self, entries: Sequence[Entry], *, series: Series | None = None) -> Receipt:
        if not self.fails:
            return await super().append(entries, series=series)
        self.fails = False
        failed = Receipt()
        asyncio.get_running_loop().call_soon(failed.settle, StoreError("disk full"))
        return failed


@dataclass
class Bench:
    store: FailingStore
    clock: JumpingClock
    metrics: Metrics = field(default_factory=Metrics)
    storms: StormsSection = UNLIMITED

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A process that knows nothing yet."""
        self.watch = Covers()
        self.intake = Intake(
            store=self.store, places=Places(), routes=[Route("110", frozenset(Lane))], ids=EventIds(self.clock, Random(1)),
            clock=self.clock, metrics=self.metrics, heard=lambda device, source: None, watches=[self.watch],
            storms=self.storms,
        )  # fmt: skip

    async def opened(self, *numbers: int) -> Receipt:
        """A cover is opened so often, in one report; the number is the message's own."""
        return await self.intake.report(
            SOURCE, [Observation("a001", Kind.TAMPER, repeat_key=str(number)) for number in numbers]
        )

    async def look(self) -> None:
        """What the loop does each second."""
        await self.intake._say_due()  # the loop itself would need a clock that runs

    async def story(self) -> list[str]:
        return [f"{event.kind} {event.qualifier} {event.driver}" for event in await self.store.events(EventFilter())]


@pytest.fixture
async def bench(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Bench]:
    store = await FailingStore.open(tmp_path, jumping_clock, inline=True)
    assert isinstance(store, FailingStore)
    yield Bench(store, jumping_clock)
    await store.close()


OPENED, THIRD, OVER = "tamper new test", "security new rules", "security restore rules"


async def test_what_follows_stands_behind_its_cause_in_the_same_commit(bench: Bench) -> None:
    await (await bench.opened(1, 2))
    commits = bench.store.state.commits
    await (await bench.opened(3, 4))

    assert await bench.story() == [OPENED, OPENED, OPENED, THIRD, OPENED]
    assert bench.store.state.commits == commits + 1
    rows = await bench.store.deliveries(destination="110")
    assert [row.event.kind for row in rows] == [Kind.TAMPER] * 3 + [Kind.SECURITY, Kind.TAMPER]


async def test_nothing_follows_from_a_repeat(bench: Bench) -> None:
    """The device did not get our answer and sends the second message again, as the third it would raise the alarm."""
    await (await bench.opened(1, 2))
    await (await bench.opened(2))

    assert await bench.story() == [OPENED, OPENED]
    assert bench.watch.memory["a001"] == Count(2)

    await (await bench.opened(3))
    assert await bench.story() == [OPENED, OPENED, OPENED, THIRD]


async def test_what_was_not_stored_follows_again_when_the_device_repeats(bench: Bench) -> None:
    await (await bench.opened(1, 2))
    bench.store.fails = True
    with pytest.raises(StoreError):
        await (await bench.opened(3))
    assert bench.watch.memory["a001"] == Count(2)
    await (await bench.opened(3))

    assert await bench.story() == [OPENED, OPENED, OPENED, THIRD]


async def test_what_time_brings_is_said_until_it_is_stored(bench: Bench) -> None:
    await (await bench.opened(1, 2, 3))
    await bench.look()
    await bench.clock.advance(CLOSES_AFTER_S)
    bench.store.fails = True
    await bench.look()
    assert await bench.story() == [OPENED, OPENED, OPENED, THIRD]
    await bench.look()
    await bench.look()

    assert await bench.story() == [OPENED, OPENED, OPENED, THIRD, OVER]


async def test_what_a_rule_does_not_keep_is_counted_and_answered(bench: Bench) -> None:
    receipt = await bench.intake.report(SOURCE, [Observation("a001", Kind.POSITION)])
    await receipt

    assert await bench.story() == []
    assert bench.metrics.registry.get_sample_value("fangkong_not_kept_total") == 1


async def test_a_start_takes_up_what_stood(bench: Bench) -> None:
    await (await bench.opened(1, 2, 3, 4))
    await bench.clock.advance(CLOSES_AFTER_S + 100)
    bench.start()
    await bench.intake.load()

    assert (await bench.story())[-1] == OVER
    assert bench.watch.recalled == {"a001": {(Kind.TAMPER, None): Qualifier.NEW, (Kind.SECURITY, None): Qualifier.NEW}}
    assert bench.watch.memory["a001"] == Count(0)  # its own word ends a count, in both lives


async def test_a_start_reaches_back_no_further_than_a_watch_asks(bench: Bench) -> None:
    await (await bench.opened(1))
    await bench.clock.advance(Covers.memory_s + 1)
    await (await bench.opened(2))
    bench.start()
    await bench.intake.load()

    assert bench.watch.memory["a001"] == Count(1)


async def test_what_is_derived_is_bounded_as_any_source(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    store = await FailingStore.open(tmp_path, jumping_clock, inline=True)
    assert isinstance(store, FailingStore)
    bench = Bench(store, jumping_clock, storms=StormsSection(window_s=60))
    for number in range(30):
        await (await bench.opened(number))
    await bench.store.close()

    suppressed = bench.metrics.registry.get_sample_value("fangkong_events_suppressed_total", {"reason": "repeat"})
    assert suppressed == 29 + 9  # thirty openings and ten third times, each in one window


# -- the fold ----------------------------------------------------------------------------------------------------------


def event(number: int) -> Event:
    return Event(str(number), "d", Kind.TAMPER, Qualifier.NEW, Lane.ALARM, datetime(2026, 1, 1, tzinfo=UTC), "t", "c")


@pytest.mark.parametrize("seed", range(50))
def test_a_state_is_the_fold_over_what_is_stored_in_whatever_order_commits_end(seed: int) -> None:
    dice = Random(seed)
    memory = Memory[tuple[str, ...]](lambda _: (), lambda state, event, _: (*state, event.id))
    under_way: list[Event] = []
    taken: list[str] = []
    lost: set[str] = set()
    for number in range(40):
        if dice.random() < 0.6 or not under_way:
            under_way.append(event(number))
            taken.append(str(number))
            memory.take("d", under_way[-1], 0.0)
        else:
            settled = under_way.pop(dice.randrange(min(3, len(under_way))))
            is_stored = dice.random() < 0.7
            lost |= set() if is_stored else {settled.id}
            memory.settled(settled, is_stored=is_stored)
        assert memory["d"] == tuple(n for n in taken if n not in lost)
    for each in under_way:
        memory.settled(each, is_stored=True)

    assert not memory._open
    assert not memory._stored
    assert not memory._keys
