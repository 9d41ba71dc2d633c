"""`python -m tests.jt808_bench`: a fleet that reports once a second, how long each report waits for its answer, and what a frame costs.

Gateway and terminals share one process and one loop, so what the terminals cost is in the figures too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from drivers import jt808 as driver
from drivers.jt808.frame import parse
from gateway.clock import RealClock
from tests.drivers.test_jt808 import authentication, context, location, message, report
from tests.drivers.test_jt808_lines import Depot, depot

DIAL_AT_ONCE = 50
CLOCK = RealClock()


@dataclass
class Figures:
    """What was measured."""

    waits_s: list[float]
    stored: int
    cpu_s: float
    """Of the whole process, terminals included."""

    def wait_ms(self, share: float) -> float:
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class Reporter:
    """A terminal that sends, waits for the answer, and notes how long it took."""

    def __init__(self, phone: str, waits_s: list[float]) -> None:
        self._phone = phone
        self._waits_s = waits_s
        self._serial = 1

    async def dial(self, here: Depot) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", here.port)
        self._writer.write(authentication(self._phone))
        assert (await self._answer())[1] == 0x0102

    async def _answer(self) -> tuple[int, int]:
        await self._reader.readuntil(b"\x7e")
        body = parse(b"\x7e" + await self._reader.readuntil(b"\x7e")).body
        assert body[4] == 0
        return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")

    async def report(self, seconds: int, phase_s: float) -> None:
        """Once a second."""
        begun = CLOCK.monotonic()
        for n in range(seconds):
            await CLOCK.sleep(begun + phase_s + n - CLOCK.monotonic())
            self._serial += 1
            moment = CLOCK.now() + timedelta(hours=8)
            frame = report(self._serial, time=moment.strftime("%y%m%d%H%M%S"), phone=self._phone)
            sent = CLOCK.monotonic()
            self._writer.write(frame)
            assert await self._answer() == (self._serial, 0x0200)
            self._waits_s.append(CLOCK.monotonic() - sent)

    def hang_up(self) -> None:
        with suppress(AttributeError):
            self._writer.transport.abort()


async def fleet(folder: Path, *, terminals: int, seconds: int) -> Figures:
    """Every answer is checked against its report, and the store is counted in the end."""
    phones = [f"139{n:08}" for n in range(terminals)]
    waits_s: list[float] = []
    async with depot(folder, phones) as here:
        reporters = [Reporter(phone, waits_s) for phone in phones]
        for at in range(0, terminals, DIAL_AT_ONCE):
            await asyncio.gather(*(one.dial(here) for one in reporters[at : at + DIAL_AT_ONCE]))
        cpu = time.process_time()
        await asyncio.gather(*(one.report(seconds, n / terminals) for n, one in enumerate(reporters)))
        cpu = time.process_time() - cpu
        for one in reporters:
            one.hang_up()
        return Figures(waits_s, sum(here.store.state.stored.values()), cpu)


def decoding_us(times: int = 20_000) -> float:
    """CPU of `split` and `decode` for one location with the usual items, in microseconds."""
    items = bytes.fromhex("01040000006402020037 0302000025040000000030011d31010d")
    stream = message(0x0200, location() + items, 1)
    where = context()
    begun = time.process_time()
    for _ in range(times):
        for raw in driver.split(bytearray(stream)):
            driver.decode(raw, where)
    return (time.process_time() - begun) / times * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terminals", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(fleet(Path(folder), terminals=given.terminals, seconds=given.seconds))
    sent = given.terminals * given.seconds
    print(f"{sent} reports of {given.terminals} terminals, {len(found.waits_s)} answered, {found.stored} events stored")
    print(
        f"answer after: p50 {found.wait_ms(0.5):.1f} ms, p99 {found.wait_ms(0.99):.1f} ms, most {found.wait_ms(1):.1f} ms"
    )
    print(
        f"CPU a report, terminals included: {found.cpu_s / sent * 1e6:.0f} us; decoding alone: {decoding_us():.1f} us"
    )


if __name__ == "__main__":
    main()
