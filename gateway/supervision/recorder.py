"""The recorder follows the event log and writes, as facts, how each device is from when on.

It is a reader beside the road: no event waits for it, and what it has not yet read it reads after the next start. The facts of
a page and how far it has come are written in one transaction, or in several whose facts have keys made from the ids of the
events: read twice, they are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice

from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import PROGRAM_DATE, Clock
from gateway.coverage.facts import Fact, Sort
from gateway.errors import ConfigError, StoreError
from gateway.metrics import Metrics
from gateway.model import Event
from gateway.registry import Registry
from gateway.store import EventFilter, Store
from gateway.supervision.conditions import OWN, Conditions, Parents
from gateway.supervision.stages import Stages
from gateway.supervision.trends import Samples
from gateway.timekeeping import ClockWatch

READER = "supervision"
LOOK_S = 1.0
"""Between two looks at the log: a state is a figure of an evening, not an alarm."""
PAGE = 250
"""Events in one look, some 5 ms of the loop's time."""
PAUSE_S = 0.1
"""Between two pages: in a flood it falls behind at 2500 events a second and leaves the processor to the road."""
FACTS_AT_ONCE = 500
"""In one transaction: a few milliseconds of the loop's time. A lost bus in a whole town makes 20 of them."""
SWEPT = 500
"""Devices looked at beside their events in one look: 10 000 within 20 s."""
CURSOR_EVERY = 2000
"""Events without any fact after which how far it has come is written all the same."""
RETRY_S = 5.0
AHEAD_MIN = timedelta(minutes=1)
"""What the gateway has seen later than so far from now, it saw by a clock that ran ahead."""


