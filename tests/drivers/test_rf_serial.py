"""The radio receiver's line over a real pseudo terminal: halves, pairs, rubbish, a pulled plug; and what others say of it."""

from __future__ import annotations

import asyncio
import os
import tty
from binascii import crc_hqx
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
import structlog
from pynmeagps.nmeahelpers import calc_checksum

from drivers import rf_serial as driver
from gateway.backoff import Backoff
from gateway.clock import RealClock
from gateway.driver import Context, FrameError, Kind, LinkClosed, Observation, Qualifier, Receipt
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.links.serial import WRITE_QUEUE_BYTES, open_serial
from gateway.links.stream import StreamLink
from gateway.links.tcp import dial
from gateway.loader import load_profiles
from gateway.metrics import Metrics
from gateway.model import Place
from gateway.orders import Switchboard
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import Connection, Supervisor
from simulators import rf_serial as simulator
from simulators._world import Ledger, Option, Spec, World
from tests.conftest import JumpingClock
from tests.driver_cases import Desk, closing
from tests.memory import memory_pair

CONTEXT = Context(settings=driver.Settings(), profiles=load_profiles(driver), connection="rf")
MOTION = bytes.fromhex(
    "2450464B52462C52582C30413142324333442C30303030303030312C4556313532372C3830363530412C2D36312C302C323334352A33340D0A"
)
WAIT_S = 5.0
RESUMED_WITHIN_S = 2.0


class HurriedClock:
    """Two hundred seconds of a simulator's time in one."""

    def __init__(self) -> None:
        self._real = RealClock()

    def now(self) -> float:
        return self._real.now().timestamp()

    def monotonic(self) -> float:
        return self._real.monotonic() * 200

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds / 200)


class Bench:
    """A receiver on a PTY and the gateway's half of the line, opened again whenever it is lost."""

    def __init__(self, folder: Path, **options: Option) -> None:
        self.rows: list[Mapping[str, Option]] = []
        self.opened: list[str] = []
        self.desk = Desk(is_prompt=True)
        self.changed = self.desk.changed
        clock = HurriedClock()
        ledger = Ledger(clock)
        ledger.listeners += [self.rows.append, lambda _: self.changed.set()]
        self.link = folder / "rf0"
        spec = Spec("rf-1", f"pty:{self.link}", options)
        self.receiver = simulator.make(spec, World(clock, Random(7), ledger))

    async def gateway(self) -> None:
        clock = RealClock()
        backoff = Backoff(Random(1), first_s=0.05, most_s=0.2)
        while True:
            with suppress(LinkClosed):
                async with closing(open_serial(f"serial://{self.link}?baud=9600")) as link:
                    self.opened.append(os.path.realpath(self.link))
                    self.changed.set()
                    await driver.run(self.desk.session(link, CONTEXT, clock))
            await clock.sleep(backoff.next_s())

    def refs(self, state: str) -> set[Option]:
        return {row["ref"] for row in self.rows if row["state"] == state}

    def stored(self) -> set[str | None]:
        return {seen.repeat_key for seen in self.desk.reported if seen.repeat_key}

    async def until(self, claim: Callable[[], bool], within_s: float = WAIT_S) -> None:
        async with asyncio.timeout(within_s):
            while not claim():
                await self.changed.wait()
                self.changed.clear()

    async def all_acknowledged(self, count: int) -> None:
        await self.until(lambda: len(self.refs("acknowledged")) >= count)


@asynccontextmanager
async def bench(folder: Path, **options: Option) -> AsyncIterator[Bench]:
    one = Bench(folder, **options)
    async with asyncio.TaskGroup() as tasks:
        parts = [tasks.create_task(one.receiver.run()), tasks.create_task(one.gateway())]
        await one.until(lambda: bool(one.opened))
        try:
            yield one
        finally:
            for part in parts:
                part.cancel()


# -- the line ----------------------------------------------------------------------------------------------------------


