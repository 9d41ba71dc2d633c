"""The device's end of a serial line: a pseudo terminal under a name of our own, or a port that is there."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable
from pathlib import Path

import serial


class Wire:
    """`pty:/tmp/x/rf0` makes a pseudo terminal and a link to it under that name, a path is an existing port. Non-blocking:
    bytes nobody takes are lost, as on a real line."""

    def __init__(self, connect: str, baud: int, on_bytes: Callable[[bytes], None]) -> None:
        self._link: Path | None = None
        self._port: serial.Serial | None = None
        self._far = -1
        if connect.startswith("pty:"):
            self._fd, self._far = os.openpty()
            tty.setraw(self._far)
            os.set_blocking(self._fd, False)
            self._link = Path(connect.removeprefix("pty:"))
            self._link.parent.mkdir(parents=True, exist_ok=True)
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(os.ttyname(self._far))
        else:
            self._port = serial.Serial(connect, baud, timeout=0)
            self._fd = self._port.fileno()
        self._on_bytes = on_bytes
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            arrived = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            arrived = b""
        if arrived:
            self._on_bytes(arrived)
        else:
            self._loop.remove_reader(self._fd)

    def write(self, data: bytes) -> None:
        """Send what the line takes."""
        try:
            os.write(self._fd, data)
        except OSError:
            return  # full or gone: the line is lost, repeating is what saves it

    def close(self) -> None:
        """Pull the plug."""
        self._loop.remove_reader(self._fd)
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            os.close(self._fd)
            os.close(self._far)
        if self._port is not None:
            self._port.close()
