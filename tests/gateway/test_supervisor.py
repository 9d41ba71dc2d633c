"""The supervisor: a lost line comes back, a fault in one conversation hurts no other, an outage is one event."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from gateway import logs
from gateway.acts import Act, Command, CommandRecord
from gateway.driver import Context, FrameError, Session
from gateway.errors import LinkClosed, StoreError
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.metrics import Metrics
from gateway.model import Kind, Observation, Place, Qualifier
from gateway.orders import GivenOrder, Switchboard
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import (
    DOWN_REPORTED_AFTER_S,
    PORT_RETRY_MOST_S,
    REJECTS_IN_A_ROW_MAX,
    RETRY_MOST_S,
    STABLE_S,
    Connection,
    Peer,
    Supervisor,
)
from tests.conftest import JumpingClock

Run = Callable[[Session[Any]], Awaitable[None]]
BOX = Place("box", "0000", "box", None, 0, "box")


class Bench:
    def __init__(
        self,
        *,
        store: SqliteStore,
        clock: JumpingClock,
        metrics: Metrics,
        supervisor: Supervisor,
        switchboard: Switchboard,
        log: io.StringIO,
    ) -> None:
        self.store, self.clock, self.metrics, self.supervisor, self.log = store, clock, metrics, supervisor, log
        self.switchboard = switchboard

    def value(self, name: str, connection: str = "c1") -> float | None:
        return self.metrics.registry.get_sample_value(name, {"connection": connection})

    def logged(self, text: str) -> int:
        return sum(json.loads(line)["event"] == text for line in self.log.getvalue().splitlines())

    async def faults(self) -> list[Qualifier]:
        return [event.qualifier for event in await self.store.events(EventFilter(kind=Kind.COMM_FAULT))]


@pytest.fixture
async def bench(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Bench]:
    out = io.StringIO()
    logs.set_up("info", out)
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    metrics = Metrics()

    class Nowhere:
        def place(self, device: str, zone: int | None) -> Place | None:
            return None

    intake = Intake(
        store=store, places=Nowhere(), routes=[], ids=EventIds(jumping_clock, Random(1)), clock=jumping_clock,
        metrics=metrics, heard=lambda device, source: None,
    )  # fmt: skip
    own = Source("gateway", "gateway", place=BOX, proves_life=False)
    switchboard = Switchboard(lambda _: "")
    supervisor = Supervisor(
        intake=intake, store=store, switchboard=switchboard, clock=jumping_clock, random=Random(2),
        metrics=metrics, log=logs.logger(), own=own,
    )  # fmt: skip
    yield Bench(
        store=store, clock=jumping_clock, metrics=metrics, supervisor=supervisor, switchboard=switchboard, log=out
    )
    await store.close()


def driver(run: Run) -> ModuleType:
    module = ModuleType("drivers.testing")
    module.LINK = "stream"  # type: ignore[attr-defined]  # what a driver module declares
    module.HEARD_WITHIN_S = None  # type: ignore[attr-defined]  # what a driver module declares
    module.run = run  # type: ignore[attr-defined]  # what a driver module declares
    return module


def line(run: Run, *, name: str = "c1", fails: Callable[[], bool] = lambda: False) -> Connection:
    @asynccontextmanager
    async def opened() -> AsyncIterator[object]:
        if fails():
            raise LinkClosed("no such port")
        yield object()

    return Connection(name, driver(run), "testing", Context(), open=opened)


@asynccontextmanager
async def running(bench: Bench, *connections: Connection) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.supervisor.run(connections))
        await bench.clock.settle()
        yield
        task.cancel()


async def forever(session: Session[Any]) -> None:
    await asyncio.Event().wait()


async def test_a_lost_line_is_opened_again_and_logged_once_each_way(bench: Bench) -> None:
    opened: list[float] = []

    async def run(session: Session[Any]) -> None:
        opened.append(bench.clock.monotonic())
        if len(opened) == 1:
            raise LinkClosed("unplugged")
        await forever(session)

    async with running(bench, line(run)):
        await bench.clock.advance(60)

        assert len(opened) == 2
        assert (bench.logged("the line is lost"), bench.logged("the line is open")) == (1, 2)
        assert (bench.value("fangkong_connection_up"), bench.value("fangkong_connection_lost_total")) == (1, 1)


async def test_two_hours_of_failures_backs_off_and_logs_one_line(bench: Bench) -> None:
    tries: list[float] = []

    def fails() -> bool:
        tries.append(bench.clock.monotonic())
        return True

    async with running(bench, line(forever, fails=fails)):
        await bench.clock.advance(7200)

        assert 7200 / 30 < len(tries) < 7200 / 5
        assert bench.logged("the line cannot be opened") == 1


async def test_a_port_that_was_away_for_an_hour_is_used_within_two_seconds(bench: Bench) -> None:
    is_away = True
    connection = line(forever, fails=lambda: is_away)
    connection.retry_most_s = PORT_RETRY_MOST_S
    async with running(bench, connection):
        await bench.clock.advance(3600)
        is_away = False
        await bench.clock.advance(2)

        assert connection.is_up


async def test_a_conversation_ends_with_its_first_report_that_was_not_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = 0

    async def run(session: Session[Any]) -> None:
        nonlocal sessions
        sessions += 1
        for kind in (Kind.PANIC, Kind.DURESS):
            receipt = await session.report([Observation("d1", kind)])
            if sessions > 1:
                await receipt
        await forever(session)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(bench.store._committer, "_transaction", full)
    async with running(bench, line(run)):
        monkeypatch.undo()
        await bench.clock.advance(60)

    kept = await bench.store.events(EventFilter(device="d1"))
    assert (sessions, [event.kind for event in kept]) == (2, [Kind.PANIC, Kind.DURESS])


async def test_an_outage_is_one_event_and_its_end_another(bench: Bench) -> None:
    broken = True

    async with running(bench, line(forever, fails=lambda: broken)):
        await bench.clock.advance(DOWN_REPORTED_AFTER_S + 300)
        assert await bench.faults() == [Qualifier.NEW]

        broken = False
        await bench.clock.advance(60)
        assert await bench.faults() == [Qualifier.NEW, Qualifier.RESTORE]


async def test_a_short_flap_is_no_event(bench: Bench) -> None:
    async def run(session: Session[Any]) -> None:
        await bench.clock.sleep(20)
        raise LinkClosed("reset by peer")

    async with running(bench, line(run)):
        await bench.clock.advance(600)

        assert await bench.faults() == []


async def test_an_outage_told_before_a_restart_is_not_told_again(bench: Bench) -> None:
    broken = True
    for _ in range(2):
        async with running(bench, line(forever, fails=lambda: broken)):
            await bench.clock.advance(DOWN_REPORTED_AFTER_S + 30)
    assert await bench.faults() == [Qualifier.NEW]

    broken = False
    async with running(bench, line(forever, fails=lambda: broken)):
        await bench.clock.advance(30)
    assert await bench.faults() == [Qualifier.NEW, Qualifier.RESTORE]


async def test_a_fault_in_one_driver_does_not_reach_its_neighbour(bench: Bench) -> None:
    async def broken(session: Session[Any]) -> None:
        raise ZeroDivisionError

    async def sound(session: Session[Any]) -> None:
        while True:
            await (await session.report([Observation("a001", Kind.PANIC)]))
            await session.clock.sleep(10)

    async with running(bench, line(broken, name="bad"), line(sound, name="good")):
        await bench.clock.advance(95)

        assert len(await bench.store.events(EventFilter(device="a001"))) == 10
        assert (bench.value("fangkong_driver_errors_total", "bad") or 0) > 1
        assert bench.value("fangkong_connection_up", "good") == 1


async def test_a_peer_that_sends_only_rubbish_is_disconnected(bench: Bench) -> None:
    refused = 0

    async def run(session: Session[Any]) -> None:
        nonlocal refused
        while True:
            refused += 1
            session.reject(b"\xff", FrameError("not a frame"))
            await session.clock.sleep(0.001)

    async with running(bench, line(run)):
        await bench.clock.advance(1)

    assert refused >= REJECTS_IN_A_ROW_MAX
    assert "refused frames in a row" in bench.log.getvalue()


async def test_noise_between_devices_that_are_heard_closes_no_line(bench: Bench) -> None:
    async def run(session: Session[Any]) -> None:
        for _ in range(2 * REJECTS_IN_A_ROW_MAX):
            session.reject(b"\xff", FrameError("not a frame"))
            session.heard("a001")
            await session.clock.sleep(0.001)
        await session.clock.sleep(3600)

    async with running(bench, line(run)):
        await bench.clock.advance(1)

        assert "refused frames in a row" not in bench.log.getvalue()


async def test_a_cancellation_that_a_library_swallowed_still_ends_the_line(bench: Bench) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[object]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LinkClosed("refused in the same moment") from None
        yield object()

    async with asyncio.timeout(5), running(bench, Connection("c1", driver(forever), "testing", Context(), open=opened)):
        await bench.clock.settle()


async def test_a_line_lost_inside_a_drivers_own_tasks_is_a_lost_line_and_no_fault(bench: Bench) -> None:
    async def run(session: Session[Any]) -> None:
        async def hear() -> None:
            raise LinkClosed("unplugged")

        async with asyncio.TaskGroup() as group:
            group.create_task(hear())
            group.create_task(forever(session))

    async with running(bench, line(run)):
        await bench.clock.advance(1)

        assert bench.logged("the line is lost") > 0
        assert not bench.value("fangkong_driver_errors_total")


@pytest.mark.parametrize("fault", [LinkClosed("unplugged"), ValueError("a bug")])
async def test_a_line_lost_inside_a_drivers_own_tasks_comes_back(bench: Bench, fault: Exception) -> None:
    """A TaskGroup that fails while it only waits leaves its task marked as cancelled: not to be taken for a stop."""
    conversations: list[str] = []

    async def run(session: Session[Any]) -> None:
        async def hear() -> None:
            await session.clock.sleep(1)
            raise fault

        conversations.append("begun")
        async with asyncio.TaskGroup() as group:
            group.create_task(hear())
            group.create_task(forever(session))

    async with running(bench, line(run)):
        await bench.clock.advance(120)

    assert len(conversations) > 2


async def test_a_driver_that_awaits_something_given_up_by_others_comes_back(bench: Bench) -> None:
    conversations: list[str] = []

    async def run(session: Session[Any]) -> None:
        conversations.append("begun")
        raise asyncio.CancelledError

    async with running(bench, line(run)):
        await bench.clock.advance(120)

    assert len(conversations) > 2


async def test_a_host_that_swallows_each_dial_is_backed_off_like_any_other(bench: Bench) -> None:
    """A firewall that drops: each attempt takes as long to fail as a line must last to count as stable."""
    tries: list[float] = []

    @asynccontextmanager
    async def swallowed() -> AsyncIterator[object]:
        tries.append(bench.clock.monotonic())
        await bench.clock.sleep(STABLE_S)
        raise LinkClosed("no answer")
        yield

    connection = line(forever)
    connection.open = swallowed
    async with running(bench, connection):
        await bench.clock.advance(3600)

    assert len(tries) < 3600 / (STABLE_S + RETRY_MOST_S / 3)


async def test_a_log_that_cannot_be_read_at_the_start_ends_no_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [StoreError("disk I/O error")]
    latest = bench.store.latest

    async def trying(device: str) -> Mapping[tuple[Kind, int | None], Qualifier]:
        if answers:
            raise answers.pop()
        return await latest(device)

    monkeypatch.setattr(bench.store, "latest", trying)
    async with running(bench, line(forever, fails=lambda: True)):
        await bench.clock.advance(DOWN_REPORTED_AFTER_S + 5)
        assert await bench.faults() == [Qualifier.NEW]


async def test_a_port_that_cannot_be_had_is_down_until_it_can(bench: Bench) -> None:
    is_taken = True

    @asynccontextmanager
    async def listening(on_peer: Peer) -> AsyncIterator[object]:
        if is_taken:
            raise LinkClosed("address already in use")
        yield object()

    connection = Connection("c1", driver(forever), "testing", Context(), listen=listening)
    async with running(bench, connection):
        assert not connection.is_up
        await bench.clock.advance(DOWN_REPORTED_AFTER_S + 30)
        assert (bench.logged("the line cannot be opened"), bench.logged("the line is open")) == (1, 0)
        assert await bench.faults() == [Qualifier.NEW]

        is_taken = False
        await bench.clock.advance(60)
        assert connection.is_up


async def test_a_driver_is_given_the_orders_of_the_devices_it_heard(bench: Bench) -> None:
    given: list[tuple[str, str]] = []

    def note(command: Command) -> None:
        given.append((command.device, command.id))

    async def run(session: Session[Any]) -> None:
        session.heard("door-1")
        lost = Observation("door-2", Kind.COMM_FAULT)
        await session.report([Observation("door-3", Kind.TAMPER), lost])
        async for order in session.orders:
            note(order.command)

    async def take(order: GivenOrder) -> bool:
        return True

    connection = line(run)
    connection.driver.obeys = lambda device, context: frozenset({Act.OPEN})  # type: ignore[attr-defined]  # may be declared
    async with running(bench, connection):
        assert bench.switchboard.where("door-2") is None  # who says that a device is lost has not heard it
        for device in ("door-1", "door-3"):
            record = CommandRecord(
                Command(f"for {device}", device, Act.OPEN, valid_s=10), "li", "", "s1", bench.clock.now()
            )
            inbox = bench.switchboard.where(device)
            assert inbox is not None
            begun_s = bench.clock.monotonic()
            order = GivenOrder(record, bench.clock, begun_s=begun_s, changed=lambda _: None, take=take)
            bench.switchboard.give(order, inbox)
        await bench.clock.settle()

    assert given == [("door-1", "for door-1"), ("door-3", "for door-3")]


async def test_a_line_on_which_nobody_answers_is_one_outage_though_it_is_opened_again_and_again(bench: Bench) -> None:
    """A bridge that takes the call and reaches nobody behind it."""
    is_answering = True

    async def run(session: Session[Any]) -> None:
        while is_answering:
            session.heard("d1")
            await bench.clock.sleep(1)
        session.mute("none of 4 units answers")
        await bench.clock.sleep(5)

    async with running(bench, line(run)):
        await bench.clock.advance(10)
        is_answering = False
        await bench.clock.advance(120)
        assert not bench.supervisor.line_is_up("c1")
        assert await bench.faults() == [Qualifier.NEW]
        is_answering = True
        await bench.clock.advance(RETRY_MOST_S + 10)
        assert await bench.faults() == [Qualifier.NEW, Qualifier.RESTORE]
    assert bench.logged("the line is lost") == 1
