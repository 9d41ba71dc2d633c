"""The store's bounds and counts: what it holds at most, what it gives up first, what it never mixes up."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.model import Delivery, DeliveryState, Event, Kind, Lane, Place, Qualifier
from gateway.receipt import Receipt
from gateway.store import Entry, EventFilter, Rejected, reader
from gateway.store.rows import RAW_MAX_BYTES
from gateway.store.sqlite import FILE_NAME, REJECTED_MAX, UNCOMMITTED_MAX, SqliteStore

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PLACE = Place("s1", "A10B", "阳泗小区", "p1", 17, "东门")
PATIENCE_S = 20.0
ids = EventIds(RealClock(), Random(3))


def event(**changes: object) -> Event:
    plain = Event(ids.next(), "a001", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c1", place=PLACE)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields are the test's own


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path, RealClock())
    yield opened
    await opened.close()


@pytest.fixture
async def held(store: SqliteStore, tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """The log while its disk is slow: another connection holds the write lock until ROLLBACK."""
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    if other.in_transaction:
        other.execute("ROLLBACK")
    other.close()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing


# -- the hot path ------------------------------------------------------------------------------------------------------


async def test_many_appends_share_few_syncs_and_settle_in_order(store: SqliteStore) -> None:
    settled: list[int] = []
    receipts = []
    for n in range(1000):
        receipts.append(await store.append([Entry(event(), ["110"])]))
        receipts[-1].when_settled(partial(lambda n, _: settled.append(n), n))
    await asyncio.gather(*receipts)

    assert settled == list(range(1000))
    assert store.state.commits <= 100
    assert [row.seq for row in await store.events(EventFilter(), limit=2000)] == list(range(1, 1001))


async def test_append_waits_while_too_much_is_uncommitted(store: SqliteStore, held: sqlite3.Connection) -> None:
    receipts = [await store.append([Entry(event()) for _ in range(1000)]) for _ in range(20)]
    assert store.uncommitted == UNCOMMITTED_MAX

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(store.append([Entry(event())])) for _ in range(5)]
        given_up = tasks.create_task(store.append([Entry(event())]))
        await turns()
        assert not any(task.done() for task in waiting)
        assert store.uncommitted == UNCOMMITTED_MAX
        given_up.cancel()
        held.execute("ROLLBACK")
    await asyncio.gather(*receipts, *(task.result() for task in waiting))

    assert store.uncommitted == 0
    assert store.state.stored[Lane.ALARM] == UNCOMMITTED_MAX + 5


async def test_one_who_stops_waiting_hurts_nobody(store: SqliteStore, held: sqlite3.Connection) -> None:
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:

        async def wait_for(receipt: Receipt) -> None:
            await receipt

        receipt = await store.append([Entry(event(), ["110"])])
        impatient, patient = tasks.create_task(wait_for(receipt)), tasks.create_task(wait_for(receipt))
        marked = store.accepted("110", [1])
        gone = tasks.create_task(asyncio.wait_for(marked, None))  # noqa: TID251  # a careless reader
        await turns()
        impatient.cancel()
        gone.cancel()
        await turns()
        held.execute("ROLLBACK")
        await patient

    await store.heard([])
    assert [row.state for row in await store.deliveries()] == [DeliveryState.ACCEPTED]
    assert (await store.backlog("110")).count[Lane.ALARM] == 0


async def test_a_row_queued_again_is_announced_even_when_nobody_waits(store: SqliteStore) -> None:
    await (await store.append([Entry(event(), ["110"])]))
    await store.dead("110", 1, "DUH")
    told = asyncio.Event()

    class Follower:
        def committed(self, rows: Sequence[Delivery]) -> None:
            raise AssertionError("nothing is new")

        def requeued(self) -> None:
            told.set()

    leave = store.follow("110", Follower())
    asyncio.ensure_future(store.requeue("110", [1])).cancel()  # noqa: TID251  # it is the store's own future

    async with asyncio.timeout(PATIENCE_S):
        await told.wait()
    leave()
    assert [row.event.seq for row in await store.pending("110", Lane.ALARM, after_seq=0, limit=9)] == [1]


async def test_a_callback_that_fails_leaves_the_others_told(store: SqliteStore) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    first = await store.append([Entry(event())])

    def fail(_: Receipt) -> None:
        raise ZeroDivisionError

    first.when_settled(fail)
    second = await store.append([Entry(event())])

    async with asyncio.timeout(PATIENCE_S):
        await first
        await second

    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
    assert store.uncommitted == 0


@pytest.mark.parametrize("inline", [True, False])
async def test_close_commits_what_waits_and_then_refuses(tmp_path: Path, inline: bool) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), inline=inline)
    receipts = [await store.append([Entry(event(), ["110"])]) for _ in range(100)]
    await store.close()

    await asyncio.gather(*receipts)
    for refused in (await store.append([Entry(event())]), store.accepted("110", [1])):
        with pytest.raises(StoreError, match="closed"):
            await refused
    with pytest.raises(StoreError, match="closed"):
        await store.events(EventFilter())
    await store.close()
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAME, "lock"}


# -- the budget --------------------------------------------------------------------------------------------------------


def recount(path: Path) -> tuple[dict[Lane, int], dict[tuple[str, Lane], int]]:
    db = sqlite3.connect(path / FILE_NAME)
    stored = dict(db.execute("SELECT lane, COUNT(*) FROM events GROUP BY lane").fetchall())
    queued = db.execute(
        "SELECT destination, lane, COUNT(*) FROM outbox WHERE state = 'queued' GROUP BY 1, 2"
    ).fetchall()
    db.close()
    return (
        {lane: stored.get(int(lane), 0) for lane in Lane},
        {(name, Lane(lane)): count for name, lane, count in queued},
    )


def position(device: str) -> Event:
    return event(device=device, kind=Kind.POSITION, lane=Lane.BULK, raw=bytes(1000))


async def test_bulk_is_thinned_and_every_track_keeps_its_ends(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), budget_bytes=1_000_000, inline=True)
    rounds, devices = 400, ["car1", "car2", "car3"]
    for _ in range(rounds):
        await (await store.append([Entry(position(device), ["110"]) for device in devices]))
    await (await store.append([Entry(event(kind=Kind.PANIC, lane=Lane.LIFE), ["110"])]))

    for device in devices:
        track = await store.events(EventFilter(device=device), limit=1000)
        assert 2 < len(track) < rounds
        assert track[0].seq <= len(devices)
        assert track[-1].seq > (rounds - 1) * len(devices)
    assert store.state.size_bytes < 1_000_000
    assert store.state.shed[Lane.BULK] == rounds * len(devices) - store.state.stored[Lane.BULK]
    stored, queued = recount(tmp_path)
    assert store.state.stored == stored
    assert +store._committer.pending == queued
    assert store.state.shed[Lane.LIFE] == 0
    await store.close()


async def test_alarms_stay_over_budget_and_bulk_is_refused(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), budget_bytes=500_000, inline=True)
    for lane in (Lane.LIFE, Lane.ALARM):
        await (await store.append([Entry(event(lane=lane, raw=bytes(1000))) for _ in range(500)]))
    assert store.state.size_bytes > 500_000

    await (await store.append([Entry(position("car1")), Entry(event(lane=Lane.LIFE))]))

    assert store.state.stored[Lane.LIFE] == 501
    assert store.state.stored[Lane.ALARM] == 500
    assert store.state.stored[Lane.BULK] == 0
    assert store.state.shed == {**dict.fromkeys(Lane, 0), Lane.BULK: 1}
    await store.close()


async def test_status_and_faults_go_only_when_nobody_waits_for_them(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), budget_bytes=500_000, inline=True)
    # More of them wait than one commit looks at: the search must go on behind those.
    for lane in (Lane.STATUS, Lane.FAULT):
        await (await store.append([Entry(event(lane=lane), ["110"]) for _ in range(2500)]))
    for _ in range(5):
        await (await store.append([Entry(event(lane=Lane.ALARM))]))
    assert store.state.shed == dict.fromkeys(Lane, 0)

    await store.accepted("110", [2400, 2401])
    await store.dead("110", 2402, "DUH")
    for _ in range(5):
        await (await store.append([Entry(event(lane=Lane.ALARM))]))

    assert store.state.shed == {**dict.fromkeys(Lane, 0), Lane.STATUS: 2}
    assert (store.state.stored, dict(+store._committer.pending)) == recount(tmp_path)
    await store.close()


# -- counts and numbers ------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "repeat", "poison", "accepted", "dead", "requeue", "number", "prune", "reopen"]
        ),
        st.integers(0, 40),
        st.sampled_from(list(Lane)),
        st.sampled_from([("110",), ("110", "property"), ()]),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
async def test_running_counts_equal_a_recount(steps: list[tuple[str, int, Lane, tuple[str, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        store = await SqliteStore.open(path, RealClock(), inline=True, budget_bytes=220_000)
        for step, n, lane, destinations in steps:
            await take(store, step, n, lane, destinations)
            if step == "reopen":
                await store.close()
                store = await SqliteStore.open(path, RealClock(), inline=True, budget_bytes=220_000)

            stored, queued = recount(path)
            assert store.state.stored == stored
            assert {key: count for key, count in store._committer.pending.items() if count} == queued
            assert (await store.backlog("110")).count == {lane: queued.get(("110", lane), 0) for lane in Lane}
        await store.close()


async def take(store: SqliteStore, step: str, n: int, lane: Lane, destinations: tuple[str, ...]) -> None:
    if step == "append":
        old = AT + timedelta(minutes=n)
        await (await store.append([Entry(event(lane=lane, received_at=old, raw=bytes(n * 90)), destinations)]))
    elif step == "repeat":
        await (await store.append([Entry(event(lane=lane, repeat_key=f"k{n // 10}"), destinations)]))
    elif step == "poison":
        await (await store.append([Entry(event(lane=lane), destinations), Entry(event(zone=2**70))]))
        receipt = await store.append([Entry(event(lane=lane), destinations), Entry(event(received_at=None))])
        with pytest.raises(StoreError):
            await receipt
    elif step == "accepted":
        await store.accepted("110", [n, n + 1])
    elif step == "dead":
        await store.dead("110", n, "DUH")
    elif step == "requeue":
        await store.requeue("110", [n])
    elif step == "number":
        rows = await store.pending("110", lane, after_seq=0, limit=3)
        await store.number("110", {"A10B": [row.event.seq for row in rows]})
    elif step == "prune":
        await store.prune(AT + timedelta(minutes=n))


@pytest.mark.parametrize("numbered", [(), ("110",)], ids=["at first sending", "in their commit"])
async def test_open_events_never_share_a_number_however_often_it_wraps(numbered: Sequence[str], tmp_path: Path) -> None:
    random = Random(4)
    store = await SqliteStore.open(tmp_path, RealClock(), inline=True)
    held: dict[int, int] = {}
    wrapped = 0
    for turn in range(60):
        await (await store.append([Entry(event(), ["110"], numbered) for _ in range(500)]))
        seqs = list(range(turn * 500 + 1, turn * 500 + 501))
        given = await store.number("110", {"A10B": seqs})
        assert await store.number("110", {"A10B": seqs}) == given
        numbers = [given[seq] for seq in seqs]
        wrapped += sum(later < earlier for earlier, later in pairwise(numbers))
        held.update(zip(seqs, numbers, strict=True))
        assert len(set(held.values())) == len(held)
        # One in 37 stays open for good: the numbers come round to it.
        done = [seq for seq in held if seq % 37 and random.random() < 0.9]
        await store.accepted("110", done)
        for seq in done:
            del held[seq]
        if turn % 20 == 19:
            await store.close()
            store = await SqliteStore.open(tmp_path, RealClock(), inline=True)
            seq, number = random.choice(list(held.items()))
            assert await store.number("110", {"A10B": [seq]}) == {seq: number}
    assert wrapped >= 3
    await store.close()


async def test_when_all_numbers_are_open_the_next_waits_for_one(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), inline=True)
    await (await store.append([Entry(event(), ["110"]) for _ in range(10_000)]))
    await store.number("110", {"A10B": range(1, 10_000)})
    with pytest.raises(StoreError, match="all 9999 sequence numbers of account A10B towards 110 are queued"):
        await store.number("110", {"A10B": [10_000]})
    assert store.state.ok

    await store.accepted("110", [5000])

    assert await store.number("110", {"A10B": [10_000]}) == {10_000: 5000}
    await store.close()


# -- readers -----------------------------------------------------------------------------------------------------------


async def test_readers_never_see_half_a_transaction(store: SqliteStore) -> None:
    seen = 0
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:

        async def write() -> None:
            for _ in range(100):
                await (await store.append([Entry(event(), ["110"]) for _ in range(10)]))

        writing = tasks.create_task(write())
        while not writing.done():
            kept = await store.events(EventFilter(), limit=100_000)
            queued = await store.pending("110", Lane.ALARM, after_seq=0, limit=100_000)
            assert len(kept) % 10 == len(queued) % 10 == 0
            assert len(queued) >= len(kept) >= seen
            seen = len(kept)
    assert len(await store.events(EventFilter(), limit=100_000)) == 1000


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "wanted", [EventFilter(), EventFilter(device="a1"), EventFilter(lane=Lane.ALARM, claimed=True)]
)
async def test_pages_have_no_gap_and_no_repeat_while_rows_arrive(
    store: SqliteStore, wanted: EventFilter, newest_first: bool
) -> None:
    async def write(count: int) -> None:
        for n in range(count):
            await (await store.append([Entry(event(device=f"a{n % 2}", lane=Lane(n % 3)))]))

    await write(150)
    seen: list[int] = []
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write(150))
        while True:
            was_done = writing.done()
            cursor = seen[-1] if seen else 0
            page = await store.events(wanted, after_seq=cursor, limit=7, newest_first=newest_first)
            seen += [row.seq for row in page]
            if not page and (newest_first or was_done):
                break

    everything = [row.seq for row in await store.events(wanted, limit=1000)]
    if newest_first:
        assert seen[::-1] == [seq for seq in everything if seq <= seen[0]]
    else:
        assert seen == everything


async def test_a_page_of_deliveries_never_splits_an_event(store: SqliteStore) -> None:
    await (await store.append([Entry(event(), ["110", "property", "cloud"]) for _ in range(10)]))
    await store.dead("110", 4, "DUH")

    seen: list[tuple[int, str]] = []
    while page := await store.deliveries(after_seq=seen[-1][0] if seen else 0, limit=4):
        seen += [(row.event.seq, row.destination) for row in page]

    assert seen == [(seq, name) for seq in range(1, 11) for name in ("110", "cloud", "property")]
    (dead,) = await store.deliveries(destination="110", state=DeliveryState.DEAD, limit=4)
    assert dead.event.seq == 4
    assert len(await store.deliveries(destination="110", state=DeliveryState.QUEUED, limit=9)) == 9


async def test_a_query_without_end_is_given_up(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "QUERY_MAX_S", 0.0)
    endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(StoreError, match="took longer than"):
        await store._people.rows(endless)
    monkeypatch.undo()

    async def leaf() -> None:
        with pytest.raises(StoreError, match="closed"):
            await store._people.rows(endless)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        leafing = tasks.create_task(leaf())
        await turns()
        # Whoever sends alarms does not wait for the page; and closing ends it.
        assert await store.pending("110", Lane.ALARM, after_seq=0, limit=1) == []
        assert not leafing.done()
        await store.close()


async def test_refused_frames_are_a_ring_of_short_pieces(store: SqliteStore) -> None:
    frames = [Rejected(AT, "c1", f"frame {n}", bytes(RAW_MAX_BYTES + 1)) for n in range(REJECTED_MAX + 50)]
    await asyncio.gather(*(store.reject(frame) for frame in frames))

    kept = await store.rejected(limit=REJECTED_MAX * 2)

    assert len(kept) == REJECTED_MAX
    assert (kept[0].reason, kept[-1].reason) == (f"frame {REJECTED_MAX + 49}", "frame 50")
    assert {len(frame.raw) for frame in kept} == {RAW_MAX_BYTES}
    await (await store.append([Entry(event(raw=bytes(RAW_MAX_BYTES + 1)))]))
    assert len((await store.events(EventFilter()))[0].raw) == RAW_MAX_BYTES


async def test_prune_takes_all_that_is_old_and_done(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, RealClock(), inline=True)
    await (await store.append([Entry(event(), ["110"]) for _ in range(6000)]))  # waited for, and more than one look
    await (await store.append([Entry(event()) for _ in range(6000)]))
    await (await store.append([Entry(event(received_at=AT + timedelta(days=1)))]))

    assert await store.prune(AT + timedelta(hours=1)) == 6000

    assert store.state.stored[Lane.ALARM] == 6001
    await store.accepted("110", range(1, 6001))
    assert await store.prune(AT + timedelta(hours=1)) == 6000
    assert recount(tmp_path) == (store.state.stored, {})
    await store.close()


async def test_of_one_lane_prune_takes_what_is_old_and_leaves_the_others(tmp_path: Path) -> None:
    """More than one look of positions, with alarms between them."""
    store = await SqliteStore.open(tmp_path, RealClock(), inline=True)
    position = replace(event(), kind=Kind.POSITION, lane=Lane.BULK)
    entries = [Entry(event()), *(Entry(replace(position, id=f"p{n}")) for n in range(6000))]
    await (await store.append([*entries, Entry(replace(position, id="new", received_at=AT + timedelta(days=1)))]))

    assert await store.prune(AT + timedelta(hours=1), lane=Lane.BULK) == 6000
    assert (store.state.stored[Lane.ALARM], store.state.stored[Lane.BULK]) == (1, 1)
    assert recount(tmp_path) == (store.state.stored, {})
    await store.close()
