"""Period: each count times how long it held, and how often devices failed. In whole milliseconds, so that parts add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from gateway.coverage.contracts import contract_of
from gateway.coverage.counts import Counts
from gateway.coverage.facts import ZONE_OF_ALL, Sort
from gateway.coverage.history import History
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.sums import ALL, counts_of, nodes_of, shape_of
from gateway.coverage.verdict import Verdict, judge, judge_site
from gateway.coverage.view import Rules, View, is_out

NONE = Counts()


@dataclass(frozen=True, slots=True)
class Period:
    """Of one node, model or vendor, over one period; adds up over periods that follow each other, and over nodes."""

    held: Counts = NONE
    """Each count times how long it held, in ms: `held.working` is the time worked, added up over all requirements."""
    in_duty_ms: int = 0
    """Device time: accepted at a point of a site that is there, not out of service."""
    repair_ms: int = 0
    """Of it, with a fault or silent."""
    faults: int = 0
    """How often that began."""

    def __add__(self, other: Period) -> Period:
        return Period(
            self.held + other.held,
            self.in_duty_ms + other.in_duty_ms,
            self.repair_ms + other.repair_ms,
            self.faults + other.faults,
        )

    @property
    def availability(self) -> tuple[int, int]:
        """Time working and time required, in ms: the two counts of the rate."""
        return self.held.working, self.held.required

    @property
    def mttr_ms(self) -> int | None:
        """Mean time to repair; None: nothing failed."""
        return self.repair_ms // self.faults if self.faults else None

    @property
    def mtbf_ms(self) -> int | None:
        """Mean time in service between two failures; None: nothing failed."""
        return (self.in_duty_ms - self.repair_ms) // self.faults if self.faults else None


Answer = TypeVar("Answer")


def spans(
    history: History, start: int, end: int, rules: Rules, ask: Callable[[View], Answer]
) -> Iterator[tuple[int, int, Answer]]:
    """A period cut where the answer may change: from, until, answer. One judgement for each change of what it rests on."""
    at = start
    while at < end:
        view = View(history, at, rules)
        answer = ask(view)
        stop = min(view.until, end)
        yield at, stop, answer
        at = stop


class _Stay(NamedTuple):
    """Where a site belongs for a while."""

    start: int
    stop: int
    nodes: tuple[str, ...]
    is_target: bool


class _Duty(NamedTuple):
    """A device for a while."""

    site: str
    labels: tuple[str, ...]
    is_failing: bool


class Sweep:
    """One run over all facts of a period."""

    def __init__(self, history: History, start: int, end: int, rules: Rules) -> None:
        self.history, self.start, self.end, self.rules = history, start, end, rules
        self.periods: defaultdict[str, Period] = defaultdict(Period)
        self._shapes: defaultdict[_Stay, Counter[tuple[object, ...]]] = defaultdict(Counter)
        self._steps: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        """By site: from when so many more requirements are there, and so many more of them not installed."""
        self._stays = {site: self._stays_of(site) for (site,) in history.subjects(Sort.SITE)}

    def figures(self) -> Mapping[str, Period]:
        self._name_nodes()
        for (point,) in self.history.subjects(Sort.POINT):
            self._take(partial(judge, point=point))
        for site in self._stays:
            self._take(partial(judge_site, site=site))
        for stay, shapes in self._shapes.items():
            held = sum((counts_of(shape) * ms for shape, ms in shapes.items()), NONE)
            self._give(stay.nodes, Period(held))
        for site, steps in self._steps.items():
            self._units(site, sorted(steps))
        for (device,) in self.history.subjects(Sort.DEVICE):
            self._device(device)
        return dict(self.periods)

    def _spans(self, ask: Callable[[View], Answer]) -> Iterator[tuple[int, int, Answer]]:
        return spans(self.history, self.start, self.end, self.rules, ask)

    def _name_nodes(self) -> None:
        """Also those of which nothing is required."""
        names = {ALL, *(node for stays in self._stays.values() for stay in stays for node in stay.nodes)}
        view = View(self.history, self.end - 1, self.rules)
        names.update(
            f"area:{area}" for (area,) in self.history.subjects(Sort.AREA) if view.look(Sort.AREA, (area,)).value
        )
        for name in names:
            self.periods[name] = Period()

    def _stays_of(self, site: str) -> Sequence[_Stay]:
        def ask(view: View) -> tuple[tuple[str, ...], bool] | None:
            read = view.look(Sort.SITE, (site,)).read
            return None if read is None else (nodes_of(view, site), read.kind in self.rules.target_kinds)

        return [_Stay(start, stop, *found) for start, stop, found in self._spans(ask) if found is not None]

    def _at_nodes(self, site: str, start: int, stop: int) -> Iterator[tuple[_Stay, int, int]]:
        """A stretch of time at a site, cut where the site moves to another node."""
        for stay in self._stays.get(site, ()):
            first, last = max(start, stay.start), min(stop, stay.stop)
            if first < last:
                yield stay, first, last

    def _take(self, ask: Callable[[View], Sequence[Verdict]]) -> None:
        known: tuple[str, int, int] = ("", 0, 0)
        for start, stop, found in self._spans(ask):
            for verdict in found:
                for stay, first, last in self._at_nodes(verdict.site, start, stop):
                    self._shapes[stay][shape_of(verdict)] += last - first
            units = [v for v in found if v.required and v.duty is Duty.MANDATORY and v.family is Family.TECHNICAL]
            now = (units[0].site, len(units), sum(not v.installed for v in units)) if units else ("", 0, 0)
            if now != known:
                self._step(start, known, now)
                known = now
        self._step(self.end, known, ("", 0, 0))

    def _step(self, at: int, before: tuple[str, int, int], after: tuple[str, int, int]) -> None:
        for (site, required, missing), sign in ((before, -1), (after, 1)):
            if required:
                self._steps[site].append((at, sign * required, sign * missing))

    def _units(self, site: str, steps: Sequence[tuple[int, int, int]]) -> None:
        """The site as a unit: while it has any requirement, and while all of them are installed."""
        required = missing = 0
        before = self.start
        for at, more, more_missing in steps:
            if required:
                for stay, first, last in self._at_nodes(site, before, at):
                    ms, whole = last - first, (last - first) * (missing == 0)
                    held = Counts(
                        units=ms,
                        units_installed=whole,
                        target_units=ms * stay.is_target,
                        target_units_installed=whole * stay.is_target,
                    )
                    self._give(stay.nodes, Period(held))
            before, required, missing = at, required + more, missing + more_missing

    def _give(self, nodes: Sequence[str], figures: Period) -> None:
        for node in nodes:
            self.periods[node] += figures

    # -- devices -------------------------------------------------------------------------------------------------------

    def _device(self, device: str) -> None:
        ask: Callable[[View], _Duty | None] = lambda view: _duty(view, device)  # noqa: E731  # one name for two uses
        before = ask(View(self.history, self.start - 1, self.rules))
        total: Counter[tuple[tuple[str, ...], bool]] = Counter()
        faults: Counter[tuple[str, ...]] = Counter()
        for start, stop, duty in self._spans(ask):
            if duty is not None:
                for stay, first, last in self._at_nodes(duty.site, start, stop):
                    nodes = (*stay.nodes, *duty.labels)
                    total[nodes, duty.is_failing] += last - first
                    if first == start and duty.is_failing and not (before is not None and before.is_failing):
                        faults[nodes] += 1
            before = duty
        for (nodes, is_failing), ms in total.items():
            self._give(nodes, Period(NONE, ms, ms if is_failing else 0))
        for nodes, number in faults.items():
            self._give(nodes, Period(faults=number))


def _duty(view: View, device: str) -> _Duty | None:
    """P3, P4; None: not in duty."""
    kept = view.look(Sort.DEVICE, (device,)).value
    if kept is None or is_out(view.look(Sort.STAGE, (device,)).value) or not _is_accepted(view, device):
        return None
    vendor, model = kept.get("vendor", ""), kept.get("model", "")
    labels = ((f"vendor:{vendor}",) if vendor else ()) + ((f"model:{vendor}/{model}",) if model else ())
    return _Duty(kept["site"], labels, _is_failing(view, device, kept.get("kind", "")))


def _is_accepted(view: View, device: str) -> bool:
    for point in view.history.points_of_device.get(device, ()):
        read = view.look(Sort.POINT, (point,)).read
        if read is None or view.place(read.site) is None:
            continue
        if any(watcher == device for watcher, *_ in view.accepted(point, read)):
            return True
    return False


def _is_failing(view: View, device: str, kind: str) -> bool:
    is_supervised = contract_of(kind, view.rules.contracts).is_supervised
    states = {}
    for zone in view.history.zones_judged.get(device, ()):
        value = view.look(Sort.HEALTH, (device, zone)).value
        if value is not None:
            states[zone] = value["state"]
    if "fault" in states.values():
        return True
    return is_supervised and (ZONE_OF_ALL not in states or "silent" in states.values())
