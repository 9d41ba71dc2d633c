"""The disk under the store: real SQLite on a real file, with faults at every boundary that a commit has."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from gateway.errors import StoreError
from gateway.forwarders._trouble import STORE_RETRY_S
from gateway.model import Delivery, Lane
from gateway.store import writer
from gateway.store.committer import Committer, Job, Settlement
from gateway.store.schema import connect
from gateway.store.sqlite import FILE_NAME, SqliteStore
from tests.dst.weather import Weather

SYNC_S = 0.02
SLOW_SYNC_S = 2.0
READ_S = 0.01
TELL_S = 0.005
WAL = f"{FILE_NAME}-wal"
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "SAVEPOINT", "WITH")


class Witness(Protocol):
    """Who must know what the disk did."""

    def note(self, who: str, what: str) -> None: ...

    def committed(self) -> None: ...

    def killed(self) -> None: ...

    def disturbed(self, for_s: float) -> None: ...


@dataclass(slots=True)
class Disk:
    """The files of one life of the process. `die` leaves what a killed process leaves, for the next life."""

    folder: Path
    weather: Weather
    dice: Random
    witness: Witness
    life: int = 0
    is_full: bool = False
    is_dead: bool = False
    _synced_bytes: int = 0
    """What of the write-ahead log is on the platter, whatever happens to the power."""

    @property
    def data_dir(self) -> Path:
        return self.folder / str(self.life)

    def connect(self, path: Path, *, read_only: bool = False) -> Any:
        """`gateway.store.schema.connect` on this disk."""
        if self.is_dead or (not read_only and self._happens(self.weather.open_fails)):
            raise sqlite3.OperationalError("unable to open database file")
        return Connection(connect(path, read_only=read_only), self, is_reader=read_only)

    def die(self, *, torn_from_bytes: int | None = None) -> None:
        """The process is gone in this instant: nothing of it reaches the disk any more, nobody is told anything.

        `torn_from_bytes`: from here on the write-ahead log is cut off somewhere.
        """
        heir = self.folder / str(self.life + 1)
        heir.mkdir()
        for name in (FILE_NAME, WAL):
            if (self.data_dir / name).exists():
                shutil.copyfile(self.data_dir / name, heir / name)
        if torn_from_bytes is not None:
            whole = (heir / WAL).stat().st_size
            if whole > torn_from_bytes:
                with (heir / WAL).open("r+b") as log:
                    log.truncate(self.dice.randrange(torn_from_bytes, whole))
        self.is_dead = True
        self.witness.killed()

    def lose_power(self) -> None:
        """What was written without a sync may be lost."""
        self.die(torn_from_bytes=self._synced_bytes)

    def _log_bytes(self) -> int:
        log = self.data_dir / WAL
        return log.stat().st_size if log.exists() else 0

    def wrote(self, *, synced: bool) -> None:
        """A transaction is over."""
        if synced:
            self._synced_bytes = self._log_bytes()

    def replace(self) -> None:
        """The next process finds the files."""
        if not self.is_dead:  # it ended in order: the same files, in a folder that nobody holds
            (self.data_dir).rename(self.folder / str(self.life + 1))
        else:
            shutil.rmtree(self.data_dir)
        self.life += 1
        self.is_dead = False
        self._synced_bytes = self._log_bytes()

    def before(self, statement: str, *, is_reader: bool) -> None:
        """May fail in place of the statement."""
        if self.is_dead:
            raise sqlite3.OperationalError("the process is gone")
        if is_reader:
            if self._happens(self.weather.read_fails):
                self.witness.disturbed(STORE_RETRY_S)
                raise sqlite3.OperationalError("disk I/O error")
            return
        if not statement.startswith(WRITES):
            return
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        if self._happens(self.weather.statement_fails / 10):
            raise sqlite3.OperationalError("disk I/O error")

    def commit(self, run: Callable[[], Any], *, synced: bool) -> Any:
        """COMMIT, and all that can go wrong with it."""
        weather = self.weather
        if self._happens(weather.killed_before_commit):
            return self._gone("before its commit")
        if self._happens(weather.commit_fails):
            raise sqlite3.OperationalError("disk I/O error")
        length = self._log_bytes()
        result = run()
        self.wrote(synced=synced)
        if self._happens(weather.commit_torn):
            return self._gone("inside its commit", torn_from_bytes=length)
        self.witness.committed()
        if self._happens(weather.killed_after_commit):
            return self._gone("after its commit")
        if self._happens(weather.commit_lies):
            raise sqlite3.OperationalError("disk I/O error, after all was written")
        return result

    def _gone(self, when: str, *, torn_from_bytes: int | None = None) -> None:
        self.witness.note("disk", f"the process dies {when}")
        self.die(torn_from_bytes=torn_from_bytes)
        raise sqlite3.OperationalError("the process is gone")

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self.dice.random() < chance


class Connection:
    """What the store uses of a `sqlite3.Connection`."""

    def __init__(self, real: sqlite3.Connection, disk: Disk, *, is_reader: bool) -> None:
        self._real = real
        self._disk = disk
        self._is_reader = is_reader
        self._syncs = True

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        self._disk.before(statement, is_reader=self._is_reader)
        if statement == "COMMIT":
            return self._disk.commit(lambda: self._real.execute(statement), synced=self._syncs)
        if statement.startswith("PRAGMA synchronous"):
            self._syncs = statement.endswith("FULL")
        result = self._real.execute(statement, values)
        if not self._is_reader and not self._real.in_transaction:
            self._disk.wrote(synced=self._syncs)
        return result

    def executemany(self, statement: str, rows: Any) -> Any:
        self._disk.before(statement, is_reader=self._is_reader)
        return self._real.executemany(statement, rows)

    def executescript(self, script: str) -> Any:
        self._disk.before("INSERT", is_reader=self._is_reader)
        return self._real.executescript(script)

    def set_progress_handler(self, *_: Any) -> None:
        pass  # simulated time stands still during a query

    def close(self) -> None:
        self._real.close()


class SimulatedWriter:
    """The daemon's writer thread as its loop sees it: takes what waits, needs time, tells in order, a little later."""

    def __init__(self, committer: Committer, settle: writer.Settle, disk: Disk) -> None:
        self._committer = committer
        self._settle = settle
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Job] = []
        self._to_tell: deque[Settlement] = deque()
        self._is_busy = False
        self._closed = False

    def submit(self, job: Job) -> None:
        if self._closed:
            self._loop.call_soon(job.done, None, StoreError(writer.CLOSED))
        else:
            self._waiting.append(job)
            self._go_on()

    def _go_on(self) -> None:
        if self._is_busy or self._closed or not (self._waiting or not self._committer.is_open):
            return
        self._is_busy = True
        most_s = SLOW_SYNC_S if self._disk.dice.random() < self._disk.weather.slow_disk else SYNC_S
        sync_s = self._disk.dice.uniform(0, most_s) if self._waiting else writer.RECOVERY_PROBE_S
        self._disk.witness.disturbed(sync_s)
        self._loop.call_later(sync_s, self._commit)

    def _commit(self) -> None:
        self._is_busy = False
        if self._disk.is_dead or self._closed:
            return
        self._commit_all()
        if not self._committer.is_open:
            self._disk.witness.disturbed(STORE_RETRY_S)
        self._loop.call_later(self._disk.dice.uniform(0, TELL_S), self._tell)
        self._go_on()

    def _commit_all(self) -> None:
        batch, self._waiting = self._waiting, []
        self._to_tell.append(self._committer.commit(batch, synced=not all(job.rides for job in batch)))
        self._committer.weigh()

    def _tell(self) -> None:
        settlement = self._to_tell.popleft() if self._to_tell else None  # none: an orderly end was faster
        if settlement is not None and not self._disk.is_dead:
            self._settle(settlement)

    async def close(self) -> None:
        self._closed = True
        self._commit_all()
        while self._to_tell:
            self._tell()
        self._committer.close()


