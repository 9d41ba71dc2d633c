"""Bad days of a Modbus line, with the supervisor and a real store behind it; a second line beside it never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.clock import RealClock
from gateway.driver import Context, Kind, Qualifier
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.links.modbus import open_bus
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import Place
from gateway.orders import Switchboard
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import PORT_RETRY_MOST_S, Connection, Supervisor
from simulators.modbus_points import Slave
from tests.modbus_bench import TCP, driver, running, shipped, slave, world

WAIT_S = 30.0
RESUMES_WITHIN_S = 2.0
NEW, RESTORE = Qualifier.NEW, Qualifier.RESTORE
CLOCK = RealClock()


@dataclass
class Estate:
    """Two lines and what was stored of them."""

    store: SqliteStore
    supervisor: Supervisor
    metrics: Metrics
    neighbour: Slave

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    await CLOCK.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not within {WAIT_S} s: {what}; {await self.told()}") from None

    async def told(self, device: str = "") -> Sequence[tuple[str, Kind, Qualifier, int | None]]:
        events = await self.store.events(EventFilter(device=device or None), limit=500)
        return [(e.device, e.kind, e.qualifier, e.zone) for e in events]

    async def until_told(self, *wanted: tuple[str, Kind, Qualifier, int | None]) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not set(wanted) <= set(await self.told()):
                    await CLOCK.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not within {WAIT_S} s: {wanted}; {await self.told()}") from None

    def is_up(self, line: str = "sick") -> bool:
        return self.supervisor.line_is_up(line)

    async def neighbour_is_well(self, zone: int) -> None:
        await self.neighbour.do("burglary", zone=zone)
        await self.until_told(("next", Kind.BURGLARY, NEW, zone))
        assert self.is_up("well")
        assert self.metrics.registry.get_sample_value("fangkong_driver_errors_total", {"connection": "sick"}) == 0


def connection(
    name: str, link: str, units: Sequence[Mapping[str, Any]], intake: Intake, metrics: Metrics
) -> Connection:
    settings = driver.Settings.model_validate({"units": units})
    opened = partial(
        open_bus, link, clock=CLOCK, log=logger(), metrics=metrics, connection=name,
        reject=partial(intake.reject, Source("modbus_points", name)),
    )  # fmt: skip
    line = Connection(name, driver, "modbus_points", Context(settings, shipped, name), open=opened)
    line.retry_most_s = PORT_RETRY_MOST_S
    return line


def units(*devices: str) -> list[dict[str, Any]]:
    return [
        {"unit": number, "device": device, "profile": "relay_io16", "every_s": 0.1}
        for number, device in enumerate(devices, 1)
    ]


@asynccontextmanager
async def estate(folder: Path, link: str) -> AsyncIterator[Estate]:
    """A sick line with the units a and b, and a well one."""
    store, metrics = await SqliteStore.open(folder / "var", CLOCK), Metrics()

    class Everywhere:
        def place(self, device: str, zone: int | None) -> Place | None:
            return Place("yangsi", "A101", device, None, 1, device)

    intake = Intake(
        store=store, places=Everywhere(), routes=[], ids=EventIds(CLOCK, Random(1)), clock=CLOCK, metrics=metrics,
        heard=lambda _device, _source: None,
    )  # fmt: skip
    own = Source("gateway", "gateway", place=Place("box", "0000", "box", None, 0, "box"), proves_life=False)
    supervisor = Supervisor(
        intake=intake, store=store, switchboard=Switchboard(lambda _: ""), clock=CLOCK, random=Random(2),
        metrics=metrics, log=logger(), own=own,
    )  # fmt: skip
    neighbour = slave(TCP, world(), "next")
    try:
        async with running(neighbour), asyncio.TaskGroup() as tasks:
            well = f"modbus+tcp://127.0.0.1:{neighbour.wire.port}?timeout_ms=2000"
            lines = [
                connection("sick", link, units("a", "b"), intake, metrics),
                connection("well", well, units("next"), intake, metrics),
            ]
            running_tasks = [tasks.create_task(supervisor.run(lines)), tasks.create_task(intake.keep_rejects())]
            yield Estate(store, supervisor, metrics, neighbour)
            for task in running_tasks:
                task.cancel()
    finally:
        await store.close()


@pytest.fixture(params=["tcp", "rtu"])
def wire(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Slave], Callable[[], str]]:
    """Two slaves on one wire, and the link to them once they run."""
    kind, here = request.param, world()
    connect = TCP if kind == "tcp" else f"modbus+rtu://{tmp_path / 'line'}"
    slaves = [slave(connect, here, device, late_s=0.8) for device in ("a", "b")]

    def link() -> str:
        return (
            f"modbus+tcp://127.0.0.1:{slaves[0].wire.port}?timeout_ms=200"
            if kind == "tcp"
            else f"{connect}?timeout_ms=200"
        )

    return slaves, link


@pytest.mark.driver_story("modbus_points", "unplug")
async def test_a_port_unplugged_and_replugged_resumes_by_itself(tmp_path: Path) -> None:
    """The best of three: another program's turn on this machine is not the line's."""
    connect, took = f"modbus+rtu://{tmp_path / 'line'}", []
    async with estate(tmp_path, f"{connect}?timeout_ms=200") as here:
        for zone in (1, 2, 3):
            slaves = [slave(connect, world(), device) for device in ("a", "b")]
            async with running(*slaves):
                plugged_s = CLOCK.monotonic()
                await slaves[0].do("burglary", zone=zone)
                await here.until_told(("a", Kind.BURGLARY, NEW, zone))
                took.append(CLOCK.monotonic() - plugged_s)
            await here.until(lambda: not here.is_up(), "the line is seen to be gone")
            await here.neighbour_is_well(zone)
        print(f"resumed after {', '.join(f'{each:.2f}' for each in took)} s")
        assert min(took[1:]) < RESUMES_WITHIN_S
        assert [kind for _, kind, *_ in await here.told()].count(Kind.COMM_FAULT) == 0


@pytest.mark.full
@pytest.mark.driver_story("modbus_points", "silence")
async def test_one_silent_unit_is_one_fault_and_all_silent_are_the_line(
    wire: tuple[list[Slave], Callable[[], str]], tmp_path: Path
) -> None:
    (one, two), link = wire
    async with running(one, two), estate(tmp_path, link()) as here:
        await here.until(here.is_up, "the line is open")
        await two.do("burglary", zone=1)
        await here.until_told(("b", Kind.BURGLARY, NEW, 1))
        await one.do("silent")
        await here.until_told(("a", Kind.COMM_FAULT, NEW, None))
        await two.do("burglary", zone=2)
        await here.until_told(("b", Kind.BURGLARY, NEW, 2))
        await one.do("back")
        await here.until_told(("a", Kind.COMM_FAULT, RESTORE, None))

        for each in (one, two):
            await each.do("silent")
        await here.until(lambda: not here.is_up(), "the line is mute")
        await here.neighbour_is_well(1)
        for each in (one, two):
            await each.do("back")
        await here.until(here.is_up, "somebody answers")
        assert [kind for _, kind, *_ in await here.told()].count(Kind.COMM_FAULT) == 2


@pytest.mark.driver_story("modbus_points", "garbage")
async def test_garbage_is_no_alarm_and_its_bytes_are_kept(
    wire: tuple[list[Slave], Callable[[], str]], tmp_path: Path
) -> None:
    (one, two), link = wire
    wrong = "garble" if "rtu" in link() else "wrong_unit"  # TCP has no checksum: a bit flipped in the data is data
    async with running(one, two), estate(tmp_path, link()) as here:
        await here.until(here.is_up, "the line is open")
        await two.do("burglary", zone=1)
        await here.until_told(("b", Kind.BURGLARY, NEW, 1))
        await one.do(wrong)
        await here.until_told(("a", Kind.COMM_FAULT, NEW, None))
        await two.do("burglary", zone=2)
        await here.until_told(("b", Kind.BURGLARY, NEW, 2))
        await here.neighbour_is_well(1)

        kept = await here.store.rejected()
        assert len(kept) >= 3
        assert {row.connection for row in kept} == {"sick"}
        assert all(len(row.raw) >= 6 for row in kept)
        assert await here.told("a") == [("a", Kind.COMM_FAULT, NEW, None)]


@pytest.mark.full
@pytest.mark.driver_story("modbus_points", "slow peer")
async def test_a_slow_unit_is_lost_and_its_late_answers_are_nobodys(
    wire: tuple[list[Slave], Callable[[], str]], tmp_path: Path
) -> None:
    (one, two), link = wire
    async with running(one, two), estate(tmp_path, link()) as here:
        await here.until(here.is_up, "the line is open")
        await two.do("burglary", zone=1)
        await here.until_told(("b", Kind.BURGLARY, NEW, 1))
        await one.do("burglary", zone=9)
        await here.until_told(("a", Kind.BURGLARY, NEW, 9))
        await one.do("late")
        await here.until_told(("a", Kind.COMM_FAULT, NEW, None))
        await two.do("burglary", zone=2)
        await here.until_told(("b", Kind.BURGLARY, NEW, 2))
        await here.neighbour_is_well(1)
        assert not [told for told in await here.told("b") if told[3] == 9]


@pytest.mark.driver_story("modbus_points", "flood")
async def test_a_peer_that_never_stops_talking_is_a_line_that_does_not_answer(tmp_path: Path) -> None:
    is_over = False

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer):
            while not is_over:
                writer.write(b"\x00\x01\x00\x00\x00\x04\x09\x02\x01\xff" * 400)
                await writer.drain()
                await CLOCK.sleep(0.005)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, estate(tmp_path, f"modbus+tcp://127.0.0.1:{port}?timeout_ms=100") as here:
        await here.until(lambda: not here.is_up() and here.supervisor.connections["sick"].is_mute, "the line is mute")
        await here.neighbour_is_well(1)
        is_over = True
        assert all(told[0] != "a" and told[0] != "b" for told in await here.told())
