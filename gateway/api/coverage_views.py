"""What readers get to see of the coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from functools import reduce
from operator import add
from typing import Any

from pydantic import BaseModel

from gateway.assurance import AREAS_DEEP, Figures
from gateway.coverage.causes import Open
from gateway.coverage.counts import Counts
from gateway.coverage.facts import Fact
from gateway.coverage.history import moment_of
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.tickets import Risk, Standing, Ticket
from gateway.coverage.verdict import Gap, Verdict
from gateway.registry.snapshot import Snapshot


class NodeView(BaseModel):
    """An area, a site or everything; rates are made of the counts by whoever prints them, and never without both."""

    node: str
    name: str
    """As people call it now; "" of everything."""
    kind: str
    """district, control_zone, community, or the kind of site; "" of everything."""
    counts: dict[str, int]


class NodeName(BaseModel):
    node: str
    name: str


class CoverageView(NodeView):
    """One node, and what lies directly below it."""

    at: datetime
    parents: list[NodeName]
    """From the top down to the one above it."""
    children: list[NodeView]


class RequirementView(BaseModel):
    """One requirement of one point, met or not."""

    point: str
    """"": the site has no point of this kind, and must have one."""
    point_name: str
    point_kind: str
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
    gap: Gap | None
    device: str
    because: str
    via: str
    gap_since: datetime | None


class GapView(BaseModel):
    """A requirement that is not met. Without a due date it is no deficiency yet, or only advised."""

    site: str
    site_name: str
    site_kind: str
    point: str
    point_name: str
    measure: str
    family: Family
    duty: Duty
    gap: Gap
    risk: Risk
    device: str
    because: str
    via: str
    gap_since: datetime | None
    responsible: str
    deficiency: str
    due: date | None
    is_overdue: bool


class ToldView(BaseModel):
    at: datetime
    whom: str
    by: str


class DeficiencyView(BaseModel):
    id: str
    site: str
    gap: str
    state: Standing
    because: str
    risk: str
    responsible: str
    points: list[str]
    opened: datetime
    due: date
    is_overdue: bool
    times: int
    closed: datetime | None
    told: list[ToldView]
    rectified: datetime | None
    rectified_by: str


class AreaView(BaseModel):
    id: str
    name: str
    kind: str
    parent: str | None


class ChangedView(BaseModel):
    seq: int
    sort: str
    about: list[str]
    value: dict[str, Any] | None
    valid_from: datetime
    valid_to: datetime | None
    recorded_at: datetime | None


def coverage_view(found: Figures, ledger: Snapshot, node: str, sites: Sequence[str]) -> CoverageView:
    """A node counted over these sites of it."""
    below = _below(found, node, sites)
    order = sorted(below, key=lambda child: (child.startswith("site:"), child))
    return CoverageView(
        **_node(node, _sum(found, sites), ledger).model_dump(), at=found.at, parents=_parents(node, ledger),
        children=[_node(child, below[child], ledger) for child in order],
    )  # fmt: skip


def _sum(found: Figures, sites: Iterable[str]) -> Counts:
    return reduce(add, (found.sites[site] for site in sites), Counts())


def _below(found: Figures, node: str, sites: Iterable[str]) -> Mapping[str, Counts]:
    """What lies directly below a node: the areas, and the sites that are in none of them."""
    below: dict[str, Counts] = {}
    kind, _, name = node.partition(":")
    for site in () if kind == "site" else sites:
        areas = found.areas[site]
        depth = areas.index(name) if kind == "area" else len(areas)
        child = f"area:{areas[depth - 1]}" if depth else f"site:{site}"
        below[child] = below.get(child, Counts()) + found.sites[site]
    return below


def _node(node: str, counts: Counts, ledger: Snapshot) -> NodeView:
    kind, _, name = node.partition(":")
    thing = ledger.areas.get(name) if kind == "area" else ledger.sites.get(name)
    return NodeView(
        node=node, name=thing.name if thing else name, kind=thing.kind if thing else "", counts=asdict(counts)
    )


def _parents(node: str, ledger: Snapshot) -> list[NodeName]:
    kind, _, name = node.partition(":")
    site, area = ledger.sites.get(name), ledger.areas.get(name)
    above = (site.area if site else None) if kind == "site" else area.parent if area else None
    found: list[NodeName] = []
    while above is not None and above in ledger.areas and len(found) < AREAS_DEEP:
        found.insert(0, NodeName(node=f"area:{above}", name=ledger.areas[above].name))
        above = ledger.areas[above].parent
    return found


def requirement_view(each: Verdict, ledger: Snapshot) -> RequirementView:
    """One requirement, met or not."""
    return RequirementView(
        point=each.point, point_name=_point_name(each, ledger), point_kind=each.point_kind, measure=each.measure,
        family=each.family, duty=each.duty, required=each.required, waived=each.waived, installed=each.installed,
        working=each.working, degraded=each.degraded, networked=each.networked, must_network=each.must_network,
        unsupervised=each.unsupervised, overdue=each.overdue, gap=each.gap, device=each.device, because=each.because,
        via=each.via, gap_since=_moment(each.since),
    )  # fmt: skip


def gap_view(gap: Open, ledger: Snapshot, ticket: Ticket | None, now: datetime) -> GapView:
    """One gap; `ticket`: what is known of its deficiency."""
    each, site = gap.verdict, gap.site
    assert each.gap is not None
    task = ticket if ticket is not None and ticket.closed is None else None
    return GapView(
        site=each.site, site_name=site.get("name", ""), site_kind=each.site_kind, point=each.point,
        point_name=_point_name(each, ledger), measure=each.measure, family=each.family, duty=each.duty, gap=each.gap,
        risk=gap.risk, device=each.device, because=each.because, via=each.via, gap_since=_moment(each.since),
        responsible=site.get("responsible", ""), deficiency=task.id if task else "", due=task.due if task else None,
        is_overdue=task is not None and task.is_overdue(now),
    )  # fmt: skip


def _point_name(each: Verdict, ledger: Snapshot) -> str:
    point = ledger.points.get(each.point)
    return point.name if point else each.point


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else moment_of(ms)


def deficiency_view(each: Ticket, now: datetime) -> DeficiencyView:
    """One deficiency, and what became of it."""
    return DeficiencyView(
        id=each.id, site=each.site, gap=each.gap, state=each.standing(now), because=each.because, risk=each.risk,
        responsible=each.responsible, points=list(each.points), opened=each.opened, due=each.due,
        is_overdue=each.is_overdue(now), times=each.times, closed=each.closed,
        told=[ToldView(at=t.at, whom=t.whom, by=t.by) for t in each.told],
        rectified=each.rectified, rectified_by=each.rectified_by,
    )  # fmt: skip


def changed_view(fact: Fact) -> ChangedView:
    """One line of the change feed."""
    return ChangedView(
        seq=fact.id, sort=fact.sort, about=list(fact.subject), value=None if fact.value is None else dict(fact.value),
        valid_from=fact.valid_from, valid_to=fact.valid_to, recorded_at=fact.recorded_at,
    )  # fmt: skip
