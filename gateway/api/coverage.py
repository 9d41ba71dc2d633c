"""Coverage over HTTP: figures of a node, its gaps with their reasons, the ledger with its change feed.

Who is limited to sites sees those alone, and the figures of a node are counted over them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.coverage_views import (
    AreaView,
    ChangedView,
    CoverageView,
    GapView,
    RequirementView,
    changed_view,
    coverage_view,
    gap_view,
    requirement_view,
)
from gateway.api.permits import Caller, declared_router, needs
from gateway.api.views import Moment, Page, page_of
from gateway.assurance import Answer, Figures
from gateway.clock import Clock
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History, ms_of
from gateway.coverage.sums import ALL
from gateway.coverage.tickets import Risk, Tickets
from gateway.coverage.verdict import Gap, Rules
from gateway.model import Area
from gateway.registry.snapshot import Snapshot

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
    def ask(self, question: Callable[[History, Rules], Answer]) -> Awaitable[Answer]: ...
    async def look(self) -> None: ...


class Ledger(Protocol):
    """What is asked of the registry."""

    @property
    def snapshot(self) -> Snapshot: ...
    def areas(self) -> Iterable[Area]: ...
    async def facts(self, *, after: int = 0, limit: int = 1000) -> Sequence[Fact]: ...
    async def record(self, facts: Sequence[Fact]) -> None: ...


@dataclass(frozen=True, slots=True)
class Where:
    """What part of everything a caller asks for."""

    caller: Actor
    node: str
    kind: str | None

    @property
    def is_all(self) -> bool:
        return self.node == ALL and self.kind is None

    def sites(self, found: Figures, ledger: Snapshot) -> Sequence[str]:
        """The counted sites of it that the caller sees."""
        known = ledger.sites
        sites = found.within(self.node, self.caller.sites)
        return [site for site in sites if self.kind is None or (site in known and known[site].kind == self.kind)]


async def _where(
    caller: Caller, node: Node = ALL, kind: Annotated[Text | None, Query(description="kind of site")] = None
) -> Where:
    if node.startswith("site:") and not caller.sees(node.removeprefix("site:")):
        raise HTTPException(404, f"there is no {node}")
    return Where(caller, node, kind)


def _kind_of(device: str, ledger: Snapshot) -> str | None:
    found = ledger.devices.get(device)
    return found.kind if found else None


Asked = Annotated[Where, Depends(_where)]


def coverage_routes(coverage: Assured, ledger: Ledger, clock: Clock) -> APIRouter:
    """The routes under /coverage, /areas and /ledger."""
    router = declared_router(tags=["coverage"])

    @router.get("/coverage")
    @needs(Permission.WATCH)
    async def figures(where: Asked, at: Moment | None = None) -> CoverageView:
        """The counts of a node, now or at another moment, and what lies directly below it; of one kind of site alone."""
        found = coverage.figures if at is None else await coverage.at(at)
        return coverage_view(found, ledger.snapshot, where.node, where.sites(found, ledger.snapshot))

    @router.get("/coverage/points")
    @needs(Permission.WATCH)
    async def points(caller: Caller, site: Text, after: After = 0, limit: Limit = 100) -> Page[RequirementView]:
        """What is asked of the points of a site, and whether it is met."""
        found, known = coverage.figures, ledger.snapshot.points
        if not caller.sees(site):
            raise HTTPException(404, f"there is no site {site}")
        verdicts = [each for each in found.verdicts if each.site == site]
        verdicts.sort(key=lambda each: (known[each.point].number if each.point in known else -1, each.measure))
        return page_of(verdicts, after, limit, lambda each: requirement_view(each, ledger.snapshot))

    @router.get("/coverage/gaps")
    @needs(Permission.WATCH)
    async def gaps(  # noqa: PLR0917  # filters of a query
        where: Asked,
        gap: Gap | None = None,
        device: Text | None = None,
        device_kind: Text | None = None,
        point_kind: Text | None = None,
        measure: Text | None = None,
        risk: Risk | None = None,
        since_before: Moment | None = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> Page[GapView]:
        """What is missing and why, whoever has to close it; the greatest risk first."""
        found, now = coverage.figures, clock.now()
        sites = frozenset(where.sites(found, ledger.snapshot))
        before = None if since_before is None else ms_of(since_before)
        wanted = [
            each
            for each in found.gaps
            if each.verdict.site in sites
            and gap in (None, each.verdict.gap)
            and device in (None, each.verdict.device)
            and device_kind in (None, _kind_of(each.verdict.device, ledger.snapshot))
            and point_kind in (None, each.verdict.point_kind)
            and measure in (None, each.verdict.measure)
            and risk in (None, each.risk)
            and (before is None or each.verdict.since is None or each.verdict.since < before)
        ]
        return page_of(
            wanted, after, limit, lambda each: gap_view(each, ledger.snapshot, coverage.tickets.get(each.ticket), now)
        )

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
        views = [changed_view(fact) for fact in found if fact.sort in LEDGER]
        return Page(items=views, next=found[-1].id if found else None)

    return router
