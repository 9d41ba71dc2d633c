"""A bad line between two parties that know nothing of it: a TCP proxy and a serial bridge with seeded faults."""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tty
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from simulators._clock import Clock, RealClock
from simulators._control import CommandError, ControlSocket
from simulators._net import host_and_port, reset, stop_listening
from simulators._tasks import Tasks

# What is held at once per direction; the sender waits while the other side does not take it.
CHUNK_BYTES = 4096
# Between the halves of a cut write, so that they arrive as two reads.
CUT_PAUSE_S = 0.005
# An hour is longer than any timeout under test.
DELAY_MAX_S = 3600.0
# Simulated districts have hundreds of devices; more is a connection leak.
CONNECTIONS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Faults:
    """What a line does to what passes. Shares are of chunks (one read of up to 4096 bytes), 0.0 to 1.0."""

    delay_s: float = 0.0  # every chunk waits this long, one after the other
    jitter_s: float = 0.0  # and up to this much more
    drop: float = 0.0  # share at which the connection is reset (serial: unplugged) instead
    cut_write: float = 0.0  # share written in two, at a random byte
    flip_bit: float = 0.0  # share with one bit turned over
    lose_answer: float = 0.0  # share of what comes back from the connected side that vanishes
    refuse: bool = False  # new connections are reset at once

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s"):
            if not 0.0 <= getattr(self, name) <= DELAY_MAX_S:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0.0..{DELAY_MAX_S}")
        for name in ("drop", "cut_write", "flip_bit", "lose_answer"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0.0..1.0")


def faults_from(wish: Mapping[str, Any], before: Faults) -> Faults:
    """The faults with some of them changed; ValueError names the wrong key or value."""
    known = {field.name for field in fields(Faults)}
    for name, value in wish.items():
        if name not in known:
            raise ValueError(f"unknown fault {name!r}: expected {', '.join(sorted(known))}")
        wanted = bool if name == "refuse" else (int, float)
        if not isinstance(value, wanted) or (name != "refuse" and isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}, expected {'true or false' if name == 'refuse' else 'a number'}")
    return replace(before, **wish)


_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Line:
    """What the proxy and the bridge have in common: the faults in force and the two pumps of a connection."""

    def __init__(self, *, faults: Faults, seed: int, clock: Clock | None) -> None:
        self.faults = faults
        self._seed = seed
        self._clock = clock or RealClock()
        self._joined = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks = Tasks()

    def freeze(self) -> None:
        """Half-open: both sides stay connected, nothing passes, not even a hang-up."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let pass again, beginning with what was held."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection (serial: pull the plug)."""
        self._tasks.cancel()

    def status(self) -> dict[str, Any]:
        """Faults and connections as the control socket reports them."""
        return {"faults": asdict(self.faults), "frozen": not self._flowing.is_set(), "connections": len(self._tasks)}

    async def obey(self, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out one command of the control socket."""
        match dict(wish):
            case {"faults": dict() as changed}:
                self.faults = faults_from(changed, self.faults)
            case {"cut": True}:
                self.cut()
            case {"freeze": True}:
                self.freeze()
            case {"thaw": True}:
                self.thaw()
            case {"status": True}:
                pass
            case _:
                raise CommandError('expected {"faults": {...}} or one of cut, freeze, thaw, status set to true')
        return self.status()

    async def _join(self, asking: _End, answering: _End) -> bool:
        """Pass bytes both ways until both have hung up; false when the connection broke instead."""
        self._joined += 1
        there, back = (random.Random(f"{self._seed}/{self._joined}/{way}") for way in ("there", "back"))
        whole = True
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(asking[0], answering[1], there, answers=False), name="there")
                pumps.create_task(self._pump(answering[0], asking[1], back, answers=True), name="back")
        except* OSError:
            whole = False
        return whole

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dice: random.Random, *, answers: bool
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            pause_s = self.faults.delay_s + self.faults.jitter_s * dice.random()
            if pause_s:
                await self._clock.sleep(pause_s)
            await self._flowing.wait()
            faults = self.faults
            if dice.random() < faults.drop:
                raise ConnectionResetError("the dice said that the connection ends here")
            if answers and dice.random() < faults.lose_answer:
                continue
            if dice.random() < faults.flip_bit:
                chunk = _flipped(chunk, dice)
            await self._write(writer, chunk, dice if dice.random() < faults.cut_write else None)
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()

    async def _write(self, writer: asyncio.StreamWriter, chunk: bytes, cut_by: random.Random | None) -> None:
        if cut_by is not None and len(chunk) > 1:
            at = cut_by.randrange(1, len(chunk))
            writer.write(chunk[:at])
            await writer.drain()
            await self._clock.sleep(CUT_PAUSE_S)
            chunk = chunk[at:]
        writer.write(chunk)
        await writer.drain()


def _flipped(chunk: bytes, dice: random.Random) -> bytes:
    bit = dice.randrange(8 * len(chunk))
    damaged = bytearray(chunk)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


class TcpProxy(_Line):
    """Listens at ``listen`` and passes every connection on to ``connect`` (both HOST:PORT); ``async with`` runs it."""

    def __init__(
        self,
        *,
        connect: str,
        listen: str = "127.0.0.1:0",
        faults: Faults = Faults(),
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(faults=faults, seed=seed, clock=clock)
        self._listen = host_and_port(listen)
        self._target = host_and_port(connect)
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, *self._listen, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await stop_listening(self._server)
        await self._tasks.__aexit__(*error)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.refuse or len(self._tasks) >= CONNECTIONS_MAX or not self._server.is_serving():
            reset(writer)
            return
        self._tasks.start(self._serve((reader, writer)), name="proxy connection")

    async def _serve(self, asking: _End) -> None:
        ends = [asking]
        whole = False
        try:
            await self._flowing.wait()
            answering = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)
            ends.append(answering)
            whole = await self._join(asking, answering)
        except OSError:
            pass  # nobody listens over there; the asking side sees a reset
        finally:
            for _, writer in ends:
                if whole:
                    writer.close()
                else:
                    reset(writer)
            for _, writer in ends:
                with suppress(OSError):
                    await writer.wait_closed()


class SerialBridge(_Line):
    """Two pseudo terminals joined by a bad wire: the device opens ``left``, the gateway ``right`` (or the reverse).

    What comes from ``right`` counts as the answer. With ``links`` the two paths are symbolic links that stay the
    same when the plug is pulled (``cut``) and put back (``plug``).
    """

    def __init__(
        self,
        *,
        links: tuple[Path, Path] | None = None,
        faults: Faults = Faults(),
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(faults=faults, seed=seed, clock=clock)
        self._links = links
        self.left = self.right = Path()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self.plug()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._tasks.__aexit__(*error)

    async def plug(self) -> None:
        """Put the wire back after ``cut``: two fresh pseudo terminals, at the same paths when there are links."""
        await self._tasks.end()
        with ExitStack() as stack:
            left, left_path = await _pseudo_terminal(stack)
            right, right_path = await _pseudo_terminal(stack)
            if self._links is not None:
                for link, path in zip(self._links, (left_path, right_path), strict=True):
                    _link(link, path)
                    stack.callback(link.unlink, missing_ok=True)
            self.left, self.right = self._links or (left_path, right_path)
            task = self._tasks.start(self._serve(left, right), name="serial bridge")
            pull = stack.pop_all().close
        task.add_done_callback(lambda _: pull())

    async def _serve(self, left: _End, right: _End) -> None:
        await self._join(left, right)


async def _pseudo_terminal(stack: ExitStack) -> tuple[_End, Path]:
    """A raw pseudo terminal: our end as streams, the other one as a path."""
    ours, theirs = os.openpty()
    stack.callback(os.close, theirs)  # held open by us too: a user who closes it is no hang-up
    tty.setraw(theirs)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    read_end, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(os.dup(ours), "rb", 0))
    stack.callback(read_end.close)
    # The stream protocol on the writing side only serves flow control; nothing is ever read there.
    writing = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    write_end, _ = await loop.connect_write_pipe(lambda: writing, os.fdopen(ours, "wb", 0))
    stack.callback(write_end.abort)
    return (reader, asyncio.StreamWriter(write_end, writing, None, loop)), Path(os.ttyname(theirs))


def _link(link: Path, path: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(path)


async def _run(line: TcpProxy | SerialBridge, control: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(line)
        socket = await stack.enter_async_context(ControlSocket(control, line.obey)) if control else None
        where = (
            {"port": line.port} if isinstance(line, TcpProxy) else {"left": str(line.left), "right": str(line.right)}
        )
        print(json.dumps({"ready": True, **where, "control": socket and socket.address}), flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one proxy or one bridge until SIGTERM or SIGINT; exit code 2 when the command line makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m simulators.faults", description=__doc__)
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0")
    parser.add_argument("--connect", metavar="HOST:PORT", help="where TCP connections are passed on to")
    parser.add_argument("--serial", nargs=2, type=Path, metavar=("LEFT", "RIGHT"), help="links to pseudo terminals")
    parser.add_argument("--faults", default="{}", metavar="JSON", help='such as {"delay_s": 0.2, "cut_write": 0.3}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", metavar="PORT|HOST:PORT|PATH", help="control socket; loopback or a UNIX path")
    options = parser.parse_args(arguments)
    if (options.connect is None) == (options.serial is None):
        parser.error("give either --connect HOST:PORT or --serial LEFT RIGHT")
    try:
        faults = faults_from(json.loads(options.faults), Faults())
        line: TcpProxy | SerialBridge
        if options.connect:
            line = TcpProxy(listen=options.listen, connect=options.connect, faults=faults, seed=options.seed)
        else:
            line = SerialBridge(links=tuple(options.serial), faults=faults, seed=options.seed)
        asyncio.run(_run(line, options.control))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
