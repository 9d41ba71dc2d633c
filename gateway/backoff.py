"""How long to wait before trying again: the one helper for every link."""

from __future__ import annotations

from random import Random


class Backoff:
    """The first retry is immediate, then the ceiling doubles from `first_s` to `most_s`, each wait drawn evenly below it.

    Full jitter: a thousand devices that lost the same gateway do not come back in the same second.
    """

    def __init__(self, random: Random, *, first_s: float = 1.0, most_s: float = 60.0) -> None:
        self._random = random
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0

    def reset(self) -> None:
        """The link works."""
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        failures, self._failures = self._failures, self._failures + 1
        if failures == 0:
            return 0.0
        # The exponent is bounded: 2.0 ** 2000 would overflow after a day of failures.
        ceiling = min(self._most_s, self._first_s * 2.0 ** min(failures - 1, 30))
        return self._random.uniform(0.0, ceiling)
