"""The lists that people and programs ask for, by name: the same rows and columns on the command line and over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from gateway.config import CoverageSection
from gateway.coverage.count import tree, verdicts
from gateway.coverage.counts import Counts
from gateway.coverage.days import LOCAL, Month
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.tickets import Tickets
from gateway.coverage.verdict import Rules
from gateway.reports import gaps, lists
from gateway.reports.scope import Scope
from gateway.reports.tables import Report, Table
from gateway.reports.words import Said

Name = Literal["coverage", "gaps", "deficiencies", "zones", "ledger"]
TITLES: Mapping[Name, Said] = {
    "coverage": Said("覆盖情况表", "Coverage"),
    "gaps": Said("缺口清单", "Gaps"),
    "deficiencies": Said("整改清单", "Deficiencies"),
    "zones": Said("防控区考核表", "Control zones"),
    "ledger": Said("设备台账", "Equipment ledger"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows of a list."""

    name: Name
    at: datetime
    month: Month
    """Whose changes of the ledger are told."""
    node: str | None = None
    visible: frozenset[str] | None = None
    """The sites that whoever asks may see; None: all."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Only rows that have this in that column, by its key."""


def report(history: History, facts: Sequence[Fact], rules: Rules, section: CoverageSection, wanted: Wanted) -> Report:
    """A list as it was, or is, at a moment. Raises NoSuchNode."""
    scope = Scope(history, wanted.at, wanted.visible)
    node, at = scope.node(wanted.node), wanted.at
    if wanted.name == "coverage":
        tables = [lists.coverage(scope, _counts(history, rules, scope, wanted), node)]
    elif wanted.name == "deficiencies":
        tables = [lists.deficiencies(Tickets(facts), scope, node, at)]
    elif wanted.name == "ledger":
        tables = [lists.ledger(history, scope, node, at)]
        if wanted.visible is None:
            tables.append(lists.changes(facts, wanted.month.start, wanted.month.end))
    else:
        found = gaps.open_gaps(scope, verdicts(history, at, rules=rules), node)
        if wanted.name == "gaps":
            tables = [gaps.table(gaps.rows(history, scope, found, at, section))]
        else:
            number = Counter(each for gap in found for each in scope.chain(gap.site))
            tables = [lists.zones(scope, _counts(history, rules, scope, wanted), node, number)]
    local, name = at.astimezone(LOCAL), scope.name(node)
    subtitle = Said(f"{name} 截至 {local:%Y-%m-%d %H:%M}".strip(), f"{name} as of {local:%Y-%m-%d %H:%M}".strip())
    chosen = [_chosen(table, wanted.cells) for table in tables]
    return Report(wanted.name, TITLES[wanted.name], subtitle, chosen, {"at": local.isoformat(), "node": node})


def _counts(history: History, rules: Rules, scope: Scope, wanted: Wanted) -> Mapping[str, Counts]:
    counts = tree(history, wanted.at, rules=rules)
    if wanted.visible is None:
        return counts
    return {
        node: sum((counts.get(f"site:{site}", Counts()) for site in scope.sites_of(node)), Counts())
        for node in scope.nodes()
    }


def _chosen(table: Table, cells: Mapping[str, str]) -> Table:
    return replace(table, rows=[row for row in table.rows if all(row.get(key) == cell for key, cell in cells.items())])
