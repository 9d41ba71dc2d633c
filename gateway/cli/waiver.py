"""`fangkong waiver add|list|revoke`: what is not asked of a point for a time, with reason, approver and end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.cli import Commands
    from gateway.coverage.facts import Fact
    from gateway.registry import Registry

DAYS_MAX = 366
"""What is waived for longer is not required: that is another profile."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("waiver")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="waive a measure at a point, from now until a day")
    _subject(add)
    add.add_argument("--reason", required=True)
    add.add_argument("--approver", required=True, help="the office that approved it, never a person's name")
    add.add_argument("--until", required=True, help=f"last day, like 2026-12-31; at most {DAYS_MAX} days away")
    add_common(add, _add)
    add_common(verbs.add_parser("list", help="waivers in force"), _list)
    revoke = verbs.add_parser("revoke", help="end a waiver now")
    _subject(revoke)
    add_common(revoke, _revoke)


def _subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("point")
    parser.add_argument("measure", help="as the profile names it: intrusion, panic, ...")


async def _add(args: argparse.Namespace) -> int:
    from datetime import date

    from gateway.cli._asked import history_of
    from gateway.cli._statements import Waiver, on_command_line, weigh
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort
    from gateway.errors import ConfigError, Problem

    try:
        until = date.fromisoformat(args.until)
    except ValueError as error:
        expected = f"a day like 2026-12-31, from today on, at most {DAYS_MAX} days away"
        problem = Problem("command line", None, "--until", f"found {args.until!r}"[:120], expected, "豁免期限不对")
        raise ConfigError([problem]) from error
    said = Waiver(args.point, args.measure, args.reason, args.approver, until)
    registry = await open_registry(args)
    try:
        history = await history_of(registry, Sort.PROFILE)
        findings, fact = weigh(said, registry.snapshot, history, RealClock().now(), os_actor().id)
        if fact is None:
            raise ConfigError(on_command_line(findings))
        await _record(args, registry, fact)
    finally:
        await registry.close()
    return OK


async def _revoke(args: argparse.Namespace) -> int:
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Fact, Sort
    from gateway.errors import ConfigError, Problem

    subject, now = (args.point, args.measure), RealClock().now()
    registry = await open_registry(args)
    try:
        if (await history_of(registry, Sort.WAIVER)).at(Sort.WAIVER, subject, now) is None:
            found, expected = "no waiver in force", "one of fangkong waiver list"
            raise ConfigError(
                [Problem("command line", None, " ".join(subject)[:120], found, expected, "没有有效的豁免")]
            )
        await _record(args, registry, Fact(Sort.WAIVER, subject, None, now, actor=os_actor().id))
    finally:
        await registry.close()
    return OK


async def _record(args: argparse.Namespace, registry: Registry, fact: Fact) -> None:
    from gateway.audit import Deed

    await audit_of(args).record(os_actor(), Deed.WAIVER, " ".join(fact.subject)[:256], fact.value or {})
    await registry.record([fact])
    show(args, [_row(fact.subject, fact.value, fact.valid_to)], empty="")


async def _list(args: argparse.Namespace) -> int:
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort
    from gateway.coverage.history import moment_of, ms_of

    now = ms_of(RealClock().now())
    registry = await open_registry(args)
    try:
        history = await history_of(registry, Sort.WAIVER)
    finally:
        await registry.close()
    rows = [
        _row(subject, found.value, moment_of(found.stop))
        for subject in sorted(history.subjects(Sort.WAIVER))
        if (found := history.look(Sort.WAIVER, subject, now)).value is not None
    ]
    show(args, rows, empty="no waivers 没有豁免")
    return OK


def _row(subject: tuple[str, ...], value: Mapping[str, str] | None, until: datetime | None) -> dict[str, str | None]:
    from datetime import timedelta

    from gateway.coverage.days import day_of

    last = day_of(until - timedelta(days=1)).isoformat() if until else None
    return {"point": subject[0], "measure": subject[1], "until": last, **(value or {"reason": None, "approver": None})}
