"""The store's side of a destination: what waits is read ahead, what was decided is written back.

Rows are read into memory as far as the bounds go and given out by `LaneQueue`. A row stays known here until its outcome
is on disk, so that it can be neither sent twice from a stale read nor counted as delivered too early.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from gateway.errors import StoreError
from gateway.forwarders import Outlet
from gateway.forwarders._aside import ASIDE_BATCH, ASIDE_PAUSE_S, Aside
from gateway.forwarders._lanes import LaneQueue, account_of
from gateway.forwarders._trouble import STORE_RETRY_S, Trouble
from gateway.model import Delivery, DeliveryState, Lane

HELD_MAX = 8192  # rows of one lane in memory: most of a second of flood; some 8 MB, at most 40 MB
NUMBERS_AHEAD = 16  # rows of one account numbered in one commit, else a single site would send one event per sync
NUMBERS_TAKEN_MAX = 512  # rows of all accounts numbered in one commit, a few milliseconds: two windows of the largest

REFUSED, HELD_BACK, UNCLAIMED = "refused: ", "waits for the alarm it ends", "the device is not claimed"

T = TypeVar("T")


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
        self.trouble = Trouble(outlet)
        self.changed = asyncio.Event()
        """Set when there may be something new to send."""
        self.is_read = asyncio.Event()
        """Set once what was stored before the start has been looked at."""
        self._queue = LaneQueue()
        self._aside = Aside()
        self._aside_changed = asyncio.Event()
        self._known: dict[int, Delivery] = {}
        # What is known of known rows, by their seq.
        self._numbers: dict[int, int] = {}
        self._sent: set[int] = set()
        self._misses: Counter[int] = Counter()
        # Reading.
        self._held: Counter[Lane] = Counter()
        self._cursor: dict[Lane, int] = {}
        self._current: set[Lane] = set()
        """Lanes of which all is known that is on disk: the next row comes by `committed`."""
        self._reading: Lane | None = None
        self._meanwhile: list[Delivery] = []
        """Committed in the lane that is being read."""
        self._gone: set[int] = set()  # settled while a read was under way, which may still show them as queued
        self._look = asyncio.Event()
        # Writing; at most one outcome per known row.
        self._outcomes: asyncio.Queue[_Outcome] = asyncio.Queue()
        # A rate needs its series before the first event, an alert before the first trouble.
        name, metrics = outlet.destination, outlet.metrics
        metrics.resent.labels(name)
        self._accepted_metric = {lane: metrics.accepted.labels(name, lane.name.lower()) for lane in Lane}
        self._seconds_metric = {lane: metrics.delivery_seconds.labels(name, lane.name.lower()) for lane in Lane}

    async def run(self) -> None:
        """Read ahead and write back until cancelled."""
        await self._recall()
        async with asyncio.TaskGroup() as group:
            for job in (self._feed, self._settle, self._offer_again):
                group.create_task(job(), name=f"{self._outlet.destination} {job.__name__.strip('_')}")

    # -- for the line --------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Nothing is waiting in memory, and so nothing that was stored before the last look."""
        return not self._queue

    def holds(self, lane: Lane) -> bool:
        """Whether anything of this lane waits to be sent or to be answered."""
        return self._held[lane] > 0

    def take(self, lanes: Collection[Lane]) -> Delivery | None:
        """The next row to send; its account stays busy until the row is accepted, refused or put back."""
        while (row := self._queue.take(lanes)) is not None:
            if not self._aside.is_early(row):
                return row
            self._set_aside(row, HELD_BACK, retry_s=ASIDE_PAUSE_S)
        return None

    async def numbers(self, rows: Sequence[Delivery]) -> Sequence[int]:
        """The sequence number of each row, on disk before this returns. Raises StoreError."""
        if any(row.event.seq not in self._numbers for row in rows):
            lanes = {row.event.lane for row in rows}
            following = chain.from_iterable(self._queue.first_of_each(lane, NUMBERS_AHEAD - 1) for lane in lanes)
            lacking = (row for row in chain(rows, following) if row.event.seq not in self._numbers)
            wanted: defaultdict[str, list[int]] = defaultdict(list)
            for row in islice(lacking, NUMBERS_TAKEN_MAX):
                wanted[account_of(row)].append(row.event.seq)
            self._numbers.update(await self._store.number(self._outlet.destination, wanted))
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

        async def then() -> None:
            self._count_accepted(rows)
            self._outlet.proven(rows)
            if not self._aside:
                await self.trouble.end("refused")

        for row in rows:
            self._aside.accepted(row)
            self._queue.release(account_of(row))
        self._decide(rows, lambda: self._store.accepted(self._outlet.destination, seqs), then)

    def refused(self, row: Delivery, reason: str, *, retry_s: float | None) -> None:
        """The receiver will not have it: dead, visible at once, offered again after `retry_s` (None: by a person).

        A refused life or alarm event is a fault of its own, and its restore stays behind it.
        """
        if retry_s is not None and self._aside.has_room:
            self._aside.refuse(row)
        self._set_aside(row, REFUSED + reason, retry_s=retry_s)

    def read_again(self) -> None:
        """Forget what waits in memory and read it anew: the store refused something, so memory may be wrong."""
        for row in self._queue.clear():
            self._forget(row)
        self.requeued()

    # -- reading ahead -------------------------------------------------------------------------------------------------

    def committed(self, rows: Sequence[Delivery]) -> None:
        """New rows, as the store hands them over. Those of a lane that is behind are read from the disk in their turn."""
        for row in rows:
            lane = row.event.lane
            if lane is self._reading and len(self._meanwhile) < HELD_MAX:
                self._meanwhile.append(row)
            elif lane not in self._current or self._held[lane] >= HELD_MAX:
                self._falls_behind(lane)
            elif row.event.seq > self._cursor.get(lane, 0):  # else a read was faster than this word of the same commit
                self._cursor[lane] = row.event.seq
                self._hold(row)

    def _falls_behind(self, lane: Lane) -> None:
        self._current.discard(lane)
        if lane is self._reading:
            self._reading = None
        self._look.set()

    def requeued(self) -> None:
        """Rows behind the cursors are queued: all lanes are read from the front."""
        self._cursor = {}
        self._current.clear()
        self._look.set()

    async def _feed(self) -> None:
        leave = self._store.follow(self._outlet.destination, self)
        try:
            self._look.set()
            while True:
                await self._look.wait()
                self._look.clear()
                try:
                    for lane in Lane:
                        await self._fill(lane)
                    self.is_read.set()
                except StoreError as error:
                    await self._store_fails("the outbox cannot be read", error)
                    self._look.set()
        finally:
            leave()

    async def _fill(self, lane: Lane) -> None:
        if lane in self._current or self._held[lane] > HELD_MAX // 2:
            return  # looked at again when half of it has gone
        self._gone.clear()
        self._reading, self._meanwhile = lane, []
        cursors = self._cursor
        limit = HELD_MAX - self._held[lane]
        try:
            rows = await self._store.pending(
                self._outlet.destination, lane, after_seq=cursors.get(lane, 0), limit=limit
            )
        finally:
            is_whole, self._reading = self._reading is lane, None
            meanwhile, self._meanwhile = self._meanwhile, []
        if cursors is not self._cursor:
            return  # looked at from the front meanwhile: what was read may stand behind rows that were forgotten
        for row in rows:
            seq = cursors[lane] = row.event.seq
            if seq not in self._known and seq not in self._gone:
                self._hold(row)
        if is_whole and len(rows) < limit:
            self._current.add(lane)
            self.committed(meanwhile)
        elif self._held[lane] <= HELD_MAX // 2:
            self._look.set()  # a page of rows that were known already: more may wait behind it

    def _hold(self, row: Delivery) -> None:
        self._known[row.event.seq] = row
        self._held[row.event.lane] += 1
        if row.number is not None:
            self._numbers[row.event.seq] = row.number
        if row.event.place is None:
            self._decide([row], self._dead(row, UNCLAIMED), _nothing)
        else:
            self._queue.add(row)
            self.changed.set()

    def _forget(self, row: Delivery) -> None:
        lane, seq = row.event.lane, row.event.seq
        del self._known[seq]
        self._numbers.pop(seq, None)
        self._sent.discard(seq)
        self._misses.pop(seq, None)
        self._held[lane] -= 1
        if self._held[lane] in (0, HELD_MAX // 2):
            self._look.set()

    # -- writing back --------------------------------------------------------------------------------------------------

    def _decide(
        self, rows: Sequence[Delivery], write: Callable[[], Awaitable[None]], then: Callable[[], Awaitable[None]]
    ) -> None:
        """Hand an outcome to the store now, so that even a stop in this moment does not lose it."""
        self._outcomes.put_nowait(_Outcome(rows, write, write(), then))
        self.changed.set()

    def _dead(self, row: Delivery, reason: str) -> Callable[[], Awaitable[None]]:
        return lambda: self._store.dead(self._outlet.destination, row.event.seq, reason)

    def _set_aside(self, row: Delivery, reason: str, *, retry_s: float | None) -> None:
        async def then() -> None:
            if retry_s is not None and self._aside.has_room:
                self._aside.remember(row, self._clock.monotonic() + retry_s)
                self._aside_changed.set()
            if row.event.lane <= Lane.ALARM:
                await self.trouble.begin("refused", self._refusal(row, reason))

        self._queue.release(account_of(row))
        self._decide([row], self._dead(row, reason), then)

    def _refusal(self, row: Delivery, reason: str) -> str:
        return f"{self._outlet.destination} 未接收 {row.event.kind} {row.event.id}: {reason}"

    async def _settle(self) -> None:
        while True:
            outcome = await self._outcomes.get()
            written, is_again = outcome.written, False
            while True:
                try:
                    await written
                    break
                except StoreError as error:  # an acceptance that is not on disk is no acceptance
                    if is_again:  # first at once: many failed together, and the disk may long be well
                        await self._store_fails("an outcome cannot be stored", error)
                    written, is_again = outcome.write(), True
            for row in outcome.rows:
                self._gone.add(row.event.seq)
                self._forget(row)
            await outcome.then()

    def _count_accepted(self, rows: Sequence[Delivery]) -> None:
        now = self._clock.now()
        for row in rows:
            lane = row.event.lane
            self._accepted_metric[lane].inc()
            if row.accepted_at is None:  # else sent once more, long after: how long it took is known
                self._seconds_metric[lane].observe(max(0.0, (now - row.event.received_at).total_seconds()))

    async def _store_fails(self, what: str, error: StoreError) -> None:
        self._outlet.log.warning(what, error=str(error))
        await self._clock.sleep(STORE_RETRY_S)

    # -- what was refused ----------------------------------------------------------------------------------------------

    async def _recall(self) -> None:
        """What was refused before this start is offered again now; its restores still wait for it."""
        await self._read(self.trouble.recall)
        after_seq = 0
        while rows := await self._read(partial(self._dead_rows, after_seq)):
            after_seq = rows[-1].event.seq
            for row in rows:
                if (
                    row.event.lane <= Lane.ALARM
                    and row.reason.startswith((REFUSED, HELD_BACK))
                    and self._aside.has_room
                ):
                    self._aside.refuse(row)
                    self._aside.remember(row, self._clock.monotonic())
                    await self.trouble.still("refused", self._refusal(row, row.reason))

    async def _dead_rows(self, after_seq: int) -> Sequence[Delivery]:
        return await self._store.deliveries(
            destination=self._outlet.destination, state=DeliveryState.DEAD, after_seq=after_seq
        )

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """What must be known before the first event goes."""
        while True:
            try:
                return await read()
            except StoreError as error:
                await self._store_fails("the outbox cannot be read", error)

    async def _offer_again(self) -> None:
        while True:
            if not self._aside:
                self._aside_changed.clear()
                await self._aside_changed.wait()
            now_s = self._clock.monotonic()
            seqs = self._aside.due(now_s)
            if not seqs:
                await self._clock.sleep(self._aside.wait_s(now_s))
                continue
            try:
                await self._store.requeue(self._outlet.destination, seqs)
            except StoreError as error:
                await self._store_fails("refused events cannot be queued again", error)
                continue
            self._aside.offered(seqs)
            if len(seqs) == ASIDE_BATCH:
                await self._clock.sleep(ASIDE_PAUSE_S)


async def _nothing() -> None:
    pass
