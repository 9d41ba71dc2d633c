"""Serial ports: opened and set by pyserial, read and written by the event loop itself (docs/decisions/0020)."""

from __future__ import annotations

import asyncio
import os
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

import serial

from gateway.errors import ConfigError, LinkClosed, Problem
from gateway.links.stream import StreamLink

EXPECTED = "serial:///dev/serial/by-id/NAME?baud=9600&parity=N&stop=1 (the path may be a glob; N, E or O; 1 or 2)"
WRITE_QUEUE_BYTES = 4096
"""Bytes that may wait for the UART before writers wait: four seconds of 9600 baud, a page of the kernel's own buffer."""


@dataclass(frozen=True, slots=True)
class SerialUrl:
    """Where the port is, perhaps as a glob, and how the line is set."""

    pattern: str
    baud: int = 9600
    parity: Literal["N", "E", "O"] = "N"
    stop: Literal[1, 2] = 1

    @classmethod
    def parse(cls, url: str) -> SerialUrl:
        """Raises ConfigError."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        baud, parity, stop = options.pop("baud", "9600"), options.pop("parity", "N"), options.pop("stop", "1")
        is_right = (
            parts.path.startswith("/") and not parts.netloc and not options
            and baud.isascii() and baud.isdigit() and int(baud) in serial.Serial.BAUDRATES
            and parity in ("N", "E", "O") and stop in ("1", "2")
        )  # fmt: skip
        if not is_right:
            raise ConfigError([Problem("site file", None, "link", f"found {url!r}", EXPECTED)])
        return cls(parts.path, int(baud), cast(Literal["N", "E", "O"], parity), cast(Literal[1, 2], int(stop)))

    def device(self) -> str:
        """The one port that matches now: a replugged adapter may come back as another ttyUSB. Raises LinkClosed."""
        found = sorted(str(path) for path in Path("/").glob(self.pattern.lstrip("/")))
        if len(found) != 1:
            raise LinkClosed(f"{self.pattern}: {'several ports: ' + ', '.join(found) if found else 'no such port'}")
        return found[0]


async def open_serial(url: str) -> StreamLink:
    """Find and open the port. Raises LinkClosed when it is not there or taken, ConfigError when the URL is wrong."""
    wanted = SerialUrl.parse(url)
    device = wanted.device()
    try:
        opened = serial.Serial(
            device, wanted.baud, parity=wanted.parity, stopbits=wanted.stop, timeout=0, exclusive=True
        )
        port = SerialPort(opened)
    except (OSError, termios.error) as error:  # SerialException is an OSError
        raise LinkClosed(f"{device}: {error}") from error
    return StreamLink(port, port, peer=device, abort=port.abort)


class SerialPort:
    """An open port as reader and writer. An unplugged adapter shows as end of stream or OSError."""

    def __init__(self, port: serial.Serial) -> None:
        self._port = port
        self._fd: int = port.fileno()
        # pyserial sets VMIN 0, with which "nothing there yet" and "unplugged" both read as no bytes.
        settings = termios.tcgetattr(self._fd)
        settings[6][termios.VMIN] = 1
        termios.tcsetattr(self._fd, termios.TCSANOW, settings)
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[None] | None = None
        self._queue = bytearray()
        self._has_space = asyncio.Event()
        self._has_space.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._error: OSError | None = None
        self._is_open = True

    async def read(self, n: int = -1, /) -> bytes:
        """At most `n` bytes; none when the port is gone. Raises OSError."""
        while self._is_open:
            try:
                return os.read(self._fd, n)
            except BlockingIOError:
                await self._readable()
        return b""

    async def _readable(self) -> None:
        self._reading = ready = self._loop.create_future()
        self._loop.add_reader(self._fd, _set, ready)
        try:
            await ready
        finally:
            self._reading = None
            if self._is_open:
                self._loop.remove_reader(self._fd)

    def write(self, data: bytes, /) -> None:
        """Queue for sending."""
        if self._is_open and data:
            was_empty = not self._queue
            self._queue += data
            if was_empty:
                self._send()

    def _send(self) -> None:
        try:
            del self._queue[: os.write(self._fd, self._queue)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._error = error
            self.abort()
            return
        if self._queue:
            self._loop.add_writer(self._fd, self._send)
        else:
            self._loop.remove_writer(self._fd)
        _mark(self._is_empty, not self._queue)
        _mark(self._has_space, len(self._queue) < WRITE_QUEUE_BYTES)

    async def drain(self) -> None:
        """Wait until the queue is short. Raises OSError."""
        await self._has_space.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Nothing to do before `wait_closed`: the queue goes on leaving."""

    async def wait_closed(self) -> None:
        """Close once the queue has left."""
        await self._is_empty.wait()
        self.abort()

    def abort(self) -> None:
        """Close now, ending whoever waits."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._queue.clear()
        self._is_empty.set()
        self._has_space.set()
        if self._reading is not None:
            _set(self._reading)
        self._port.close()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _mark(event: asyncio.Event, is_true: bool) -> None:
    event.set() if is_true else event.clear()
