"""New events: their place in the order, their outbox rows with numbers, and the last word on each condition."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from gateway.kinds import FACTS
from gateway.model import Delivery, Event
from gateway.store import Entry
from gateway.store.insert import LATEST, OUTBOX, insert_events
from gateway.store.numbers import Numbers
from gateway.store.tally import Tally

NUMBERED_AT_ONCE_MAX = 2000
"""Queued rows of a destination up to which a new event gets its number in its own commit: a fifth of the numbers, should
all rows be of one account. In a longer queue it has time, and a late panic alarm must still find a free number."""

NO_ZONE = -1
"""The `latest` table's stand-in for "no zone": a primary key column cannot be NULL."""

_New = tuple[int, Event, Entry]
"""Its place in the order, the event as it is stored, and who must get it."""

_Give = Callable[[sqlite3.Connection, str, str], int]


class Arrivals:
    """Works inside the writer's transactions. One per opening of the file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.numbers = Numbers()
        last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        self._next_seq = last[0] + 1 if last else 1

    def insert(self, entries: Sequence[Entry], queued: Counter[str], tally: Tally) -> Sequence[int]:
        """Store what is not there yet. `queued` is how long each destination's queue is. Returns the positions of the
        repeats."""
        first = self._next_seq
        self._next_seq += len(entries)
        new = insert_events(self._db, [entry.event for entry in entries], first)
        if len(new) < len(entries):
            new = self._without_what_follows(entries, first, new)
        tally.placed.update(new)
        tally.stored.update(event.lane for event in new.values())
        self._queue([(seq, event, entries[seq - first]) for seq, event in new.items()], queued, tally)
        self._keep_latest(new.values())
        if len(new) == len(entries):
            return ()
        tally.repeats += len(entries) - len(new)
        return [seq - first for seq in range(first, self._next_seq) if seq not in new]

    def _without_what_follows(
        self, entries: Sequence[Entry], first: int, new: Mapping[int, Event]
    ) -> Mapping[int, Event]:
        """Take back what followed from a repeat: it followed, or did not, when the repeat's first was stored."""
        repeats = {entry.event.id for seq, entry in enumerate(entries, first) if seq not in new}
        gone = [seq for seq in new if entries[seq - first].follows in repeats]
        self._db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in gone])
        return {seq: event for seq, event in new.items() if seq not in gone}

    def _queue(self, new: Sequence[_New], queued: Counter[str], tally: Tally) -> None:
        try:
            rows = self._write(new, queued, self.numbers.next)
        except sqlite3.IntegrityError:  # an account has come round to a number that is still open
            self._db.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (new[0][0], new[-1][0]))
            self.numbers.forget()
            rows = self._write(new, queued, self.numbers.next_free)
        self.numbers.save(self._db)
        tally.queued.update((row.destination, row.event.lane) for row in rows)
        for row in rows:
            tally.deliveries[row.destination].append(row)

    def _write(self, new: Sequence[_New], queued: Counter[str], give: _Give) -> Sequence[Delivery]:
        queued = queued.copy()
        deliveries: list[Delivery] = []
        rows = []
        for seq, event, entry in new:
            for destination in entry.destinations:
                account = number = None
                if destination in entry.numbered and queued[destination] < NUMBERED_AT_ONCE_MAX:
                    account = event.account
                    number = give(self._db, destination, account) if account else None
                queued[destination] += 1
                rows.append((destination, seq, event.lane.value, account, number))
                deliveries.append(Delivery(destination, event, number))
        OUTBOX.rows(self._db, rows)
        return deliveries

    def _keep_latest(self, events: Iterable[Event]) -> None:
        latest = {
            (event.device, event.kind.value, NO_ZONE if event.zone is None else event.zone): event.qualifier.value
            for event in events
            if not FACTS[event.kind].momentary
        }
        LATEST.rows(self._db, [(*condition, qualifier) for condition, qualifier in latest.items()])
