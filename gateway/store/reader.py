"""Reading beside the writer, off the loop: a slow disk must not stop the conversation with devices."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.committer import Committer
from gateway.store.schema import Connect, DatabaseErrors, check, connect, means_damage

QUERY_MAX_S = 10.0
"""A query longer than this is given up: it holds the write-ahead log from being emptied, and the next reader waits."""

STEPS_PER_LOOK = 20_000
"""SQLite instructions between two looks at the clock, some milliseconds."""

FIRST_LOOK = "PRAGMA schema_version"

CLOSED = "cannot read the event log: it is closed"


class Reader:
    """A read-only connection with a thread of its own. Follows when the writer has opened the file anew."""

    def __init__(
        self,
        path: Path,
        committer: Committer,
        clock: Clock,
        connect: Connect,
        *,
        name: str,
        inline: bool,
        renew: Callable[[int], Awaitable[None]],
    ) -> None:
        self._path = path
        self._committer = committer
        self._clock = clock
        self._connect = connect
        self._renew = renew
        """Has the file of that opening replaced, for it is damaged. Raises StoreError."""
        self._pool = None if inline else ThreadPoolExecutor(1, thread_name_prefix=name)
        self._opened = -1
        self._connection: sqlite3.Connection | None = None
        self._give_up_at = 0.0
        self._closed = False

    async def rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """All rows of a query: where the file is found damaged, those of the one that replaces it. Raises StoreError."""
        try:
            return await self._ask(query, values)
        except DatabaseErrors:
            await self._renew(self._opened)
        try:
            return await self._ask(query, values)
        except DatabaseErrors as error:
            raise StoreError(f"cannot read the event log: {error}") from error

    async def _ask(self, query: str, values: tuple[object, ...]) -> list[Any]:
        if self._closed:
            raise StoreError(CLOSED)
        if self._pool is None:
            return self._run(query, values)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, query, values)

    def _run(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """Raises StoreError, and what DatabaseErrors are where the file is damaged."""
        try:
            connection = self._current()
            self._give_up_at = self._clock.monotonic() + QUERY_MAX_S
            return connection.execute(query, values).fetchall()
        except DatabaseErrors as error:
            if self._closed:
                raise StoreError(CLOSED) from error
            if means_damage(error):
                raise
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise StoreError(f"the query took longer than {QUERY_MAX_S:.0f} s: ask for less") from error
            raise StoreError(f"cannot read the event log: {error}") from error

    def _current(self) -> sqlite3.Connection:
        if self._connection is None or self._opened != self._committer.opened:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            with self._committer.changing:
                self._opened = self._committer.opened
                self._connection = self._connect(self._path, read_only=True)
                self._connection.execute(FIRST_LOOK).fetchone()  # only now does SQLite open the log ahead and its index
            self._connection.set_progress_handler(self._is_too_long, STEPS_PER_LOOK)
        return self._connection

    def _is_too_long(self) -> bool:
        return self._closed or self._clock.monotonic() > self._give_up_at

    async def close(self) -> None:
        """End a query that still runs, then the thread."""
        self._closed = True
        if self._pool:
            await asyncio.to_thread(self._pool.shutdown, wait=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class CheckUp:
    """The check after an unclean stop, beside the daily work: no alarm waits for it."""

    def __init__(self, path: Path, on_damage: Callable[[], None]) -> None:
        self._path = path
        self._on_damage = on_damage
        self._stopped = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-check")
        self.finished = self._pool.submit(self._run)

    def _run(self) -> None:
        try:
            with closing(connect(self._path, read_only=True)) as connection:
                connection.set_progress_handler(lambda: self._stopped, STEPS_PER_LOOK)
                check(connection, thorough=True)
        except DatabaseErrors as error:
            if means_damage(error):
                self._on_damage()

    async def close(self) -> None:
        """Give the check up if it still runs."""
        self._stopped = True
        await asyncio.to_thread(self._pool.shutdown, wait=True)
