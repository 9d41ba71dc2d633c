"""The routes. Each reads one part and shows it; the token is asked for everywhere but at health, metrics and the page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Header, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from gateway.api.guard import Guard, bearer
from gateway.api.problems import RESPONSES, Problem, install
from gateway.api.stream import CLIENTS_MAX, EventStream, Listeners
from gateway.api.views import (
    DeliveryView,
    DestinationView,
    DeviceView,
    EventView,
    Page,
    PointView,
    RejectedView,
    Requeue,
    SiteView,
    delivery_view,
    destination_view,
    device_view,
    event_view,
    point_view,
    rejected_view,
    site_view,
)
from gateway.config import Secret, SiteFile
from gateway.health import DeviceHealth, State
from gateway.kinds import Kind, Lane
from gateway.metrics import Metrics
from gateway.model import DeliveryState, Device, Point, Site
from gateway.store import EventFilter, Store

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
REQUEUE_MAX = 1000
"""Rows in one request to send again."""


class Ledger(Protocol):
    """What is shown of the registry."""

    def device(self, device_id: str) -> Device | None: ...
    def devices(self) -> Collection[Device]: ...
    def sites(self) -> Collection[Site]: ...
    def points(self) -> Collection[Point]: ...


class Lives(Protocol):
    """What is shown of health."""

    def states(self) -> Iterable[DeviceHealth]: ...


@dataclass(frozen=True, slots=True)
class Looks:
    """The parts that the API looks at."""

    store: Store
    registry: Ledger
    health: Lives
    metrics: Metrics
    site: SiteFile
    token: Secret | None
    version: str
    checks: Callable[[], Mapping[str, str | None]]
    """What must hold for readiness: name -> complaint, None when it holds."""


Limit = Annotated[int, Query(ge=1, le=1000, description="items on a page")]
After = Annotated[int, Query(ge=0, le=2**62, description="cursor: `next` of the page before; 0 from the start")]


def create_app(looks: Looks) -> FastAPI:
    """The whole HTTP side of one gateway."""
    app = FastAPI(title="Fangkong", version=looks.version, docs_url=None, redoc_url=None, responses=RESPONSES)
    app.add_middleware(Guard)
    install(app)
    app.include_router(_open_routes(looks))
    app.include_router(_page_routes(looks.site.gateway.language))
    app.include_router(_routes(looks), prefix="/api/v1", dependencies=[Depends(bearer(looks.token))])
    describe = app.openapi

    def described() -> dict[str, Any]:
        """The schema, with the shape of every error in it; built when it is first asked for."""
        schema = describe()
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _open_routes(looks: Looks) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The process is alive. Asks nobody else."""
        return "ok\n"

    @router.get("/readyz", responses={503: {"description": "not ready, with the failing checks by name"}})
    async def readyz() -> Response:
        """Store open, ledger read, broker up, listeners bound."""
        failing = {name: complaint for name, complaint in looks.checks().items() if complaint}
        return JSONResponse({"ready": not failing, "failing": failing}, 503 if failing else 200)

    guarded = [] if looks.site.api.metrics_without_token else [Depends(bearer(looks.token))]

    @router.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        """Prometheus, aggregated."""
        return Response(looks.metrics.text(), media_type=PROMETHEUS)

    @router.get("/metrics/devices", dependencies=guarded)
    async def metrics_devices() -> Response:
        """Prometheus, one series per enrolled device: as many as the ledger has, scraped only where wanted."""
        lines = ["# HELP fangkong_device_up 1 while the device is heard in time.", "# TYPE fangkong_device_up gauge"]
        for life in looks.health.states():
            if device := looks.registry.device(life.device):
                up = int(life.state == "heard")
                lines.append(f'fangkong_device_up{{site="{device.site}",device="{_label(device.id)}"}} {up}')
        return Response("\n".join(lines) + "\n", media_type=PROMETHEUS)

    return router


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _page_routes(language: str) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    folder = files("gateway.api") / "page"

    def page(name: str, media_type: str) -> Callable[[], Response]:
        content = (folder / name).read_bytes()
        return lambda: Response(content, media_type=media_type)

    router.add_api_route("/", page("index.html", "text/html; charset=utf-8"))
    router.add_api_route("/page.js", page("page.js", "text/javascript; charset=utf-8"))
    router.add_api_route("/language", lambda: PlainTextResponse(language))
    router.add_api_route("/page.css", page("page.css", "text/css; charset=utf-8"))
    return router


