"""The event log's tables, and how a file is opened and judged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

from gateway.errors import StoreError

VERSION = 1
"""Kept in PRAGMA user_version. A file from a newer program is refused, never guessed at."""

STATEMENTS_KEPT = 320
"""Compiled statements of the writer: those of four tables for each number of rows up to 64, and the rest. Some 3 MB."""

BALLAST_BYTES = 65536
"""Written at every opening. A disk that takes this takes a batch of events; a single page may find room on a full one."""

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

# The partial indexes carry `state` so that SQLite answers from them alone: counting at start and in each backlog, and
# finding what still has to go out when the table itself is damaged.
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
CREATE INDEX events_by_lane ON events (lane, seq);
CREATE TABLE outbox (
    destination TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES events (seq),
    lane INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'accepted', 'dead')),
    account TEXT,
    number INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    accepted_ms INTEGER,
    PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
CREATE INDEX outbox_queued ON outbox (destination, lane, seq, state) WHERE state = 'queued';
CREATE UNIQUE INDEX outbox_open_numbers ON outbox (destination, account, number)
    WHERE number IS NOT NULL AND state <> 'accepted';
CREATE INDEX outbox_dead ON outbox (destination, seq, state) WHERE state = 'dead';
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
CREATE TABLE session (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    clean INTEGER NOT NULL,
    ballast BLOB NOT NULL
);
"""

# Made where they are missing, also in a file of an earlier program. That one goes on with a file that has them: tables it does
# not know are no reason to refuse the way back, so the version stays.
ADDED = """
CREATE TABLE IF NOT EXISTS commands (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,
    site TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    body TEXT NOT NULL
);
"""


DatabaseErrors = (sqlite3.Error, UnicodeDecodeError)
"""What a statement raises. The second when SQLite's own message quotes a schema that is garbage."""


class Damaged(sqlite3.DatabaseError):
    """The file cannot be what the store has written."""


def means_damage(error: Exception) -> bool:
    """True when the file's content is at fault, not the disk under it."""
    if isinstance(error, Damaged | UnicodeDecodeError):
        return True
    # Errors the Python module raises by itself carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Connect(Protocol):
    """How a file is opened: `connect`, or a simulated disk's."""

    def __call__(self, path: Path, *, read_only: bool = False) -> sqlite3.Connection: ...


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode; the caller says BEGIN. May be used from another thread than its maker's."""
    if read_only:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        settings = "PRAGMA busy_timeout=5000; PRAGMA query_only=1;"
    else:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_KEPT
        )
        settings = PRAGMAS
    # A flipped bit may leave text that is no UTF-8: show what is left instead of refusing the whole page.
    connection.text_factory = _text
    try:
        connection.executescript(settings)
    except DatabaseErrors:
        connection.close()
        raise
    return connection


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def ensure_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables that are missing. Raises StoreError for a file of a newer program."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer fangkong (schema {version}, this one knows {VERSION}): upgrade the program"
        )
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
    connection.executescript(ADDED)


def begin_session(connection: sqlite3.Connection) -> bool:
    """Mark the file as in use, and prove that the disk takes writes. Returns whether it was closed in order before."""
    before = connection.execute("SELECT clean FROM session").fetchone()
    connection.execute("INSERT OR REPLACE INTO session VALUES (1, 0, zeroblob(?))", (BALLAST_BYTES,))
    return before is None or before[0] == 1


def end_session(connection: sqlite3.Connection) -> None:
    """Mark the file as closed in order: the next start need not check it. Then empty the write-ahead log."""
    connection.execute("UPDATE session SET clean = 1")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def check(connection: sqlite3.Connection, *, thorough: bool) -> None:
    """Read the whole file. Raises Damaged.

    A million events take 0.7 s from memory; thorough, with indexes held against their tables, 3 s.
    From a card it takes as long as reading the file does.
    """
    (found,) = connection.execute(f"PRAGMA {'integrity' if thorough else 'quick'}_check(1)").fetchone()
    if found != "ok":
        raise Damaged(found)
