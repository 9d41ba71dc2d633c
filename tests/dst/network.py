"""The network between the forwarder and the centre: streams in memory that are late, in pieces, cut, or dead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.dst.weather import Weather

LATENCY_S = 0.03
SLOW_LATENCY_S = 2.5
LASTS_S = 30.0
"""A connection that is going to break does so within this time."""
HANGS_S = 120.0
"""What a SYN into a black hole waits for, if we let it."""


class FarSide(Protocol):
    """Who listens."""

    def connected(self, connection: Connection) -> None: ...

    def received(self, connection: Connection, data: bytes) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Flow:
    """One direction: bytes in order, each piece at its own moment."""

    def __init__(self, deliver: Callable[[bytes], None], dice: Random, latency_s: float, bytewise: bool) -> None:
        self._deliver = deliver
        self._dice = dice
        self._latency_s = latency_s
        self._bytewise = bytewise
        self._pieces: deque[tuple[bytes, Callable[[], None]]] = deque()
        self._last_s = 0.0
        self.is_cut = False

    def send(self, data: bytes, arrived: Callable[[], None] = lambda: None) -> None:
        """Pieces of `data` on their way; `arrived` is called when the last is there."""
        loop = asyncio.get_running_loop()
        cuts = sorted(self._cuts(len(data)))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            self._last_s = max(self._last_s, loop.time() + self._dice.uniform(0, self._latency_s))
            self._pieces.append((data[start:end], arrived if end == len(data) else lambda: None))
            loop.call_at(self._last_s, self._arrive)

    def _cuts(self, size: int) -> list[int]:
        if self._bytewise:
            return list(range(1, size))
        return self._dice.sample(range(1, size), min(size - 1, self._dice.choice((0, 0, 1, 3))))

    def _arrive(self) -> None:
        piece, arrived = self._pieces.popleft()
        if not self.is_cut:
            self._deliver(piece)
            arrived()


class Connection(asyncio.Transport):
    """The gateway's end is an asyncio transport, the far end is called back."""

    def __init__(self, number: int, far: FarSide, weather: Weather, dice: Random, tap: Callable[[bytes], None]) -> None:
        super().__init__()
        self.number = number
        self._loop = asyncio.get_running_loop()
        self._far = far
        self._tap = tap
        self._closed = False
        self.reader = asyncio.StreamReader(loop=self._loop)
        self._protocol = asyncio.StreamReaderProtocol(self.reader, loop=self._loop)
        latency_s = SLOW_LATENCY_S if dice.random() < weather.slow_network else LATENCY_S
        bytewise = dice.random() < weather.bytewise
        self._up = Flow(lambda data: far.received(self, data), dice, latency_s, bytewise)
        self._down = Flow(self.reader.feed_data, dice, latency_s, bytewise)
        self._protocol.connection_made(self)
        self.writer = asyncio.StreamWriter(self, self._protocol, self.reader, self._loop)
        if dice.random() < weather.breaks:
            self._loop.call_later(dice.uniform(0, LASTS_S), self.reset)
        if dice.random() < weather.freezes:
            self._loop.call_later(dice.uniform(0, LASTS_S), self._freeze)

    # -- the gateway's end ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:  # type: ignore[override]  # asyncio's stream hands over bytes
        if data and not self._closed:
            self._tap(bytes(data))
            self._up.send(bytes(data))

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """What was written may still arrive; what was to come does not."""
        if not self._closed:
            self._end(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass  # one answer of a hundred bytes per frame: the reader never asks

    # -- the far end ---------------------------------------------------------------------------------------------------

    def answer(self, data: bytes, arrived: Callable[[], None] = lambda: None) -> None:
        """From the centre; `arrived` when the gateway can read all of it."""
        if not self._closed:
            self._down.send(data, arrived)

    def hang_up(self) -> None:
        """The centre closes; what it had answered still arrives."""
        if not self._closed:
            self._down.send(b"\0", self._feed_end)  # asyncio knows no empty piece; rubbish is skipped

    def reset(self) -> None:
        """Both ends find the line dead."""
        if not self._closed:
            self._up.is_cut = True
            self._end(ConnectionResetError("connection reset by peer"))

    def _feed_end(self) -> None:
        if not self._closed:
            self._end(None)

    def _freeze(self) -> None:
        self._up.is_cut = self._down.is_cut = True

    def _end(self, error: Exception | None) -> None:
        self._closed = True
        self._down.is_cut = True
        self._loop.call_soon(self._protocol.connection_lost, error)
        self._far.lost(self)


class Network:
    """Opens connections for the forwarder of one life of the gateway."""

    def __init__(self, far: FarSide, weather: Weather, dice: Random, tap: Callable[[bytes], None]) -> None:
        self._far = far
        self._weather = weather
        self._dice = dice
        self._tap = tap
        self._open: list[Connection] = []
        self._count = 0
        self.is_down = False

    async def connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """`gateway.forwarders.Connect`."""
        await asyncio.sleep(self._dice.uniform(0, LATENCY_S))  # noqa: TID251  # the loop's time is simulated
        if self._dice.random() < self._weather.connect_hangs:
            await asyncio.sleep(HANGS_S)  # noqa: TID251  # as above
        if self.is_down or self._dice.random() < self._weather.connect_refused:
            raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
        self._count += 1
        connection = Connection(self._count, self._far, self._weather, self._dice, self._tap)
        self._open = [each for each in self._open if not each.is_closing()]
        self._open.append(connection)
        self._far.connected(connection)
        return connection.reader, connection.writer

    def outage(self, *, begins: bool) -> None:
        """The centre is gone, or back."""
        self.is_down = begins
        if begins:
            self.drop()

    def drop(self) -> None:
        """Reset what is open."""
        for connection in self._open:
            connection.reset()

    def forget(self) -> None:
        """The process at our end is gone: what it has sent travels on."""
        for connection in self._open:
            connection.abort()
