"""Vehicles over HTTP: what stands in the ledger, and the switch of their duty. Where they are stands in their events."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.permits import Caller, declared_router, needs
from gateway.api.views import Page
from gateway.audit import Audit, Deed
from gateway.model import Device, FenceRule, Geofence, Vehicle, VehicleKind
from gateway.registry import Thing, Written

Limit = Annotated[int, Query(ge=1, le=1000, description="items on a page")]
After = Annotated[int, Query(ge=0, le=2**31, description="cursor: `next` of the page before; 0 from the start")]


class Fleet(Protocol):
    """What is shown and changed of the registry."""

    def device(self, device_id: str) -> Device | None: ...
    def vehicle(self, device_id: str) -> Vehicle | None: ...
    def vehicles(self) -> Collection[Vehicle]: ...
    def geofences(self) -> Collection[Geofence]: ...
    async def update(self, *things: Thing) -> Written: ...


class VehicleView(BaseModel):
    id: str
    name: str
    """Its fleet number."""
    site: str | None
    kind: VehicleKind
    on_duty: bool
    limit_kmh: float | None
    geofences: list[str]


class GeofenceView(BaseModel):
    id: str
    number: int
    name: str
    rule: FenceRule
    corners: list[tuple[float, float]]
    radius_m: float | None


class Duty(BaseModel):
    """Whether it is watched, and its positions are kept."""

    model_config = ConfigDict(extra="forbid")

    on_duty: bool


def vehicle_routes(fleet: Fleet, audit: Audit) -> APIRouter:
    """The routes below /vehicles, and /geofences."""
    router = declared_router(tags=["vehicles"])

    def may_see(caller: Actor, vehicle: Vehicle) -> bool:
        device = fleet.device(vehicle.id)
        return caller.sees(device.site if device else None)

    @router.get("/vehicles")
    @needs(Permission.WATCH)
    async def vehicles(
        caller: Caller, *, on_duty: bool | None = None, after: After = 0, limit: Limit = 100
    ) -> Page[VehicleView]:
        """Vehicles of the ledger, by id."""
        wanted = (v for v in fleet.vehicles() if on_duty in (None, v.on_duty) and may_see(caller, v))
        chosen = sorted(wanted, key=lambda v: v.id)
        items = [_vehicle_view(fleet, vehicle) for vehicle in chosen[after : after + limit]]
        return Page(items=items, next=after + limit if after + limit < len(chosen) else None)

    @router.post("/vehicles/{vehicle_id}/duty")
    @needs(Permission.OPERATE)
    async def duty(caller: Caller, vehicle_id: str, wish: Duty) -> VehicleView:
        """Put a vehicle on or off duty: for the company's own system, which knows its timetable."""
        known = fleet.vehicle(vehicle_id)
        if known is None or not may_see(caller, known):
            raise HTTPException(404, f"there is no vehicle {vehicle_id}; fangkong vehicle enrol takes one in")
        changed = replace(known, on_duty=wish.on_duty)
        await audit.record(caller, Deed.REGISTRY, f"vehicle {vehicle_id}", wish.model_dump())
        await fleet.update(changed)
        return _vehicle_view(fleet, changed)

    @router.get("/geofences")
    @needs(Permission.WATCH, whole_box=True)
    async def geofences(after: After = 0, limit: Limit = 100) -> Page[GeofenceView]:
        """Areas to stay in or to keep out of, by number."""
        chosen = sorted(fleet.geofences(), key=lambda fence: fence.number)
        items = [_geofence_view(fence) for fence in chosen[after : after + limit]]
        return Page(items=items, next=after + limit if after + limit < len(chosen) else None)

    return router


def _vehicle_view(fleet: Fleet, vehicle: Vehicle) -> VehicleView:
    device = fleet.device(vehicle.id)
    return VehicleView(
        id=vehicle.id, name=device.name if device else "", site=device.site if device else None, kind=vehicle.kind,
        on_duty=vehicle.on_duty, limit_kmh=vehicle.limit_kmh, geofences=list(vehicle.geofences),
    )  # fmt: skip


def _geofence_view(fence: Geofence) -> GeofenceView:
    return GeofenceView(
        id=fence.id, number=fence.number, name=fence.name, rule=fence.rule, corners=list(fence.corners),
        radius_m=fence.radius_m,
    )  # fmt: skip