async def test_what_the_sensors_say_arrives_and_is_acknowledged(tmp_path: Path) -> None:
    async with bench(tmp_path) as line:
        await line.receiver.do("burglary", zone=1)
        await line.receiver.do("open", zone=2)
        await line.receiver.do("open", zone=2, restore=True)
        await line.receiver.do("tamper", zone=3)
        await line.receiver.do("water", zone=4)
        await line.receiver.do("batt_low", zone=4)
        await line.receiver.do("rf_jamming")
        await line.all_acknowledged(7)

        assert line.refs("acknowledged") == line.refs("raised") == line.stored()
    said = {(seen.device, seen.kind, seen.qualifier) for seen in line.desk.reported if seen.repeat_key}
    assert said == {
        ("ev1527-80650", Kind.BURGLARY, Qualifier.NEW),
        ("ev1527-80651", Kind.BURGLARY, Qualifier.NEW),
        ("ev1527-80651", Kind.BURGLARY, Qualifier.RESTORE),
        ("ev1527-80652", Kind.TAMPER, Qualifier.NEW),
        ("ev1527-80653", Kind.WATER, Qualifier.NEW),
        ("ev1527-80653", Kind.RF_BATT_LOW, Qualifier.NEW),
        ("rf-1", Kind.RF_JAMMING, Qualifier.NEW),
    }
    assert all(seen.values["assurance"] == "low" for seen in line.desk.reported if seen.device.startswith("ev1527"))


@pytest.mark.driver_story("rf_serial", "garbage")
async def test_halves_pairs_and_rubbish_cost_time_but_no_event(tmp_path: Path) -> None:
    async with bench(tmp_path, sensors=30, half=0.3, garbage=0.3, glue=0.3) as line:
        for zone in range(1, 31):
            await line.receiver.do("burglary", zone=zone)
        await line.receiver.do("garbage")
        await line.receiver.do("half")
        await line.all_acknowledged(30)

        assert line.refs("acknowledged") == line.refs("raised") == line.stored()
    assert line.desk.rejected, "the faults did not happen"
    assert {seen.device for seen in line.desk.reported} <= {line.receiver.device(zone) for zone in range(1, 31)} | {
        "rf-1"
    }


@pytest.mark.driver_story("rf_serial", "unplug")
async def test_a_replugged_receiver_is_found_under_another_name_and_nothing_is_lost(tmp_path: Path) -> None:
    async with bench(tmp_path) as line:
        before = line.opened[-1]
        holder, other = os.openpty()  # takes the old number, as another adapter would
        await line.receiver.do("unplug")
        await line.receiver.do("burglary", zone=1)
        extra = [os.openpty()]
        await line.receiver.do("replug")
        await line.until(lambda: bool(line.stored()), within_s=RESUMED_WITHIN_S)
        await line.all_acknowledged(1)

        assert line.opened[-1] != before
        assert line.stored() == line.refs("raised")
        for fd in (holder, other, *extra[0]):
            os.close(fd)


async def test_a_receiver_that_lost_power_starts_a_new_count_and_keeps_what_waits(tmp_path: Path) -> None:
    async with bench(tmp_path) as line:
        await line.receiver.do("unplug")
        await line.receiver.do("burglary", zone=1)
        await line.receiver.do("power_loss")
        await line.receiver.do("burglary", zone=1)
        await line.receiver.do("replug")
        await line.all_acknowledged(2)

        boots = {str(ref).split("/")[0] for ref in line.stored()}
        assert len(boots) == 2
        assert {str(ref).split("/")[1] for ref in line.stored()} == {"00000001"}


async def test_what_overflows_the_receiver_is_a_fault_once(tmp_path: Path) -> None:
    async with bench(tmp_path, sensors=4, queue=3) as line:
        await line.receiver.do("unplug")
        for zone in range(1, 5):
            await line.receiver.do("tamper", zone=zone)
        await line.receiver.do("replug")

        def faults() -> list[Observation]:
            return [seen for seen in line.desk.reported if seen.kind is Kind.DEVICE_FAULT]

        def heartbeats() -> int:
            return sum(seen.code == "HB" and seen.kind is Kind.HEARTBEAT for seen in line.desk.reported)

        await line.until(lambda: heartbeats() >= 2)
        assert [(seen.qualifier, dict(seen.values)) for seen in faults()] == [(Qualifier.NEW, {"lost": 1})]
        await line.receiver.do("power_loss")
        more = heartbeats() + 2
        await line.until(lambda: heartbeats() >= more)
        assert [seen.qualifier for seen in faults()] == [Qualifier.NEW, Qualifier.RESTORE]


