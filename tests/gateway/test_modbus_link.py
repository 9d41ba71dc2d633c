"""The bus: judged by pymodbus' own server for what is said, by simulated slaves for what goes wrong."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.clock import RealClock
from gateway.driver import BusRefused, FrameError, LinkClosed, NoAnswer
from gateway.errors import ConfigError
from gateway.links.modbus import HEARD_MAX_BYTES, SILENT_REQUESTS_MAX, Line, line
from gateway.metrics import Metrics
from tests.conftest import tool
from tests.modbus_bench import TCP, WAIT_S, bus_on, running, slave, url_of, world


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("modbus+tcp://10.0.0.9", Line("tcp", "10.0.0.9", 502, 0.3)),
        ("modbus+tcp://[::1]:1502?timeout_ms=50", Line("tcp", "::1", 1502, 0.05)),
        ("modbus+rtu:///dev/ttyS1", Line("rtu", "/dev/ttyS1", 0, 0.2, 9600, "N", 1)),
        (
            "modbus+rtu:///dev/ttyS1?baud=19200&parity=e&stop=2&timeout_ms=80",
            Line("rtu", "/dev/ttyS1", 0, 0.08, 19200, "E", 2),
        ),
    ],
)
def test_a_url_names_a_line(url: str, expected: Line) -> None:
    assert line(url) == expected


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("modbus+tcp://10.0.0.9?baud=9600", "baud"),
        ("modbus+tcp://?timeout_ms=1", "timeout_ms=1; expected a whole number from 10 to 10000"),
        ("modbus+rtu:///dev/ttyS1?parity=X", "N, E or O"),
        ("modbus+rtu://dev/ttyS1", "modbus+rtu:///dev/ttyS1"),
        ("modbus+rtu:///dev/ttyS1?baud=many", "baud=many"),
        ("modbus+tcp://", "no host"),
    ],
)
async def test_a_wrong_url_is_refused_with_what_was_expected(url: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with bus_on(url):
            pass

    assert word in str(caught.value)
    assert "connection.line1.link" in str(caught.value)


# -- judged by somebody else's server --------------------------------------------------------------------------------------


def foreign_device() -> SimDevice:
    return SimDevice(
        id=17,
        simdata=(
            [SimData(0, values=[True, False, True] + [False] * 13, datatype=DataType.BITS)],
            [
                SimData(
                    0,
                    values=[False, False, True, False, False, False, False, True] + [True] * 8,
                    datatype=DataType.BITS,
                )
            ],
            [SimData(0, values=[0x1234, 0xFFFE, 3, 4], datatype=DataType.REGISTERS)],
            [SimData(0, values=[2304, 136], datatype=DataType.REGISTERS)],
        ),
    )


@asynccontextmanager
async def foreign_server() -> AsyncIterator[int]:
    server = ModbusTcpServer(foreign_device(), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def read_everything(url: str) -> None:
    async with bus_on(url) as bus:
        assert await bus.read(17, "coil", 0, 3) == [1, 0, 1]
        assert await bus.read(17, "discrete_input", 0, 10) == [0, 0, 1, 0, 0, 0, 0, 1, 1, 1]
        assert await bus.read(17, "discrete_input", 2, 1) == [1]
        assert await bus.read(17, "holding_register", 0, 2) == [0x1234, 0xFFFE]
        assert await bus.read(17, "input_register", 0, 2) == [2304, 136]
        await bus.write(17, "holding_register", 1, [7, 65535])
        await bus.write(17, "coil", 1, [1, 1])
        assert await bus.read(17, "holding_register", 0, 4) == [0x1234, 7, 65535, 4]
        assert await bus.read(17, "coil", 0, 3) == [1, 1, 1]
        with pytest.raises(BusRefused) as caught:
            await bus.read(17, "holding_register", 500, 1)
        assert caught.value.code == 2


async def test_a_foreign_tcp_server_is_read_and_written() -> None:
    async with foreign_server() as port:
        await read_everything(f"modbus+tcp://127.0.0.1:{port}")


@pytest.mark.full
async def test_a_foreign_rtu_server_is_read_and_written(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    socat = await asyncio.create_subprocess_exec(
        tool("socat"), f"pty,raw,echo=0,link={ours}", f"pty,raw,echo=0,link={theirs}"
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while not (ours.exists() and theirs.exists()):
                await RealClock().sleep(0.01)
        server = ModbusSerialServer(foreign_device(), port=str(theirs), baudrate=9600)
        await server.serve_forever(background=True)
        try:
            await read_everything(f"modbus+rtu://{ours}?timeout_ms=500")
        finally:
            await server.shutdown()
    finally:
        socat.terminate()
        await socat.wait()


# -- RTU: the silence between frames, and what it leaves of the line ------------------------------------------------------


def wire_s(baud: int) -> float:
    """What a read of 10 registers takes on the line: 8 and 25 bytes of 11 bits, and the silence before each frame (Modbus over
    Serial Line V1.02, clause 2.5.1.1)."""
    return (8 + 25) * 11 / baud + 2 * (0.00175 if baud > 19_200 else 3.5 * 11 / baud)


async def reads_s(folder: Path, baud: int, count: int) -> list[float]:
    """The length of each of so many reads on a pseudo terminal whose slave keeps the baud rate."""
    address = f"modbus+rtu://{folder}/{baud}?baud={baud}"
    one = slave(address, world(), model="fence8")
    took, clock = [], RealClock()
    async with running(one), bus_on(f"{address}&timeout_ms=2000") as bus:
        await bus.read(1, "input_register", 0, 10)
        for _ in range(count):
            began_s = clock.monotonic()
            await bus.read(1, "input_register", 0, 10)
            took.append(clock.monotonic() - began_s)
    return took


async def test_rtu_keeps_the_silence_between_an_answer_and_the_next_request(tmp_path: Path) -> None:
    assert sum(await reads_s(tmp_path, 4800, 8)) >= 8 * wire_s(4800)


@pytest.mark.full
@pytest.mark.parametrize(("baud", "share"), [(9600, 0.9), (19_200, 0.9), (115_200, 0.8)])
async def test_reads_of_ten_registers_use_the_wire(tmp_path: Path, baud: int, share: float) -> None:
    """The best of three rounds: another program's turn on this machine is not the line's."""
    best_s = min([median(await reads_s(tmp_path, baud, 40)) for _ in range(3)])
    print(f"{baud} baud: {wire_s(baud) / best_s:.0%} of the wire ({best_s * 1000:.2f} ms a read)")

    assert wire_s(baud) / best_s >= share


# -- one dead unit is not a dead line ------------------------------------------------------------------------------------


@pytest.mark.driver_story("modbus_points", "silence")
async def test_a_silent_unit_leaves_the_line_open_for_its_neighbour() -> None:
    here, metrics = world(), Metrics()
    dead, alive = slave(TCP, here, "dead"), slave(TCP, here, "alive")
    async with running(dead, alive), bus_on(url_of(dead, 50), metrics) as bus:
        await dead.do("silent")
        with pytest.raises(NoAnswer, match="unit 1 did not answer within 50 ms"):
            await bus.read(1, "discrete_input", 0, 8)

        assert await bus.read(2, "discrete_input", 0, 8) == [1] * 8
        await dead.do("back")
        assert await bus.read(1, "discrete_input", 0, 8) == [1] * 8
    counted = {
        name: metrics.registry.get_sample_value("fangkong_bus_requests_total", {"connection": "line1", "outcome": name})
        for name in ("answered", "no_answer", "refused", "lost")
    }
    assert counted == {"answered": 2, "no_answer": 1, "refused": 0, "lost": 0}


async def test_a_gateway_that_says_its_target_is_silent_means_a_dead_unit() -> None:
    one = slave(TCP, world())
    async with running(one), bus_on(url_of(one)) as bus:
        await one.do("exception", zone=0x0B)
        with pytest.raises(NoAnswer, match="hangs on"):
            await bus.read(1, "coil", 0, 1)
        await one.do("exception", zone=6)
        with pytest.raises(BusRefused) as caught:
            await bus.read(1, "coil", 0, 1)
        assert caught.value.code == 6


async def test_nobody_there_and_a_server_that_leaves_are_a_closed_link() -> None:
    one = slave(TCP, world())
    async with running(one):
        opening = bus_on(url_of(one))
        bus = await opening.__aenter__()
        assert await bus.read(1, "coil", 0, 1) == [0]
    with pytest.raises(LinkClosed):
        await bus.read(1, "coil", 0, 1)
    await opening.__aexit__(None, None, None)
    with pytest.raises(LinkClosed, match="cannot open"):
        async with bus_on(url_of(one)):
            pass


async def test_a_tcp_line_on_which_nobody_answers_any_more_is_given_up() -> None:
    one = slave(TCP, world())
    await one.do("silent")
    async with running(one), bus_on(url_of(one, 10)) as bus:
        for _ in range(SILENT_REQUESTS_MAX + 1):
            with pytest.raises(NoAnswer):
                await bus.read(1, "coil", 0, 1)
        with pytest.raises(LinkClosed):
            await bus.read(1, "coil", 0, 1)


@pytest.mark.driver_story("modbus_points", "unplug")
async def test_a_pulled_serial_adapter_is_a_closed_link() -> None:
    ours, theirs = os.openpty()
    async with bus_on(f"modbus+rtu://{os.ttyname(theirs)}?timeout_ms=50") as bus:
        os.close(theirs)
        os.close(ours)
        with pytest.raises(LinkClosed):
            await bus.read(1, "coil", 0, 1)


# -- never somebody else's answer ------------------------------------------------------------------------------------------


@pytest.mark.driver_story("modbus_points", "slow peer")
@pytest.mark.parametrize("wire", ["tcp", "rtu"])
async def test_a_late_answer_is_not_taken_for_that_of_the_next_request(wire: str, tmp_path: Path) -> None:
    """Inputs 0-7 read 1, coils and words 0: an answer to the wrong request would be a wrong value."""
    here = world()
    connect = TCP if wire == "tcp" else f"modbus+rtu://{tmp_path / 'line'}"
    late = slave(connect, here, "late", late_s=0.15)
    other = slave(connect, here, "other")
    url = url_of(late, 100) if wire == "tcp" else f"{connect}?timeout_ms=100"
    async with running(late, other):
        if wire == "tcp":
            url = url_of(late, 100)
        async with bus_on(url) as bus:
            await late.do("late")
            for unit in (1, 2):
                with pytest.raises(NoAnswer):
                    await bus.read(1, "discrete_input", 0, 8)
                await late.do("back")
                try:
                    # The same unit, function and size: nothing but the transaction number or time tells them apart.
                    assert await bus.read(unit, "discrete_input", 16, 8) == [0] * 8
                except NoAnswer:
                    assert unit == 2, "the two answers ran into one another on the line"
                await late.do("late")


async def test_another_units_answer_is_no_answer() -> None:
    one = slave(TCP, world())
    async with running(one), bus_on(url_of(one, 50)) as bus:
        await one.do("wrong_unit")
        with pytest.raises(NoAnswer):
            await bus.read(1, "discrete_input", 0, 8)


class Unwilling(RealClock):
    """Does not sleep: for answers that are wrong but never late."""

    async def sleep(self, delay_s: float) -> None:
        return


@pytest.mark.driver_story("modbus_points", "garbage")
async def test_a_flipped_bit_on_rtu_is_never_a_value(tmp_path: Path) -> None:
    connect = f"modbus+rtu://{tmp_path / 'line'}"
    one = slave(connect, world())
    async with running(one), bus_on(f"{connect}?timeout_ms=10", clock=Unwilling()) as bus:
        await one.do("garble")
        for _ in range(60):
            with pytest.raises(NoAnswer):
                await bus.read(1, "discrete_input", 0, 15)
        await one.do("back")
        assert await bus.read(1, "discrete_input", 0, 15) == [1] * 15


Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def odd_server(answering: Answering) -> AsyncIterator[str]:
    """A TCP server that answers each request of 12 bytes as the test wants."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await answering(await reader.readexactly(12), writer)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda reader, writer: tasks.append(group.create_task(serve(reader, writer))), "127.0.0.1", 0
        )
        async with server:
            yield f"modbus+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout_ms=50"
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(
    ("answer", "then", "why"),
    [
        ("{tid} 0000 0004 01 01 01 FF", NoAnswer, "another function of the same size"),
        ("{tid} 0000 0005 01 03 02 00FF", NoAnswer, "another function"),
        ("{tid} 0000 0005 01 02 02 00FF", NoAnswer, "more bits than were asked for"),
        ("{tid} 0000 0003 01 02 00", NoAnswer, "no bits at all"),
        ("FFFF 0000 0004 01 02 01 FF", NoAnswer, "a transaction we never began"),
        ("{tid} 0000 0004 02 02 01 FF", NoAnswer, "another unit"),
        ("{tid} 0000 0002 01 63", NoAnswer, "a function that does not exist"),
        ("{tid} 0000 0003 01 83 02", NoAnswer, "an exception to another function"),
        ("{tid} 0001 0004 01 02 01 FF", LinkClosed, "not Modbus: protocol 1"),
        ("{tid} 0000 0000 01", LinkClosed, "an empty frame, and a byte of what"),
        ("5A" * 200, LinkClosed, "rubbish"),
    ],
)
async def test_what_does_not_answer_the_request_is_never_its_answer(
    answer: str, then: type[Exception], why: str
) -> None:
    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes.fromhex(answer.replace("{tid}", request[:2].hex())))

    async with odd_server(answering) as url, bus_on(url) as bus:
        with pytest.raises(then):
            await bus.read(1, "discrete_input", 0, 8)


