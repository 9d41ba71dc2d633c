"""Alarms of a month, from the event log: by site, kind and local day; tests apart, and what a storm swallowed left out."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.kinds import FACTS, Kind
from gateway.reports.alarms import Alarms, read
from gateway.store.rows import milliseconds
from gateway.store.schema import ADDED, TABLES

NIGHT = datetime(2026, 10, 1, 15, 59, 59, tzinfo=UTC)  # a second before midnight of 1 October in China
MONTH = datetime(2026, 9, 30, 16, tzinfo=UTC), datetime(2026, 10, 31, 16, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript("PRAGMA journal_mode=WAL;" + TABLES + ADDED)
        file.execute("PRAGMA user_version=1")
    return path


def write(log: Path, kind: Kind, at: datetime, site: str | None = "S", qualifier: str = "new", **body: object) -> None:
    with closing(sqlite3.connect(log)) as file:
        number = file.execute("SELECT COUNT(*) FROM events").fetchone()[0]
        row = (
            f"e{number}",
            "d",
            site,
            kind.value,
            qualifier,
            int(FACTS[kind].lane),
            milliseconds(at),
            json.dumps(body),
            b"",
        )
        columns = "id, device, site, kind, qualifier, lane, received_ms, body, raw"
        file.execute(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        file.commit()


def test_each_alarm_counts_once_on_its_local_day_and_nothing_else_does(log: Path) -> None:
    write(log, Kind.PANIC, NIGHT)
    write(log, Kind.PANIC, NIGHT + SECOND)
    write(log, Kind.PANIC, NIGHT, test=True)
    write(log, Kind.TEST_PERIODIC, NIGHT)
    write(log, Kind.PANIC, NIGHT, qualifier="restore")
    write(log, Kind.PANIC, NIGHT, suppressed_by="e0")
    write(log, Kind.PANIC, NIGHT, site=None)
    write(log, Kind.AC_LOSS, NIGHT)
    write(log, Kind.PANIC, MONTH[0] - SECOND)
    write(log, Kind.PANIC, MONTH[1])

    first, second = date(2026, 10, 1), date(2026, 10, 2)
    assert read(log, *MONTH).counted == {
        ("S", "panic", False, first): 1,
        ("S", "panic", False, second): 1,
        ("S", "panic", True, first): 1,
        ("S", "test_periodic", True, first): 1,
    }


def test_the_log_is_read_as_it_was(log: Path) -> None:
    write(log, Kind.PANIC, NIGHT)
    before = read(log, *MONTH)
    write(log, Kind.PANIC, NIGHT)

    assert (before.seq, read(log, *MONTH).seq) == (1, 2)
    assert read(log, *MONTH, seq=before.seq) == before


def test_sums_are_of_the_sites_and_days_that_are_asked_for(log: Path) -> None:
    for site, day in (("S", 0), ("S", 1), ("S", 2), ("T", 1)):
        write(log, Kind.BURGLARY, NIGHT + timedelta(days=day), site=site)
    found = read(log, *MONTH)

    assert found.of(frozenset({"S"}), date(2026, 10, 1), date(2026, 10, 3)) == {("burglary", False): 2}
    assert found.load(frozenset({"S", "T"}), date(2026, 10, 2), date(2026, 10, 3)) == 2


def test_a_log_that_is_younger_than_a_day_does_not_know_it(log: Path) -> None:
    assert not read(log, *MONTH).knows(date(2026, 10, 1))
    write(log, Kind.HEARTBEAT, NIGHT)
    found = read(log, *MONTH)

    assert (found.knows(date(2026, 10, 1)), found.knows(date(2026, 9, 30))) == (True, False)


def test_no_log_is_no_alarm_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read(tmp_path / "none.db", *MONTH) == Alarms()
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 100)

    with pytest.raises(StoreError, match=r"broken\.db"):
        read(broken, *MONTH)
