"""The devices: each reports what happens to it, again and again until it is told "stored"; then it forgets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from random import Random
from typing import Protocol

from gateway.kinds import FACTS, Kind, Qualifier
from gateway.model import Observation
from tests.dst.loop import SimulatedClock
from tests.dst.weather import Weather

PIPELINED = 4
"""Reports a device with numbers or a clock sends before the first is answered."""
PATIENCE_S = 6.0
IMPATIENCE_S = 0.05
LATENCY_S = 0.05

CONDITIONS = (
    Kind.BURGLARY, Kind.BURGLARY, Kind.FIRE, Kind.SMOKE, Kind.TAMPER, Kind.PERIMETER, Kind.AC_LOSS, Kind.BATT_LOW, Kind.BYPASS,
)  # fmt: skip
PRESSES = (Kind.PANIC, Kind.PANIC, Kind.DURESS, Kind.OPEN_CLOSE, Kind.ACCESS_DENIED, Kind.UNKNOWN, Kind.POSITION)


class Style(Enum):
    """What a protocol gives to recognise a repeat by."""

    NUMBERED = "numbered"
    TIMED = "timed"
    BARE = "bare"
    """Nothing: such a device waits for each answer before it goes on."""


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that happened at one device, the `number`-th there."""

    device: str
    number: int
    observation: Observation

    @property
    def tag(self) -> str:
        """What it is recognised by in the store, whatever the gateway made of it."""
        return f"{self.device}/{self.number}"


class Way(Protocol):
    """The line to the gateway, as a device sees it."""

    def hear(self, device: Device, report: Report) -> None:
        """Lost when nobody listens."""


@dataclass(slots=True)
class Device:
    """`run` plays its script and ends when everything was answered."""

    id: str
    style: Style
    weather: Weather
    dice: Random
    clock: SimulatedClock
    way: Way
    note: Callable[[str, str], None]
    events: int
    waiting: deque[Report] = field(default_factory=deque)
    reports: list[Report] = field(default_factory=list)
    _standing: set[tuple[Kind, int]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until the last report was answered."""
        async with asyncio.TaskGroup() as group:
            repeating = group.create_task(self._repeat(), name=f"{self.id} repeats")
            for _ in range(self.events):
                # Most of life is quiet; then it comes thick and fast.
                await self.clock.sleep(self.dice.choice((0.0, 0.01, 1.0, 5.0, 20.0)) * self.dice.random())
                while len(self.waiting) >= (1 if self.style is Style.BARE else PIPELINED):
                    await self._next_answer()
                self._happen()
            while self.waiting:
                await self._next_answer()
            repeating.cancel()

    def answer(self, tag: str) -> None:
        """The gateway says that this one is stored."""
        if self.dice.random() < self.weather.answer_lost:
            return
        for report in self.waiting:
            if report.tag == tag:
                self.waiting.remove(report)
                self._changed.set()
                return

    async def _next_answer(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _repeat(self) -> None:
        while True:
            is_impatient = self.dice.random() < self.weather.impatient
            await self.clock.sleep((IMPATIENCE_S if is_impatient else PATIENCE_S) * (1 + self.dice.random()))
            for report in tuple(self.waiting):
                self.way.hear(self, report)

    def _happen(self) -> None:
        number = len(self.reports)
        kind, qualifier, zone = self._what()
        report = Report(
            self.id,
            number,
            Observation(
                self.id,
                kind,
                qualifier,
                zone=zone,
                at=self._own_time(number) if self.style is Style.TIMED else None,
                repeat_key=f"boot:{number}" if self.style is Style.NUMBERED else None,
                code="E77" if kind is Kind.UNKNOWN else None,
                text=f"{self.id}/{number}",
                test=FACTS[kind].momentary and self.dice.random() < 0.1,
            ),
        )
        self.note(self.id, f"{kind} {qualifier} zone {zone}: report {number}")
        self.reports.append(report)
        self.waiting.append(report)
        self.way.hear(self, report)

    def _what(self) -> tuple[Kind, Qualifier, int]:
        """A press, a new condition, or the end of one."""
        if self.dice.random() < 0.3:
            return self.dice.choice(PRESSES), Qualifier.NEW, 0
        kind, zone = self.dice.choice(CONDITIONS), self.dice.randrange(1, 3)
        if (kind, zone) in self._standing:
            self._standing.discard((kind, zone))
            return kind, Qualifier.RESTORE, zone
        self._standing.add((kind, zone))
        return kind, Qualifier.NEW, zone

    def _own_time(self, number: int) -> datetime:
        """A right clock, in which no two reports have the same moment."""
        return self.clock.true_now().replace(microsecond=1000 * number)
