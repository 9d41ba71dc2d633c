"""Panels' bad days behind the real parts: unplugged, silent, garbled, slow, flooding, dialling all at once. Neighbours never notice."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import thread_time
from typing import Any

import pytest
import structlog
from pysiaalarm import SIAAccount, SIAEvent
from siadc09.message import parse_frame

import simulators
from drivers import dc09 as driver
from gateway.clock import RealClock
from gateway.driver import Context, Kind, Qualifier, Secret
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.links import tcp, udp
from gateway.loader import load_profiles
from gateway.metrics import Metrics
from gateway.model import Event, Place
from gateway.orders import Switchboard
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import Connection, Supervisor
from simulators import dc09 as simulator
from simulators._clock import RealClock as PanelClock
from simulators._world import Ledger, Option, Spec, World

WAIT_S = 30.0
SEEN_MAX = 10_000
LISTEN: Mapping[str, Any] = {"tcp": tcp.listen, "udp": udp.listen}


class Nowhere:
    def place(self, device: str, zone: int | None) -> Place | None:
        return None

    def is_enrolled(self, device: str) -> bool:
        return False


class Town:
    """A gateway's south side with its store, and panels that dial in."""

    def __init__(self, folder: Path, store: SqliteStore, *, scheme: str, context: Context) -> None:
        clock = RealClock()
        self.store = store
        self.metrics = Metrics()
        self.intake = Intake(
            store=store, places=Nowhere(), routes=[], ids=EventIds(clock, Random(1)), clock=clock,
            metrics=self.metrics, heard=lambda device, source: None,
        )  # fmt: skip
        self.supervisor = Supervisor(
            intake=self.intake, store=store, switchboard=Switchboard(lambda _: ""), clock=clock, random=Random(2),
            metrics=self.metrics, log=structlog.get_logger(), own=Source("gateway", "gateway", proves_life=False),
        )  # fmt: skip
        self._scheme = scheme
        self._listener: Any = None
        self._ready = asyncio.Event()
        self.line = Connection("panels", driver, "dc09", context, listen=self._listen)
        self.rows: list[Mapping[str, Option]] = []
        ledger = Ledger(PanelClock())
        self._changed = asyncio.Event()
        ledger.listeners += [self.rows.append, lambda _: self._changed.set()]
        self._world = World(PanelClock(), Random(7), ledger, run=int(PanelClock().now()))

    @asynccontextmanager
    async def _listen(self, on_peer: Any) -> AsyncIterator[Any]:
        async with LISTEN[self._scheme](f"{self._scheme}-listen://127.0.0.1:0", on_peer) as self._listener:
            self._ready.set()
            yield self._listener

    async def port(self) -> int:
        await self._ready.wait()
        port: int = self._listener.port
        return port

    async def panel(self, device: str, **options: Option) -> simulator.Panel:
        options = {"retry_s": 0.5, **options}
        return simulator.make(Spec(device, f"{self._scheme}://127.0.0.1:{await self.port()}", options), self._world)

    async def acknowledged(self, count: int, device: str = "") -> None:
        """So many events of that panel, or of all, have been acknowledged."""
        async with asyncio.timeout(WAIT_S):
            while self._count(device) < count:
                self._changed.clear()
                await self._changed.wait()

    def _count(self, device: str) -> int:
        return sum(row["state"] == "acknowledged" and (not device or row["device"] == device) for row in self.rows)

    async def events(self) -> Sequence[Event]:
        return await self.store.events(EventFilter(), limit=SEEN_MAX)


@asynccontextmanager
async def town(folder: Path, *, scheme: str = "tcp", key: str = "", **settings: Any) -> AsyncIterator[Town]:
    context = Context(driver.Settings(**settings), load_profiles(driver), "panels", {"key": Secret(key)})
    store = await SqliteStore.open(folder, RealClock())
    try:
        async with asyncio.timeout(WAIT_S * 2), asyncio.TaskGroup() as tasks:
            place = Town(folder, store, scheme=scheme, context=context)
            await place.intake.load()
            running = tasks.create_task(place.supervisor.run([place.line]))
            yield place
            running.cancel()
    finally:
        await store.close()


