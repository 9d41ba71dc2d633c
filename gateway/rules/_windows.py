"""Windows: per condition, what was kept back and until when, and what the receivers were told last. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.model import Event, Kind, Qualifier
from gateway.rules._words import said

WINDOWS_MAX = 10_000
"""Open windows, some 10 MB. Beyond it an alarm is sent without one: too much at the desk is better than too little."""

TOLD_MAX = 50_000
"""Conditions that the receivers hold for raised; the oldest are forgotten first, and their restores are sent as ever."""

EXAMPLE_RAW_MAX_BYTES = 512
"""A window keeps its event as it came, unless the frame is longer: a copy without it costs twice what all else here does."""

CLOSED_AT_ONCE_MAX = 1000
"""Windows closed in one look, so that no alarm waits behind the summaries of a whole town."""

Condition = tuple[str, Kind, int | None, bool]


def condition_of(event: Event) -> Condition:
    """What two words must share to be about the same thing: device, kind, zone, test or not."""
    return event.device, event.kind, event.zone, event.test


@dataclass(frozen=True, slots=True)
class Window:
    """One condition that was raised, and what was kept back of it since."""

    until_s: float
    of: str
    """Id of the event that speaks for what is kept back."""
    example: Event
    is_raised: bool = True
    """What the device said last."""
    repeats: int = 0
    was_restored: bool = False
    """A restore went out: the next one waits for the end."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a condition stands."""

    is_told: bool
    """The receivers hold it for raised."""
    window: Window | None

    def can_wait(self, *, is_raised: bool) -> bool:
        """Whether a word tells the receivers nothing that they must know before the window's end."""
        if self.window is None:
            return False
        if is_raised:
            return self.is_told
        return not self.is_told or self.window.was_restored or self.window.repeats > 0


@dataclass(frozen=True, slots=True)
class Step:
    """One word's change of a condition, kept until the word is on disk."""

    condition: Condition
    was: State
    now: State
    is_raised: bool
    is_sent: bool
    is_counted: bool = False


def _example(event: Event) -> Event:
    return event if len(event.raw) <= EXAMPLE_RAW_MAX_BYTES else replace(event, raw=b"")


class Windows:
    """All conditions that matter at the moment."""

    def __init__(self, next_id: Callable[[], str]) -> None:
        self.length_s = 0.0
        """Of those that open from now on; 0: none does."""
        self._next_id = next_id
        self._open: dict[Condition, Window] = {}
        self._told: OrderedDict[Condition, None] = OrderedDict()
        # Where a word was not stored and others had followed: is it told, is it raised, by what is stored.
        self._unsure: dict[Condition, tuple[bool, bool]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def state(self, condition: Condition) -> State:
        """Where it stands."""
        return State(condition in self._told, self._open.get(condition))

    # -- words -------------------------------------------------------------------------------------------------------------

    def send(self, event: Event, now_s: float) -> Step:
        """The word goes out: an alarm opens a window, in an open one it is noted."""
        condition, is_restore = condition_of(event), event.qualifier is Qualifier.RESTORE
        was = self.state(condition)
        self.tell(condition, is_raised=not is_restore)
        if was.window is not None:
            self._open[condition] = (
                replace(was.window, is_raised=False, was_restored=True)
                if is_restore
                else replace(was.window, is_raised=True, of=event.id)
            )
        elif event.qualifier is Qualifier.NEW and self.length_s:
            self._begin(condition, Window(now_s + self.length_s, event.id, _example(event)))
        return Step(condition, was, self.state(condition), not is_restore, is_sent=True)

    def repeat(self, event: Event) -> Step:
        """The word waits for the end of its window."""
        condition, is_raised = condition_of(event), event.qualifier is not Qualifier.RESTORE
        was = self.state(condition)
        assert was.window is not None
        self._open[condition] = replace(was.window, is_raised=is_raised, repeats=was.window.repeats + is_raised)
        return Step(condition, was, self.state(condition), is_raised, is_sent=False, is_counted=is_raised)

    def track(self, event: Event, *, until_s: float, of: str, may_begin: bool) -> Step:
        """The word was kept back by `of` (a flood): how the condition stands is remembered, in a window of that if need be."""
        condition, is_raised = condition_of(event), event.qualifier is not Qualifier.RESTORE
        was = self.state(condition)
        if was.window is not None:
            self._open[condition] = replace(was.window, is_raised=is_raised)
        elif may_begin:
            self._begin(condition, Window(until_s, of, _example(event), is_raised))
        return Step(condition, was, self.state(condition), is_raised, is_sent=False)

    def tell(self, condition: Condition, *, is_raised: bool) -> None:
        """The receivers are told so."""
        if not is_raised:
            self._told.pop(condition, None)
            return
        self._told[condition] = None
        self._told.move_to_end(condition)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    def drop(self, condition: Condition) -> None:
        """Its window has been closed before."""
        self._open.pop(condition, None)

    def _begin(self, condition: Condition, window: Window) -> None:
        if len(self._open) < WINDOWS_MAX:
            self._open[condition] = window

    # -- the end -----------------------------------------------------------------------------------------------------------

    def ended(self, now_s: float) -> Sequence[Condition]:
        """Some of those whose time has come."""
        return [condition for condition, window in self._open.items() if window.until_s <= now_s][:CLOSED_AT_ONCE_MAX]

    def close(self, condition: Condition, now: datetime) -> tuple[Sequence[Event], Step]:
        """What must still be said, for one commit: the count, then the state where the receivers were told another."""
        was = self.state(condition)
        window = self._open.pop(condition)
        is_told, is_raised = self._unsure.pop(condition, (was.is_told, window.is_raised))
        self.tell(condition, is_raised=is_raised)
        words = []
        if window.repeats and is_told:
            words.append(self._word(window, Qualifier.UPDATE, now))
        if is_told is not is_raised:
            words.append(self._word(window, Qualifier.NEW if is_raised else Qualifier.RESTORE, now))
        return words, Step(condition, was, self.state(condition), is_raised, is_sent=True)

    def _word(self, window: Window, qualifier: Qualifier, now: datetime) -> Event:
        of, event_id = window.of, self._next_id()
        if not window.repeats or qualifier is Qualifier.RESTORE:
            return said(window.example, qualifier, of=of, event_id=event_id, at=now)
        text, values = f"重复报警{window.repeats}次", {"repeats": window.repeats}
        return said(window.example, qualifier, of=of, event_id=event_id, at=now, text=text, values=values)

    # -- what became of a word ---------------------------------------------------------------------------------------------

    def confirm(self, step: Step) -> None:
        """It is on disk."""
        if step.condition in self._unsure:
            told, _ = self._unsure[step.condition]
            self._unsure[step.condition] = step.is_raised if step.is_sent else told, step.is_raised

    def undo(self, step: Step) -> None:
        """It is not: as it was before. Where other words have followed, the next look goes by those that are stored."""
        condition, was, current = step.condition, step.was, self.state(step.condition)
        if current.window is step.now.window and current.is_told is step.now.is_told:
            self.tell(condition, is_raised=was.is_told)
            if was.window is not None:
                self._open[condition] = was.window
            else:
                self._open.pop(condition, None)
            return
        window = current.window or was.window or step.now.window
        if window is not None:
            was_raised = was.window.is_raised if was.window else was.is_told
            self._unsure.setdefault(condition, (was.is_told, was_raised))
            self._open[condition] = replace(window, until_s=0.0, repeats=max(0, window.repeats - step.is_counted))
