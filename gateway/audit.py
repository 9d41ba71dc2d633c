"""Who did what, in a file that only grows and shows when somebody changed it: each row holds the hash of the one before.

A file of its own, because the command line writes too and the event log has one writer. Durable before the act: whoever
cannot record an act must not do it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from gateway.access import GATEWAY, Actor
from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.model import NOTHING, Scalar

FILE = "audit.db"
GENESIS = "0" * 64
"""What the first row follows."""
KEEP = timedelta(days=730)
"""Two years, as alarms are kept."""
ROWS_MAX = 200_000
"""About 100 MB. Log-ins and commands of a large site are some hundred a day."""
SUBJECT_MAX = 256
DETAILS_MAX_BYTES = 4096
"""A row is a line in a record, not a store of files."""
PIECE = 1000
"""Rows read at once, some milliseconds: who writes waits for a reader, and may be opening a door."""
BUSY_TIMEOUT_S = 5.0
"""The daemon and the command line take turns of a few milliseconds."""

_SCHEMA = """CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, role TEXT NOT NULL, deed TEXT NOT NULL,
    subject TEXT NOT NULL, details TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL) STRICT"""
_COLUMNS = "seq, at, actor, role, deed, subject, details, previous, hash"


class Deed(StrEnum):
    """What can be recorded."""

    LOG_IN = "log-in"
    LOG_IN_REFUSED = "log-in refused"
    LOG_OUT = "log-out"
    PASSWORD = "password"  # noqa: S105  # the name of a deed
    ACCOUNT = "account"
    TOKEN = "token"  # noqa: S105  # likewise
    COMMAND = "command"
    REGISTRY = "registry"
    CONFIGURATION = "configuration"
    DELIVERIES = "deliveries"
    WALK_TEST = "walk test"
    ACCEPTANCE = "acceptance"
    CAPTURE = "capture"
    WAIVER = "waiver"
    EDITION = "edition"
    EXPORT = "export"
    """The inventory left the box as a file."""
    PRUNED = "pruned"
    """The oldest rows were removed by age; this row says which, so that the rest still proves itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the record."""

    seq: int
    at: str
    actor: str
    role: str
    deed: str
    subject: str
    details: str
    """JSON."""
    previous: str
    hash: str

    @property
    def true_hash(self) -> str:
        """What `hash` must be."""
        content = [self.seq, self.at, self.actor, self.role, self.deed, self.subject, self.details, self.previous]
        return hashlib.sha256(_json(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row: who has noted it can tell later whether rows were cut off behind it."""

    seq: int = 0
    hash: str = GENESIS

    @property
    def mark(self) -> int:
        """The first 48 bits of the hash: a metric's value holds no more exactly."""
        return int(self.hash[:12], 16)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look through the whole record has found."""

    rows: int
    head: Head
    fault: str = ""
    """The first row that is not as it was written; "" when the chain is whole."""


class Audit:
    """The record of one box. Opened anew for every row: a file that was exchanged underneath does not go unnoticed."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._turn = asyncio.Lock()
        self.head = Head()
        """As last seen."""
        self.fault = ""
        """Set for good when what this process had seen is not there any more."""

    async def record(self, actor: Actor, deed: Deed, subject: str, details: Mapping[str, Scalar] = NOTHING) -> None:
        """Durable when it returns; call it before the act takes effect. Raises StoreError: then the act must not happen."""
        text = _json(dict(sorted(details.items())))
        if len(subject) > SUBJECT_MAX or len(text.encode()) > DETAILS_MAX_BYTES:
            raise ValueError(f"{deed}: a subject of {SUBJECT_MAX} characters and {DETAILS_MAX_BYTES} bytes are enough")
        at = self._now()
        async with self._turn:
            await asyncio.to_thread(self._append, (at, actor.id, actor.role.value, deed.value, subject, text))

    async def look(self) -> None:
        """Bring `head` and `fault` up to date with what other processes did. Raises StoreError."""
        async with self._turn:
            await asyncio.to_thread(self._look)

    async def prune(self) -> int:
        """Remove rows older than `KEEP` and beyond `ROWS_MAX`; how many. The chain stays provable. Raises StoreError."""
        cutoff = (self._clock.now() - KEEP).isoformat(timespec="milliseconds")
        async with self._turn:
            return await asyncio.to_thread(self._prune, cutoff, self._now())

    def _now(self) -> str:
        return self._clock.now().isoformat(timespec="milliseconds")

    # -- in a thread -----------------------------------------------------------------------------------------------------

    def _append(self, content: tuple[str, str, str, str, str, str]) -> None:
        with _writing(self.path) as db:
            head = self._write(db, content)
        self.head = head  # not before it is durable: what a full disk refuses was never written

    def _look(self) -> None:
        if self.path.exists() or self.head.seq:
            with _writing(self.path) as db:
                self._newest(db)

    def _prune(self, cutoff: str, at: str) -> int:
        with _writing(self.path) as db:
            last = self._newest(db).seq
            old = "SELECT seq, hash FROM audit WHERE (at < ? OR seq <= ?) AND seq <= ? ORDER BY seq DESC LIMIT 1"
            found = db.execute(old, (cutoff, last - ROWS_MAX, last)).fetchone()
            if found is None:
                return 0
            [first] = db.execute("SELECT MIN(seq) FROM audit").fetchone()
            rows = found[0] - first + 1
            details = _json({"hash": found[1], "rows": rows, "through": found[0]})
            head = self._write(
                db, (at, GATEWAY.id, GATEWAY.role.value, Deed.PRUNED.value, f"rows {first} to {found[0]}", details)
            )
            db.execute("DELETE FROM audit WHERE seq <= ?", (found[0],))
        self.head = head
        return int(rows)

    def _write(self, db: sqlite3.Connection, content: tuple[str, str, str, str, str, str]) -> Head:
        last = self._newest(db)
        row = Row(last.seq + 1, *content, previous=last.hash, hash="")
        values = (row.seq, *content, row.previous, row.true_hash)
        db.execute(f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608  # our own column names
        return Head(row.seq, row.true_hash)

    def _newest(self, db: sqlite3.Connection) -> Head:
        """The last row, held against what this process saw before."""
        known = self.head
        if known.seq and db.execute("SELECT hash FROM audit WHERE seq = ?", (known.seq,)).fetchone() != (known.hash,):
            self.fault = self.fault or f"row {known.seq}, which was written, is gone or another"
        found = db.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        self.head = Head(*found) if found else Head()
        return self.head


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one change, with the write lock of the file: nobody comes between reading the head and following it.
    Raises StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as db:
            # Not WAL: one file that can be copied and looked at; EXTRA syncs the folder too, so a row survives a power cut.
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SCHEMA)
            yield db
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}; an audit record that can be written was expected") from error


