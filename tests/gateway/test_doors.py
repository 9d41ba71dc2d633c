"""Doors: what follows from contact, lock, exit button and readers, as a table of stories and against a slow second reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

from gateway.config import DoorSection, SiteFile
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.metrics import Metrics
from gateway.model import Event, Kind, Lane, Observation, Place, Qualifier, Scalar
from gateway.rules.doors import RELOCK_GRACE_S, Doors
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

SOURCE = Source("test", "c1", 60.0)


def door(name: str = "east", **more: object) -> DoorSection:
    """Contact zone 1, button 2, lock 3 of an I/O module of the door's name, and a reader of its own."""
    given = {
        "name": name,
        "contact": {"device": f"{name}-io", "zone": 1},
        "exit": [{"device": f"{name}-io", "zone": 2}],
        "lock": {"device": f"{name}-io", "zone": 3},
        "readers": [{"device": f"{name}-reader"}],
        "unlock_s": 8,
        "held_open_s": 30,
        "denials": 3,
        "denials_within_s": 60,
    }
    return DoorSection.model_validate({**given, **more})


WORDS = {
    "opens": ("io", Kind.DOOR_OPEN, Qualifier.NEW, 1),
    "closes": ("io", Kind.DOOR_OPEN, Qualifier.RESTORE, 1),
    "button": ("io", Kind.EXIT_REQUEST, Qualifier.NEW, 2),
    "button-up": ("io", Kind.EXIT_REQUEST, Qualifier.RESTORE, 2),
    "unlocks": ("io", Kind.UNLOCKED, Qualifier.NEW, 3),
    "locks": ("io", Kind.UNLOCKED, Qualifier.RESTORE, 3),
    "grant": ("reader", Kind.ACCESS_GRANTED, Qualifier.NEW, None),
    "deny": ("reader", Kind.ACCESS_DENIED, Qualifier.NEW, None),
    "grant-duress": ("reader", Kind.ACCESS_GRANTED, Qualifier.NEW, None),
    "deny-duress": ("reader", Kind.ACCESS_DENIED, Qualifier.NEW, None),
    "test-opens": ("io", Kind.DOOR_OPEN, Qualifier.NEW, 1),
    "open-sent": ("io", Kind.COMMAND, Qualifier.NEW, 3),
    "open-expired": ("io", Kind.COMMAND, Qualifier.NEW, None),
    "unlock-executed": ("io", Kind.COMMAND, Qualifier.NEW, None),
    "lock-executed": ("io", Kind.COMMAND, Qualifier.NEW, None),
    "tamper": ("reader", Kind.TAMPER, Qualifier.NEW, None),
    "other-contact": ("io", Kind.DOOR_OPEN, Qualifier.NEW, 9),
}


def observation(word: str) -> Observation:
    """`east:opens` in the driver's words; without a name it is the east door."""
    name, _, said = word.rpartition(":")
    suffix, kind, qualifier, zone = WORDS[said]
    values: dict[str, Scalar] = {"duress": True} if said.endswith("-duress") else {}
    if kind is Kind.COMMAND:
        values["act"], values["state"] = said.split("-")
    is_test = said.startswith("test-")
    return Observation(f"{name or 'east'}-{suffix}", kind, qualifier, zone=zone, values=values, test=is_test)


class Places:
    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A10B", "阳泗小区", "p1", zone or 0, "东门")


