"""`fangkong deficiency list|show|told|rectified`: gaps that lasted, from the record of facts, with or without a running gateway."""

from __future__ import annotations

import argparse
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import FAILED, OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from gateway.cli import Commands
    from gateway.coverage.tickets import Ticket, Tickets
    from gateway.registry import Registry

WORDS_MAX = 100
"""A line in a list."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("deficiency")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = verbs.add_parser("list", help="those that are open, the most urgent first")
    listed.add_argument("--site")
    listed.add_argument("--all", action="store_true", help="closed ones too")
    add_common(listed, _list)
    one = verbs.add_parser("show", help="one, and what became of it")
    one.add_argument("id")
    add_common(one, _show)
    told = verbs.add_parser("told", help="note who was told of it")
    told.add_argument("id")
    told.add_argument("--whom", required=True, type=_role, help="a role or an office, never a person's name")
    add_common(told, _told)
    rectified = verbs.add_parser("rectified", help="say that it was put right; the evidence closes it")
    rectified.add_argument("id")
    rectified.add_argument("--remark", default="", type=_words)
    add_common(rectified, _rectified)


def _words(text: str) -> str:
    if not text.isprintable() or len(text) > WORDS_MAX:
        raise argparse.ArgumentTypeError(f"at most {WORDS_MAX} printable characters are expected, not {text[:40]!r}")
    return text


def _role(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"a role or an office is expected, not {text[:40]!r}")
    return _words(text)


@asynccontextmanager
async def _record(args: argparse.Namespace) -> AsyncIterator[tuple[Registry, Tickets]]:
    from gateway.coverage.tickets import Tickets

    registry = await open_registry(args)
    try:
        tickets, after = Tickets(), 0
        while page := await registry.facts(after=after):
            tickets.add(page)
            after = page[-1].id
        yield registry, tickets
    finally:
        await registry.close()


async def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gateway.cli._asked import check_site
    from gateway.coverage.ranking import ticket_order

    async with _record(args) as (registry, tickets):
        check_site(registry, args.site, *(each.site for each in tickets))
        sites = {site.id: asdict(site) for site in registry.snapshot.sites.values()}
        listed = tickets if args.all else tickets.open()
        chosen = sorted(listed, key=lambda each: ticket_order(each, sites.get(each.site, {})))
    rows = [_row(each, _now()) for each in chosen if args.site in (None, each.site)]
    show(args, rows, empty="no deficiencies 没有待整改问题")
    return OK


async def _show(args: argparse.Namespace) -> int:
    async with _record(args) as (_, tickets):
        found = _known(tickets, args.id)
    if found is None:
        return FAILED
    row = {**_row(found, _now()), "points": list(found.points), "because": found.because}
    told = [{"at": each.at, "what": f"told {each.whom}", "by": each.by} for each in found.told]
    turns = [{"at": at, "what": what, "by": "gateway"} for at, what in found.history]
    happened = sorted(told + turns, key=lambda each: str(each["at"]))
    show(args, [{**row, "history": happened}] if args.json else [row], empty="")
    if not args.json:
        show(args, happened, empty="")
    return OK


async def _told(args: argparse.Namespace) -> int:
    from gateway.coverage.tickets import told

    return await _say(args, lambda by: told(args.id, args.whom, by, _now()), {"whom": args.whom})


async def _rectified(args: argparse.Namespace) -> int:
    from gateway.coverage.tickets import rectified

    return await _say(args, lambda by: rectified(args.id, by, args.remark, _now()), {"remark": args.remark})


async def _say(args: argparse.Namespace, fact: Any, details: dict[str, Any]) -> int:
    from gateway.audit import Deed

    async with _record(args) as (registry, tickets):
        if _known(tickets, args.id) is None:
            return FAILED
        said = fact(os_actor().name)
        await audit_of(args).record(os_actor(), Deed.REGISTRY, f"deficiency {args.id}", details)
        await registry.record([said])
        tickets.add([said])
        show(args, [_row(each, _now()) for each in tickets if each.id == args.id], empty="")
    return OK


def _known(tickets: Tickets, ticket: str) -> Ticket | None:
    found = tickets.get(ticket)
    if found is None:
        print(f"{ticket}: no such deficiency; fangkong deficiency list --all names them 没有此整改项")
    return found


def _row(each: Ticket, now: datetime) -> dict[str, Any]:
    return {
        "id": each.id, "state": each.standing(now).value, "site": each.site, "risk": each.risk.value,
        "days": each.age(now).days, "due": each.due.isoformat(), "points": len(each.points), "told": len(each.told),
        "times": each.times, "responsible": each.responsible,
    }  # fmt: skip


def _now() -> datetime:
    from gateway.clock import RealClock

    return RealClock().now()
