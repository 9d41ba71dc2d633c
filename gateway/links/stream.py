"""A stream of bytes as drivers see it: bounded reads, and answers that leave in order, each after its commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from gateway.errors import LinkClosed, StoreError
from gateway.receipt import SETTLE_WITHIN_S, Receipt
from gateway.recording import Tap

READ_CHUNK_BYTES = 4096
"""One read: some fifty frames. Larger chunks would only move the queue from the kernel into this process."""
FLOOD_BYTES = READ_CHUNK_BYTES // 2
"""So much at once, and more is likely to be there already: without a turn for the others in between, a peer that floods
has the loop for all that its socket's buffers hold, some 30 ms."""
ANSWERS_PAUSE = 512
"""Answers owed at which reading pauses: more than one commit collects from one peer, and the peer feels a slow disk."""
ANSWERS_MAX = ANSWERS_PAUSE + READ_CHUNK_BYTES
"""Out of reach for a driver that answers each frame once (a frame has at least one byte); a broken one is cut off."""
CLOSE_WITHIN_S = 5.0
"""A peer that does not take its last bytes in this time is dropped."""


class Reader(Protocol):
    """What is needed of `asyncio.StreamReader`."""

    async def read(self, n: int = -1, /) -> bytes:
        """At most `n` bytes, at least one; none at the end."""


class Writer(Protocol):
    """What is needed of `asyncio.StreamWriter`."""

    def write(self, data: bytes, /) -> None:
        """Queue for sending; never raises."""

    async def drain(self) -> None:
        """Wait until the queue is short. Raises OSError."""

    def close(self) -> None:
        """Close after what is queued has left."""

    async def wait_closed(self) -> None:
        """Wait for that. Raises OSError."""


class StreamLink:
    """`gateway.driver.Stream` over any reader and writer."""

    def __init__(
        self, reader: Reader, writer: Writer, *, peer: str, abort: Callable[[], None], idle_s: float | None = None
    ) -> None:
        """`abort` drops the line at once and ends a waiting read; `idle_s` bounds how long the peer may say nothing."""
        self.peer = peer
        self.tap: Tap | None = None
        self._reader = reader
        self._writer = writer
        self._abort = abort
        self._idle_s = idle_s
        self._answers: deque[tuple[bytes, Receipt]] = deque()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closed_because: str | None = None

    async def read(self) -> bytes:
        """Whatever has arrived, once the peer takes its answers and the disk keeps up. Raises LinkClosed."""
        await self._has_room.wait()
        self._check_open()
        try:
            async with asyncio.timeout(self._idle_s):
                await self._writer.drain()
                data = await self._reader.read(READ_CHUNK_BYTES)
        except TimeoutError:
            self._cut(f"nothing heard from {self.peer} for {self._idle_s} s")
            data = b""
        except OSError as error:
            self._cut(f"{self.peer}: {error}")
            data = b""
        self._check_open()
        if not data:
            self._cut(f"{self.peer} closed the line")
            self._check_open()
        if self.tap is not None:
            self.tap.came(data)
        if len(data) >= FLOOD_BYTES:
            await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing
        return data

    def answer(self, data: bytes, *, after: Receipt) -> None:
        """Send `data` once `after` is on disk, in the order of the calls. A failed commit closes the link instead."""
        if self._closed_because is not None:
            return
        if len(self._answers) >= ANSWERS_MAX:
            self._cut(f"{self.peer} is owed {ANSWERS_MAX} answers")
            return
        self._answers.append((data, after))
        if len(self._answers) >= ANSWERS_PAUSE:
            self._has_room.clear()
        after.when_settled(self._send_settled)

    async def write(self, data: bytes) -> None:
        """Send now. Raises LinkClosed."""
        self._check_open()
        self._send(data)
        try:
            await self._writer.drain()
        except OSError as error:
            self._cut(f"{self.peer}: {error}")
        self._check_open()

    async def close(self) -> None:
        """Let answers leave whose commit is under way, then close. One that takes too long is dropped: the peer repeats."""
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(SETTLE_WITHIN_S):
                while self._answers:
                    await self._answers[0][1]
        if self._closed_because is not None:
            return
        self._forget("closed by us")
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._writer.wait_closed()
        except OSError:  # includes TimeoutError
            self._abort()

    def _send_settled(self, _: Receipt) -> None:
        while self._answers and self._answers[0][1].is_settled:
            data, receipt = self._answers.popleft()
            if receipt.error is not None:
                self._cut(f"not stored, so not answered: {receipt.error}")
                return
            self._send(data)
        if len(self._answers) < ANSWERS_PAUSE:
            self._has_room.set()

    def _send(self, data: bytes) -> None:
        self._writer.write(data)
        if self.tap is not None:
            self.tap.left(data)

    def _check_open(self) -> None:
        if self._closed_because is not None:
            raise LinkClosed(self._closed_because)

    def _cut(self, reason: str) -> None:
        if self._closed_because is None:
            self._forget(reason)
            self._abort()

    def _forget(self, reason: str) -> None:
        self._closed_because = reason
        self._answers.clear()
        self._has_room.set()
