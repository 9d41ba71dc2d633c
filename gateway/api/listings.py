"""The lists of the command line over HTTP: the same rows and columns, as CSV, XLSX, JSON or a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.access import Permission
from gateway.api.coverage import Assured, Ledger, Node, Text
from gateway.api.permits import Caller, declared_router, needs
from gateway.api.views import Moment
from gateway.clock import Clock
from gateway.config import SiteFile
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules
from gateway.reports.alarms import Alarms
from gateway.reports.figures import Known
from gateway.reports.formats import written
from gateway.reports.office import Asked, report
from gateway.reports.scope import NoSuchNode
from gateway.reports.tables import Report, Table

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
Name = Literal["coverage", "gaps", "deficiencies", "zones", "ledger", "schedule"]
Form = Literal["csv", "json", "html", "xlsx"]
FILTERS = ("site_kind", "point_kind", "kind", "measure", "gap", "risk", "duty", "stage", "state", "device", "site")
"""Columns that a row can be chosen by, by their keys in JSON; a list without the column has no such row."""


def listing_routes(coverage: Assured, ledger: Ledger, site_file: Callable[[], SiteFile], clock: Clock) -> APIRouter:
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
        moment, known, settings = at or clock.now(), await facts(), site_file()
        told = Month.parse(month) if month else Month.of(moment)

        def make(history: History, rules: Rules) -> Report:
            about = Known(history, known, Alarms(), rules, settings.coverage, settings.reports)
            asked = Asked(about, moment, node, since=told.start, until=told.end, visible=caller.sites)
            return report(name, asked)

        try:
            made = await coverage.ask(make)
        except NoSuchNode:
            raise HTTPException(404, f"there is no {node}") from None
        made = replace(made, tables=[_chosen(table, cells) for table in made.tables])
        content = await asyncio.to_thread(written, made, format, lang)
        headers = {"content-disposition": f'attachment; filename="{name}.{format}"'}
        return Response(content, media_type=TYPES[format], headers=headers)

    return router


def _chosen(table: Table, cells: Mapping[str, str]) -> Table:
    return replace(table, rows=[row for row in table.rows if all(row.get(key) == cell for key, cell in cells.items())])
