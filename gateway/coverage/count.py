"""Count: verdicts added up over any node of the tree, at any moment, and over any period.

Nodes are named "site:ID", "area:ID" and "all".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from gateway.coverage.counts import Counts
from gateway.coverage.facts import Sort
from gateway.coverage.history import History, ms_of
from gateway.coverage.period import Period, Sweep
from gateway.coverage.sums import ALL, nodes_of, shape_of, site_counts
from gateway.coverage.verdict import Verdict, judge_all
from gateway.coverage.view import Rules, View

__all__ = ["ALL", "add_up", "by_site", "counts", "nodes_of", "over", "tree", "verdicts"]


def verdicts(history: History, at: datetime, *, rules: Rules, node: str = ALL) -> Sequence[Verdict]:
    """Every requirement of a node at a moment, met or not."""
    view = View(history, ms_of(at), rules)
    found = list(judge_all(view))
    if node == ALL:
        return found
    inside = {site for site in {verdict.site for verdict in found} if node in nodes_of(view, site)}
    return [verdict for verdict in found if verdict.site in inside]


def tree(history: History, at: datetime, *, rules: Rules) -> Mapping[str, Counts]:
    """The counts of every node that is there at a moment, also of those where nothing is required."""
    view = View(history, ms_of(at), rules)
    return add_up(view, by_site(judge_all(view)))


def counts(history: History, at: datetime, *, rules: Rules, node: str = ALL) -> Counts:
    """The counts of one node; of one that is not there, none."""
    return tree(history, at, rules=rules).get(node, Counts())


def by_site(found: Iterable[Verdict]) -> Mapping[str, Counter[tuple[object, ...]]]:
    """How often each shape is at each site."""
    shapes: defaultdict[str, Counter[tuple[object, ...]]] = defaultdict(Counter)
    for verdict in found:
        shapes[verdict.site][shape_of(verdict)] += 1
    return shapes


def add_up(view: View, shapes: Mapping[str, Mapping[tuple[object, ...], int]]) -> Mapping[str, Counts]:
    """Sites to areas to all."""
    nodes: dict[str, Counts] = {ALL: Counts()}
    for (area,) in view.history.subjects(Sort.AREA):
        if view.look(Sort.AREA, (area,)).value is not None:
            nodes[f"area:{area}"] = Counts()
    for (site,) in view.history.subjects(Sort.SITE):
        place = view.place(site)
        if place is None:
            continue
        counted = site_counts(shapes.get(site, {}), place.read.kind in view.rules.target_kinds)
        for node in nodes_of(view, site):
            nodes[node] = nodes.get(node, Counts()) + counted
    return nodes


def over(history: History, start: datetime, end: datetime, *, rules: Rules) -> Mapping[str, Period]:
    """Each node's figures from `start` until `end`, not included; and each "vendor:V" and "model:V/M" (devices only)."""
    return Sweep(history, ms_of(start), ms_of(end), rules).figures()