async def test_the_same_code_within_a_moment_is_one_event(tmp_path: Path) -> None:
    clock = JumpingClock()

    class Still(HurriedClock):
        monotonic = staticmethod(clock.monotonic)

    rows: list[Mapping[str, Option]] = []
    ledger = Ledger(Still())
    ledger.listeners.append(rows.append)
    receiver = simulator.make(Spec("rf-1", f"pty:{tmp_path}/rf0"), World(Still(), Random(7), ledger))
    await receiver.do("burglary", zone=1)
    await receiver.do("burglary", zone=1)
    await clock.advance(2)
    await receiver.do("burglary", zone=1)

    assert len(rows) == 2
    with pytest.raises(ValueError, match="sensors 1 to 4"):
        await receiver.do("burglary", zone=5)
    with pytest.raises(ValueError, match="cannot do"):
        await receiver.do("earthquake")


async def test_what_waited_in_the_receiver_gets_the_time_it_happened(jumping_clock: JumpingClock) -> None:
    late = b"$PFKRF,RX,0A1B2C3D,00000002,EV1527,80651E,-61,75,FC46*07\r\n"
    desk = Desk(is_prompt=True)

    class Once:
        peer = "once"
        sent: bytes | None = late

        async def read(self) -> bytes:
            if self.sent is None:
                raise LinkClosed("end")
            data, self.sent = self.sent, None
            return data

        def answer(self, data: bytes, *, after: Receipt) -> None: ...

        async def write(self, data: bytes) -> None: ...

    with pytest.raises(LinkClosed):
        await driver.run(desk.session(Once(), CONTEXT, jumping_clock))

    assert [seen.at for seen in desk.reported] == [jumping_clock.now() - timedelta(seconds=75)]


# -- the port ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pty_port(tmp_path: Path) -> tuple[int, int, str]:
    near, far = os.openpty()
    tty.setraw(far)
    (tmp_path / "usb-port").symlink_to(os.ttyname(far))
    return near, far, f"serial://{tmp_path}/usb-*?baud=9600"


async def test_a_pulled_plug_ends_a_waiting_read(pty_port: tuple[int, int, str]) -> None:
    near, far, url = pty_port
    async with asyncio.timeout(RESUMED_WITHIN_S), closing(open_serial(url)) as link:
        os.write(near, b"one")
        assert await link.read() == b"one"
        asyncio.get_running_loop().call_soon(os.close, near)
        with pytest.raises(LinkClosed):
            await link.read()
    os.close(far)


async def test_what_the_line_does_not_take_waits_and_then_all_of_it_leaves(pty_port: tuple[int, int, str]) -> None:
    near, far, url = pty_port
    sent = Random(3).randbytes(5 * WRITE_QUEUE_BYTES)
    os.set_blocking(near, False)
    loop = asyncio.get_running_loop()
    got = bytearray()
    async with asyncio.timeout(WAIT_S), closing(open_serial(url)) as link:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(link.write(sent))
            await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing
            assert not writing.done(), "a line that takes nothing took everything"
            loop.add_reader(near, lambda: got.extend(os.read(near, 1024)))
        await link.close()
        while len(got) < len(sent):
            await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing
    loop.remove_reader(near)
    assert got == sent
    os.close(near)
    os.close(far)


