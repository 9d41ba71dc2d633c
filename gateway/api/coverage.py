"""Coverage over HTTP: figures of a node, its gaps with their reasons, deficiencies, the ledger with its change feed.

Who is limited to sites sees those alone, and the figures of a node are counted over them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.permits import Caller, declared_router, needs, person
from gateway.api.views import Moment, Page
from gateway.assurance import Figures
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import moment_of
from gateway.coverage.ranking import LAST_PLACE, ticket_order
from gateway.coverage.tickets import Standing, Ticket, Tickets, rectified, told
from gateway.coverage.verdict import Gap, Verdict
from gateway.history import WHO
from gateway.model import Area, Device, Point

Text = Annotated[str, Query(min_length=1, max_length=128)]
Node = Annotated[str, Query(pattern="^(all|(area|site):.{1,64})$", description="all, area:ID or site:ID")]
Limit = Annotated[int, Query(ge=1, le=1000, description="items on a page")]
After = Annotated[int, Query(ge=0, le=2**62, description="cursor: `next` of the page before; 0 from the start")]
LEDGER = (Sort.AREA, Sort.SITE, Sort.POINT, Sort.DEVICE, Sort.STAGE, Sort.ACCEPTANCE, Sort.WAIVER, Sort.INSPECTION)
"""What the change feed tells of."""


class Assured(Protocol):
    """What is asked of the coverage."""

    @property
    def figures(self) -> Figures: ...
    @property
    def tickets(self) -> Tickets: ...
    def at(self, moment: datetime) -> Awaitable[Figures]: ...
    async def look(self) -> None: ...


class Ledger(Protocol):
    """What is asked of the registry."""

    def areas(self) -> Iterable[Area]: ...
    def points(self) -> Iterable[Point]: ...
    def device(self, device_id: str) -> Device | None: ...
    async def facts(self, *, after: int = 0, limit: int = 1000) -> Sequence[Fact]: ...
    async def record(self, facts: Sequence[Fact]) -> None: ...


class CoverageView(BaseModel):
    """One node; rates are made of the counts by whoever prints them, and never without both."""

    node: str
    at: datetime
    counts: dict[str, int]
    children: list[str]


class GapView(BaseModel):
    site: str
    point: str
    measure: str
    family: str
    duty: str
    gap: Gap
    device: str
    because: str
    via: str
    gap_since: datetime | None
    responsible: str


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


class Say(BaseModel):
    """What a person says of a deficiency."""

    model_config = ConfigDict(extra="forbid")

    whom: Annotated[str, Field(max_length=100)] = ""
    """A role or an office, never a name."""
    remark: Annotated[str, Field(max_length=200)] = ""
    who: Annotated[str, Field(pattern=f"^{WHO.pattern}$")] | None = None
    """The person at the command line of this box, who comes with the box's token."""


