"""`fangkong profile list|check|load`: what sites of each kind must have, from which day on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("profile")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    add_common(verbs.add_parser("list", help="every version in the record, with its source"), _list)
    check = verbs.add_parser("check", help="check a profile file, write nothing")
    check.add_argument("file", type=Path)
    add_common(check, _check)
    load = verbs.add_parser("load", help="put a profile file in force from a day on")
    load.add_argument("file", type=Path)
    load.add_argument("--from", dest="day", required=True, help="first day, like 2026-12-01")
    add_common(load, _load)


async def _list(args: argparse.Namespace) -> int:
    from gateway.coverage.days import day_of
    from gateway.coverage.facts import Sort
    from gateway.coverage.requirements import profile_of

    registry = await open_registry(args)
    rows = []
    after = 0
    try:
        while page := await registry.facts(after=after):
            after = page[-1].id
            for fact in page:
                if fact.sort is Sort.PROFILE and fact.value is not None:
                    profile = profile_of(fact.subject[0], fact.value)
                    rows.append(
                        {
                            "site_kind": profile.site_kind,
                            "version": profile.version,
                            "from": day_of(fact.valid_from).isoformat(),
                            "requirements": len(profile.requirements),
                            "source": profile.source,
                        }
                    )
    finally:
        await registry.close()
    show(args, rows, empty="no profiles 没有配置要求")
    return OK


async def _check(args: argparse.Namespace) -> int:
    from gateway.coverage.profile_file import profile_from

    profile = profile_from(args.file)
    show(args, [{"site_kind": profile.site_kind, "requirements": len(profile.requirements)}], empty="")
    return OK


async def _load(args: argparse.Namespace) -> int:
    from datetime import date

    from gateway.audit import Deed
    from gateway.coverage.days import start_of
    from gateway.coverage.facts import Fact, Sort
    from gateway.coverage.profile_file import profile_from
    from gateway.errors import ConfigError, Problem

    profile = profile_from(args.file)
    try:
        begins = start_of(date.fromisoformat(args.day))
    except ValueError as error:
        hint = "日期应为 2026-12-01 这样的格式"
        problem = Problem("command line", None, "--from", f"found {args.day!r}", "a day like 2026-12-01", hint)
        raise ConfigError([problem]) from error
    registry = await open_registry(args)
    try:
        subject = f"profile {profile.site_kind} {profile.version} from {args.day}"[:256]
        await audit_of(args).record(os_actor(), Deed.REGISTRY, subject)
        await registry.record(
            [Fact(Sort.PROFILE, (profile.site_kind,), profile.value, begins, actor=os_actor().id)]
        )  # fmt: skip
    finally:
        await registry.close()
    show(args, [{"site_kind": profile.site_kind, "version": profile.version, "from": args.day}], empty="")
    return OK
