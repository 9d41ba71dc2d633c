"""What every command that works on a box's files shares: the site file, the ledger, how errors are told."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.cli import add_config
from gateway.cli._asked import unknown_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from gateway.access import Actor
    from gateway.audit import Audit, Deed
    from gateway.config import SiteFile
    from gateway.coverage.facts import Fact
    from gateway.registry import Registry, Report, Thing, Written

    Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]

OK, FAILED, USAGE = 0, 1, 2
DAYS_MAX = 3660
"""Nothing is due later than in ten years."""


def days(text: str) -> int:
    """So many days from today, as an option says them."""
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= DAYS_MAX):
        raise argparse.ArgumentTypeError(f"0 to {DAYS_MAX} days are expected, not {text!r}")
    return int(text)


def add_common(parser: argparse.ArgumentParser, command: Command) -> None:
    """`--config`, `--json`, and the command itself with its errors told."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document for machines")
    parser.set_defaults(run=lambda args: run(command, args))


def run(command: Command, args: argparse.Namespace) -> int:
    """The exit code of a command; errors go to stderr, as text or JSON."""
    import asyncio
    from dataclasses import asdict

    from gateway.errors import ConfigError, GatewayError

    try:
        return asyncio.run(command(args))
    except ConfigError as error:
        if args.json:
            print(json.dumps({"ok": False, "problems": [asdict(each) for each in error.problems]}, ensure_ascii=False))
        else:
            print(error, file=sys.stderr)
        return USAGE
    except GatewayError as error:
        print(json.dumps({"ok": False, "error": str(error)}) if args.json else error, file=sys.stderr)
        return FAILED


def data_dir(args: argparse.Namespace) -> tuple[SiteFile, Path]:
    """The checked site file and its data directory. Raises ConfigError."""
    from gateway.config import load_site_file

    site_file = load_site_file(args.config)
    return site_file, site_file.data_dir(args.config.resolve().parent)


async def open_registry(args: argparse.Namespace) -> Registry:
    """The ledger of this box, made when it is new. Raises ConfigError."""
    from gateway.registry import Registry

    return await Registry.open(data_dir(args)[1] / "registry.db")


def person() -> str:
    """Who sits at the command line, also behind sudo, as a name of plain letters."""
    import getpass
    import os
    import re

    return re.sub(r"[^A-Za-z0-9.-]", "-", os.environ.get("SUDO_USER") or getpass.getuser())[:32]


def os_actor() -> Actor:
    """Who may write this box's files could change them by hand as well: an administrator, and recorded by name."""
    from gateway.access import Actor, Role

    return Actor(f"os:{person()}", Role.ADMINISTRATOR)


def audit_of(args: argparse.Namespace) -> Audit:
    """The audit record of this box. Raises ConfigError."""
    from gateway.audit import FILE, Audit
    from gateway.clock import RealClock

    return Audit(data_dir(args)[1] / FILE, RealClock())


async def put(
    args: argparse.Namespace,
    registry: Registry,
    things: Sequence[Thing],
    *,
    only: str | None = None,
    dry_run: bool = False,
    report: Report | None = None,
    facts: Sequence[Fact] = (),
    deeds: Sequence[tuple[Deed, str]] = (),
) -> Written:
    """Change the ledger: checked, then audited, then written, `facts` with it. Raises ConfigError, StoreError.

    `deeds`, with their subjects, are those that facts are beside a change of things.
    """
    from gateway.audit import Deed
    from gateway.clock import RealClock

    planned = await registry.put(things, only=only, dry_run=True, report=report)
    for note in await unknown_kinds(registry, things, RealClock().now()):
        print(note, file=sys.stderr)
    if dry_run or not (planned.added or planned.updated or facts):
        return planned
    audit = audit_of(args)
    for deed, subject in deeds:
        await audit.record(os_actor(), deed, subject)
    if planned.added or planned.updated or not deeds:
        kind = type(things[0]).__name__.lower()
        subject = f"{kind} {things[0].id}" + (f" and {len(things) - 1} more" if things[1:] else "")
        counts = {"added": planned.added, "updated": planned.updated}
        await audit.record(os_actor(), Deed.REGISTRY, subject, counts)
    return await registry.put(things, only=only, report=report, facts=facts)


def show(args: argparse.Namespace, rows: list[dict[str, Any]], *, empty: str) -> None:
    """Rows as JSON, or as columns for people."""
    if args.json:
        print(dumped(rows))
    elif not rows:
        print(empty)
    else:
        from gateway.aligned import aligned

        cells = [[_shown(cell) for cell in row.values()] for row in rows]
        print("\n".join(aligned([list(rows[0]), *cells])))


def dumped(value: object) -> str:
    """As JSON, a moment to the second with its offset."""
    return json.dumps(value, ensure_ascii=False, default=_stamped)


def _stamped(value: object) -> str:
    from datetime import datetime

    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


def _shown(cell: object) -> str:
    """For people: moments as the clock on their wall has them, nothing as a dash."""
    from datetime import datetime

    from gateway.coverage.days import LOCAL

    if isinstance(cell, datetime):
        return cell.astimezone(LOCAL).isoformat(" ", "seconds")
    if isinstance(cell, list | tuple):
        between = " " if isinstance(cell, tuple) and not any(isinstance(each, tuple) for each in cell) else ", "
        return between.join(map(_shown, cell)) or "-"
    return "-" if cell is None else str(cell)
