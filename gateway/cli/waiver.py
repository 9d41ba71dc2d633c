"""`fangkong waiver add|list|revoke`: what is not asked of a point for a time, with reason, approver and end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.cli import Commands

DAYS_MAX = 366
"""What is waived for longer is not required: that is another profile."""
TEXT_MAX = 128


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
    from datetime import date, timedelta

    from gateway.clock import RealClock
    from gateway.coverage.days import start_of
    from gateway.errors import ConfigError, Problem

    now = RealClock().now()
    problems = [
        Problem("command line", None, key, f"found {text!r}"[:120], f"1 to {TEXT_MAX} printable characters", "文字过长或为空")
        for key, text in (("--reason", args.reason), ("--approver", args.approver))
        if not (text.strip() and text.isprintable() and len(text) <= TEXT_MAX)
    ]  # fmt: skip
    try:
        until = start_of(date.fromisoformat(args.until) + timedelta(days=1))
    except (ValueError, OverflowError):
        until = now
    if not now < until <= now + timedelta(days=DAYS_MAX):
        expected = f"a day like 2026-12-31, from today on, at most {DAYS_MAX} days away"
        problems.append(Problem("command line", None, "--until", f"found {args.until!r}", expected, "豁免期限不对"))
    if problems:
        raise ConfigError(problems)
    await _record(args, {"reason": args.reason, "approver": args.approver}, now, until)
    return OK


async def _revoke(args: argparse.Namespace) -> int:
    from gateway.clock import RealClock

    await _record(args, None, RealClock().now(), None)
    return OK


async def _record(
    args: argparse.Namespace, value: Mapping[str, str] | None, now: datetime, until: datetime | None
) -> None:
    from gateway.audit import Deed
    from gateway.cli._asked import asked, history_of
    from gateway.coverage.facts import Fact, Sort
    from gateway.errors import ConfigError, Problem

    subject = (args.point, args.measure)
    registry = await open_registry(args)
    try:
        if value is not None:
            await asked(registry, args.point, args.measure, now)
        elif (await history_of(registry, Sort.WAIVER)).at(Sort.WAIVER, subject, now) is None:
            found, expected = "no waiver in force", "one of fangkong waiver list"
            raise ConfigError(
                [Problem("command line", None, " ".join(subject)[:120], found, expected, "没有有效的豁免")]
            )
        await audit_of(args).record(os_actor(), Deed.WAIVER, f"{args.point} {args.measure}"[:256], value or {})
        fact = Fact(Sort.WAIVER, subject, value, now, until, actor=os_actor().id)
        await registry.record([fact])
    finally:
        await registry.close()
    show(args, [_row(subject, value, until)], empty="")


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
