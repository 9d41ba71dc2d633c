"""The ledger over HTTP: sites, points and devices, each with how it stands in the coverage."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.coverage import After, Asked, Assured, Limit, Text, Where
from gateway.api.permits import declared_router, needs
from gateway.api.views import Page, page_of
from gateway.assurance import AREAS_DEEP, Figures
from gateway.coverage.counts import Counts
from gateway.coverage.requirements import Duty
from gateway.coverage.sums import ALL
from gateway.coverage.verdict import Gap, Verdict
from gateway.health import DeviceHealth, State
from gateway.model import Device, Point, Site
from gateway.registry.snapshot import Snapshot

Felt = Annotated[
    str | None, Query(pattern="^(working|degraded|fault|silent|unreachable|bypassed)$", description="as it feels")
]


class Standing(StrEnum):
    """How far what is mandatory at a point is met."""

    NOT_REQUIRED = "not_required"
    WAIVED = "waived"
    NOT_INSTALLED = "not_installed"
    NOT_WORKING = "not_working"
    NOT_NETWORKED = "not_networked"
    COVERED = "covered"


class SiteView(BaseModel):
    id: str
    name: str
    kind: str
    account: str
    address: str
    latitude: float | None
    longitude: float | None
    contact: str
    area: str | None
    is_key_unit: bool
    responsible: str
    counts: dict[str, int]
    gaps: dict[Gap, int]


class PointView(BaseModel):
    id: str
    site: str
    number: int
    name: str
    kind: str
    device: str | None
    zone: int | None
    coverage: Standing
    gaps: list[Gap]


class DeviceView(BaseModel):
    id: str
    name: str
    site: str | None
    kind: str
    state: State
    last_heard: datetime | None
    deadline: datetime | None
    coverage: str | None
    """As it feels: working, degraded, fault, silent, unreachable, bypassed; None: it is not in the ledger."""
    stage: str | None
    gaps: list[Gap]
    """Of the points that are not protected because of it."""


class Lives(Protocol):
    """What is asked of health."""

    def states(self) -> Iterable[DeviceHealth]: ...


class Ledger(Protocol):
    """What is asked of the registry."""

    @property
    def snapshot(self) -> Snapshot: ...
    def sites(self) -> Collection[Site]: ...
    def points(self) -> Collection[Point]: ...


def inventory_routes(coverage: Assured, ledger: Ledger, health: Lives) -> APIRouter:
    """The routes /sites, /points and /devices."""
    router = declared_router(tags=["ledger"])

    @router.get("/sites")
    @needs(Permission.WATCH)
    async def sites(where: Asked, gap: Gap | None = None, after: After = 0, limit: Limit = 100) -> Page[SiteView]:
        """The sites of the ledger, with their figures."""
        found, gaps = coverage.figures, _gaps_by(coverage.figures, "site")
        chosen = [
            site for site in ledger.sites() if _is_wanted(where, site, ledger) and (gap is None or gap in gaps[site.id])
        ]
        return page_of(chosen, after, limit, lambda site: _site_view(site, found, gaps[site.id]))

    @router.get("/points")
    @needs(Permission.WATCH)
    async def points(  # noqa: PLR0917  # filters of a query
        where: Asked,
        site: Text | None = None,
        point_kind: Text | None = None,
        gap: Gap | None = None,
        coverage_state: Annotated[Standing | None, Query(alias="coverage")] = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> Page[PointView]:
        """Protection points, with how far what is asked of them is met."""
        must_be_within(where.caller, site)
        verdicts, known = _by_point(coverage.figures), ledger.snapshot.sites
        views = (
            _point_view(point, verdicts.get(point.id, ()))
            for point in ledger.points()
            if point.site in known and _is_wanted(where, known[point.site], ledger) and site in (None, point.site)
        )
        chosen = [
            view
            for view in views
            if point_kind in (None, view.kind)
            and (gap is None or gap in view.gaps)
            and coverage_state in (None, view.coverage)
        ]
        return page_of(chosen, after, limit, lambda view: view)

    @router.get("/devices")
    @needs(Permission.WATCH)
    async def devices(  # noqa: PLR0917  # filters of a query
        where: Asked,
        state: State | None = None,
        site: Text | None = None,
        device_kind: Text | None = None,
        coverage_state: Annotated[Felt, Query(alias="coverage")] = None,
        gap: Gap | None = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> Page[DeviceView]:
        """Devices, claimed or not, with their proof of life and their place in the coverage, by id."""
        must_be_within(where.caller, site)
        found, known = coverage.figures, ledger.snapshot
        gaps = _gaps_by(found, "device")
        lives = sorted(health.states(), key=lambda life: life.device)
        views = (_device_view(life, known.devices.get(life.device), found, gaps[life.device]) for life in lives)
        chosen = [
            view
            for view in views
            if _is_there(where, view.site, ledger)
            and state in (None, view.state)
            and site in (None, view.site)
            and device_kind in (None, view.kind)
            and coverage_state in (None, view.coverage)
            and (gap is None or gap in view.gaps)
        ]
        return page_of(chosen, after, limit, lambda view: view)

    return router


def must_be_within(caller: Actor, site: str | None) -> None:
    """A filter on a site that is not theirs would look as if nothing happened there. Raises HTTPException."""
    if site is not None and not caller.sees(site):
        raise HTTPException(403, f"site {site} is not one of those you are limited to")


def _is_wanted(where: Where, site: Site, ledger: Ledger) -> bool:
    return where.caller.sees(site.id) and where.kind in (None, site.kind) and where.node in _nodes(site, ledger)


def _nodes(site: Site, ledger: Ledger) -> Iterable[str]:
    """All that a site lies in."""
    yield from (ALL, f"site:{site.id}")
    areas, area = ledger.snapshot.areas, site.area
    for _ in range(AREAS_DEEP):
        if area is None or area not in areas:
            return
        yield f"area:{area}"
        area = areas[area].parent


def _is_there(where: Where, site: str | None, ledger: Ledger) -> bool:
    """Of a device: nobody's is only among all of them."""
    known = None if site is None else ledger.snapshot.sites.get(site)
    return where.is_all and where.caller.sees(site) if known is None else _is_wanted(where, known, ledger)


