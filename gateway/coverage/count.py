"""Count: verdicts added up over any node of the tree, at any moment.

Nodes are named "site:ID", "area:ID" and "all".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from gateway.coverage.counts import Counts
from gateway.coverage.facts import Sort
from gateway.coverage.history import History, ms_of
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.verdict import Rules, Verdict, View, judge_all

ALL = "all"
DEPTH_MAX = 8
"""Areas above a site: three kinds are known; what lies deeper is a ring."""
ENTRANCE_MEASURE = "access_control"
"""An entrance is a point of which access control is asked, be it advised; it is controlled while that works."""


class Shape(NamedTuple):
    """What of a verdict is counted. A whole district has a few dozen of them."""

    measure: str
    family: Family
    duty: Duty
    required: bool
    waived: bool
    installed: bool
    working: bool
    degraded: bool
    networked: bool
    must_network: bool
    unsupervised: bool
    overdue: bool


_FIRST, _BEHIND = Verdict._fields.index("measure"), Verdict._fields.index("overdue") + 1
assert Verdict._fields[_FIRST:_BEHIND] == Shape._fields


def shape_of(verdict: Verdict) -> tuple[object, ...]:
    """The fields of Shape, as a plain tuple: this is done for every point there is."""
    return verdict[_FIRST:_BEHIND]


@lru_cache(maxsize=4096)
def counts_of(shape: tuple[object, ...]) -> Counts:
    """What one verdict of this shape adds (C1 to C6)."""
    s = Shape(*shape)  # type: ignore[arg-type]  # a slice of a Verdict, whose fields these are
    is_entrance = s.measure == ENTRANCE_MEASURE and not s.waived
    entrance = Counts(entrances=is_entrance, entrances_controlled=is_entrance and s.working)
    if s.duty is Duty.ADVISED:
        counted = s.required and s.family is Family.TECHNICAL
        return entrance + Counts(advised=counted, advised_installed=counted and s.installed)
    if s.waived:
        return entrance + Counts(waived=1)
    if s.family is Family.PHYSICAL:
        return Counts(physical=1, physical_ok=s.working)
    return entrance + Counts(
        required=1,
        installed=s.installed,
        working=s.working,
        networked=s.networked,
        must_network=s.must_network,
        degraded=s.working and s.degraded,
        unsupervised=s.working and s.unsupervised,
        overdue=s.working and s.overdue,
    )


def site_counts(shapes: Mapping[tuple[object, ...], int], is_target: bool) -> Counts:
    """A whole site: so often each shape, and the site itself as a unit (C7)."""
    total = sum((times(counts_of(shape), number) for shape, number in shapes.items() if number), Counts())
    has_any = total.required > 0
    is_whole = has_any and total.installed == total.required
    return total + Counts(
        units=has_any,
        units_installed=is_whole,
        target_units=has_any and is_target,
        target_units_installed=is_whole and is_target,
    )


def times(counts: Counts, number: int) -> Counts:
    """Each count so many times."""
    return Counts(*(getattr(counts, name) * number for name in Counts.__slots__))


# -- nodes -------------------------------------------------------------------------------------------------------------


def nodes_of(view: View, site: str) -> tuple[str, ...]:
    """The site and all above it, the nearest first."""
    read = view.look(Sort.SITE, (site,)).read
    if read is None:
        return (f"site:{site}", ALL)
    return (f"site:{site}", *(f"area:{area}" for area in _areas(view, read.area)), ALL)


def _areas(view: View, area: str | None) -> Sequence[str]:
    found: list[str] = []
    while area is not None and area not in found and len(found) < DEPTH_MAX:
        value = view.look(Sort.AREA, (area,)).value
        if value is None:
            break
        found.append(area)
        area = value.get("parent")
    return found


# -- at a moment -------------------------------------------------------------------------------------------------------


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
