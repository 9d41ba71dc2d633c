"""How long to wait before trying a receiver again: at once, then longer and longer, never in step with others."""

from __future__ import annotations

from random import Random

FIRST_S = 1.0
LONGEST_S = 60.0  # a receiver that is back must not wait longer than a minute for the alarms it missed


class Backoff:
    """Full jitter: each wait is drawn from zero up to a ceiling that doubles from FIRST_S to LONGEST_S."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ceiling_s = 0.0

    def next_s(self) -> float:
        """The wait before the next try; the first after a reset is zero."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(LONGEST_S, ceiling_s * 2 or FIRST_S)
        return self._random.uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """The last try was a success."""
        self._ceiling_s = 0.0
