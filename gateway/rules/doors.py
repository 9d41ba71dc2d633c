"""Doors: what follows when a contact, a lock, an exit button and readers are one door. The only place where it is derived.

| seen                                                          | follows                                              |
| ---                                                           | ---                                                  |
| opens while nobody let it (grant, exit button, lock, command) | `door_forced`, at once or after `late_s`              |
| stays open longer than `held_open_s` since somebody let it    | `door_held`                                          |
| opens while another door of its group is open                 | `interlock`, which ends with one door open or none   |
| closes                                                        | the end of `door_forced` and `door_held`             |
| `denials` refusals at its readers within `denials_within_s`   | `denied_repeatedly`                                  |
| a grant or refusal that a driver marks `duress`               | `duress`, at any reader, declared or not             |

An open door that was forced is not also held. A tamper needs no rule: it is an event of its own. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from gateway.acts import Act, CommandState
from gateway.config import DoorPart, DoorSection
from gateway.kinds import Kind, Qualifier
from gateway.model import Event, Observation
from gateway.rules.watching import Memory, Words

RELOCK_GRACE_S = 2.0
"""A door may be on its way open when its lock is told to close, and contact and lock are not polled in one moment."""

LOOK_S = 2.0
"""`due` is asked once a second; what was left unjudged longer than this had been judged."""

NEVER_S = float("-inf")


class Part(Enum):
    """What of a door an event is about."""

    CONTACT = frozenset({Kind.DOOR_OPEN, Kind.DOOR_FORCED, Kind.DOOR_HELD, Kind.INTERLOCK})
    LOCK = frozenset({Kind.UNLOCKED, Kind.COMMAND})
    EXIT = frozenset({Kind.EXIT_REQUEST})
    READER = frozenset({Kind.ACCESS_GRANTED, Kind.ACCESS_DENIED, Kind.DENIED_REPEATEDLY})


OPENING = frozenset({Act.OPEN.value, Act.UNLOCK.value})
LEFT = frozenset({CommandState.SENT.value, CommandState.EXECUTED.value})

DERIVED = (Kind.DOOR_FORCED, Kind.DOOR_HELD, Kind.INTERLOCK)
"""What begins here also ends here."""


@dataclass(frozen=True, slots=True)
class State:
    """One door. Moments are monotonic seconds."""

    key: str
    is_open: bool = False
    opened_s: float = NEVER_S
    is_unlocked: bool = False
    free_until_s: float = NEVER_S
    """Until then it may be opened."""
    let_s: float = NEVER_S
    """When somebody was last let through."""
    unexplained_s: float | None = None
    """It was opened then, and nobody had let it; not yet judged."""
    denied_s: tuple[float, ...] = ()
    raised: frozenset[Kind] = frozenset()
    test: bool = False
    """The opening was part of a test, and so is what follows from it."""


class Doors:
    """A `Watch`. `declare` may be called again while the gateway runs."""

    def __init__(self, doors: Sequence[DoorSection] = ()) -> None:
        self._memory = Memory[State](State, self._step)
        self._doors: dict[str, DoorSection] = {}
        self._gone: dict[str, DoorSection] = {}
        self.declare(doors)

    def declare(self, doors: Sequence[DoorSection]) -> None:
        """From now on these are the doors. What stands raised at one that is no more ends at the next look."""
        self._gone |= self._doors
        self._doors = {key_of(door.contact): door for door in doors}
        self._gone = {key: door for key, door in self._gone.items() if key not in self._doors}
        self._groups: dict[str, list[str]] = {}
        for key, door in self._doors.items():
            if door.group:
                self._groups.setdefault(door.group, []).append(key)
        self.memory_s = max(
            (max(door.held_open_s, door.denials_within_s, door.unlock_s) for door in doors), default=0.0
        )
        self._index()

    def _index(self) -> None:
        self._parts: dict[str, list[tuple[Part, int | None, str]]] = {}
        for key, door in {**self._gone, **self._doors}.items():
            for part, of in _parts(door):
                self._parts.setdefault(of.device, []).append((part, of.zone, key))

    @property
    def devices(self) -> Collection[str]:
        return self._parts

    # -- a Watch -------------------------------------------------------------------------------------------------------

    def keeps(self, observation: Observation) -> bool:
        return True

    def seen(self, event: Event, now_s: float) -> Iterable[Observation]:
        if event.kind in (Kind.ACCESS_GRANTED, Kind.ACCESS_DENIED) and event.values.get("duress") is True:
            return (Observation(event.device, Kind.DURESS, zone=event.zone, test=event.test), *self._seen(event, now_s))
        return tuple(self._seen(event, now_s)) if event.device in self._parts else ()

    def settled(self, event: Event, *, is_stored: bool) -> None:
        self._memory.settled(event, is_stored=is_stored)

    def due(self, now_s: float, now: datetime) -> Iterable[Observation]:
        for key, door in self._doors.items():
            state = self._memory[key]
            if state.unexplained_s is not None and now_s - state.unexplained_s >= door.late_s:
                yield _said(door, Kind.DOOR_FORCED, Qualifier.NEW, test=state.test)
            elif self._is_held(state, door, now_s):
                yield _said(door, Kind.DOOR_HELD, Qualifier.NEW, test=state.test)
            yield from self._over(key)
        for key in list(self._gone):
            yield from self._over(key)
            if not self._memory[key].raised and self._memory.forget(key):
                del self._gone[key]
                self._index()

    def recall(self, words: Mapping[str, Words], events: Iterable[Event], now_s: float, now: datetime) -> None:
        fresh = {key for key in self._doors if key not in self._memory}
        told = [(now_s - max(0.0, (now - event.received_at).total_seconds()), event) for event in events]
        about = [(key, at_s, event) for at_s, event in told for key in self._keys(event) if key in fresh]
        first: dict[tuple[str, Kind], bool] = {}
        for key, _, event in about:
            first.setdefault((key, event.kind), event.qualifier is not Qualifier.RESTORE)
        for key in fresh:
            self._memory[key] = self._before(key, words, first, now_s)
        for key, at_s, event in about:
            self._memory.recall(key, event, at_s)
        if told:
            self._judge_no_more(fresh, told[-1][0])

    def _judge_no_more(self, keys: Iterable[str], newest_s: float) -> None:
        """What could be judged in the last life was: its openings are not judged by the part of the history read here."""
        for key in keys:
            state, late_s = self._memory[key], self._doors[key].late_s
            if state.unexplained_s is not None and (not late_s or newest_s - state.unexplained_s > late_s + LOOK_S):
                self._memory[key] = replace(state, unexplained_s=None)

    # -- what an event does --------------------------------------------------------------------------------------------

    def _keys(self, event: Event) -> Iterator[str]:
        """The doors it is about."""
        for part, zone, key in self._parts.get(event.device, ()):
            is_all_locks = event.kind is Kind.COMMAND and event.zone is None
            if event.kind in part.value and (zone in (None, event.zone) or is_all_locks):
                yield key

    def _step(self, state: State, event: Event, at_s: float) -> State:
        begins = event.qualifier is not Qualifier.RESTORE
        if event.kind in DERIVED:
            state = replace(state, raised=state.raised | {event.kind} if begins else state.raised - {event.kind})
            return replace(state, unexplained_s=None) if event.kind is Kind.DOOR_FORCED else state
        return self._told(state, event, at_s, begins=begins)

    def _told(self, state: State, event: Event, at_s: float, *, begins: bool) -> State:
        """After what a device said."""
        door = self._doors.get(state.key) or self._gone[state.key]
        if event.kind is Kind.DOOR_OPEN:
            return self._moved(state, at_s, is_open=begins, test=event.test)
        if event.kind is Kind.UNLOCKED:
            until_s = NEVER_S if begins else at_s + RELOCK_GRACE_S
            is_news = begins is not state.is_unlocked
            return _let(replace(state, is_unlocked=begins), door, at_s, until_s) if is_news else state
        if event.kind is Kind.DENIED_REPEATEDLY:
            return replace(state, denied_s=())
        if event.kind is Kind.ACCESS_DENIED:
            recent = [denied_s for denied_s in state.denied_s if at_s - denied_s < door.denials_within_s]
            return replace(state, denied_s=(*recent, at_s)[-door.denials :])
        if begins and (event.kind is not Kind.COMMAND or _has_opened(event)):  # the exit button's release says nothing
            return replace(_let(state, door, at_s, at_s + door.unlock_s), denied_s=())
        return state

    def _moved(self, state: State, at_s: float, *, is_open: bool, test: bool) -> State:
        if not is_open or state.is_open:
            return replace(state, is_open=is_open)
        is_let = state.is_unlocked or at_s <= state.free_until_s
        return replace(state, is_open=True, opened_s=at_s, unexplained_s=None if is_let else at_s, test=test)

    def _seen(self, event: Event, now_s: float) -> Iterator[Observation]:
        for key in self._keys(event):
            before = self._memory[key]
            after = self._memory.take(key, event, now_s)
            door = self._doors.get(key)
            if door is None or event.kind in DERIVED:
                continue
            if after.is_open and not before.is_open:
                yield from self._opened(key, door, after)
            if before.is_open and not after.is_open:
                for each in self._groups.get(door.group, (key,)):
                    yield from self._over(each)
            if len(after.denied_s) >= door.denials:
                values = {"denials": door.denials}
                yield Observation(
                    event.device,
                    Kind.DENIED_REPEATEDLY,
                    zone=event.zone,
                    text=door.name,
                    values=values,
                    test=event.test,
                )

    def _opened(self, key: str, door: DoorSection, state: State) -> Iterator[Observation]:
        if state.unexplained_s is not None and not door.late_s:
            yield _said(door, Kind.DOOR_FORCED, Qualifier.NEW, test=state.test)
        also = [self._doors[other].name for other in self._open_in(door.group) if other != key]
        if also and Kind.INTERLOCK not in state.raised:
            yield replace(
                _said(door, Kind.INTERLOCK, Qualifier.NEW, test=state.test), values={"also_open": ", ".join(also)}
            )

    # -- what stands, and what is over ---------------------------------------------------------------------------------

    def _open_in(self, group: str) -> list[str]:
        return [key for key in self._groups.get(group, ()) if self._memory[key].is_open]

    def _is_held(self, state: State, door: DoorSection, now_s: float) -> bool:
        if not state.is_open or state.is_unlocked or state.raised & {Kind.DOOR_FORCED, Kind.DOOR_HELD}:
            return False
        since_s = max(state.opened_s, state.let_s)
        return state.unexplained_s is None and now_s - since_s >= door.held_open_s

    def _over(self, key: str) -> Iterator[Observation]:
        """The ends of what was raised at this door and does not hold any more."""
        state, door = self._memory[key], self._doors.get(key)
        for kind in DERIVED:
            if kind not in state.raised:
                continue
            if door is None:
                holds = False
            elif kind is Kind.INTERLOCK:
                holds = len(self._open_in(door.group)) > 1
            else:
                holds = state.is_open
            if not holds:
                yield _said(door or self._gone[key], kind, Qualifier.RESTORE, test=state.test)

    def _before(
        self, key: str, words: Mapping[str, Words], first: Mapping[tuple[str, Kind], bool], now_s: float
    ) -> State:
        """A door before the first events read: they came because it was the other way; without any, the last word stands.
        How long it has stood nobody knows then: what it is timed by begins anew."""
        door = self._doors[key]

        def stood(of: DoorPart | None, kind: Kind) -> bool:
            return not first[key, kind] if (key, kind) in first else of is not None and _stands(words, of, kind)

        is_open = stood(door.contact, Kind.DOOR_OPEN)
        return State(
            key,
            is_open=is_open,
            opened_s=now_s if is_open else NEVER_S,
            is_unlocked=stood(door.lock, Kind.UNLOCKED),
            raised=frozenset(kind for kind in DERIVED if stood(door.contact, kind)),
        )


def _stands(words: Mapping[str, Words], of: DoorPart, kind: Kind) -> bool:
    return any(
        known is kind and of.zone in (None, zone) and qualifier is not Qualifier.RESTORE
        for (known, zone), qualifier in words.get(of.device, {}).items()
    )


def key_of(contact: DoorPart) -> str:
    """A door is its contact: two doors cannot have one."""
    return f"{contact.device}\n{contact.zone}"


def _parts(door: DoorSection) -> Iterator[tuple[Part, DoorPart]]:
    yield Part.CONTACT, door.contact
    if door.lock:
        yield Part.LOCK, door.lock
    yield from ((Part.EXIT, part) for part in door.exit)
    yield from ((Part.READER, part) for part in door.readers)


def _let(state: State, door: DoorSection, at_s: float, until_s: float) -> State:
    """Somebody is let through, perhaps a little after the door is seen to open."""
    late = state.unexplained_s is not None and at_s - state.unexplained_s <= door.late_s
    return replace(
        state,
        free_until_s=max(state.free_until_s, until_s),
        let_s=at_s,
        unexplained_s=None if late else state.unexplained_s,
    )


def _has_opened(event: Event) -> bool:
    """Whether it says that an order to open has left, or was carried out."""
    return event.values.get("act") in OPENING and event.values.get("state") in LEFT


def _said(door: DoorSection, kind: Kind, qualifier: Qualifier, *, test: bool) -> Observation:
    return Observation(door.contact.device, kind, qualifier, zone=door.contact.zone, text=door.name, test=test)
