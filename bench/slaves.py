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

EARLY_SHARE = 0.1
"""Of a beat: by so much the first poll may have been late, before the next ones seem early."""


class Device(asyncio.Protocol):
    """One device's end of its line."""

    def __init__(self, everybody: list[Device]) -> None:
        self._rest = b""
        self._transport: asyncio.Transport
        self.asked: list[float] = []
        """When the first range of its map was."""
        self.ranges: list[tuple[int, int, int]] = []
        self.requests = 0
        everybody.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data
        while len(buffer) >= _HEADER + 5:
            transaction, _, length, unit, function, address, count = unpack_from(">HHHBBHH", buffer)
            wanted = function, address, count
            if wanted not in self.ranges:
                self.ranges.append(wanted)
            if wanted == self.ranges[0]:
                self.asked.append(perf_counter())
            self.requests += 1
            content = b"\xff" * -(-count // 8) if function == 2 else bytes(2 * count)
            self._transport.write(
                pack(">HHHBBB", transaction, 0, 3 + len(content), unit, function, len(content)) + content
            )
            buffer = buffer[6 + length :]
        self._rest = buffer


def beats(asked: Sequence[float], every_s: float) -> list[int]:
    """On which beat of its device each poll came: at the earliest the one after the last, and never early."""
    found, phase = [0] if asked else [], asked[0] if asked else 0.0
    for at in asked[1:]:
        beat = max(found[-1] + 1, int((at - phase) / every_s + EARLY_SHARE))
        phase = min(phase, at - beat * every_s)
        found.append(beat)
    return found


def lateness(asked: Sequence[float], every_s: float) -> list[float]:
    """How late each poll was against its device's beat, seconds; a beat that is left out counts as one late by it."""
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
                device.requests = 0
            _say({"devices": len(everybody)})
        else:
            polled, every_s = [device for device in everybody if device.asked], command["every_s"]
            _say(
                {
                    "devices": len(polled),
                    "requests": sum(device.requests for device in polled),
                    "polls": sum(len(device.asked) for device in polled),
                    "late_ms": [second * 1000 for device in polled for second in lateness(device.asked, every_s)],
                }
            )


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
