"""Group commit: everything that waits goes to disk in one transaction. Runs in one place at a time, on the writer thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.kinds import FACTS, Lane
from gateway.store import Entry, StoreState
from gateway.store.budget import Budget, used_bytes
from gateway.store.rows import EVENT_COLUMNS, NOT_STORABLE, event_row, storable
from gateway.store.salvage import finish_replacement, prepare_replacement
from gateway.store.schema import (
    Connect,
    Damaged,
    DatabaseErrors,
    begin_session,
    check,
    end_session,
    ensure_tables,
    means_damage,
)
from gateway.store.tally import Tally

INSERT_EVENT = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({','.join('?' * 11)}) ON CONFLICT (repeat_key) DO NOTHING"
INSERT_OUTBOX = "INSERT INTO outbox (destination, seq, lane) VALUES (?, ?, ?)"
UPSERT_LATEST = "INSERT OR REPLACE INTO latest (device, kind, zone, qualifier) VALUES (?, ?, ?, ?)"
NO_ZONE = -1
"""The `latest` table's stand-in for "no zone": a primary key column cannot be NULL."""

Work = Callable[[sqlite3.Connection, Tally], Any]
Outcome = tuple[Any, StoreError | None]


@dataclass(slots=True)
class Job:
    """One thing to do in the next transaction, and whom to tell. `work` None: store `entries`."""

    done: Callable[[Any, StoreError | None], None]
    """Called on the event loop after the commit, with the result or the error."""
    entries: Sequence[Entry] = ()
    work: Work | None = None


