"""The ledger's schema on disk: bring it up to date, refuse what is newer, guard what SQLite would lose.

SQLite cannot alter a column: the table is copied, dropped and renamed. With foreign keys on, the drop takes the rows
that point at it along, and the copy comes back without its indexes. Such a migration therefore runs only when asked
for, on a connection without foreign keys, beside a backup, and is undone when rows or indexes are missing afterwards.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tortoise.context import TortoiseContext
from tortoise.exceptions import BaseORMException
from tortoise.migrations.executor import MigrationExecutor, PlanStep

from gateway.errors import ConfigError, Problem

APP = "registry"
MIGRATIONS = "gateway.registry.migrations"
BUSY_TIMEOUT_MS = 5000
"""How long a writer waits for another one (the daemon reads, the command line writes)."""

FAULTS = (BaseORMException, sqlite3.Error)
"""Tortoise puts most of SQLite's errors into its own words, and passes on those of a damaged file as they are."""

_DROPS = re.compile(r"\bDROP\s+TABLE\b", re.IGNORECASE)


def database(path: Path, *, migrations: str = MIGRATIONS, foreign_keys: bool = True) -> dict[str, Any]:
    """Tortoise's configuration for one ledger file. Credentials become PRAGMAs; a URL would misread odd paths."""
    pragmas = {"busy_timeout": BUSY_TIMEOUT_MS, "synchronous": "FULL", "foreign_keys": int(foreign_keys)}
    return {
        "connections": {
            APP: {"engine": "tortoise.backends.sqlite", "credentials": {"file_path": str(path), **pragmas}}
        },
        "apps": {APP: {"models": ["gateway.registry.models"], "migrations": migrations, "default_connection": APP}},
    }


async def migrate(path: Path, *, rebuild: bool = False, migrations: str = MIGRATIONS) -> list[str]:
    """Apply what is pending and return its names. `rebuild` allows migrations that drop and rebuild tables.

    Raises ConfigError when the file is newer than this program, damaged, or needs a rebuild that was not asked for.
    """
    await asyncio.to_thread(_check_file, path)
    try:
        pending, rebuilding = await _pending(path, migrations)
        if rebuilding and not rebuild:
            raise ConfigError([_needs_rebuild(path, rebuilding)])
        if rebuilding:
            await _rebuild(path, migrations, pending[0])
        elif pending:
            await _apply(path, migrations, foreign_keys=True)
    except FAULTS as error:
        raise ConfigError([unusable(path, error)]) from error
    return pending


async def require_current(path: Path) -> None:
    """Changes nothing. Raises ConfigError when the file would have to be brought up to date before it can be read, or is damaged."""
    await asyncio.to_thread(_check_file, path)
    try:
        pending, _ = await _pending(path, MIGRATIONS)
    except FAULTS as error:
        raise ConfigError([unusable(path, error)]) from error
    if pending:
        hint = "start the gateway, or run fangkong migrate: both bring it up to date 台账为旧版本,请启动服务或运行 fangkong migrate"
        found = f"a ledger of an earlier version, without {', '.join(pending)}"
        raise ConfigError([Problem(str(path), None, "registry", found, "a ledger of this version", hint)])


def unusable(path: Path, error: Exception) -> Problem:
    """SQLite's own words about a file it cannot use."""
    return Problem(str(path), None, "registry", str(error), "a ledger of this program that can be written")


