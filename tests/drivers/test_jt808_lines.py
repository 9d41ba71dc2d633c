"""Terminals on real TCP lines, with the supervisor and a real store behind: bad lines, bad peers, and what is told once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
import structlog

from drivers import jt808 as driver
from drivers.jt808.location import CHINA
from gateway.clock import RealClock
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.kinds import Kind, Qualifier
from gateway.links.tcp import listen
from gateway.metrics import Metrics
from gateway.model import Event, Place
from gateway.orders import Switchboard
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import REJECTS_IN_A_ROW_MAX, Connection, Supervisor
from simulators import _clock
from simulators import jt808 as simulator
from simulators._world import Ledger, Option, Spec, World
from tests.drivers.test_jt808 import authentication, context, report, results

WAIT_S = 30.0
HERE = Place("depot", "A101", "车队", None, 0, "车辆")
FLOOD = 3000


class Depot:
    """A gateway for vehicles."""

    def __init__(self, store: SqliteStore, phones: Collection[str]) -> None:
        self.store = store
        self.phones = phones
        self.port = 0
        self.is_open = asyncio.Event()
        self.metrics = Metrics()
        self.heard: Counter[str] = Counter()
        clock = RealClock()
        self.intake = Intake(
            store=store, places=self, routes=[], ids=EventIds(clock, Random(1)), clock=clock, metrics=self.metrics,
            heard=lambda device, _: self.heard.update([device]),
        )  # fmt: skip
        self.supervisor = Supervisor(
            intake=self.intake, store=store, switchboard=Switchboard(lambda _: ""), clock=clock, random=Random(2),
            metrics=self.metrics, log=structlog.get_logger(), own=Source("gateway", "gateway", proves_life=False),
        )  # fmt: skip

    def place(self, device: str, zone: int | None) -> Place | None:
        return HERE if device in self.phones else None

    @asynccontextmanager
    async def listening(self, on_peer: Callable[..., object]) -> AsyncIterator[object]:
        async with listen("tcp-listen://127.0.0.1:0", on_peer) as listener:  # type: ignore[arg-type]  # the supervisor's
            self.port = listener.port
            self.is_open.set()
            yield listener

    @property
    def line(self) -> Connection:
        return self.supervisor.connections["vehicles"]

    async def events(self, *but: Kind) -> Sequence[Event]:
        found: list[Event] = []
        while page := await self.store.events(EventFilter(), after_seq=found[-1].seq if found else 0, limit=500):
            found += page
        return [event for event in found if event.kind not in but]

    async def words(self) -> list[tuple[str, Kind, Qualifier]]:
        """What is no position, in order."""
        return [(event.device, event.kind, event.qualifier) for event in await self.events(Kind.POSITION)]


@asynccontextmanager
async def depot(folder: Path, phones: Collection[str]) -> AsyncIterator[Depot]:
    store = await SqliteStore.open(folder, RealClock())
    here = Depot(store, phones)
    try:
        async with asyncio.TaskGroup() as tasks:
            line = Connection("vehicles", driver, "jt808", context(), listen=here.listening)
            running = tasks.create_task(here.supervisor.run([line]))
            await here.is_open.wait()
            yield here
            running.cancel()
    finally:
        await store.close()


class Fleet:
    """Simulated terminals and what they raised."""

    def __init__(self, here: Depot, tasks: asyncio.TaskGroup) -> None:
        self._here, self._tasks = here, tasks
        clock = _clock.RealClock()
        self.ledger = Ledger(clock)
        self._world = World(clock, Random(808), self.ledger)
        self._running: list[asyncio.Task[None]] = []

    def terminal(self, phone: str, **options: Option) -> simulator.Terminal:
        spec = Spec(phone, f"tcp://127.0.0.1:{self._here.port}", {"report_s": 0.1, "repeat_s": 2, **options})
        made = simulator.make(spec, self._world)
        self._running.append(self._tasks.create_task(made.run(), name=phone))
        return made

    async def all_acknowledged(self) -> None:
        await until(lambda: self.ledger.acknowledged_count == self.ledger.raised_count)

    def stop(self) -> None:
        for task in self._running:
            task.cancel()


@asynccontextmanager
async def fleet(here: Depot) -> AsyncIterator[Fleet]:
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        one = Fleet(here, tasks)
        yield one
        one.stop()


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not claim():
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks at other tasks


async def reports_more(*vehicles: simulator.Terminal, times: int = 3) -> None:
    """Return when each has had so many more answers."""
    before = [vehicle.answered for vehicle in vehicles]
    await until(lambda: all(v.answered >= b + times for v, b in zip(vehicles, before, strict=True)))


class Caller:
    """Somebody with a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.got = b""

    async def say(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def hear(self, count: int) -> list[tuple[int, int, int]]:
        """That many general answers."""
        async with asyncio.timeout(WAIT_S):
            while len(found := results(self.got)) < count:
                data = await self.reader.read(65536)
                assert data, f"the line ended after {found[-3:]}"
                self.got += data
        return found

    async def ended(self) -> None:
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


@asynccontextmanager
async def caller(here: Depot, *frames: bytes) -> AsyncIterator[Caller]:
    one = Caller(*await asyncio.open_connection("127.0.0.1", here.port))
    await one.say(*frames)
    try:
        yield one
    finally:
        one.writer.transport.abort()


# -- a good day --------------------------------------------------------------------------------------------------------


async def test_a_fleet_of_both_standards_is_answered_and_every_alarm_is_one_event(tmp_path: Path) -> None:
    phones = [f"1390000000{n}" for n in range(1, 7)]
    async with depot(tmp_path, phones) as here, fleet(here) as vehicles:
        terminals = [vehicles.terminal(phone) for phone in phones]
        assert {terminal.year for terminal in terminals} == {2013, 2019}
        for terminal in terminals:
            await terminal.do("panic")
            await terminal.do("antenna_cut")
        await vehicles.all_acknowledged()
        await reports_more(*terminals)
        for terminal in terminals:
            await terminal.do("antenna_cut", restore=True)
            await terminal.do("panic")
        await vehicles.all_acknowledged()
        await reports_more(*terminals)
        told = Counter(await here.words())

        assert vehicles.ledger.raised_count == 4 * len(phones)
        positions = await here.events(*(kind for kind in Kind if kind is not Kind.POSITION))
    expected: Counter[tuple[str, Kind, Qualifier]] = Counter()
    for phone in phones:
        expected[phone, Kind.PANIC, Qualifier.NEW] = 2
        expected[phone, Kind.ANTENNA_CUT, Qualifier.NEW] = 1
        expected[phone, Kind.ANTENNA_CUT, Qualifier.RESTORE] = 1
    assert told == expected
    assert all(event.position and abs(event.position.latitude - 31.23) < 0.01 for event in positions)


async def test_a_lost_answer_makes_a_repeat_and_a_repeat_is_one_event_also_after_a_start(tmp_path: Path) -> None:
    phone = "13900000001"
    sos = report(2, 1, f"{RealClock().now().astimezone(CHINA):%y%m%d%H%M%S}", phone)
    async with depot(tmp_path, [phone]) as here:
        async with caller(here, authentication(phone), sos) as lost:
            await lost.hear(1)  # of the authentication; the other never arrives
        async with caller(here, authentication(phone, 3), sos) as again:
            assert await again.hear(2) == [(3, 0x0102, 0), (2, 0x0200, 0)]
    async with depot(tmp_path, [phone]) as here:
        async with caller(here, authentication(phone, 4), sos) as again:
            assert await again.hear(2) == [(4, 0x0102, 0), (2, 0x0200, 0)]

        assert [(event.kind, event.zone) for event in await here.events()] == [(Kind.POSITION, None), (Kind.PANIC, 0)]


async def test_a_stranger_in_its_name_is_no_proof_of_life(tmp_path: Path) -> None:
    phone = "13900000001"
    async with depot(tmp_path, [phone]) as here, caller(here, report(2, 1, phone=phone), authentication(phone)) as one:
        assert await one.hear(1) == [(1, 0x0102, 0)]
        assert here.heard == {phone: 2}  # by its authentication: proof of life, and the end of the security event

        assert await here.words() == [
            (phone, Kind.SECURITY, Qualifier.NEW),
            (phone, Kind.SECURITY, Qualifier.RESTORE),
        ]


async def test_a_terminal_that_dials_in_again_ends_its_old_line_and_its_alarm_stays_one(tmp_path: Path) -> None:
    phone = "13900000001"
    async with (
        depot(tmp_path, [phone]) as here,
        caller(here, authentication(phone), report(2, 256, phone=phone)) as old,
    ):
        await old.hear(2)
        async with caller(here, authentication(phone, 3), report(4, 256, phone=phone)) as new:
            await old.ended()
            await new.hear(2)
            await until(lambda: here.line.peers == 1)

        assert await here.words() == [(phone, Kind.POWER_CUT, Qualifier.NEW)]


# -- bad days ----------------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("jt808", "unplug")
async def test_unplug_a_terminal_that_is_back_makes_up_for_the_gap_and_its_neighbour_noticed_nothing(
    tmp_path: Path,
) -> None:
    async with depot(tmp_path, ["13900000001", "13900000002"]) as here, fleet(here) as vehicles:
        lost, neighbour = vehicles.terminal("13900000001", report_s=0.02), vehicles.terminal("13900000002")
        await reports_more(lost, neighbour)
        await lost.do("unplug")
        await lost.do("panic")
        await reports_more(neighbour, times=5)
        assert here.line.peers == 1
        await lost.do("back")
        await vehicles.all_acknowledged()
        await reports_more(lost, neighbour)

        late = [event for event in await here.events() if event.values.get("late")]
        assert {event.device for event in late} == {"13900000001"}
        assert len(late) >= 5
        assert await here.words() == [("13900000001", Kind.PANIC, Qualifier.NEW)]


@pytest.mark.driver_story("jt808", "silence")
async def test_silence_of_one_is_not_the_silence_of_its_neighbour(tmp_path: Path) -> None:
    """Who is silent for how long is known: the deadline of each terminal is three heartbeats."""
    async with depot(tmp_path, ["13900000001", "13900000002"]) as here, fleet(here) as vehicles:
        mute, neighbour = vehicles.terminal("13900000001"), vehicles.terminal("13900000002")
        await reports_more(mute, neighbour)
        await mute.do("silent")
        await reports_more(neighbour, times=1)
        heard = here.heard["13900000001"]
        await reports_more(neighbour, times=5)
        assert here.heard["13900000001"] == heard
        await mute.do("back")
        await reports_more(mute)

        assert here.line.peers == 2
    assert driver.heard_within_s("13900000001", context()) == 180.0
    assert driver.heard_within_s("13900000001", context(heartbeat_s=20)) == 60.0


@pytest.mark.driver_story("jt808", "garbage")
async def test_garbage_costs_no_event_and_a_caller_of_nothing_else_is_cut_off(tmp_path: Path) -> None:
    async with depot(tmp_path, ["13900000001", "13900000002"]) as here, fleet(here) as vehicles:
        spoilt, neighbour = vehicles.terminal("13900000001"), vehicles.terminal("13900000002")
        await reports_more(spoilt, neighbour)
        for _ in range(5):
            await spoilt.do("garbage")
            await spoilt.do("panic")
            await vehicles.all_acknowledged()
            await reports_more(spoilt)
        async with caller(here, b"\x7e\x00\x7e" * (REJECTS_IN_A_ROW_MAX + 1)) as nobody:
            await nobody.ended()
        await reports_more(spoilt, neighbour)

        assert Counter(await here.words()) == {("13900000001", Kind.PANIC, Qualifier.NEW): 5}
        assert here.metrics.driver_errors.labels("vehicles")._value.get() == 0


@pytest.mark.driver_story("jt808", "slow peer")
async def test_slow_peer_that_takes_no_answers_is_held_back_and_nobody_else_is(tmp_path: Path) -> None:
    slow = "13900000001"
    async with depot(tmp_path, [slow, "13900000002"]) as here, fleet(here) as vehicles:
        neighbour = vehicles.terminal("13900000002")
        await reports_more(neighbour)
        async with caller(here, authentication(slow)) as peer, asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(peer.say(*(report(n, phone=slow) for n in range(2, FLOOD + 2))))
            await neighbour.do("panic")
            await vehicles.all_acknowledged()
            await reports_more(neighbour)
            answers = await peer.hear(FLOOD + 1)  # now it does
            await sending

        assert answers[1:] == [(n, 0x0200, 0) for n in range(2, FLOOD + 2)]


@pytest.mark.driver_story("jt808", "flood")
async def test_flood_of_one_delays_no_alarm_of_another(tmp_path: Path) -> None:
    loud = "13900000001"
    async with depot(tmp_path, [loud, "13900000002"]) as here, fleet(here) as vehicles:
        neighbour = vehicles.terminal("13900000002")
        await reports_more(neighbour)
        async with caller(here, authentication(loud)) as peer, asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(peer.hear(FLOOD + 1))
            tasks.create_task(peer.say(*(report(n, phone=loud) for n in range(2, FLOOD + 2))))
            while not hearing.done():
                await neighbour.do("panic")
                await vehicles.all_acknowledged()
                await reports_more(neighbour, times=2)

        events = await here.events()
        assert sum(event.device == loud for event in events) == FLOOD
        assert sum(event.kind is Kind.PANIC for event in events) == vehicles.ledger.raised_count


@pytest.mark.parametrize("phone", ["13900000001", "13900000002"], ids=["2013", "2019"])
async def test_a_lost_part_is_asked_for_and_sent_again(
    tmp_path: Path, phone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap of 90 positions is a batch in several parts; the line loses one of them."""
    lost: list[bytes] = []
    original = simulator.Terminal._try

    def lossy(terminal: simulator.Terminal, line: simulator.Line, pending: simulator.Pending) -> None:
        frames = pending.frames
        if len(frames) > 2 and not lost:
            lost.append(frames[1])
            pending.frames = [frames[0], *frames[2:]]
        original(terminal, line, pending)
        pending.frames = frames

    monkeypatch.setattr(simulator.Terminal, "_try", lossy)
    async with depot(tmp_path, [phone]) as here, fleet(here) as vehicles:
        terminal = vehicles.terminal(phone, report_s=0.005, repeat_s=60)
        await reports_more(terminal)
        await terminal.do("unplug")
        await until(lambda: len(terminal._gap) >= 90)
        await terminal.do("back")
        await reports_more(terminal, times=10)

        async with asyncio.timeout(WAIT_S):
            while sum(bool(event.values.get("late")) for event in await here.events()) < 90:
                await reports_more(terminal, times=1)
        assert lost


@pytest.mark.full
async def test_five_hundred_terminals_at_a_report_a_second_are_all_answered_in_time(tmp_path: Path) -> None:
    """Aim: 99 of 100 within 200 ms; the bound here is for machines that do other things too."""
    from tests.jt808_bench import fleet as measured

    found = await measured(tmp_path, terminals=500, seconds=5)

    assert len(found.waits_s) == found.stored == 2500
    assert found.wait_ms(0.99) < 2000
