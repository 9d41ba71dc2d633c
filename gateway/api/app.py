"""The routes. Each reads one part and shows the caller what is theirs; what it needs stands beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from itertools import islice
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.accounts import Accounts
from gateway.api.access_routes import access_routes
from gateway.api.commands import Commander, command_routes
from gateway.api.commissioning import claim_routes, walk_routes
from gateway.api.coverage import Assured, coverage_routes
from gateway.api.coverage import Ledger as CountedLedger
from gateway.api.deficiencies import deficiency_routes
from gateway.api.guard import Guard
from gateway.api.inventory import inventory_routes, must_be_within
from gateway.api.listings import listing_routes
from gateway.api.permits import BOX, OPEN, Caller, Callers, check_permit, declared_router, needs
from gateway.api.problems import RESPONSES, Problem, install, problem
from gateway.api.recordings import Lines, recording_routes
from gateway.api.stream import CLIENTS_MAX, EventStream, Listeners, Pages
from gateway.api.vehicles import Fleet, vehicle_routes
from gateway.api.views import (
    YEARS,
    DeliveryView,
    DestinationView,
    EventView,
    Page,
    RejectedView,
    ReloadView,
    Requeue,
    Resend,
    Wish,
    delivery_view,
    destination_view,
    event_view,
    problem_view,
    rejected_view,
    reload_view,
)
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.commissioning import Commissioning
from gateway.difference import Reload
from gateway.health import DeviceHealth
from gateway.kinds import Kind, Lane
from gateway.login import LogIn
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import DeliveryState, Device, Point, Site
from gateway.plan import Plan
from gateway.reports.words import vocabulary
from gateway.store import EventFilter, Store

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
SERIES_AT_ONCE = 1000
"""A few milliseconds of work."""


class Ledger(Fleet, CountedLedger, Protocol):
    """What is shown of the registry."""

    def devices(self) -> Collection[Device]: ...
    def site(self, site_id: str) -> Site | None: ...
    def sites(self) -> Collection[Site]: ...
    def points(self) -> Collection[Point]: ...


class Lives(Protocol):
    """What is shown of health."""

    def states(self) -> Iterable[DeviceHealth]: ...
    def last_connection(self, device: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Looks:
    """The parts that the API looks at."""

    store: Store
    registry: Ledger
    health: Lives
    commands: Commander
    coverage: Assured
    commissioning: Commissioning
    metrics: Metrics
    lines: Lines
    clock: Clock
    plan: Callable[[], Plan]
    """The configuration in force."""
    accounts: Accounts
    log_in: LogIn
    audit: Audit
    reload: Callable[[Actor, str], Awaitable[Reload]]
    """Take the site file as it stands now, in the name of somebody. Raises Busy."""
    version: str
    checks: Callable[[], Mapping[str, str | None]]
    """What must hold for readiness: name -> complaint, None when it holds."""


Limit = Annotated[int, Query(ge=1, le=1000, description="items on a page")]
After = Annotated[int, Query(ge=0, le=2**62, description="cursor: `next` of the page before; 0 from the start")]


def create_app(looks: Looks) -> FastAPI:
    """The whole HTTP side of one gateway."""
    app = FastAPI(
        title="Fangkong", version=looks.version, openapi_url=None, docs_url=None, redoc_url=None, responses=RESPONSES,
        dependencies=[Depends(check_permit)],
    )  # fmt: skip
    callers = Callers(looks.accounts, lambda: looks.plan().token)
    app.add_middleware(Guard, callers=callers, is_open=lambda method, path: _is_open(looks.plan(), method, path))
    install(app)
    app.include_router(_open_routes(looks))
    app.include_router(_page_routes(looks))
    for routes in (
        _routes(looks), _delivery_routes(looks), _configuration_routes(looks), access_routes(looks),
        vehicle_routes(looks.registry, looks.audit), command_routes(looks.commands, looks.store, looks.registry),
        walk_routes(looks.commissioning, looks.registry), claim_routes(looks.commissioning, looks.clock),
        coverage_routes(looks.coverage, looks.registry, looks.clock),
        inventory_routes(looks.coverage, looks.registry, looks.health),
        listing_routes(looks.coverage, looks.registry, lambda: looks.plan().site, looks.clock),
        deficiency_routes(looks.coverage, looks.registry, looks.audit, looks.clock),
        recording_routes(looks.lines, looks.health, looks.registry, looks.audit, looks.clock),
    ):  # fmt: skip
        app.include_router(routes, prefix="/api/v1", dependencies=[Depends(_only_known)])
    describe = app.openapi

    def described() -> dict[str, Any]:
        """The schema, with the shape of every error in it; built when it is first asked for."""
        schema = describe()
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _is_open(plan: Plan, method: str, path: str) -> bool:
    """What answers a stranger: deny by default, so a route that is not named here is closed."""
    return (method, path) in OPEN or (path == "/metrics" and plan.site.api.metrics_without_token)


async def _only_known(request: Request) -> None:
    """A misspelt filter would show everything: names that the route does not know are refused."""
    known = _query_names(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, f"query.{name[:40]}: expected one of {', '.join(sorted(known)) or 'no query'}")


def _query_names(dependant: Dependant) -> set[str]:
    return {field.alias for field in dependant.query_params}.union(*map(_query_names, dependant.dependencies))


def _open_routes(looks: Looks) -> APIRouter:
    router = declared_router()

    @router.get("/healthz", response_class=PlainTextResponse)
    @needs(None)
    async def healthz() -> str:
        """The process is alive. Asks nobody else."""
        return "ok\n"

    @router.get("/readyz", responses={503: {"description": "not ready, with the failing checks by name"}})
    @needs(None)
    async def readyz() -> Response:
        """Store open, ledger read, broker up, listeners bound."""
        failing = {name: complaint for name, complaint in looks.checks().items() if complaint}
        return JSONResponse({"ready": not failing, "failing": failing}, 503 if failing else 200)

    @router.get("/metrics")
    @needs(Permission.MEASURE, whole_box=True)
    async def metrics() -> Response:
        """Prometheus, aggregated."""
        return Response(looks.metrics.text(), media_type=PROMETHEUS)

    @router.get("/metrics/devices")
    @needs(Permission.MEASURE, whole_box=True)
    async def metrics_devices() -> Response:
        """Prometheus, one series per enrolled device: as many as the ledger has. Ids may be phone numbers: not for strangers."""
        return StreamingResponse(_device_series(looks), media_type=PROMETHEUS)

    @router.get("/openapi.json", include_in_schema=False)
    @needs(Permission.WATCH)
    async def openapi(request: Request) -> JSONResponse:
        """What can be asked for, for machines."""
        return JSONResponse(request.app.openapi())

    return router


async def _device_series(looks: Looks) -> AsyncIterator[str]:
    """Written by hand and in pieces: prometheus_client needs 14 to 29 us a series, and the loop must serve others between."""
    yield "# HELP fangkong_device_up 1 while the device is heard in time.\n# TYPE fangkong_device_up gauge\n"
    lives = iter(looks.health.states())
    while piece := list(islice(lives, SERIES_AT_ONCE)):
        lines = [
            f'fangkong_device_up{{site="{_label(device.site)}",device="{_label(device.id)}"}} {int(life.state == "heard")}\n'
            for life in piece
            if (device := looks.registry.device(life.device))
        ]
        yield "".join(lines)
        await looks.clock.sleep(0)  # sending alone gives nobody else a turn


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _page_routes(looks: Looks) -> APIRouter:
    router = declared_router(include_in_schema=False)
    folder = files("gateway.api") / "page"

    def serve_page(path: str, name: str, media_type: str) -> None:
        content = (folder / name).read_bytes()

        @router.get(path)
        @needs(None)
        async def page() -> Response:
            return Response(content, media_type=media_type)

    serve_page("/", "index.html", "text/html; charset=utf-8")
    for script in ("page.js", "common.js", "coverage.js"):
        serve_page(f"/{script}", script, "text/javascript; charset=utf-8")
    serve_page("/page.css", "page.css", "text/css; charset=utf-8")

    @router.get("/language")
    @needs(None)
    async def language() -> PlainTextResponse:
        return PlainTextResponse(looks.plan().site.gateway.language)

    @router.get("/words.json")
    @needs(None)
    async def words() -> Mapping[str, Mapping[str, str]]:
        return vocabulary(looks.plan().site.gateway.language)

    return router


Text = Annotated[str, Query(min_length=1, max_length=128)]


async def _wanted(
    caller: Caller,
    *,
    device: Text | None = None,
    site: Text | None = None,
    kind: Kind | None = None,
    lane: Annotated[str | None, Query(pattern="^(life|alarm|fault|status|bulk)$")] = None,
    claimed: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> EventFilter:
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and (moment.tzinfo is None or moment.year not in YEARS):
            raise HTTPException(422, f"query.{name}: a time with its offset is expected, like 2026-03-01T00:00:00Z")
    must_be_within(caller, site)
    sites = None if caller.sites is None else tuple(sorted(caller.sites))
    return EventFilter(device, site, kind, Lane[lane.upper()] if lane else None, claimed, since, until, sites)


FIXES_AFTER_ALARM = timedelta(hours=1)
"""For so long after its last alarm a vehicle's fixes are shown: what a pursuit takes. Nobody is followed otherwise."""

