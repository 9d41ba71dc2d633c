"""Sums: what one verdict adds to the counts, and to which nodes of the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.coverage.counts import Counts
from gateway.coverage.facts import Sort
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.verdict import Verdict
from gateway.coverage.view import View

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
    total = sum((counts_of(shape) * number for shape, number in shapes.items() if number), Counts())
    has_any = total.required > 0
    is_whole = has_any and total.installed == total.required
    return total + Counts(
        units=has_any,
        units_installed=is_whole,
        target_units=has_any and is_target,
        target_units_installed=is_whole and is_target,
    )


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
