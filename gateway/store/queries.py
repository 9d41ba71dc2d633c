"""What is read from the log, as statements with their values."""

from __future__ import annotations

import json

from gateway.kinds import Lane
from gateway.model import DeliveryState
from gateway.store import EventFilter
from gateway.store.rows import SELECT_DELIVERY, SELECT_EVENT, milliseconds

SEQ_MAX = 2**63 - 1
"""Beyond every event: where reading from the newest starts."""

Query = tuple[str, tuple[object, ...]]


def pending(destination: str, lane: Lane, *, after_seq: int, limit: int) -> Query:
    """Queued rows of a lane in the order they came."""
    return (
        f"SELECT {SELECT_DELIVERY} FROM outbox o INDEXED BY outbox_queued JOIN events e ON e.seq = o.seq "
        "WHERE o.destination = ? AND o.lane = ? AND o.state = 'queued' AND o.seq > ? ORDER BY o.seq LIMIT ?",
        (destination, int(lane), after_seq, limit),
    )


def deliveries(*, destination: str | None, state: DeliveryState | None, after_seq: int, limit: int) -> Query:
    """Outbox rows, a page that splits no event."""
    where = "o.seq > ?1"
    values: list[object] = [after_seq, limit - 1]
    if destination is not None:
        values.append(destination)
        where += " AND o.destination = ?3"
    if state is not None:
        where += f" AND o.state = '{state.value}'"  # a literal, or SQLite could not use the indexes of one state
    last = f"(SELECT o.seq FROM outbox o WHERE {where} ORDER BY o.seq LIMIT 1 OFFSET ?2)"
    return (
        f"SELECT {SELECT_DELIVERY} FROM outbox o JOIN events e ON e.seq = o.seq "
        f"WHERE {where} AND o.seq <= IFNULL({last}, {SEQ_MAX}) ORDER BY o.seq, o.destination",
        tuple(values),
    )


def oldest_queued(destination: str) -> Query:
    """Lane and time of arrival of the oldest queued row of each lane that has any."""
    first = "SELECT MIN(seq) FROM outbox WHERE destination = ? AND lane = lanes.lane AND state = 'queued'"
    return (
        f"WITH lanes (lane) AS (VALUES {', '.join(f'({lane:d})' for lane in Lane)}) "
        f"SELECT lanes.lane, e.received_ms FROM lanes JOIN events e ON e.seq = ({first})",
        (destination,),
    )


def dead_count(destination: str) -> Query:
    """How many rows are dead."""
    return (
        "SELECT COUNT(*) FROM outbox INDEXED BY outbox_dead WHERE destination = ? AND state = 'dead'",
        (destination,),
    )


def events(wanted: EventFilter, *, after_seq: int, limit: int, newest_first: bool) -> Query:
    """A page of events."""
    where, values = _conditions(wanted)
    beyond, order = ("<", "DESC") if newest_first else (">", "ASC")
    where.append(f"e.seq {beyond} ?1")
    cursor = after_seq or (SEQ_MAX if newest_first else 0)
    query = f"SELECT {SELECT_EVENT} FROM events e WHERE {' AND '.join(where)} ORDER BY e.seq {order} LIMIT ?2"
    return query, (cursor, limit, *values)


def _conditions(wanted: EventFilter) -> tuple[list[str], list[object]]:
    """WHERE parts with parameters numbered from ?3 on (?1 is the cursor, ?2 the limit)."""
    choices: list[tuple[str, object | None]] = [
        ("e.device = ?{}", wanted.device),
        ("e.site = ?{}", wanted.site),
        ("e.kind = ?{}", wanted.kind.value if wanted.kind else None),
        ("e.lane = ?{}", int(wanted.lane) if wanted.lane is not None else None),
        ("(e.site IS NOT NULL) = ?{}", wanted.claimed),
        ("e.received_ms >= ?{}", milliseconds(wanted.since) if wanted.since else None),
        ("e.received_ms < ?{}", milliseconds(wanted.until) if wanted.until else None),
        ("e.site IN (SELECT value FROM json_each(?{}))", None if wanted.sites is None else json.dumps(wanted.sites)),
    ]
    where: list[str] = []
    values: list[object] = []
    for condition, value in choices:
        if value is not None:
            values.append(value)
            where.append(condition.format(len(values) + 2))
    return where, values
