"""Who runs the committer: a thread of its own in the daemon, the loop itself in tests with a clock that jumps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.committer import Committer, Job, Settlement

BATCH_MAX_ENTRIES = 5000
"""Events in one transaction: a commit of this size takes some 100 ms, the longest anybody waits behind another's batch."""

RECOVERY_PROBE_S = 1.0
"""While the disk fails, opening the file anew is tried this often, so that recovery is noticed without traffic."""

CLOSED = "not stored: the event log is closed"

Settle = Callable[[Settlement], None]
"""Given what each commit has to tell, on the loop."""

Observe = Callable[[float], None]
"""Given the seconds each synced commit took, on the writer's thread."""


class Writer(Protocol):
    """Takes jobs; after each commit its settlement is told on the loop."""

    def submit(self, job: Job) -> None:
        """Queue a job; after `close` it fails. The bound is the store's: it counts what it has handed over."""

    async def close(self) -> None:
        """Commit what waits, then stop."""


class ThreadWriter:
    """Commits whatever waits, as soon as the last commit is done. No timer: a lone event is on disk after one sync."""

    def __init__(self, committer: Committer, clock: Clock, *, settle: Settle, observe: Observe) -> None:
        self._committer = committer
        self._clock = clock
        self._settle = settle
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        """None: close."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        if self._closed:
            self._loop.call_soon(job.done, None, StoreError(CLOSED))
        else:
            self._waiting.put(job)

    def _run(self) -> None:
        failed = False
        while (batch := self._take(RECOVERY_PROBE_S if failed else None)) is not None:
            started = self._clock.monotonic()
            synced = not batch or not all(job.rides for job in batch)  # nothing: a look whether the disk is well again
            settlement = self._committer.commit(batch, synced=synced)
            failed = not self._committer.is_open
            if synced:
                self._observe(self._clock.monotonic() - started)
            self._loop.call_soon_threadsafe(self._settle, settlement)
            self._committer.weigh()
        self._committer.close()

    def _take(self, timeout_s: float | None) -> Sequence[Job] | None:
        """What waits, at least one job. Timed only while the disk fails (then it may be none): an idle box sleeps."""
        batch: list[Job] = []
        entries = 0
        try:
            job = self._waiting.get(timeout=timeout_s)
            while job is not None:
                batch.append(job)
                entries += max(1, len(job.entries))
                if entries >= BATCH_MAX_ENTRIES:
                    return batch
                job = self._waiting.get_nowait()
        except Empty:
            return batch
        if batch:
            self._waiting.put(None)  # after what was queued before it
        return batch or None

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)


class InlineWriter:
    """Commits at once, on the loop: for tests on a clock that jumps, which cannot see a thread at work."""

    def __init__(self, committer: Committer, settle: Settle) -> None:
        self._committer = committer
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def submit(self, job: Job) -> None:
        if self._closed:
            self._loop.call_soon(job.done, None, StoreError(CLOSED))
            return
        self._loop.call_soon(self._settle, self._committer.commit([job]))
        self._committer.weigh()

    async def close(self) -> None:
        self._closed = True
        self._committer.close()
