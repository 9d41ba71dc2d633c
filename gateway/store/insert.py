"""Rows on their way into the log, many per statement.

Each statement gives Python's lock away and waits to get it back, beside a busy loop as long as the interpreter's switch
interval. So a commit is made of few and fat statements, whose compiled form SQLite's module keeps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain

from gateway.model import Event
from gateway.store.rows import EVENT_COLUMNS, NOT_STORABLE, event_row, storable

ROWS_EXACT_MAX = 64
"""So many rows at most have a statement of just their number, kept compiled: some 10 KB each."""

ROWS_PER_STATEMENT = 256
"""Of more rows, so many go at a time: beyond it nothing more is saved per row."""

Row = tuple[object, ...]


class Insert:
    """INSERT of any number of rows into one table. `clause` is what follows VALUES."""

    def __init__(self, into: str, columns: str, clause: str = "") -> None:
        row = f"({','.join('?' * len(columns.split(',')))})"
        self._statements = {
            count: f"{into} ({columns}) VALUES {','.join([row] * count)} {clause}"
            for count in (*range(1, ROWS_EXACT_MAX + 1), ROWS_PER_STATEMENT)
        }

    def rows(self, db: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Insert them in their order. Returns how many rows that changed."""
        changed = start = 0
        while left := len(rows) - start:
            count = ROWS_PER_STATEMENT if left >= ROWS_PER_STATEMENT else min(left, ROWS_EXACT_MAX)
            values = tuple(chain.from_iterable(rows[start : start + count]))
            changed += db.execute(self._statements[count], values).rowcount
            start += count
        return changed


EVENTS = Insert("INSERT INTO events", f"seq, {EVENT_COLUMNS}", "ON CONFLICT (repeat_key) DO NOTHING")
OUTBOX = Insert("INSERT INTO outbox", "destination, seq, lane, account, number")
LATEST = Insert(
    "INSERT INTO latest",
    "device, kind, zone, qualifier",
    "ON CONFLICT DO UPDATE SET qualifier = excluded.qualifier WHERE qualifier <> excluded.qualifier",
)


def insert_events(db: sqlite3.Connection, events: Sequence[Event], first_seq: int) -> Mapping[int, Event]:
    """Store what is not there yet, numbered from `first_seq` on in the order given. Returns what is new, as it is stored."""
    rows = dict(enumerate(events, first_seq))
    try:
        count = EVENTS.rows(db, [(seq, *event_row(event)) for seq, event in rows.items()])
    except NOT_STORABLE:
        db.execute("DELETE FROM events WHERE seq >= ?", (first_seq,))
        rows = {seq: _insert_rest(db, event, seq) for seq, event in rows.items()}
        count = None
    if count == len(rows):
        return rows
    stored = db.execute("SELECT seq FROM events WHERE seq >= ? ORDER BY seq", (first_seq,)).fetchall()
    return {seq: rows[seq] for (seq,) in stored}


def _insert_rest(db: sqlite3.Connection, event: Event, seq: int) -> Event:
    """Store one event, or what can be stored of it."""
    try:
        EVENTS.rows(db, [(seq, *event_row(event))])
    except NOT_STORABLE as fault:
        event = storable(event, fault)
        EVENTS.rows(db, [(seq, *event_row(event))])
    return event
