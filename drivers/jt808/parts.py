"""Messages in parts: gathered within bounds, asked for again, given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from drivers.jt808.frame import Frame
from gateway.driver import FrameError

PARTS_MAX = 32
"""Of one message: 32 kB, or some 700 positions of a gap."""
OPEN_MAX = 4
"""Messages that one line gathers at a time; the oldest goes first."""
ASK_AFTER_S = 5.0
"""Parts follow one another at once; what has not come by then was lost."""
ASK_MAX = 3
"""Then the message is given up, as the terminal does by its own parameter (3 times is the usual value)."""

Name = tuple[str, int]


@dataclass(slots=True)
class Gathering:
    """One message of which not all is there."""

    newest: Frame
    heard_s: float
    bodies: dict[int, bytes] = field(default_factory=dict)
    asked: int = 0

    @property
    def first_serial(self) -> int:
        """The parts are numbered one after the other."""
        return (self.newest.serial - self.newest.index + 1) & 0xFFFF

    @property
    def missing(self) -> list[int]:
        return [index for index in range(1, self.newest.total + 1) if index not in self.bodies]


class Parts:
    """What one line has in hand."""

    def __init__(self) -> None:
        self._open: dict[Name, Gathering] = {}

    def add(self, part: Frame, now_s: float) -> Frame | None:
        """The whole message once `part` completes it, under the serial number of its first part. Raises FrameError."""
        if part.total > PARTS_MAX:
            raise FrameError(f"a message of {part.total} parts; at most {PARTS_MAX}", "too_long")
        name = part.device, part.id
        found = self._open.get(name)
        if found is None or found.newest.total != part.total or self._is_another(found, part):
            self._open.pop(name, None)
            if len(self._open) >= OPEN_MAX:
                del self._open[next(iter(self._open))]
            found = self._open[name] = Gathering(part, now_s)
        found.newest, found.heard_s = part, now_s
        found.bodies[part.index] = part.body
        if found.missing:
            return None
        del self._open[name]
        body = b"".join(found.bodies[index] for index in range(1, part.total + 1))
        return replace(part, serial=found.first_serial, total=1, index=1, body=body)

    @staticmethod
    def _is_another(found: Gathering, part: Frame) -> bool:
        """The same place in a message, but other content: the terminal has begun anew."""
        return found.bodies.get(part.index, part.body) != part.body

    def overdue(self, device: str, now_s: float) -> Iterator[tuple[int, list[int]]]:
        """What of this terminal is to be asked for again: the first part's serial number and the missing ones.
        Raises FrameError for a message that is given up."""
        for name, found in list(self._open.items()):
            is_at_its_end = found.asked == 0 and found.newest.index == found.newest.total
            if name[0] != device or not (is_at_its_end or now_s - found.heard_s >= ASK_AFTER_S):
                continue
            if found.asked >= ASK_MAX:
                del self._open[name]
                raise FrameError(f"parts {found.missing} of message {name[1]:04x} did not come")
            found.asked += 1
            found.heard_s = now_s
            yield found.first_serial, found.missing