def _wanted(
    *,
    device: str | None = None,
    site: str | None = None,
    kind: Kind | None = None,
    lane: Annotated[str | None, Query(pattern="^(life|alarm|fault|status|bulk)$")] = None,
    claimed: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> EventFilter:
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise HTTPException(422, f"{name}: a time with its offset is expected, for example 2026-03-01T00:00:00Z")
    return EventFilter(device, site, kind, Lane[lane.upper()] if lane else None, claimed, since, until)


Wanted = Annotated[EventFilter, Depends(_wanted)]


def _routes(looks: Looks) -> APIRouter:  # noqa: C901  # a list of routes, not a decision
    router = APIRouter(tags=["api"])
    store, registry = looks.store, looks.registry
    listeners = Listeners(looks.metrics)

    @router.get("/events")
    async def events(
        wanted: Wanted, after: After = 0, limit: Limit = 100, *, newest_first: bool = False
    ) -> Page[EventView]:
        """Stored events, oldest first, or newest first."""
        found = await store.events(wanted, after_seq=after, limit=limit, newest_first=newest_first)
        following = found[-1].seq if len(found) == limit else None
        return Page(items=[event_view(event) for event in found], next=following)

    @router.get("/events/{event_id}")
    async def event(event_id: str) -> EventView:
        """One event."""
        found = await store.event(event_id)
        if found is None:
            raise HTTPException(404, f"there is no event {event_id}")
        return event_view(found)

    @router.get("/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def stream(
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
        return EventStream(store, listeners, wanted, after)

    @router.get("/devices")
    async def devices(state: State | None = None, after: After = 0, limit: Limit = 100) -> Page[DeviceView]:
        """Devices, claimed or not, with their proof of life, by id."""
        lives = sorted(looks.health.states(), key=lambda life: life.device)
        chosen = [life for life in lives if state is None or life.state == state]
        items = [
            device_view(life.device, registry.device(life.device), life.state, life.last_heard, life.deadline)
            for life in chosen[after : after + limit]
        ]
        return Page(items=items, next=after + limit if after + limit < len(chosen) else None)

    @router.get("/sites")
    async def sites() -> Page[SiteView]:
        """The sites of the ledger."""
        return Page(items=[site_view(site) for site in registry.sites()])

    @router.get("/points")
    async def points(site: str | None = None, after: After = 0, limit: Limit = 100) -> Page[PointView]:
        """Protection points."""
        chosen = [point for point in registry.points() if site is None or point.site == site]
        page = [point_view(point) for point in chosen[after : after + limit]]
        return Page(items=page, next=after + limit if after + limit < len(chosen) else None)

    @router.get("/deliveries")
    async def deliveries(
        destination: str | None = None, state: DeliveryState | None = None, after: After = 0, limit: Limit = 100
    ) -> Page[DeliveryView]:
        """What goes where, and how far it is."""
        found = await store.deliveries(destination=destination, state=state, after_seq=after, limit=limit)
        following = found[-1].event.seq if len(found) == limit else None
        return Page(items=[delivery_view(delivery) for delivery in found], next=following)

    @router.post("/deliveries/requeue", status_code=202)
    async def requeue(what: Requeue) -> dict[str, int]:
        """Send dead rows again, under their old numbers."""
        if what.destination not in {section.name for section in looks.site.destination}:
            raise HTTPException(404, f"there is no destination {what.destination}")
        if len(what.seqs) > REQUEUE_MAX:
            raise HTTPException(422, f"{REQUEUE_MAX} rows at once, not {len(what.seqs)}")
        await store.requeue(what.destination, what.seqs)
        return {"asked": len(what.seqs)}

    @router.get("/destinations")
    async def destinations() -> Page[DestinationView]:
        """Each destination, whether it answers, and its backlog by lane."""
        gauges = looks.metrics.destination_up.collect()
        up = {sample.labels["destination"]: sample.value == 1 for metric in gauges for sample in metric.samples}
        return Page(
            items=[
                destination_view(
                    section.name, section.forwarder, await store.backlog(section.name), up=up.get(section.name, False)
                )
                for section in looks.site.destination
            ]
        )

    @router.get("/rejected")
    async def rejected(limit: Limit = 100) -> Page[RejectedView]:
        """The newest refused frames, with the reason and the bytes as they came."""
        return Page(items=[rejected_view(row) for row in await store.rejected(limit=limit)])

    return router