class Committer:
    """Owns the write connection. After any failure of the disk the connection is closed and opened anew, never trusted."""

    def __init__(self, path: Path, state: StoreState, clock: Clock, connect: Connect, *, check_at_start: bool) -> None:
        self._path = path
        self._connect = connect
        self.state = state
        self.clock = clock
        self._connection: sqlite3.Connection | None = None
        self._budget = Budget()
        self.pending: Counter[tuple[str, Lane]] = Counter()
        self.opened = 0
        """How often the file was opened; readers follow, for the file may be another one."""
        self.is_damaged = False
        """Set by whoever met damage in the file: the next commit begins by replacing it."""
        self.was_clean = self._open(check_first=check_at_start)
        """Whether the file was closed in order before this start."""

    @property
    def is_open(self) -> bool:
        """False after a failure of the disk, until a commit has opened the file anew."""
        return self._connection is not None

    def _open(self, *, check_first: bool) -> bool:
        """Open the file, or the one that replaces it when it is damaged. Raises StoreError, sqlite3.Error or OSError."""
        try:
            try:
                if self.is_damaged:
                    raise Damaged("met while reading")
                return self._open_once(check_first=check_first)
            except DatabaseErrors as error:
                if not means_damage(error):
                    raise
                self._drop()
                prepare_replacement(self._path, self.clock.now().strftime("%Y%m%dT%H%M%SZ"))
                self._open_once(check_first=False)
                self.is_damaged = False
                return True
        except BaseException:  # whatever it was: no connection is left half open
            self._drop()
            raise

    def _open_once(self, *, check_first: bool) -> bool:
        salvaged = finish_replacement(self._path)
        if self._path.exists() and self._path.stat().st_size == 0:
            raise Damaged(f"{self._path} is empty")
        self._connection = connection = self._connect(self._path)
        ensure_tables(connection, self._path)
        # The write comes before the check: while the disk takes none, the check would only load it further.
        was_clean = begin_session(connection)
        if check_first:
            check(connection, thorough=False)
        self._recount(connection)
        self.state.salvaged = salvaged or self.state.salvaged
        self.opened += 1
        return was_clean

    def _recount(self, connection: sqlite3.Connection) -> None:
        """Read the running counts from the file (from its indexes alone)."""
        rows = connection.execute("SELECT lane, COUNT(*) FROM events GROUP BY lane").fetchall()
        self.state.stored = {lane: dict(rows).get(lane, 0) for lane in Lane}
        self.state.size_bytes = used_bytes(connection)
        rows = connection.execute(
            "SELECT destination, lane, COUNT(*) FROM outbox WHERE state = 'queued' GROUP BY destination, lane"
        ).fetchall()
        self.pending = Counter({(name, Lane(lane)): count for name, lane, count in rows if lane in set(Lane)})

    def commit(self, jobs: Sequence[Job]) -> list[Callable[[], None]]:
        """Do all jobs in one transaction. Returns what must be called on the event loop, in order.

        A job that cannot be stored by its own fault (not the disk's) fails alone: the others are committed without it.
        """
        try:
            if self._connection is None or self.is_damaged:
                self._drop()
                self._open(check_first=True)
            outcomes = self._transaction(jobs)
        except Exception as error:  # noqa: BLE001  # the thread's boundary: a dead writer would never answer anybody again
            self._distrust(error)
            outcomes = [(None, StoreError(f"not stored: {error}"))] * len(jobs)
        else:
            self.state.ok, self.state.error = True, ""
        return [partial(job.done, *outcome) for job, outcome in zip(jobs, outcomes, strict=True)]

    def _transaction(self, jobs: Sequence[Job]) -> list[Outcome]:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        tally = Tally()
        try:
            outcomes: list[Outcome] = [(self._do(connection, job, tally), None) for job in jobs]
        except Exception as error:  # the boundary between jobs: one at fault must not cost the others their commit
            if _disk_is_to_blame(error):
                raise
            # Again, with a savepoint around each job. Not at once: savepoints cost a fifth of the throughput.
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            tally = Tally()
            outcomes = [self._attempt(connection, job, tally) for job in jobs]
        self._budget.shed(connection, self.state, tally)
        connection.execute("COMMIT")
        self._count(connection, tally)
        return outcomes

    def _attempt(self, connection: sqlite3.Connection, job: Job, tally: Tally) -> Outcome:
        """One job, undone alone when it is at fault. Raises what the disk is to blame for."""
        own = Tally()
        connection.execute("SAVEPOINT job")
        try:
            result = self._do(connection, job, own)
        except Exception as error:  # the boundary of this job; its own waiter is told
            if _disk_is_to_blame(error):
                raise
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return None, StoreError(f"not stored: {error}")
        connection.execute("RELEASE job")
        tally.add(own)
        return result, None

    def _do(self, connection: sqlite3.Connection, job: Job, tally: Tally) -> Any:
        if job.work is not None:
            return job.work(connection, tally)
        return self._insert(connection, job.entries, tally)

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[Entry], tally: Tally) -> Sequence[int]:
        """Store what is not there yet. Returns the positions of the repeats."""
        repeats = []
        full = self.state.size_bytes > self.state.budget_bytes
        for position, entry in enumerate(entries):
            event = entry.event
            if full and event.lane is Lane.BULK:
                tally.shed[event.lane] += 1
                continue
            try:
                cursor = connection.execute(INSERT_EVENT, event_row(event))
            except NOT_STORABLE as fault:
                event = storable(event, fault)
                cursor = connection.execute(INSERT_EVENT, event_row(event))
            if cursor.rowcount == 0:
                tally.repeats += 1
                repeats.append(position)
                continue
            tally.stored[event.lane] += 1
            for destination in entry.destinations:
                connection.execute(INSERT_OUTBOX, (destination, cursor.lastrowid, int(event.lane)))
                tally.queued[destination, event.lane] += 1
            if not FACTS[event.kind].momentary:
                zone = NO_ZONE if event.zone is None else event.zone
                connection.execute(UPSERT_LATEST, (event.device, event.kind.value, zone, event.qualifier.value))
        return repeats

    def _count(self, connection: sqlite3.Connection, tally: Tally) -> None:
        state = self.state
        state.commits += 1
        state.repeats += tally.repeats
        state.size_bytes = used_bytes(connection)
        self.pending.update(tally.queued)
        for lane in Lane:
            state.stored[lane] += tally.stored[lane]
            state.shed[lane] += tally.shed[lane]

    def _distrust(self, error: Exception) -> None:
        """After a failed write the page cache proves nothing: close, and read the file afresh before the next commit."""
        self.state.ok, self.state.error = False, str(error)
        self.is_damaged |= means_damage(error)
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # a broken file may not even close; the next open starts from the disk
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Checkpoint and close, so that the next start knows the file is sound."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # then the next start finds the file unmarked and checks it
                end_session(self._connection)
        self._drop()


def _disk_is_to_blame(error: Exception) -> bool:
    """True for what the file or the disk did; False for a value that no database takes."""
    blames_disk = isinstance(error, sqlite3.OperationalError | sqlite3.InternalError | OSError | MemoryError)
    return blames_disk or type(error) is sqlite3.DatabaseError
