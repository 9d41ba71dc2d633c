"""The reports of the office, each by its name: what it is called and how it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from gateway.coverage.causes import Open
from gateway.coverage.count import tree, verdicts
from gateway.coverage.counts import Counts
from gateway.coverage.days import LOCAL, day_of
from gateway.coverage.verdict import Verdict
from gateway.reports import gaps, lists, notice, schedule
from gateway.reports.deficiencies import gaps_of, tickets_at
from gateway.reports.figures import Known
from gateway.reports.scope import Scope
from gateway.reports.tables import Report, Table
from gateway.reports.words import Said


@dataclass(frozen=True)
class Asked:
    """What of, at or below which node, as of when; and what only some reports ask for."""

    known: Known
    at: datetime
    place: str | None = None
    since: datetime | None = None
    """From when on changes are told."""
    until: datetime | None = None
    months: int = 3
    by: notice.By = "responsible"
    visible: frozenset[str] | None = None
    """The sites that whoever asks may see; None: all."""

    @cached_property
    def scope(self) -> Scope:
        return Scope(self.known.history, self.at, self.visible)

    @cached_property
    def node(self) -> str:
        return self.scope.node(self.place)

    @cached_property
    def verdicts(self) -> Sequence[Verdict]:
        found = verdicts(self.known.history, self.at, rules=self.known.rules)
        return found if self.visible is None else [each for each in found if each.site in self.visible]

    @cached_property
    def counts(self) -> Mapping[str, Counts]:
        counts = tree(self.known.history, self.at, rules=self.known.rules)
        if self.visible is None:
            return counts
        return {
            node: sum((counts.get(f"site:{site}", Counts()) for site in self.scope.sites_of(node)), Counts())
            for node in self.scope.nodes()
        }

    @cached_property
    def gaps(self) -> Sequence[Open]:
        """Of all nodes."""
        return gaps_of(self.known, self.verdicts, self.at)


@dataclass(frozen=True)
class Made:
    """What a report consists of."""

    tables: Sequence[Table]
    template: str = "tables.html"
    page: Mapping[str, Any] = field(default_factory=dict)


def _coverage(asked: Asked) -> Made:
    return Made([lists.coverage(asked.scope, asked.counts, asked.node)])


def _gaps(asked: Asked) -> Made:
    found = gaps.in_order(asked.scope, asked.gaps, asked.node)
    return Made([gaps.table(gaps.rows(asked.known, found, tickets_at(asked.known, asked.gaps, asked.at), asked.at))])


def _deficiencies(asked: Asked) -> Made:
    found = tickets_at(asked.known, asked.gaps, asked.at)
    return Made([lists.deficiencies(found, asked.scope, asked.node, asked.at)])


def _zones(asked: Asked) -> Made:
    number = Counter(node for gap in asked.gaps for node in asked.scope.chain(gap.verdict.site))
    return Made([lists.zones(asked.scope, asked.counts, asked.node, number)])


def _ledger(asked: Asked) -> Made:
    equipment = lists.ledger(asked.known.history, asked.scope, asked.node, asked.at)
    if asked.visible is not None:
        return Made([equipment])  # changes name things of all sites
    return Made([equipment, lists.changes(asked.known.facts, asked.since or asked.at, asked.until or asked.at)])


def _notice(asked: Asked) -> Made:
    rows = notice.rows(asked.known, asked.scope, asked.gaps, asked.node, asked.at)
    columns = {column.key: column for column in notice.COLUMNS}
    page = {"letters": notice.letters(rows, asked.by), "columns": columns, "day": day_of(asked.at).isoformat()}
    return Made([notice.table(rows)], "notice.html", page)


def _schedule(asked: Asked) -> Made:
    rows = schedule.rows(asked.known, asked.scope, asked.verdicts, asked.node, asked.at)
    return Made(schedule.tables(rows, asked.at, asked.months))


REPORTS: Mapping[str, tuple[Said, Callable[[Asked], Made]]] = {
    "coverage": (Said("覆盖情况表", "Coverage"), _coverage),
    "gaps": (Said("缺口清单", "Gaps"), _gaps),
    "deficiencies": (Said("整改清单", "Deficiencies"), _deficiencies),
    "zones": (Said("防控区考核表", "Control zones"), _zones),
    "ledger": (Said("设备台账", "Equipment ledger"), _ledger),
    "notice": (notice.TITLE, _notice),
    "schedule": (schedule.TITLE, _schedule),
}


def report(name: str, asked: Asked) -> Report:
    """The report of that name. Raises NoSuchNode."""
    title, make = REPORTS[name]
    made, local, where = make(asked), asked.at.astimezone(LOCAL), asked.scope.name(asked.node)
    subtitle = Said(f"{where} 截至 {local:%Y-%m-%d %H:%M}".strip(), f"{where} as of {local:%Y-%m-%d %H:%M}".strip())
    facts = {"at": local.isoformat(), "node": asked.node}
    return Report(name, title, subtitle, made.tables, facts, made.template, made.page)
