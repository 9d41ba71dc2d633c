"""Everybody who may look at a gateway while it works: Prometheus, five live listeners, a program that pages through events.

    python -m bench.readers PORT TOKEN

Says when all are there. One process, so that looking costs the machine little; nothing that is read is looked into.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

LISTENERS = 5
SCRAPE_EVERY_S = 1.0
PAGE_EVERY_S = 0.2
PAGE = 100
READ_MAX = 1 << 24
"""The longest answer that comes in pieces: a few series for each of 50 000 devices."""


class Reader:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token

    def ask(self, path: str) -> None:
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n\r\n".encode()
        )

    async def get(self, path: str) -> bytes:
        """The body of an answer, as it comes."""
        self.ask(path)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        if b"chunked" in head.lower():
            return await self._reader.readuntil(b"\r\n0\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    async def swallow(self) -> None:
        """Take whatever comes."""
        while await self._reader.read(1 << 16):
            pass


@asynccontextmanager
async def connected(port: int, token: str) -> AsyncIterator[Reader]:
    """A connection, until the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_MAX)
    try:
        yield Reader(reader, writer, token)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _every(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await step()


async def run(port: int, token: str) -> None:
    """Until stdin says something, or ends."""
    async with AsyncExitStack() as stack:
        everybody = [await stack.enter_async_context(connected(port, token)) for _ in range(LISTENERS + 2)]
        await _read(*everybody)
    print('{"ended": true}', flush=True)


async def _read(prometheus: Reader, pager: Reader, *listeners: Reader) -> None:
    after = 0

    async def turn_page() -> None:
        nonlocal after
        page = json.loads(await pager.get(f"/api/v1/events?limit={PAGE}&after={after}"))
        after = page["next"] or 0

    for listener in listeners:
        listener.ask("/api/v1/stream")
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listener.swallow()) for listener in listeners]
        tasks.append(group.create_task(_every(SCRAPE_EVERY_S, lambda: prometheus.get("/metrics"))))
        tasks.append(group.create_task(_every(PAGE_EVERY_S, turn_page)))
        print('{"ready": true}', flush=True)
        await stdin.readline()
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("token")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.port, arguments.token))
