"""`fangkong site add|set|remove|list|show`: the places that answer for themselves towards 110."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gateway.cli._change import change, remove
from gateway.cli._site_file import OK, add_common, dumped, open_registry, put, show
from gateway.cli._standing import counted, figures, requirements

if TYPE_CHECKING:
    from gateway.cli import Commands
    from gateway.coverage.counts import Counts
    from gateway.model import Site
    from gateway.registry import Registry

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

    listing = verbs.add_parser("list", help="list sites")
    listing.add_argument("--area", help="those in this area alone, or in one below it")
    listing.add_argument("--kind", help="those of this kind alone")
    listing.add_argument("--coverage", action="store_true", help="with what is required, installed, working, networked")
    add_common(listing, _list)
    shown = verbs.add_parser("show", help="one site")
    shown.add_argument("id")
    shown.add_argument(
        "--coverage", action="store_true", help="with its figures, and what is asked of each of its points"
    )
    add_common(shown, _show)


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

    from gateway.clock import RealClock

    registry = await open_registry(args)
    try:
        areas = _areas_within(registry, args.area)
        sites = [
            site
            for site in registry.sites()
            if args.kind in (None, site.kind) and (areas is None or site.area in areas)
        ]
        if args.coverage:
            live = await counted(args, registry, RealClock().now())
            rows = [_counted_row(site, live.counts(f"site:{site.id}"), as_json=args.json) for site in sites]
        else:
            rows = [asdict(site) for site in sites]
    finally:
        await registry.close()
    show(args, rows, empty="no sites yet: fangkong site add 尚无场所")
    return OK


async def _show(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.clock import RealClock

    registry = await open_registry(args)
    try:
        site = _known(registry, args.id)
        live = await counted(args, registry, RealClock().now()) if args.coverage else None
    finally:
        await registry.close()
    row = asdict(site)
    if live is None:
        print(dumped(row)) if args.json else show(args, [row], empty="")
        return OK
    counts = live.counts(f"site:{site.id}")
    asked = requirements([each for each in live.verdicts() if each.site == site.id], as_json=args.json)
    if args.json:
        print(dumped({**row, **figures(counts, as_json=True), "points": asked}))
    else:
        show(args, [_counted_row(site, counts, as_json=False)], empty="")
        show(args, asked, empty="nothing is asked of this site 无应装点位")
    return OK


def _counted_row(site: Site, counts: Counts, *, as_json: bool) -> dict[str, Any]:
    return {"id": site.id, "name": site.name, "kind": site.kind, "area": site.area, **figures(counts, as_json=as_json)}


def _areas_within(registry: Registry, area: str | None) -> set[str] | None:
    """An area and all below it; None: everywhere. Raises ConfigError for one that is not there."""
    from gateway.errors import ConfigError, Problem
    from gateway.model import AreaKind

    if area is None:
        return None
    known = registry.snapshot.areas
    if area not in known:
        found = f"{area!r} is not in the ledger"[:120]
        raise ConfigError([Problem("command line", None, "--area", found, "an area: fangkong area list", "区域不存在")])
    within = {area}
    for _ in AreaKind:  # as deep as areas are
        within |= {each.id for each in known.values() if each.parent in within}
    return within


def _known(registry: Registry, site: str) -> Site:
    """Raises ConfigError."""
    import difflib

    from gateway.errors import ConfigError, Problem

    known = registry.snapshot.sites
    if site in known:
        return known[site]
    near = difflib.get_close_matches(site, known, n=1)
    hint = f'did you mean "{near[0]}"? 是否应为 "{near[0]}"?' if near else "场所不存在"
    found = f"{site!r} is not in the ledger"[:120]
    raise ConfigError([Problem("command line", None, "id", found, "a site: fangkong site list", hint)])
