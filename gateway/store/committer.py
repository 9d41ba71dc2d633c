"""Group commit: everything that waits goes to disk in one transaction. Runs in one place at a time, on the writer thread."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.kinds import Lane
from gateway.model import Delivery
from gateway.receipt import Series
from gateway.store import Entry, StoreState
from gateway.store.arrivals import Arrivals
from gateway.store.budget import Budget, used_bytes
from gateway.store.numbers import Numbers
from gateway.store.rows import give_place
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

Work = Callable[[sqlite3.Connection, Tally], Any]
Outcome = tuple[Any, StoreError | None]

BROKEN_OFF = "an earlier report of the same conversation was not"


@dataclass(slots=True)
class Job:
    """One thing to do in the next transaction, and whom to tell. `work` None: store `entries`."""

    done: Callable[[Any, StoreError | None], None]
    """Called on the event loop after the commit, with the result or the error."""
    entries: Sequence[Entry] = ()
    work: Work | None = None
    series: Series | None = None
    """What `entries` are a part of."""
    rides: bool = False
    """Needs no sync of its own: it goes with whatever waits beside it, and alone without a sync."""

    @property
    def is_too_late(self) -> bool:
        """An earlier job of its series has failed."""
        return self.series is not None and self.series.is_broken

    def failed(self, error: object) -> Outcome:
        """It was not done, and nothing after it may be."""
        if self.series is not None:
            self.series.is_broken = True
        return None, StoreError(f"not stored: {error}")


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a commit has to tell on the event loop."""

    jobs: Sequence[Job]
    outcomes: Sequence[Outcome]
    deliveries: Mapping[str, Sequence[Delivery]]
    """New outbox rows by destination, in order."""
    stored: bool
    """Whether there are new events."""


