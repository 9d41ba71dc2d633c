"""GNSS receivers: sentences beside another implementation, moments merged, and the bad days of a line."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from pynmeagps import NMEAReader

from drivers import nmea as driver
from drivers.nmea.sentences import SENTENCE_BYTES_MAX, checksum, read
from gateway.backoff import Backoff
from gateway.clock import RealClock
from gateway.driver import Context, FrameError, Kind, LinkClosed, Observation, Qualifier
from gateway.links.serial import open_serial
from gateway.links.tcp import dial
from simulators import nmea as simulator
from simulators._world import Ledger, Option, Spec, World
from tests.conftest import JumpingClock
from tests.driver_cases import Desk, Vector, closing
from tests.driver_cases import driver as vectors_of
from tests.memory import memory_pair

CONTEXT = Context(settings=driver.Settings(device="van-7"), connection="van-7")
WAIT_S = 20.0
RESUMED_WITHIN_S = 2.0
VECTORS = vectors_of("nmea").vectors


def sentence(text: str) -> bytes:
    return simulator.sentence(*text.split(","))


RMC = "GNRMC,{time},A,3149.3307,N,11706.9469,E,10.0,337.47,150127,,,A,V"
GGA = "GNGGA,{time},3149.3307,N,11706.9469,E,1,12,0.8,31.5,M,0.0,M,,"
GSA = "GNGSA,A,3,05,12,19,,,,,,,,,,1.7,0.9,1.4"
VTG = "GNVTG,337.47,T,,M,10.0,N,18.5,K,A"
VOID = "GNRMC,{time},V,3149.3307,N,11706.9469,E,10.0,337.47,150127,,,N,V"


async def told(clock: JumpingClock, *lines: str | bytes | float, settings: driver.Settings | None = None) -> Desk:
    """What the conversation makes of these sentences; a number is seconds that pass."""
    near, far = memory_pair()
    desk = Desk(is_prompt=True)
    context = Context(settings=settings or CONTEXT.settings)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        conversation = tasks.create_task(ended(driver.run(desk.session(near, context, clock))))
        for line in lines:
            if isinstance(line, float):
                await clock.advance(line)
            else:
                await far.write(sentence(line) if isinstance(line, str) else line)
                await clock.settle()
        await far.close()
        await conversation
    return desk


async def ended(conversation: Awaitable[None]) -> None:
    with suppress(LinkClosed):
        await conversation


def places(desk: Desk) -> list[Observation]:
    return [seen for seen in desk.reported if seen.kind is Kind.POSITION]


# -- beside another implementation -------------------------------------------------------------------------------------


@pytest.mark.peer("pynmeagps")
@pytest.mark.parametrize("vector", VECTORS, ids=[str(v.number) for v in VECTORS])
def test_pynmeagps_reads_the_same(vector: Vector) -> None:
    """Values field by field where both read them, and the same verdict about the checksum."""
    frame, context = vector.payload, vector.context
    if vector.is_error:
        with pytest.raises(FrameError):
            read(frame)
        return
    theirs = NMEAReader.parse(frame)
    (ours,) = driver.decode(frame, context)

    if ours.position is not None:
        assert ours.position.latitude == pytest.approx(theirs.lat, abs=2e-7)
        assert ours.position.longitude == pytest.approx(theirs.lon, abs=2e-7)
    if ours.at is not None:
        date = getattr(theirs, "date", None)
        if date:
            assert (ours.at.date(), ours.at.time().replace(microsecond=0)) == (date, theirs.time.replace(microsecond=0))
    for name, attribute in (("course", "cog"), ("course", "cogt"), ("hdop", "HDOP"), ("pdop", "PDOP"), ("altitude_m", "alt"),
                            ("satellites", "numSV"), ("quality", "quality")):  # fmt: skip
        if name in ours.values and hasattr(theirs, attribute):
            assert ours.values[name] == pytest.approx(float(getattr(theirs, attribute)))


@pytest.mark.peer("pynmeagps")
def test_the_checksum_is_that_of_pynmeagps() -> None:
    from pynmeagps.nmeahelpers import calc_checksum

    random = Random(7)
    for size in range(1, 250):
        body = bytes(random.randrange(0x20, 0x7F) for _ in range(size))

        assert f"{checksum(body):02X}" == calc_checksum(body.decode())


@pytest.mark.peer("pynmeagps")
def test_a_sentence_costs_no_more_than_with_pynmeagps() -> None:
    """Processor time of one run, each in turn, the best of five."""
    frames = [v.payload for v in VECTORS if not v.is_error]

    def cost(decode: Callable[[bytes], object]) -> float:
        before = time.process_time()
        for _ in range(20):
            for frame in frames:
                decode(frame)
        return time.process_time() - before

    ours, theirs = (
        min(costs)
        for costs in zip(
            *((cost(lambda frame: driver.decode(frame, CONTEXT)), cost(NMEAReader.parse)) for _ in range(5)),
            strict=True,
        )
    )

    assert ours <= theirs, f"{ours / theirs:.2f} times the cost"


# -- one moment, one position --------------------------------------------------------------------------------------------


async def test_the_sentences_of_one_moment_are_one_position(jumping_clock: JumpingClock) -> None:
    desk = await told(jumping_clock, *(line.format(time="083000.00") for line in (RMC, VTG, GGA, GSA)))

    (seen,) = desk.reported
    assert (seen.device, seen.kind, seen.code) == ("van-7", Kind.POSITION, "RMC+VTG+GGA+GSA")
    assert seen.at == datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
    assert seen.position is not None
    assert seen.position.speed_kmh == 18.52
    assert dict(seen.values) == {
        "fix": True, "course": 337.47, "mode": "A", "quality": 1, "satellites": 12, "hdop": 0.8, "pdop": 1.7,
        "altitude_m": 31.5, "dimensions": 3,
    }  # fmt: skip


async def test_a_moment_ends_with_the_next_one_and_positions_are_kept_now_and_then(jumping_clock: JumpingClock) -> None:
    lines: list[str | float] = []
    for second in range(31):
        lines += [RMC.format(time=f"0830{second:02d}.00"), GGA.format(time=f"0830{second:02d}.00"), 1.0]
    desk = await told(jumping_clock, *lines)

    assert [seen.at.second for seen in places(desk) if seen.at] == [0, 10, 20, 30]
    assert set(desk.heard) == {"van-7"}
    assert len(desk.heard) == 62


async def test_several_systems_at_once_are_one_position_and_all_together_count_most(
    jumping_clock: JumpingClock,
) -> None:
    single = RMC.format(time="083000.00").replace("GNRMC", "GPRMC").replace("3149.3307", "3149.9999")
    desk = await told(jumping_clock, single, RMC.format(time="083000.00"), single.replace("GPRMC", "GLRMC"))

    (seen,) = desk.reported
    assert seen.position is not None
    assert seen.position.latitude == pytest.approx(31 + 49.3307 / 60, abs=1e-6)


@pytest.mark.parametrize(
    "lines",
    [
        (VOID,),
        (VOID, GGA),
        (RMC, GGA.replace(",1,12,", ",0,00,")),
        (RMC, GGA.replace(",1,12,", ",8,12,")),
        (RMC.replace(",A,V", ",S,V"),),
        ("GNRMC,{time},A,,,,,10.0,337.47,150127,,,A,V",),
    ],
)
async def test_a_void_fix_gives_no_place_however_well_formed(
    jumping_clock: JumpingClock, lines: tuple[str, ...]
) -> None:
    desk = await told(jumping_clock, *(line.format(time="083000.00") for line in lines))

    (seen,) = desk.reported
    assert seen.position is None
    assert seen.values["fix"] is False
    assert not seen.values.keys() & {"course", "speed_kmh", "altitude_m"}


async def test_sentences_of_two_moments_make_no_position_together(jumping_clock: JumpingClock) -> None:
    """Of one second the RMC is lost, of the next the GGA."""
    desk = await told(jumping_clock, GGA.format(time="083000.00"), RMC.format(time="083001.00"))

    (seen,) = desk.reported
    assert (seen.code, seen.at) == ("GGA", None)


def test_a_lost_line_end_costs_one_sentence() -> None:
    first, second = (sentence(RMC.format(time=f"08300{n}.00")) for n in (1, 2))
    frames = list(driver.split(bytearray(first.rstrip() + second)))

    assert frames == [first.rstrip(), second]


async def test_moments_without_a_time_are_told_apart_too(jumping_clock: JumpingClock) -> None:
    """A receiver that knows no time yet."""
    desk = await told(jumping_clock, *["GNRMC,,V,,,,,,,,,,N", 11.0] * 3)

    assert [seen.at for seen in places(desk)] == [None] * 3


def test_a_position_without_a_sentence_that_dates_it_has_no_time() -> None:
    (seen,) = driver.decode(sentence(GGA.format(time="083000.00")), CONTEXT)

    assert (seen.kind, seen.at) == (Kind.POSITION, None)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (RMC.format(time="235960.00"), datetime(2027, 1, 15, 23, 59, 59, tzinfo=UTC)),  # a leap second
        (RMC.format(time="000000.00").replace("150127", "290228"), datetime(2028, 2, 29, tzinfo=UTC)),
        (RMC.format(time="000000.00").replace("150127", "290227"), None),
        (RMC.format(time="000000.00").replace("150127", "000000"), None),
        (RMC.format(time="000010.70").replace("150127", "050180"), datetime(1980, 1, 5, 0, 0, 10, 700000, tzinfo=UTC)),
    ],
)
def test_odd_dates_are_read_or_left_out(text: str, at: datetime | None) -> None:
    (seen,) = driver.decode(sentence(text), CONTEXT)

    assert seen.position is not None
    assert seen.at == at


async def test_the_antenna_is_news_once_also_when_it_is_told_every_second(jumping_clock: JumpingClock) -> None:
    cut, whole = b"$GPTXT,01,01,01,ANTENNA OPEN*25\r\n", sentence("GPTXT,01,01,01,ANTENNA OK")
    desk = await told(jumping_clock, whole, cut, cut, cut, whole, whole, sentence("GPTXT,01,01,02,ANTSTATUS=SHORT"))

    assert [(seen.kind, seen.qualifier, dict(seen.values)) for seen in desk.reported] == [
        (Kind.ANTENNA_CUT, Qualifier.NEW, {"antenna": "open"}),
        (Kind.ANTENNA_CUT, Qualifier.RESTORE, {"antenna": "ok"}),
        (Kind.ANTENNA_CUT, Qualifier.NEW, {"antenna": "short"}),
    ]


async def test_a_passive_antenna_is_never_cut(jumping_clock: JumpingClock) -> None:
    cut = b"$GPTXT,01,01,01,ANTENNA OPEN*25\r\n"
    desk = await told(jumping_clock, cut, settings=driver.Settings(device="van-7", antenna="passive"))

    assert desk.reported == []
    assert desk.heard == ["van-7"]


def test_a_sentence_longer_than_the_standard_is_read_and_one_without_bound_is_noise() -> None:
    long = sentence("GNGSA,A,3" + ",05" * 12 + ",1.7,0.9,1.4" + ",1" * 40)
    endless = b"$GNGSA," + b"1," * SENTENCE_BYTES_MAX
    buffer = bytearray(long + endless)

    assert len(long) > 82
    frames = list(driver.split(buffer))
    assert read(frames[0]).values == {"pdop": 1.7, "hdop": 0.9, "dimensions": 3}
    assert max(map(len, frames)) <= SENTENCE_BYTES_MAX
    assert len(buffer) < SENTENCE_BYTES_MAX
    with pytest.raises(FrameError):
        read(frames[1])


def test_rubbish_is_refused_and_nothing_else() -> None:
    """Random bytes, and sound sentences spoiled and given a right checksum again."""
    random = Random(11)
    good = [v.payload for v in VECTORS if not v.is_error]
    for _ in range(5000):
        body = bytearray(random.choice(good).rstrip(b"\r\n")[1:-3])
        for _ in range(random.randrange(1, 4)):
            body[random.randrange(len(body))] = random.choice(b"0123456789.,-AVNSEWxe")
        frame = sentence(body.decode())
        with suppress(FrameError):
            driver.decode(frame, CONTEXT)
    buffer = bytearray(random.randbytes(100_000))
    for frame in driver.split(buffer):
        with suppress(FrameError):
            driver.decode(frame, CONTEXT)


# -- bad days ------------------------------------------------------------------------------------------------------------


class HurriedClock:
    """Ten seconds of a simulator's time in one, but for its bursts' own times."""

    def __init__(self) -> None:
        self._real = RealClock()

    def now(self) -> float:
        return self._real.now().timestamp()

    def monotonic(self) -> float:
        return self._real.monotonic() * 10

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds / 10)


class Bench:
    """A receiver on a pseudo terminal and the gateway's half of the line, opened again whenever it is lost."""

    def __init__(self, folder: Path, **options: Option) -> None:
        self.desk = Desk(is_prompt=True)
        clock = HurriedClock()
        self.link = folder / "gnss0"
        spec = Spec("van-7", f"pty:{self.link}", options)
        self.receiver = simulator.make(spec, World(clock, Random(7), Ledger(clock)))
        self.opened: list[str] = []

    async def gateway(self) -> None:
        clock = RealClock()
        backoff = Backoff(Random(1), first_s=0.05, most_s=0.2)
        context = Context(settings=driver.Settings(device="van-7", every_s=1))
        while True:
            with suppress(LinkClosed):
                async with closing(open_serial(f"serial://{self.link}?baud=9600")) as link:
                    self.opened.append(os.path.realpath(self.link))
                    await driver.run(self.desk.session(link, context, clock))
            await clock.sleep(backoff.next_s())

    async def until(self, claim: Callable[[], bool], within_s: float = WAIT_S) -> None:
        clock = RealClock()
        async with asyncio.timeout(within_s):
            while not claim():
                await clock.sleep(0.01)

    def heard_again(self) -> Callable[[], bool]:
        """A claim: more was heard than until now."""
        before = len(self.desk.heard)
        return lambda: len(self.desk.heard) > before


