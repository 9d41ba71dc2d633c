"""Each fault seen from both ends of a line that otherwise passes everything unchanged."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import serial

from simulators import faults as faults_module
from simulators.faults import CHUNK_BYTES, Faults, SerialBridge, TcpProxy, faults_from

# Long enough that bytes which do pass would have passed: loopback needs well under a millisecond.
QUIET_S = 0.1


class FarSide:
    """A server that answers every read in capitals and remembers what each read brought."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.ended = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.byte_count = 0
        self.call_count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.call_count += 1
        with contextlib.suppress(OSError):
            await self.reading.wait()
            while chunk := await reader.read(65536):
                self.byte_count += len(chunk)
                self.reads.append(chunk)
                writer.write(chunk.upper())
                await writer.drain()
        self.ended.set()
        writer.close()


@contextlib.asynccontextmanager
async def line(**settings: Any) -> AsyncIterator[tuple[TcpProxy, FarSide]]:
    far = FarSide()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, TcpProxy(connect=target, **settings) as proxy:
        yield proxy, far


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, text: bytes) -> bytes:
        self.writer.write(text)
        async with asyncio.timeout(5):
            return await self.reader.readexactly(len(text))

    async def is_reset(self) -> bool:
        async with asyncio.timeout(5):
            try:
                await self.reader.read()
            except ConnectionResetError:
                return True
        return False

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(QUIET_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def called(proxy: TcpProxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_without_faults_everything_passes_both_ways_and_so_does_the_hang_up() -> None:
    async with line() as (proxy, far), called(proxy) as caller:
        assert await caller.ask(b"alarm") == b"ALARM"
        caller.writer.write_eof()
        async with asyncio.timeout(5):
            await far.ended.wait()
            assert await caller.reader.read() == b""


async def test_delay_and_jitter_are_waited_for_each_chunk() -> None:
    slept: list[float] = []

    class Noting:
        def now(self) -> float:
            return 0.0

        monotonic = now

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    async with line(faults=Faults(delay_s=0.2, jitter_s=0.1), clock=Noting()) as (proxy, _), called(proxy) as caller:
        await caller.ask(b"alarm")

    assert len(slept) == 2  # there and back
    assert all(0.2 <= seconds < 0.3 for seconds in slept)


async def test_a_cut_write_arrives_in_two_pieces() -> None:
    async with line(faults=Faults(cut_write=1.0)) as (proxy, far), called(proxy) as caller:
        assert await caller.ask(b"0123456789") == b"0123456789"

    assert len(far.reads) == 2
    assert b"".join(far.reads) == b"0123456789"


async def test_a_flipped_bit_is_exactly_one() -> None:
    async with line(faults=Faults(flip_bit=1.0)) as (proxy, far), called(proxy) as caller:
        sent = bytes(40)
        await caller.ask(sent)

    assert sum(byte.bit_count() for byte in far.reads[0]) == 1


async def test_a_lost_answer_means_that_the_question_arrived() -> None:
    async with line(faults=Faults(lose_answer=1.0)) as (proxy, far), called(proxy) as caller:
        caller.writer.write(b"first")
        assert await caller.hears_nothing()
        assert far.reads == [b"first"]
        proxy.faults = Faults()
        assert await caller.ask(b"again") == b"AGAIN"


async def test_drop_resets_both_sides() -> None:
    async with line(faults=Faults(drop=1.0)) as (proxy, far), called(proxy) as caller:
        caller.writer.write(b"alarm")
        assert await caller.is_reset()
        async with asyncio.timeout(5):
            await far.ended.wait()
    assert far.reads == []


async def test_cut_resets_what_is_open_and_lets_new_connections_in() -> None:
    async with line() as (proxy, _):
        async with called(proxy) as caller:
            await caller.ask(b"alarm")
            proxy.cut()
            assert await caller.is_reset()
        async with called(proxy) as caller:
            assert await caller.ask(b"again") == b"AGAIN"


async def test_refuse_resets_new_connections_only() -> None:
    async with line() as (proxy, _), called(proxy) as caller:
        await caller.ask(b"alarm")
        proxy.faults = Faults(refuse=True)
        with contextlib.suppress(ConnectionResetError):
            async with called(proxy) as refused:
                assert await refused.is_reset()
        assert await caller.ask(b"again") == b"AGAIN"


@pytest.mark.parametrize("last_words", [b"again", b""], ids=["said before", "nothing said"])
async def test_a_frozen_line_passes_nothing_not_even_the_hang_up(last_words: bytes) -> None:
    async with line() as (proxy, far), called(proxy) as caller:
        await caller.ask(b"alarm")
        proxy.freeze()
        caller.writer.write(last_words)
        caller.writer.write_eof()
        assert await caller.hears_nothing()
        assert (far.reads, far.ended.is_set()) == ([b"alarm"], False)
        proxy.thaw()
        async with asyncio.timeout(5):
            assert await caller.reader.read() == last_words.upper()
            await far.ended.wait()


async def test_a_connection_made_while_frozen_waits_too() -> None:
    async with line() as (proxy, far):
        proxy.freeze()
        async with called(proxy) as caller:
            caller.writer.write(b"alarm")
            assert await caller.hears_nothing()
            assert far.call_count == 0
            proxy.thaw()
            async with asyncio.timeout(5):
                assert await caller.reader.readexactly(5) == b"ALARM"


async def test_nobody_listening_behind_the_proxy_is_a_reset() -> None:
    async with line() as (proxy, _):
        pass
    async with TcpProxy(connect=f"127.0.0.1:{proxy.port}") as alone, called(alone) as caller:
        assert await caller.is_reset()


async def test_leaving_ends_every_open_connection() -> None:
    async with line() as (proxy, _), called(proxy) as caller:
        await caller.ask(b"alarm")
        async with asyncio.timeout(5):
            await proxy.__aexit__(None, None, None)
        assert await caller.is_reset()


async def test_the_same_seed_does_the_same_damage() -> None:
    async def damaged(seed: int) -> list[bytes]:
        # Question and answer in turn, so that each chunk is one message.
        async with line(faults=Faults(flip_bit=0.5, cut_write=0.0), seed=seed) as (proxy, far), called(proxy) as caller:
            for _ in range(20):
                await caller.ask(bytes(8))
        return far.reads

    assert await damaged(7) == await damaged(7)
    assert await damaged(7) != await damaged(8)


async def test_a_side_that_does_not_read_stops_the_other_instead_of_filling_memory() -> None:
    size = 64 * 1024 * 1024
    async with line() as (proxy, far), called(proxy) as caller:
        far.reading.clear()
        caller.writer.write(bytes(size))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await caller.writer.drain()
        # What has left the caller is what the kernel's socket buffers took.
        assert caller.writer.transport.get_write_buffer_size() > size / 2
        far.reading.set()
        received = 0
        async with asyncio.timeout(20):
            while received < size:
                received += len(await caller.reader.read(65536))
        assert far.byte_count == size


async def test_connections_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults_module, "CONNECTIONS_MAX", 1)
    async with line() as (proxy, _), called(proxy) as caller:
        await caller.ask(b"alarm")
        with contextlib.suppress(ConnectionResetError):
            async with called(proxy) as refused:
                assert await refused.is_reset()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"dely_s": 1}, "unknown fault 'dely_s': expected cut_write, delay_s"),
        ({"delay_s": "1"}, "delay_s is '1', expected a number"),
        ({"delay_s": True}, "delay_s is True, expected a number"),
        ({"delay_s": -1}, "delay_s is -1, expected 0.0..3600.0"),
        ({"jitter_s": 3601.0}, "jitter_s is 3601.0, expected 0.0..3600.0"),
        ({"drop": 2}, r"drop is 2, expected 0.0..1.0"),
        ({"refuse": 1}, "refuse is 1, expected true or false"),
    ],
)
def test_a_wrong_fault_is_named(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        faults_from(wish, Faults())


# -- the serial bridge ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path) -> Any:
    with serial.Serial(str(path), 9600, timeout=5) as port:
        yield port


async def test_the_bridge_joins_two_serial_ports() -> None:
    every_byte = bytes(range(256))
    async with SerialBridge() as bridge:
        with opened(bridge.left) as device, opened(bridge.right) as gateway:
            device.write(every_byte)
            assert await asyncio.to_thread(gateway.read, 256) == every_byte
            gateway.write(every_byte)
            assert await asyncio.to_thread(device.read, 256) == every_byte


async def test_the_bridge_loses_answers_flips_bits_and_freezes() -> None:
    async with SerialBridge(faults=Faults(lose_answer=1.0, flip_bit=1.0)) as bridge:
        with opened(bridge.left) as device, opened(bridge.right) as gateway:
            device.write(bytes(8))
            asked = await asyncio.to_thread(gateway.read, 8)
            assert sum(byte.bit_count() for byte in asked) == 1
            gateway.write(b"\x06")
            device.timeout = QUIET_S
            assert await asyncio.to_thread(device.read, 1) == b""
            bridge.faults = Faults()
            bridge.freeze()
            gateway.write(b"\x15")
            assert await asyncio.to_thread(device.read, 1) == b""
            bridge.thaw()
            device.timeout = 5
            assert await asyncio.to_thread(device.read, 1) == b"\x15"


async def test_a_pulled_plug_is_an_error_and_comes_back_at_the_same_path(tmp_path: Path) -> None:
    links = tmp_path / "device", tmp_path / "gateway"
    async with SerialBridge(links=links) as bridge:
        with opened(bridge.right) as gateway:
            bridge.cut()
            with pytest.raises((serial.SerialException, OSError)):
                await asyncio.to_thread(gateway.read, 1)
        await bridge.plug()
        with opened(links[0]) as device, opened(links[1]) as gateway:
            device.write(b"alarm")
            assert await asyncio.to_thread(gateway.read, 5) == b"alarm"
    assert not any(os.path.lexists(link) for link in links)


async def test_the_bridge_holds_one_chunk_and_lets_the_writer_wait() -> None:
    async with SerialBridge() as bridge:
        device = os.open(bridge.left, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            taken, refusals = 0, 0
            while refusals < 50 and taken < 1024 * 1024:
                try:
                    taken += os.write(device, bytes(CHUNK_BYTES))
                except BlockingIOError:
                    refusals += 1
                    await asyncio.sleep(0)  # noqa: TID251 - gives the bridge a turn, waits for nothing
        finally:
            os.close(device)

    # Two terminals' kernel buffers, the reader's two chunks and the writer's water mark.
    assert taken < 256 * 1024


# -- the command line ----------------------------------------------------------------------------------------------


async def test_the_command_line_runs_a_proxy_that_obeys_its_control_socket() -> None:
    far = FarSide()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.faults", "--connect", f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "--seed", "7", "--faults", '{"lose_answer": 1.0}', "--control", "0",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with server, asyncio.timeout(20):
        ready = json.loads(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", ready["control"])

        async def told(command: str) -> Any:
            writer.write(command.encode() + b"\n")
            return json.loads(await reader.readline())

        assert (await told('{"status": true}'))["faults"]["lose_answer"] == 1.0
        assert (await told('{"faults": {"lose_answer": 0, "delay_s": 0.01}}'))["faults"]["delay_s"] == 0.01
        assert (await told('{"freeze": true}'))["frozen"] is True
        assert (await told('{"thaw": true}'))["frozen"] is False
        assert "one of cut, freeze, thaw, status" in (await told('{"melt": true}'))["error"]
        near_reader, near_writer = await asyncio.open_connection("127.0.0.1", ready["port"])
        caller = Caller(near_reader, near_writer)
        assert await caller.ask(b"alarm") == b"ALARM"
        assert (await told('{"cut": true}'))["ok"] is True
        assert await caller.is_reset()
        near_writer.close()
        writer.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_a_wrong_command_line_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        faults_module.main([])

    assert left.value.code == 2
    assert "give either --connect HOST:PORT or --serial LEFT RIGHT" in capsys.readouterr().err
