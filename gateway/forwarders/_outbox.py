"""The store's side of a destination: what waits is read ahead, what was decided is written back.

Rows are read into memory as far as the bounds go and given out by `LaneQueue`. A row stays known here until its outcome
is on disk, so that it can be neither sent twice from a stale read nor counted as delivered too early.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from gateway.errors import StoreError
from gateway.forwarders import Outlet
from gateway.forwarders._lanes import LaneQueue, account_of
from gateway.forwarders._trouble import Trouble
from gateway.model import Delivery, DeliveryState, Kind, Lane, Qualifier

HELD_MAX = 512  # rows of one lane in memory: ten windows of many accounts; at 4 KB of raw bytes each 2 MB a lane
NUMBERS_AHEAD = 16  # rows of one account numbered in one commit, else a single site would send one event per sync
ASIDE_MAX = 10_000  # set-aside rows remembered for a retry of their own; beyond it they wait for a person
ASIDE_BATCH = 64  # put back in one go, so that old refusals do not stand in the way of new alarms
ASIDE_PAUSE_S = 60.0
STORE_RETRY_S = 1.0

REFUSED, HELD_BACK, UNCLAIMED = "refused: ", "waits for the alarm it ends", "the device is not claimed"

_Condition = tuple[str, Kind, int | None]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Something decided about rows, on its way to the disk."""

    rows: Sequence[Delivery]
    write: Callable[[], Awaitable[None]]
    written: Awaitable[None]
    then: Callable[[], Awaitable[None]]


