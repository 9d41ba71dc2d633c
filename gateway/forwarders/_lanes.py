"""Which delivery goes next: pure decisions over what is in memory."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from gateway.model import Delivery, Lane

LANES = tuple(Lane)
FAULT_EVERY = 20  # one send in twenty is the 5 % that keep faults from starving behind a storm of alarms


class LaneOrder:
    """Strict order of urgency, except that a waiting fault is passed over at most FAULT_EVERY - 1 times in a row."""

    def __init__(self) -> None:
        self._fault_passed_over = 0

    def choose(self, waiting: Collection[Lane]) -> Lane:
        """The lane that sends next, out of those that have something to send."""
        lane = min(waiting)
        if Lane.FAULT in waiting:
            if lane is Lane.FAULT or self._fault_passed_over >= FAULT_EVERY - 1:
                self._fault_passed_over = 0
                return Lane.FAULT
            self._fault_passed_over += 1
        return lane


class LaneQueue:
    """Deliveries by lane and account, each account in the order of the store, one delivery out per account.

    The order within an account includes the order within a source: a source belongs to one account.
    """

    def __init__(self) -> None:
        self._order = LaneOrder()
        self._rows: dict[Lane, dict[str, deque[Delivery]]] = {lane: {} for lane in Lane}
        # Accounts that may send, by the age of their first row. An account stands in a heap at most once (`_listed`);
        # one found busy is dropped and listed again on release, so the heaps never outgrow the rows.
        self._ready: dict[Lane, list[tuple[int, str]]] = {lane: [] for lane in Lane}
        self._listed: dict[Lane, set[str]] = {lane: set() for lane in Lane}
        self._busy: set[str] = set()

    def __bool__(self) -> bool:
        return any(self._rows.values())

    def add(self, delivery: Delivery) -> None:
        """Queue a row; one older than its neighbours (queued again by a person) goes in front of them."""
        lane, account = delivery.event.lane, account_of(delivery)
        rows = self._rows[lane].setdefault(account, deque())
        rows.append(delivery)
        if len(rows) > 1 and rows[-2].event.seq > delivery.event.seq:
            self._rows[lane][account] = deque(sorted(rows, key=lambda row: row.event.seq))
        self._list(lane, account)

    def take(self, lanes: Collection[Lane] = LANES) -> Delivery | None:
        """The next row of these lanes whose account is free; the account is busy from now on."""
        waiting = [lane for lane in lanes if self._ready[lane] and self._first_ready(lane)]
        if not waiting:
            return None
        lane = self._order.choose(waiting)
        _, account = heapq.heappop(self._ready[lane])
        self._listed[lane].discard(account)
        rows = self._rows[lane][account]
        delivery = rows.popleft()
        if not rows:
            del self._rows[lane][account]
        self._busy.add(account)
        return delivery

    def first_of_each(self, lane: Lane, count: int) -> Iterator[Delivery]:
        """Up to `count` rows of each account of a lane: those that come next."""
        for rows in self._rows[lane].values():
            yield from islice(rows, count)

    def reserve(self, account: str) -> bool:
        """Make a free account busy without a row; False when it is busy already."""
        if account in self._busy:
            return False
        self._busy.add(account)
        return True

    def release(self, account: str) -> None:
        """The account may send again."""
        self._busy.discard(account)
        for lane, rows in self._rows.items():
            if account in rows:
                self._list(lane, account)

    def put_back(self, delivery: Delivery) -> None:
        """Undo `take`."""
        account = account_of(delivery)
        self._rows[delivery.event.lane].setdefault(account, deque()).appendleft(delivery)
        self.release(account)

    def clear(self) -> Sequence[Delivery]:
        """Empty it; gives what was in it. Busy accounts stay busy."""
        rows = [row for accounts in self._rows.values() for queued in accounts.values() for row in queued]
        for lane in Lane:
            self._rows[lane].clear()
            self._ready[lane].clear()
            self._listed[lane].clear()
        return rows

    def _list(self, lane: Lane, account: str) -> None:
        if account not in self._busy and account not in self._listed[lane]:
            self._listed[lane].add(account)
            heapq.heappush(self._ready[lane], (self._rows[lane][account][0].event.seq, account))

    def _first_ready(self, lane: Lane) -> bool:
        """Drop accounts that became busy through another lane, or were emptied, from the front."""
        ready = self._ready[lane]
        while ready and (ready[0][1] in self._busy or ready[0][1] not in self._rows[lane]):
            self._listed[lane].discard(heapq.heappop(ready)[1])
        return bool(ready)


def account_of(delivery: Delivery) -> str:
    """The account a row is sent under. Only rows of claimed devices are queued."""
    account = delivery.event.account
    assert account is not None, "an unclaimed event has no account"
    return account
