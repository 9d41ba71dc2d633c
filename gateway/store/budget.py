"""The disk budget: what is given up first when space is short. Life and alarm events are never shed."""

from __future__ import annotations

import sqlite3

from gateway.kinds import Lane

SHED_ROWS = 2000
"""Rows looked at per commit: enough to win against the fastest writer, few enough to keep a commit short."""

BULK_SHARE = 0.5
"""Bulk (positions, telemetry) may hold at most half of the budget."""


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in pages that hold something; freed pages are used again before the file grows."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * size)


def shed(connection: sqlite3.Connection, *, stored: dict[Lane, int], used: int, budget: int) -> dict[Lane, int]:
    """Remove some rows inside the running transaction when the budget asks for it. Returns what was removed by lane.

    Bulk is thinned first, oldest first, every second row, so that a track loses detail before it loses its ends.
    Then the oldest status and fault records go that nobody waits for any more.
    """
    total = sum(stored.values()) or 1
    bulk_bytes = used * stored.get(Lane.BULK, 0) / total  # rows of all lanes are of similar size
    removed: dict[Lane, int] = {}
    if bulk_bytes > budget * BULK_SHARE or (used > budget and bulk_bytes > 0):
        removed[Lane.BULK] = _thin(connection)
    if used <= budget or removed.get(Lane.BULK):
        return removed
    for lane in (Lane.STATUS, Lane.FAULT):
        removed[lane] = _drop_oldest_done(connection, lane)
        if removed[lane]:
            break
    return removed


def _thin(connection: sqlite3.Connection) -> int:
    rows = connection.execute(
        "SELECT seq FROM events WHERE lane = ? ORDER BY seq LIMIT ?", (int(Lane.BULK), SHED_ROWS)
    ).fetchall()
    return _delete(connection, [seq for (seq,) in rows[1:-1:2]])


def _drop_oldest_done(connection: sqlite3.Connection, lane: Lane) -> int:
    rows = connection.execute(
        "SELECT seq FROM events e WHERE lane = ? AND NOT EXISTS "
        "(SELECT 1 FROM outbox o WHERE o.seq = e.seq AND o.state <> 'accepted') ORDER BY seq LIMIT ?",
        (int(lane), SHED_ROWS),
    ).fetchall()
    return _delete(connection, [seq for (seq,) in rows])


def _delete(connection: sqlite3.Connection, seqs: list[int]) -> int:
    marks = [(seq,) for seq in seqs]
    connection.executemany("DELETE FROM outbox WHERE seq = ?", marks)
    connection.executemany("DELETE FROM events WHERE seq = ?", marks)
    return len(seqs)
