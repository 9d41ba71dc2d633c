"""The wire simulated Modbus slaves hang on: a listening port or a serial line, with units that come and go.

Written from Modbus Messaging on TCP/IP V1.0b and Modbus over Serial Line V1.02.
"""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import pack, unpack
from typing import Protocol
from urllib.parse import parse_qs, urlsplit
from weakref import WeakValueDictionary

from simulators._world import World


class OnWire(Protocol):
    """What the wire needs of a slave."""

    device: str
    mood: str
    """silent, late, wrong_unit, garble: how it misbehaves; anything else is nothing to the wire."""
    late_s: float

    def answer(self, pdu: bytes) -> bytes:
        """Function and data that go back for function and data of a request."""


_wires: WeakValueDictionary[tuple[World, str], Wire] = WeakValueDictionary()


def wire_of(connect: str, world: World) -> Wire:
    """The wire at that address, the same for everybody in this world."""
    wire = _wires.get((world, connect))
    if wire is None:
        _wires[world, connect] = wire = Wire(connect, world)
    return wire


class Wire:
    """A listening port or a serial line with its slaves, one exchange at a time on each connection."""

    def __init__(self, connect: str, world: World) -> None:
        self._url = urlsplit(connect)
        self._world = world
        self._baud = int(parse_qs(self._url.query).get("baud", ["0"])[0])
        self._given: dict[int, str] = {}
        self.units: dict[int, OnWire] = {}
        """Those that are running."""
        self.held = asyncio.Lock()
        self.opened = asyncio.Event()
        self.port = self._url.port or 0
        self.seen: list[bytes] = []
        """The last requests (unit, function, data), for a test to look at."""

    def join(self, slave: OnWire, wanted: int) -> int:
        """A unit number on this wire: the wanted one, or the lowest that is free."""
        unit = wanted or next(number for number in range(1, 248) if number not in self._given)
        if unit in self._given:
            raise ValueError(f"unit {unit} of {slave.device} is already {self._given[unit]} on this wire")
        self._given[unit] = slave.device
        return unit

    async def serve(self) -> None:
        """Keep the wire open until cancelled."""
        try:
            if self._url.scheme.removeprefix("modbus+") == "tcp":
                await self._serve_tcp()
            else:
                await self._serve_line()
        finally:
            self.opened.clear()

    async def _exchange(self, unit: int, pdu: bytes) -> tuple[int, bytes] | None:
        """Who answers what; None for silence. Takes as long as the slave takes."""
        self.seen = [*self.seen[-99:], bytes([unit]) + pdu]
        slave = self.units.get(unit)
        if slave is None or slave.mood == "silent":
            return None
        answer = slave.answer(pdu)
        mood = slave.mood
        if mood == "late":
            await self._world.clock.sleep(slave.late_s)
        if self._baud:
            # Both frames, and the silence by which the slave knew that the request was whole.
            gap_s = 0.00175 if self._baud > 19_200 else 3.5 * 11 / self._baud
            await self._world.clock.sleep((len(pdu) + len(answer) + 6) * 11 / self._baud + gap_s)
        return (unit % 247 + 1 if mood == "wrong_unit" else unit), answer

    def _spoilt(self, unit: int, frame: bytes) -> bytes:
        """One bit of the frame flipped when the slave garbles."""
        slave = self.units.get(unit)
        if slave is None or slave.mood != "garble":
            return frame
        at = self._world.random.randrange(8 * len(frame))
        spoilt = bytearray(frame)
        spoilt[at // 8] ^= 1 << at % 8
        return bytes(spoilt)

    # Modbus TCP: transaction (2), protocol 0 (2), length of what follows (2), unit (1), function, data.

    async def _serve_tcp(self) -> None:
        async with asyncio.TaskGroup() as group:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._serve_client(reader, writer), name="modbus client")

            server = await asyncio.start_server(connected, self._url.hostname, self.port)
            self.port = server.sockets[0].getsockname()[1]
            self.opened.set()
            async with server:
                await server.serve_forever()

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    transaction, _protocol, length, unit = unpack(">HHHB", await reader.readexactly(7))
                    if not 2 <= length <= 254:
                        return  # no Modbus: a server can only hang up
                    pdu = await reader.readexactly(length - 1)
                    reply = await self._exchange(unit, pdu)
                    if reply is not None:
                        header = pack(">HHHB", transaction, 0, len(reply[1]) + 1, reply[0])
                        writer.write(self._spoilt(unit, header + reply[1]))
                        await writer.drain()
        finally:
            writer.close()

    # Modbus RTU: unit (1), function, data, CRC-16 low byte first.

    async def _serve_line(self) -> None:
        with _line(Path(self._url.path)) as fd:
            loop = asyncio.get_running_loop()
            arrived = asyncio.Event()
            loop.add_reader(fd, arrived.set)
            self.opened.set()
            buffer = bytearray()
            try:
                while True:
                    await arrived.wait()
                    arrived.clear()
                    with suppress(BlockingIOError):
                        buffer += os.read(fd, 4096)
                    for unit, pdu in _requests(buffer):
                        reply = await self._exchange(unit, pdu)
                        if reply is not None:
                            body = bytes([reply[0]]) + reply[1]
                            os.write(fd, self._spoilt(unit, body + pack("<H", _crc(body))))
            finally:
                loop.remove_reader(fd)


@contextmanager
def _line(path: Path) -> Iterator[int]:
    """A raw, non-blocking serial port; where there is none, a pseudo terminal under that name."""
    fds: list[int] = []
    is_ours = not path.exists()
    try:
        if is_ours:
            # Our side first. The other end stays open too: a master that leaves would hang up on us.
            fds += os.openpty()
            path.unlink(missing_ok=True)
            path.symlink_to(os.ttyname(fds[1]))
        else:
            fds.append(os.open(path, os.O_RDWR | os.O_NOCTTY))
        for fd in fds:
            tty.setraw(fd)
        os.set_blocking(fds[0], False)
        yield fds[0]
    finally:
        for fd in fds:
            os.close(fd)
        if is_ours:
            path.unlink(missing_ok=True)


def _requests(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Cut whole requests off the front; a byte that cannot begin one is dropped."""
    while len(buffer) >= 4:
        function = buffer[1]
        size = len(buffer)  # of a function we do not know, only the silence behind it tells the length
        if function in {1, 2, 3, 4, 5, 6}:
            size = 8
        elif function in {15, 16}:
            size = 9 + (buffer[6] if len(buffer) > 6 else 0)
        if len(buffer) < size:
            return
        frame = bytes(buffer[:size])
        if _crc(frame[:-2]) == unpack("<H", frame[-2:])[0]:
            del buffer[:size]
            yield frame[0], frame[1:-2]
        else:
            del buffer[0]


def _crc(body: bytes) -> int:
    """CRC-16/MODBUS by table, so that it is not the driver's loop over bits in another file."""
    crc = 0xFFFF
    for byte in body:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def _table_entry(byte: int) -> int:
    for _bit in range(8):
        byte = (byte >> 1) ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC_TABLE = [_table_entry(byte) for byte in range(256)]
