"""`fangkong inventory import|export|sample`: the whole inventory as a workbook or a CSV file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, USAGE, add_common, audit_of, open_registry, os_actor, put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.audit import Deed
    from gateway.cli import Commands
    from gateway.cli._inventory_file import Inventory
    from gateway.coverage.facts import Fact
    from gateway.registry import Registry, Written

SHOW_EVERY = 500
"""Rows between two steps of the bar."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("inventory")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    load = verbs.add_parser("import", help="add and update everything from FILE (.xlsx or .csv; docs/inventory.md)")
    load.add_argument("file", type=Path)
    load.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    add_common(load, _import)

    save = verbs.add_parser("export", help="write everything to FILE (.xlsx or .csv)")
    save.add_argument("file", type=_table_file)
    add_common(save, _export)

    sample = verbs.add_parser("sample", help="write an invented district to FILE: 7 control zones, some 1 000 points")
    sample.add_argument("file", type=_table_file)
    sample.add_argument("--seed", type=int, default=7)
    sample.set_defaults(run=_sample)


def _table_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".xlsx", ".csv"):
        raise argparse.ArgumentTypeError(f"{text}: expected a name that ends in .xlsx or .csv 应为 .xlsx 或 .csv 文件")
    return path


async def _import(args: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from gateway.cli._device_csv import PROBLEMS_MAX
    from gateway.cli._inventory_file import read_inventory
    from gateway.errors import ConfigError

    registry = await open_registry(args)
    try:
        _show("reading 读取")
        wanted = read_inventory(args.file, registry.snapshot, _count)
        _show(f"checking and writing {len(wanted.entries)} 校验并写入")
        facts, said = await _facts(registry, wanted)
        things = await put(
            args, registry, wanted.things,
            dry_run=args.dry_run, report=wanted.report, facts=facts, deeds=_deeds(facts),
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(error.problems[:PROBLEMS_MAX]) from error
    finally:
        _show("")
        await registry.close()
    written = replace(
        things,
        added=things.added + said.added,
        updated=things.updated + said.updated,
        unchanged=things.unchanged + said.unchanged,
    )
    if args.json:
        print(json.dumps({"ok": True, "dry_run": args.dry_run, **asdict(written)}))
    else:
        would = "would be " if args.dry_run else ""
        print(f"{written.added} {would}added, {written.updated} {would}updated, {written.unchanged} unchanged")
    return OK


async def _facts(registry: Registry, wanted: Inventory) -> tuple[Sequence[Fact], Written]:
    """The waivers and inspections of a file that the record does not have. Raises ConfigError with every mistake of the file."""
    from gateway.cli._asked import history_of
    from gateway.cli._statements import weigh
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort
    from gateway.errors import ConfigError
    from gateway.registry import Written
    from gateway.registry.checks import join

    if not wanted.statements:
        return (), Written()
    now = RealClock().now()
    history = await history_of(registry, Sort.PROFILE, Sort.WAIVER, Sort.INSPECTION)
    ledger = join(registry.snapshot, wanted.things)
    facts, problems, updated = [], [], 0
    for statement in wanted.statements:
        known = statement.known(history, now)
        # What was taken stays so: that its day has come or its profile changed since is no mistake of the file.
        if known == statement:
            continue
        findings, fact = weigh(statement, ledger, history, now, os_actor().id)
        problems += [wanted.report(statement, finding) for finding in findings]
        if fact is not None:
            facts.append(fact)
            updated += known is not None
    if problems:
        try:
            await registry.put(wanted.things, dry_run=True, report=wanted.report)
        except ConfigError as error:
            problems = [*error.problems, *problems]
        raise ConfigError(problems)
    return facts, Written(len(facts) - updated, updated, len(wanted.statements) - len(facts))


def _deeds(facts: Sequence[Fact]) -> Sequence[tuple[Deed, str]]:
    """One for all waivers, one for all inspections: what each says, and who said it, stands in the record of facts."""
    from gateway.audit import Deed
    from gateway.coverage.facts import Sort

    found = []
    for sort, deed in ((Sort.WAIVER, Deed.WAIVER), (Sort.INSPECTION, Deed.REGISTRY)):
        subjects = [" ".join(fact.subject) for fact in facts if fact.sort is sort]
        if subjects:
            more = f" and {len(subjects) - 1} more" if subjects[1:] else ""
            found.append((deed, f"{sort.value} {subjects[0]}"[:200] + more))
    return found


async def _export(args: argparse.Namespace) -> int:
    from gateway.audit import Deed
    from gateway.cli._asked import history_of
    from gateway.cli._inventory_file import write_inventory
    from gateway.cli._statements import in_force
    from gateway.clock import RealClock
    from gateway.coverage.facts import Sort

    registry = await open_registry(args)
    try:
        # Before it leaves: who carries all addresses and phones of a district away is to be known.
        await audit_of(args).record(os_actor(), Deed.EXPORT, "inventory", {"file": args.file.name[:128]})
        history = await history_of(registry, Sort.WAIVER, Sort.INSPECTION)
        said = in_force(history, registry.snapshot, RealClock().now())
        rows = write_inventory(args.file, registry.snapshot, said)
    finally:
        await registry.close()
    print(json.dumps({"ok": True, "rows": rows}) if args.json else f"{rows} rows in {args.file}")
    return OK


def _sample(args: argparse.Namespace) -> int:
    from gateway.cli._district import district
    from gateway.cli._inventory_file import write_inventory
    from gateway.errors import ConfigError
    from gateway.registry.checks import join
    from gateway.registry.snapshot import EMPTY

    try:
        rows = write_inventory(args.file, join(EMPTY, district(args.seed)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    print(f"{rows} rows in {args.file}")
    return OK


def _count(rows: int) -> None:
    if rows % SHOW_EVERY == 0:
        _show(f"reading 读取 {rows} " + "█" * min(40, rows // SHOW_EVERY))


def _show(text: str) -> None:
    """On a terminal alone, in one line that is wiped out again."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
