"""`fangkong target set|drop|list`: what share of the points has to be covered by which day."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("target")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, what in (("set", _set, "promise a share"), ("drop", _drop, "take a promise back")):
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("node", help="all, area:ID or site:ID")
        verb.add_argument("due", help="the day, like 2026-12-31")
        if name == "set":
            verb.add_argument("--percent", type=float, required=True, help="0 to 100")
        add_common(verb, command)
    add_common(verbs.add_parser("list", help="targets by node and day"), _list)


async def _set(args: argparse.Namespace) -> int:
    from gateway.errors import ConfigError, Problem

    if not 0 <= args.percent <= 100:
        raise ConfigError(
            [Problem("command line", None, "--percent", f"found {args.percent}", "0 to 100", "百分比不对")]
        )
    await _record(args, {"share": args.percent / 100})
    return OK


async def _drop(args: argparse.Namespace) -> int:
    await _record(args, None)
    return OK


async def _record(args: argparse.Namespace, value: Mapping[str, float] | None) -> None:
    from datetime import date

    from gateway.audit import Deed
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.days import day_of
    from gateway.coverage.facts import Fact, Sort
    from gateway.errors import ConfigError, Problem

    try:
        due = date.fromisoformat(args.due).isoformat()
    except ValueError as error:
        problem = Problem("command line", None, "due", f"found {args.due!r}"[:120], "a day like 2026-12-31", "日期不对")
        raise ConfigError([problem]) from error
    now = RealClock().now()
    if value is not None and due < (today := day_of(now).isoformat()):
        problem = Problem("command line", None, "due", f"{due} is past", f"{today} or a later day", "日期已过")
        raise ConfigError([problem])
    registry = await open_registry(args)
    try:
        ledger = registry.snapshot
        nodes = {"all", *(f"area:{area}" for area in ledger.areas), *(f"site:{site}" for site in ledger.sites)}
        if args.node not in nodes:
            expected = "all, or area:ID or site:ID of the ledger"
            found = f"{args.node!r} is not in the ledger"[:120]
            raise ConfigError([Problem("command line", None, "node", found, expected, "区域或场所不存在")])
        if value is None and (await history_of(registry, Sort.TARGET)).at(Sort.TARGET, (args.node, due), now) is None:
            found, expected = f"no target by {due}", "one of fangkong target list"
            raise ConfigError([Problem("command line", None, args.node, found, expected, "没有此目标")])
        await audit_of(args).record(os_actor(), Deed.REGISTRY, f"target {args.node} {due}", value or {})
        await registry.record([Fact(Sort.TARGET, (args.node, due), value, now, actor=os_actor().id)])
    finally:
        await registry.close()
    show(args, [_row((args.node, due), value)], empty="")


async def _list(args: argparse.Namespace) -> int:
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort

    now = RealClock().now()
    registry = await open_registry(args)
    try:
        history = await history_of(registry, Sort.TARGET)
    finally:
        await registry.close()
    rows = [
        _row(subject, value)
        for subject in sorted(history.subjects(Sort.TARGET))
        if (value := history.at(Sort.TARGET, subject, now)) is not None
    ]
    show(args, rows, empty="no targets 没有目标")
    return OK


def _row(subject: tuple[str, ...], value: Mapping[str, float] | None) -> dict[str, object]:
    return {
        "node": subject[0],
        "due": subject[1],
        "percent": round(value["share"] * 100, 3) if value is not None else None,
    }