@asynccontextmanager
async def living(*panels: simulator.Panel) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(panel.run()) for panel in panels]
        yield
        for task in running:
            task.cancel()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_true():
            await asyncio.sleep(0.01)  # noqa: TID251  # polls what has no signal


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize(
    "options", [{}, {"protocol": "sia"}, {"departs": "crc_raw"}, {"hang_up": True, "stamp": "local"}]
)
async def test_what_a_panel_raises_is_acknowledged_and_stored_once(
    tmp_path: Path, scheme: str, options: Mapping[str, Option]
) -> None:
    async with town(tmp_path, scheme=scheme) as place:
        panel = await place.panel("dc09-A10B", **options)
        async with living(panel):
            await panel.do("panic", zone=1)
            await panel.do("burglary", zone=5)
            await panel.do("burglary", zone=5, restore=True)
            await place.acknowledged(3)
        events = await place.events()
    assert [(e.device, e.kind, e.zone, e.qualifier) for e in events] == [
        ("dc09-A10B", Kind.PANIC, 1, Qualifier.NEW),
        ("dc09-A10B", Kind.BURGLARY, 5, Qualifier.NEW),
        ("dc09-A10B", Kind.BURGLARY, 5, Qualifier.RESTORE),
    ]


async def test_an_encrypted_panel_with_a_wrong_clock_is_set_and_delivers(tmp_path: Path) -> None:
    key = "hex:" + b"GATEKEY-AES128-1".hex()
    async with town(tmp_path, key=key, accounts={"A10B": {"key_file": "key"}}) as place:
        panel = await place.panel("dc09-A10B", key=key)
        await panel.do("slow_clock")
        async with living(panel):
            await panel.do("panic", zone=1)
            await place.acknowledged(1)
        assert [e.kind for e in await place.events()] == [Kind.PANIC]


async def test_a_repeat_over_another_line_and_after_a_restart_is_one_event(tmp_path: Path) -> None:
    """A panel without H whose answers were lost: the second time over a new connection, the third to a new gateway."""
    frame = simulator.framed(b'"ADM-CID"0007L0#A10B[#A10B|1120 01 001]')
    answers = []
    for dials in (2, 1):
        async with town(tmp_path) as place:
            for _ in range(dials):
                reader, writer = await asyncio.open_connection("127.0.0.1", await place.port())
                writer.write(frame)
                answers.append(await reader.readuntil(b"\r"))
                writer.close()
            events = await place.events()
    assert answers == [simulator.framed(b'"ACK"0007L0#A10B[]')] * 3
    assert [e.kind for e in events] == [Kind.PANIC]


# -- named days --------------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("dc09", "unplug")
async def test_unplug(tmp_path: Path) -> None:
    """What is raised with the plug pulled arrives by itself once it is back."""
    async with town(tmp_path) as place:
        panel, neighbour = await place.panel("dc09-A10B"), await place.panel("dc09-A10C")
        async with living(panel, neighbour):
            await panel.do("panic", zone=1)
            await place.acknowledged(1, "dc09-A10B")
            await panel.do("unplug")
            await panel.do("panic", zone=2)
            await neighbour.do("burglary", zone=3)
            await place.acknowledged(1, "dc09-A10C")
            assert place._count("dc09-A10B") == 1
            await panel.do("replug")
            await place.acknowledged(2, "dc09-A10B")
        assert len(await place.events()) == 3


@pytest.mark.driver_story("dc09", "silence")
async def test_silence(tmp_path: Path) -> None:
    """A panel that holds its line and says nothing costs nobody anything, and is served when it speaks again."""
    async with town(tmp_path) as place:
        panel, neighbour = await place.panel("dc09-A10B"), await place.panel("dc09-A10C")
        async with living(panel, neighbour):
            await until(lambda: place.line.peers == 2)
            await panel.do("silent")
            await neighbour.do("panic", zone=1)
            await place.acknowledged(1, "dc09-A10C")
            await panel.do("panic", zone=1)
            await panel.do("back")
            await place.acknowledged(1, "dc09-A10B")


@pytest.mark.driver_story("dc09", "garbage")
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_garbage(tmp_path: Path, scheme: str) -> None:
    """Rubbish and halves before each event: they are counted, and every event arrives once."""
    async with town(tmp_path, scheme=scheme) as place:
        panel, neighbour = await place.panel("dc09-A10B"), await place.panel("dc09-A10C")
        async with living(panel, neighbour):
            for zone in range(1, 11):
                await panel.do("garbage")
                await panel.do("half")
                await panel.do("panic", zone=zone)
                await neighbour.do("burglary", zone=zone)
                await place.acknowledged(zone, "dc09-A10B")
                await place.acknowledged(zone, "dc09-A10C")
        assert len(await place.events()) == 20
        refused = 'fangkong_rejected_frames_total{connection="panels",reason="malformed"}'
        assert [line for line in place.metrics.text().decode().splitlines() if line.startswith(refused)] != [
            f"{refused} 0.0"
        ]


