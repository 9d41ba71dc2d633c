"""What the receiver would not take, and when it is offered again. Pure: times are passed in."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model import Delivery, Kind, Lane, Qualifier

ASIDE_MAX = 10_000  # rows remembered for a retry of their own, some 2 MB; beyond it they wait for a person
ASIDE_BATCH = 64  # offered again in one go, so that old refusals do not stand in the way of new alarms
ASIDE_PAUSE_S = 60.0  # between two such portions, and the longest a new entry goes unnoticed by the waiter

_Condition = tuple[str, Kind, int | None]


class Aside:
    """Dead rows with a next try, and refused alarms whose restores must not go in their place."""

    def __init__(self) -> None:
        self._due_s: dict[int, float] = {}
        self._unended: dict[_Condition, set[int]] = {}

    def __bool__(self) -> bool:
        """True while anything waits for another try or for the alarm it ends."""
        return bool(self._due_s or self._unended)

    @property
    def has_room(self) -> bool:
        """Whether one more row may be remembered."""
        return len(self._due_s) < ASIDE_MAX

    def refuse(self, row: Delivery) -> None:
        """A restore of this alarm waits from now on."""
        if row.event.lane <= Lane.ALARM and row.event.qualifier is Qualifier.NEW:
            self._unended.setdefault(_condition(row), set()).add(row.event.seq)

    def remember(self, row: Delivery, at_s: float) -> None:
        """Offer the row again at this monotonic time."""
        self._due_s[row.event.seq] = at_s

    def accepted(self, row: Delivery) -> None:
        """The row was taken after all, and so may be what ends it."""
        self._due_s.pop(row.event.seq, None)
        condition = _condition(row)
        if row.event.seq in self._unended.get(condition, ()):
            self._unended[condition].discard(row.event.seq)
            if not self._unended[condition]:
                del self._unended[condition]

    def is_early(self, row: Delivery) -> bool:
        """Whether the row ends an alarm that was refused and is still to be taken."""
        if row.event.qualifier is Qualifier.NEW or row.event.lane > Lane.ALARM:
            return False
        return any(seq < row.event.seq for seq in self._unended.get(_condition(row), ()))

    def due(self, now_s: float) -> Sequence[int]:
        """The oldest rows whose time has come, a portion of them."""
        return sorted(seq for seq, at_s in self._due_s.items() if at_s <= now_s)[:ASIDE_BATCH]

    def offered(self, seqs: Sequence[int]) -> None:
        """These are queued again."""
        for seq in seqs:
            self._due_s.pop(seq, None)

    def wait_s(self, now_s: float) -> float:
        """How long to wait before asking for due rows again."""
        return min([ASIDE_PAUSE_S, *(at_s - now_s for at_s in self._due_s.values())])


def _condition(row: Delivery) -> _Condition:
    return row.event.device, row.event.kind, row.event.zone
