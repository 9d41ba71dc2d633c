"""The store on SQLite: one writer with group commit, one reader beside it, an exclusive hold on the directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.kinds import Kind, Lane, Qualifier
from gateway.model import Delivery, DeliveryState, Event, Heard
from gateway.receipt import Receipt
from gateway.store import Backlog, Entry, EventFilter, Rejected, StoreState
from gateway.store.committer import NO_ZONE, Committer, Job, Work
from gateway.store.rows import (
    RAW_MAX_BYTES,
    SELECT_DELIVERY,
    SELECT_EVENT,
    delivery_of,
    event_of,
    milliseconds,
    moment,
    optional_moment,
    optional_ms,
)
from gateway.store.schema import connect
from gateway.store.writer import InlineWriter, ThreadWriter, Writer

FILE_NAME = "events.db"

UNCOMMITTED_MAX = 20_000
"""Events handed over and not yet on disk. Some 20 MB; beyond it `append` waits, and so does the device."""

REJECTED_MAX = 10_000
"""Refused frames kept, newest win: at most 40 MB of evidence however long somebody sends rubbish."""

NUMBER_MAX = 9999
"""DC-09 sequence numbers run 0001..9999 and wrap."""

PRUNE_ROWS = 5000
"""Rows removed per commit, so that housekeeping never holds up an alarm for long."""

T = TypeVar("T")
Observe = Callable[[float], None]


class SqliteStore:
    """Implements `gateway.store.Store`."""

    def __init__(
        self, committer: Committer, writer: Writer, reader: sqlite3.Connection, lock: int, *, inline: bool
    ) -> None:
        self.state = committer.state
        self._committer = committer
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._pool = None if inline else ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._uncommitted = 0
        self._room = asyncio.Event()
        self._room.set()
        self._watchers: set[CommitWatch] = set()

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        clock: Clock,
        *,
        budget_bytes: int = 2 << 30,
        inline: bool = False,
        observe: Observe = lambda _: None,
    ) -> SqliteStore:
        """Take hold of the directory and open the log. Raises StoreError when another daemon holds it or it is newer."""
        data_dir.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
        lock = _hold(data_dir)
        try:
            committer = Committer(data_dir / FILE_NAME, StoreState(budget_bytes=budget_bytes), clock)
            writer: Writer = InlineWriter(committer) if inline else ThreadWriter(committer, clock, observe)
            return cls(committer, writer, connect(data_dir / FILE_NAME, read_only=True), lock, inline=inline)
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreError(f"cannot open {data_dir / FILE_NAME}: {error}") from error
        except BaseException:
            os.close(lock)
            raise

    # -- the hot path --------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        while self._uncommitted + len(entries) > UNCOMMITTED_MAX and self._uncommitted:
            self._room.clear()
            await self._room.wait()
        self._uncommitted += len(entries)
        receipt = Receipt()

        def done(_: object, error: StoreError | None) -> None:
            self._uncommitted -= len(entries)
            self._room.set()
            receipt.settle(error)
            if error is None:
                self._wake()

        self._writer.submit(Job(done, entries=entries))
        return receipt

    @property
    def uncommitted(self) -> int:
        """Events handed over and not yet on disk."""
        return self._uncommitted

    def _write(self, work: Work) -> Awaitable[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: object, error: StoreError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._writer.submit(Job(done, work=work))
        return future

    # -- the outbox ----------------------------------------------------------------------------------------------------

    async def pending(self, destination: str, lane: Lane, *, after_seq: int, limit: int) -> Sequence[Delivery]:
        rows = await self._read(
            f"SELECT {SELECT_DELIVERY} FROM outbox o JOIN events e ON e.seq = o.seq "
            "WHERE o.destination = ? AND o.lane = ? AND o.state = 'queued' AND o.seq > ? ORDER BY o.seq LIMIT ?",
            (destination, int(lane), after_seq, limit),
        )
        return [delivery_of(row) for row in rows]

    async def number(self, destination: str, account: str, seqs: Sequence[int]) -> Sequence[int]:
        numbers: Sequence[int] = await self._write(
            lambda db: [_take_number(db, destination, account, seq) for seq in seqs]
        )
        return numbers

    def accepted(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        now = milliseconds(self._committer.clock.now())
        change = "state = 'accepted', reason = '', accepted_ms = ?"
        return self._write(lambda db: self._move(db, destination, seqs, change, now))

    def dead(self, destination: str, seq: int, reason: str) -> Awaitable[None]:
        return self._write(lambda db: self._move(db, destination, [seq], "state = 'dead', reason = ?", reason))

    def requeue(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        def work(db: sqlite3.Connection) -> None:
            for seq in seqs:
                changed = db.execute(
                    "UPDATE outbox SET state = 'queued' WHERE destination = ? AND seq = ? AND state = 'dead' RETURNING lane",
                    (destination, seq),
                ).fetchone()
                if changed:
                    self._committer.pending[destination, Lane(changed[0])] += 1

        async def requeued() -> None:
            await self._write(work)
            self.state.requeued += 1
            self._wake()

        return requeued()

    def _move(self, db: sqlite3.Connection, destination: str, seqs: Sequence[int], change: str, value: object) -> None:
        """Take queued (or dead) rows out of the queue, and keep the count of what is left."""
        for seq in seqs:
            row = db.execute(
                "SELECT state, lane FROM outbox WHERE destination = ? AND seq = ?", (destination, seq)
            ).fetchone()
            if row is None or row[0] == DeliveryState.ACCEPTED:
                continue
            db.execute(f"UPDATE outbox SET {change} WHERE destination = ? AND seq = ?", (value, destination, seq))
            if row[0] == DeliveryState.QUEUED:
                self._committer.pending[destination, Lane(row[1])] -= 1

    async def deliveries(
        self,
        *,
        destination: str | None = None,
        state: DeliveryState | None = None,
        after_seq: int = 0,
        limit: int = 100,
    ) -> Sequence[Delivery]:
        rows = await self._read(
            f"SELECT {SELECT_DELIVERY} FROM outbox o JOIN events e ON e.seq = o.seq WHERE o.seq > ? "
            "AND (?2 IS NULL OR o.destination = ?2) AND (?3 IS NULL OR o.state = ?3) ORDER BY o.seq LIMIT ?4",
            (after_seq, destination, state.value if state else None, limit),
        )
        return [delivery_of(row) for row in rows]

    async def backlog(self, destination: str) -> Backlog:
        oldest = await self._read(
            "SELECT lane, (SELECT received_ms FROM events WHERE seq = first) FROM "
            "(SELECT lane, MIN(seq) AS first FROM outbox WHERE destination = ? AND state = 'queued' GROUP BY lane)",
            (destination,),
        )
        dead = await self._read("SELECT COUNT(*) FROM outbox WHERE destination = ? AND state = 'dead'", (destination,))
        counts = {lane: count for (name, lane), count in dict(self._committer.pending).items() if name == destination}
        return Backlog(
            count={lane: counts.get(lane, 0) for lane in Lane},
            oldest={Lane(lane): moment(ms) for lane, ms in oldest},
            dead=dead[0][0],
        )

    # -- readers -------------------------------------------------------------------------------------------------------

    async def events(
        self, wanted: EventFilter, *, after_seq: int = 0, limit: int = 100, newest_first: bool = False
    ) -> Sequence[Event]:
        where, values = _conditions(wanted)
        if newest_first:
            where.append("(?1 = 0 OR e.seq < ?1)")
        else:
            where.append("e.seq > ?1")
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT {SELECT_EVENT} FROM events e WHERE {' AND '.join(where)} ORDER BY e.seq {order} LIMIT ?2"
        return [event_of(row) for row in await self._read(query, (after_seq, limit, *values))]

    async def event(self, event_id: str) -> Event | None:
        rows = await self._read(f"SELECT {SELECT_EVENT} FROM events e WHERE e.id = ?", (event_id,))
        return event_of(rows[0]) if rows else None

    async def latest(self, device: str) -> Mapping[tuple[Kind, int | None], Qualifier]:
        rows = await self._read("SELECT kind, zone, qualifier FROM latest WHERE device = ?", (device,))
        return {(Kind(kind), None if zone == NO_ZONE else zone): Qualifier(q) for kind, zone, q in rows}

    async def all_heard(self) -> Sequence[Heard]:
        rows = await self._read("SELECT device, at_ms, deadline_ms, silent, connection FROM heard", ())
        return [
            Heard(device, optional_moment(at), optional_moment(deadline), bool(silent), connection)
            for device, at, deadline, silent, connection in rows
        ]

    async def rejected(self, *, limit: int = 100) -> Sequence[Rejected]:
        rows = await self._read("SELECT at_ms, connection, reason, raw FROM rejected ORDER BY n DESC LIMIT ?", (limit,))
        return [Rejected(moment(at), connection, reason, raw) for at, connection, reason, raw in rows]

    async def _read(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """Run a query beside the writer, off the loop: a slow disk must not stop the conversation with devices."""

        def run() -> list[Any]:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"cannot read the event log: {error}") from error

        if self._pool is None:
            return run()
        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    # -- keeping -------------------------------------------------------------------------------------------------------

    async def reject(self, rejected: Rejected) -> None:
        row = (milliseconds(rejected.at), rejected.connection, rejected.reason, rejected.raw[:RAW_MAX_BYTES])

        def work(db: sqlite3.Connection) -> None:
            cursor = db.execute("INSERT INTO rejected (at_ms, connection, reason, raw) VALUES (?, ?, ?, ?)", row)
            db.execute("DELETE FROM rejected WHERE n <= ?", ((cursor.lastrowid or 0) - REJECTED_MAX,))

        await self._write(work)

    def heard(self, rows: Sequence[Heard]) -> Awaitable[None]:
        values = [
            (row.device, optional_ms(row.at), optional_ms(row.deadline), row.silent, row.connection) for row in rows
        ]
        statement = (
            "INSERT OR REPLACE INTO heard (device, at_ms, deadline_ms, silent, connection) VALUES (?, ?, ?, ?, ?)"
        )
        return self._write(lambda db: _nothing(db.executemany(statement, values)))

    async def prune(self, before: datetime) -> int:
        limit = milliseconds(before)

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT seq, lane FROM events e WHERE received_ms < ? AND NOT EXISTS "
                "(SELECT 1 FROM outbox o WHERE o.seq = e.seq AND o.state <> 'accepted') ORDER BY seq LIMIT ?",
                (limit, PRUNE_ROWS),
            ).fetchall()
            db.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq, _ in rows])
            db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq, _ in rows])
            for _, lane in rows:
                self.state.stored[Lane(lane)] -= 1
            return len(rows)

        removed: int = await self._write(work)
        return removed

    def watch(self) -> CommitWatch:
        watch = CommitWatch(self._watchers.discard)
        self._watchers.add(watch)
        return watch

    def _wake(self) -> None:
        for watch in self._watchers:
            watch.wake()

    async def close(self) -> None:
        await self._writer.close()
        if self._pool:
            self._pool.shutdown(wait=True)
        self._reader.close()
        os.close(self._lock)


class CommitWatch:
    """Woken after each commit of events."""

    def __init__(self, forget: Callable[[CommitWatch], None]) -> None:
        self._event = asyncio.Event()
        self._forget = forget

    def wake(self) -> None:
        """Something was committed."""
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        self._forget(self)


def _hold(data_dir: Path) -> int:
    """An exclusive lock on the directory for as long as the process lives. Raises StoreError."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"another fangkong already runs on {data_dir}: stop it, or give this one its own data_dir"
        ) from error
    return descriptor


