"""The log read from outside the daemon: read-only, beside its writer, without taking hold of the directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from gateway.model import Event, Heard
from gateway.store.rows import SELECT_EVENT, event_of, moment, optional_moment
from gateway.store.schema import connect


def read_heard(path: Path) -> Sequence[Heard]:
    """Every device ever heard, by id; none when there is no log yet. Raises sqlite3.Error."""
    if not path.exists():
        return []
    with closing(connect(path, read_only=True)) as connection:
        rows = connection.execute("SELECT device, at_ms, deadline_ms, silent, connection FROM heard ORDER BY device")
        return [
            Heard(device, optional_moment(at), optional_moment(deadline), bool(silent), line)
            for device, at, deadline, silent, line in rows
        ]


def read_newest(path: Path, limit: int, lane: int | None = None) -> Sequence[Event]:
    """The newest events, oldest of them first; none when there is no log yet. Raises sqlite3.Error."""
    if not path.exists():
        return []
    where, values = ("", ()) if lane is None else ("WHERE e.lane = ?", (lane,))
    with closing(connect(path, read_only=True)) as connection:
        query = f"SELECT {SELECT_EVENT} FROM events e {where} ORDER BY e.seq DESC LIMIT ?"
        return [event_of(row) for row in reversed(connection.execute(query, (*values, limit)).fetchall())]


def read_waiting(path: Path) -> Mapping[str, int]:
    """How many events each destination still has to get, dead ones included; none when there is no log yet. Raises
    sqlite3.Error."""
    if not path.exists():
        return {}
    with closing(connect(path, read_only=True)) as connection:
        counts: Counter[str] = Counter()
        for index, state in (("outbox_queued", "queued"), ("outbox_dead", "dead")):
            query = f"SELECT destination, COUNT(*) FROM outbox INDEXED BY {index} WHERE state = '{state}' GROUP BY destination"
            counts.update(dict(connection.execute(query).fetchall()))
        return counts


def read_oldest(path: Path) -> Mapping[str, datetime]:
    """When the oldest event arrived that each destination still has to get, dead ones not among them; none when there is no
    log yet. Raises sqlite3.Error."""
    if not path.exists():
        return {}
    with closing(connect(path, read_only=True)) as connection:
        # Lane by lane the first one is the oldest: the index gives it without a look at the rest.
        query = (
            "SELECT o.destination, MIN(e.received_ms) FROM (SELECT destination, MIN(seq) AS seq FROM outbox INDEXED BY"
            " outbox_queued WHERE state = 'queued' GROUP BY destination, lane) o JOIN events e ON e.seq = o.seq"
            " GROUP BY o.destination"
        )
        return {destination: moment(at) for destination, at in connection.execute(query).fetchall()}
