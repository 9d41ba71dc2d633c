"""`fangkong device add|claim|import|list|show|stage|replace`: the devices in the ledger, and the unclaimed ones."""

from __future__ import annotations

import argparse
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli._lifecycle import add_lifecycle
from gateway.cli._site_file import FAILED, OK, add_common, data_dir, dumped, open_registry, put, show
from gateway.cli._standing import counted, requirements, standing, trends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.cli import Commands
    from gateway.model import Device, Heard, Point
    from gateway.registry import Registry, Thing

LISTEN_MAX_S = 600
"""An installer stands before the device; what is triggered later is another one."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("device")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    add = verbs.add_parser("add", help="add a device before it has reported")
    _device_arguments(add)
    add_common(add, _add)

    claim = verbs.add_parser("claim", help="take a device that reports but is not in the ledger into it")
    _device_arguments(claim, may_listen=True)
    claim.add_argument("--by-trigger", action="store_true", help="take the one that is triggered now; needs --point")
    claim.add_argument(
        "--within", type=_seconds, default=120, metavar="SECONDS", help=f"how long to listen, at most {LISTEN_MAX_S}"
    )
    add_common(claim, _claim)

    load = verbs.add_parser("import", help="add and update devices and points from a CSV file (docs/inventory.md)")
    load.add_argument("file", type=Path)
    load.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    add_common(load, _import)

    listing = verbs.add_parser("list", help="list devices, unclaimed ones last")
    listing.add_argument("--site")
    listing.add_argument("--unclaimed", action="store_true", help="only those that nobody has claimed")
    add_common(listing, _list)

    one = verbs.add_parser("show", help="one device with its points")
    one.add_argument("id")
    add_common(one, _show)

    add_lifecycle(verbs)


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= LISTEN_MAX_S):
        raise argparse.ArgumentTypeError(f"1 to {LISTEN_MAX_S} seconds are expected, not {text!r}")
    return int(text)


def _device_arguments(parser: argparse.ArgumentParser, *, may_listen: bool = False) -> None:
    """`may_listen`: the device may be found, and then its planned point says the site."""
    parser.add_argument("id", nargs="?" if may_listen else None, help="the id the device gives itself")
    parser.add_argument("--site", required=not may_listen)
    parser.add_argument("--name", default="")
    parser.add_argument("--kind", default="", help="what it is, such as panic_button: says what proves that it lives")
    parser.add_argument("--vendor", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--parent", help="the device through which alone it is heard")
    parser.add_argument("--heard-within-s", type=float, help="silence longer than this is a fault")
    parser.add_argument("--point", help="a protection point it watches")
    parser.add_argument("--number", type=int, help="the point's zone number towards 110, 0 to 999")
    parser.add_argument("--point-name", default="")
    parser.add_argument("--point-kind", default="", help="what the point is, as profiles name it: counter_panic, ...")
    parser.add_argument("--zone", type=int, help="the device's own zone; left out: the whole device")


@asynccontextmanager
async def _ledger(args: argparse.Namespace) -> AsyncIterator[Registry]:
    registry = await open_registry(args)
    try:
        yield registry
    finally:
        await registry.close()


async def _add(args: argparse.Namespace) -> int:
    async with _ledger(args) as registry:
        await _put(args, registry)
    return OK


async def _claim(args: argparse.Namespace) -> int:
    import difflib

    from gateway.errors import ConfigError, Problem

    if args.by_trigger and args.point:
        from gateway.cli._trigger import claim

        return await claim(args)
    if args.by_trigger or not (args.id and args.site):
        expected = "--by-trigger with the planned --point, or the id of a device and its --site"
        raise ConfigError([Problem("command line", None, "claim", "incomplete", expected, "参数不全")])
    async with _ledger(args) as registry:
        waiting = [heard.device for heard in _unclaimed(args, registry)]
        if args.id not in waiting and registry.device(args.id) is None:
            near = difflib.get_close_matches(args.id, waiting, n=1)
            hint = f'did you mean "{near[0]}"? 是否应为 "{near[0]}"?' if near else "fangkong device list --unclaimed"
            raise ConfigError(
                [Problem("command line", None, "id", f"{args.id!r} was not heard", "an unclaimed device", hint)]
            )
        await _put(args, registry)
    return OK


async def _put(args: argparse.Namespace, registry: Registry) -> None:
    from dataclasses import asdict

    from gateway.errors import ConfigError, Problem
    from gateway.model import Device, Point

    device = Device(
        args.id, args.site, args.name, args.heard_within_s, args.kind, args.vendor, args.model, args.parent
    )  # fmt: skip
    things: list[Device | Point] = [device]
    of_point = args.number is not None or args.zone is not None or args.point_name or args.point_kind
    if args.point is None and of_point:
        raise ConfigError([Problem("command line", None, "--point", "missing", "the id of the point", "缺少点位编号")])
    if args.point is not None:
        if args.number is None:
            raise ConfigError([Problem("command line", None, "--number", "missing", "0 to 999", "缺少点位编号")])
        things.append(Point(args.point, args.site, args.number, args.point_name, args.id, args.zone, args.point_kind))
    await put(args, registry, things, only="new")
    show(args, [asdict(things[0])], empty="")


async def _import(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.cli._device_csv import PROBLEMS_MAX, read_device_list
    from gateway.errors import ConfigError

    wanted = read_device_list(args.file)
    async with _ledger(args) as registry:
        try:
            things = [_known_kept(registry, thing) for thing in wanted.things.values()]
            written = await put(args, registry, things, dry_run=args.dry_run, report=wanted.report)
        except ConfigError as error:
            raise ConfigError(error.problems[:PROBLEMS_MAX]) from error
    counts = asdict(written)
    if args.json:
        print(json.dumps({"ok": True, "dry_run": args.dry_run, **counts}))
    else:
        would = "would be " if args.dry_run else ""
        print(f"{written.added} {would}added, {written.updated} {would}updated, {written.unchanged} unchanged")
    return OK


def _known_kept(registry: Registry, thing: Thing) -> Thing:
    """What this file has no column for stays as the ledger has it."""
    from dataclasses import replace

    from gateway.model import Device, Point

    known = registry.snapshot.devices.get(thing.id) if isinstance(thing, Device) else None
    if isinstance(thing, Device) and known is not None:
        return replace(known, site=thing.site, name=thing.name, heard_within_s=thing.heard_within_s)
    point = registry.snapshot.points.get(thing.id) if isinstance(thing, Point) else None
    if isinstance(thing, Point) and point is not None:
        return replace(thing, kind=point.kind, also=point.also)
    return thing


async def _list(args: argparse.Namespace) -> int:
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort

    now = RealClock().now()
    async with _ledger(args) as registry:
        last = {heard.device: heard for heard in heard_devices(args)}
        rows: list[dict[str, Any]] = []
        if not args.unclaimed:
            history = await history_of(registry, Sort.STAGE, Sort.HEALTH)
            devices = [device for device in registry.devices() if args.site in (None, device.site)]
            rows += [
                _row(device.id, device.site, device.name, last.get(device.id), standing(history, device.id, now))
                for device in sorted(devices, key=lambda device: device.id)
            ]
        if args.site is None:
            rows += [
                _row(heard.device, None, "(unclaimed 未登记)", heard, UNPLANNED) for heard in _unclaimed(args, registry)
            ]
    show(args, rows, empty="no devices 没有设备")
    return OK


async def _show(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort

    now = RealClock().now()
    async with _ledger(args) as registry:
        device = registry.device(args.id)
        heard = next((heard for heard in heard_devices(args) if heard.device == args.id), None)
        if device is None and heard is None:
            print(f"{args.id}: neither in the ledger nor heard 台账中没有,也未收到过")
            return FAILED
        live = await counted(args, registry, now)
        samples = trends(await history_of(registry, Sort.SAMPLE), args.id, now)
        watched = [point for point in registry.points() if args.id in {of for of, _ in point.watchers}]
        points = [asdict(point) for point in sorted(watched, key=lambda point: point.number)]
    ids = {point.id for point in watched}
    asked = requirements([each for each in live.verdicts() if each.point in ids], as_json=args.json)
    stands = standing(live.history, args.id, now) if device else UNPLANNED
    row = _row(args.id, device.site if device else None, device.name if device else "", heard, stands)
    if args.json:
        whole = {**row, "points": points, "coverage": asked, "trends": samples}
        print(dumped(whole))
    else:
        show(args, [row], empty="")
        show(args, points, empty="no points 没有点位")
        show(args, asked, empty="nothing is asked of its points 无应装要求")
        show(args, samples, empty="no measurements 没有测量值")
    return OK


UNPLANNED = {"stage": "unplanned", "state": None, "cause": None, "via": None, "since": None}
"""Nobody has claimed it: it counts for nothing."""


def _row(device_id: str, site: str | None, name: str, heard: Heard | None, stands: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": device_id,
        "site": site,
        "name": name,
        **stands,
        "last_heard": heard.at if heard else None,
        "deadline": heard.deadline if heard else None,
    }


def _unclaimed(args: argparse.Namespace, registry: Registry) -> list[Heard]:
    return [heard for heard in heard_devices(args) if heard.at is not None and registry.device(heard.device) is None]


def heard_devices(args: argparse.Namespace) -> Sequence[Heard]:
    """What the daemon has heard, read beside it from its log. Empty when there is none yet; raises ConfigError."""
    import sqlite3

    from gateway.errors import ConfigError, Problem
    from gateway.store.beside import read_heard

    path = data_dir(args)[1] / "events.db"
    try:
        return read_heard(path)
    except sqlite3.Error as error:
        raise ConfigError([Problem(str(path), None, "store", str(error), "an event log of this program")]) from error
