"""`fangkong device stage|replace`: what a person says of a device's way through its life."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, put, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.cli import Commands
    from gateway.model import Device, Point
    from gateway.registry import Registry, Thing

BY_HAND = ("planned", "installed", "in_service", "out_of_service", "retired")
"""Accepted is what an acceptance sheet says (fangkong walk-test)."""


def add_lifecycle(verbs: Commands) -> None:
    """Its sub-commands of `fangkong device`."""
    stage = verbs.add_parser("stage", help="say at which stage of its life a device is, from now on")
    stage.add_argument("id")
    stage.add_argument("stage", choices=BY_HAND)
    add_common(stage, _stage)
    swap = verbs.add_parser("replace", help="put a new device in the place of an old one, which is retired")
    swap.add_argument("old")
    swap.add_argument("new", help="not yet in the ledger: it is taken in, with name and kind of the old one")
    swap.add_argument("--vendor", help="of a new one; left out: the old one's")
    swap.add_argument("--model")
    add_common(swap, _replace)


async def _stage(args: argparse.Namespace) -> int:
    from gateway.audit import Deed
    from gateway.clock import RealClock
    from gateway.coverage.facts import Fact, Sort

    registry = await open_registry(args)
    try:
        _known(registry, args.id)
        await audit_of(args).record(os_actor(), Deed.REGISTRY, f"device {args.id}"[:256], {"stage": args.stage})
        await registry.record(
            [Fact(Sort.STAGE, (args.id,), {"stage": args.stage}, RealClock().now(), actor=os_actor().id)]
        )
    finally:
        await registry.close()
    show(args, [{"id": args.id, "stage": args.stage}], empty="")
    return OK


async def _replace(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from gateway.clock import RealClock
    from gateway.coverage.facts import Fact, Sort
    from gateway.errors import ConfigError, Problem

    registry = await open_registry(args)
    try:
        old = _known(registry, args.old)
        if args.new == args.old:
            raise ConfigError([Problem("command line", None, "new", "the same id", "another device", "新旧设备相同")])
        said = {name: value for name in ("vendor", "model") if (value := getattr(args, name)) is not None}
        new = replace(registry.device(args.new) or replace(old, id=args.new), **said)
        points = [
            _rebound(point, old.id, new.id)
            for point in registry.points()
            if old.id in {device for device, _ in point.watchers}
        ]
        now, actor = RealClock().now(), os_actor().id
        stages = [
            Fact(Sort.STAGE, (device,), {"stage": stage}, now, actor=actor)
            for device, stage in ((old.id, "retired"), (new.id, "installed"))
        ]
        await put(args, registry, [new, *points, *_around(registry, old, new)], facts=stages)
    finally:
        await registry.close()
    rows = [{"point": point.id, "device": new.id, "was": old.id, "next": "walk test 步行测试"} for point in points]
    show(args, rows, empty=f"{old.id} is retired; it watched no point 已退役,未绑定点位")
    return OK


def _known(registry: Registry, device: str) -> Device:
    from gateway.errors import ConfigError, Problem

    known = registry.device(device)
    if known is None:
        expected = "a device of the ledger (fangkong device list)"
        raise ConfigError(
            [Problem("command line", None, "id", f"{device!r} is not in the ledger", expected, "设备不存在")]
        )
    return known


def _rebound(point: Point, old: str, new: str) -> Point:
    from dataclasses import replace

    first, *also = [(new if device == old else device, zone) for device, zone in point.watchers]
    return replace(point, device=first[0], zone=first[1], also=tuple(also))


def _around(registry: Registry, old: Device, new: Device) -> Iterator[Thing]:
    """What hangs on the old one and is the new one's from now on: devices behind it, the vehicle it drives in."""
    from dataclasses import replace

    for child in registry.devices():
        if child.parent == old.id and child.id != new.id:
            yield replace(child, parent=new.id)
    vehicle = registry.snapshot.vehicles.get(old.id)
    if vehicle is not None:
        yield replace(vehicle, id=new.id)
        yield replace(vehicle, on_duty=False)
