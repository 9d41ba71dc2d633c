"""`fangkong area add|set|list`: district, control zone, community, each in the former."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._change import change
from gateway.cli._site_file import OK, add_common, open_registry, put, show

if TYPE_CHECKING:
    from gateway.cli import Commands

KINDS = ("district", "control_zone", "community")
MANAGEMENTS = ("managed", "partly", "none")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("area")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="add an area")
    add.add_argument("id", help="letters, digits, '.', '_', '-'; at most 64")
    add.add_argument("--name", required=True)
    add.add_argument("--kind", required=True, choices=KINDS)
    add.add_argument("--parent", help="the area it is in")
    add.add_argument("--dwellings", type=int, help="of a community")
    add.add_argument("--management", choices=MANAGEMENTS, help="of a community: how it is looked after")
    add_common(add, _add)
    one = verbs.add_parser("set", help="change what is said of an area; what is not said stays")
    one.add_argument("id")
    one.add_argument("--name")
    one.add_argument("--parent", help="the area it is in")
    one.add_argument("--dwellings", type=int)
    one.add_argument("--management", choices=MANAGEMENTS)
    add_common(one, _set)
    add_common(verbs.add_parser("list", help="list areas"), _list)


async def _add(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.model import Area, AreaKind, Management

    management = Management(args.management) if args.management else None
    area = Area(args.id, args.name, AreaKind(args.kind), args.parent, args.dwellings, management)
    registry = await open_registry(args)
    try:
        await put(args, registry, [area], only="new")
    finally:
        await registry.close()
    show(args, [asdict(area)], empty="")
    return OK


async def _set(args: argparse.Namespace) -> int:
    from gateway.model import Management

    args.management = Management(args.management) if args.management else None
    return await change(args, lambda ledger: ledger.areas, ("name", "parent", "dwellings", "management"))


async def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    registry = await open_registry(args)
    try:
        rows = [asdict(area) for area in registry.snapshot.areas.values()]
    finally:
        await registry.close()
    show(args, rows, empty="no areas yet: fangkong area add 尚无区域")
    return OK
