"""`fangkong site add|set|remove|list`: the places that answer for themselves towards 110."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._change import change, remove
from gateway.cli._site_file import OK, add_common, open_registry, put, show

if TYPE_CHECKING:
    from gateway.cli import Commands

OF_SITE = (
    "name", "account", "kind", "address", "latitude", "longitude", "contact", "area", "responsible", "opens", "closes",
)  # fmt: skip


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("site")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    add = verbs.add_parser("add", help="add a site")
    add.add_argument("id", help="letters, digits, '.', '_', '-'; at most 64")
    add.add_argument("--name", required=True)
    add.add_argument("--account", required=True, help="DC-09 account towards 110: 3 to 16 hex digits")
    add.add_argument("--kind", default="residential_estate", help="residential_estate (default), bank_branch, ...")
    add.add_argument("--address", default="")
    add.add_argument("--latitude", type=float)
    add.add_argument("--longitude", type=float)
    add.add_argument(
        "--contact", default="", help="call-back role and phone, e.g. '值班室 0535-1234567'; never a person's name"
    )
    add.add_argument("--area", help="the community it is in, or a higher area")
    add.add_argument(
        "--key-unit", action="store_true", help="a key security unit 重点单位: its network is proved daily"
    )
    add.add_argument("--responsible", default="", help="role and phone of whoever has to close its gaps")
    add.add_argument("--opens", help="first day of a temporary site, like 2026-10-01")
    add.add_argument("--closes", help="its last day")
    add_common(add, _add)

    one = verbs.add_parser("set", help="change what is said of a site; what is not said stays")
    one.add_argument("id")
    for name in OF_SITE:
        one.add_argument(f"--{name}", type=float if name in ("latitude", "longitude") else str)
    one.add_argument(
        "--key-unit",
        dest="is_key_unit",
        action=argparse.BooleanOptionalAction,
        help="whether it is a key security unit",
    )
    add_common(one, _set)

    gone = verbs.add_parser(
        "remove", help="take a site with its points and devices out of the ledger; the history stays"
    )
    gone.add_argument("id")
    add_common(gone, _remove)

    add_common(verbs.add_parser("list", help="list sites"), _list)


async def _add(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.model import Site

    registry = await open_registry(args)
    try:
        site = Site(
            args.id, args.name, args.account, args.kind, args.address, args.latitude, args.longitude, args.contact,
            args.area, args.key_unit, args.responsible, args.opens, args.closes,
        )  # fmt: skip
        await put(args, registry, [site], only="new")
        show(args, [asdict(registry.snapshot.sites[site.id])], empty="")
    finally:
        await registry.close()
    return OK


async def _set(args: argparse.Namespace) -> int:
    return await change(args, lambda ledger: ledger.sites, (*OF_SITE, "is_key_unit"))


async def _remove(args: argparse.Namespace) -> int:
    return await remove(args, lambda ledger: ledger.sites)


async def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    registry = await open_registry(args)
    try:
        show(args, [asdict(site) for site in registry.sites()], empty="no sites yet: fangkong site add 尚无场所")
    finally:
        await registry.close()
    return OK