async def test_a_line_told_to_stop_just_as_an_answer_comes_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that meets an answer half way is swallowed by the wait of pymodbus; it still counts."""

    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(request[:2] + bytes.fromhex("0000 0004 01 02 01 FF"))

    async with odd_server(answering) as url, bus_on(url) as bus, asyncio.TaskGroup() as group:
        asked = group.create_task(bus.read(1, "discrete_input", 0, 8))
        framed = bus._framer.handleFrame

        def stopped_meanwhile(*arrived: Any) -> Any:
            asked.cancel()
            return framed(*arrived)

        monkeypatch.setattr(bus._framer, "handleFrame", stopped_meanwhile)
        await asyncio.wait([asked])
        assert asked.cancelled()


BAD = {
    "garble": (NoAnswer, r"no answer to function 2, the CRC does not fit", "checksum"),
    "wrong_unit": (NoAnswer, r"unit 1 was asked: no answer to function 2", "malformed"),
    "exception": (BusRefused, r"exception 4 to function 2", "malformed"),
}
"""What a slave does wrong on either wire, and what is kept of it."""


@pytest.mark.parametrize(
    ("wire", "wrong"), [("tcp", "wrong_unit"), ("tcp", "exception"), *(("rtu", wrong) for wrong in BAD)]
)
async def test_the_bytes_of_a_bad_answer_are_shown(wire: str, wrong: str, tmp_path: Path) -> None:
    shown: list[tuple[bytes, FrameError]] = []
    raises, words, reason = BAD[wrong]
    connect = TCP if wire == "tcp" else f"modbus+rtu://{tmp_path / 'line'}"
    one = slave(connect, world())
    async with running(one):
        url = url_of(one) if wire == "tcp" else f"{connect}?timeout_ms=100"
        async with bus_on(url, reject=lambda raw, error: shown.append((raw, error))) as bus:
            assert await bus.read(1, "discrete_input", 0, 8) == [1] * 8
            assert shown == []
            await one.do(wrong)
            with pytest.raises(raises):
                await bus.read(1, "discrete_input", 0, 8)

    [(raw, error)] = shown
    assert re.search(words, str(error))
    assert error.reason == reason
    pdu = raw[7:] if wire == "tcp" else raw[1:-2]
    assert pdu == bytes.fromhex("82 04") if wrong == "exception" else len(pdu) == 3


async def test_an_exception_is_shown_once_and_half_an_answer_each_time() -> None:
    shown: list[bytes] = []
    answers = ["{tid} 0000 0003 01 82 02"] * 3 + ["{tid} 0000 0003 01 82 03", "{tid} 0000 0004 01"]

    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes.fromhex(answers.pop(0).replace("{tid}", request[:2].hex())))

    async with odd_server(answering) as url, bus_on(url, reject=lambda raw, _: shown.append(raw[2:])) as bus:
        for _ in range(4):
            with pytest.raises(BusRefused):
                await bus.read(1, "discrete_input", 0, 8)
        with pytest.raises(LinkClosed):
            await bus.read(1, "discrete_input", 0, 8)

    assert [raw.hex() for raw in shown] == ["00000003018202", "00000003018203", "0000000401"]


async def test_what_is_shown_of_a_flood_is_bounded() -> None:
    """Sixty frames of another unit where one answer was due."""
    shown: list[bytes] = []

    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        for _ in range(60):
            writer.write(request[:2] + bytes.fromhex("0000 0004 02 02 01 FF"))
            await writer.drain()
            await RealClock().sleep(0)

    async with odd_server(answering) as url, bus_on(url, reject=lambda raw, _: shown.append(raw)) as bus:
        with pytest.raises((NoAnswer, LinkClosed)):
            await bus.read(1, "discrete_input", 0, 8)

    assert [len(raw) for raw in shown] == [HEARD_MAX_BYTES]


async def test_half_an_answer_closes_the_line_since_a_stream_cannot_be_resynchronised() -> None:
    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(request[:2] + bytes.fromhex("0000 0004 01"))

    async with odd_server(answering) as url, bus_on(url) as bus:
        with pytest.raises(LinkClosed):
            await bus.read(1, "discrete_input", 0, 8)


async def test_one_request_is_on_the_wire_at_a_time() -> None:
    outstanding: list[int] = []

    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        outstanding.append(len(request))
        await RealClock().sleep(0.002)
        assert len(outstanding) == 1
        outstanding.clear()
        writer.write(request[:2] + bytes.fromhex("0000 0004 01 02 01 01"))

    async with odd_server(answering) as url, bus_on(url) as bus, asyncio.TaskGroup() as group:
        reads = [group.create_task(bus.read(1, "discrete_input", 0, 8)) for _ in range(10)]

    assert [task.result() for task in reads] == [[1, 0, 0, 0, 0, 0, 0, 0]] * 10


@pytest.mark.driver_story("modbus_points", "flood")
async def test_a_unit_that_never_stops_talking_is_no_answer_and_leaves_others_their_turn() -> None:
    clock, turns = RealClock(), 0

    async def answering(request: bytes, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for _ in range(200):
                writer.write(bytes.fromhex("ffff 0000 0003 09 03 00") * 1000)
                await writer.drain()

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await clock.sleep(0)
            turns += 1

    async with odd_server(answering) as url, asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        other = tasks.create_task(neighbour())
        async with bus_on(url) as bus:
            for _ in range(3):
                with pytest.raises((NoAnswer, LinkClosed)):
                    await bus.read(1, "discrete_input", 0, 8)
        other.cancel()
    assert turns > 100