Wanted = Annotated[EventFilter, Depends(_wanted)]


async def _may_locate(caller: Actor, device: str | None, looks: Looks) -> bool:
    """Whether this caller sees where this vehicle is: one vehicle, asked for by its id, that has just raised an alarm."""
    if device is None or not caller.may(Permission.LOCATE):
        return False
    since = looks.clock.now() - FIXES_AFTER_ALARM
    for lane in (Lane.LIFE, Lane.ALARM):
        if await looks.store.events(EventFilter(device, lane=lane, since=since), limit=1, newest_first=True):
            return True
    return False


async def _must_be_known(looks: Looks, destination: str) -> None:
    """Of the site file, or removed from it while events waited."""
    names = [section.name for section in looks.plan().site.destination]
    if destination not in names and destination not in await looks.store.destinations():
        raise HTTPException(404, f"no such destination; expected one of: {', '.join(names) or 'none is configured'}")


def _routes(looks: Looks) -> APIRouter:  # a list of routes, not a decision
    router = declared_router(tags=["api"])
    store = looks.store
    listeners, pages = Listeners(looks.metrics), Pages(looks.store)

    @router.get("/events")
    @needs(Permission.WATCH)
    async def events(
        caller: Caller, wanted: Wanted, after: After = 0, limit: Limit = 100, *, newest_first: bool = False
    ) -> Page[EventView]:
        """Stored events, oldest first, or newest first."""
        found = await store.events(wanted, after_seq=after, limit=limit, newest_first=newest_first)
        following = found[-1].seq if len(found) == limit else None
        with_fix = await _may_locate(caller, wanted.device, looks)
        return Page(items=[event_view(event, with_fix=with_fix) for event in found], next=following)

    @router.get("/events/{event_id}")
    @needs(Permission.WATCH)
    async def event(event_id: str, caller: Caller) -> EventView:
        """One event."""
        found = await store.event(event_id)
        if found is None or not caller.sees(found.place.site if found.place else None):
            raise HTTPException(404, f"there is no event {event_id}")
        return event_view(found, with_fix=await _may_locate(caller, found.device, looks))

    @router.get("/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    @needs(Permission.WATCH)
    async def stream(
        request: Request,
        wanted: Wanted,
        after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventStream:
        """Events as they are stored (SSE). Resumes behind `Last-Event-ID` or `after`; else begins now."""
        if listeners.count >= CLIENTS_MAX:
            raise HTTPException(503, f"{CLIENTS_MAX} listeners are connected already")
        if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 19:  # 64 bits
            after = int(last_event_id)
        if after is None:
            newest = await store.events(EventFilter(), limit=1, newest_first=True)
            after = newest[0].seq if newest else 0
        return EventStream(pages, looks.clock, listeners, wanted, after, may_listen=request.state.is_still)

    @router.get("/destinations")
    @needs(Permission.DELIVERIES, whole_box=True)
    async def destinations() -> Page[DestinationView]:
        """Each destination, whether it answers, and its backlog by lane."""
        gauges = looks.metrics.destination_up.collect()
        up = {sample.labels["destination"]: sample.value == 1 for metric in gauges for sample in metric.samples}
        forwarders = {section.name: section.forwarder for section in looks.plan().site.destination}
        removed = [name for name in sorted(await store.destinations()) if name not in forwarders]
        return Page(
            items=[
                destination_view(name, forwarders.get(name), await store.backlog(name), up=up.get(name, False))
                for name in (*forwarders, *removed)
            ]
        )

    @router.get("/rejected")
    @needs(Permission.DELIVERIES, whole_box=True)
    async def rejected(limit: Limit = 100) -> Page[RejectedView]:
        """The newest refused frames, with the reason and the bytes as they came."""
        return Page(items=[rejected_view(row) for row in await store.rejected(limit=limit)])

    return router


def _configuration_routes(looks: Looks) -> APIRouter:
    router = declared_router(tags=["api"])

    @router.post("/config/reload", response_model=ReloadView)
    @needs(Permission.CONFIGURE, whole_box=True)
    async def reload(request: Request, caller: Caller, wish: Wish) -> ReloadView | JSONResponse:
        """Take the site file as it stands now: all of it, or nothing."""
        # The command line comes with the box's token and says which person it works for; others are who they are.
        done = await looks.reload(caller, wish.who if caller == BOX else caller.name)
        if done.outcome == "refused":
            detail = "the configuration stays as it was"
            return problem(request.url.path, 409, detail, [problem_view(each) for each in done.problems])
        return reload_view(done)

    return router


def _delivery_routes(looks: Looks) -> APIRouter:
    router = declared_router(tags=["api"])
    store = looks.store

    @router.get("/deliveries")
    @needs(Permission.DELIVERIES, whole_box=True)
    async def deliveries(
        destination: Text, state: DeliveryState | None = None, after: After = 0, limit: Limit = 100
    ) -> Page[DeliveryView]:
        """What goes to one destination, and how far it is. The cursor is an event, which may go to several destinations."""
        await _must_be_known(looks, destination)
        found = await store.deliveries(destination=destination, state=state, after_seq=after, limit=limit)
        following = found[-1].event.seq if len(found) == limit else None
        return Page(items=[delivery_view(delivery) for delivery in found], next=following)

    @router.post("/deliveries/requeue", status_code=202)
    @needs(Permission.SEND_AGAIN, whole_box=True)
    async def requeue(caller: Caller, what: Requeue) -> dict[str, int]:
        """Send dead rows again, under their old numbers."""
        await _must_be_known(looks, what.destination)
        await looks.audit.record(caller, Deed.DELIVERIES, what.destination, {"requeued": len(what.seqs)})
        await store.requeue(what.destination, what.seqs)
        return {"asked": len(what.seqs)}

    @router.post("/deliveries/resend", status_code=202)
    @needs(Permission.SEND_AGAIN, whole_box=True)
    async def resend(caller: Caller, what: Resend) -> dict[str, int]:
        """Send what was accepted once more, under the old numbers, by time of arrival: for a receiver that lost its data."""
        await _must_be_known(looks, what.destination)
        span = {"since": what.since.isoformat(), "until": what.until.isoformat()}
        await looks.audit.record(caller, Deed.DELIVERIES, what.destination, span)
        resent = await store.resend(what.destination, what.since, what.until)
        looks.metrics.asked_again.labels(what.destination).inc(resent.queued)
        logger().warning("accepted events are sent once more", **what.model_dump(mode="json"), **asdict(resent))
        return asdict(resent)

    return router
