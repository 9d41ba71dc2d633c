"""A damaged file: read out what can be read, set the file aside, go on with a new one.

A kill at any moment only means that the next start begins again or finishes: nothing of the damaged file is moved
before its replacement is complete and carries its final name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from gateway.store.schema import DatabaseErrors, connect, ensure_tables

SIDE_FILES = ("", "-wal", "-shm")
"""The suffixes of the files that make up one SQLite database."""

DAMAGED_KEPT = 2
"""Damaged files kept for people to look at, the newest; a dying disk must not fill itself with them."""

ROW_BYTES_MIN = 8
"""No stored row is smaller. Bounds a scan over pages that lead in a circle."""

SALVAGED_TABLES = {
    "events": "events_by_lane",
    "outbox": "outbox_by_event",
    "numbers": "",
    "latest": "",
    "heard": "",
    "commands": "",
}
"""What is worth reading out, parents before children, and the index that names the rows when the table's tree is broken."""


def prepare_replacement(path: Path, stamp: str) -> None:
    """Write what can be read of the damaged file into a new one beside it. `finish_replacement` puts it in place."""
    part = path.with_name(f"{path.name}.salvage")
    for suffix in SIDE_FILES:
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    with closing(connect(part)) as into:
        ensure_tables(into, part)
        _salvage(path, into)
    while _aside(path, stamp).exists():
        stamp += "+"  # a second one within the same second
    part.rename(path.with_name(f"{path.name}.salvaged-{stamp}"))


def finish_replacement(path: Path) -> str:
    """Set the damaged file aside and put its replacement in place, if one is ready. Returns the name set aside, or ""."""
    for ready in path.parent.glob(f"{path.name}.salvaged-*"):
        aside = _aside(path, ready.name.removeprefix(f"{path.name}.salvaged-"))
        for suffix in SIDE_FILES:
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        ready.rename(path)
        _forget_old(path)
        return aside.name
    return ""


def _aside(path: Path, stamp: str) -> Path:
    return path.with_name(f"{path.name}.damaged-{stamp}")


def _forget_old(path: Path) -> None:
    kept = sorted(p for p in path.parent.glob(f"{path.name}.damaged-*") if not p.name.endswith(SIDE_FILES[1:]))
    for old in kept[:-DAMAGED_KEPT]:
        for suffix in SIDE_FILES:
            old.with_name(old.name + suffix).unlink(missing_ok=True)


def _salvage(damaged: Path, into: sqlite3.Connection) -> None:
    try:
        source = connect(damaged, read_only=True)
    except DatabaseErrors:
        return  # nothing in it can be read: the new log starts empty
    rows_max = damaged.stat().st_size // ROW_BYTES_MIN
    with closing(source):
        source.execute("PRAGMA writable_schema=ON")  # else SQLite reads nothing of a file shorter than it claims to be
        into.execute("PRAGMA foreign_keys=OFF")
        into.execute("BEGIN IMMEDIATE")
        for table, index in SALVAGED_TABLES.items():
            described = into.execute(f"PRAGMA table_info({table})").fetchall()
            columns = ",".join(row[1] for row in described)
            keys = [row[1] for row in described if row[5]]
            statement = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({','.join('?' * len(described))})"
            into.executemany(statement, _rows(source, f"SELECT {columns} FROM {table}", keys, index, rows_max))
        # The queue's own index tells what still has to go out even where the rows themselves are lost.
        queued = "SELECT destination, seq, lane FROM outbox INDEXED BY outbox_queued WHERE state = 'queued'"
        into.executemany(
            "INSERT OR IGNORE INTO outbox (destination, seq, lane) VALUES (?, ?, ?)", _scan(source, queued, rows_max)
        )
        # An outbox row whose event could not be read has nothing left to deliver.
        into.execute("DELETE FROM outbox WHERE seq NOT IN (SELECT seq FROM events)")
        into.execute("COMMIT")


Row = tuple[object, ...]


def _rows(source: sqlite3.Connection, select: str, keys: list[str], index: str, rows_max: int) -> Generator[Row]:
    """Rows of a damaged table: from the front up to the break, from the back down to it, then one by one.

    Some come twice; the key sorts that out.
    """
    if (yield from _scan(source, f"{select} ORDER BY {','.join(keys)}", rows_max)):
        return
    yield from _scan(source, f"{select} ORDER BY {','.join(f'{key} DESC' for key in keys)}", rows_max)
    if index:
        one = f"{select} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"
        table = select.rpartition(" ")[2]
        for key in _scan(source, f"SELECT {','.join(keys)} FROM {table} INDEXED BY {index}", rows_max):
            yield from _scan(source, one, 1, key)


def _scan(source: sqlite3.Connection, query: str, rows_max: int, values: Row = ()) -> Generator[Row, None, bool]:
    """Rows up to the first that cannot be read. Returns whether that was all of them."""
    try:
        yield from source.execute(f"{query} LIMIT {rows_max}", values)
    except DatabaseErrors:
        return False
    return True