# -- reading, beside whoever writes ------------------------------------------------------------------------------------


def rows(path: Path, *, before: int | None = None, limit: int | None = None) -> Iterator[Row]:
    """Rows newest first, below `before`; all of them, or at most `limit`. Raises StoreError."""
    query = f"SELECT {_COLUMNS} FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608  # our own column names
    yield from _read(path, query, (2**63 - 1 if before is None else before, -1 if limit is None else limit))


def verify(path: Path, *, noted: tuple[int, int] | None = None) -> Verdict:
    """Follow the chain from its first row. `noted`: number and mark of a head somebody wrote down earlier (`Head.mark`), which
    must still be there: a chain alone cannot show that its end was cut off. Raises StoreError."""
    last, count, pruned = Head(), 0, _pruned(path)
    for row in _oldest_first(path):
        if count == 0 and row.seq > 1 and pruned.get(row.seq - 1) == row.previous:
            last = Head(row.seq - 1, row.previous)
            if noted and 0 < noted[0] < row.seq:
                return Verdict(0, last, f"row {noted[0]}, which was noted, is gone: row {row.seq} is the first")
        if fault := _fault(row, last, noted):
            return Verdict(count, last, fault)
        last, count = Head(row.seq, row.hash), count + 1
    if noted and last.seq < noted[0]:
        return Verdict(count, last, f"row {last.seq + 1} was removed, and all behind it: row {noted[0]} was there")
    if count == 0:
        return Verdict(0, last, "there is no row: nothing was ever done on this box, or the record was removed")
    return Verdict(count, last)


def _oldest_first(path: Path) -> Iterator[Row]:
    query, last = f"SELECT {_COLUMNS} FROM audit WHERE seq > ? ORDER BY seq LIMIT {PIECE}", -(2**63)  # noqa: S608  # our own column names
    while piece := list(_read(path, query, (last,))):
        yield from piece
        last = piece[-1].seq


def _fault(row: Row, last: Head, noted: tuple[int, int] | None) -> str:
    if row.seq != last.seq + 1:
        return f"row {last.seq + 1} was removed"
    if row.hash != row.true_hash:
        return f"row {row.seq} was changed"
    if row.previous != last.hash:
        return f"row {row.seq} does not follow row {last.seq}: one of them was exchanged"
    if noted and row.seq == noted[0] and Head(row.seq, row.hash).mark != noted[1]:
        return f"row {row.seq} is not the one that was noted: the record was written anew"
    return ""


def _pruned(path: Path) -> Mapping[int, str]:
    """Where the record was cut off by age: the last row removed, and its hash."""
    cuts: dict[int, str] = {}
    query = f"SELECT {_COLUMNS} FROM audit WHERE deed = ?"  # noqa: S608  # our own column names
    for row in _read(path, query, (Deed.PRUNED.value,)):
        with suppress(ValueError, KeyError, TypeError):  # changed by hand: its own hash tells
            details = json.loads(row.details)
            cuts[details["through"]] = details["hash"]
    return cuts


def _read(path: Path, query: str, values: tuple[object, ...]) -> Iterator[Row]:
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            for values_found in db.execute(query, values):
                yield Row(*values_found)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; an audit record of this program was expected") from error


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)
