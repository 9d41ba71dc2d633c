"""Merge: the frozen figures of many boxes, added up to those of their district."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from gateway.coverage.count import add_up, by_site, over
from gateway.coverage.counts import Counts
from gateway.coverage.history import History, ms_of
from gateway.coverage.period import Period
from gateway.coverage.requirements import Duty
from gateway.coverage.sums import ALL, counts_of, nodes_of, shape_of
from gateway.coverage.verdict import Rules, Verdict, judge_all
from gateway.coverage.view import View

BOXES_MAX = 1000
"""A district of ten million points: more is a mistake of whoever lists them."""
DENOMINATORS = ("required", "must_network", "advised", "physical", "entrances", "units", "target_units")
_LAST_MOMENT = timedelta(milliseconds=1)
_DEVICE_FIGURES = ("in_duty_ms", "repair_ms", "faults")


@dataclass(frozen=True, slots=True)
class Export:
    """What one box found for one period."""

    box: str
    start: datetime
    end: datetime
    counts: Mapping[str, Counts]
    """By node, at the last millisecond of the period."""
    periods: Mapping[str, Period]
    classes: Mapping[str, Mapping[str, Counts]]
    """By node and measure, at the same moment."""
    gaps: Mapping[str, Mapping[str, int]]
    """By node and sort of gap: mandatory requirements that are not met."""

    @classmethod
    def of(cls, box: str, history: History, start: datetime, end: datetime, *, rules: Rules) -> Export:
        """From the facts of the box."""
        view = View(history, ms_of(end - _LAST_MOMENT), rules)
        found = list(judge_all(view))
        counts = add_up(view, by_site(found))
        periods = over(history, start, end, rules=rules)
        return cls(box, start, end, counts, periods, *_by_class(view, found))

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Export:
        """From what `written` made. Raises ValueError for anything else."""
        try:
            made = cls(
                value["box"],
                datetime.fromisoformat(value["start"]),
                datetime.fromisoformat(value["end"]),
                {node: _counts(found) for node, found in value["counts"].items()},
                {
                    node: Period(_counts(found["held"]), *_whole(found[name] for name in _DEVICE_FIGURES))
                    for node, found in value["periods"].items()
                },
                {
                    node: {measure: _counts(found) for measure, found in of.items()}
                    for node, of in value["classes"].items()
                },
                {node: dict(zip(of, _whole(of.values()), strict=True)) for node, of in value["gaps"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an export of a box: {error}") from error
        sites = (found for node, found in made.counts.items() if node.startswith("site:"))
        if sum(sites, Counts()) != made.counts.get(ALL):
            raise ValueError("not an export of a box: its total is not the sum of its sites")
        return made

    def written(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "box": self.box,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "counts": {node: asdict(found) for node, found in self.counts.items()},
            "periods": {node: asdict(found) for node, found in self.periods.items()},
            "classes": {
                node: {measure: asdict(found) for measure, found in of.items()} for node, of in self.classes.items()
            },
            "gaps": {node: dict(of) for node, of in self.gaps.items()},
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a box that should report, should it not."""

    last: Export | None = None
    """What it reported of an earlier period."""
    planned: Mapping[str, Counts] = field(default_factory=dict)
    """By node, what is planned there; asked when it has never reported."""

    def unheard(self, box: str, start: datetime, end: datetime) -> Export:
        """What the box must have, and nothing that is there."""
        length = ms_of(end) - ms_of(start)
        known = self.planned if self.last is None else self.last.counts
        classes = {} if self.last is None else self.last.classes
        counts = {node: denominators(found) for node, found in known.items()}
        return Export(
            box, start, end, counts,
            {node: Period(found * length) for node, found in counts.items()},
            {node: {measure: denominators(found) for measure, found in of.items()} for node, of in classes.items()},
            {},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Merged:
    """The figures of a district."""

    counts: Mapping[str, Counts]
    periods: Mapping[str, Period]
    classes: Mapping[str, Mapping[str, Counts]]
    gaps: Mapping[str, Mapping[str, int]]
    boxes: Mapping[str, Export]
    """Each box with what was added for it: what it reported, or what it must have."""
    missing: Mapping[str, datetime | None]
    """Boxes that did not report, each with the end of the last period it reported; None: it never has."""


def merge(exports: Iterable[Export], expected: Mapping[str, Expected]) -> Merged:
    """Add up what boxes report for one period.

    `expected` are all there should be: what is required at one that is missing stays in the denominators, and nothing
    of it counts as installed. Raises ValueError for exports that do not fit.
    """
    here = _by_box(exports, expected)
    start, end = _period(here.values())
    missing = {box: known.last.end if known.last else None for box, known in expected.items() if box not in here}
    boxes = {box: here.get(box) or known.unheard(box, start, end) for box, known in expected.items()}
    _check_sites(boxes)
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    periods: defaultdict[str, Period] = defaultdict(Period)
    classes: defaultdict[str, defaultdict[str, Counts]] = defaultdict(lambda: defaultdict(Counts))
    gaps: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for found in boxes.values():
        for node, counted in found.counts.items():
            counts[node] += counted
        for node, period in found.periods.items():
            periods[node] += period
        for node, measures in found.classes.items():
            for measure, counted in measures.items():
                classes[node][measure] += counted
        for node, sorts in found.gaps.items():
            gaps[node].update(sorts)
    return Merged(
        dict(counts), dict(periods), {node: dict(of) for node, of in classes.items()},
        {node: dict(of) for node, of in gaps.items()}, boxes, missing,
    )  # fmt: skip


def denominators(counts: Counts) -> Counts:
    """What is required of these, and nothing that is there."""
    return Counts(**{name: getattr(counts, name) for name in DENOMINATORS})


def _by_class(
    view: View, found: Sequence[Verdict]
) -> tuple[Mapping[str, Mapping[str, Counts]], Mapping[str, Mapping[str, int]]]:
    classes: defaultdict[str, defaultdict[str, Counts]] = defaultdict(lambda: defaultdict(Counts))
    gaps: defaultdict[str, Counter[str]] = defaultdict(Counter)
    nodes: dict[str, Sequence[str]] = {}
    for verdict in found:
        if verdict.site not in nodes:
            nodes[verdict.site] = nodes_of(view, verdict.site)
        for node in nodes[verdict.site]:
            classes[node][verdict.measure] += counts_of(shape_of(verdict))
            if verdict.gap is not None and verdict.duty is Duty.MANDATORY:
                gaps[node][str(verdict.gap)] += 1
    return {node: dict(of) for node, of in classes.items()}, {node: dict(of) for node, of in gaps.items()}


def _counts(value: Mapping[str, Any]) -> Counts:
    made = Counts(**value)
    _whole(value.values())
    return made


def _whole(found: Iterable[Any]) -> Sequence[int]:
    """Raises TypeError for what is no count."""
    numbers = list(found)
    for each in numbers:
        if type(each) is not int or each < 0:
            raise TypeError(f"{each!r} is no count")
    return numbers


def _by_box(exports: Iterable[Export], expected: Mapping[str, Expected]) -> dict[str, Export]:
    if len(expected) > BOXES_MAX:
        raise ValueError(f"{len(expected)} boxes are expected; at most {BOXES_MAX} can be merged")
    here: dict[str, Export] = {}
    for export in exports:
        if export.box not in expected:
            raise ValueError(f"box {export.box} is not among those expected: {', '.join(sorted(expected))}")
        if export.box in here:
            raise ValueError(f"box {export.box} has reported twice")
        here[export.box] = export
    return here


def _period(exports: Iterable[Export]) -> tuple[datetime, datetime]:
    periods = sorted({(export.start, export.end) for export in exports})
    if len(periods) != 1:
        told = "; ".join(f"{start.isoformat()} to {end.isoformat()}" for start, end in periods) or "none"
        raise ValueError(f"all boxes must report the same period, and one at least must; found: {told}")
    return periods[0]


def _check_sites(boxes: Mapping[str, Export]) -> None:
    """A site is at one box."""
    sites: dict[str, str] = {}
    for box, found in boxes.items():
        for node in found.counts:
            if node.startswith("site:") and sites.setdefault(node, box) != box:
                raise ValueError(f"{node} is reported by two boxes, {sites[node]} and {box}: it would count twice")


assert set(DENOMINATORS) <= {field.name for field in fields(Counts)}
