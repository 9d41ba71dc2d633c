"""Modbus TCP devices in one cheap process, which notes when each is asked.

    python -m bench.slaves

Says its port. Each connection is one device; it answers function 2 (16 inputs, all closed) and 3 (registers, all zero).
A line on stdin begins the watch, the next one ends it and is answered with what was seen.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from struct import pack, unpack_from
from time import perf_counter
from typing import Any, cast

import uvloop

from bench import wire

_HEADER = 7
"""MBAP: transaction, protocol, length, unit (Modbus Messaging on TCP/IP V1.0b, 3.1.3)."""


class Device(asyncio.Protocol):
    """One device's end of its line."""

    def __init__(self, everybody: list[Device]) -> None:
        self._rest = b""
        self._transport: asyncio.Transport
        self.asked: list[float] = []
        everybody.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data
        while len(buffer) >= _HEADER + 5:
            transaction, _, length, unit, function, _, count = unpack_from(">HHHBBHH", buffer)
            self.asked.append(perf_counter())
            content = b"\xff" * -(-count // 8) if function == 2 else bytes(2 * count)
            self._transport.write(
                pack(">HHHBBB", transaction, 0, 3 + len(content), unit, function, len(content)) + content
            )
            buffer = buffer[6 + length :]
        self._rest = buffer


def beats(asked: Sequence[float], every_s: float) -> list[int]:
    """On which beat of its device each request came; all requests of one poll share one."""
    found = [0] if asked else []
    for before, now in pairwise(asked):
        found.append(found[-1] + round((now - before) / every_s))
    return found


def lateness(asked: Sequence[float], every_s: float) -> list[float]:
    """How late each request was against its device's beat, seconds; a beat that is left out counts as one late by it."""
    on = beats(asked, every_s)
    offsets = [at - beat * every_s for at, beat in zip(asked, on, strict=True)]
    skipped = [every_s * (later - beat - 1) for beat, later in pairwise(on) if later - beat > 1]
    return [offset - min(offsets) for offset in offsets] + skipped


async def run() -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(wire.give_up)
    everybody: list[Device] = []
    server = await loop.create_server(lambda: Device(everybody), "127.0.0.1", 0, backlog=1024)
    _say({"port": server.sockets[0].getsockname()[1]})
    stdin = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin, loop=loop), sys.stdin)
    gc.disable()
    while line := await stdin.readline():
        command = json.loads(line)
        if command["do"] == "watch":
            for device in everybody:
                device.asked.clear()
            _say({"devices": len(everybody)})
        else:
            asked = [device.asked for device in everybody if device.asked]
            every_s = command["every_s"]
            _say(
                {
                    "devices": len(asked),
                    "requests": sum(map(len, asked)),
                    "polls": sum(len(set(beats(times, every_s))) for times in asked),
                    "late_ms": [second * 1000 for times in asked for second in lateness(times, every_s)],
                }
            )


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