class Committer:
    """Owns the write connection. After any failure of the disk the connection is closed and opened anew, never trusted."""

    def __init__(self, path: Path, state: StoreState, clock: Clock, connect: Connect, *, check_at_start: bool) -> None:
        self._path = path
        self._connect = connect
        self.state = state
        self.clock = clock
        self._connection: sqlite3.Connection | None = None
        self._arrivals: Arrivals
        self._page_bytes: int
        self._is_synced: bool
        """Whether the connection waits for the disk at each commit."""
        self._budget = Budget()
        self.pending: Counter[tuple[str, Lane]] = Counter()
        self.opened = 0
        """How often the file was opened; readers follow, for the file may be another one."""
        self.changing = threading.Lock()
        """Held while another file takes the place: opened in between, one's pages would be read with the other's log."""
        self.is_damaged = False
        """Set by whoever met damage in the file: the next commit begins by replacing it."""
        self.was_clean = self._open(check_first=check_at_start)
        """Whether the file was closed in order before this start."""

    @property
    def numbers(self) -> Numbers:
        """The sequence numbers of the file that is open; only for work inside a transaction."""
        return self._arrivals.numbers

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
        with self.changing:
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
        self._arrivals = Arrivals(connection)
        self._is_synced = True
        self.state.salvaged = salvaged or self.state.salvaged
        self.opened += 1
        return was_clean

    def _recount(self, connection: sqlite3.Connection) -> None:
        """Read the running counts from the file (from its indexes alone)."""
        rows = connection.execute("SELECT lane, COUNT(*) FROM events GROUP BY lane").fetchall()
        self.state.stored = {lane: dict(rows).get(lane, 0) for lane in Lane}
        self._page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        self.state.size_bytes = used_bytes(connection, self._page_bytes)
        rows = connection.execute(
            "SELECT destination, lane, COUNT(*) FROM outbox WHERE state = 'queued' GROUP BY destination, lane"
        ).fetchall()
        self.pending = Counter({(name, Lane(lane)): count for name, lane, count in rows if lane in set(Lane)})

    def commit(self, jobs: Sequence[Job], *, synced: bool = True) -> Settlement:
        """Do all jobs in one transaction. Returns what must be told on the event loop.

        A job that cannot be stored by its own fault (not the disk's) fails alone: the others are committed without it.
        Not synced, it outlives the process but not a power cut; the next synced commit takes it along.
        """
        tally = Tally()
        late = [job for job in jobs if job.is_too_late]
        jobs = [job for job in jobs if not job.is_too_late] if late else jobs
        try:
            if self._connection is None or self.is_damaged:
                self._drop()
                self._open(check_first=True)
            outcomes, tally = self._transaction(jobs, synced=synced)
        except Exception as error:  # noqa: BLE001  # the thread's boundary: a dead writer would never answer anybody again
            self._distrust(error)
            outcomes = [job.failed(error) for job in jobs]
        else:
            self.state.ok = True
        outcomes = [*outcomes, *(job.failed(BROKEN_OFF) for job in late)]
        return Settlement([*jobs, *late], outcomes, tally.deliveries, bool(tally.placed))

    def _transaction(self, jobs: Sequence[Job], *, synced: bool) -> tuple[Sequence[Outcome], Tally]:
        connection = self._connection
        assert connection is not None
        if synced is not self._is_synced:
            connection.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            self._is_synced = synced
        connection.execute("BEGIN IMMEDIATE")
        tally = Tally()
        try:
            outcomes = self._together(connection, jobs, tally)
        except Exception as error:  # the boundary between jobs: one at fault must not cost the others their commit
            if _disk_is_to_blame(error):
                raise
            # Again, with a savepoint around each job. Not at once: savepoints cost a fifth of the throughput.
            connection.execute("ROLLBACK")
            self.numbers.forget()
            connection.execute("BEGIN IMMEDIATE")
            tally = Tally()
            outcomes = [self._attempt(connection, job, tally) for job in jobs]
        self._budget.shed(connection, self.state, tally)
        connection.execute("COMMIT")
        self._count(tally)
        return outcomes, tally

    def _together(self, connection: sqlite3.Connection, jobs: Sequence[Job], tally: Tally) -> list[Outcome]:
        """All jobs. What is new comes first, all of it at once; no other job can depend on not seeing it."""
        arrived = [job for job in jobs if job.work is None]
        repeats = set(self._insert([entry for job in arrived for entry in job.entries], tally))
        start = 0
        outcomes: list[Outcome] = []
        for job in jobs:
            if job.work is not None:
                outcomes.append((job.work(connection, tally), None))
                continue
            end = start + len(job.entries)
            own = [position - start for position in range(start, end) if position in repeats] if repeats else ()
            outcomes.append((own, None))
            start = end
        return outcomes

    def _attempt(self, connection: sqlite3.Connection, job: Job, tally: Tally) -> Outcome:
        """One job, undone alone when it is at fault. Raises what the disk is to blame for."""
        if job.is_too_late:
            return job.failed(BROKEN_OFF)
        own = Tally()
        connection.execute("SAVEPOINT job")
        try:
            (outcome,) = self._together(connection, [job], own)
        except Exception as error:  # the boundary of this job; its own waiter is told
            if _disk_is_to_blame(error):
                raise
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            self.numbers.forget()
            return job.failed(error)
        connection.execute("RELEASE job")
        tally.add(own)
        return outcome

    def _insert(self, entries: Sequence[Entry], tally: Tally) -> Sequence[int]:
        """Store what is not there yet. Returns the positions of the repeats. Over the budget no bulk is taken."""
        if not entries:
            return ()
        queued: Counter[str] = Counter()
        for (destination, _), count in self.pending.items():
            queued[destination] += count
        if self.state.size_bytes <= self.state.budget_bytes:
            return self._arrivals.insert(entries, queued, tally)
        taken = [position for position, entry in enumerate(entries) if entry.event.lane is not Lane.BULK]
        tally.shed[Lane.BULK] += len(entries) - len(taken)
        repeats = self._arrivals.insert([entries[position] for position in taken], queued, tally)
        return [taken[position] for position in repeats]

    def _count(self, tally: Tally) -> None:
        state = self.state
        state.commits += 1
        state.repeats += tally.repeats
        self.pending.update(tally.queued)
        for lane in Lane:
            state.stored[lane] += tally.stored[lane]
            state.shed[lane] += tally.shed[lane]
        for seq, event in tally.placed.items():
            give_place(event, seq)

    def weigh(self) -> None:
        """Look how large the file is. Apart from the commit: nobody who waits for that one waits for this."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # the next commit meets what is wrong
                self.state.size_bytes = used_bytes(self._connection, self._page_bytes)

    def _distrust(self, error: Exception) -> None:
        """After a failed write the page cache proves nothing: close, and read the file afresh before the next commit."""
        self.state.ok, self.state.error = False, str(error)
        self.state.failures += 1
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
