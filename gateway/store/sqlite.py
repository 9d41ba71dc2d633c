"""The store on SQLite: one writer with group commit, one reader beside it, an exclusive hold on the directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Self

from gateway.acts import CommandRecord, CommandState
from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.kinds import Kind, Lane, Qualifier
from gateway.model import Delivery, DeliveryState, Event, Heard
from gateway.receipt import Receipt, Series
from gateway.store import Backlog, Entry, EventFilter, Follower, Rejected, Resent, StoreState, Watch, commands, queries
from gateway.store.arrivals import NO_ZONE
from gateway.store.budget import prune_some
from gateway.store.committer import Committer, Job, Settlement, Work
from gateway.store.insert import Insert
from gateway.store.listeners import Listeners
from gateway.store.outbox import leave_queue, requeue, resend_some
from gateway.store.reader import CheckUp, Reader
from gateway.store.rows import (
    RAW_MAX_BYTES,
    SELECT_EVENT,
    delivery_of,
    event_of,
    milliseconds,
    moment,
    optional_moment,
    optional_ms,
)
from gateway.store.schema import Connect, connect
from gateway.store.tally import Tally
from gateway.store.times import correct_times
from gateway.store.writer import InlineWriter, Observe, ThreadWriter, Writer

FILE_NAME = "events.db"

UNCOMMITTED_MAX = 20_000
"""Events handed over and not yet on disk. Some 20 MB; beyond it `append` waits, and so does the device."""

HEARD = Insert("INSERT OR REPLACE INTO heard", "device, at_ms, deadline_ms, silent, connection")

REJECTED_MAX = 10_000
"""Refused frames kept, newest win: at most 40 MB of evidence however long somebody sends rubbish."""


class SqliteStore:
    """Implements `gateway.store.Store`."""

    def __init__(
        self,
        path: Path,
        lock: FileIO,
        clock: Clock,
        budget_bytes: int,
        observe: Observe,
        *,
        connect: Connect,
        inline: bool,
    ) -> None:
        self.state = StoreState(budget_bytes=budget_bytes)
        self._lock = lock
        self._clock = clock
        self._uncommitted = 0
        self._room = asyncio.Event()
        self._listeners = Listeners()
        self._loop = asyncio.get_running_loop()
        committer = Committer(path, self.state, clock, connect, check_at_start=inline)
        self._committer = committer
        self._opened = committer.opened
        self._writer: Writer = (
            InlineWriter(committer, self._settle)
            if inline
            else ThreadWriter(committer, clock, settle=self._settle, observe=observe)
        )
        # Two, so that no page a person leafs through keeps an alarm from being sent.
        self._outbox, self._people = (
            Reader(path, committer, clock, connect, name=name, inline=inline, renew=self._renew)
            for name in ("store-outbox", "store-people")
        )
        self._check_up = (
            None if inline or committer.was_clean else CheckUp(path, partial(self._meet_damage, committer.opened))
        )

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        clock: Clock,
        *,
        budget_bytes: int = 2 << 30,
        inline: bool = False,
        observe: Observe = lambda _: None,
        connect: Connect = connect,
    ) -> Self:
        """Take hold of the directory and open the log. `connect` opens the file; a simulation puts a failing disk there.

        Raises StoreError when another daemon holds it, the log is a newer program's, or the disk does not let us.
        """
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
            lock = _hold(data_dir)
        except OSError as error:
            raise StoreError(f"cannot use the data directory {data_dir}: {error}") from error
        try:
            return cls(data_dir / FILE_NAME, lock, clock, budget_bytes, observe, connect=connect, inline=inline)
        except (sqlite3.Error, OSError) as error:
            lock.close()
            raise StoreError(f"cannot open {data_dir / FILE_NAME}: {error}") from error
        except BaseException:  # whatever it was: the next one may open the folder
            lock.close()
            raise

    def _meet_damage(self, opened: int) -> None:
        """From any thread that read the file of that opening: let the next commit replace it, and see that there is one."""

        def renew() -> None:
            self._committer.is_damaged |= opened == self._committer.opened  # else somebody was faster
            self._writer.submit(Job(lambda *_: None))

        self._loop.call_soon_threadsafe(renew)

    async def _renew(self, opened: int) -> None:
        """The same on the loop; returns when the file is replaced. Raises StoreError."""
        self._committer.is_damaged |= opened == self._committer.opened
        await self._write(lambda *_: None)

    # -- the hot path --------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry], *, series: Series | None = None) -> Receipt:
        while self._uncommitted + len(entries) > UNCOMMITTED_MAX and self._uncommitted:
            self._room.clear()
            await self._room.wait()
        self._uncommitted += len(entries)
        receipt = Receipt()

        def done(repeats: Sequence[int] | None, error: StoreError | None) -> None:
            self._uncommitted -= len(entries)
            self._room.set()
            receipt.settle(error, repeats or ())

        self._writer.submit(Job(done, entries=entries, series=series))
        return receipt

    @property
    def uncommitted(self) -> int:
        """Events handed over and not yet on disk."""
        return self._uncommitted

    def _settle(self, settlement: Settlement) -> None:
        """On the loop after a commit: those who gave something hear of it, then those who take it further."""
        for job, outcome in zip(settlement.jobs, settlement.outcomes, strict=True):
            job.done(*outcome)
        if self._opened != self._committer.opened:
            # Opened anew after a failure: what the commit that failed has left in the file, nobody was told.
            self._opened = self._committer.opened
            self._listeners.tell_requeued()
        self._listeners.tell_committed(settlement)

    def _write(self, work: Work, *, rides: bool = False, then: Callable[[], None] | None = None) -> Awaitable[Any]:
        """Queue work. `then` is called when it is on disk, whether or not somebody still waits."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: object, error: StoreError | None) -> None:
            if error is None and then is not None:
                then()
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._writer.submit(Job(done, work=work, rides=rides))
        return future

    # -- the outbox ----------------------------------------------------------------------------------------------------

    async def pending(self, destination: str, lane: Lane, *, after_seq: int, limit: int) -> Sequence[Delivery]:
        rows = await self._outbox.rows(*queries.pending(destination, lane, after_seq=after_seq, limit=limit))
        return [delivery_of(row) for row in rows]

    async def number(self, destination: str, wanted: Mapping[str, Sequence[int]]) -> Mapping[int, int]:
        numbers: Mapping[int, int] = await self._write(
            lambda db, _: self._committer.numbers.take(db, destination, wanted)
        )
        return numbers

    def accepted(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        now = milliseconds(self._clock.now())
        change = "state = 'accepted', reason = '', accepted_ms = ?"
        return self._write(
            lambda db, tally: leave_queue(db, tally, destination, seqs, change=change, value=now), rides=True
        )

    def dead(self, destination: str, seq: int, reason: str) -> Awaitable[None]:
        change = "state = 'dead', reason = ?"
        return self._write(lambda db, tally: leave_queue(db, tally, destination, [seq], change=change, value=reason))

    def requeue(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        return self._write(
            lambda db, tally: requeue(db, tally, destination, seqs),
            then=partial(self._listeners.tell_requeued, destination),
        )

    async def resend(self, destination: str, since: datetime, until: datetime) -> Resent:
        resend = partial(resend_some, destination=destination, since=milliseconds(since), until=milliseconds(until))
        queued = busy = 0
        cursor: int | None = 0
        while cursor is not None:
            some, cursor = await self._write(
                partial(resend, after_seq=cursor), then=partial(self._listeners.tell_requeued, destination)
            )
            queued, busy = queued + some.queued, busy + some.busy
        return Resent(queued, busy)

    async def deliveries(
        self,
        *,
        destination: str | None = None,
        state: DeliveryState | None = None,
        after_seq: int = 0,
        limit: int = 100,
    ) -> Sequence[Delivery]:
        query = queries.deliveries(destination=destination, state=state, after_seq=after_seq, limit=limit)
        return [delivery_of(row) for row in await self._people.rows(*query)]

    async def destinations(self) -> Collection[str]:
        query = "SELECT DISTINCT destination FROM outbox INDEXED BY outbox_dead WHERE state = 'dead'"
        dead = {name for (name,) in await self._outbox.rows(query)}
        return dead | {name for (name, _), count in dict(self._committer.pending).items() if count}

    async def backlog(self, destination: str) -> Backlog:
        oldest = await self._outbox.rows(*queries.oldest_queued(destination))
        dead = await self._outbox.rows(*queries.dead_count(destination))
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
        query = queries.events(wanted, after_seq=after_seq, limit=limit, newest_first=newest_first)
        return [event_of(row) for row in await self._people.rows(*query)]

    async def event(self, event_id: str) -> Event | None:
        rows = await self._people.rows(f"SELECT {SELECT_EVENT} FROM events e WHERE e.id = ?", (event_id,))
        return event_of(rows[0]) if rows else None

    async def latest(self, device: str) -> Mapping[tuple[Kind, int | None], Qualifier]:
        rows = await self._people.rows("SELECT kind, zone, qualifier FROM latest WHERE device = ?", (device,))
        return {(Kind(kind), None if zone == NO_ZONE else zone): Qualifier(q) for kind, zone, q in rows}

    async def all_heard(self) -> Sequence[Heard]:
        rows = await self._people.rows("SELECT device, at_ms, deadline_ms, silent, connection FROM heard")
        return [
            Heard(device, optional_moment(at), optional_moment(deadline), bool(silent), connection)
            for device, at, deadline, silent, connection in rows
        ]

    async def rejected(self, *, limit: int = 100) -> Sequence[Rejected]:
        rows = await self._people.rows(
            "SELECT at_ms, connection, reason, raw FROM rejected ORDER BY n DESC LIMIT ?", (limit,)
        )
        return [Rejected(moment(at), connection, reason, raw) for at, connection, reason, raw in rows]

    async def command(self, command_id: str) -> CommandRecord | None:
        rows = await self._people.rows(*commands.by_id(command_id))
        return commands.record_of(rows[0]) if rows else None

    async def commands(
        self,
        *,
        device: str | None = None,
        states: Collection[CommandState] | None = None,
        sites: Collection[str] | None = None,
        before: int = 0,
        limit: int = 100,
    ) -> Sequence[CommandRecord]:
        query = commands.page(device=device, states=states, sites=sites, before=before, limit=limit)
        return [commands.record_of(row) for row in await self._people.rows(*query)]

    # -- keeping -------------------------------------------------------------------------------------------------------

    async def reject(self, rejected: Rejected) -> None:
        row = (milliseconds(rejected.at), rejected.connection, rejected.reason, rejected.raw[:RAW_MAX_BYTES])

        def work(db: sqlite3.Connection, _: Tally) -> None:
            cursor = db.execute("INSERT INTO rejected (at_ms, connection, reason, raw) VALUES (?, ?, ?, ?)", row)
            db.execute("DELETE FROM rejected WHERE n <= ?", ((cursor.lastrowid or 0) - REJECTED_MAX,))

        await self._write(work)

    def heard(self, rows: Sequence[Heard]) -> Awaitable[None]:
        values = [
            (row.device, optional_ms(row.at), optional_ms(row.deadline), row.silent, row.connection) for row in rows
        ]

        def work(db: sqlite3.Connection, _: Tally) -> None:
            HEARD.rows(db, values)

        return self._write(work)

    async def add_command(self, record: CommandRecord) -> CommandRecord:
        kept: CommandRecord = await self._write(lambda db, _: commands.add(db, record))
        return kept

    def save_commands(self, records: Sequence[CommandRecord]) -> Awaitable[None]:
        return self._write(lambda db, _: commands.save(db, records))

    def correct_times(self, boot: str, by: timedelta) -> Awaitable[int]:
        return self._write(lambda db, _: correct_times(db, boot, by))

    async def prune(self, before: datetime, *, lane: Lane | None = None, kinds: Collection[Kind] = ()) -> int:
        if lane is None:
            await self._write(lambda db, _: commands.forget(db, before))
        removed = cursor = 0
        count: int
        looked_to: int | None
        while True:
            step = partial(prune_some, lane=lane, kinds=kinds, limit=milliseconds(before), after_seq=cursor)
            count, looked_to = await self._write(step)
            removed += count
            if looked_to is None:
                return removed
            cursor = looked_to

    def follow(self, destination: str, follower: Follower) -> Callable[[], None]:
        return self._listeners.follow(destination, follower)

    def watch(self) -> Watch:
        return self._listeners.watch()

    async def close(self) -> None:
        if self._check_up:
            await self._check_up.close()
        await self._outbox.close()
        await self._people.close()
        await self._writer.close()
        self._lock.close()


def _hold(data_dir: Path) -> FileIO:
    """An exclusive lock on the directory until closed or the process ends. Raises StoreError or OSError."""
    lock = FileIO(os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StoreError(
            f"another fangkong already runs on {data_dir}: stop it, or give this one its own data_dir"
        ) from error
    except OSError:
        lock.close()
        raise
    return lock
