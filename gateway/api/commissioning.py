"""Commissioning over HTTP: claim a device by its trigger, walk a site through, accept what it has shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.permits import Caller, declared_router, needs, person
from gateway.api.views import Words
from gateway.clock import Clock
from gateway.commissioning import Commissioning
from gateway.commissioning.claiming import Candidate
from gateway.commissioning.walk import MINUTES, MINUTES_MAX
from gateway.errors import ConfigError, Refused
from gateway.history import WHO
from gateway.kinds import Kind
from gateway.model import Site

Id = Annotated[str, Field(min_length=1, max_length=128)]
Who = Annotated[str, Field(pattern=f"^{WHO.pattern}$")]
Said = Annotated[str, Field(max_length=128)]
"""What it may be, the ledger checks."""
POINTS_MAX = 1000
"""Of one site; a body holds no more."""


OF_DEVICE = ("name", "kind", "vendor", "model", "parent")


class Sites(Protocol):
    """What is asked of the registry."""

    def site(self, site_id: str) -> Site | None: ...


class Asked(BaseModel):
    """Who asks, where the command line asks for a person."""

    model_config = ConfigDict(extra="forbid")

    who: Who | None = None


class WalkWish(Asked):
    """What is to be in test."""

    points: Annotated[list[Id], Field(max_length=POINTS_MAX)] = []
    """None named: all points of the site."""
    minutes: Annotated[int, Field(ge=1, le=MINUTES_MAX)] = MINUTES
    reason: Words


class ClaimWish(Asked):
    """Which device is to watch a planned point."""

    since: AwareDatetime
    device: Id | None = None
    """Needed when several were triggered."""
    zone: int | None = None
    """Needed when several zones of one panel were triggered."""
    whole: bool = False
    """All of a new device watches the point, not the zone that spoke alone."""
    name: Said = ""
    kind: Said = ""
    vendor: Said = ""
    model: Said = ""
    parent: Said = ""
    """Of a new device; one that is in the ledger keeps its own."""
    point_kind: Said = ""
    """Of a point that was planned without."""


class CandidateView(BaseModel):
    """An unclaimed device, or an unbound zone of a known one, that was triggered."""

    device: str
    zone: int | None
    known: bool
    """The device is in the ledger: the zone alone is new."""
    kind: Kind
    at: datetime
    event: str
    driver: str


class Triggered(BaseModel):
    """Those since a moment, and the moment it is now."""

    now: datetime
    items: list[CandidateView]


class WalkView(BaseModel):
    """How far a walk test is."""

    running: bool
    ends: datetime
    """The moment it ends, or did."""
    sheet: dict[str, Any]
    """A draft without an end while it runs."""


class Recorded(BaseModel):
    """Whether a sheet with this hash was accepted here."""

    recorded: bool


@contextmanager
def _refusing(status: int) -> Iterator[None]:
    """A refusal is answered with this status; so is what the ledger does not take."""
    try:
        yield
    except Refused as error:
        raise HTTPException(status, str(error)) from error
    except ConfigError as error:
        if not error.problems:
            raise
        raise HTTPException(422, str(error)[:1000]) from error


def walk_routes(parts: Commissioning, ledger: Sites) -> APIRouter:
    """The routes of a site's walk test."""
    router = declared_router(tags=["commissioning"])

    def must_see(caller: Actor, site: str) -> None:
        if ledger.site(site) is None or not caller.sees(site):
            raise HTTPException(404, f"there is no site {site[:80]}")

    async def view(site: str) -> WalkView:
        progress = await parts.acceptance.progress(site)
        sheet = await parts.acceptance.sheet(site)
        return WalkView(running=progress.is_running, ends=progress.test.ends, sheet=sheet)

    @router.get("/sites/{site}/walk-test")
    @needs(Permission.WATCH)
    async def look(caller: Caller, site: str) -> WalkView:
        """The walk test that runs, or the newest: each point with what it has shown."""
        must_see(caller, site)
        with _refusing(404):
            return await view(site)

    @router.post("/sites/{site}/walk-test", status_code=201)
    @needs(Permission.SERVICE)
    async def start(caller: Caller, site: str, wish: WalkWish) -> WalkView:
        """From now on alarms of these points are tests, and go to nobody."""
        must_see(caller, site)
        actor = person(caller, wish.who)
        with _refusing(409):
            await parts.walks.start(actor, site, wish.points, minutes=wish.minutes, reason=wish.reason)
            return await view(site)

    @router.post("/sites/{site}/walk-test/end")
    @needs(Permission.SERVICE)
    async def end(caller: Caller, site: str, wish: Asked) -> WalkView:
        """From now on every alarm is real."""
        must_see(caller, site)
        with _refusing(409):
            await parts.walks.end(person(caller, wish.who), site)
            return await view(site)

    @router.post("/sites/{site}/walk-test/accept")
    @needs(Permission.SERVICE)
    async def accept(caller: Caller, site: str, wish: Asked) -> WalkView:
        """Accept every point of the newest test; refused, naming them, while any has not passed."""
        must_see(caller, site)
        with _refusing(409):
            await parts.acceptance.accept(person(caller, wish.who), site)
            return await view(site)

    @router.get("/sites/{site}/acceptances/{sha256}")
    @needs(Permission.WATCH)
    async def recorded(caller: Caller, site: str, sha256: str) -> Recorded:
        """Whether the sheet with this hash was accepted at this site."""
        must_see(caller, site)
        return Recorded(recorded=await parts.acceptance.is_recorded(site, sha256))

    return router


def claim_routes(parts: Commissioning, clock: Clock) -> APIRouter:
    """The routes by which a triggered device is claimed."""
    router = declared_router(tags=["commissioning"])

    @router.get("/triggered")
    @needs(Permission.SERVICE, whole_box=True)
    async def triggered(
        since: Annotated[AwareDatetime | None, Query()] = None, point: Annotated[Id | None, Query()] = None
    ) -> Triggered:
        """Unclaimed devices that were triggered since then, for a planned point also unbound zones of its site's devices;
        without a moment, only what time it is."""
        now = clock.now()
        with _refusing(422):
            found = await parts.claiming.candidates(since or now, point)
        return Triggered(now=now, items=[_candidate(one) for one in found])

    @router.post("/points/{point}/claim")
    @needs(Permission.SERVICE, whole_box=True)
    async def claim(caller: Caller, point: str, wish: ClaimWish) -> CandidateView:
        """Bind the one device that was triggered since then to a planned point. Several: refused, naming them."""
        actor = person(caller, wish.who)
        said = {name: text for name in OF_DEVICE if (text := getattr(wish, name))}
        with _refusing(409):
            found = await parts.claiming.claim(
                actor, point, wish.since, device=wish.device, zone=wish.zone, whole=wish.whole, said=said,
                point_kind=wish.point_kind,
            )  # fmt: skip
        return _candidate(found)

    return router


def _candidate(found: Candidate) -> CandidateView:
    return CandidateView(
        device=found.device,
        zone=found.zone,
        known=found.is_known,
        kind=found.kind,
        at=found.at,
        event=found.event,
        driver=found.driver,
    )
