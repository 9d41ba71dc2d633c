"""What is removed: by age, and what first when the disk budget is short. Life and alarm events are never shed."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable

from gateway.clock import PROGRAM_DATE
from gateway.kinds import Kind, Lane
from gateway.store import StoreState
from gateway.store.rows import milliseconds
from gateway.store.tally import Tally

SHED_ROWS = 2000
"""Rows looked at per commit: enough to win against the fastest writer, few enough to keep a commit short."""

PRUNE_ROWS = 5000
"""Rows looked at per commit, so that housekeeping never holds up an alarm for long."""

BULK_SHARE = 0.5
"""Bulk (positions, telemetry) may hold at most half of the budget."""


def used_bytes(connection: sqlite3.Connection, page_bytes: int) -> int:
    """Bytes in pages that hold something; freed pages are used again before the file grows."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return int((pages - free) * page_bytes)


def remove_events(connection: sqlite3.Connection, seqs: Iterable[int], lane: Lane, tally: Tally) -> int:
    """Delete events with their outbox rows, inside the running transaction. Returns how many."""
    count = 0
    for seq in seqs:
        rows = connection.execute("DELETE FROM outbox WHERE seq = ? RETURNING destination, state", (seq,)).fetchall()
        tally.queued.subtract((destination, lane) for destination, state in rows if state == "queued")
        connection.execute("DELETE FROM events WHERE seq = ?", (seq,))
        count += 1
    tally.stored[lane] -= count
    return count


class Budget:
    """Removes some rows in each transaction while the budget asks for it.

    Bulk is thinned first, oldest first, so that a track loses detail before it loses its ends.
    Then the oldest status and fault records go that nobody waits for any more.
    """

    def __init__(self) -> None:
        self._looked_at: dict[Lane, int] = {}  # how far the search for records nobody waits for has come

    def shed(self, connection: sqlite3.Connection, state: StoreState, tally: Tally) -> None:
        """Do this transaction's share."""
        used, budget = state.size_bytes, state.budget_bytes
        # Rows of all lanes are of similar size.
        bulk_bytes = used * state.stored[Lane.BULK] / max(1, sum(state.stored.values()))
        if (bulk_bytes > budget * BULK_SHARE or used > budget) and self._remove(
            connection, _detail(connection), Lane.BULK, tally
        ):
            return
        if used > budget:
            for lane in (Lane.STATUS, Lane.FAULT):
                if self._remove(connection, self._oldest_done(connection, lane), lane, tally):
                    return

    @staticmethod
    def _remove(connection: sqlite3.Connection, seqs: list[int], lane: Lane, tally: Tally) -> int:
        count = remove_events(connection, seqs, lane, tally)
        tally.shed[lane] += count
        return count

    def _oldest_done(self, connection: sqlite3.Connection, lane: Lane) -> list[int]:
        rows = connection.execute(
            "SELECT seq, EXISTS (SELECT 1 FROM outbox o WHERE o.seq = e.seq AND o.state <> 'accepted') "
            "FROM events e WHERE lane = ? AND seq > ? ORDER BY seq LIMIT ?",
            (int(lane), self._looked_at.get(lane, 0), SHED_ROWS),
        ).fetchall()
        self._looked_at[lane] = rows[-1][0] if len(rows) == SHED_ROWS else 0
        return [seq for seq, waited_for in rows if not waited_for]


def _detail(connection: sqlite3.Connection) -> list[int]:
    """Every second of the oldest bulk rows of each device, never a device's first or last among them."""
    rows = connection.execute(
        "SELECT seq, device FROM events WHERE lane = ? ORDER BY seq LIMIT ?", (int(Lane.BULK), SHED_ROWS)
    ).fetchall()
    tracks: defaultdict[str, list[int]] = defaultdict(list)
    for seq, device in rows:
        tracks[device].append(seq)
    detail = [seq for track in tracks.values() for seq in track[1:-1:2]]
    # Thinned to the ends of every track and still too much: then the tracks themselves are thinned.
    return detail or [seq for seq, _ in rows[1:-1:2]]


def prune_some(
    db: sqlite3.Connection, tally: Tally, *, lane: Lane | None, kinds: Collection[Kind], limit: int, after_seq: int
) -> tuple[int, int | None]:
    """Look at the next rows, of one lane and these kinds or all: how many went, and how far the look went (None: nothing older is to be
    expected beyond)."""
    of_lane = "" if lane is None else f"AND lane = {lane:d} "
    of_kinds = f"AND kind IN ({','.join('?' * len(kinds))}) " if kinds else ""
    rows = db.execute(
        "SELECT seq, lane, received_ms BETWEEN ? AND ? - 1, EXISTS "
        "(SELECT 1 FROM outbox o WHERE o.seq = e.seq AND o.state <> 'accepted') "
        f"FROM events e WHERE seq > ? {of_lane}{of_kinds}ORDER BY seq LIMIT ?",
        (milliseconds(PROGRAM_DATE), limit, after_seq, *kinds, PRUNE_ROWS),
    ).fetchall()
    count = sum(
        remove_events(db, [seq], Lane(of), tally) for seq, of, is_old, waited_for in rows if is_old and not waited_for
    )
    # Times rise with seq but for a clock that jumped; those rows go when the pruning has come up to them.
    is_last = len(rows) < PRUNE_ROWS or not any(is_old for _, _, is_old, _ in rows)
    return count, None if is_last else rows[-1][0]
