"""Who runs the committer: a thread of its own in the daemon, the loop itself in tests with a clock that jumps."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.committer import Committer, Job

BATCH_MAX_ENTRIES = 5000
"""Events in one transaction: a commit of this size takes some 100 ms, the longest anybody waits behind another's batch."""

RECOVERY_PROBE_S = 1.0
"""While the disk fails, opening the file anew is tried this often, so that recovery is noticed without traffic."""

CLOSED = "not stored: the event log is closed"

Observe = Callable[[float], None]
"""Given the seconds each commit took, on the writer's thread."""


class Writer(Protocol):
    """Takes jobs; each job's `done` is called on the loop after its commit."""

    def submit(self, job: Job) -> None:
        """Queue a job; after `close` it fails. The bound is the store's: it counts what it has handed over."""

    async def close(self) -> None:
        """Commit what waits, then stop."""


class ThreadWriter:
    """Commits whatever waits, as soon as the last commit is done. No timer: a lone event is on disk after one sync."""

    def __init__(self, committer: Committer, clock: Clock, observe: Observe) -> None:
        self._committer = committer
        self._clock = clock
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._wake:
            if not self._closing:
                self._waiting.append(job)
                self._wake.notify()
                return
        self._loop.call_soon(job.done, None, StoreError(CLOSED))

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    # Timed only while the disk fails; an idle box with a sound disk sleeps.
                    if not self._wake.wait(RECOVERY_PROBE_S if self._failed else None) and self._failed:
                        break
                if not self._waiting and self._closing:
                    break
                batch = self._take()
            started = self._clock.monotonic()
            settles = self._committer.commit(batch)
            self._failed = not self._committer.is_open
            self._observe(self._clock.monotonic() - started)
            self._loop.call_soon_threadsafe(_call_all, settles)
        self._committer.close()

    def _take(self) -> list[Job]:
        batch: list[Job] = []
        entries = 0
        while self._waiting and entries < BATCH_MAX_ENTRIES:
            job = self._waiting.popleft()
            entries += max(1, len(job.entries))
            batch.append(job)
        return batch

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)


class InlineWriter:
    """Commits at once, on the loop: for tests on a clock that jumps, which cannot see a thread at work."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def submit(self, job: Job) -> None:
        if self._closed:
            self._loop.call_soon(job.done, None, StoreError(CLOSED))
            return
        self._loop.call_soon(_call_all, self._committer.commit([job]))

    async def close(self) -> None:
        self._closed = True
        self._committer.close()


def _call_all(settles: Sequence[Callable[[], None]]) -> None:
    for settle in settles:
        settle()