def _check_file(path: Path) -> None:
    """Ask SQLite before Tortoise does: it would leave a thread or a lock behind on a file whose tables cannot be read."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise ConfigError([unusable(path, error)]) from error


async def _pending(path: Path, migrations: str) -> tuple[list[str], list[str]]:
    """Names still to be applied, and those among them that drop a table."""
    config = database(path, migrations=migrations)
    async with TortoiseContext() as context:
        await context.init(config)
        executor = MigrationExecutor(context.db(), config["apps"])
        plan = await executor.plan()
        applied = await executor.recorder.applied_migrations()
        if unknown := [key.name for key in applied if not _is_known(executor, key)]:
            raise ConfigError([_newer(path, unknown, executor)])
        guarded = plan if applied else []  # an empty file has nothing to lose
        return [step.migration.name for step in plan], [
            step.migration.name for step in guarded if await _drops_table(executor, step)
        ]


def _is_known(executor: MigrationExecutor, key: Any) -> bool:
    return key in executor.loader.disk_migrations


async def _drops_table(executor: MigrationExecutor, step: PlanStep) -> bool:
    statements = await executor.collect_sql(step.migration.app_label, step.migration.name)
    return any(_DROPS.search(statement) for statement in statements)


async def _apply(path: Path, migrations: str, *, foreign_keys: bool) -> None:
    config = database(path, migrations=migrations, foreign_keys=foreign_keys)
    async with TortoiseContext() as context:
        await context.init(config)
        await MigrationExecutor(context.db(), config["apps"]).migrate(direction="forward")


# -- the guarded path --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a rebuild must bring back."""

    rows: dict[str, int]
    indexes: frozenset[tuple[str, bool, tuple[str, ...]]]
    """Table, unique, columns: names of automatic indexes change with a rebuild, these do not."""
    orphans: int


def _contents(path: Path) -> _Contents:
    with closing(sqlite3.connect(path)) as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = [str(name) for (name,) in connection.execute(names) if name != "tortoise_migrations"]
        rows = {table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}  # noqa: S608  # its own table names
        indexes = set()
        for table in tables:
            for index in connection.execute("SELECT name, [unique] FROM pragma_index_list(?)", (table,)).fetchall():
                columns = connection.execute("SELECT name FROM pragma_index_info(?)", (index[0],)).fetchall()
                indexes.add((table, bool(index[1]), tuple(str(column) for (column,) in columns)))
        return _Contents(rows, frozenset(indexes), len(connection.execute("PRAGMA foreign_key_check").fetchall()))


async def _rebuild(path: Path, migrations: str, first: str) -> None:
    """Back up, apply without foreign keys, compare; put the backup back when anything is missing."""
    backup = path.with_name(f"{path.name}.before-{first}")
    backup.unlink(missing_ok=True)  # a leftover of an attempt that was undone: the file itself holds the same
    await asyncio.to_thread(_copy, path, backup)
    before = await asyncio.to_thread(_contents, path)
    try:
        await _apply(path, migrations, foreign_keys=False)
        missing = _missing(before, await asyncio.to_thread(_contents, path))
    except BaseException:  # a cancellation too: never half a migration
        await asyncio.to_thread(_put_back, backup, path)
        raise
    if missing:
        await asyncio.to_thread(_put_back, backup, path)
        found = "; ".join(missing)
        raise ConfigError(
            [Problem(str(path), None, "migration", found, "every row and index kept", f"undone; {backup}")]
        )


def _missing(before: _Contents, after: _Contents) -> list[str]:
    lost = [
        f"table {table} had {count} rows, now {after.rows[table]}"
        for table, count in before.rows.items()
        if table in after.rows and after.rows[table] != count
    ]
    lost += [
        f"index on {table} ({', '.join(columns)}) is gone"
        for table, _, columns in sorted(before.indexes - after.indexes)
        if table in after.rows
    ]
    if after.orphans:
        lost.append(f"{after.orphans} rows point at nothing")
    return lost


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _put_back(backup: Path, path: Path) -> None:
    """Overwrite in place, through SQLite's own locks, so that other connections see one change."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def _newer(path: Path, unknown: list[str], executor: MigrationExecutor) -> Problem:
    newest = max((key.name for key in executor.loader.disk_migrations), default="none")
    return Problem(
        str(path), None, "schema", f"made by a newer version (migration {', '.join(unknown)})", f"at most {newest}",
        "install the newer version again, or restore the backup 请使用新版本程序",
    )  # fmt: skip


def _needs_rebuild(path: Path, rebuilding: list[str]) -> Problem:
    return Problem(
        str(path), None, "schema", f"migration {', '.join(rebuilding)} rebuilds tables", "a guarded migration",
        'stop the daemon and run "fangkong migrate" 请停止服务后运行 fangkong migrate',
    )  # fmt: skip
