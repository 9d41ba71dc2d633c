"""Deficiencies over HTTP: what is to be put right, who was told, what is said to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.coverage import After, Asked, Assured, Ledger, Limit, Text
from gateway.api.coverage_views import DeficiencyView, deficiency_view
from gateway.api.permits import Caller, declared_router, needs, person
from gateway.api.views import Page, page_of
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.coverage.facts import Fact
from gateway.coverage.ranking import ticket_order
from gateway.coverage.tickets import Standing, Ticket, rectified, told
from gateway.history import WHO


class Say(BaseModel):
    """What a person says of a deficiency."""

    model_config = ConfigDict(extra="forbid")

    whom: Annotated[str, Field(max_length=100)] = ""
    """A role or an office, never a name."""
    remark: Annotated[str, Field(max_length=200)] = ""
    who: Annotated[str, Field(pattern=f"^{WHO.pattern}$")] | None = None
    """The person at the command line of this box, who comes with the box's token."""


def deficiency_routes(coverage: Assured, ledger: Ledger, audit: Audit, clock: Clock) -> APIRouter:
    """The routes under /deficiencies."""
    router = declared_router(tags=["coverage"])

    @router.get("/deficiencies")
    @needs(Permission.WATCH)
    async def deficiencies(
        where: Asked,
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
        places = {gap.verdict.site: gap.site for gap in coverage.figures.gaps}
        # Of a site that is no more counted, too, unless something narrower is asked for.
        sites = None if where.is_all else frozenset(where.sites(coverage.figures, ledger.snapshot))
        wanted = [
            each
            for each in sorted(coverage.tickets, key=lambda each: ticket_order(each, places.get(each.site, {})))
            if where.caller.sees(each.site)
            and (sites is None or each.site in sites)
            and site in (None, each.site)
            and (each.standing(now) == state if state else each.closed is None)
            and gap in (None, each.gap)
            and overdue in (None, each.is_overdue(now))
        ]
        return page_of(wanted, after, limit, lambda each: deficiency_view(each, now))

    def known(caller: Actor, ticket: str) -> Ticket:
        found = coverage.tickets.get(ticket)
        if found is None or not caller.sees(found.site):
            raise HTTPException(404, f"there is no deficiency {ticket[:120]}")
        return found

    @router.get("/deficiencies/{ticket:path}")
    @needs(Permission.WATCH)
    async def deficiency(caller: Caller, ticket: str) -> DeficiencyView:
        """One deficiency, and what became of it."""
        return deficiency_view(known(caller, ticket), clock.now())

    async def say(caller: Actor, ticket: str, wish: Say, fact: Callable[[str], Fact]) -> DeficiencyView:
        known(caller, ticket)
        actor = person(caller, wish.who)
        await audit.record(actor, Deed.REGISTRY, f"deficiency {ticket}", {"whom": wish.whom, "remark": wish.remark})
        await ledger.record([fact(actor.name)])
        await coverage.look()
        return deficiency_view(known(caller, ticket), clock.now())

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

    return router
