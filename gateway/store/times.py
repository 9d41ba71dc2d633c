"""Times that were taken while the machine's clock was not set, put right once it is."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from gateway.clock import PROGRAM_DATE
from gateway.store.rows import MILLISECOND, milliseconds

CORRECTED_ROWS = 50_000
"""The newest events, among which those of the first minutes after power-on are: some tenths of a second of reading, once."""


def correct_times(db: sqlite3.Connection, boot: str, by: timedelta) -> int:
    """Move `received_at` of what this boot took in without a clock, inside the running transaction. Returns how many."""
    moved = db.execute(
        "UPDATE events SET received_ms = received_ms + ? WHERE seq > (SELECT MAX(seq) FROM events) - ? "
        "AND received_ms < ? AND json_extract(body, '$.boot') = ?",
        (by // MILLISECOND, CORRECTED_ROWS, milliseconds(PROGRAM_DATE), boot),
    )
    return moved.rowcount