@dataclass
class Box:
    """Real intake and store; each moment of the story passes second by second."""

    store: SqliteStore
    clock: JumpingClock
    doors: Sequence[DoorSection]
    watch: Doors = field(init=False)
    seq: int = 0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A process that knows nothing yet."""
        self.watch = Doors(self.doors)
        self.intake = Intake(
            store=self.store, places=Places(), routes=[Route("110", frozenset(Lane))], ids=EventIds(self.clock, Random(1)),
            clock=self.clock, metrics=Metrics(), heard=lambda device, source: None, watches=[self.watch],
        )  # fmt: skip

    async def pass_by(self, seconds: float) -> list[str]:
        said: list[str] = []
        while seconds > 0:
            step = min(1.0, seconds)
            await self.clock.advance(step)
            seconds -= step
            await self.intake._say_due()
            said += await self.news()
        return said

    async def happens(self, word: str) -> list[str]:
        if word == "restart":
            self.begin()
            await self.intake.load()
        else:
            await (await self.intake.report(SOURCE, [observation(word)]))
        return await self.news()

    async def news(self) -> list[str]:
        """What was derived since the last look."""
        events = await self.store.events(EventFilter(), after_seq=self.seq, limit=1000)
        self.seq = events[-1].seq if events else self.seq
        return [short(event) for event in events if event.driver == "rules"]


def short(event: Event) -> str:
    name = event.device.rpartition("-")[0]
    mark = "" if event.qualifier is Qualifier.NEW else "-end"
    return ("" if name == "east" else f"{name}:") + f"{event.kind}{mark}" + ("(test)" if event.test else "")


@pytest.fixture
async def store(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    yield opened
    await opened.close()


# Each line: seconds to let pass, what happens (or nothing), what is derived in that time.
STORIES: dict[str, tuple[Sequence[DoorSection], str]] = {
    "a door that nobody let open is forced, and that ends when it closes": (
        [door()],
        """
        0 opens      -> door_forced
        50           ->
        0 closes     -> door_forced-end
        """,
    ),
    "each of them lets it: card, button, lock, command": (
        [door()],
        """
        0 grant      ->
        8 opens      ->
        0 closes     ->
        9 button     ->
        3 opens      ->
        0 closes     ->
        9 unlocks    ->
        50 opens     ->
        0 closes     ->
        0 locks      ->
        9 open-sent  ->
        5 opens      ->
        0 closes     ->
        9 unlock-executed ->
        5 opens      ->
        0 closes     ->
        """,
    ),
    "a grant is over after its time": ([door()], "0 grant ->\n 8.5 opens -> door_forced"),
    "a lock that closes while the door moves explains it, later no more": (
        [door()],
        """
        0 unlocks    ->
        20 locks     ->
        2 opens      ->
        0 closes     ->
        0.5 opens    -> door_forced
        """,
    ),
    "the button let go says nothing": ([door()], "0 button-up ->\n 1 opens -> door_forced"),
    "a door held open is a fault, which ends when it closes": (
        [door()],
        """
        0 grant      ->
        2 opens      ->
        29           ->
        1            -> door_held
        300          ->
        0 closes     -> door_held-end
        """,
    ),
    "each who passes has his own time, and an unlocked door stands open": (
        [door()],
        """
        0 grant      ->
        2 opens      ->
        25 grant     ->
        29           ->
        0.5 unlocks  ->
        500          ->
        0 locks      ->
        29           ->
        1            -> door_held
        """,
    ),
    "a forced door is not also held": ([door()], "0 opens -> door_forced\n 100 ->\n 0 closes -> door_forced-end"),
    "an order that did not leave, or that locks, opens nothing": (
        [door()],
        "0 open-expired ->\n 0 lock-executed ->\n 1 opens -> door_forced",
    ),
    "a grant heard late explains the opening": (
        [door(late_s=3)],
        """
        0 opens      ->
        2 grant      ->
        20           ->
        0 closes     ->
        0 grant      ->
        9 opens      ->
        2            ->
        1            -> door_forced
        0 grant      ->
        0 closes     -> door_forced-end
        """,
    ),
    "a door that was forced and closed at once is not forgotten": (
        [door(late_s=3)],
        "0 opens ->\n 1 closes ->\n 1 ->\n 1 -> door_forced door_forced-end",
    ),
    "two doors of a lock open together": (
        [door(group="cash"), door("west", group="cash"), door("north")],
        """
        0 grant         ->
        0 west:grant    ->
        0 north:grant   ->
        1 north:opens   ->
        0 opens         ->
        0 west:opens    -> west:interlock
        0 closes        -> west:interlock-end
        0 opens         -> interlock
        0 west:closes   -> interlock-end
        0 closes        ->
        """,
    ),
    "three refusals within a minute, and then three more": (
        [door()],
        """
        0 deny       ->
        25 deny      ->
        40 deny      ->
        1 deny       -> denied_repeatedly
        0 deny       ->
        0 deny       ->
        1 deny       -> denied_repeatedly
        """,
    ),
    "a grant between ends the count": ([door()], "0 deny ->\n 1 deny ->\n 1 grant ->\n 1 deny ->\n 1 deny ->"),
    "a code given under duress lets through, and says so, at any reader": (
        [door()],
        """
        0 grant-duress       -> duress
        1 opens              ->
        0 west:grant-duress  -> west:duress
        0 deny-duress        -> duress
        """,
    ),
    "a test remains a test": ([door()], "0 test-opens -> door_forced(test)\n 5 closes -> door_forced-end(test)"),
    "a held door after a test opening": ([door()], "0 grant ->\n 0 test-opens ->\n 29 ->\n 1 -> door_held(test)"),
    "another zone of the same module is another matter": ([door()], "0 other-contact ->\n 0 tamper ->"),
    "a contact that says the same again": (
        [door()],
        "0 opens -> door_forced\n 90 opens ->\n 0 closes -> door_forced-end",
    ),
    "a start changes nothing: grant": ([door()], "0 grant ->\n 2 restart ->\n 3 opens ->\n 0 closes ->"),
    "a start changes nothing: held": (
        [door()],
        """
        0 grant      ->
        1 opens      ->
        20 restart   ->
        9            ->
        1            -> door_held
        1 restart    ->
        100          ->
        0 closes     -> door_held-end
        """,
    ),
    "a start changes nothing: forced": (
        [door()],
        "0 opens -> door_forced\n 5 restart ->\n 5 closes -> door_forced-end",
    ),
    "a start changes nothing: refusals": (
        [door()],
        "0 deny ->\n 0 deny ->\n 1 restart ->\n 0 deny -> denied_repeatedly",
    ),
    "a start changes nothing: interlock": (
        [door(group="cash"), door("west", group="cash")],
        """
        0 grant        ->
        0 west:grant   ->
        0 opens        ->
        0 west:opens   -> west:interlock
        0 restart      ->
        5 closes       -> west:interlock-end
        """,
    ),
    "after a long absence an open lock and an open door are still known": (
        [door()],
        """
        0 unlocks     ->
        4000 opens    ->
        4000 restart  ->
        0 closes      ->
        0 opens       ->
        """,
    ),
    "a door found open after a long absence is timed anew": (
        [door(held_open_s=3600)],
        "0 grant ->\n 0 opens ->\n 3000 restart ->\n 599 ->\n 1 -> door_held\n 9000 restart ->\n 0 closes -> door_held-end",
    ),
}


@pytest.mark.parametrize("name", STORIES)
async def test_what_follows(name: str, store: SqliteStore, jumping_clock: JumpingClock) -> None:
    doors, story = STORIES[name]
    box = Box(store, jumping_clock, doors)
    for number, line in enumerate(filter(None, map(str.strip, story.splitlines())), 1):
        left, _, expected = line.partition("->")
        seconds, *word = left.split()
        said = await box.pass_by(float(seconds))
        if word:
            assert not said, f"line {number}, {line!r}: before it"
            said = await box.happens(word[0])
        assert said == expected.split(), f"line {number}, {line!r}"


async def test_what_is_derived_names_the_door_and_stands_at_its_contact(
    store: SqliteStore, jumping_clock: JumpingClock
) -> None:
    box = Box(store, jumping_clock, [door(group="g"), door("west", group="g")])
    for word in ("opens", "west:opens"):
        await box.happens(word)

    *_, interlock = await store.events(EventFilter())
    assert (interlock.device, interlock.zone, interlock.text, interlock.lane) == ("west-io", 1, "west", Lane.ALARM)
    assert interlock.values == {"also_open": "east"}


async def test_doors_change_while_it_runs(store: SqliteStore, jumping_clock: JumpingClock) -> None:
    """What stands raised at a door that is no more ends; one that is new is taken up as it stands."""
    box = Box(store, jumping_clock, [door()])
    assert await box.happens("west:opens") == []
    assert await box.happens("opens") == ["door_forced"]
    box.watch.declare([door("west", held_open_s=10)])
    await box.intake.recall(box.watch)
    assert await box.pass_by(1) == ["door_forced-end"]
    assert await box.happens("opens") == []
    assert await box.pass_by(8) == []
    assert await box.pass_by(1) == ["west:door_held"]
    assert set(box.watch.devices) == {"west-io", "west-reader"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"contact": {"device": "east-io", "zone": 1}, "readers": []}, "each contact at one door only: east-io zone 1"),
        ({"name": "east", "contact": {"device": "x"}}, "each name at one door only: east"),
        ({"readers": [{"device": "east-reader"}]}, "each reader at one door only: east-reader"),
    ],
)
def test_what_can_belong_to_one_door_only(more: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SiteFile(door=(door(), door(**{"name": "west", **more})))


# -- the model: the same promises, read slowly from the whole history ---------------------------------------------------


@dataclass
class Slow:
    """Decides from the whole history each time, without a state."""

    door: DoorSection
    history: list[tuple[float, str]] = field(default_factory=list)

    def happens(self, at_s: float, word: str) -> None:
        """A lock that says again how it stands says nothing."""
        if word == "restart" or (
            word in ("locks", "unlocks") and word == (self._last(("locks", "unlocks"), at_s) or "locks")
        ):
            return
        self.history.append((at_s, word))

    def is_open(self, until_s: float) -> bool:
        return self._last(("opens", "closes"), until_s) == "opens"

    def _last(self, words: Sequence[str], until_s: float) -> str:
        return next((word for at_s, word in reversed(self.history) if word in words and at_s <= until_s), "")

    def may_open(self, before: int, at_s: float) -> bool:
        earlier = self.history[:before]
        state = next((word for _, word in reversed(earlier) if word in ("unlocks", "locks")), "")
        return state == "unlocks" or any(
            at_s - then_s <= (RELOCK_GRACE_S if word == "locks" else self.door.unlock_s)
            for then_s, word in earlier
            if word in ("grant", "button", "locks")
        )

    def openings(self) -> list[int]:
        """Where in the history it began to stand open."""
        found, is_open = [], False
        for position, (_, word) in enumerate(self.history):
            if word == "opens" and not is_open:
                found.append(position)
            is_open = word == "opens" if word in ("opens", "closes") else is_open
        return found

    def stands(self, now_s: float) -> set[Kind]:
        """What must be raised now."""
        if not self.history or not self.is_open(now_s):
            return set()
        opening = self.openings()[-1]
        if not self.may_open(opening, self.history[opening][0]):
            return {Kind.DOOR_FORCED}
        marks = [opening_s := self.history[opening][0]]
        is_unlocked = was_unlocked = False
        for at_s, word in self.history:
            if word in ("unlocks", "locks"):
                is_unlocked = word == "unlocks"
            if word in ("grant", "button", "unlocks", "locks"):
                # A held door stays raised until it closes: later marks count only where it was not held yet.
                if at_s > opening_s and self._held_before(marks, at_s, was_unlocked=was_unlocked):
                    return {Kind.DOOR_HELD}
                marks.append(at_s)
            was_unlocked = is_unlocked
        return {Kind.DOOR_HELD} if self._held_before(marks, now_s, was_unlocked=is_unlocked) else set()

    def _held_before(self, marks: Sequence[float], at_s: float, *, was_unlocked: bool) -> bool:
        return not was_unlocked and at_s - max(marks) >= self.door.held_open_s


@pytest.mark.parametrize("seed", range(12))
async def test_a_long_life_agrees_with_the_slow_reading(seed: int, tmp_path: Path, jumping_clock: JumpingClock) -> None:
    dice = Random(seed)
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    box = Box(store, jumping_clock, [door()])
    slow = Slow(box.doors[0])
    raised: set[Kind] = set()
    words = ("opens", "closes", "opens", "closes", "grant", "button", "unlocks", "locks", "restart")
    for _ in range(100):
        said = await box.pass_by(dice.choice((0, 1, 2, 5, 9, 35)))
        word = dice.choice(words)
        slow.happens(jumping_clock.monotonic(), word)
        said += await box.happens(word)
        said += await box.pass_by(1)
        for each in said:
            kind = Kind(each.removesuffix("-end"))
            assert (kind in raised) is each.endswith("-end"), f"{each} twice"
            raised ^= {kind}
        assert raised == slow.stands(jumping_clock.monotonic()), f"after {slow.history[-6:]}"
    await store.close()
