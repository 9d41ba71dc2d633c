"""The store's side of a destination, on the real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from gateway.errors import StoreError
from gateway.forwarders import Outlet, _aside, _outbox, device_of
from gateway.forwarders._aside import ASIDE_BATCH, ASIDE_MAX, ASIDE_PAUSE_S, Aside
from gateway.forwarders._outbox import Outbox
from gateway.forwarders._trouble import DOWN, STORE_RETRY_S, Trouble
from gateway.ids import EventIds
from gateway.metrics import Metrics
from gateway.model import Delivery, Event, Kind, Lane, Place, Qualifier
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

PLACE = Place("s1", "A10B", "阳泗小区", None, 17, "")


class GatedStore(SqliteStore):
    """The real store, whose reads can be held back after they were made."""

    gate: asyncio.Event
    reading: asyncio.Event
    reads = 0

    async def pending(self, destination: str, lane: Lane, *, after_seq: int, limit: int) -> Sequence[Delivery]:
        self.reads += 1
        rows = await super().pending(destination, lane, after_seq=after_seq, limit=limit)
        self.reading.set()
        await self.gate.wait()
        return rows


@pytest.fixture
async def store(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[GatedStore]:
    opened = await GatedStore.open(tmp_path, jumping_clock)
    assert isinstance(opened, GatedStore)
    opened.gate, opened.reading = asyncio.Event(), asyncio.Event()
    opened.gate.set()
    yield opened
    await opened.close()


def outlet(store: Any, clock: JumpingClock, reports: list[Qualifier] | None = None) -> Outlet:
    async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
        if reports is not None:
            reports.append(qualifier)

    return Outlet("110", None, Path(), "0B0C", store, clock, Random(1), Metrics(), structlog.get_logger(), report)


async def append(store: SqliteStore, clock: JumpingClock, count: int, ids: EventIds | None = None) -> None:
    ids = ids or EventIds(clock, Random(2))
    plain = Event("", "d", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, clock.now(), "test", "c", place=PLACE)
    await (await store.append([Entry(replace(plain, id=ids.next()), ["110"]) for _ in range(count)]))


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[Outbox]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outbox.run())
        async with asyncio.timeout(10):
            await outbox.is_read.wait()
            yield outbox
        task.cancel()


async def taken(outbox: Outbox) -> Delivery:
    while (row := outbox.take(tuple(Lane))) is None:
        outbox.changed.clear()
        await outbox.changed.wait()
    return row


async def one_through(outbox: Outbox) -> int:
    row = await taken(outbox)
    outbox.accepted([row])
    return row.event.seq


async def test_a_read_that_was_overtaken_by_an_acceptance_does_not_bring_the_row_back(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    await append(store, jumping_clock, 2)
    given = outlet(store, jumping_clock)
    async with running(Outbox(given)) as outbox:
        first = await taken(outbox)
        outbox.refused(first, "DUH", retry_s=None)
        second = await taken(outbox)
        while (await store.backlog("110")).dead == 0:
            await jumping_clock.settle()
        store.gate.clear()
        store.reading.clear()
        await store.requeue("110", [first.event.seq])
        await store.reading.wait()  # for the life lane
        store.reading.clear()
        store.gate.set()
        store.gate.clear()
        await store.reading.wait()  # for the alarm lane: the second row is still queued in what was read
        outbox.accepted([second])
        name, labels = "fangkong_accepted_total", {"destination": "110", "lane": "alarm"}
        while not given.metrics.registry.get_sample_value(name, labels):
            await jumping_clock.settle()
        store.gate.set()

        assert (await taken(outbox)).event == first.event
        outbox.accepted([first])
        await jumping_clock.settle()
        assert outbox.is_empty


async def test_a_read_that_was_overtaken_by_a_look_from_the_front_brings_nothing(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    await append(store, jumping_clock, 2)
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        store.gate.clear()
        store.reading.clear()
        outbox._current.discard(Lane.ALARM)
        jumping_clock.jump_wall(1)  # else the ids were the same
        await append(store, jumping_clock, 1)
        await store.reading.wait()  # the third row, behind the two in memory
        outbox.read_again()
        store.gate.set()

        assert (await taken(outbox)).event.seq == 1


async def test_numbers_are_taken_ahead_for_one_account_within_a_bound(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    await append(store, jumping_clock, 40)
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        assert await outbox.numbers([await taken(outbox)]) == [1]
    rows = await store.pending("110", Lane.ALARM, after_seq=0, limit=100)

    assert [row.number for row in rows] == [*range(1, _outbox.NUMBERS_AHEAD + 1), *[None] * 24]


async def test_a_backlog_of_many_accounts_is_numbered_in_few_commits(
    store: GatedStore, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "NUMBERS_TAKEN_MAX", 50)
    ids = EventIds(jumping_clock, Random(2))
    plain = Event("", "d", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, jumping_clock.now(), "test", "c")
    places = [replace(PLACE, account=f"{0xA000 + n:X}") for n in range(60)]
    await (await store.append([Entry(replace(plain, id=ids.next(), place=place), ["110"]) for place in places]))
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        commits = store.state.commits
        first = await taken(outbox)
        assert await outbox.numbers([first]) == [1]
        rows = [await taken(outbox) for _ in range(49)]
        assert await outbox.numbers(rows) == [1] * 49
        assert store.state.commits == commits + 1
        await outbox.numbers([await taken(outbox)])
        assert store.state.commits == commits + 2


async def test_memory_holds_a_bounded_part_of_the_backlog(store: GatedStore, jumping_clock: JumpingClock) -> None:
    await append(store, jumping_clock, _outbox.HELD_MAX + 50)
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        seqs = [(await taken(outbox)).event.seq]
        while not outbox.is_empty:
            outbox.release("A10B")
            row = outbox.take(tuple(Lane))
            assert row is not None
            seqs.append(row.event.seq)

    assert seqs == list(range(1, _outbox.HELD_MAX + 1))


async def test_what_is_committed_while_all_is_known_is_not_read_again(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    ids = EventIds(jumping_clock, Random(2))
    await append(store, jumping_clock, 2, ids)
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        reads = store.reads
        await append(store, jumping_clock, 2, ids)
        assert [await one_through(outbox) for _ in range(4)] == [1, 2, 3, 4]
        assert store.reads == reads


async def test_word_of_a_commit_that_a_read_has_overtaken_doubles_nothing(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    await append(store, jumping_clock, 2)
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        assert [await one_through(outbox) for _ in range(2)] == [1, 2]
        await jumping_clock.settle()
        outbox.committed(await store.deliveries(destination="110"))

        assert outbox.is_empty


async def test_what_arrives_while_nothing_leaves_is_held_within_the_bound(
    store: GatedStore, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "HELD_MAX", 8)
    ids = EventIds(jumping_clock, Random(2))
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        for _ in range(5):
            await append(store, jumping_clock, 5, ids)
        seqs = []
        while (row := outbox.take(tuple(Lane))) is not None:
            seqs.append(row.event.seq)
            outbox.release("A10B")

    assert seqs == list(range(1, 9))


async def test_what_is_committed_during_a_read_is_neither_lost_nor_doubled(
    store: GatedStore, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = EventIds(jumping_clock, Random(2))
    await append(store, jumping_clock, 2, ids)
    store.gate.clear()
    outbox = Outbox(outlet(store, jumping_clock))
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        task = group.create_task(outbox.run())
        for _ in range(2):  # the life lane; the alarm lane, of which two rows have been read
            await store.reading.wait()
            store.reading.clear()
            store.gate.set()
            await jumping_clock.settle()
            store.gate.clear()
            await append(store, jumping_clock, 3, ids)
        store.gate.set()

        assert [await one_through(outbox) for _ in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
        await jumping_clock.settle()
        assert outbox.is_empty
        task.cancel()


async def test_a_row_queued_again_during_a_read_is_found(store: GatedStore, jumping_clock: JumpingClock) -> None:
    ids = EventIds(jumping_clock, Random(2))
    await append(store, jumping_clock, 3, ids)
    await store.dead("110", 1, "DUH")
    store.gate.clear()
    outbox = Outbox(outlet(store, jumping_clock))
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        task = group.create_task(outbox.run())
        await store.reading.wait()  # for the life lane
        store.reading.clear()
        store.gate.set()
        store.gate.clear()
        await store.reading.wait()  # for the alarm lane: rows 2 and 3 have been read
        await store.requeue("110", [1])
        store.gate.set()

        assert sorted([await one_through(outbox) for _ in range(3)]) == [1, 2, 3]
        task.cancel()


@pytest.mark.parametrize("seed", range(12))
async def test_every_row_goes_once_and_in_order_however_far_the_reader_falls_behind(
    store: GatedStore, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(_outbox, "HELD_MAX", 8)
    random, ids = Random(seed), EventIds(jumping_clock, Random(2))
    gone: list[int] = []
    written = 0
    async with running(Outbox(outlet(store, jumping_clock))) as outbox:
        while written < 300 or len(gone) < written:
            match random.choice(["append", "append", "take", "take", "take", "again", "settle"]):
                case "append" if written < 300:
                    count = random.choice([1, 2, 5, 20])
                    written += count
                    await append(store, jumping_clock, count, ids)
                case "take" if (row := outbox.take(tuple(Lane))) is not None:
                    gone.append(row.event.seq)
                    outbox.accepted([row])
                case "again":
                    outbox.requeued()  # as when a person has queued a row again
                case "settle":
                    await jumping_clock.settle()
                case _:
                    await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing

    assert gone == list(range(1, written + 1))


async def test_one_standing_fault_for_all_reasons(jumping_clock: JumpingClock) -> None:
    reports: list[Qualifier] = []
    trouble = Trouble(outlet(None, jumping_clock, reports))
    for reason in ("down", "refused", "down"):
        await trouble.begin(reason, "words")
    await trouble.end("down")
    assert reports == [Qualifier.NEW, Qualifier.NEW]
    await trouble.end("refused")
    await trouble.end("refused")

    assert reports == [Qualifier.NEW, Qualifier.NEW, Qualifier.RESTORE]


async def test_a_fault_that_the_last_run_left_standing_ends_with_the_outage(
    store: GatedStore, jumping_clock: JumpingClock
) -> None:
    left = Event(
        "e", device_of("110"), Kind.COMM_FAULT, Qualifier.NEW, Lane.FAULT, jumping_clock.now(), "gateway", "gateway",
        place=PLACE,
    )  # fmt: skip
    await (await store.append([Entry(left, ["110"])]))
    reports: list[Qualifier] = []
    trouble = Trouble(outlet(store, jumping_clock, reports))
    await trouble.recall()
    await trouble.begin(DOWN, "words")
    assert reports == []
    await trouble.end(DOWN)

    assert reports == [Qualifier.RESTORE]


@pytest.mark.parametrize(("left", "reports"), [(Qualifier.NEW, []), (Qualifier.RESTORE, [Qualifier.NEW])])
async def test_an_old_refusal_is_reported_unless_its_fault_stands(
    store: GatedStore, jumping_clock: JumpingClock, left: Qualifier, reports: list[Qualifier]
) -> None:
    last = Event("e", device_of("110"), Kind.COMM_FAULT, left, Lane.FAULT, jumping_clock.now(), "gateway", "gateway")
    await (await store.append([Entry(last)]))
    said: list[Qualifier] = []
    trouble = Trouble(outlet(store, jumping_clock, said))
    await trouble.recall()
    await trouble.still("refused", "words")

    assert said == reports


async def test_a_fault_that_cannot_be_stored_is_reported_when_it_can(jumping_clock: JumpingClock) -> None:
    tries: list[str] = []

    async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
        tries.append(text)
        if len(tries) < 3:
            raise StoreError("disk full")

    trouble = Trouble(replace(outlet(None, jumping_clock), report=report))
    async with asyncio.TaskGroup() as group:
        group.create_task(trouble.begin("down", "words"))
        await jumping_clock.advance(5)

    assert tries == ["words"] * 3


class TestAside:
    ROW = Delivery(
        "110",
        Event(
            "e", "d", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, JumpingClock().now(), "test", "c", place=PLACE, seq=5
        ),
    )

    def row(self, seq: int, **changes: Any) -> Delivery:
        return replace(self.ROW, event=replace(self.ROW.event, seq=seq, **changes))

    def test_only_later_ends_of_the_same_condition_wait(self) -> None:
        aside = Aside()
        aside.refuse(self.ROW)
        end = {"qualifier": Qualifier.RESTORE}

        assert aside.is_early(self.row(6, **end))
        assert not aside.is_early(self.row(4, **end))
        assert not aside.is_early(self.row(6, **end, zone=3))
        assert not aside.is_early(self.row(6, **end, device="other"))
        assert not aside.is_early(self.row(6))
        aside.accepted(self.ROW)
        assert not aside.is_early(self.row(6, **end))
        assert not aside

    def test_what_is_remembered_and_offered_at_once_is_bounded(self) -> None:
        aside = Aside()
        for seq in range(ASIDE_MAX):
            assert aside.has_room
            aside.remember(self.row(seq), 100.0)

        assert not aside.has_room
        assert aside.due(99.0) == []
        assert aside.due(100.0) == list(range(ASIDE_BATCH))
        assert aside.wait_s(99.0) == 1.0
        assert aside.wait_s(0.0) == ASIDE_PAUSE_S == _aside.ASIDE_PAUSE_S
        aside.offered(range(ASIDE_BATCH))
        assert aside.due(100.0)[0] == ASIDE_BATCH


class FailingStore(GatedStore):
    """The real store on a disk that fails for a while."""

    fails = False

    def accepted(self, destination: str, seqs: Sequence[int]) -> Awaitable[None]:
        return _refusal() if self.fails else super().accepted(destination, seqs)


async def _refusal() -> None:
    raise StoreError("disk I/O error")


async def test_acceptances_that_a_disk_failure_held_up_are_kept_as_soon_as_it_is_over(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    store = await FailingStore.open(tmp_path, jumping_clock)
    assert isinstance(store, FailingStore)
    store.gate, store.reading = asyncio.Event(), asyncio.Event()
    store.gate.set()
    await append(store, jumping_clock, 60)
    given = outlet(store, jumping_clock)
    async with running(Outbox(given)) as outbox:
        store.fails = True
        for _ in range(60):
            outbox.accepted([await taken(outbox)])
        await jumping_clock.advance(10)
        store.fails = False
        await jumping_clock.advance(2 * STORE_RETRY_S)
        async with asyncio.timeout(10):
            while (await store.backlog("110")).count[Lane.ALARM]:
                await jumping_clock.settle()
    await store.close()