@asynccontextmanager
async def bench(folder: Path, **options: Option) -> AsyncIterator[Bench]:
    one = Bench(folder, **options)
    async with asyncio.TaskGroup() as tasks:
        parts = [tasks.create_task(one.receiver.run()), tasks.create_task(one.gateway())]
        await one.until(lambda: bool(places(one.desk)))
        try:
            yield one
        finally:
            for part in parts:
                part.cancel()


@pytest.mark.driver_story("nmea", "unplug")
async def test_unplug_a_replugged_receiver_resumes_by_itself(tmp_path: Path) -> None:
    async with bench(tmp_path) as line:
        before = line.opened[-1]
        holder, other = os.openpty()  # takes the old number, as another adapter would
        await line.receiver.do("unplug")
        await line.until(lambda: not os.path.lexists(line.link))
        extra = os.openpty()
        await line.receiver.do("replug")
        await line.until(line.heard_again(), within_s=RESUMED_WITHIN_S)

        assert line.opened[-1] != before
        for fd in (holder, other, *extra):
            os.close(fd)


@pytest.mark.driver_story("nmea", "silence")
async def test_silence_is_waited_out_and_says_nothing(tmp_path: Path) -> None:
    """The line stays open; that nothing is heard any more is health's to notice."""
    async with bench(tmp_path) as line:
        await line.receiver.do("silent")
        opened = len(line.opened)
        await RealClock().sleep(0.5)
        reported = len(line.desk.reported)
        await RealClock().sleep(0.5)

        assert (len(line.opened), len(line.desk.reported)) == (opened, reported)
        await line.receiver.do("back")
        await line.until(line.heard_again())


