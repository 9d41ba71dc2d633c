"""The figures of a month, node by node: whole numbers and codes only, so that the same facts give the same bytes.

A node has two parts: what adds up over boxes (`ADDED`), and what is judged from the sum (`judged`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.count import over, tree, verdicts
from gateway.coverage.counts import Counts
from gateway.coverage.days import Month, day_of
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import DAY_MS, History
from gateway.coverage.period import Period
from gateway.coverage.ranking import risk_of
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.tickets import Risk
from gateway.coverage.verdict import Gap, Rules, Verdict
from gateway.reports.alarms import Alarms
from gateway.reports.colour import WEEKS, warning
from gateway.reports.forecast import forecast
from gateway.reports.outages import outages
from gateway.reports.scope import ALL, Scope, lines

SCHEMA = 2
CURVE_WEEKS = 13
"""A quarter."""
DWELLINGS = frozenset({"residential_estate", "house_block"})
"""Kinds of site where people live: what is missing there may be somebody's own."""
MS = timedelta(milliseconds=1)
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """All that figures are made of."""

    history: History
    facts: Sequence[Fact]
    alarms: Alarms
    rules: Rules
    coverage: CoverageSection
    settings: ReportsSection


def instant_of(month: Month, now: datetime) -> datetime:
    """The last moment of a month, or now while it lasts."""
    return min(month.end - MS, now)


def month_figures(known: Known, month: Month, at: datetime, *, box: str) -> dict[str, Any]:
    """The month as it stands at its end, or at `at` while it lasts."""
    made = _Month(known, month, at)
    return {
        "schema": SCHEMA,
        "box": box,
        "month": str(month),
        "at_ms": (at - EPOCH) // MS,
        "alarms_since_ms": None if known.alarms.since is None else (known.alarms.since - EPOCH) // MS,
        "nodes": {
            node: judged(made.node(node), known.settings) for node in made.scope.nodes() if not node.startswith("site:")
        },
    }


def judged(node: Node, settings: ReportsSection) -> Node:
    """With its colour and its forecast, which are made from what adds up."""
    curve = [(date.fromisoformat(row[0]), row[1], row[2]) for row in node["curve"]]
    found = forecast(curve)
    return node | {
        "colour": warning(node, settings),
        "forecast": {"day": found.day.isoformat() if found.day else None, "why": found.why},
    }


