"""`fangkong vehicle enrol|duty|list`, `fangkong vehicle geofence import|list`: vehicles in the ledger, and where they belong."""

from __future__ import annotations

import argparse
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import OK, add_common, open_registry, put, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.cli import Commands
    from gateway.model import Geofence, Vehicle
    from gateway.registry import Registry

KINDS = ("cash_transport", "taxi", "patrol_car")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("vehicle")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    enrol = verbs.add_parser("enrol", help="make a device a vehicle, or change what is known of it")
    enrol.add_argument("id", help="the id the device gives itself")
    enrol.add_argument("--kind", required=True, choices=KINDS)
    enrol.add_argument("--site", help="takes a device that is not there yet into the ledger, at this site")
    enrol.add_argument("--name", default="", help="its fleet number, with --site")
    enrol.add_argument("--limit-kmh", type=float, help="faster is overspeed; left out: what is usual for its kind")
    enrol.add_argument("--geofence", action="append", default=[], metavar="ID", help="may be given several times")
    add_common(enrol, _enrol)

    duty = verbs.add_parser("duty", help="on duty it is watched and its positions are kept; off duty they are not")
    duty.add_argument("id")
    duty.add_argument("state", choices=("on", "off"))
    add_common(duty, _duty)

    add_common(verbs.add_parser("list", help="list vehicles"), _list)

    fence = verbs.add_parser("geofence", help="areas to stay in or to keep out of")
    fence_verbs = fence.add_subparsers(required=True, metavar="COMMAND")
    load = fence_verbs.add_parser("import", help="add and update geofences from CSV or GeoJSON (docs/vehicles.md)")
    load.add_argument("file", type=Path)
    load.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    add_common(load, _import)
    add_common(fence_verbs.add_parser("list", help="list geofences"), _list_fences)


@asynccontextmanager
async def _ledger(args: argparse.Namespace) -> AsyncIterator[Registry]:
    registry = await open_registry(args)
    try:
        yield registry
    finally:
        await registry.close()


async def _enrol(args: argparse.Namespace) -> int:
    from gateway.model import Device, Vehicle, VehicleKind
    from gateway.registry import Thing

    async with _ledger(args) as registry:
        known = registry.vehicle(args.id)
        things: list[Thing] = []
        if args.site is not None and registry.device(args.id) is None:
            things.append(Device(args.id, args.site, args.name))
        on_duty = known is not None and known.on_duty
        vehicle = Vehicle(args.id, VehicleKind(args.kind), on_duty, args.limit_kmh, tuple(args.geofence))
        await put(args, registry, [*things, vehicle])
        show(args, [_row(vehicle, registry)], empty="")
    return OK


async def _duty(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from gateway.errors import ConfigError, Problem

    async with _ledger(args) as registry:
        known = registry.vehicle(args.id)
        if known is None:
            found, hint = f"{args.id!r} is no vehicle", "fangkong vehicle enrol 请先登记车辆"
            raise ConfigError([Problem("command line", None, "id", found, "a vehicle of the ledger", hint)])
        vehicle = replace(known, on_duty=args.state == "on")
        await put(args, registry, [vehicle], only="known")
        show(args, [_row(vehicle, registry)], empty="")
    return OK


async def _list(args: argparse.Namespace) -> int:
    async with _ledger(args) as registry:
        vehicles = sorted(registry.vehicles(), key=lambda vehicle: vehicle.id)
        show(args, [_row(vehicle, registry) for vehicle in vehicles], empty="no vehicles 没有车辆")
    return OK


def _row(vehicle: Vehicle, registry: Registry) -> dict[str, Any]:
    device = registry.device(vehicle.id)
    return {
        "id": vehicle.id,
        "site": device.site if device else None,
        "name": device.name if device else "",
        "kind": vehicle.kind.value,
        "duty": "on" if vehicle.on_duty else "off",
        "limit_kmh": vehicle.limit_kmh,
        "geofences": " ".join(vehicle.geofences),
    }


async def _import(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.cli._geofence_file import read_geofences

    wanted = read_geofences(args.file)
    async with _ledger(args) as registry:
        written = await put(args, registry, wanted.fences, dry_run=args.dry_run, report=wanted.report)
    if args.json:
        print(json.dumps({"ok": True, "dry_run": args.dry_run, **asdict(written)}))
    else:
        would = "would be " if args.dry_run else ""
        print(f"{written.added} {would}added, {written.updated} {would}updated, {written.unchanged} unchanged")
    return OK


async def _list_fences(args: argparse.Namespace) -> int:
    async with _ledger(args) as registry:
        fences = sorted(registry.geofences(), key=lambda fence: fence.number)
        show(args, [_fence_row(fence) for fence in fences], empty="no geofences 没有电子围栏")
    return OK


def _fence_row(fence: Geofence) -> dict[str, Any]:
    shape = f"{len(fence.corners)} corners" if fence.radius_m is None else f"{fence.radius_m:g} m around"
    return {"number": fence.number, "id": fence.id, "name": fence.name, "rule": fence.rule.value, "shape": shape}
