"""What is known of the machine's own clock: steps of the wall clock, and the boot during which it was not set."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.clock import PROGRAM_DATE, Clock

JUMP_MIN = timedelta(seconds=2)
"""Between two looks a second apart: far above what drift or a slewing NTP can do, far below what misleads a reader."""

BEAT_S = 30.0
"""How often the gateway leaves word that it is there: what is not known of the moment at which it went."""
OFF_MIN = timedelta(seconds=2 * BEAT_S)
"""A shorter time off is none: an update, a start anew."""
TIME_ERROR = 5
"""What adjtimex(2) answers while nobody keeps the clock right, or not for so long that it may be off by 16 s."""
TIMEX_BYTES = 1024
"""More than a `struct timex` has anywhere; all zero asks and changes nothing."""

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


class Heartbeat:
    """A file whose time says when the gateway was last there."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._beat_mono = float("-inf")

    def beat(self) -> None:
        """To be called often. A disk that fails is told of elsewhere."""
        now_s = self._clock.monotonic()
        if now_s - self._beat_mono >= BEAT_S:
            self._beat_mono = now_s
            moment = self._clock.now().timestamp()
            with suppress(OSError):
                self._path.touch(mode=0o600)
                os.utime(self._path, (moment, moment))

    def off(self) -> tuple[datetime, datetime] | None:
        """Before the first beat: from when to when nobody was there; None when it was not off, or no clock can tell."""
        now = self._clock.now()
        with suppress(OSError):
            since = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            if since >= PROGRAM_DATE and now - since >= OFF_MIN:
                return since, now
        return None


def is_synchronised() -> bool | None:
    """Whether the kernel holds the clock for kept right by somebody (NTP, PTP, GNSS); None where it does not say."""
    try:
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):  # not Linux
        return None
    return None if answer < 0 else answer != TIME_ERROR


def boot_id() -> str:
    """Names this run of the machine, so that a time of another run is never corrected by this one's clock; "" if unknown."""
    with suppress(OSError):
        return BOOT_ID.read_text("ascii").strip()
    return ""
