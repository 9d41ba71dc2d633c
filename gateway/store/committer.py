"""Group commit: everything that waits goes to disk in one transaction. Runs in one place at a time, on the writer thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.kinds import FACTS, Lane
from gateway.store import Entry, StoreState
from gateway.store.budget import shed, used_bytes
from gateway.store.rows import EVENT_COLUMNS, event_row
from gateway.store.schema import open_log

INSERT_EVENT = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({','.join('?' * 11)}) ON CONFLICT (repeat_key) DO NOTHING"
INSERT_OUTBOX = "INSERT INTO outbox (destination, seq, lane) VALUES (?, ?, ?)"
UPSERT_LATEST = "INSERT OR REPLACE INTO latest (device, kind, zone, qualifier) VALUES (?, ?, ?, ?)"
NO_ZONE = -1
"""The `latest` table's stand-in for "no zone": a primary key column cannot be NULL."""

Work = Callable[[sqlite3.Connection], Any]


@dataclass(slots=True)
class Job:
    """One thing to do in the next transaction, and whom to tell. Exactly one of `entries` and `work` is set."""

    done: Callable[[Any, StoreError | None], None]
    """Called on the event loop after the commit, with the result or the error."""
    entries: Sequence[Entry] = ()
    work: Work | None = None


@dataclass(slots=True)
class Tally:
    """What one transaction changed; added to the running counts only after COMMIT."""

    stored: Counter[Lane] = field(default_factory=Counter)
    queued: Counter[tuple[str, Lane]] = field(default_factory=Counter)
    repeats: int = 0
    refused: Counter[Lane] = field(default_factory=Counter)


class Committer:
    """Owns the write connection. After any failure of the disk the connection is closed and opened anew, never trusted."""

    def __init__(self, path: Path, state: StoreState, clock: Clock) -> None:
        self._path = path
        self.state = state
        self.clock = clock
        self._connection: sqlite3.Connection | None = None
        self.pending: Counter[tuple[str, Lane]] = Counter()
        self.open()

    @property
    def is_open(self) -> bool:
        """False after a failure of the disk, until a commit has opened the file anew."""
        return self._connection is not None

    def open(self) -> None:
        """Open the file, check it, count what is in it. Raises StoreError or sqlite3.Error."""
        stamp = self.clock.now().strftime("%Y%m%dT%H%M%SZ")
        connection, salvaged = open_log(self._path, stamp=stamp)
        self._connection = connection
        state = self.state
        if salvaged:
            state.salvaged = salvaged
        self._recount(connection)

    def _recount(self, connection: sqlite3.Connection) -> None:
        """Read the running counts from the file: at start, and when a transaction was rolled back half way."""
        rows = connection.execute("SELECT lane, COUNT(*) FROM events GROUP BY lane").fetchall()
        self.state.stored = {Lane(lane): count for lane, count in rows}
        self.state.size_bytes = used_bytes(connection)
        rows = connection.execute(
            "SELECT destination, lane, COUNT(*) FROM outbox WHERE state = 'queued' GROUP BY destination, lane"
        ).fetchall()
        self.pending = Counter({(destination, Lane(lane)): count for destination, lane, count in rows})

    def commit(self, jobs: Sequence[Job]) -> list[Callable[[], None]]:
        """Do all jobs in one transaction. Returns what must be called on the event loop, in order.

        A job that cannot be stored by its own fault (not the disk's) fails alone: the others are committed without it.
        """
        try:
            if self._connection is None:
                self.open()
            results = self._transaction(jobs)
        except (sqlite3.Error, StoreError, OSError, OverflowError, ValueError) as error:
            if len(jobs) > 1 and not _disk_is_to_blame(error):
                return [settle for job in jobs for settle in self.commit([job])]
            if _disk_is_to_blame(error):
                self._distrust(error)
            failure = StoreError(f"not stored: {error}")
            return [_settle(job, None, failure) for job in jobs]
        self.state.ok, self.state.error = True, ""
        return [_settle(job, result, None) for job, result in zip(jobs, results, strict=True)]

    def _transaction(self, jobs: Sequence[Job]) -> list[Any]:
        connection = self._connection
        assert connection is not None
        tally = Tally()
        results: list[Any] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                if job.work is not None:
                    results.append(job.work(connection))
                else:
                    self._insert(connection, job.entries, tally)
                    results.append(None)
            removed = shed(
                connection,
                stored=self.state.stored,
                used=self.state.size_bytes,
                budget=self.state.budget_bytes,
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
                self._recount(connection)
            raise
        self._count(connection, tally, removed)
        return results

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[Entry], tally: Tally) -> None:
        full = self.state.size_bytes > self.state.budget_bytes
        for entry in entries:
            event = entry.event
            if full and event.lane is Lane.BULK:
                tally.refused[event.lane] += 1
                continue
            cursor = connection.execute(INSERT_EVENT, event_row(event))
            if cursor.rowcount == 0:
                tally.repeats += 1
                continue
            tally.stored[event.lane] += 1
            for destination in entry.destinations:
                connection.execute(INSERT_OUTBOX, (destination, cursor.lastrowid, int(event.lane)))
                tally.queued[destination, event.lane] += 1
            if not FACTS[event.kind].momentary:
                zone = NO_ZONE if event.zone is None else event.zone
                connection.execute(UPSERT_LATEST, (event.device, event.kind.value, zone, event.qualifier.value))

    def _count(self, connection: sqlite3.Connection, tally: Tally, removed: dict[Lane, int]) -> None:
        state = self.state
        state.commits += 1
        state.repeats += tally.repeats
        for lane, count in tally.stored.items():
            state.stored[lane] = state.stored.get(lane, 0) + count
        self.pending.update(tally.queued)
        for lane, count in [*removed.items(), *tally.refused.items()]:
            state.shed[lane] = state.shed.get(lane, 0) + count
        if any(removed.values()):
            self._recount(connection)
        else:
            state.size_bytes = used_bytes(connection)

    def _distrust(self, error: Exception) -> None:
        """After a failed write the page cache proves nothing: close, and read the file afresh before the next commit."""
        self.state.ok, self.state.error = False, str(error)
        if self._connection is not None:
            with suppress(sqlite3.Error):  # a broken file may not even close; the next open starts from the disk
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Checkpoint and close."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(job: Job, result: Any, error: StoreError | None) -> Callable[[], None]:
    return lambda: job.done(result, error)


def _disk_is_to_blame(error: Exception) -> bool:
    """True for what the file or the disk did; False for a value that no database takes."""
    return not isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | OverflowError | ValueError)
