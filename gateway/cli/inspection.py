"""`fangkong inspection add|list|due`: doors, bars, walls and lights, which only somebody who looks can prove."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import OK, add_common, audit_of, days, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli import Commands
    from gateway.coverage.history import Stretch

TEXT_MAX = 128


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
    from gateway.cli._asked import asked
    from gateway.clock import RealClock
    from gateway.coverage.days import day_of, start_of
    from gateway.coverage.facts import Fact, Sort
    from gateway.coverage.requirements import Family
    from gateway.errors import ConfigError, Problem

    now = RealClock().now()
    problems = [
        Problem("command line", None, key, f"found {text!r}"[:120], f"at most {TEXT_MAX} printable characters", "文字过长或为空")
        for key, text in (("--by", args.by), ("--remark", args.remark or "-"))
        if not (text.strip() and text.isprintable() and len(text) <= TEXT_MAX)
    ]  # fmt: skip
    try:
        day = date.fromisoformat(args.on) if args.on else day_of(now)
    except ValueError:
        day = date.max
    if day > day_of(now):
        expected = "a day like 2026-10-01, not after today"
        problems.append(Problem("command line", None, "--on", f"found {args.on!r}"[:120], expected, "检查日期不对"))
    if problems:
        raise ConfigError(problems)
    value = {"ok": args.result == "ok", "by": args.by, "remark": args.remark}
    begins = now if day == day_of(now) else start_of(day)
    registry = await open_registry(args)
    try:
        line = await asked(registry, args.point, args.measure, now)
        if line.family is not Family.PHYSICAL:
            found, expected = f"{args.measure!r} is technical", "a physical measure: telemetry proves the others"
            raise ConfigError([Problem("command line", None, "measure", found, expected, "技防措施不作人工检查")])
        ends = start_of(day + timedelta(days=line.inspect_days + 1))
        await audit_of(args).record(os_actor(), Deed.REGISTRY, f"inspection {args.point} {args.measure}"[:256], value)
        await registry.record(
            [Fact(Sort.INSPECTION, (args.point, args.measure), value, begins, ends, actor=os_actor().id)]
        )
    finally:
        await registry.close()
    due = (day + timedelta(days=line.inspect_days)).isoformat()
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
            for line in asked_of(registry, history, point, now):
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