def _take_number(db: sqlite3.Connection, destination: str, account: str, seq: int) -> int:
    has = db.execute("SELECT number FROM outbox WHERE destination = ? AND seq = ?", (destination, seq)).fetchone()
    if has is None:
        raise ValueError(f"no outbox row {seq} for {destination}")
    if has[0] is not None:
        return int(has[0])
    last = db.execute(
        "SELECT last FROM numbers WHERE destination = ? AND account = ?", (destination, account)
    ).fetchone()
    number = last[0] if last else 0
    for _ in range(NUMBER_MAX):
        number = number % NUMBER_MAX + 1
        taken = db.execute(
            "SELECT 1 FROM outbox WHERE destination = ? AND account = ? AND number = ? AND state <> 'accepted'",
            (destination, account, number),
        ).fetchone()
        if not taken:
            break
    else:
        raise ValueError(f"all {NUMBER_MAX} sequence numbers of account {account} are open")
    db.execute(
        "INSERT OR REPLACE INTO numbers (destination, account, last) VALUES (?, ?, ?)", (destination, account, number)
    )
    db.execute(
        "UPDATE outbox SET account = ?, number = ? WHERE destination = ? AND seq = ?",
        (account, number, destination, seq),
    )
    return number


def _conditions(wanted: EventFilter) -> tuple[list[str], list[object]]:
    """WHERE parts with parameters numbered from ?3 on (?1 is the cursor, ?2 the limit)."""
    choices: list[tuple[str, object | None]] = [
        ("e.device = ?{}", wanted.device),
        ("e.site = ?{}", wanted.site),
        ("e.kind = ?{}", wanted.kind.value if wanted.kind else None),
        ("e.lane = ?{}", int(wanted.lane) if wanted.lane is not None else None),
        ("(e.site IS NOT NULL) = ?{}", wanted.claimed),
        ("e.received_ms >= ?{}", milliseconds(wanted.since) if wanted.since else None),
        ("e.received_ms < ?{}", milliseconds(wanted.until) if wanted.until else None),
    ]
    where: list[str] = []
    values: list[object] = []
    for condition, value in choices:
        if value is not None:
            values.append(value)
            where.append(condition.format(len(values) + 2))
    return where, values


def _nothing(_: object) -> None:
    """For statements whose result nobody needs."""
