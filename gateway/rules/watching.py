"""Watches: what follows from events over time (a door forced, a vehicle moved while parked), derived in one place.

A watch holds a state for each thing it watches, and that state is a fold over the stored events, its own among them. So
it can be had again from the log after a start, and an event that was not stored has never been. Pure: no clock, no await.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from gateway.kinds import Kind, Qualifier
from gateway.model import Event, Observation

RULES = "rules"
"""Driver and connection of what follows from other events."""

Words = Mapping[tuple[Kind, int | None], Qualifier]
"""The last stored word of a device on each condition, by kind and zone."""


class Watch(Protocol):
    """Asked about each event before its commit, told afterwards whether it is stored, and looked at once a second.

    A watch changes what it remembers only in `seen` and `settled`, never in `due`: what it says there comes back to it
    through `seen`, and is said again at the next look when it was not stored.
    """

    memory_s: float
    """How far back from the newest stored event `recall` must be given events."""

    @property
    def devices(self) -> Collection[str]:
        """Whose last words `recall` must be given, however old."""

    def keeps(self, observation: Observation) -> bool:
        """False: not stored, only counted. A watch keeps what does not concern it."""

    def seen(self, event: Event, now_s: float) -> Iterable[Observation]:
        """What follows at once; stored in the same transaction behind the event, unless that is a repeat. Nothing
        follows from what a watch itself said."""

    def settled(self, event: Event, *, is_stored: bool) -> None:
        """Once for each event seen. One that is not stored, because it is a repeat or by a fault, has never been."""

    def due(self, now_s: float, now: datetime) -> Iterable[Observation]:
        """What follows from time alone."""

    def recall(self, words: Mapping[str, Words], events: Iterable[Event], now_s: float, now: datetime) -> None:
        """Take up what stood when the gateway ended: last words by device, and the stored events of `memory_s`, oldest
        first."""


State = TypeVar("State")


@dataclass(slots=True)
class _Open:
    """An event whose commit is under way."""

    event: Event
    at_s: float
    is_stored: bool = False


class Memory(Generic[State]):
    """The state of each thing, by its key. `step(state, event, at_s)` gives the next one and changes nothing."""

    def __init__(self, initial: Callable[[str], State], step: Callable[[State, Event, float], State]) -> None:
        self._initial = initial
        self._step = step
        self._states: dict[str, State] = {}
        self._stored: dict[str, State] = {}  # only of what has open events
        self._open: dict[str, deque[_Open]] = {}  # never more than the store takes uncommitted
        self._keys: dict[str, list[str]] = {}

    def __getitem__(self, key: str) -> State:
        found = self._states.get(key)
        return self._initial(key) if found is None else found

    def __contains__(self, key: str) -> bool:
        return key in self._states

    def __setitem__(self, key: str, state: State) -> None:
        """Begin from here, as far as what is on disk goes."""
        self._states[key] = state

    def take(self, key: str, event: Event, at_s: float) -> State:
        """The state with an event that is yet to be stored."""
        state = self[key]
        if key not in self._open:
            self._open[key] = deque()
            self._stored[key] = state
        self._open[key].append(_Open(event, at_s))
        self._keys.setdefault(event.id, []).append(key)
        self._states[key] = state = self._step(state, event, at_s)
        return state

    def recall(self, key: str, event: Event, at_s: float) -> None:
        """The state with an event that is on disk."""
        self._states[key] = self._step(self[key], event, at_s)

    def settled(self, event: Event, *, is_stored: bool) -> None:
        """Keep, or take back, what it did."""
        for key in self._keys.pop(event.id, ()):
            still = self._open[key]
            (own,) = (each for each in still if each.event is event)
            if is_stored:
                own.is_stored = True
            else:
                still.remove(own)
                self._states[key] = self._fold(self._stored[key], still)
            while still and still[0].is_stored:
                first = still.popleft()
                self._stored[key] = self._step(self._stored[key], first.event, first.at_s)
            if not still:
                del self._open[key], self._stored[key]

    def _fold(self, state: State, still: Iterable[_Open]) -> State:
        for each in still:
            state = self._step(state, each.event, each.at_s)
        return state

    def forget(self, key: str) -> bool:
        """It is no longer watched. False while an event of it is under way: then it is not forgotten yet."""
        if key in self._open:
            return False
        self._states.pop(key, None)
        return True
