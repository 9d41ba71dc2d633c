"""Numbers that come with their event's commit, rows handed on in memory, and acceptances that ride."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.model import Delivery, DeliveryState, Event, Kind, Lane, Place, Qualifier
from gateway.store import Entry
from gateway.store.arrivals import NUMBERED_AT_ONCE_MAX
from gateway.store.sqlite import FILE_NAME, SqliteStore

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PATIENCE_S = 20.0
ids = EventIds(RealClock(), Random(3))


def entry(account: str = "A10B", **changes: object) -> Entry:
    place = Place("s1", account, "阳泗小区", "p1", 17, "东门")
    plain = Event(ids.next(), "a001", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c1", place=place)
    return Entry(replace(plain, **changes), ["110", "mirror"], {"110"})  # type: ignore[arg-type]  # the test's own fields


@dataclass
class Follower:
    rows: list[Delivery] = field(default_factory=list)

    def committed(self, rows: Sequence[Delivery]) -> None:
        self.rows += rows

    def requeued(self) -> None:
        raise AssertionError("nothing was queued again")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path, RealClock())
    yield opened
    await opened.close()


async def numbers(store: SqliteStore) -> list[int | None]:
    return [row.number for row in await store.pending("110", Lane.ALARM, after_seq=0, limit=10_000)]


def spoken(store: SqliteStore) -> list[str]:
    """What is said to the database from now on."""
    said: list[str] = []
    connection = store._committer._connection
    assert connection is not None
    connection.set_trace_callback(said.append)
    return said


async def test_a_number_is_on_disk_with_its_event(store: SqliteStore) -> None:
    commits = store.state.commits
    await (await store.append([entry(), entry("B20C"), entry("a10b")]))

    assert await numbers(store) == [1, 1, 2]
    assert store.state.commits == commits + 1
    mirrored = await store.pending("mirror", Lane.ALARM, after_seq=0, limit=9)
    assert [row.number for row in mirrored] == [None, None, None]


async def test_in_a_long_queue_numbers_wait_for_the_first_sending(store: SqliteStore) -> None:
    await (await store.append([entry() for _ in range(NUMBERED_AT_ONCE_MAX + 5)]))
    await (await store.append([entry("B20C", lane=Lane.LIFE)]))

    given = await numbers(store)
    assert given == [*range(1, NUMBERED_AT_ONCE_MAX + 1), *[None] * 5]
    last = len(given)
    assert await store.number("110", {"A10B": [last]}) == {last: NUMBERED_AT_ONCE_MAX + 1}
    (panic,) = await store.pending("110", Lane.LIFE, after_seq=0, limit=9)
    assert panic.number is None

    await store.accepted("110", range(1, 20))
    await (await store.append([entry("B20C", lane=Lane.LIFE)]))
    assert [row.number for row in await store.pending("110", Lane.LIFE, after_seq=0, limit=9)] == [None, 1]


async def test_an_account_that_comes_round_passes_over_numbers_still_open(store: SqliteStore) -> None:
    await (await store.append([entry(), entry(), entry()]))
    await store.accepted("110", [2])
    await store._write(lambda db, _: db.execute("UPDATE numbers SET last = 9998") and None)
    store._committer.numbers.forget()

    await (await store.append([entry(), entry("B20C"), entry(), entry()]))

    assert await numbers(store) == [1, 3, 9999, 1, 2, 4]


async def test_a_job_at_fault_costs_its_neighbours_no_number(store: SqliteStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")  # so that the rest becomes one commit
        first = await store.append([entry()])
        receipts = [await store.append([entry()]) for _ in range(4)]
        absent = store._write(lambda db, _: store._committer.numbers.take(db, "110", {"A10B": [999]}))
        held.execute("ROLLBACK")

    results = await asyncio.gather(first, *receipts, absent, return_exceptions=True)

    assert [isinstance(result, StoreError) for result in results] == [False, False, False, False, False, True]
    assert await numbers(store) == [1, 2, 3, 4, 5]
    await (await store.append([entry()]))
    assert await numbers(store) == [1, 2, 3, 4, 5, 6]


async def test_what_is_handed_on_is_what_is_on_disk(store: SqliteStore) -> None:
    follower = Follower()
    leave = store.follow("110", follower)
    entries = [entry(repeat_key=f"a001|{n % 7}", lane=Lane(n % 2)) for n in range(20)]
    for start in range(0, 20, 5):
        await (await store.append(entries[start : start + 5]))

    stored = [
        row for lane in (Lane.LIFE, Lane.ALARM) for row in await store.pending("110", lane, after_seq=0, limit=99)
    ]
    assert len(stored) == 7
    assert sorted(follower.rows, key=lambda row: row.event.seq) == sorted(stored, key=lambda row: row.event.seq)
    assert [row.event.seq for row in follower.rows] == sorted(row.event.seq for row in stored)
    leave()
    await (await store.append([entry()]))
    assert len(follower.rows) == 7


async def test_an_acceptance_goes_with_the_next_commit(store: SqliteStore) -> None:
    await (await store.append([entry()]))
    commits, said = store.state.commits, spoken(store)

    marked = store.accepted("110", [1])
    await (await store.append([entry()]))
    await marked

    assert store.state.commits == commits + 1
    assert "PRAGMA synchronous=NORMAL" not in said


async def test_an_acceptance_alone_is_written_soon_and_without_a_sync(store: SqliteStore) -> None:
    await (await store.append([entry()]))
    said = spoken(store)

    async with asyncio.timeout(PATIENCE_S):
        await store.accepted("110", [1])
    assert [line for line in said if "synchronous" in line] == ["PRAGMA synchronous=NORMAL"]
    (row,) = await store.deliveries(destination="110")
    assert row.state is DeliveryState.ACCEPTED

    await (await store.append([entry()]))
    assert said[-1] != "PRAGMA synchronous=NORMAL"
    assert [line for line in said if "synchronous" in line][-1] == "PRAGMA synchronous=FULL"


async def test_closing_takes_along_what_rides(store: SqliteStore, tmp_path: Path) -> None:
    await (await store.append([entry()]))
    marked = store.accepted("110", [1])
    await store.close()
    await marked

    again = await SqliteStore.open(tmp_path, RealClock())
    assert [row.state for row in await again.deliveries(destination="110")] == [DeliveryState.ACCEPTED]
    await again.close()