class Recorder:
    """Begins anew from what is on disk whenever a disk fails."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        parents: Parents,
        last_heard: Callable[[str], datetime | None],
        lapses: Callable[[], Sequence[tuple[str, datetime]]],
        off: tuple[datetime, datetime] | None = None,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        self._store = store
        self._registry = registry
        self._parents = parents
        self._last_heard = last_heard
        self._lapses = lapses
        self._off = off
        """From when to when the gateway itself was off before this start."""
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._watch = ClockWatch(clock)
        self.lag_s = 0.0
        """How old the newest event was that it has read, while there are more; 0 when it has read all."""
        self.fault = ""
        """Why it cannot read or write."""

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                await self._follow()
            except (ConfigError, StoreError) as error:
                if not self.fault:
                    self._log.warning("states of devices cannot be recorded; tried again", error=str(error))
                self.fault = str(error)
            self._metrics.supervision_up.set(0)
            await self._clock.sleep(RETRY_S)

    async def _follow(self) -> None:
        await self.begin()
        while True:
            if self._clock.now() >= PROGRAM_DATE:  # else nobody knows when anything is
                await self.look()
            self.fault = ""
            self._metrics.supervision_up.set(1)
            await self._clock.sleep(LOOK_S)

    async def begin(self) -> None:
        """Take up what was written before. Raises ConfigError, StoreError."""
        self._conditions = Conditions(self._parents)
        self._samples = Samples()
        self._stages = Stages()
        self._swept = 0
        self._written = self._seq = await self._registry.cursor(READER)
        self._facts_read = 0
        await self._withdraw_what_is_ahead()
        for sort, take_up in (
            (Sort.HEALTH, self._conditions.restore),
            (Sort.LIVE_TEST, self._conditions.restore),
            (Sort.SAMPLE, self._samples.restore),
            (Sort.STAGE, self._stages.follow),
        ):
            async for page in self._registry.newest(sort):
                take_up(page)
                self._facts_read = max(self._facts_read, page[-1].id)
        for device in self._conditions.flooding:
            self._conditions.corrected(device, await self._store.latest(device))

    def _ahead(self) -> datetime:
        """Who has seen something later than this had a clock that ran ahead; while nobody knows what time it is, nobody had."""
        now = self._clock.now()
        return now + AHEAD_MIN if now >= PROGRAM_DATE else datetime.max.replace(tzinfo=UTC)

    async def _withdraw_what_is_ahead(self) -> None:
        """A clock that ran ahead left facts that hide later ones until then. They never held; how a device was last known to
        be holds from now on, and is written first: a crash finds the rest still to be withdrawn."""
        ahead, count = self._ahead(), 0
        for sort in (Sort.HEALTH, Sort.STAGE):
            async for page in self._registry.newest(sort):
                now = self._clock.now()
                last_known = [
                    replace(fact, valid_from=now, recorded_at=None, key=f"ahead|{fact.id}")
                    for fact in page
                    if fact.valid_from > ahead and fact.actor == OWN
                ]
                if last_known:
                    await self._registry.record(last_known)
        while page := await self._registry.ahead(ahead, limit=FACTS_AT_ONCE):
            await self._registry.record([
                Fact(fact.sort, fact.subject, None, fact.valid_from, withdraws=fact.id, key=f"ahead|{fact.id}|never")
                for fact in page
            ])  # fmt: skip
            count += len(page)
        if count:
            self._log.warning("facts of the future were withdrawn: the clock ran ahead", count=count)

    async def look(self) -> None:
        """Take up all that is in the log, and some of what is in no event. Raises ConfigError, StoreError."""
        if self._watch.step() < timedelta():
            await self.begin()
        if self._off is not None:
            await self._write(self._conditions.was_off(*self._off))
            self._off = None
        while events := await self._store.events(EventFilter(), after_seq=self._seq, limit=PAGE):
            self._seq = events[-1].seq
            await self._write(chain.from_iterable(map(self._follows, events)))
            self._show_lag(events[-1].received_at if len(events) == PAGE else None)
            if len(events) < PAGE:
                break
            await self._clock.sleep(PAUSE_S)
        await self._read_stages()
        now = self._clock.now()
        await self._write(
            chain.from_iterable(self._conditions.lapsed(device, min(due_at, now)) for device, due_at in self._lapses())
        )
        await self._write(self._sweep())

    async def _read_stages(self) -> None:
        """What others have written meanwhile."""
        while page := await self._registry.facts(after=self._facts_read, limit=FACTS_AT_ONCE):
            self._stages.follow(page)
            self._facts_read = page[-1].id

    def _follows(self, event: Event) -> Iterator[Fact]:
        if event.received_at > self._ahead():
            event = replace(event, received_at=self._clock.now())
        yield from self._conditions.take(event)
        yield from self._samples.take(event)
        if event.place is not None:
            yield from self._evident(event.device, event.received_at)

    def _sweep(self) -> Iterator[Fact]:
        """Some devices in turn, for what no event tells: a sign of life, another line, another parent."""
        now = self._clock.now()
        devices = list(self._registry.devices())
        part = devices[self._swept : self._swept + SWEPT]
        self._swept = self._swept + SWEPT if self._swept + SWEPT < len(devices) else 0
        key = f"look|{now.timestamp():.3f}"
        for device in part:
            if (heard_at := self._last_heard(device.id)) is not None:
                yield from self._conditions.heard(device.id, min(heard_at, now), key)
            yield from self._conditions.moved(device.id, now, key)
            yield from self._evident(device.id, now)

    def _evident(self, device: str, at: datetime) -> Iterator[Fact]:
        standing = self._conditions.standing(device)
        if standing is not None and self._registry.device(device) is not None:
            yield from self._stages.seen(device, standing.state, at)

    async def _write(self, facts: Iterator[Fact]) -> None:
        """Page by page, with how far it has come in the last one's transaction."""
        page = list(islice(facts, FACTS_AT_ONCE))
        while page:
            following = list(islice(facts, FACTS_AT_ONCE))
            await self._record(page, is_last=not following)
            page = following
        if self._seq - self._written >= CURSOR_EVERY:
            await self._record([], is_last=True)

    async def _record(self, facts: Sequence[Fact], *, is_last: bool) -> None:
        await self._registry.record(facts, reader=READER if is_last else None, seq=self._seq)
        if is_last:
            self._written = self._seq
        for fact in facts:
            self._metrics.facts.labels(fact.sort.value).inc()

    def _show_lag(self, read_to: datetime | None) -> None:
        self.lag_s = max(0.0, (self._clock.now() - read_to).total_seconds()) if read_to else 0.0
        self._metrics.supervision_lag_seconds.set(self.lag_s)