class Outbox:
    """Rows of one destination: `take` them, then say `accepted`, `refused` or `put_back`."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._store = outlet.store
        self._clock = outlet.clock
        self.trouble = Trouble(outlet.report, outlet.destination)
        self.changed = asyncio.Event()
        """Set when there may be something new to send."""
        self.is_read = asyncio.Event()
        """Set once what was stored before the start has been looked at."""
        self._queue = LaneQueue()
        self._known: dict[int, Delivery] = {}
        # What is known of known rows, by their seq.
        self._numbers: dict[int, int] = {}
        self._sent: set[int] = set()
        self._misses: Counter[int] = Counter()
        self._held: Counter[Lane] = Counter()
        self._cursor: dict[Lane, int] = {}
        self._gone: set[int] = set()  # settled while a read was under way, which may still show them as queued
        self._look = asyncio.Event()
        self._outcomes: asyncio.Queue[_Outcome] = asyncio.Queue()  # at most one per known row
        self._aside: dict[int, float] = {}  # seq of a dead row -> monotonic time of its next try
        self._unended: dict[_Condition, set[int]] = {}  # refused alarms, whose restores must not go in their place
        self._aside_changed = asyncio.Event()

    async def run(self) -> None:
        """Read ahead and write back until cancelled."""
        await self._recall()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name=f"{self._outlet.destination} watch")
            group.create_task(self._feed(), name=f"{self._outlet.destination} feed")
            group.create_task(self._settle(), name=f"{self._outlet.destination} settle")
            group.create_task(self._retry_aside(), name=f"{self._outlet.destination} retry")

    # -- for the line --------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Nothing is waiting in memory, and so nothing that was stored before the last look."""
        return not self._queue

    def take(self, lanes: Collection[Lane]) -> Delivery | None:
        """The next row to send; its account stays busy until the row is accepted, refused or put back."""
        while (row := self._queue.take(lanes)) is not None:
            if not self._is_early_restore(row):
                return row
            self._set_aside(row, HELD_BACK, retry_s=ASIDE_PAUSE_S)
        return None

    async def numbers(self, rows: Sequence[Delivery]) -> Sequence[int]:
        """The sequence number of each row, on disk before this returns. Raises StoreError."""
        lacking: dict[str, list[int]] = {}
        for row in rows:
            if row.event.seq not in self._numbers:
                several = (row, *self._queue.following(row, NUMBERS_AHEAD - 1))
                seqs = [each.event.seq for each in several if each.event.seq not in self._numbers]
                lacking.setdefault(account_of(row), []).extend(seqs)
        taken = await asyncio.gather(
            *(self._store.number(self._outlet.destination, account, seqs) for account, seqs in lacking.items())
        )
        for seqs, numbers in zip(lacking.values(), taken, strict=True):
            self._numbers.update(zip(seqs, numbers, strict=True))
        return [self._numbers[row.event.seq] for row in rows]

    def reserve(self, account: str) -> bool:
        """Keep a free account busy for a frame that is no event; False when it is busy."""
        return self._queue.reserve(account)

    def release(self, account: str) -> None:
        """The reserved account is free again."""
        self._queue.release(account)
        self.changed.set()

    def is_repeat(self, row: Delivery) -> bool:
        """Note that the row goes out now; True when it did before."""
        is_repeat = row.event.seq in self._sent
        self._sent.add(row.event.seq)
        return is_repeat

    def missed(self, row: Delivery) -> int:
        """Note that a working receiver did not answer; gives how often that happened to this row."""
        self._misses[row.event.seq] += 1
        return self._misses[row.event.seq]

    def put_back(self, row: Delivery) -> None:
        """It was not sent, or not answered: next again, under the same number."""
        self._queue.put_back(row)
        self.changed.set()

    def accepted(self, rows: Sequence[Delivery]) -> None:
        """The receiver's positive answer came. The rows count as delivered when that is on disk."""
        seqs = [row.event.seq for row in rows]

        def write() -> Awaitable[None]:
            return self._store.accepted(self._outlet.destination, seqs)

        async def then() -> None:
            now, labels = self._clock.now(), self._outlet.metrics
            for row in rows:
                lane = row.event.lane.name.lower()
                labels.accepted.labels(self._outlet.destination, lane).inc()
                waited_s = max(0.0, (now - row.event.received_at).total_seconds())
                labels.delivery_seconds.labels(self._outlet.destination, lane).observe(waited_s)
            if not self._aside and not self._unended:
                await self.trouble.end("refused")

        for row in rows:
            self._aside.pop(row.event.seq, None)
            self._end(row)
            self._queue.release(account_of(row))
        self._outcomes.put_nowait(_Outcome(rows, write, write(), then))
        self.changed.set()

    def refused(self, row: Delivery, reason: str, *, retry_s: float | None) -> None:
        """The receiver will not have it: dead, visible at once, tried again after `retry_s` (None: by a person).

        A refused life or alarm event is a fault of its own, and its restore stays behind it.
        """
        is_alarm = row.event.lane <= Lane.ALARM
        is_remembered = retry_s is not None and len(self._aside) < ASIDE_MAX
        if is_alarm and is_remembered and row.event.qualifier is Qualifier.NEW:
            self._unended.setdefault(_condition(row), set()).add(row.event.seq)
        words = f"{self._outlet.destination} 拒收 {row.event.kind} {row.event.id}: {reason}" if is_alarm else None
        self._set_aside(row, REFUSED + reason, retry_s=retry_s, words=words)

    def _set_aside(self, row: Delivery, reason: str, *, retry_s: float | None, words: str | None = None) -> None:
        async def then() -> None:
            if retry_s is not None and len(self._aside) < ASIDE_MAX:
                self._aside[row.event.seq] = self._clock.monotonic() + retry_s
                self._aside_changed.set()
            if words is not None:
                await self.trouble.begin("refused", words)

        self._queue.release(account_of(row))
        self._write_dead(row, reason, then=then)
        self.changed.set()

    def _write_dead(self, row: Delivery, reason: str, *, then: Callable[[], Awaitable[None]]) -> None:
        def write() -> Awaitable[None]:
            return self._store.dead(self._outlet.destination, row.event.seq, reason)

        self._outcomes.put_nowait(_Outcome([row], write, write(), then))

    def read_again(self) -> None:
        """Forget what waits in memory and read it anew: the store refused something, so memory may be wrong."""
        for row in self._queue.clear():
            self._forget(row)
        self._cursor.clear()
        self._look.set()

    # -- reading ahead -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        watch = self._store.watch()
        try:
            while True:
                self._look.set()
                await watch.wait()
        finally:
            watch.close()

    async def _feed(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                for lane in Lane:
                    await self._fill(lane)
                self.is_read.set()
            except StoreError as error:
                self._outlet.log.warning("the outbox cannot be read", error=str(error))
                await self._clock.sleep(STORE_RETRY_S)
                self._look.set()

    async def _fill(self, lane: Lane) -> None:
        if self._held[lane] > HELD_MAX // 2:
            return  # looked at again when half of it has gone
        if not self._held[lane]:
            self._cursor[lane] = 0  # from the front, for rows that a person has queued again
        self._gone.clear()
        cursor = self._cursor.get(lane, 0)
        rows = await self._store.pending(self._outlet.destination, lane, after_seq=cursor, limit=HELD_MAX)
        for row in rows:
            if self._held[lane] >= HELD_MAX:
                break
            seq = self._cursor[lane] = row.event.seq
            if seq not in self._known and seq not in self._gone:
                self._hold(row)

    def _hold(self, row: Delivery) -> None:
        seq = row.event.seq
        self._known[seq] = row
        self._held[row.event.lane] += 1
        if row.number is not None:
            self._numbers[seq] = row.number
        if row.event.place is None:
            self._write_dead(row, UNCLAIMED, then=_nothing)
        else:
            self._queue.add(row)
            self.changed.set()

    # -- writing back --------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        while True:
            outcome = await self._outcomes.get()
            await self._written(outcome)
            for row in outcome.rows:
                self._gone.add(row.event.seq)
                self._forget(row)
            await outcome.then()

    def _forget(self, row: Delivery) -> None:
        lane, seq = row.event.lane, row.event.seq
        del self._known[seq]
        self._numbers.pop(seq, None)
        self._sent.discard(seq)
        self._misses.pop(seq, None)
        self._held[lane] -= 1
        if self._held[lane] in (0, HELD_MAX // 2):
            self._look.set()

    async def _written(self, outcome: _Outcome) -> None:
        """Until it is: an acceptance that is not on disk is no acceptance."""
        written = outcome.written
        while True:
            try:
                return await written
            except StoreError as error:
                self._outlet.log.warning("an outcome cannot be stored", error=str(error))
                await self._clock.sleep(STORE_RETRY_S)
                written = outcome.write()

    # -- refused alarms ------------------------------------------------------------------------------------------------

    async def _recall(self) -> None:
        """What was refused before this start is tried again; its restores still wait for it."""
        after_seq = 0
        while rows := await self._store.deliveries(
            destination=self._outlet.destination, state=DeliveryState.DEAD, after_seq=after_seq
        ):
            after_seq = rows[-1].event.seq
            for row in rows:
                is_ours = row.event.lane <= Lane.ALARM and row.reason.startswith((REFUSED, HELD_BACK))
                if is_ours and len(self._aside) < ASIDE_MAX:
                    self._aside[row.event.seq] = self._clock.monotonic()
                    if row.event.qualifier is Qualifier.NEW:
                        self._unended.setdefault(_condition(row), set()).add(row.event.seq)
                    self.trouble.recall("refused")
        self._aside_changed.set()

    async def _retry_aside(self) -> None:
        while True:
            if not self._aside:
                self._aside_changed.clear()
                await self._aside_changed.wait()
                continue
            now = self._clock.monotonic()
            due = sorted(seq for seq, at in self._aside.items() if at <= now)[:ASIDE_BATCH]
            if due:
                await self._queue_again(due)
                await self._clock.sleep(ASIDE_PAUSE_S if len(due) == ASIDE_BATCH else 0)
            else:
                await self._clock.sleep(min(ASIDE_PAUSE_S, min(self._aside.values()) - now))

    async def _queue_again(self, seqs: Sequence[int]) -> None:
        try:
            await self._store.requeue(self._outlet.destination, seqs)
        except StoreError as error:
            self._outlet.log.warning("refused events cannot be queued again", error=str(error))
            await self._clock.sleep(STORE_RETRY_S)
            return
        for seq in seqs:
            self._aside.pop(seq, None)
        self._cursor.clear()
        self._look.set()

    def _is_early_restore(self, row: Delivery) -> bool:
        if row.event.qualifier is Qualifier.NEW or row.event.lane > Lane.ALARM:
            return False
        return any(seq < row.event.seq for seq in self._unended.get(_condition(row), ()))

    def _end(self, row: Delivery) -> None:
        seqs = self._unended.get(_condition(row))
        if seqs is not None:
            seqs.discard(row.event.seq)
            if not seqs:
                del self._unended[_condition(row)]


def _condition(row: Delivery) -> _Condition:
    return row.event.device, row.event.kind, row.event.zone


async def _nothing() -> None:
    pass