@pytest.mark.driver_story("nmea", "garbage")
async def test_garbage_and_halves_cost_sentences_but_no_position_is_made_up(tmp_path: Path) -> None:
    async with bench(tmp_path, garbage=0.4, half=0.4, speed_kmh=50.0) as line:
        await line.until(lambda: bool(line.desk.rejected) and len(places(line.desk)) >= 3)

        for seen in places(line.desk):
            if seen.position is not None:
                assert seen.position.latitude == pytest.approx(37.5, abs=1e-6)
                assert seen.position.longitude == pytest.approx(121.4, abs=1e-6)


@pytest.mark.driver_story("nmea", "slow peer")
async def test_slow_peer_a_byte_at_a_time_says_the_same(jumping_clock: JumpingClock) -> None:
    whole = b"".join(sentence(line.format(time="083000.00")) for line in (RMC, GGA))
    desk = await told(jumping_clock, *(whole[at : at + 1] for at in range(len(whole))))

    (seen,) = places(desk)
    assert seen.code == "RMC+GGA"


@pytest.mark.driver_story("nmea", "flood")
async def test_flood_keeps_one_position_in_its_time_and_neighbours_get_their_turn(tmp_path: Path) -> None:
    """100 000 sentences as fast as the kernel carries them: the loop is never held up, and little is kept."""
    line = sentence(RMC.format(time="083000.00")) + sentence(RMC.format(time="083001.00"))
    served = asyncio.Event()

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(500):
            writer.write(line * 100)
            await writer.drain()
        writer.close()
        served.set()

    clock, turns = RealClock(), 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await clock.sleep(0)
            turns += 1

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    desk = Desk(is_prompt=True)
    async with server, asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        other = tasks.create_task(neighbour())
        context = Context(settings=driver.Settings(device="van-7", every_s=3600))
        async with closing(dial(f"tcp://127.0.0.1:{port}")) as link:
            await ended(driver.run(desk.session(link, context, clock)))
        other.cancel()
        await served.wait()

    assert len(desk.heard) == 100_000
    assert len(places(desk)) == 1
    assert turns > 500, "the neighbour waited for the flood"


