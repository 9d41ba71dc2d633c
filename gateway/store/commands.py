"""Commands as rows: kept before anything leaves, each id once, the oldest ended ones making room."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from gateway.acts import OPEN_STATES, Act, Command, CommandRecord, CommandState
from gateway.store.queries import SEQ_MAX, Query
from gateway.store.rows import milliseconds, moment, optional_moment, optional_ms

COMMANDS_KEPT = 10_000
"""Years of a large site's door openings, some 5 MB. So long is an id remembered: the same id later is another command."""

COLUMNS = "n, id, device, site, state, created_ms, body"
SELECT = f"SELECT {COLUMNS} FROM commands"
ENDED = f"state NOT IN ({', '.join(repr(state.value) for state in sorted(OPEN_STATES))})"


def add(db: sqlite3.Connection, record: CommandRecord) -> CommandRecord:
    """Keep a new command inside the running transaction. Returns the one that has the id: it, or an earlier one."""
    command = record.command
    row = (command.id, command.device, record.site, record.state, milliseconds(record.created_at), _body(record))
    db.execute(
        "INSERT INTO commands (id, device, site, state, created_ms, body) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        row,
    )
    kept = record_of(db.execute(f"{SELECT} WHERE id = ?", (command.id,)).fetchone())
    db.execute(f"DELETE FROM commands WHERE n <= ? AND {ENDED}", (kept.n - COMMANDS_KEPT,))
    return kept


def save(db: sqlite3.Connection, records: Sequence[CommandRecord]) -> None:
    """Keep how far they have come, in this order."""
    rows = [(record.state, _body(record), record.command.id) for record in records]
    db.executemany("UPDATE commands SET state = ?, body = ? WHERE id = ?", rows)


def forget(db: sqlite3.Connection, before: datetime) -> None:
    """Remove what ended and is older."""
    db.execute(f"DELETE FROM commands WHERE created_ms < ? AND {ENDED}", (milliseconds(before),))


def by_id(command_id: str) -> Query:
    """The command of that id."""
    return f"{SELECT} WHERE id = ?", (command_id,)


def page(
    *,
    device: str | None,
    states: Collection[CommandState] | None,
    sites: Collection[str] | None,
    before: int,
    limit: int,
) -> Query:
    """Commands, newest first, below `before` (0: from the newest)."""
    where, values = ["n < ?"], list[object]([before or SEQ_MAX])
    for column, wanted in (("device", None if device is None else [device]), ("state", states), ("site", sites)):
        if wanted is not None:
            where.append(f"{column} IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(wanted)))
    return f"{SELECT} WHERE {' AND '.join(where)} ORDER BY n DESC LIMIT ?", (*values, limit)


def record_of(row: tuple[Any, ...]) -> CommandRecord:
    """The other way."""
    n, command_id, device, site, state, created_ms, text = row
    body = json.loads(text)
    command = Command(
        command_id, device, Act(body["act"]), zone=body["zone"], seconds=body["seconds"],
        until=optional_moment(body["until"]), valid_s=body["valid_s"],
    )  # fmt: skip
    return CommandRecord(
        command, body["issuer"], body["reason"], site, moment(created_ms), CommandState(state), taken=body["taken"],
        sent_at=optional_moment(body["sent"]), ended_at=optional_moment(body["ended"]), detail=body["detail"], n=n,
    )  # fmt: skip


def _body(record: CommandRecord) -> str:
    command = record.command
    body = {
        "act": command.act,
        "zone": command.zone,
        "seconds": command.seconds,
        "until": optional_ms(command.until),
        "valid_s": command.valid_s,
        "issuer": record.issuer,
        "reason": record.reason,
        "taken": record.taken,
        "sent": optional_ms(record.sent_at),
        "ended": optional_ms(record.ended_at),
        "detail": record.detail,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
