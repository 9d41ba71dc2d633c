"""A line in memory: two `StreamLink`s with nothing of a system below, so that a test decides what gets lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.links.stream import READ_CHUNK_BYTES, StreamLink

WIRE_BYTES_MAX = 65536
"""What a memory line holds before its writer must wait, about a socket buffer."""


def unaltered(data: bytes) -> bytes:
    """A line that does no harm."""
    return data


class MemoryWire:
    """One direction of a line in memory, reader and writer in one."""

    def __init__(self, alter: Callable[[bytes], bytes], read_bytes_max: int) -> None:
        self._alter = alter
        self._read_bytes_max = read_bytes_max
        self._bytes = bytearray()
        self._ended = False
        self._has_bytes = asyncio.Event()
        self._has_space = asyncio.Event()
        self._has_space.set()

    async def read(self, n: int = -1, /) -> bytes:
        await self._has_bytes.wait()
        size = min(n, self._read_bytes_max) if n > 0 else self._read_bytes_max
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        self._mark()
        return taken

    def write(self, data: bytes, /) -> None:
        if not self._ended:
            self._bytes += self._alter(data)
            self._mark()

    async def drain(self) -> None:
        await self._has_space.wait()

    def close(self) -> None:
        self._ended = True
        self._mark()

    async def wait_closed(self) -> None:
        await self.drain()

    def drop(self) -> None:
        """End at once; what was on the way is gone."""
        self._bytes.clear()
        self.close()

    def _mark(self) -> None:
        for event, is_true in (
            (self._has_bytes, bool(self._bytes) or self._ended),
            (self._has_space, len(self._bytes) < WIRE_BYTES_MAX or self._ended),
        ):
            event.set() if is_true else event.clear()


def memory_pair(
    *,
    alter: Callable[[bytes], bytes] = unaltered,
    read_bytes_max: int = READ_CHUNK_BYTES,
    idle_s: float | None = None,
) -> tuple[StreamLink, StreamLink]:
    """A line without a system below: (gateway's end, device's end). `alter` may lose or spoil what the device sends,
    `read_bytes_max` chops it."""
    up = MemoryWire(alter, read_bytes_max)
    down = MemoryWire(unaltered, READ_CHUNK_BYTES)

    def abort() -> None:
        up.drop()
        down.drop()

    near = StreamLink(up, down, peer="memory device", abort=abort, idle_s=idle_s)
    far = StreamLink(down, up, peer="memory gateway", abort=abort)
    return near, far
