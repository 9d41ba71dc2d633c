"""How often it alarmed, from the event log: by site, kind and local day. Of the outcome of alarms the log knows nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from gateway.coverage.days import day_of
from gateway.errors import StoreError
from gateway.kinds import Kind, Lane
from gateway.store.rows import milliseconds, moment
from gateway.store.schema import DatabaseErrors, connect

TESTS = (Kind.TEST_MANUAL, Kind.TEST_PERIODIC)
_DAY_MS = 86_400_000
_OFFSET_MS = 8 * 3_600_000  # local days (gateway/coverage/days.py)

# A repeat that a storm has swallowed is no alarm of its own. Without a sum: 150 days of ten alarms at 60 sites are 90 000 rows
# at most, and most days have none.
_COUNT = f"""
SELECT site, kind, json_extract(body, '$.test') OR kind IN ({", ".join(f"'{kind}'" for kind in TESTS)}) AS is_test,
       (received_ms + {_OFFSET_MS}) / {_DAY_MS} AS day, COUNT(*)
FROM events
WHERE seq <= ? AND received_ms >= ? AND received_ms < ? AND site IS NOT NULL AND qualifier = 'new'
  AND (lane <= {int(Lane.ALARM)} OR kind IN ({", ".join(f"'{kind}'" for kind in TESTS)}))
  AND json_extract(body, '$.suppressed_by') IS NULL
GROUP BY site, kind, is_test, day
"""  # noqa: S608  # our own kinds


@dataclass(frozen=True, slots=True)
class Alarms:
    """What the log holds of some time."""

    counted: Counter[tuple[str, str, bool, date]] = field(default_factory=Counter)
    """By site, kind, whether it was a test, and local day."""
    since: datetime | None = None
    """The oldest that is kept; None: nothing is."""
    seq: int = 0
    """The newest event that was looked at: the log as it was then."""

    def of(self, sites: frozenset[str], start: date, end: date) -> Counter[tuple[str, bool]]:
        """By kind and whether it was a test, from `start` to the day before `end`."""
        found: Counter[tuple[str, bool]] = Counter()
        for (site, kind, is_test, day), count in self.counted.items():
            if site in sites and start <= day < end:
                found[kind, is_test] += count
        return found

    def load(self, sites: frozenset[str], start: date, end: date) -> int:
        """Alarms that were no tests."""
        return sum(count for (_, is_test), count in self.of(sites, start, end).items() if not is_test)

    def knows(self, start: date) -> bool:
        """Whether the log reaches back to a day."""
        return self.since is not None and day_of(self.since) <= start


def read(path: Path, start: datetime, end: datetime, *, seq: int | None = None) -> Alarms:
    """From the event log as it is, or as it was when `seq` was its newest. Raises StoreError."""
    if not path.exists():
        return Alarms()
    try:
        with closing(connect(path, read_only=True)) as log:
            newest = log.execute("SELECT MAX(seq) FROM events").fetchone()[0] or 0
            oldest = log.execute("SELECT received_ms FROM events ORDER BY seq LIMIT 1").fetchone()
            last = newest if seq is None else seq
            rows = log.execute(_COUNT, (last, milliseconds(start), milliseconds(end))).fetchall()
    except DatabaseErrors as error:
        raise StoreError(f"cannot read the event log {path}: {error}") from error
    return Alarms(_counted(rows), moment(oldest[0]) if oldest else None, last)


def _counted(rows: Iterable[tuple[str, str, int, int, int]]) -> Counter[tuple[str, str, bool, date]]:
    first = date(1970, 1, 1)
    return Counter(
        {(site, kind, bool(test), first + timedelta(days=day)): count for site, kind, test, day, count in rows}
    )
