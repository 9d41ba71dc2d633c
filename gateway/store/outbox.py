"""What happens to outbox rows, as work inside the writer's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.kinds import Lane
from gateway.model import DeliveryState
from gateway.store.tally import Tally

NUMBER_MAX = 9999
"""DC-09 sequence numbers run 0001..9999 and wrap."""


def take_number(db: sqlite3.Connection, destination: str, account: str, seq: int) -> int:
    """The row's number, or the account's next that no open row of it has. When all are open, the oldest dead row gives
    up its number: what the receiver refused must not silence the account. Raises ValueError when all are queued."""
    has = db.execute("SELECT number FROM outbox WHERE destination = ? AND seq = ?", (destination, seq)).fetchone()
    if has is None:
        raise ValueError(f"no outbox row {seq} for {destination}")
    if has[0] is not None:
        return int(has[0])
    last = db.execute(
        "SELECT last FROM numbers WHERE destination = ? AND account = ?", (destination, account)
    ).fetchone()
    number = last[0] if last else 0
    for _ in range(NUMBER_MAX):
        number = number % NUMBER_MAX + 1
        taken = db.execute(
            "SELECT 1 FROM outbox INDEXED BY outbox_open_numbers "
            "WHERE destination = ? AND account = ? AND number = ? AND state <> 'accepted'",
            (destination, account, number),
        ).fetchone()
        if not taken:
            break
    else:
        number = _taken_from_dead(db, destination, account)
    db.execute(
        "INSERT OR REPLACE INTO numbers (destination, account, last) VALUES (?, ?, ?)", (destination, account, number)
    )
    db.execute(
        "UPDATE outbox SET account = ?, number = ? WHERE destination = ? AND seq = ?",
        (account, number, destination, seq),
    )
    return number


def _taken_from_dead(db: sqlite3.Connection, destination: str, account: str) -> int:
    row = db.execute(
        "SELECT seq, number FROM outbox "
        "WHERE destination = ? AND account = ? AND number IS NOT NULL AND state = 'dead' ORDER BY seq LIMIT 1",
        (destination, account),
    ).fetchone()
    if row is None:
        raise ValueError(f"all {NUMBER_MAX} sequence numbers of account {account} towards {destination} are queued")
    db.execute("UPDATE outbox SET number = NULL WHERE destination = ? AND seq = ?", (destination, row[0]))
    return int(row[1])


def leave_queue(
    db: sqlite3.Connection, tally: Tally, destination: str, seqs: Sequence[int], *, change: str, value: object
) -> None:
    """Change queued or dead rows (`change` is the SET clause with one mark), taking queued ones off the count."""
    for seq in seqs:
        row = db.execute(
            "SELECT state, lane FROM outbox WHERE destination = ? AND seq = ?", (destination, seq)
        ).fetchone()
        if row is None or row[0] == DeliveryState.ACCEPTED:
            continue
        db.execute(f"UPDATE outbox SET {change} WHERE destination = ? AND seq = ?", (value, destination, seq))
        if row[0] == DeliveryState.QUEUED:
            tally.queued[destination, Lane(row[1])] -= 1


def requeue(db: sqlite3.Connection, tally: Tally, destination: str, seqs: Sequence[int]) -> None:
    """Queue dead rows again."""
    for seq in seqs:
        for (lane,) in db.execute(
            "UPDATE outbox SET state = 'queued' WHERE destination = ? AND seq = ? AND state = 'dead' RETURNING lane",
            (destination, seq),
        ).fetchall():
            tally.queued[destination, Lane(lane)] += 1