def _gaps_by(found: Figures, of: Literal["site", "device"]) -> Mapping[str, Counter[Gap]]:
    gaps: defaultdict[str, Counter[Gap]] = defaultdict(Counter)
    for each in found.gaps:
        verdict = each.verdict
        if verdict.gap is not None and verdict.duty is Duty.MANDATORY:
            gaps[verdict.site if of == "site" else verdict.device][verdict.gap] += 1
    return gaps


def _by_point(found: Figures) -> Mapping[str, Sequence[Verdict]]:
    verdicts: defaultdict[str, list[Verdict]] = defaultdict(list)
    for each in found.verdicts:
        if each.duty is Duty.MANDATORY:
            verdicts[each.point].append(each)
    return verdicts


def _standing(verdicts: Sequence[Verdict]) -> Standing:
    required = [each for each in verdicts if each.required]
    if not required:
        return Standing.WAIVED if any(each.waived for each in verdicts) else Standing.NOT_REQUIRED
    for standing, is_met in (
        (Standing.NOT_INSTALLED, all(each.installed for each in required)),
        (Standing.NOT_WORKING, all(each.working for each in required)),
        (Standing.NOT_NETWORKED, all(each.networked or not each.must_network for each in required)),
    ):
        if not is_met:
            return standing
    return Standing.COVERED


def _site_view(site: Site, found: Figures, gaps: Counter[Gap]) -> SiteView:
    """A site; the call-back is a role of the site, never a resident."""
    return SiteView(
        id=site.id, name=site.name, kind=site.kind, account=site.account, address=site.address,
        latitude=site.latitude, longitude=site.longitude, contact=site.contact, area=site.area,
        is_key_unit=site.is_key_unit, responsible=site.responsible,
        counts=asdict(found.sites.get(site.id, Counts())), gaps=dict(gaps),
    )  # fmt: skip


def _point_view(point: Point, verdicts: Sequence[Verdict]) -> PointView:
    gaps = sorted({each.gap for each in verdicts if each.gap is not None})
    return PointView(
        id=point.id, site=point.site, number=point.number, name=point.name, kind=point.kind, device=point.device,
        zone=point.zone, coverage=_standing(verdicts), gaps=gaps,
    )  # fmt: skip


def _device_view(life: DeviceHealth, device: Device | None, found: Figures, gaps: Counter[Gap]) -> DeviceView:
    """A device, claimed or not, and its proof of life."""
    return DeviceView(
        id=life.device, name=device.name if device else "", site=device.site if device else None,
        kind=device.kind if device else "", state=life.state, last_heard=life.last_heard, deadline=life.deadline,
        coverage=found.states.get(life.device), stage=found.stages.get(life.device), gaps=sorted(gaps),
    )  # fmt: skip
