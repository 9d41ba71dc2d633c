"""An OSDP line in made-up time: bytes take what they take at a baud rate, and a test may spoil any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from drivers import osdp as driver
from drivers.osdp.settings import Settings
from gateway.driver import Context, LinkClosed, Receipt, Secret
from simulators.osdp.frames import Ear
from simulators.osdp.reader import Reader
from tests.driver_cases import CREDENTIAL, Desk
from tests.dst.loop import SimulatedClock, SimulatedLoop

LAG_S = 0.005
"""What a reader takes before it answers."""
Alter = Callable[[bytes, str], bytes]
"""What the line makes of bytes on their way "down" to the readers or "up" to the gateway."""


def whole(data: bytes, _way: str) -> bytes:
    """A line that does no harm."""
    return data


def key(address: int) -> bytes:
    return bytes([0xA0 + address]) * 16


def context(*addresses: int, **options: Any) -> Context:
    """Readers with a door contact, an exit button and a strike each, and a key of their own unless told otherwise."""
    readers = [
        {
            "address": address,
            "device": f"door-{address}",
            "inputs": {"0": {"kind": "door_open"}, "1": {"kind": "exit_request"}},
            "strike": 0,
            **({"key_file": f"k{address}"} if options.get("secure", True) else {}),
            **options,
        }
        for address in addresses
    ]
    settings = Settings.model_validate({"readers": readers})
    secrets = {f"k{address}": Secret(key(address).hex()) for address in addresses}
    return Context(settings=settings, secrets=secrets, connection="line", credential=CREDENTIAL)


class SimulatedLine:
    """`gateway.driver.Stream` to simulated readers, half duplex, paced."""

    peer = "simulated line"

    def __init__(self, loop: asyncio.AbstractEventLoop, readers: Sequence[Reader], *, baud: int = 9600) -> None:
        self.readers = list(readers)
        self.baud = baud
        self.alter: Alter = whole
        self.is_cut = False
        self.sent: list[bytes] = []
        self.lags_s: dict[int, float] = {}
        self._loop = loop
        self._down = Ear()
        self._up: asyncio.Queue[bytes] = asyncio.Queue()
        self._free_s = 0.0

    def _takes_s(self, data: bytes) -> float:
        return len(data) * 10 / self.baud

    async def write(self, data: bytes) -> None:
        self.sent.append(data)
        self._free_s = max(self._free_s, self._loop.time()) + self._takes_s(data)
        self._loop.call_at(self._free_s, self._arrive, self.alter(data, "down"))

    def _arrive(self, data: bytes) -> None:
        if self.is_cut:
            return
        for frame in self._down.hear(data, self._loop.time()):
            for reader in self.readers:
                answer = reader.receive(frame, self._loop.time())
                if answer:
                    lag_s = self.lags_s.get(reader.address, LAG_S)
                    self._loop.call_later(lag_s, self._answer, self.alter(answer, "up"))

    def _answer(self, data: bytes) -> None:
        """Bytes come one after the other, in pieces of eight."""
        for at in range(0, len(data), 8):
            self._loop.call_later(self._takes_s(data[: at + 8]), self.put, data[at : at + 8])

    def put(self, data: bytes) -> None:
        """Bytes for the gateway, now."""
        if not self.is_cut:
            self._up.put_nowait(data)

    def hang_up(self) -> None:
        self._up.put_nowait(b"")

    async def read(self) -> bytes:
        data = await self._up.get()
        if not data:
            raise LinkClosed("the port is gone")
        return data

    def answer(self, data: bytes, *, after: Receipt) -> None:
        raise AssertionError("OSDP answers nothing: it asks")


class Stage:
    """A line, its readers and the driver on it, in made-up time."""

    def __init__(self, loop: SimulatedLoop, readers: Sequence[Reader], given: Context, *, baud: int = 9600) -> None:
        self.loop = loop
        self.clock = SimulatedClock(loop)
        self.line = SimulatedLine(loop, readers, baud=baud)
        self.desk = Desk(is_prompt=True)
        self.context = given

    async def drive(self) -> None:
        """One conversation of the driver."""
        await driver.run(self.desk.session(self.line, self.context, self.clock))

    async def until(self, claim: Callable[[], bool], within_s: float = 30.0, step_s: float = 0.005) -> float:
        """How long it takes until that holds."""
        begun_s = self.loop.time()
        while not claim():
            assert self.loop.time() - begun_s < within_s, "not within the time"
            await self.clock.sleep(step_s)
        return self.loop.time() - begun_s

    def all_secure(self) -> bool:
        """Or in plain text where there is no key."""
        return all(reader.is_secure or reader.key is None for reader in self.line.readers)

    def news(self, kind: str) -> list[tuple[str, str]]:
        """Device and qualifier of what was reported of a kind."""
        return [(seen.device, str(seen.qualifier)) for seen in self.desk.reported if seen.kind == kind]


def reader(address: int, **options: Any) -> Reader:
    """A simulated reader with its own key."""
    return Reader(address, options.pop("key", key(address)), Random(address).randbytes, **options)


def play(
    story: Callable[[Stage], Coroutine[Any, Any, None]],
    readers: Sequence[Reader],
    given: Context | None = None,
    *,
    baud: int = 9600,
) -> Stage:
    """Run a story beside the driver, and end both."""
    loop = SimulatedLoop()
    stage = Stage(loop, readers, given or context(*(one.address for one in readers)), baud=baud)

    async def whole_story() -> None:
        async with asyncio.TaskGroup() as tasks:
            conversation = tasks.create_task(stage.drive())
            await story(stage)
            conversation.cancel()

    try:
        loop.run_until_complete(whole_story())
    finally:
        loop.close()
    return stage


CARD = b"\x00\x01\x1a\x00\x94\xd2\xa7\x80"
"""26 bits, facility 41, card 42319 (IEC 60839-11-5 has the frame; the numbers are of a public example)."""
__all__ = ["CARD", "LAG_S", "SimulatedLine", "Stage", "context", "key", "play", "reader", "replace", "whole"]
