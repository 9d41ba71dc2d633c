"""What happens to outbox rows, as work inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

from gateway.kinds import Lane
from gateway.model import DeliveryState
from gateway.store import Resent
from gateway.store.tally import Tally

RESEND_ROWS = 1000
"""Looked at in one transaction: a few milliseconds, so that no alarm waits for its commit."""


def leave_queue(
    db: sqlite3.Connection, tally: Tally, destination: str, seqs: Sequence[int], *, change: str, value: object
) -> None:
    """Change queued or dead rows (`change` is the SET clause with one mark), taking queued ones off the count."""
    queued = _change(db, destination, seqs, DeliveryState.QUEUED, change=change, value=value)
    tally.queued.subtract({(destination, lane): count for lane, count in queued.items()})
    if queued.total() < len(seqs):
        _change(db, destination, seqs, DeliveryState.DEAD, change=change, value=value)


def requeue(db: sqlite3.Connection, tally: Tally, destination: str, seqs: Sequence[int]) -> None:
    """Queue dead rows again."""
    dead = _change(db, destination, seqs, DeliveryState.DEAD, change="state = ?", value=DeliveryState.QUEUED.value)
    tally.queued.update({(destination, lane): count for lane, count in dead.items()})


def resend_some(
    db: sqlite3.Connection, tally: Tally, *, destination: str, since: int, until: int, after_seq: int
) -> tuple[Resent, int | None]:
    """Queue accepted rows of this span of time again, under their old numbers; as `prune_some`, a portion at a time.

    A number that an open row has meanwhile stays with that one: two open rows never share one.
    """
    (last,) = db.execute(
        "SELECT MAX(seq) FROM (SELECT seq FROM outbox WHERE destination = ? AND seq > ? ORDER BY seq LIMIT ?)",
        (destination, after_seq, RESEND_ROWS),
    ).fetchone()
    if last is None:
        return Resent(0, 0), None
    span = "SELECT seq FROM events WHERE seq > ?3 AND seq <= ?4 AND received_ms >= ?5 AND received_ms < ?6"
    chosen = f"destination = ?2 AND state = ?1 AND seq IN ({span})"
    values = (DeliveryState.ACCEPTED.value, destination, after_seq, last, since, until)
    (count,) = db.execute(f"SELECT COUNT(*) FROM outbox WHERE {chosen}", values).fetchone()
    lanes = db.execute(f"UPDATE OR IGNORE outbox SET state = 'queued' WHERE {chosen} RETURNING lane", values).fetchall()
    tally.queued.update((destination, Lane(lane)) for (lane,) in lanes)
    return Resent(len(lanes), count - len(lanes)), last


def _change(
    db: sqlite3.Connection, destination: str, seqs: Sequence[int], state: DeliveryState, *, change: str, value: object
) -> Counter[Lane]:
    """Change those of the rows that are in `state`, all in one statement. Returns how many of each lane."""
    rows = db.execute(
        f"UPDATE outbox SET {change} "
        "WHERE destination = ? AND seq IN (SELECT value FROM json_each(?)) AND state = ? RETURNING lane",
        (value, destination, json.dumps(list(seqs)), state.value),
    ).fetchall()
    return Counter({Lane(lane): count for (lane,), count in Counter(rows).items()})
