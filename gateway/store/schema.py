"""The event log's tables, how a file is opened, and what happens when it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from gateway.errors import StoreError

VERSION = 1
"""Kept in PRAGMA user_version. A file from a newer program is refused, never guessed at."""

SALVAGE_STEP = 500
"""Rows read at once from a damaged file; a step that fails is read row by row."""

# synchronous=FULL: NORMAL survives a killed process but a power cut takes every recently committed row with it.
PRAGMAS = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA foreign_keys=ON;
PRAGMA busy_timeout=5000;
PRAGMA wal_autocheckpoint=1000;
PRAGMA journal_size_limit=8388608;
PRAGMA temp_store=MEMORY;
"""

TABLES = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    repeat_key TEXT UNIQUE,
    device TEXT NOT NULL,
    site TEXT,
    kind TEXT NOT NULL,
    qualifier TEXT NOT NULL,
    lane INTEGER NOT NULL,
    zone INTEGER,
    received_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    raw BLOB NOT NULL
);
CREATE INDEX events_by_device ON events (device, seq);
CREATE INDEX events_by_site ON events (site, seq);
CREATE INDEX events_to_shed ON events (lane, seq) WHERE lane >= 2;
CREATE TABLE outbox (
    destination TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES events (seq),
    lane INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    account TEXT,
    number INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    accepted_ms INTEGER,
    PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
CREATE INDEX outbox_queued ON outbox (destination, lane, seq) WHERE state = 'queued';
CREATE INDEX outbox_open_numbers ON outbox (destination, account, number) WHERE number IS NOT NULL AND state <> 'accepted';
CREATE INDEX outbox_dead ON outbox (destination, seq) WHERE state = 'dead';
CREATE INDEX outbox_by_event ON outbox (seq);
CREATE TABLE numbers (
    destination TEXT NOT NULL,
    account TEXT NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (destination, account)
) WITHOUT ROWID;
CREATE TABLE latest (
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    zone INTEGER NOT NULL,
    qualifier TEXT NOT NULL,
    PRIMARY KEY (device, kind, zone)
) WITHOUT ROWID;
CREATE TABLE heard (
    device TEXT PRIMARY KEY,
    at_ms INTEGER,
    deadline_ms INTEGER,
    silent INTEGER NOT NULL,
    connection TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE rejected (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    connection TEXT NOT NULL,
    reason TEXT NOT NULL,
    raw BLOB NOT NULL
);
"""

SALVAGED_TABLES = ("events", "outbox", "numbers", "latest", "heard")
"""What is worth reading out of a damaged file, parents before children."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode; the caller says BEGIN. May be used from another thread than its maker's."""
    if read_only:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA query_only=1")
        return connection
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.executescript(PRAGMAS)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_log(path: Path, *, stamp: str) -> tuple[sqlite3.Connection, str]:
    """Open for writing, make or check the tables. A damaged file is set aside under a name ending in `stamp`,
    what can be read is salvaged into a new one, and that name is returned beside the connection ("" when sound).

    Raises StoreError for a file of a newer program, sqlite3.Error when the disk does not let us.
    """
    try:
        connection = connect(path)
    except sqlite3.DatabaseError as error:
        if not _means_damage(error):
            raise
        return _replace_damaged(path, stamp)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
            _ensure_tables(connection, path)
            return connection, ""
    except sqlite3.DatabaseError as error:
        if not _means_damage(error):
            connection.close()
            raise
    except StoreError:
        connection.close()
        raise
    connection.close()
    return _replace_damaged(path, stamp)


def _means_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _ensure_tables(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer fangkong (schema {version}, this one knows {VERSION}): upgrade the program"
        )
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")


def _replace_damaged(path: Path, stamp: str) -> tuple[sqlite3.Connection, str]:
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    connection = connect(path)
    _ensure_tables(connection, path)
    _salvage(aside, connection)
    return connection, aside.name


def _salvage(damaged: Path, into: sqlite3.Connection) -> None:
    try:
        source = connect(damaged, read_only=True)
    except sqlite3.Error:
        return  # nothing in it can be read: the new log starts empty
    with closing(source):
        into.execute("PRAGMA foreign_keys=OFF")
        into.execute("BEGIN IMMEDIATE")
        for table in SALVAGED_TABLES:
            columns = [row[1] for row in into.execute(f"PRAGMA table_info({table})")]
            marks = ",".join("?" * len(columns))
            statement = f"INSERT OR IGNORE INTO {table} ({','.join(columns)}) VALUES ({marks})"
            into.executemany(statement, _readable_rows(source, table, columns))
        # An outbox row whose event could not be read has nothing left to deliver.
        into.execute("DELETE FROM outbox WHERE seq NOT IN (SELECT seq FROM events)")
        into.execute("COMMIT")
        into.execute("PRAGMA foreign_keys=ON")


def _readable_rows(source: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
    """Rows of a damaged table, walking over the pages that cannot be read."""
    key = "seq" if table == "events" else None
    listing = ",".join(columns)
    try:
        if key is None:
            yield from source.execute(f"SELECT {listing} FROM {table}")
            return
        low, high = source.execute("SELECT COALESCE(MIN(seq), 1), COALESCE(MAX(seq), 0) FROM events").fetchone()
    except sqlite3.Error:
        return
    query = f"SELECT {listing} FROM {table} WHERE seq BETWEEN ? AND ?"
    for start in range(low, high + 1, SALVAGE_STEP):
        try:
            yield from source.execute(query, (start, start + SALVAGE_STEP - 1)).fetchall()
        except sqlite3.Error:
            for seq in range(start, start + SALVAGE_STEP):
                try:
                    yield from source.execute(query, (seq, seq)).fetchall()
                except sqlite3.Error:
                    continue
