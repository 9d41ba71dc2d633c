"""The store: what it says is stored is on disk, once, in order, within its budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.model import Delivery, DeliveryState, Event, Heard, Kind, Lane, Place, Qualifier
from gateway.store import Entry, EventFilter, Resent
from gateway.store.sqlite import SqliteStore

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PLACE = Place("s1", "A10B", "阳泗小区", "p1", 17, "东门")
ids = EventIds(RealClock(), Random(1))


def event(**changes: object) -> Event:
    plain = Event(ids.next(), "a001", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c1", place=PLACE)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields are the test's own


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path, RealClock())
    yield opened
    await opened.close()


async def queued(store: SqliteStore, lane: Lane = Lane.ALARM) -> list[Delivery]:
    return list(await store.pending("110", lane, after_seq=0, limit=100))


async def test_an_event_comes_back_whole(store: SqliteStore) -> None:
    kept = event(
        zone=3, text="门磁", values={"battery_pct": 87}, raw=b"\x01\x02", repeat_key="a001|b/7", device_time=AT
    )
    await (await store.append([Entry(kept)]))

    assert kept.seq == 1
    assert list(await store.events(EventFilter())) == [kept]


async def test_a_repeat_is_stored_once_and_counted(store: SqliteStore) -> None:
    for _ in range(3):
        await (await store.append([Entry(event(repeat_key="a001|s/1"), ["110"])]))

    assert len(await store.events(EventFilter())) == 1
    assert len(await queued(store)) == 1
    assert store.state.repeats == 2


async def test_two_presses_without_a_key_are_two_events(store: SqliteStore) -> None:
    await (await store.append([Entry(event(kind=Kind.PANIC)), Entry(event(kind=Kind.PANIC))]))

    assert len(await store.events(EventFilter())) == 2


async def test_pending_survives_a_restart_with_its_number(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock())
    await (await store.append([Entry(event(), ["110"]), Entry(event(), ["110"])]))
    first, second = await queued(store)
    assert await store.number("110", {"A10B": [1, 2]}) == {1: 1, 2: 2}
    await store.accepted("110", [first.event.seq])
    await store.close()

    again = await SqliteStore.open(tmp_path, RealClock())
    rows = await again.pending("110", Lane.ALARM, after_seq=0, limit=10)
    backlog = await again.backlog("110")
    numbers = await again.number("110", {"A10B": [second.event.seq]})
    await again.close()

    assert [(row.event.id, row.number) for row in rows] == [(second.event.id, 2)]
    assert backlog.count[Lane.ALARM] == 1
    assert numbers == {second.event.seq: 2}


async def test_a_wrapped_number_skips_one_still_open(store: SqliteStore) -> None:
    await (await store.append([Entry(event(), ["110"]) for _ in range(3)]))
    seqs = [row.event.seq for row in await queued(store)]
    assert await store.number("110", {"A10B": seqs[:1]}) == {seqs[0]: 1}
    await store._write(lambda db, _: db.execute("UPDATE numbers SET last = 9999") and None)
    store._committer.numbers.forget()

    assert await store.number("110", {"A10B": seqs[1:2]}) == {seqs[1]: 2}


async def test_dead_rows_are_seen_and_go_again_under_the_same_number(store: SqliteStore) -> None:
    await (await store.append([Entry(event(), ["110"])]))
    (row,) = await queued(store)
    await store.number("110", {"A10B": [row.event.seq]})
    await store.dead("110", row.event.seq, "DUH")
    dead = await store.deliveries(destination="110", state=DeliveryState.DEAD)
    assert [(d.reason, d.number) for d in dead] == [("DUH", 1)]
    assert (await store.backlog("110")).dead == 1

    await store.requeue("110", [row.event.seq])

    assert [(d.number, d.state) for d in await queued(store)] == [(1, DeliveryState.QUEUED)]
    assert (await store.backlog("110")).count[Lane.ALARM] == 1


@pytest.mark.row("A10")
async def test_a_second_daemon_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another fangkong already runs"):
        await SqliteStore.open(tmp_path, RealClock())


async def test_latest_tells_conditions_not_presses(store: SqliteStore) -> None:
    rows = [
        event(zone=1),
        event(zone=1, qualifier=Qualifier.RESTORE),
        event(zone=2),
        event(kind=Kind.PANIC),
    ]
    await (await store.append([Entry(row) for row in rows]))

    assert await store.latest("a001") == {
        (Kind.BURGLARY, 1): Qualifier.RESTORE,
        (Kind.BURGLARY, 2): Qualifier.NEW,
    }


async def test_an_event_no_database_can_take_fails_alone(store: SqliteStore) -> None:
    good = await store.append([Entry(event())])
    bad = await store.append([Entry(event(received_at=None))])
    after = await store.append([Entry(event())])

    await good
    await after
    with pytest.raises(StoreError):
        await bad
    assert store.state.ok
    assert len(await store.events(EventFilter())) == 2


async def test_heard_comes_back(store: SqliteStore) -> None:
    row = Heard("a001", AT, AT, True, "c1")
    await store.heard([row])

    assert list(await store.all_heard()) == [row]


@pytest.mark.row("F5")
async def test_what_was_accepted_in_a_span_of_time_is_queued_again_under_the_same_numbers(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.outbox.RESEND_ROWS", 2)
    hours = [AT + timedelta(hours=n) for n in range(6)]
    await (await store.append([Entry(event(received_at=hour), ["110", "property"]) for hour in hours]))
    numbers = await store.number("110", {"A10B": range(1, 7)})
    await store.accepted("110", [1, 2, 3, 4])
    await store.dead("110", 5, "DUH")

    assert await store.resend("110", hours[1], hours[5]) == Resent(queued=3, busy=0)
    again = await queued(store)
    assert [(row.event.seq, row.number) for row in again] == [(seq, numbers[seq]) for seq in (2, 3, 4, 6)]
    assert (await store.backlog("110")).count[Lane.ALARM] == 4
    assert await store.resend("110", hours[1], hours[5]) == Resent(queued=0, busy=0)  # they wait already


async def test_a_number_that_another_open_event_has_is_not_taken_from_it(store: SqliteStore) -> None:
    await (await store.append([Entry(event(), ["110"])]))
    await store.number("110", {"A10B": [1]})
    await store.accepted("110", [1])
    await store._write(lambda db, _: db.execute("UPDATE numbers SET last = 9999") and None)
    await store._write(lambda *_: store._committer.numbers.forget())
    await (await store.append([Entry(event(), ["110"])]))
    assert await store.number("110", {"A10B": [2]}) == {2: 1}

    assert await store.resend("110", AT, AT + timedelta(hours=1)) == Resent(queued=0, busy=1)
    await store.accepted("110", [2])
    assert await store.resend("110", AT, AT + timedelta(hours=1)) == Resent(queued=1, busy=1)  # the two share one


async def test_an_account_full_of_refused_events_still_sends(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead rows keep their numbers for a person who queues them again, but not at the price of the next alarm."""
    monkeypatch.setattr("gateway.store.numbers.NUMBER_MAX", 3)
    await (await store.append([Entry(event(), ["110"]) for _ in range(5)]))
    assert await store.number("110", {"A10B": [1, 2, 3]}) == {1: 1, 2: 2, 3: 3}
    for seq in (2, 3):
        await store.dead("110", seq, "DUH")

    assert await store.number("110", {"A10B": [4]}) == {4: 2}
    await store.requeue("110", [2])
    assert await store.number("110", {"A10B": [2]}) == {2: 3}
    with pytest.raises(StoreError, match="all 3 sequence numbers of account A10B towards 110 are queued"):
        await store.number("110", {"A10B": [5]})