class _Month:
    """What is looked up once for all nodes."""

    def __init__(self, known: Known, month: Month, at: datetime) -> None:
        self._known, self._month, self._at = known, month, at
        history, rules = known.history, known.rules
        self.scope = Scope(history, at)
        self._weeks = [at - timedelta(weeks=back) for back in range(CURVE_WEEKS, -1, -1)]
        self._trees = [tree(history, week, rules=rules) for week in self._weeks]
        self._before = tree(history, month.start - MS, rules=rules)
        self._periods = over(history, month.start, at, rules=rules)
        self._verdicts: dict[str, list[Verdict]] = defaultdict(list)
        for verdict in verdicts(history, at, rules=rules):
            for node in self.scope.chain(verdict.site) if verdict.site in self.scope.sites else ():
                self._verdicts[node].append(verdict)
        self._outages: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for site, kind, seconds in outages(history, known.facts, self.scope, month.start, at):
            for node in self.scope.chain(site):
                self._outages[node][kind].append(seconds)
        self._inspected = Counter(
            node
            for line in lines(known.facts, Sort.INSPECTION).items()
            for fact in line[1]
            if fact.value is not None and month.start <= fact.valid_from <= at
            for node in self._nodes_of(line[0][0])
        )
        self._targets: dict[str, list[list[Any]]] = defaultdict(list)
        for subject in sorted(history.subjects(Sort.TARGET)):
            if (target := history.at(Sort.TARGET, subject, at)) is not None:
                self._targets[subject[0]].append([subject[1], round(target["share"] * 1000)])

    def _nodes_of(self, point: str) -> Sequence[str]:
        """The nodes a point is counted in; an inspection that names a site stands for the site."""
        found = self._known.history.at(Sort.POINT, (point,), self._at)
        site = str(found["site"]) if found else point
        return self.scope.chain(site) if site in self.scope.sites else ()

    def node(self, node: str) -> Node:
        """All that is known of one."""
        sites, today = self.scope.sites_of(node), day_of(self._at)
        verdicts = self._verdicts[node]
        mandatory = [each for each in verdicts if each.duty is Duty.MANDATORY]
        alarms = self._known.alarms
        week_ends = [today + timedelta(days=1) - timedelta(weeks=back) for back in range(WEEKS, -1, -1)]
        weeks = [(end - timedelta(weeks=1), end) for end in week_ends if alarms.knows(end - timedelta(weeks=1))]
        bare = node.partition(":")[2]
        return {
            "name": self.scope.name(node),
            "kind": self.scope.kind(node),
            "parent": self.scope.parent(node),
            "counts": asdict(self._trees[-1].get(node, Counts())),
            "before": asdict(self._before.get(node, Counts())),
            "curve": [
                [day_of(week).isoformat(), counts.required, counts.installed, counts.working, counts.networked]
                for week, counts in ((week, of.get(node, Counts())) for week, of in zip(self._weeks, self._trees, strict=True))
            ],
            "period": _period(self._periods.get(node, Period())),
            "measures": _measures(mandatory),
            "gaps": _by_class(mandatory),
            "dwelling": sum(
                each.family is Family.TECHNICAL and each.required and each.site_kind in DWELLINGS for each in mandatory
            ),
            "outages": {kind: [len(found), max(found)] for kind, found in sorted(self._outages[node].items())},
            "alarms": self._alarms(sites),
            "alarms_known": int(alarms.knows(day_of(self._month.start))),
            "load": [alarms.load(sites, start, end) for start, end in weeks],
            "inspections": {
                "done": self._inspected[node],
                "overdue": sum(each.gap is Gap.NOT_INSPECTED for each in mandatory),
            },
            "critical_age_days": self._critical_age(mandatory),
            "targets": self._targets.get(node) or self._targets.get(bare or ALL) or [],
        }  # fmt: skip

    def _alarms(self, sites: frozenset[str]) -> dict[str, dict[str, int]]:
        found = self._known.alarms.of(sites, day_of(self._month.start), day_of(self._at) + timedelta(days=1))
        kinds = sorted({kind for kind, _ in found})
        return {kind: {"alarm": found[kind, False], "test": found[kind, True]} for kind in kinds}

    def _critical_age(self, verdicts: Sequence[Verdict]) -> int | None:
        ages = [
            ((self._at - EPOCH) // MS - each.since) // DAY_MS
            for each in verdicts
            if each.gap is not None and each.since is not None
            and risk_of(each, self.scope.sites[each.site], self._known.rules.target_kinds) is Risk.HIGH
        ]  # fmt: skip
        return max(ages, default=None)


def _measures(verdicts: Sequence[Verdict]) -> dict[str, list[int]]:
    """Required, installed and working of each technical measure."""
    found: dict[str, list[int]] = {}
    for each in verdicts:
        if each.family is Family.TECHNICAL and each.required:
            row = found.setdefault(each.measure, [0, 0, 0])
            row[0] += 1
            row[1] += each.installed
            row[2] += each.working
    return dict(sorted(found.items()))


def _by_class(verdicts: Sequence[Verdict]) -> dict[str, dict[str, dict[str, int]]]:
    """How many gaps of technical and of physical measures, of which sort, of which measure."""
    found: dict[str, dict[str, Counter[str]]] = {str(family): defaultdict(Counter) for family in Family}
    for each in verdicts:
        if each.gap is not None:
            found[str(each.family)][str(each.gap)][each.measure] += 1
    return {
        family: {gap: dict(sorted(of.items())) for gap, of in sorted(gaps.items())} for family, gaps in found.items()
    }


def _period(period: Period) -> Mapping[str, int]:
    """Times in ms."""
    return {
        "required_ms": period.held.required,
        "installed_ms": period.held.installed,
        "working_ms": period.held.working,
        "in_duty_ms": period.in_duty_ms,
        "repair_ms": period.repair_ms,
        "faults": period.faults,
    }