async def test_a_receiver_dials_in_and_dials_again(tmp_path: Path) -> None:
    """The simulator over TCP, against a listener that hangs up once."""
    clock = HurriedClock()
    got: list[bytes] = []
    twice = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readline())
        writer.close()
        if len(got) > 1:
            twice.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    receiver = simulator.make(Spec("van-7", f"127.0.0.1:{port}"), World(clock, Random(7), Ledger(clock)))
    async with server, asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(receiver.run())
        await twice.wait()
        running.cancel()

    assert all(line.startswith(b"$GNRMC,") for line in got)


async def test_what_the_simulated_receiver_does_arrives(tmp_path: Path) -> None:
    async with bench(tmp_path) as line:

        def last() -> Observation:
            return places(line.desk)[-1]

        def speed_kmh() -> float:
            position = last().position
            return position.speed_kmh or 0.0 if position else 0.0

        await line.receiver.do("overspeed")
        await line.until(lambda: speed_kmh() > 80)
        await line.receiver.do("lose_fix")
        await line.until(lambda: last().values["fix"] is False)
        await line.receiver.do("find_fix")
        await line.until(lambda: last().values["fix"] is True)
        await line.receiver.do("antenna_cut")
        await line.receiver.do("park")
        await line.until(lambda: any(seen.kind is Kind.ANTENNA_CUT for seen in line.desk.reported))
        moment = last().at
        assert moment is not None
        assert abs(moment - datetime.now(UTC)) < timedelta(seconds=WAIT_S)  # noqa: TID251  # the simulator's own clock
    with pytest.raises(ValueError, match="cannot do"):
        await line.receiver.do("earthquake")
    with pytest.raises(ValueError, match="no zones"):
        await line.receiver.do("drive", zone=1)
