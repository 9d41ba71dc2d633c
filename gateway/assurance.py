"""Coverage as it is now: follows the record of facts, counts, and turns gaps that last into deficiencies.

It stands beside the road of an alarm: a recount runs in a thread, of which the loop notices nothing but Python's own switching.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import add
from typing import Protocol, TypeVar

from prometheus_client import Gauge
from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import Clock
from gateway.config import CoverageSection
from gateway.coverage.causes import Open, causes, open_gaps
from gateway.coverage.contracts import CONTRACTS
from gateway.coverage.counts import Counts
from gateway.coverage.facts import STATES, ZONE_OF_ALL, Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.live import Live
from gateway.coverage.ranking import order
from gateway.coverage.sums import ALL
from gateway.coverage.tickets import Gone, Terms, Ticket, Tickets, changes, next_change
from gateway.coverage.verdict import Gap, Rules, Verdict
from gateway.errors import GatewayError
from gateway.metrics import BATTERY_DAYS, COVERAGE_POINTS, COVERAGE_SITES, Metrics
from gateway.supervision.trends import days_to_empty

LOOK_S = 1.0
"""Between two looks at the record: a change shows before a person has looked up."""


Answer = TypeVar("Answer")


class Record(Protocol):
    """What is asked of the registry."""

    async def facts(self, *, after: int = 0) -> Sequence[Fact]: ...
    async def record(self, facts: Sequence[Fact]) -> None: ...


AREAS_DEEP = 8
"""District, control zone, community; a circle in the ledger ends here."""
OTHER = "other"
"""Kinds of device that nobody has named here: a label has to be bounded."""
BATTERY = "battery_pct"


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is counted, at one instant."""

    at: datetime
    verdicts: Sequence[Verdict] = ()
    sites: Mapping[str, Counts] = field(default_factory=dict)
    areas: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of each site: its area and those around it, the nearest first."""
    devices: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Of the ledger, by kind and state."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Of each device of the ledger, as it feels."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """Of each device that has one."""
    gaps: Sequence[Open] = ()
    """What is not as it must be, the most urgent first."""

    def within(self, node: str, visible: frozenset[str] | None = None) -> Iterator[str]:
        """The sites of a node ("all", "area:<id>", "site:<id>"), those only that may be seen."""
        kind, _, name = node.partition(":")
        for site in self.sites:
            if visible is not None and site not in visible:
                continue
            if node == ALL or (kind == "site" and site == name) or (kind == "area" and name in self.areas[site]):
                yield site

    def counts(self, node: str = ALL, visible: frozenset[str] | None = None) -> Counts:
        """Of a node, over the sites that may be seen."""
        return reduce(add, (self.sites[site] for site in self.within(node, visible)), Counts())


def figures(live: Live, at: datetime) -> Figures:
    """What `live` counts now, to be kept."""
    sites = {node.removeprefix("site:"): found for node, found in live.tree.items() if node.startswith("site:")}
    areas = {site: _areas(live.history, site, at) for site in sites}
    verdicts = list(live.verdicts())
    gaps = list(open_gaps(verdicts, live.history, at, live.rules.target_kinds))
    gaps.sort(key=lambda each: order(each.verdict, each.site, each.risk))
    states = _states(live.history, at)
    devices = _devices(live.history, states, at)
    return Figures(at, verdicts, sites, areas, devices, states, _stages(live.history, at), gaps)


def _areas(history: History, site: str, at: datetime) -> Sequence[str]:
    area = (history.at(Sort.SITE, (site,), at) or {}).get("area")
    found: list[str] = []
    while area is not None and len(found) < AREAS_DEEP:
        found.append(area)
        area = (history.at(Sort.AREA, (area,), at) or {}).get("parent")
    return found


def _states(history: History, at: datetime) -> Mapping[str, str]:
    found = {}
    for subject in history.subjects(Sort.DEVICE):
        if history.at(Sort.DEVICE, subject, at) is not None:
            health = history.at(Sort.HEALTH, (*subject, ZONE_OF_ALL), at)
            found[subject[0]] = health["state"] if health else "silent"
    return found


def _stages(history: History, at: datetime) -> Mapping[str, str]:
    known = ((subject[0], history.at(Sort.STAGE, subject, at)) for subject in history.subjects(Sort.STAGE))
    return {device: stage["stage"] for device, stage in known if stage is not None}


def _devices(history: History, states: Mapping[str, str], at: datetime) -> Mapping[tuple[str, str], int]:
    counted: dict[tuple[str, str], int] = {}
    for name, now in states.items():
        device = history.at(Sort.DEVICE, (name,), at) or {}
        kind = device["kind"] if device["kind"] in CONTRACTS else OTHER
        for state in STATES:
            counted.setdefault((kind, state), 0)
        counted[kind, now] += 1
    return counted


class Assurance:
    """Holds the figures in force and the deficiencies."""

    def __init__(
        self, record: Record, section: CoverageSection, *, clock: Clock, metrics: Metrics, log: Logger
    ) -> None:
        self._record = record
        self._terms = Terms(section.grace_h.model_dump(), section.due_days.model_dump())
        self._rules = Rules.of(section)
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._turn = asyncio.Lock()
        """The history changes and is read in threads: one at a time."""
        self._begin()
        self.figures = Figures(clock.now())
        """The newest; empty until the first count."""
        self.error: str | None = None
        """Why the last look failed."""

    def _begin(self) -> None:
        """Know nothing; what was published so far stays until all is read again."""
        self._live = Live(History(), self._clock.now(), rules=self._rules)
        self._seen = 0
        self._ripe: datetime | None = None
        """When the next gap has lasted long enough."""
        self._judged = -1
        self._empty: dict[str, datetime] = {}
        """When the battery of each device will be empty."""
        self.tickets = Tickets()

    async def run(self) -> None:
        """Follow the record, for ever. One that cannot be read or written is told once, and tried again."""
        while True:
            try:
                await self.look()
            except GatewayError as error:
                if self.error is None:
                    self._log.warning("coverage stands still: the record cannot be used", error=str(error))
                self.error = str(error)
            except Exception as error:  # noqa: BLE001  # the boundary: a fault in counting must not end the road of alarms
                if self.error is None:
                    self._log.exception("coverage stands still by a fault in the program")
                self.error = repr(error)
                self._begin()
            else:
                self.error = None
            self._metrics.coverage_up.set(self.error is None)
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Take up what is new and what has come due. Raises ConfigError when the record cannot be used."""
        await self._follow()
        now = self._clock.now()
        if self._live.judged == self._judged and not (self._ripe is not None and now >= self._ripe):
            return
        self._judged = self._live.judged
        async with self._turn:
            self.figures, gone = await asyncio.to_thread(self._count, now)
        found = changes(gone, self.tickets, now, self._terms)
        if found:
            await self._record.record(found)
            await self._follow()
        self._ripe = next_change(gone, self.tickets, now, self._terms)
        self._show(now)

    async def at(self, moment: datetime) -> Figures:
        """The figures of another moment, as they are known today."""

        return await self.ask(lambda history, rules: figures(Live(history, moment, rules=rules), moment))

    async def ask(self, question: Callable[[History, Rules], Answer]) -> Answer:
        """An answer from all that is known, found in a thread while nothing is added."""
        async with self._turn:
            return await asyncio.to_thread(question, self._live.history, self._rules)

    async def _follow(self) -> None:
        """Take up what was recorded since, and what time alone has changed; a page at a time, in a thread."""
        while True:
            page = await self._record.facts(after=self._seen)
            async with self._turn:
                await asyncio.to_thread(self._take, page, self._clock.now())
            if not page:
                return
            self.tickets.add(page)
            self._seen = page[-1].id

    def _take(self, page: Sequence[Fact], now: datetime) -> None:
        self._live.apply(page, now)
        tracks = self._live.history.tracks[Sort.SAMPLE]
        for device in {fact.subject[0] for fact in page if fact.sort is Sort.SAMPLE and fact.subject[1] == BATTERY}:
            samples = [
                (line.fact.valid_from, line.fact.value["value"])
                for line in tracks[device, BATTERY].lines
                if line.fact.value
            ]
            days = days_to_empty(samples, now).days
            self._empty.pop(device, None)
            if days is not None:
                self._empty[device] = now + timedelta(days=days)

    def _count(self, now: datetime) -> tuple[Figures, Sequence[Gone]]:
        counted = figures(self._live, now)
        return counted, causes(counted.gaps)

    def open_tickets(self, visible: frozenset[str] | None = None) -> Sequence[Ticket]:
        """Deficiencies of the sites that may be seen, the oldest first."""
        return [each for each in self.tickets.open() if visible is None or each.site in visible]

    def area_of(self, site: str) -> str:
        """The nearest area of a site; "" for one that is in none."""
        return next(iter(self.figures.areas.get(site, ())), "")

    def _show(self, now: datetime) -> None:
        """For the metrics. Series of what is no more go."""
        metrics, by_area = self._metrics, dict[str, Counts]()
        for site, counts in self.figures.sites.items():
            area = self.area_of(site)
            by_area[area] = by_area.get(area, Counts()) + counts
        cut_off: Counter[str] = Counter()
        for site in {each.site for each in self.figures.verdicts if each.gap == Gap.NOT_NETWORKED}:
            cut_off[self.area_of(site)] += 1
        late = Counter((self.area_of(each.site), each.gap) for each in self.tickets.open() if each.is_overdue(now))
        tasks = Counter((self.area_of(each.site), each.gap) for each in self.tickets.open())
        _set(metrics.coverage_points, _by_state(by_area, COVERAGE_POINTS))
        _set(metrics.coverage_sites, _by_state(by_area, COVERAGE_SITES))
        _set(metrics.coverage_sites_cut_off, [((area,), cut_off[area]) for area in by_area])
        _set(metrics.deficiencies, tasks.items())
        _set(metrics.deficiencies_overdue, late.items())
        _set(metrics.coverage_devices, self.figures.devices.items())
        for days in BATTERY_DAYS:
            empty = sum(at <= now + timedelta(days=days) for at in self._empty.values())
            metrics.battery_empty_within.labels(str(days)).set(empty)


def _by_state(by_area: Mapping[str, Counts], states: Mapping[str, str]) -> Iterator[tuple[Sequence[str], int]]:
    for area, counts in by_area.items():
        for state, name in states.items():
            yield (area, state), getattr(counts, name)


def _set(gauge: Gauge, values: Iterable[tuple[Sequence[str], int]]) -> None:
    gauge.clear()
    for labels, value in values:
        gauge.labels(*labels).set(value)