def coverage_routes(coverage: Assured, ledger: Ledger, audit: Audit, clock: Clock) -> APIRouter:  # noqa: C901  # a list of routes
    """The routes under /coverage, /deficiencies, /areas and /ledger."""
    router = declared_router(tags=["coverage"])

    @router.get("/coverage")
    @needs(Permission.WATCH)
    async def figures(caller: Caller, node: Node = "all", at: Moment | None = None) -> CoverageView:
        """The counts of a node, now or at another moment, and what lies directly below it."""
        found = coverage.figures if at is None else await coverage.at(at)
        if node.startswith("site:") and not caller.sees(node.removeprefix("site:")):
            raise HTTPException(404, f"there is no {node}")
        counts = _counts(found, node, caller.sites)
        return CoverageView(node=node, at=found.at, counts=counts, children=_children(found, ledger, node, caller))

    @router.get("/coverage/gaps")
    @needs(Permission.WATCH)
    async def gaps(  # noqa: PLR0917  # filters of a query
        caller: Caller,
        node: Node = "all",
        gap: Gap | None = None,
        device: Text | None = None,
        since_before: Moment | None = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> Page[GapView]:
        """What is missing and why, whoever has to close it; the most urgent first (docs/reports.md)."""
        found = coverage.figures
        sites = frozenset(found.within(node, caller.sites))
        responsible = {each.site: each.responsible for each in coverage.tickets}
        views = [_gap_view(each, responsible) for each in found.gaps if each.site in sites]
        chosen = [
            view
            for view in views
            if gap in (None, view.gap)
            and device in (None, view.device)
            and (since_before is None or view.gap_since is None or view.gap_since < since_before)
        ]
        return _page(chosen, after, limit)

    @router.get("/deficiencies")
    @needs(Permission.WATCH)
    async def deficiencies(
        caller: Caller,
        state: Standing | None = None,
        site: Text | None = None,
        gap: Text | None = None,
        *,
        overdue: bool | None = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> Page[DeficiencyView]:
        """Deficiencies, the most urgent first; without `state` those that are not closed."""
        now = clock.now()
        seen = [each for each in coverage.tickets if caller.sees(each.site) and site in (None, each.site)]
        places = coverage.figures.places
        seen.sort(key=lambda each: ticket_order(each, places.get(each.site, LAST_PLACE)))
        views = [_deficiency_view(each, now) for each in seen]
        chosen = [
            view
            for view in views
            if (view.state == state if state else view.state is not Standing.CLOSED)
            and gap in (None, view.gap)
            and overdue in (None, view.is_overdue)
        ]
        return _page(chosen, after, limit)

    def known(caller: Actor, ticket: str) -> Ticket:
        found = coverage.tickets.get(ticket)
        if found is None or not caller.sees(found.site):
            raise HTTPException(404, f"there is no deficiency {ticket[:120]}")
        return found

    @router.get("/deficiencies/{ticket:path}")
    @needs(Permission.WATCH)
    async def deficiency(caller: Caller, ticket: str) -> DeficiencyView:
        """One deficiency, and what became of it."""
        return _deficiency_view(known(caller, ticket), clock.now())

    async def say(caller: Actor, ticket: str, wish: Say, fact: Callable[[str], Fact]) -> DeficiencyView:
        known(caller, ticket)
        actor = person(caller, wish.who)
        await audit.record(actor, Deed.REGISTRY, f"deficiency {ticket}", {"whom": wish.whom, "remark": wish.remark})
        await ledger.record([fact(actor.name)])
        await coverage.look()
        return _deficiency_view(known(caller, ticket), clock.now())

    @router.post("/deficiencies/told/{ticket:path}")
    @needs(Permission.SERVICE)
    async def was_told(caller: Caller, ticket: str, wish: Say) -> DeficiencyView:
        """Note that somebody was told of it."""
        if not wish.whom:
            raise HTTPException(422, "whom: the role or office that was told is expected")
        return await say(caller, ticket, wish, lambda by: told(ticket, wish.whom, by, clock.now()))

    @router.post("/deficiencies/rectified/{ticket:path}")
    @needs(Permission.SERVICE)
    async def was_rectified(caller: Caller, ticket: str, wish: Say) -> DeficiencyView:
        """Say that it was put right; the evidence closes it."""
        return await say(caller, ticket, wish, lambda by: rectified(ticket, by, wish.remark, clock.now()))

    @router.get("/areas")
    @needs(Permission.WATCH, whole_box=True)
    async def areas() -> Page[AreaView]:
        """District, control zones, communities."""
        return Page(items=[AreaView(id=a.id, name=a.name, kind=a.kind, parent=a.parent) for a in ledger.areas()])

    @router.get("/ledger")
    @needs(Permission.WATCH, whole_box=True)
    async def changes(after: After = 0, limit: Limit = 100) -> Page[ChangedView]:
        """The change feed of the ledger, in the order it was recorded: go on from `next`, for ever."""
        found = await ledger.facts(after=after, limit=limit)
        views = [_changed_view(fact) for fact in found if fact.sort in LEDGER]
        return Page(items=views, next=found[-1].id if found else None)

    return router


def _counts(found: Figures, node: str, visible: frozenset[str] | None) -> dict[str, int]:
    """The counts of a node by name."""
    return dict(asdict(found.counts(node, visible)))


def _children(found: Figures, ledger: Ledger, node: str, caller: Actor) -> list[str]:
    """Areas and sites directly below a node, of which the caller sees something."""
    kind, _, name = node.partition(":")
    if kind == "site":
        return []
    above = name if kind == "area" else None
    seen = list(found.within(node, caller.sites))
    inside = {area for site in seen for area in found.areas[site]}
    areas = sorted(area.id for area in ledger.areas() if area.parent == above and area.id in inside)
    sites = sorted(site for site in seen if next(iter(found.areas[site]), None) == above)
    return [*(f"area:{area}" for area in areas), *(f"site:{site}" for site in sites)]


def _page(chosen: Sequence[Any], after: int, limit: int) -> Page[Any]:
    return Page(items=list(chosen[after : after + limit]), next=after + limit if after + limit < len(chosen) else None)


def _gap_view(each: Verdict, responsible: Mapping[str, str]) -> GapView:
    assert each.gap is not None
    return GapView(
        site=each.site, point=each.point, measure=each.measure, family=each.family, duty=each.duty, gap=each.gap,
        device=each.device, because=each.because, via=each.via,
        gap_since=None if each.since is None else moment_of(each.since), responsible=responsible.get(each.site, ""),
    )  # fmt: skip


def _deficiency_view(each: Ticket, now: datetime) -> DeficiencyView:
    return DeficiencyView(
        id=each.id, site=each.site, gap=each.gap, state=each.standing(now), because=each.because, risk=each.risk,
        responsible=each.responsible, points=list(each.points), opened=each.opened, due=each.due,
        is_overdue=each.is_overdue(now), times=each.times, closed=each.closed,
        told=[ToldView(at=t.at, whom=t.whom, by=t.by) for t in each.told],
        rectified=each.rectified, rectified_by=each.rectified_by,
    )  # fmt: skip


def _changed_view(fact: Fact) -> ChangedView:
    return ChangedView(
        seq=fact.id, sort=fact.sort, about=list(fact.subject), value=None if fact.value is None else dict(fact.value),
        valid_from=fact.valid_from, valid_to=fact.valid_to, recorded_at=fact.recorded_at,
    )  # fmt: skip
