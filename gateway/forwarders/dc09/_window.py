"""How many frames are out at a time: few after a start, soon as many as the site file lets."""

from __future__ import annotations

FIRST = 4
"""A start finds a backlog, and whatever is out when the process is killed goes again: one that crashes over and over sends few
copies. A receiver that needs 5 ms still gets 800 frames a second."""
ANSWERS_A_PLACE = 64
"""Answers for which one more may be out: the usual window is open after 1 800 events."""


class Window:
    """Of one run of the gateway, over as many connections as it takes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers = 0

    @property
    def size(self) -> int:
        """Frames that may be out."""
        return min(self._most, FIRST + self._answers // ANSWERS_A_PLACE)

    def answered(self) -> None:
        """The receiver has answered a frame."""
        self._answers += 1
