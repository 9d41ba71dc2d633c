"""Event ids: time-ordered, unique, never re-used (UUID version 7, RFC 9562 section 5.7)."""

from __future__ import annotations

from random import Random

from gateway.clock import Clock


class EventIds:
    """Gives ids that sort by time of creation, also when the wall clock steps back."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = Random(random.getrandbits(128))  # noqa: S311  # no secret; the system's own costs a kernel call an id
        self._last = 0

    def next(self) -> str:
        """One new id, as the 36-character text form."""
        # 48 bits of milliseconds and 12 bits of a counter are one rising number: two ids of the
        # same millisecond, and ids after a clock that stepped back, still rise.
        now = int(self._clock.now().timestamp() * 1000) << 12
        self._last = max(now, self._last + 1)
        milliseconds, counter = self._last >> 12, self._last & 0xFFF
        tail = self._random.getrandbits(62)
        digits = (milliseconds << 80 | 7 << 76 | counter << 64 | 0b10 << 62 | tail).to_bytes(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
