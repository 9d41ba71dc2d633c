"""Time as the simulators see it: handed in, so that a test can run a day in a moment."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a simulator gets its time from."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never jumps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


class RealClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)
