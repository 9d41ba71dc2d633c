"""Time as a parameter. The only module that may ask the operating system what time it is."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

PROGRAM_DATE = datetime(2026, 1, 1, tzinfo=UTC)
"""No release is older: a wall clock that shows less has not been set since the machine started (1970, 2000)."""


class Clock(Protocol):
    """What code needs of time; tests pass one that jumps."""

    def now(self) -> datetime:
        """Wall time, aware, UTC. May jump; never used for durations."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start. Never jumps; used for every duration and deadline."""

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds of monotonic time."""


class RealClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
