"""Floods: sources over their limit, what was kept back of each, and what is said about it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.model import FACTS, Event, Kind, Qualifier
from gateway.rules._words import flooding, said

FLOOD_SUMMARY_S = 60.0
"""How often a flood is summed up; also the quiet that ends it, and the longest the state of a flooding source may wait."""

FLOODS_MAX = 1000
"""Sources that flood at once. The next one is not limited: too much at the desk is better than too little."""

TRACKED_MAX = 128
"""Conditions of one flooding source whose state is made good within a minute, the zones of a large panel. Beyond it they are
only counted: a stolen device must not reach the desk by inventing zones."""


@dataclass(slots=True)
class Flood:
    """A source over its limit."""

    id: str
    """Of the fault event, which speaks for all that was kept back."""
    example: Event
    due_s: float
    kept_back: Counter[Kind] = field(default_factory=Counter)
    tracked: int = 0
    must_begin: bool = False
    """Its beginning was not stored."""
    is_guessed: bool = False
    """Known only from what it kept back."""


class Floods:
    """Those that last."""

    def __init__(self, next_id: Callable[[], str]) -> None:
        self._next_id = next_id
        self._floods: dict[str, Flood] = {}
        self._undo: dict[str, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._floods)

    def is_full_for(self, device: str) -> bool:
        """Whether this source, over its limit, is one too many."""
        return device not in self._floods and len(self._floods) >= FLOODS_MAX

    def speaks(self, device: str, event_id: str) -> bool:
        """Whether this is the id of the flood that the source is in."""
        flood = self._floods.get(device)
        return flood is not None and flood.id == event_id

    def keep_back(self, event: Event, now_s: float) -> tuple[Flood, Sequence[Event]]:
        """Count it. Gives its flood, and the fault that says so when it begins here."""
        flood = self._floods.get(event.device)
        if flood is None:
            flood = self.recall(event, self._next_id(), now_s)
            words = [self._begin(flood, event.received_at)]
        else:
            words = []
        flood.kept_back[event.kind] += 1
        return flood, words

    def recall(self, event: Event, event_id: str, since_s: float) -> Flood:
        """A flood of this event's source under this id, nothing kept back so far."""
        flood = self._floods[event.device] = Flood(event_id, flooding(event), since_s + FLOOD_SUMMARY_S)
        return flood

    def guess(self, event: Event, event_id: str, since_s: float) -> None:
        """As `recall`, of a flood whose beginning nobody has seen."""
        self.recall(event, event_id, since_s).is_guessed = True

    @property
    def guessed(self) -> Sequence[str]:
        """Ids of floods whose beginning nobody has seen."""
        return [flood.id for flood in self._floods.values() if flood.is_guessed]

    def begin(self, event_id: str) -> None:
        """No event of this id speaks for what was kept back: the next look says that the flood began."""
        for flood in self._floods.values():
            if flood.id == event_id:
                self._begin_again(flood)

    def forget(self, device: str) -> None:
        """It was over before."""
        self._floods.pop(device, None)

    def may_track(self, flood: Flood) -> bool:
        """Take one of the conditions whose state is remembered."""
        flood.tracked += 1
        return flood.tracked <= TRACKED_MAX

    # -- what is said --------------------------------------------------------------------------------------------------------

    def due(self, now_s: float, now: datetime) -> Sequence[Event]:
        """A line for each flood that lasts, a restore for each that is over."""
        return [self._sum_up(flood, now_s, now) for flood in list(self._floods.values()) if flood.due_s <= now_s]

    def _sum_up(self, flood: Flood, now_s: float, now: datetime) -> Event:
        if flood.must_begin:
            return self._begin(flood, now)
        flood.due_s, flood.tracked = now_s + FLOOD_SUMMARY_S, 0
        counts, flood.kept_back = flood.kept_back, Counter()
        if not counts:
            del self._floods[flood.example.device]
            event = said(flood.example, Qualifier.RESTORE, of=flood.id, event_id=self._next_id(), at=now)
            self._undo[event.id] = lambda: self._go_on(flood)
            return event
        words = "、".join(f"{FACTS[kind].zh}{count}条" for kind, count in counts.most_common())
        event = said(
            flood.example, Qualifier.UPDATE, of=flood.id, event_id=self._next_id(), at=now, text=f"已抑制 {words}",
            values={"suppressed": counts.total(), **{kind.value: count for kind, count in counts.items()}},
        )  # fmt: skip
        self._undo[event.id] = lambda: flood.kept_back.update(counts)
        return event

    def _begin(self, flood: Flood, now: datetime) -> Event:
        flood.must_begin = False
        text = "上报过于频繁,已限制转发"
        event = said(flood.example, Qualifier.NEW, of=flood.id, event_id=flood.id, at=now, text=text)
        self._undo[event.id] = lambda: self._begin_again(flood)
        return event

    # -- what became of it ---------------------------------------------------------------------------------------------------

    def settled(self, event: Event, *, is_stored: bool) -> None:
        """A word about a flood is on disk, or must be said again."""
        undo = self._undo.pop(event.id, None)
        if undo is not None and not is_stored:
            undo()

    def uncount(self, event: Event) -> None:
        """Something kept back was not stored."""
        flood = self._floods.get(event.device)
        if flood is not None and flood.kept_back[event.kind]:
            flood.kept_back = flood.kept_back - Counter([event.kind])

    def _go_on(self, flood: Flood) -> None:
        self._floods.setdefault(flood.example.device, flood)

    def _begin_again(self, flood: Flood) -> None:
        flood.must_begin, flood.due_s = True, 0.0
