"""`fangkong point add|set|remove|list`: protection points, the smallest things that are counted; one may have no device yet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._change import change, remove
from gateway.cli._site_file import OK, add_common, open_registry, put, show

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("point")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    add = verbs.add_parser("add", help="plan a point that no device watches yet")
    add.add_argument("id", help="letters, digits, '.', '_', '-'; at most 64")
    add.add_argument("--site", required=True)
    add.add_argument("--number", type=int, required=True, help="its zone number towards 110, 0 to 999")
    _words(add, default="")
    add_common(add, _add)

    one = verbs.add_parser("set", help="change what is said of a point; what is not said stays")
    one.add_argument("id")
    one.add_argument("--number", type=int)
    _words(one, default=None)
    add_common(one, _set)

    gone = verbs.add_parser("remove", help="take a point out of the ledger; its history stays")
    gone.add_argument("id")
    add_common(gone, _remove)

    listing = verbs.add_parser("list", help="list points")
    listing.add_argument("--site")
    add_common(listing, _list)


def _words(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument("--name", default=default)
    parser.add_argument("--kind", default=default, help="what it is, as profiles name it: counter_panic, ...")


async def _add(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.model import Point

    point = Point(args.id, args.site, args.number, args.name, kind=args.kind)
    registry = await open_registry(args)
    try:
        await put(args, registry, [point], only="new")
    finally:
        await registry.close()
    show(args, [asdict(point)], empty="")
    return OK


async def _set(args: argparse.Namespace) -> int:
    return await change(args, lambda ledger: ledger.points, ("number", "name", "kind"))


async def _remove(args: argparse.Namespace) -> int:
    return await remove(args, lambda ledger: ledger.points)


async def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    registry = await open_registry(args)
    try:
        points = [point for point in registry.points() if args.site in (None, point.site)]
    finally:
        await registry.close()
    points.sort(key=lambda point: (point.site, point.number))
    show(args, [asdict(point) for point in points], empty="no points 没有点位")
    return OK
