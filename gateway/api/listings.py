"""The lists of the command line over HTTP: the same rows and columns, as CSV, XLSX, JSON or a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.access import Permission
from gateway.api.coverage import Assured, Ledger, Node, Text
from gateway.api.permits import Caller, declared_router, needs
from gateway.api.views import Moment
from gateway.clock import Clock
from gateway.config import CoverageSection
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact
from gateway.reports.formats import written
from gateway.reports.listing import Name, Wanted, report
from gateway.reports.scope import NoSuchNode

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
Form = Literal["csv", "json", "html", "xlsx"]
FILTERS = ("site_kind", "point_kind", "kind", "measure", "gap", "risk", "duty", "stage", "state", "device", "site")
"""Columns that a row can be chosen by, by their keys in JSON; a list without the column has no such row."""


def listing_routes(
    coverage: Assured, ledger: Ledger, section: Callable[[], CoverageSection], clock: Clock
) -> APIRouter:
    """The route /lists/{name}."""
    router = declared_router(tags=["coverage"])

    async def facts() -> list[Fact]:
        found: list[Fact] = []
        while page := await ledger.facts(after=found[-1].id if found else 0):
            found += page
        return found

    @router.get("/lists/{name}", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    @needs(Permission.WATCH)
    async def listed(  # noqa: PLR0917  # filters of a query
        caller: Caller,
        name: Name,
        format: Form = "csv",  # noqa: A002  # as the option of the command line
        lang: Literal["zh", "en"] = "zh",
        node: Node = "all",
        at: Moment | None = None,
        month: Annotated[str | None, Query(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", description="whose changes")] = None,
        site_kind: Text | None = None,
        point_kind: Text | None = None,
        kind: Text | None = None,
        measure: Text | None = None,
        gap: Text | None = None,
        risk: Text | None = None,
        duty: Text | None = None,
        stage: Text | None = None,
        state: Text | None = None,
        device: Text | None = None,
        site: Text | None = None,
    ) -> Response:
        """A list as `fangkong report` prints it, of the sites the caller sees; rows chosen by what stands in a column."""
        values = (site_kind, point_kind, kind, measure, gap, risk, duty, stage, state, device, site)
        cells = {key: value for key, value in zip(FILTERS, values, strict=True) if value is not None}
        moment = at or clock.now()
        wanted = Wanted(name, moment, Month.parse(month) if month else Month.of(moment), node, caller.sites, cells)
        known = await facts() if name in ("deficiencies", "ledger") else []
        try:
            made = await coverage.ask(lambda history, rules: report(history, known, rules, section(), wanted))
        except NoSuchNode:
            raise HTTPException(404, f"there is no {node}") from None
        content = await asyncio.to_thread(written, made, format, lang)
        headers = {"content-disposition": f'attachment; filename="{name}.{format}"'}
        return Response(content, media_type=TYPES[format], headers=headers)

    return router
