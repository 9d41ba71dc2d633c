"""110 is away for three days while events go on; then it is back."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

import pytest
import structlog

from gateway.clock import RealClock
from gateway.config import StormsSection
from gateway.forwarders import Outlet, dc09
from gateway.forwarders._lanes import FAULT_EVERY
from gateway.forwarders.dc09 import Settings
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.metrics import Metrics
from gateway.model import Event, Kind, Lane, Observation, Place, Qualifier
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.stories.box import free_ports
from tests.stories.desk import Taken, desk
from tests.stories.figures import quantiles, resident_mb, tell

OUTAGE = timedelta(hours=72)
DEVICES = 2000
BUSY_ACCOUNT = "A000"
BUSY_DEVICES, BUSY_EVENTS = 200, 12_000
"""Of an account that gets more events than it has numbers (9999)."""
LANES = frozenset({Lane.LIFE, Lane.ALARM, Lane.FAULT})
KINDS = (Kind.BURGLARY, Kind.TAMPER, Kind.PERIMETER, Kind.RF_BATT_LOW, Kind.AC_LOSS)
PANIC_EVERY = 200
BATCH = 200
SOAK_EVENTS = int(os.environ.get("SOAK_EVENTS", "1000000"))
NEWS_EVERY_S = 0.05
"""How often somebody presses a button, and a zone goes off, while the backlog is drained."""
GROWTH_MAX_MB = 96.0
"""Rows in hand are bounded (512 a lane); the rest is what the interpreter keeps of what it has freed."""
SOURCE = Source("test", "c1")


class ScaledClock(RealClock):
    """The machine's clock, but faster: three days pass while a test fills the outbox."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._wall, self._mono, self._real = datetime(2027, 3, 1, tzinfo=UTC), 0.0, super().monotonic()

    def run_at(self, rate: float) -> None:
        """From now on; 1.0 is the pace of the world."""
        self._wall, self._mono, self._real, self._rate = self.now(), self.monotonic(), super().monotonic(), rate

    def monotonic(self) -> float:
        return self._mono + (super().monotonic() - self._real) * self._rate

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self.monotonic() - self._mono)

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s / self._rate)


class Community:
    """Everybody's place."""

    def place(self, device: str, zone: int | None) -> Place | None:
        n = int(device[1:])
        account = BUSY_ACCOUNT if n % DEVICES < BUSY_DEVICES else f"A{n % 40 + 1:03}"
        return Place(f"s{account}", account, "阳泗小区", f"p{n}", n % 1000, "东门")


class Life:
    """What happens: conditions begin and end, now and then somebody presses a button."""

    def __init__(self) -> None:
        self._random = Random(72)
        self._numbers = count(1)
        self._open: dict[tuple[str, Kind], bool] = {}

    def events(self, total: int) -> Iterator[Observation]:
        for n in range(total):
            is_busy = self._random.random() < BUSY_EVENTS / total
            device = f"d{self._random.randrange(*((BUSY_DEVICES,) if is_busy else (BUSY_DEVICES, DEVICES)))}"
            if n % PANIC_EVERY == 0:
                yield self.says(device, Kind.PANIC)
                continue
            kind = self._random.choice(KINDS)
            was_open = self._open.get((device, kind), False)
            self._open[device, kind] = not was_open
            yield self.says(device, kind, Qualifier.RESTORE if was_open else Qualifier.NEW)

    def says(
        self, device: str, kind: Kind, qualifier: Qualifier = Qualifier.NEW, text: str | None = None
    ) -> Observation:
        return Observation(device, kind, qualifier, repeat_key=str(next(self._numbers)), text=text)


class Gateway:
    """Store, intake and forwarder: all of the road but the lines to the devices."""

    def __init__(self, store: SqliteStore, clock: ScaledClock, port: int) -> None:
        self.store, self.clock, self.metrics = store, clock, Metrics()
        self.intake = Intake(
            store=store, places=Community(), routes=[Route("110", LANES, dc09.wants, numbered=True)],
            ids=EventIds(clock, Random(1)), clock=clock, metrics=self.metrics, heard=lambda *_: None,
            storms=StormsSection(),
        )  # fmt: skip
        self._outlet = Outlet(
            destination="110", settings=Settings(connect=f"127.0.0.1:{port}"), base=Path(), account="0B0C", store=store,
            clock=clock, random=Random(2), metrics=self.metrics, log=structlog.get_logger(), report=self._report,
        )  # fmt: skip

    async def _report(self, kind: Kind, qualifier: Qualifier, text: str) -> None:
        """A fault of the gateway's own; this one has no account to say it under."""

    @asynccontextmanager
    async def forwarding(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(dc09.run(self._outlet)), group.create_task(self.intake.sum_up())]
            yield
            for task in tasks:
                task.cancel()

    async def waiting(self) -> int:
        return sum((await self.store.backlog("110")).count.values())

    async def stored(self) -> AsyncIterator[Event]:
        after = 0
        while page := await self.store.events(EventFilter(), after_seq=after, limit=1000):
            for event in page:
                yield event
            after = page[-1].seq


@pytest.fixture
def quiet() -> Iterator[None]:
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


