"""`fangkong inspection add|list|due`: doors, bars, walls and lights, which only somebody who looks can prove."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import OK, add_common, audit_of, days, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli import Commands
    from gateway.coverage.history import Stretch


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("inspection")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="record what an inspection found")
    add.add_argument("point")
    add.add_argument("measure", help="as the profile names it: security_door, bars, lighting, ...")
    add.add_argument("--result", required=True, choices=("ok", "failed"))
    add.add_argument("--by", required=True, help="the role that inspected, never a person's name")
    add.add_argument("--remark", default="")
    add.add_argument("--on", help="the day it was, like 2026-10-01; left out: now")
    add_common(add, _add)
    add_common(verbs.add_parser("list", help="the last of every point and measure"), _list)
    due = verbs.add_parser("due", help="what has to be inspected: never done, expired, failed, or soon to expire")
    due.add_argument("--within", type=days, default=30, metavar="DAYS")
    add_common(due, _due)


async def _add(args: argparse.Namespace) -> int:
    from datetime import date, timedelta

    from gateway.audit import Deed
    from gateway.cli._asked import history_of
    from gateway.cli._statements import Inspection, on_command_line, weigh
    from gateway.clock import RealClock
    from gateway.coverage.days import day_of
    from gateway.coverage.facts import Sort
    from gateway.errors import ConfigError, Problem

    now = RealClock().now()
    try:
        day = date.fromisoformat(args.on) if args.on else day_of(now)
    except ValueError as error:
        expected = "a day like 2026-10-01, not after today"
        problem = Problem("command line", None, "--on", f"found {args.on!r}"[:120], expected, "检查日期不对")
        raise ConfigError([problem]) from error
    said = Inspection(args.point, args.measure, day, args.result, args.by, args.remark)
    registry = await open_registry(args)
    try:
        history = await history_of(registry, Sort.PROFILE, Sort.INSPECTION)
        findings, fact = weigh(said, registry.snapshot, history, now, os_actor().id)
        if fact is None or fact.valid_to is None:
            raise ConfigError(on_command_line(findings))
        await audit_of(args).record(
            os_actor(), Deed.REGISTRY, f"inspection {said.point} {said.measure}"[:256], fact.value or {}
        )
        await registry.record([fact])
    finally:
        await registry.close()
    due = day_of(fact.valid_to - timedelta(days=1)).isoformat()
    show(args, [{"point": args.point, "measure": args.measure, "result": args.result, "due": due}], empty="")
    return OK


async def _list(args: argparse.Namespace) -> int:
    from gateway.cli._asked import history_of
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort
    from gateway.coverage.history import ms_of

    now = ms_of(RealClock().now())
    registry = await open_registry(args)
    try:
        history = await history_of(registry, Sort.INSPECTION)
    finally:
        await registry.close()
    rows = [
        _row(subject, history.look(Sort.INSPECTION, subject, now))
        for subject in sorted(history.subjects(Sort.INSPECTION))
    ]
    show(args, rows, empty="no inspections 没有检查记录")
    return OK


async def _due(args: argparse.Namespace) -> int:
    from datetime import timedelta

    from gateway.cli._asked import asked_of, history_of
    from gateway.clock import RealClock
    from gateway.coverage.days import day_of
    from gateway.coverage.facts import Sort
    from gateway.coverage.history import ms_of
    from gateway.coverage.requirements import Family

    now = RealClock().now()
    today = day_of(now).isoformat()
    soon = (day_of(now) + timedelta(days=args.within)).isoformat()
    registry = await open_registry(args)
    rows = []
    try:
        history = await history_of(registry, Sort.PROFILE, Sort.INSPECTION, Sort.WAIVER)
        for point in registry.points():
            site = registry.snapshot.sites[point.site]
            if not (site.opens or today) <= today <= (site.closes or today):
                continue
            for line in asked_of(registry.snapshot, history, point, now):
                subject = (point.id, line.measure)
                if line.family is not Family.PHYSICAL or history.at(Sort.WAIVER, subject, now) is not None:
                    continue
                row = _row(subject, history.look(Sort.INSPECTION, subject, ms_of(now)))
                if row["result"] != "ok" or row["due"] <= soon:
                    rows.append({"site": point.site, **row})
    finally:
        await registry.close()
    rows.sort(key=lambda row: (row["due"] or "", row["point"], row["measure"]))
    show(args, rows, empty="nothing is due 没有待检查项目")
    return OK


def _row(subject: tuple[str, ...], last: Stretch) -> dict[str, Any]:
    from datetime import timedelta

    from gateway.coverage.days import day_of
    from gateway.coverage.history import moment_of

    value: Mapping[str, Any] | None = last.value or last.expired
    # One that has expired ended where the stretch begins, one in force ends where it does.
    ends = moment_of(last.start if last.value is None else last.stop) if value is not None else None
    result = "never" if value is None else "expired" if last.value is None else "ok" if value["ok"] else "failed"
    return {
        "point": subject[0],
        "measure": subject[1],
        "result": result,
        "due": day_of(ends - timedelta(days=1)).isoformat() if ends else None,
        "by": value["by"] if value else None,
        "remark": value["remark"] if value else None,
    }