@pytest.mark.driver_story("dc09", "slow peer")
async def test_slow_peer(tmp_path: Path) -> None:
    """One that sends for ever and takes no answer: it is held back by its own line, not by its neighbours'."""
    frame = simulator.framed(b'"NULL"0001L0#AAAA[]')
    async with town(tmp_path) as place:
        _, writer = await asyncio.open_connection("127.0.0.1", await place.port(), limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport has it
        writer.transport.set_write_buffer_limits(high=65536)
        with pytest.raises(TimeoutError):  # noqa: PT012  # that it ends by waiting is the claim
            async with asyncio.timeout(1.0):  # longer than any machine takes for what its buffers hold
                while True:
                    writer.write(frame * 200)
                    await writer.drain()
        neighbour = await place.panel("dc09-A10C")
        async with living(neighbour):
            await neighbour.do("panic", zone=1)
            await place.acknowledged(1)
        assert place.line.peers >= 1
        writer.transport.abort()


@pytest.mark.driver_story("dc09", "flood")
async def test_flood(tmp_path: Path) -> None:
    """Five thousand different events as fast as the line takes them: all answered, and the neighbour's panic between them."""
    frames = [simulator.framed(b'"ADM-CID"%04dL0#AAAA[#AAAA|1130 01 %03d]' % (n, n % 1000)) for n in range(1, 5001)]
    async with town(tmp_path) as place:
        neighbour = await place.panel("dc09-A10C")
        async with living(neighbour), asyncio.TaskGroup() as tasks:
            flood = tasks.create_task(_exchange(await place.port(), b"".join(frames), len(frames)))
            await until(lambda: place.line.peers >= 2)
            for zone in range(1, 6):
                await neighbour.do("panic", zone=zone)
                await place.acknowledged(zone, "dc09-A10C")
        assert flood.result() == len(frames)
        assert len(await place.events()) == len(frames) + 5


async def _exchange(port: int, data: bytes, answers: int) -> int:
    """Send everything, read so many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    got = 0
    while got < answers:
        got += (await reader.read(65536)).count(b"\r")
    writer.close()
    return got


SCENARIO = Path(simulators.__file__).parent / "scenarios" / "residential_panels.toml"
EVENING_S = 14


@pytest.mark.full
async def test_the_evening_of_the_library_is_acknowledged_and_stored_once(tmp_path: Path) -> None:
    """Every panel of the scenario, as a program of its own: the ledger against the two stores."""
    evening = tmp_path / "evening.toml"  # what 110 must have of it is judged by tests/stories/test_library.py
    evening.write_text(SCENARIO.read_text().partition("[[expect]]")[0])
    key = "text:GATEKEY-AES128-1"
    listed = {"D001": {"key_file": "key"}}
    async with (
        town(tmp_path / "tcp", key=key, accounts=listed) as over_tcp,
        town(tmp_path / "udp", scheme="udp") as over_udp,
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "simulators", str(evening), f"--seconds={EVENING_S}", f"--ledger={tmp_path / 'ledger'}",
            f"--set=tcp=127.0.0.1:{await over_tcp.port()}", f"--set=udp=127.0.0.1:{await over_udp.port()}",
        )  # fmt: skip
        assert await process.wait() == 0
        events = [*await over_tcp.events(), *await over_udp.events()]
    rows = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    refs = {state: [row["ref"] for row in rows if row["state"] == state] for state in ("raised", "acknowledged")}

    assert len(refs["acknowledged"]) >= len(refs["raised"]) - 3, "the last may be under way at the end"
    assert len(refs["acknowledged"]) <= len(events) <= len(refs["raised"])
    assert {"dc09-C001", "dc09-C002", "dc09-C003", "dc09-D001"} <= {event.device for event in events}


# -- crowds ------------------------------------------------------------------------------------------------------------


def _descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= wanted, f"this machine allows {hard} descriptors; {wanted} are needed"
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_a_thousand_panels_that_dial_at_once_are_all_acknowledged(tmp_path: Path, scheme: str) -> None:
    """The aim is 2 s; this machine is shared, so the test allows ten times that and prints what it took."""
    _descriptors(4000)
    clock = RealClock()
    async with town(tmp_path, scheme=scheme) as place:
        port = await place.port()
        started = clock.monotonic()
        async with asyncio.TaskGroup() as tasks:
            panels = [tasks.create_task(_one_alarm(scheme, port, f"{0xA000 + n:X}")) for n in range(1000)]
        took_s = clock.monotonic() - started
        assert len(await place.events()) == 1000
    tries = sum(task.result() for task in panels)
    print(f"\n{scheme}: 1000 panels dialled at once, all acknowledged after {took_s:.2f} s, {tries} frames sent")

    assert took_s < 20


async def _one_alarm(scheme: str, port: int, account: str) -> int:
    """Dial, report, wait for the acknowledgement; over UDP repeat after a second. How often it was sent."""
    frame = simulator.framed(f'"ADM-CID"0001L0#{account}[#{account}|1301 00 000]'.encode())
    expected = simulator.framed(f'"ACK"0001L0#{account}[]'.encode())
    if scheme == "tcp":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frame)
        assert await reader.readuntil(b"\r") == expected
        writer.close()
        return 1
    loop = asyncio.get_running_loop()
    transport, wire = await loop.create_datagram_endpoint(simulator.UdpWire, remote_addr=("127.0.0.1", port))
    wire.transport = transport
    tries = 0
    while True:
        tries += 1
        wire.send(frame)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                assert await wire.answer() == expected
                wire.close()
                return tries


@pytest.mark.full
async def test_five_thousand_idle_panels_hold_their_line_and_one_of_them_is_served(tmp_path: Path) -> None:
    _descriptors(12_000)
    async with town(tmp_path) as place:
        port = await place.port()
        lines: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        while len(lines) < 5000:
            async with asyncio.TaskGroup() as tasks:
                dialled = [tasks.create_task(asyncio.open_connection("127.0.0.1", port)) for _ in range(500)]
            lines += [task.result() for task in dialled]
        await until(lambda: place.line.peers == 5000)
        reader, writer = lines[-1]
        writer.write(simulator.framed(b'"ADM-CID"0001L0#A10B[#A10B|1120 01 001]'))

        assert await reader.readuntil(b"\r") == simulator.framed(b'"ACK"0001L0#A10B[]')
        assert place.line.peers == 5000
        assert len(await place.events()) == 1
        for _, writer in lines:
            writer.transport.abort()
        await until(lambda: place.line.peers == 0)


# -- cost --------------------------------------------------------------------------------------------------------------

FRAMES = [
    b'\nF193003B"ADM-CID"0001L0#A10B[#A10B|1130 02 017]_08:30:00,01-15-2027\r',
    b'\n61B0003D"ADM-CID"0002R1L3#A10B[#A10B|3130 02 017]_08:30:00,01-15-2027\r',
    b'\nD0CA0041"SIA-DCS"0003L0#A10B[#A10B|Nti16:29ri2/BA017]_08:30:00,01-15-2027\r',
    b'\nB05C0013"NULL"0000L0#A10B[]\r',
]


@pytest.mark.peer("siadc09", "pysiaalarm")
def test_a_frame_costs_no_more_than_with_others() -> None:
    """CPU time of this thread, the best of several rounds of the same frames. Ours includes cutting the stream and the meaning."""
    context = Context(driver.Settings(), load_profiles(driver))
    accounts = {"A10B": SIAAccount("A10B", allowed_timeband=None)}
    lines = [frame.decode().strip() for frame in FRAMES]

    def ours() -> None:
        for frame in driver.split(bytearray(b"".join(FRAMES))):
            driver.decode(frame, context)

    works: Mapping[str, Callable[[], object]] = {
        "dc09": ours,
        "siadc09": lambda: [parse_frame(frame) for frame in FRAMES],
        "pysiaalarm": lambda: [SIAEvent.from_line(line, accounts) for line in lines],
    }
    gc.disable()
    try:
        costs = {name: min(_cost_us(work) for _ in range(7)) for name, work in works.items()}
    finally:
        gc.enable()
    print("\nµs of CPU a frame: " + ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items()))

    assert costs["dc09"] <= 1.3 * min(costs["siadc09"], costs["pysiaalarm"]), (
        costs
    )  # a busy machine's caches are worth a third


def _cost_us(work: Callable[[], object], rounds: int = 100) -> float:
    started = thread_time()
    for _ in range(rounds):
        work()
    return (thread_time() - started) / rounds / len(FRAMES) * 1e6