@pytest.mark.row("F1")
@pytest.mark.parametrize(
    ("total", "planned_s"),
    [
        pytest.param(3000, 1.0, id="3 000 events"),
        pytest.param(20_000, 3.0, id="20 000 events", marks=pytest.mark.full),
        pytest.param(SOAK_EVENTS, 150.0, id="at full size", marks=[pytest.mark.soak, pytest.mark.timeout(2 * 3600)]),
    ],
)
async def test_three_days_without_110_lose_nothing_and_the_first_panic_is_there_first(
    tmp_path: Path, quiet: None, total: int, planned_s: float
) -> None:
    clock, real = ScaledClock(OUTAGE.total_seconds() / planned_s), RealClock()
    (port,) = free_ports(1)
    store = await SqliteStore.open(tmp_path, clock)
    gateway, life = Gateway(store, clock, port), Life()
    began, real_began = clock.now(), real.monotonic()
    news: dict[str, float] = {}
    async with gateway.forwarding():
        happened = life.events(total)
        for _ in range(total // BATCH):
            await (await gateway.intake.report(SOURCE, [next(happened) for _ in range(BATCH)]))
        filled_s = real.monotonic() - real_began
        remaining_s = OUTAGE.total_seconds() - (clock.now() - began).total_seconds()
        await clock.sleep(max(0.0, remaining_s))
        away, size_mb, backlog = clock.now() - began, store.state.size_bytes / 2**20, await gateway.waiting()
        assert sum(store.state.shed.values()) == 0
        assert store.state.size_bytes < store.state.budget_bytes

        clock.run_at(1.0)
        before_mb = most_mb = resident_mb()
        back_at = real.monotonic()
        async with desk(tmp_path, port) as duty:
            open_at = real.monotonic()
            for n in count():
                for kind in (Kind.PANIC, Kind.BURGLARY):
                    word = f"e{len(news)}"
                    news[word] = real.monotonic()
                    said = life.says(f"d{DEVICES + n % 1000}", kind, text=f"now {word} ")
                    await gateway.intake.report(SOURCE, [said])
                most_mb = max(most_mb, resident_mb())
                await real.sleep(NEWS_EVERY_S)
                if await gateway.waiting() < 10 and n > 10:
                    break
            while await gateway.waiting():
                await real.sleep(NEWS_EVERY_S)
            await real.sleep(0.2)  # the desk writes its record twenty times a second
            taken = duty.taken()
    events = {
        event.id: event async for event in gateway.stored() if event.suppressed_by is None and event.lane in LANES
    }
    await store.close()

    first = next(row for row in taken if events[row.id].lane is Lane.LIFE)
    drained_s = taken[-1].at_s - taken[0].at_s
    late = defaultdict(list)
    for row in taken:
        if news.get(row.word, 0.0) > taken[0].at_s:  # what waited for the line to open is in the line above
            late[events[row.id].lane].append(row.at_s - news[row.word])
    tell(
        f"outage of 72 h, {total} events",
        [
            ("waiting at its end", f"{backlog}, {size_mb:.0f} MB on disk, written in {filled_s:.0f} s"),
            ("first life event at 110", f"{first.at_s - open_at:.2f} s after it listens ({open_at - back_at:.2f} s to start)"),
            ("drained", f"{len(taken)} in {drained_s:.1f} s: {len(taken) / drained_s:.0f}/s"),
            ("new panics meanwhile", quantiles(late[Lane.LIFE])),
            ("new alarms meanwhile (behind older ones)", quantiles(late[Lane.ALARM])),
            ("memory", f"{before_mb:.0f} MB before the drain, at most {most_mb:.0f} MB in it"),
        ],
    )  # fmt: skip
    assert {row.id for row in taken} == events.keys(), "nothing is lost"
    assert len(taken) == len(events), "nothing comes twice"
    assert away >= OUTAGE
    old = [row for row in taken if row.word == "-"]
    _assert_lane_order(old, events)
    _assert_source_order(taken, events)
    assert most_mb - before_mb < GROWTH_MAX_MB


def _assert_lane_order(rows: list[Taken], events: dict[str, Event]) -> None:
    """Of what had waited in an account, all life events come first, but for the faults' share. (An account has one frame on
    the way at a time: meanwhile others send what they have.)"""
    accounts: dict[str, list[Lane]] = defaultdict(list)
    for row in rows:
        accounts[row.account].append(events[row.id].lane)
    overtook: Counter[Lane] = Counter()
    for lanes in accounts.values():
        last_life = max((n for n, lane in enumerate(lanes) if lane is Lane.LIFE), default=0)
        overtook.update(lane for lane in lanes[:last_life] if lane is not Lane.LIFE)
    assert overtook <= Counter({Lane.FAULT: len(rows) // FAULT_EVERY}), f"{overtook} overtook life events"


def _assert_source_order(rows: list[Taken], events: dict[str, Event]) -> None:
    """Of one device and lane nothing overtakes: no restore before its alarm."""
    last: dict[tuple[str, Lane], int] = {}
    for row in rows:
        event = events[row.id]
        assert last.get((event.device, event.lane), 0) < event.seq
        last[event.device, event.lane] = event.seq