async def test_a_port_that_is_not_there_or_not_alone_is_a_closed_link(tmp_path: Path) -> None:
    with pytest.raises(LinkClosed, match="no such port"):
        async with closing(open_serial(f"serial://{tmp_path}/usb-*")):
            pass
    for name in ("usb-1", "usb-2"):
        (tmp_path / name).touch()
    with pytest.raises(LinkClosed, match=r"several ports: .*usb-1, .*usb-2"):
        async with closing(open_serial(f"serial://{tmp_path}/usb-*")):
            pass
    with pytest.raises(LinkClosed, match="usb-1"):
        async with closing(open_serial(f"serial://{tmp_path}/usb-1")):
            pass


# -- outside judges ----------------------------------------------------------------------------------------------------


def test_both_checks_are_those_of_their_standards() -> None:
    """CRC-16/CCITT-FALSE has the check value 29B1 for "123456789" in every catalogue of CRCs."""
    assert simulator.crc16("123456789") == crc_hqx(b"123456789", 0xFFFF) == 0x29B1


@pytest.mark.parametrize(
    "sentence",
    [
        driver.sentence("AK,0A1B2C3D,00000001"),
        simulator.line("RX", "0A1B2C3D", "00000001", "EV1527", "80650A", "-61", "0"),
        simulator.line("HB", "0A1B2C3D", "-98", "0", "0"),
    ],
)
def test_the_framing_of_both_ends_is_nmea_0183(sentence: bytes) -> None:
    """pynmeagps as the judge: `$`, talker P, checksum over what stands between `$` and `*`, CR LF, 82 characters."""
    text = sentence.decode("ascii")

    assert text[0] == "$"
    assert text[-5:-2] == "*" + calc_checksum(text[1:-5])
    assert text.endswith("\r\n")
    assert len(text) <= 82


def test_each_end_writes_the_bytes_of_the_vectors() -> None:
    assert simulator.line("RX", "0A1B2C3D", "00000001", "EV1527", "80650A", "-61", "0") == MOTION
    assert driver.answer(MOTION, CONTEXT) == b"$PFKRF,AK,0A1B2C3D,00000001,C350*33\r\n"
    assert simulator.acknowledged("$PFKRF,AK,0A1B2C3D,00000001,C350*33") == ("0A1B2C3D", "00000001")


def test_no_two_flipped_bits_make_another_event_or_acknowledge_another_line() -> None:
    """Every pair in neighbouring bytes and columns, where NMEA's XOR alone is blind."""
    answer = bytearray(b"$PFKRF,AK,0A1B2C3D,00000001,C350*33")
    for frame, read in ((bytearray(MOTION), spoiled_event), (answer, spoiled_answer)):
        for first in range(len(frame)):
            for second in range(first + 1, min(first + 16, len(frame))):
                for bit in range(8):
                    frame[first] ^= 1 << bit
                    frame[second] ^= 1 << bit
                    assert not read(bytes(frame)), f"{bytes(frame)!r}"
                    frame[first] ^= 1 << bit
                    frame[second] ^= 1 << bit


def spoiled_event(stream: bytes) -> list[Observation]:
    seen: list[Observation] = []
    for frame in driver.split(bytearray(stream)):
        with suppress(FrameError):
            seen += driver.decode(frame, CONTEXT)
    return seen


def spoiled_answer(line: bytes) -> tuple[str, str] | None:
    return simulator.acknowledged(line.decode("ascii", "replace"))


def test_the_receiver_is_supervised_and_its_sensors_are_not() -> None:
    assert driver.heard_within_s("rf-1", CONTEXT) == driver.RECEIVER_HEARD_WITHIN_S == 180.0
    assert driver.heard_within_s("ev1527-80650", CONTEXT) is None


def test_a_profile_that_is_not_there_acknowledges_nothing() -> None:
    context = Context(settings=driver.Settings(profile="kerui"), profiles=CONTEXT.profiles)

    with pytest.raises(FrameError, match='profile "kerui" is not there, one of kerui_ev1527, pt2262_tristate'):
        driver.decode(MOTION, context)


def test_a_line_without_end_is_cut_at_the_bound() -> None:
    buffer = bytearray(b"$" + b"x" * driver.LINE_BYTES_MAX * 3)

    assert [len(piece) for piece in driver.split(buffer)] == [driver.LINE_BYTES_MAX] * 3
    assert len(buffer) == 1


