"""Storm rules: what is said on, what is kept back, and what the receivers believe at every moment. Pure, but for the last part."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from gateway.config import StormsSection
from gateway.model import FACTS, Event, Kind, Lane, Place, Qualifier
from gateway.rules import _buckets, _windows
from gateway.rules._floods import FLOOD_SUMMARY_S, FLOODS_MAX, TRACKED_MAX
from gateway.rules.storms import Reason, Storms

START = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
WINDOW_S = 10.0
LIMITS = StormsSection(window_s=WINDOW_S, burst=5, per_s=0.01, life_burst=10, life_per_s=0.01)
WIDE = StormsSection(window_s=WINDOW_S)
LETTERS = {"A": Qualifier.NEW, "R": Qualifier.RESTORE, "U": Qualifier.UPDATE}


@dataclass
class Desk:
    """The rules with a store that takes everything, and a 110 that believes what it is told."""

    limits: StormsSection = WIDE
    now_s: float = 1000.0
    stored: list[Event] = field(default_factory=list)
    sent: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = (f"id{n}" for n in count(1))
        self.rules = Storms(self.limits, self.next_id)

    def next_id(self) -> str:
        return next(self._ids)

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    def event(
        self, kind: Kind = Kind.BURGLARY, letter: str = "A", zone: int = 1, device: str = "d1", **more: bool
    ) -> Event:
        place = Place("s1", "A10B", "阳泗小区", "p1", zone, "东门")
        return Event(
            self.next_id(), device, kind, LETTERS[letter], FACTS[kind].lane, self.now, "test", "c1", zone=zone, place=place, **more,
        )  # fmt: skip

    def judge(self, event: Event) -> tuple[Event, list[Event]]:
        event, said = self.rules.judge(event, self.now_s)
        return event, [*said, event]

    def say(
        self, letters: str, kind: Kind = Kind.BURGLARY, zone: int = 1, device: str = "d1", *, is_stored: bool = True
    ) -> None:
        """What the device says, each word with a commit of its own."""
        for letter in letters:
            _, batch = self.judge(self.event(kind, letter, zone, device))
            self.settle(batch, is_stored=is_stored)

    def settle(self, batch: list[Event], *, is_stored: bool = True) -> list[Reason | None]:
        if is_stored:
            self.stored += batch
            self.sent += [event for event in batch if event.suppressed_by is None]
        return [self.rules.settled(event, is_stored=is_stored) for event in batch]

    def look(self, *, is_stored: bool = True) -> None:
        """What the gateway does once a second."""
        self.settle(list(self.rules.due(self.now_s, self.now)), is_stored=is_stored)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.look()

    def told(self, kind: Kind | None = Kind.BURGLARY) -> str:
        """What was sent about a kind, in letters; a summary with its count."""
        words = {Qualifier.NEW: "A", Qualifier.RESTORE: "R", Qualifier.UPDATE: "U"}
        return "".join(
            words[event.qualifier] + str(event.values.get("repeats", ""))
            for event in self.sent
            if kind in (event.kind, None)
        )

    def restart(self) -> None:
        """A crash: what was not stored is forgotten, what was is read again."""
        self.rules = Storms(self.limits, self.next_id)
        self.rules.recall(self.stored, self.now_s, self.now)


# -- one condition ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "then", "at_the_end"),
    [
        ("A", "A", ""),
        ("AAAA", "A", "U3"),
        ("AR", "AR", ""),
        ("ARA", "ARA", ""),
        ("ARAR", "ARA", "R"),
        ("AAAAR", "A", "U3R"),
        ("AAAARA", "A", "U4"),
        ("ARARARARAR", "ARA", "U3R"),
        ("ARARARARARA", "ARA", "U4"),
        ("ARR", "AR", ""),
        ("R", "R", ""),
        ("AUU", "A", "U2"),
        ("UA", "UA", ""),
        ("UUA", "UUA", ""),
    ],
)
def test_what_is_said_in_the_window_and_at_its_end(said: str, then: str, at_the_end: str) -> None:
    """The table of gateway.rules.storms, and the truth at every moment: never believed to have ended while it goes on."""
    desk = Desk()
    for letter in said:
        desk.say(letter)
        assert not (letter != "R" and _believed(desk) == "R"), "an alarm goes on and the desk holds it for ended"
    assert desk.told() == then

    desk.wait(WINDOW_S)
    assert desk.told() == then + at_the_end
    assert (_believed(desk) == "R") == (said[-1] == "R")
    assert len(desk.stored) == len(said) + len(re.findall("[AUR]", at_the_end))
    assert desk.rules.windows == 0


def _believed(desk: Desk) -> str:
    return re.sub(r"\d", "", desk.told())[-1]


def test_a_repeat_and_its_summary_name_the_alarm_that_speaks_for_them() -> None:
    desk = Desk()
    desk.say("AAR")
    desk.wait(WINDOW_S)
    alarm, repeat, restore, summary, end = desk.stored

    assert (repeat.suppressed_by, restore.suppressed_by, alarm.suppressed_by) == (alarm.id, alarm.id, None)
    assert summary.values == {"of": alarm.id, "repeats": 1}
    assert end.values == {"of": alarm.id}
    assert {(event.kind, event.zone, event.lane, event.place) for event in desk.stored} == {
        (Kind.BURGLARY, 1, Lane.ALARM, alarm.place)
    }


def test_after_the_window_an_alarm_is_an_alarm_again() -> None:
    desk = Desk()
    for _ in range(3):
        desk.say("AA")
        desk.wait(WINDOW_S)

    assert desk.told() == "AU1" * 3


def test_zones_kinds_devices_and_tests_have_windows_of_their_own() -> None:
    desk = Desk()
    desk.say("A")
    desk.say("A", zone=2)
    desk.say("A", device="d2")
    desk.say("A", Kind.TAMPER)
    desk.settle(desk.judge(desk.event(test=True))[1])

    assert [event.suppressed_by for event in desk.stored] == [None] * 5


@pytest.mark.parametrize("kind", [kind for kind, facts in FACTS.items() if facts.momentary])
def test_two_presses_are_two_events(kind: Kind) -> None:
    desk = Desk()
    desk.say("AAA", kind)
    desk.wait(WINDOW_S)

    assert desk.told(kind) == "AAA"


def test_without_a_window_nothing_is_counted_together() -> None:
    desk = Desk(StormsSection(window_s=0))
    desk.say("AARAR")

    assert desk.told() == "AARAR"


def test_a_window_does_not_hold_on_to_a_long_frame() -> None:
    """Ten thousand of them would be some hundred megabytes."""
    desk = Desk()
    for zone, size in enumerate([10, _windows.EXAMPLE_RAW_MAX_BYTES, 64 * 1024]):
        desk.judge(replace(desk.event(zone=zone), raw=bytes(size)))

    held = [len(window.example.raw) for window in desk.rules._windows._open.values()]
    assert held == [10, _windows.EXAMPLE_RAW_MAX_BYTES, 0]


def test_beyond_the_bound_of_windows_alarms_are_sent_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_windows, "WINDOWS_MAX", 2)
    desk = Desk()
    for zone in (1, 2, 3):
        desk.say("AA", zone=zone)

    assert desk.told() == "AAAA"
    assert desk.rules.windows == 2


def test_not_all_windows_of_a_town_are_closed_in_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_windows, "CLOSED_AT_ONCE_MAX", 2)
    desk = Desk()
    for zone in (1, 2, 3):
        desk.say("AA", zone=zone)
    desk.wait(WINDOW_S)
    assert desk.told() == "AAAU1U1"

    desk.wait(1)
    assert desk.told() == "AAAU1U1U1"


def test_conditions_held_for_raised_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_windows, "TOLD_MAX", 3)
    desk = Desk()
    for zone in range(10):
        desk.say("A", zone=zone)

    assert len(desk.rules._windows._told) == 3


# -- what was not stored ------------------------------------------------------------------------------------------------


def test_an_alarm_that_was_not_stored_speaks_for_nobody() -> None:
    desk = Desk()
    desk.say("A", is_stored=False)
    desk.say("A")

    assert desk.told() == "A"


def test_an_alarm_kept_back_for_one_that_was_not_stored_is_said_at_the_next_look() -> None:
    desk = Desk()
    (_, lost), (_, kept) = desk.judge(desk.event()), desk.judge(desk.event())
    desk.settle(lost, is_stored=False)
    desk.settle(kept)
    desk.wait(1)

    assert desk.told() == "A1"
    assert desk.rules.settled(desk.event(), is_stored=True) is None


def test_a_repeat_that_the_store_knew_is_not_counted() -> None:
    desk = Desk()
    desk.say("A")
    desk.say("A", is_stored=False)
    desk.say("A")
    desk.wait(WINDOW_S)

    assert desk.told() == "AU1"


@pytest.mark.parametrize("letters", ["A", "R", "AR", "RA", "ARA", "ARAR", "AARR"])
@pytest.mark.parametrize("later", ["A", "R", ""])
def test_what_a_device_says_again_after_a_restart_changes_nothing(letters: str, later: str) -> None:
    """All of it is on the way at once, and the store has all of it: nothing more is said."""
    desk = Desk()
    desk.say(letters + later)
    desk.wait(WINDOW_S)
    before = desk.told()
    desk.restart()
    batches = [desk.judge(desk.event(letter=letter))[1] for letter in letters]
    for batch in batches:
        desk.settle(batch, is_stored=False)
    desk.wait(1)
    desk.wait(WINDOW_S)
    assert desk.told() == before

    desk.say("R" if (letters + later)[-1] == "A" else "A")
    assert re.sub(r"\d", "", desk.told())[len(re.sub(r"\d", "", before)) :] in ("R", "A")


def test_what_ended_storms_leave_to_say_is_said_until_it_is_stored() -> None:
    desk = Desk()
    desk.say("AAR")
    desk.now_s += WINDOW_S
    desk.look(is_stored=False)
    assert desk.told() == "A"

    desk.look()
    assert desk.told() == "AU1R"


# -- one source ------------------------------------------------------------------------------------------------------------


def test_a_flood_is_said_once_summed_up_and_ended() -> None:
    desk = Desk(LIMITS)
    for zone in range(1, 12):
        desk.say("A", Kind.TAMPER, zone)
        desk.say("R", Kind.TAMPER, zone)
    begin = next(event for event in desk.sent if event.kind is Kind.FLOODING)
    kept = [event for event in desk.stored if event.suppressed_by == begin.id]

    assert desk.rules.flooding == 1
    assert (begin.lane, begin.device, begin.place and (begin.place.number, begin.place.point)) == (
        Lane.FAULT,
        "d1",
        (0, None),
    )
    desk.wait(FLOOD_SUMMARY_S)
    assert desk.sent[-1].values == {"of": begin.id, "suppressed": len(kept), "tamper": len(kept)}
    desk.wait(FLOOD_SUMMARY_S)
    assert desk.told(Kind.FLOODING) == "AUR"
    assert desk.rules.flooding == 0
    assert len([event for event in desk.stored if event.kind is Kind.TAMPER and event.driver == "test"]) == 22


def test_what_still_stands_when_a_source_floods_is_said_within_a_minute() -> None:
    desk = Desk(LIMITS)
    desk.say("AAAAA", Kind.UNKNOWN)
    desk.say("A", zone=1)
    desk.say("AR", zone=2)
    assert desk.told() == ""

    desk.wait(FLOOD_SUMMARY_S)
    assert [(event.qualifier, event.zone) for event in desk.sent if event.kind is Kind.BURGLARY] == [(Qualifier.NEW, 1)]


@pytest.mark.parametrize(("said", "at_the_end"), [("R", "R"), ("AAR", "U2R"), ("RA", "U1")])
def test_a_restore_of_a_flooding_source_comes_at_the_end_of_its_alarms_window(said: str, at_the_end: str) -> None:
    desk = Desk(LIMITS)
    desk.say("A")
    desk.say("AAAAA", Kind.UNKNOWN)
    desk.say(said)
    assert desk.told() == "A"

    desk.wait(WINDOW_S)
    assert desk.told() == "A" + at_the_end


def test_a_restore_of_an_alarm_long_told_is_not_forgotten_in_a_flood() -> None:
    desk = Desk(LIMITS)
    desk.say("A")
    desk.wait(WINDOW_S)
    desk.say("AAAAA", Kind.UNKNOWN)
    desk.say("R")
    assert desk.told() == "A"

    desk.wait(FLOOD_SUMMARY_S)
    assert desk.told() == "AR"


@pytest.mark.row("H5")
def test_ten_presses_all_arrive_and_a_stolen_button_does_not_block_the_desk() -> None:
    desk = Desk(LIMITS)
    desk.say("A" * 10, Kind.PANIC)
    assert desk.told(Kind.PANIC) == "A" * 10

    desk.say("A" * 1000, Kind.PANIC)
    desk.say("A", Kind.PANIC, device="d2")
    assert desk.told(Kind.PANIC) == "A" * 11
    assert desk.sent[-1].device == "d2"


def test_a_flood_of_positions_or_alarms_leaves_room_for_the_same_devices_panic() -> None:
    desk = Desk(LIMITS)
    desk.say("A" * 100, Kind.POSITION)
    desk.say("A" * 100, Kind.UNKNOWN)
    desk.say("A", Kind.PANIC)

    assert desk.told(Kind.PANIC) == "A"


def test_a_source_within_its_measure_is_never_limited() -> None:
    desk = Desk(StormsSection(per_s=2.0))
    for _ in range(1000):
        desk.say("A", Kind.UNKNOWN)
        desk.wait(0.5)

    assert desk.told(Kind.UNKNOWN) == "A" * 1000
    assert desk.rules.flooding == 0


def test_a_flood_whose_beginning_was_not_stored_begins_at_the_next_look_under_the_same_id() -> None:
    desk = Desk(LIMITS)
    desk.say("AAAAA", Kind.UNKNOWN)
    event, (begin, kept) = desk.judge(desk.event(Kind.UNKNOWN))
    desk.settle([begin, kept], is_stored=False)
    desk.look()

    assert event.suppressed_by == begin.id == desk.sent[-1].id
    desk.wait(1)
    assert desk.told(Kind.FLOODING) == "AR"


@pytest.mark.parametrize("ends", [False, True])
def test_the_words_of_a_flood_are_said_until_they_are_stored(ends: bool) -> None:
    desk = Desk(LIMITS)
    desk.say("A" * 8, Kind.UNKNOWN)
    if ends:
        desk.wait(FLOOD_SUMMARY_S)
    desk.now_s += FLOOD_SUMMARY_S
    desk.look(is_stored=False)
    desk.wait(FLOOD_SUMMARY_S)
    if not ends:
        desk.wait(FLOOD_SUMMARY_S)

    assert desk.told(Kind.FLOODING) == "AUR"
    assert [event.values.get("suppressed") for event in desk.sent if event.kind is Kind.FLOODING] == [None, 3, None]


def test_limits_may_change_while_a_source_floods() -> None:
    desk = Desk(LIMITS)
    desk.say("A" * 8, Kind.UNKNOWN)
    desk.rules.limit(StormsSection(window_s=0, burst=100))
    desk.say("A" * 8, Kind.UNKNOWN)
    desk.wait(FLOOD_SUMMARY_S)
    desk.wait(FLOOD_SUMMARY_S)

    assert (desk.told(Kind.UNKNOWN), desk.told(Kind.FLOODING)) == ("A" * 13, "AUR")


def test_zones_that_a_flooding_source_invents_are_only_counted() -> None:
    desk = Desk(LIMITS)
    for zone in range(TRACKED_MAX * 2):
        desk.say("A", zone=zone)
    desk.wait(FLOOD_SUMMARY_S)

    assert len(re.sub(r"\d", "", desk.told())) == LIMITS.burst + TRACKED_MAX


def test_the_source_beyond_the_bound_of_floods_is_not_limited() -> None:
    desk = Desk(StormsSection(burst=1, per_s=0.001))
    for n in range(FLOODS_MAX + 1):
        desk.say("AA", Kind.UNKNOWN, device=f"d{n}")

    assert desk.rules.flooding == FLOODS_MAX
    assert len([event for event in desk.sent if event.device == f"d{FLOODS_MAX}"]) == 2


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_buckets, "BUCKETS_MAX", 3)
    buckets = _buckets.Buckets(burst=1, per_s=1, life_burst=1, life_per_s=1)
    for n in range(10):
        buckets.take(f"d{n}", Lane.ALARM, 0.0)

    assert len(buckets._buckets) == 3


# -- a crash -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["A", "AAAA", "AR", "ARA", "ARAR", "AAAAR", "AAAARA", "ARARARARAR"])
@pytest.mark.parametrize("at", range(1, 11))
@pytest.mark.parametrize("away_s", [0.0, 5.0, 3600.0])
def test_a_crash_in_a_window_changes_neither_count_nor_state(said: str, at: int, away_s: float) -> None:
    """Whatever the moment: the same words reach the desk as without it."""
    unhurt, desk = Desk(), Desk()
    unhurt.say(said)
    unhurt.wait(WINDOW_S)
    desk.say(said[:at])
    desk.restart()
    if away_s < WINDOW_S or at >= len(said):
        desk.wait(away_s)
        desk.say(said[at:])
        desk.wait(WINDOW_S)
        assert desk.told() == unhurt.told()


@pytest.mark.parametrize("at", range(1, 31, 3))
def test_a_crash_in_a_flood_loses_no_count_and_no_state(at: int) -> None:
    desk = Desk(LIMITS)
    for n, zone in enumerate([*range(10), *range(10), *range(10)]):
        if n == at:
            desk.restart()
        desk.say("R" if 10 <= n < 20 and zone % 2 else "A", zone=zone)
    desk.restart()
    desk.wait(FLOOD_SUMMARY_S)
    desk.wait(FLOOD_SUMMARY_S)
    flood = [event for event in desk.sent if event.kind is Kind.FLOODING]
    by_id = {event.id for event in flood if event.qualifier is Qualifier.NEW}
    kept = [event for event in desk.stored if event.suppressed_by in by_id]

    believed = {event.zone for event in desk.sent if event.kind is Kind.BURGLARY and event.qualifier is Qualifier.NEW}
    assert believed == set(range(10))
    assert sum(int(str(event.values.get("suppressed", 0))) for event in flood) == len(kept)
    assert flood[-1].qualifier is Qualifier.RESTORE