class SimulatedStore(SqliteStore):
    """The real store on a simulated disk; what it reads may be old when it arrives."""

    disk: Disk
    decided: Callable[[Sequence[int]], None]

    @classmethod
    async def on(cls, disk: Disk, clock: Any, decided: Callable[[Sequence[int]], None]) -> SimulatedStore:
        """Raises StoreError."""
        store = await cls.open(disk.data_dir, clock, inline=True, connect=disk.connect)
        store._writer = SimulatedWriter(store._committer, store._settle, disk)
        store.disk, store.decided = disk, decided
        return store

    async def pending(self, destination: str, lane: Lane, *, after_seq: int, limit: int) -> Sequence[Delivery]:
        await self._pause()
        rows = await super().pending(destination, lane, after_seq=after_seq, limit=limit)
        await self._pause()
        return rows

    async def deliveries(self, **wanted: Any) -> Sequence[Delivery]:
        await self._pause()
        rows = await super().deliveries(**wanted)
        await self._pause()
        return rows

    def accepted(self, destination: str, seqs: Sequence[int]) -> Any:
        self.decided(seqs)
        return super().accepted(destination, seqs)

    def dead(self, destination: str, seq: int, reason: str) -> Any:
        self.decided([seq])
        return super().dead(destination, seq, reason)

    def drop(self) -> None:
        """Let go of the files as the kernel does for a process that is gone."""
        for reader in (self._outbox, self._people):
            if reader._connection is not None:
                reader._connection.close()
        self._committer._drop()
        self._lock.close()

    async def _pause(self) -> None:
        await asyncio.sleep(self.disk.dice.uniform(0, READ_S))  # noqa: TID251  # the loop's time is simulated