# -- with the real parts behind it -------------------------------------------------------------------------------------


async def test_behind_the_supervisor_a_repeat_is_stored_once_and_answered_twice(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """And the receiver's deadline is its own, while its sensors have none."""
    windows: dict[str, float | None] = {}
    near, far = memory_pair()

    class Nowhere:
        def place(self, device: str, zone: int | None) -> Place | None:
            return None

    @asynccontextmanager
    async def opened() -> AsyncIterator[StreamLink]:
        yield near

    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    metrics = Metrics()
    intake = Intake(
        store=store, places=Nowhere(), routes=[], ids=EventIds(jumping_clock, Random(1)), clock=jumping_clock,
        metrics=metrics, heard=lambda device, source: windows.update({device: source.window_s(device)}),
    )  # fmt: skip
    supervisor = Supervisor(
        intake=intake, store=store, switchboard=Switchboard(lambda _: ""), clock=jumping_clock, random=Random(2), metrics=metrics,
        log=structlog.get_logger(), own=Source("gateway", "gateway", proves_life=False),
    )  # fmt: skip
    line = Connection("radio", driver, "rf_serial", CONTEXT, open=opened)
    got = b""
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(supervisor.run([line]))
        for _ in range(2):
            await far.write(MOTION)
            got += await far.read()
        await far.write(simulator.line("HB", "0A1B2C3D", "-98", "0", "0") + MOTION)
        got += await far.read()
        running.cancel()
    events = await store.events(EventFilter())
    await store.close()

    assert got == b"$PFKRF,AK,0A1B2C3D,00000001,C350*33\r\n" * 3
    assert [(event.device, event.kind, event.code) for event in events] == [("ev1527-80650", Kind.BURGLARY, "80650A")]
    assert windows == {"rf-1": 180.0, "ev1527-80650": None}


# -- bad days ----------------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("rf_serial", "silence")
async def test_a_silent_receiver_is_waited_for_on_an_open_line(tmp_path: Path) -> None:
    """That nothing is heard any more is health's to notice."""
    async with bench(tmp_path) as line:
        await line.receiver.do("silent")
        await RealClock().sleep(0.5)
        opened = len(line.opened)
        await line.receiver.do("back")
        await line.receiver.do("burglary", zone=1)
        await line.all_acknowledged(1)

        assert len(line.opened) == opened


@pytest.mark.driver_story("rf_serial", "slow peer")
async def test_a_line_that_comes_byte_by_byte_is_one_event_and_one_answer(jumping_clock: JumpingClock) -> None:
    near, far = memory_pair(read_bytes_max=1)
    desk = Desk(is_prompt=True)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(driver.run(desk.session(near, CONTEXT, jumping_clock)))
        await far.write(MOTION)
        answer = await far.read()
        running.cancel()

    assert [seen.kind for seen in desk.reported] == [Kind.BURGLARY]
    assert answer.startswith(b"$")


@pytest.mark.driver_story("rf_serial", "flood")
async def test_a_receiver_that_floods_leaves_its_neighbours_their_turn() -> None:
    """5 000 lines as fast as the kernel carries them: all are read, and the loop is never held up."""
    count, clock, turns, served = 5_000, RealClock(), 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write() -> None:
            for _ in range(count // 100):
                writer.write(MOTION * 100)
                await writer.drain()
            writer.write_eof()

        async def read() -> None:
            while await reader.read(65536):
                pass

        await asyncio.gather(write(), read())
        writer.close()
        await writer.wait_closed()
        served.set()

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await clock.sleep(0)
            turns += 1

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    desk = Desk(is_prompt=True)
    async with server, asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        other = tasks.create_task(neighbour())
        async with closing(dial(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as link:
            with suppress(LinkClosed):
                await driver.run(desk.session(link, CONTEXT, clock))
        await served.wait()
        other.cancel()

    assert len(desk.reported) == count
    assert turns > count * len(MOTION) // 4096 // 2
