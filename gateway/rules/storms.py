"""Storms: what of a source's words is sent on when it repeats itself or says too much. Everything is recorded, always.

Two rules. *A condition* (device, kind, zone, test or not) that was raised has a window; inside it a word that tells the
receivers nothing new, or that may be taken back a moment later, is kept back and counted. *A source* that says more than its
bucket holds is flooding: what does not fit is kept back, one fault says so when it begins, one line a minute says how much,
and its restore says when it is over. Presses (panic, duress, an unknown code) have no window: two are two.

The receivers never believe less than the truth: an alarm is kept back only while they hold that very condition for raised
or its source floods, and a restore is never sent where its alarm was not.

| in the window of an alarm            | said then                   | said at its end        | they believe, then and at last |
| ---                                  | ---                         | ---                    | ---                            |
| alarm                                | alarm                       |                        | raised, raised                 |
| alarm, n more                        | alarm                       | summary n              | raised, raised                 |
| alarm, restore                       | alarm, restore              |                        | ended, ended                   |
| alarm, restore, alarm                | alarm, restore, alarm       |                        | raised, raised                 |
| alarm, restore, alarm, restore       | alarm, restore, alarm       | restore                | raised, ended                  |
| alarm, n more, restore               | alarm                       | summary n, restore     | raised, ended                  |
| alarm, n more, restore, alarm        | alarm                       | summary n + 1          | raised, raised                 |
| flapping: n times alarm and restore  | alarm, restore, alarm       | summary n - 2, restore | raised, ended                  |
| alarm, restore, restore              | alarm, restore              |                        | ended, ended                   |
| restore alone                        | restore                     |                        | ended, ended                   |
| alarm of a flooding source           |                             | alarm                  | nothing (but the flood), raised |
| the same, and its restore            |                             |                        | nothing (but the flood), nothing |
| alarm; restore when it floods        | alarm                       | restore                | raised, ended                  |
| alarm; n more and a restore when it floods | alarm                 | summary n, restore     | raised, ended                  |

"Still present" counts as one more, and never opens a window. Decisions are taken before the commit and taken back by `settled`
when an event was not stored. Pure: no clock, no disk; times are passed in, monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from gateway.config import StormsSection
from gateway.model import FACTS, Event, Kind, Qualifier
from gateway.rules._buckets import Buckets
from gateway.rules._floods import FLOOD_SUMMARY_S, Flood, Floods
from gateway.rules._windows import Step, Windows, condition_of
from gateway.rules._words import OWN

MEMORY_MARGIN_S = 5.0
"""Looks at what is due come once a second; this much longer reaches the memory that is read at a start."""


class Reason(StrEnum):
    """Why an event was kept back."""

    REPEAT = "repeat"
    FLOOD = "flood"


@dataclass(frozen=True, slots=True)
class _Decision:
    """About one event, until it is settled."""

    reason: Reason | None
    step: Step | None
    """None: a press, which has no state."""


class Storms:
    """Give each event to `judge` before it is stored, tell `settled` what became of it, and store what is `due` each second."""

    def __init__(self, limits: StormsSection, next_id: Callable[[], str]) -> None:
        self._windows = Windows(next_id)
        self._floods = Floods(next_id)
        self._decided: dict[str, _Decision] = {}  # never more than the store takes uncommitted
        self._buckets: Buckets
        self.limit(limits)

    def limit(self, limits: StormsSection) -> None:
        """Other limits from now on. Windows that are open keep their end, buckets are full again."""
        self._windows.length_s = limits.window_s
        self._buckets = Buckets(
            burst=limits.burst, per_s=limits.per_s, life_burst=limits.life_burst, life_per_s=limits.life_per_s
        )

    @property
    def flooding(self) -> int:
        """Sources that flood."""
        return len(self._floods)

    @property
    def windows(self) -> int:
        """Windows that are open."""
        return len(self._windows)

    @property
    def memory_s(self) -> float:
        """How far back from the newest stored event `recall` must look: beyond it everything has been summed up."""
        return max(self._windows.length_s, FLOOD_SUMMARY_S) + MEMORY_MARGIN_S

    # -- deciding ------------------------------------------------------------------------------------------------------

    def judge(self, event: Event, now_s: float) -> tuple[Event, Sequence[Event]]:
        """The event, with `suppressed_by` set when it is kept back, and what must be said before it, in the same commit."""
        if FACTS[event.kind].momentary:
            if self._passes(event, now_s):
                return event, ()
            flood, words = self._floods.keep_back(event, now_s)
            self._decided[event.id] = _Decision(Reason.FLOOD, None)
            return replace(event, suppressed_by=flood.id), words
        state = self._windows.state(condition_of(event))
        can_wait = state.can_wait(is_raised=event.qualifier is not Qualifier.RESTORE)
        if state.window and can_wait and not self._floods.speaks(event.device, state.window.of):
            self._decided[event.id] = _Decision(Reason.REPEAT, self._windows.repeat(event))
            return replace(event, suppressed_by=state.window.of), ()
        if not can_wait and self._passes(event, now_s):
            self._decided[event.id] = _Decision(None, self._windows.send(event, now_s))
            return event, ()
        flood, words = self._floods.keep_back(event, now_s)
        self._decided[event.id] = _Decision(Reason.FLOOD, self._track(event, flood))
        return replace(event, suppressed_by=flood.id), words

    def _passes(self, event: Event, now_s: float) -> bool:
        return self._buckets.take(event.device, event.lane, now_s) or self._floods.is_full_for(event.device)

    def _track(self, event: Event, flood: Flood) -> Step:
        has_window = self._windows.state(condition_of(event)).window is not None
        may_begin = not has_window and self._floods.may_track(flood)
        return self._windows.track(event, until_s=flood.due_s, of=flood.id, may_begin=may_begin)

    def settled(self, event: Event, *, is_stored: bool) -> Reason | None:
        """Take back what was decided about an event that was not stored. Gives why one that is stored was kept back."""
        decision = self._decided.pop(event.id, None)
        if decision is None:
            self._floods.settled(event, is_stored=is_stored)
            return None
        if is_stored:
            if decision.step is not None:
                self._windows.confirm(decision.step)
            return decision.reason
        if decision.reason is Reason.FLOOD:
            self._floods.uncount(event)
        if decision.step is not None:
            self._windows.undo(decision.step)
        return None

    # -- what is left to be said -----------------------------------------------------------------------------------------

    def due(self, now_s: float, now: datetime) -> Sequence[Event]:
        """Counts, and states that were kept back, of windows that have ended and floods that last or are over."""
        said: list[Event] = []
        for condition in self._windows.ended(now_s):
            words, step = self._windows.close(condition, now)
            if words:  # one commit has both
                self._decided[words[0].id] = _Decision(None, step)
            said += words
        return [*said, *self._floods.due(now_s, now)]

    # -- after a start ---------------------------------------------------------------------------------------------------

    def recall(self, events: Iterable[Event], now_s: float, now: datetime) -> None:
        """Take up what stood when the gateway ended, from the stored events of `memory_s`, oldest first."""
        for event in events:
            at_s = now_s - max(0.0, (now - event.received_at).total_seconds())
            if event.driver == OWN:
                self._recall_own(event, at_s)
            elif event.suppressed_by is not None:
                self._recall_kept_back(event, event.suppressed_by, at_s)
            elif event.place is not None and not FACTS[event.kind].momentary:
                self._windows.send(event, at_s)

    @property
    def guessed(self) -> Sequence[str]:
        """After `recall`: ids by which events were kept back, of events that were not among those given. One may be older; or it
        is on no disk: taken for news, known to the store for a repeat, and the gateway died before that was put right."""
        return self._floods.guessed

    def begin(self, event_id: str) -> None:
        """Nothing on disk has this id: the next look says something under it, for those whom it has kept back."""
        self._floods.begin(event_id)

    def _recall_own(self, event: Event, at_s: float) -> None:
        of = event.values.get("of")
        if not isinstance(of, str):
            return  # the gateway's word about itself, or about a silence
        if event.kind is not Kind.FLOODING:
            self._windows.drop(condition_of(event))
            if event.qualifier is not Qualifier.UPDATE:
                self._windows.tell(condition_of(event), is_raised=event.qualifier is Qualifier.NEW)
        elif event.qualifier is Qualifier.RESTORE:
            self._floods.forget(event.device)
        else:
            self._floods.recall(event, of, at_s)

    def _recall_kept_back(self, event: Event, by: str, at_s: float) -> None:
        condition = condition_of(event)
        state = self._windows.state(condition)
        if state.window is not None and state.window.of == by and not self._floods.speaks(event.device, by):
            self._windows.repeat(event)
            return
        if not self._floods.speaks(event.device, by):
            self._floods.guess(event, by, at_s)
        flood, _ = self._floods.keep_back(event, at_s)
        if not FACTS[event.kind].momentary:
            if state.window is None and event.qualifier is Qualifier.RESTORE:
                self._windows.tell(
                    condition, is_raised=True
                )  # or its alarm would stand here too, kept back a moment before
            self._track(event, flood)
