"""What is known of the machine's own clock: steps of the wall clock, and the boot during which it was not set."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from gateway.clock import PROGRAM_DATE, Clock

JUMP_MIN = timedelta(seconds=2)
"""Between two looks a second apart: far above what drift or a slewing NTP can do, far below what misleads a reader."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClockWatch:
    """Holds the wall clock against the monotonic one. Whoever asks regularly sees each step once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._zero = self._wall_zero()

    def _wall_zero(self) -> timedelta:
        """What the wall clock showed, counted from the program's date, when the monotonic one stood at 0."""
        return self._clock.now() - PROGRAM_DATE - timedelta(seconds=self._clock.monotonic())

    def step(self) -> timedelta:
        """How far the wall clock has stepped since the last call, backwards negative; 0 for less than JUMP_MIN."""
        before, self._zero = self._zero, self._wall_zero()
        step = self._zero - before
        return step if abs(step) > JUMP_MIN else timedelta()


def boot_id() -> str:
    """Names this run of the machine, so that a time of another run is never corrected by this one's clock; "" if unknown."""
    with suppress(OSError):
        return BOOT_ID.read_text("ascii").strip()
    return ""
