"""What happens to outbox rows, as work inside the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

from gateway.kinds import Lane
from gateway.model import DeliveryState
from gateway.store.tally import Tally


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


def _change(
    db: sqlite3.Connection, destination: str, seqs: Sequence[int], state: DeliveryState, *, change: str, value: object
) -> Counter[Lane]:
    """Change those of the rows that are in `state`, all in one statement. Returns how many of each lane."""
    rows = db.execute(
        f"UPDATE outbox SET {change} "
        "WHERE destination = ? AND seq IN (SELECT value FROM json_each(?)) AND state = ? RETURNING lane",
        (value, destination, json.dumps(list(seqs)), state.value),
    ).fetchall()
    return Counter(Lane(lane) for (lane,) in rows)
