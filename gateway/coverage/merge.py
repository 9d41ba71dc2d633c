"""Merge: the frozen figures of many boxes, added up to those of their district."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from gateway.coverage.count import over, tree
from gateway.coverage.counts import Counts
from gateway.coverage.history import History, ms_of
from gateway.coverage.period import Period
from gateway.coverage.verdict import Rules

NOT_REPORTED = {"zh": "未上报", "en": "not reported"}
BOXES_MAX = 1000
"""A district of ten million points: more is a mistake of whoever lists them."""
DENOMINATORS = ("required", "must_network", "advised", "physical", "entrances", "units", "target_units")
_LAST_MOMENT = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Export:
    """What one box found for one period."""

    box: str
    start: datetime
    end: datetime
    counts: Mapping[str, Counts]
    """By node, at the last millisecond of the period."""
    periods: Mapping[str, Period]

    @classmethod
    def of(cls, box: str, history: History, start: datetime, end: datetime, *, rules: Rules) -> Export:
        """From the facts of the box."""
        counts = tree(history, end - _LAST_MOMENT, rules=rules)
        return cls(box, start, end, counts, over(history, start, end, rules=rules))

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Export:
        """From what `written` made. Raises ValueError for anything else."""
        try:
            return cls(
                value["box"],
                datetime.fromisoformat(value["start"]),
                datetime.fromisoformat(value["end"]),
                {node: Counts(**found) for node, found in value["counts"].items()},
                {
                    node: Period(**{**found, "held": Counts(**found["held"])})
                    for node, found in value["periods"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an export of a box: {error}") from error

    def written(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "box": self.box,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "counts": {node: asdict(found) for node, found in self.counts.items()},
            "periods": {node: asdict(found) for node, found in self.periods.items()},
        }


@dataclass(frozen=True, slots=True)
class Merged:
    """The figures of a district."""

    counts: Mapping[str, Counts]
    periods: Mapping[str, Period]
    missing: Mapping[str, datetime | None]
    """Boxes that did not report, each with the end of the last period it reported; None: it never has."""


def merge(exports: Iterable[Export], expected_boxes: Mapping[str, Export | None]) -> Merged:
    """Add up what boxes report for one period.

    `expected_boxes` are all there should be, each with what it last reported: what is required at one that is missing
    stays in the denominators, and nothing of it counts as installed. Raises ValueError for exports that do not fit.
    """
    here = _by_box(exports, expected_boxes)
    start, end = _period(here.values())
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    periods: defaultdict[str, Period] = defaultdict(Period)
    missing: dict[str, datetime | None] = {}
    sites: dict[str, str] = {}
    for box, last in expected_boxes.items():
        found = here.get(box)
        if found is None:
            missing[box] = None if last is None else last.end
            found = None if last is None else _unheard(last, start, end)
        if found is None:
            continue
        for node in found.counts:
            if node.startswith("site:") and sites.setdefault(node, box) != box:
                raise ValueError(f"{node} is reported by two boxes, {sites[node]} and {box}: it would count twice")
        for node, counted in found.counts.items():
            counts[node] += counted
        for node, period in found.periods.items():
            periods[node] += period
    return Merged(dict(counts), dict(periods), missing)


def denominators(counts: Counts, times: int = 1) -> Counts:
    """What is required of these, and nothing that is there."""
    return Counts(**{name: getattr(counts, name) * times for name in DENOMINATORS})


def _by_box(exports: Iterable[Export], expected: Mapping[str, Export | None]) -> dict[str, Export]:
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


def _unheard(last: Export, start: datetime, end: datetime) -> Export:
    """A box that has not reported, as far as it is known."""
    counts = {node: denominators(found) for node, found in last.counts.items()}
    length = ms_of(end) - ms_of(start)
    periods = {node: Period(denominators(found, length)) for node, found in counts.items()}
    return Export(last.box, start, end, counts, periods)


assert set(DENOMINATORS) <= {field.name for field in fields(Counts)}
