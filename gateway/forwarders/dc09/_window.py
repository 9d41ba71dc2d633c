"""How many frames are out at a time: as many as the line and the receiver carry without a queue."""

from __future__ import annotations

LEAST = 4
"""To begin with, and while answers come late: a receiver that needs 5 ms gets 800 frames a second."""
PROMPT_S = 0.005
"""An average answer within this time is no sign of a queue, whatever the fastest took."""
LATE_FACTOR = 2.0
"""Later than the fastest by this, on average: half of what is out waits in a queue."""
WEIGHT = 0.125
"""Of the newest answer in the average, as TCP has it for its round trips (RFC 6298)."""


class Window:
    """Begins small, grows by one for each round of prompt answers, shrinks by one for each answer while they are late.

    What is out beyond what the far side works at only waits there, and goes again if we are killed meanwhile.
    """

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._size = self._least = min(float(LEAST), self._most)
        self._fastest_s: float | None = None
        self._average_s = 0.0

    @property
    def size(self) -> int:
        """Frames that may be out."""
        return int(self._size)

    def answered(self, after_s: float) -> None:
        """An answer came, so long after its frame."""
        if self._fastest_s is None:
            self._fastest_s = self._average_s = after_s
        self._fastest_s = min(self._fastest_s, after_s)
        self._average_s += WEIGHT * (after_s - self._average_s)
        if self._average_s <= max(PROMPT_S, LATE_FACTOR * self._fastest_s):
            self._size = min(self._most, self._size + 1 / self._size)
        else:
            self._size = max(self._least, self._size - 1)
