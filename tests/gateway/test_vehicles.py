"""Vehicles: what begins and ends with their fixes, what is kept of them, and the same told by a slow and obvious model."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source, judge
from gateway.kinds import Kind, Lane, Qualifier
from gateway.metrics import Metrics
from gateway.model import Device, Event, FenceRule, Geofence, Observation, Place, Position, Vehicle, VehicleKind
from gateway.rules._ground import METRES_PER_DEGREE, beyond_m, distance_m
from gateway.rules.vehicles import FIXES_MIN, LATE_S, MARGIN_M, MOVED_M, USUAL, Vehicles, unrolled
from gateway.rules.watching import RULES
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
HOME = (37.5, 121.4)
TOWN = Geofence("town", 7, "城区", FenceRule.STAY_IN, (HOME,), radius_m=1000)
BANK = Geofence("bank", 8, "金库", FenceRule.KEEP_OUT, ((37.6, 121.4), (37.6, 121.41), (37.61, 121.41), (37.61, 121.4)))
VAN = Vehicle("van-7", VehicleKind.CASH_TRANSPORT, on_duty=True, geofences=("town", "bank"))
Said = tuple[Kind, Qualifier, int | None]


@dataclass
class Fleet:
    """A ledger in memory."""

    cars: dict[str, Vehicle] = field(default_factory=lambda: {"van-7": VAN})
    fences: dict[str, Geofence] = field(default_factory=lambda: {"town": TOWN, "bank": BANK})
    known: dict[str, Device] = field(default_factory=lambda: {"van-7": Device("van-7", "s1")})

    def vehicle(self, device_id: str) -> Vehicle | None:
        return self.cars.get(device_id)

    def device(self, device_id: str) -> Device | None:
        return self.known.get(device_id)

    def vehicles(self) -> Iterable[Vehicle]:
        return self.cars.values()

    def geofences_of(self, vehicle: Vehicle) -> Sequence[Geofence]:
        return [self.fences[name] for name in vehicle.geofences if name in self.fences]

    def set_duty(self, *, on_duty: bool) -> None:
        self.cars["van-7"] = replace(self.cars["van-7"], on_duty=on_duty)


def north(metres: float) -> tuple[float, float]:
    return HOME[0] + metres / METRES_PER_DEGREE, HOME[1]


class Road:
    """A van that drives, and what the watch says to it; each event is stored unless told otherwise."""

    def __init__(self, fleet: Fleet | None = None) -> None:
        self.fleet = fleet or Fleet()
        self.watch = Vehicles(self.fleet)
        self.seconds = 0.0
        self.said: list[Said] = []
        self._numbers = itertools.count(1)

    def event(self, observation: Observation, driver: str = "jt808") -> Event:
        now = AT + timedelta(seconds=self.seconds)
        place = Place("s1", "A101", "金库", None, 0, "")
        source = Source(driver, driver)
        return judge(observation, source, place=place, event_id=str(next(self._numbers)), now=now, boot="")

    def take(self, observation: Observation, *, is_stored: bool = True) -> list[Said]:
        """One report and all that follows, as the intake does it."""
        cause = self.event(observation)
        follows = [self.event(one, RULES) for one in self.watch.seen(cause, self.seconds)]
        for event in follows:
            assert list(self.watch.seen(event, self.seconds)) == []
        for event in (cause, *follows):
            self.watch.settled(event, is_stored=is_stored)
        said = [(one.kind, one.qualifier, one.zone) for one in follows]
        self.said += said if is_stored else []
        return said

    def look(self) -> list[Said]:
        """What the loop does each second."""
        events = [self.event(one, RULES) for one in self.watch.due(self.seconds, AT + timedelta(seconds=self.seconds))]
        for event in events:
            assert list(self.watch.seen(event, self.seconds)) == []
            self.watch.settled(event, is_stored=True)
        return [(event.kind, event.qualifier, event.zone) for event in events]

    def fix(
        self,
        metres: float = 0.0,
        *,
        kmh: float | None = 40.0,
        after_s: float = 10.0,
        age_s: float = 0.0,
        is_stored: bool = True,
        **values: str | bool,
    ) -> list[Said]:
        """A position so far north of home, `after_s` after the last report."""
        self.seconds += after_s
        at = AT + timedelta(seconds=self.seconds - age_s)
        position = Position(*north(metres), speed_kmh=kmh)
        return self.take(
            Observation("van-7", Kind.POSITION, at=at, position=position, values=values), is_stored=is_stored
        )

    def fixes(self, count: int, metres: float = 0.0, *, kmh: float | None = 40.0, **values: str | bool) -> list[Said]:
        return [word for _ in range(count) for word in self.fix(metres, kmh=kmh, **values)]


@pytest.fixture
def road() -> Road:
    return Road()


NEW, OVER = Qualifier.NEW, Qualifier.RESTORE

# -- overspeed -----------------------------------------------------------------------------------------------------------


def test_overspeed_must_last_and_ends_with_the_first_fix_that_is_not(road: Road) -> None:
    assert road.fix(kmh=95) == []
    assert road.fix(kmh=95, after_s=5) == []
    assert road.fix(kmh=95, after_s=5) == [(Kind.OVERSPEED, NEW, None)]
    assert road.fix(kmh=120) == []
    assert road.fix(kmh=80) == [(Kind.OVERSPEED, OVER, None)]
    assert road.fix(kmh=80) == []


def test_a_fix_without_a_speed_changes_nothing_about_it(road: Road) -> None:
    road.fixes(2, kmh=95)

    assert road.said == [(Kind.OVERSPEED, NEW, None)]
    assert road.fix(kmh=None) == []


def test_the_ledgers_limit_counts_before_the_kinds(road: Road) -> None:
    road.fleet.cars["van-7"] = replace(VAN, limit_kmh=60)
    road.fixes(2, kmh=65)

    assert road.said == [(Kind.OVERSPEED, NEW, None)]


def test_what_the_device_says_itself_is_not_said_again_nor_taken_back(road: Road) -> None:
    road.take(Observation("van-7", Kind.OVERSPEED))
    road.fixes(3, kmh=95)
    road.fix(kmh=10)

    assert road.said == []


def test_what_the_device_says_under_a_zone_of_its_own_is_not_said_again_either(road: Road) -> None:
    road.take(Observation("van-7", Kind.OVERSPEED, zone=1))
    road.fixes(3, kmh=95)
    assert road.said == []

    assert road.take(Observation("van-7", Kind.OVERSPEED, OVER, zone=1)) == [(Kind.OVERSPEED, NEW, None)]


# -- geofences -----------------------------------------------------------------------------------------------------------


def test_a_border_is_crossed_by_some_fixes_beyond_a_margin(road: Road) -> None:
    out, margin = TOWN.radius_m or 0.0, MARGIN_M
    road.fixes(FIXES_MIN, 0)
    assert road.fixes(9, out + margin - 5) == []  # within the margin for as long as it likes
    assert road.fixes(FIXES_MIN - 1, out + margin + 5) == []
    assert road.fix(out) == []  # a reflection, and it begins anew
    assert road.fixes(FIXES_MIN, out + margin + 5) == [(Kind.GEOFENCE, NEW, 7)]
    assert road.fixes(9, out + 5) == []  # back within the margin is not back
    assert road.fixes(FIXES_MIN - 1, out - 5) == []
    assert road.fix(out - 5) == [(Kind.GEOFENCE, OVER, 7)]


def test_the_position_and_the_alarms_of_one_report_are_one_fix(road: Road) -> None:
    road.fix(0)
    road.seconds += 10
    at = AT + timedelta(seconds=road.seconds)
    for kind in (Kind.POSITION, Kind.PANIC, Kind.POWER_CUT, Kind.ANTENNA_CUT):
        assert road.take(Observation("van-7", kind, at=at, position=Position(*north(2000)))) == []


def test_the_terminals_own_areas_are_not_ours(road: Road) -> None:
    road.take(Observation("van-7", Kind.GEOFENCE, zone=20))

    assert road.fixes(FIXES_MIN, 2000) == [(Kind.GEOFENCE, NEW, 7)]


def test_a_void_fix_crosses_nothing(road: Road) -> None:
    assert road.fixes(9, 9000, fix=False) == []


def test_a_place_to_keep_out_of_is_the_other_way_round(road: Road) -> None:
    inside = (37.605 - HOME[0]) * METRES_PER_DEGREE
    road.fleet.cars["van-7"] = replace(VAN, geofences=("bank",))
    road.fixes(3, inside)  # 121.4 is its western border: on the line is in the margin
    assert road.said == []
    road.fleet.fences["bank"] = replace(BANK, corners=tuple((lat, lon - 0.005) for lat, lon in BANK.corners))
    assert road.fixes(FIXES_MIN, inside) == [(Kind.GEOFENCE, NEW, 8)]
    assert road.fixes(FIXES_MIN, 0) == [(Kind.GEOFENCE, OVER, 8)]


def test_the_words_name_the_fence_and_carry_the_place(road: Road) -> None:
    road.fixes(FIXES_MIN - 1, 2000)
    road.seconds += 10
    at = AT + timedelta(seconds=road.seconds)
    position = Position(*north(2000), speed_kmh=20)
    (word,) = road.watch.seen(road.event(Observation("van-7", Kind.POSITION, at=at, position=position)), road.seconds)

    assert (word.zone, word.text, word.at, word.position) == (7, "越界:城区", at, position)
    assert word.values == {"geofence": "town"}


# -- anti-theft ----------------------------------------------------------------------------------------------------------


def test_a_parked_car_that_is_elsewhere_was_moved_until_somebody_has_the_key(road: Road) -> None:
    road.fix(0, kmh=0, ignition=False, locked=True)
    assert road.fixes(9, MOVED_M - 20, kmh=0, ignition=False, locked=True) == []  # wanders under its roof
    assert road.fixes(FIXES_MIN, MOVED_M + 50, kmh=5, ignition=False, locked=True) == [(Kind.VEHICLE_MOVED, NEW, None)]
    assert road.fixes(5, 0, kmh=0, ignition=False, locked=True) == []  # towed back is moved too
    assert road.fix(0, ignition=True, locked=True) == [(Kind.VEHICLE_MOVED, OVER, None)]


@pytest.mark.parametrize("facts", [{"ignition": True}, {"ignition": False, "locked": False}, {}])
def test_a_car_that_may_move_was_not_moved(road: Road, facts: Mapping[str, bool]) -> None:
    road.fix(0, **facts)

    assert road.fixes(5, 500, **facts) == []


def test_ignition_and_lock_may_come_as_events_of_their_own(road: Road) -> None:
    road.take(Observation("van-7", Kind.IGNITION, Qualifier.RESTORE))
    road.take(Observation("van-7", Kind.UNLOCKED, Qualifier.RESTORE))
    road.fix(0)
    assert road.fixes(FIXES_MIN, 500) == [(Kind.VEHICLE_MOVED, NEW, None)]
    assert road.take(Observation("van-7", Kind.UNLOCKED)) == [(Kind.VEHICLE_MOVED, OVER, None)]


def test_where_it_stands_is_known_anew_after_each_drive(road: Road) -> None:
    road.fix(0, ignition=False)
    road.fixes(3, 400, ignition=True)
    road.fix(800, ignition=False)

    assert road.fixes(5, 800, ignition=False) == []


# -- late fixes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["older than the last", "made up", "on its way for long"])
def test_a_late_fix_is_history_and_changes_nothing(road: Road, how: str) -> None:
    road.fix(0)
    for _ in range(FIXES_MIN + 1):
        if how == "older than the last":
            said = road.fix(5000, kmh=150, after_s=1, age_s=60)
        elif how == "made up":
            said = road.fix(5000, kmh=150, late=True)
        else:
            said = road.fix(5000, kmh=150, age_s=LATE_S + 1, after_s=LATE_S + 30)
        assert said == []


def test_one_late_fix_among_others_does_not_break_a_row(road: Road) -> None:
    road.fixes(FIXES_MIN - 1, 2000)
    road.fix(0, after_s=0, age_s=60)

    assert road.fix(2000) == [(Kind.GEOFENCE, NEW, 7)]


# -- what is kept --------------------------------------------------------------------------------------------------------


def position(device: str = "van-7", kind: Kind = Kind.POSITION, **values: str) -> Observation:
    return Observation(device, kind, position=Position(*HOME), values=values)


@pytest.mark.parametrize(
    ("observation", "on_duty", "is_kept"),
    [
        (position(), True, True),
        (position(), False, False),
        (position("phone-1"), True, False),
        (Observation("van-7", Kind.POSITION, values={"fix": False}), False, False),
        (position(alarm_bits="00000001"), False, True),
        (position(alarm_bits="04000000"), False, True),
        (position(alarm_bits="00000000"), False, False),
        (position(alarm_bits="00000800"), False, False),  # its camera is broken, for weeks
        (position(alarm_bits="none"), False, False),
        (position(kind=Kind.PANIC), False, True),
        (position(kind=Kind.ANTENNA_CUT), False, True),
        (position(kind=Kind.IGNITION), False, False),
        (Observation("van-7", Kind.IGNITION), False, True),
        (Observation("a001", Kind.BURGLARY), False, True),
    ],
)
def test_of_where_something_is_only_alarms_and_vehicles_on_duty_are_kept(
    road: Road, observation: Observation, on_duty: bool, is_kept: bool
) -> None:
    road.fleet.set_duty(on_duty=on_duty)

    assert road.watch.keeps(observation) is is_kept


def test_off_duty_everything_ends_and_nothing_follows(road: Road) -> None:
    road.fixes(FIXES_MIN, 2000, kmh=95)
    assert set(road.said) == {(Kind.GEOFENCE, NEW, 7), (Kind.OVERSPEED, NEW, None)}
    assert road.look() == []
    road.fleet.set_duty(on_duty=False)
    assert set(road.look()) == {(Kind.GEOFENCE, OVER, 7), (Kind.OVERSPEED, OVER, None)}
    assert road.look() == []
    assert road.fixes(5, 5000, kmh=150) == []


def test_where_it_stood_before_its_duty_ended_is_forgotten(road: Road) -> None:
    road.fix(0, kmh=0, ignition=False)
    road.fleet.set_duty(on_duty=False)
    road.look()
    road.fleet.set_duty(on_duty=True)

    assert road.fixes(5, 900, kmh=0, ignition=False) == []


def test_a_fence_that_is_taken_away_ends(road: Road) -> None:
    road.fixes(FIXES_MIN, 2000)
    road.fleet.cars["van-7"] = replace(VAN, geofences=())

    assert road.look() == [(Kind.GEOFENCE, OVER, 7)]


def test_a_test_report_changes_nothing(road: Road) -> None:
    for _ in range(5):
        road.seconds += 10
        assert road.take(replace(position(), position=Position(*north(5000), 150.0), test=True)) == []


# -- silence -------------------------------------------------------------------------------------------------------------


def test_silence_is_minded_on_duty_and_sooner_with_the_ignition_on(road: Road) -> None:
    usual = USUAL[VehicleKind.CASH_TRANSPORT]
    patience = road.watch.patience_s
    assert patience("a001", 60.0) == 60.0
    assert patience("van-7", 15.0) == usual.silent_s
    road.fix(ignition=True)
    assert patience("van-7", 15.0) == usual.silent_driving_s
    road.fix(ignition=False)
    assert patience("van-7", 15.0) == usual.silent_s
    road.fleet.known["van-7"] = Device("van-7", "s1", heard_within_s=900)
    assert patience("van-7", 15.0) == 900
    road.fleet.set_duty(on_duty=False)
    assert patience("van-7", 15.0) == math.inf


# -- the calendar --------------------------------------------------------------------------------------------------------

NOW = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
WEEKS = timedelta(weeks=1024)


@pytest.mark.parametrize(
    ("at", "now", "expected", "mark"),
    [
        (NOW - WEEKS, NOW, NOW, 1),
        (NOW - WEEKS - timedelta(days=3), NOW, NOW - timedelta(days=3), 1),
        (NOW - 2 * WEEKS, NOW, NOW, 2),
        (NOW, NOW, NOW, None),
        (NOW - timedelta(days=400), NOW, NOW - timedelta(days=400), None),  # old, and not by that many weeks
        (NOW - WEEKS - timedelta(days=31), NOW, NOW - WEEKS - timedelta(days=31), None),
        (NOW - WEEKS + timedelta(minutes=3), NOW, NOW - WEEKS + timedelta(minutes=3), None),  # would lie ahead
        (NOW - WEEKS, datetime(1970, 1, 1, 0, 5, tzinfo=UTC), NOW - WEEKS, None),  # no clock to believe
        (datetime(1, 1, 1, tzinfo=UTC), NOW, datetime(1, 1, 1, tzinfo=UTC), None),
        (datetime(9999, 12, 31, tzinfo=UTC), NOW, datetime(9999, 12, 31, tzinfo=UTC), None),
    ],
)
def test_a_week_count_that_rolled_over_is_put_right_and_marked(
    at: datetime, now: datetime, expected: datetime, mark: int | None
) -> None:
    seen = unrolled(replace(position(), at=at), now)

    assert seen.at == expected
    assert seen.values.get("week_rollover") == mark


def test_only_where_something_is_tells_the_time_of_satellites() -> None:
    alarm = Observation("a001", Kind.BURGLARY, at=NOW - WEEKS)

    assert unrolled(alarm, NOW) is alarm


# -- the ground ----------------------------------------------------------------------------------------------------------


def test_distances_are_those_of_the_globe() -> None:
    """Yantai to Weihai stations, 56.6 km by the haversine formula on 6371 km."""
    assert distance_m((37.5508, 121.3920), (37.4960, 122.0290)) == pytest.approx(56_560, rel=2e-3)
    assert distance_m((0.0, 179.9995), (0.0, -179.9995)) == pytest.approx(111.2, rel=1e-2)


@given(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02), st.sampled_from(["stay_in", "keep_out"]), st.integers(3, 40))
def test_a_polygon_of_many_corners_is_a_circle(dy: float, dx: float, rule: str, corners: int) -> None:
    """Inscribed and circumscribed circles hold the border between them."""
    radius = 1000.0
    per_degree_east = METRES_PER_DEGREE * math.cos(math.radians(HOME[0]))
    angles = [2 * math.pi * n / corners for n in range(corners)]
    ring = [
        (HOME[0] + radius / METRES_PER_DEGREE * math.cos(a), HOME[1] + radius / per_degree_east * math.sin(a))
        for a in angles
    ]
    polygon = Geofence("p", 1, "", FenceRule(rule), tuple(ring))
    sign = 1 if rule == "stay_in" else -1
    spot = (HOME[0] + dy, HOME[1] + dx)
    away = distance_m(HOME, spot)
    inner = radius * math.cos(math.pi / corners)

    assert sign * beyond_m(polygon, spot) >= away - radius - 3
    assert sign * beyond_m(polygon, spot) <= away - inner + 3 or away > inner


# -- the slow and obvious model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One report of the story: where, how fast, what of the key, how late, and whether the disk took it."""

    metres: float
    kmh: float | None
    ignition: bool | None
    locked: bool | None
    after_s: float
    age_s: float
    is_stored: bool


def model(story: Sequence[Report]) -> set[tuple[Kind, int | None]]:
    """What holds in the end, from the whole story, each time from its beginning."""
    now, newest, live = 0.0, float("-inf"), []
    for report in story:
        now += report.after_s
        at = now - report.age_s
        if report.is_stored and not (at < newest or report.age_s > LATE_S):
            newest = at
            live.append((now, report))
    holds: set[tuple[Kind, int | None]] = set()
    run = [
        at for at, _ in reversed(list(itertools.takewhile(lambda one: (one[1].kmh or 0) > 80,
        reversed([one for one in live if one[1].kmh is not None]))))
    ]  # fmt: skip
    if run and run[-1] - run[0] >= USUAL[VehicleKind.CASH_TRANSPORT].over_s:
        holds.add((Kind.OVERSPEED, None))
    sides = "".join("o" if r.metres > 1000 + MARGIN_M else "i" if r.metres <= 1000 else "-" for _, r in live)
    if sides.rfind("o" * FIXES_MIN) > sides.rfind("i" * FIXES_MIN):
        holds.add((Kind.GEOFENCE, 7))
    ignition: bool | None = None
    locked: bool | None = None
    parked: list[float] = []
    for _, report in live:
        ignition = report.ignition if report.ignition is not None else ignition
        locked = report.locked if report.locked is not None else locked
        parked = [*parked, report.metres] if ignition is False and locked is not False else []
    if "a" * FIXES_MIN in "".join("a" if abs(m - parked[0]) > MOVED_M else "h" for m in parked):
        holds.add((Kind.VEHICLE_MOVED, None))
    return holds


REPORTS = st.builds(
    Report,
    metres=st.sampled_from([0.0, 50.0, 500.0, 1010.0, 1500.0]),
    kmh=st.sampled_from([None, 30.0, 80.0, 95.0, 140.0]),
    ignition=st.sampled_from([None, None, False, False, True]),
    locked=st.sampled_from([None, None, True, False]),
    after_s=st.sampled_from([1.0, 5.0, 10.0]),
    age_s=st.sampled_from([0.0, 0.0, 0.0, 0.0, 7.5, 300.0]),
    is_stored=st.sampled_from([True, True, True, True, False]),
)


@settings(max_examples=400)
@given(st.lists(REPORTS, max_size=40))
def test_what_was_said_is_what_holds(story: Sequence[Report]) -> None:
    road = Road(Fleet(cars={"van-7": replace(VAN, geofences=("town",))}))
    raised: set[tuple[Kind, int | None]] = set()
    for number, one in enumerate(story, 1):
        facts = {
            name: value for name, value in (("ignition", one.ignition), ("locked", one.locked)) if value is not None
        }
        said = road.fix(one.metres, kmh=one.kmh, after_s=one.after_s, age_s=one.age_s, is_stored=one.is_stored, **facts)
        if one.is_stored:
            for kind, qualifier, zone in said:
                (raised.discard if qualifier is OVER else raised.add)((kind, zone))

        assert raised == model(story[:number])


# -- with intake and store -------------------------------------------------------------------------------------------------


class Places:
    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A101", "金库", None, zone or 0, "") if device != "phone-1" else None


@dataclass
class Box:
    """Intake and a real store, begun anew at will."""

    store: SqliteStore
    clock: JumpingClock
    fleet: Fleet = field(default_factory=Fleet)
    metrics: Metrics = field(default_factory=Metrics)

    async def start(self) -> Intake:
        intake = Intake(
            store=self.store, places=Places(), routes=[Route("110", frozenset(Lane))], ids=EventIds(self.clock, Random(1)),
            clock=self.clock, metrics=self.metrics, heard=lambda device, source: None, watches=[Vehicles(self.fleet)],
        )  # fmt: skip
        await intake.load()
        return intake

    async def drive(self, intake: Intake, metres: float, count: int, **values: bool) -> None:
        for _ in range(count):
            await self.clock.advance(10)
            seen = Observation(
                "van-7", Kind.POSITION, at=self.clock.now(), position=Position(*north(metres), 40.0), values=values
            )
            await (await intake.report(Source("jt808", "cars"), [seen]))

    async def story(self) -> list[Said]:
        events = await self.store.events(EventFilter())
        return [(event.kind, event.qualifier, event.zone) for event in events if event.kind is not Kind.POSITION]


@pytest.fixture
async def box(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Box]:
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    yield Box(store, jumping_clock)
    await store.close()


async def test_what_follows_is_stored_behind_the_fix_and_goes_to_110_as_the_fences_zone(box: Box) -> None:
    intake = await box.start()
    await box.drive(intake, 2000, FIXES_MIN)

    (event,) = await box.store.events(EventFilter(kind=Kind.GEOFENCE))
    assert (event.driver, event.lane, event.zone, event.place and event.place.number) == (RULES, Lane.ALARM, 7, 7)
    assert event.position == Position(*north(2000), 40.0)


async def test_after_a_start_what_stood_stands_and_comes_to_its_end(box: Box) -> None:
    intake = await box.start()
    await box.drive(intake, 0, 1, ignition=False)
    await box.drive(intake, 2000, FIXES_MIN, ignition=False)
    assert len(await box.story()) == 2
    await box.drive(intake, 2000, 40)  # longer than what is read of events
    intake = await box.start()
    await box.drive(intake, 2000, FIXES_MIN)
    assert len(await box.story()) == 2
    await box.drive(intake, 0, FIXES_MIN, ignition=True)

    assert (await box.story())[2:] == [(Kind.VEHICLE_MOVED, OVER, None), (Kind.GEOFENCE, OVER, 7)]


async def test_after_a_start_what_the_terminal_said_itself_is_its_own_to_take_back(box: Box) -> None:
    intake = await box.start()
    for kind, zone in ((Kind.GEOFENCE, 20), (Kind.OVERSPEED, 1)):
        await (await intake.report(Source("jt808", "cars"), [Observation("van-7", kind, zone=zone)]))
    intake = await box.start()
    await box.drive(intake, 0, FIXES_MIN)
    box.fleet.set_duty(on_duty=False)
    await intake._say_due()

    assert await box.story() == [(Kind.GEOFENCE, NEW, 20), (Kind.OVERSPEED, NEW, 1)]


async def test_overspeed_is_timed_though_the_clock_went_back_over_a_start(box: Box) -> None:
    intake = await box.start()
    fast = Observation("van-7", Kind.POSITION, position=Position(*HOME, 95.0))
    await (await intake.report(Source("jt808", "cars"), [fast]))
    box.clock.jump_wall(-3600)
    intake = await box.start()
    for _ in range(3):
        await box.clock.advance(10)
        await (await intake.report(Source("jt808", "cars"), [fast]))

    assert await box.story() == [(Kind.OVERSPEED, NEW, None)]


async def test_rows_of_fixes_are_counted_across_a_start(box: Box) -> None:
    intake = await box.start()
    await box.drive(intake, 2000, FIXES_MIN - 1)
    intake = await box.start()
    await box.drive(intake, 2000, 1)

    assert await box.story() == [(Kind.GEOFENCE, NEW, 7)]


async def test_positions_of_others_are_counted_and_not_stored(box: Box) -> None:
    intake = await box.start()
    box.fleet.set_duty(on_duty=False)
    await box.drive(intake, 0, 3)
    receipt = await intake.report(Source("mqtt_json", "phones"), [position("phone-1")])
    await receipt

    assert await box.store.events(EventFilter()) == []
    assert box.metrics.registry.get_sample_value("fangkong_not_kept_total") == 4
    await (await intake.report(Source("jt808", "cars"), [position(kind=Kind.PANIC)]))
    assert await box.story() == [(Kind.PANIC, NEW, None)]


async def test_a_rolled_over_date_is_stored_as_what_it_was(box: Box) -> None:
    intake = await box.start()
    at = box.clock.now() - WEEKS
    await (await intake.report(Source("nmea", "van"), [replace(position(), at=at)]))

    (event,) = await box.store.events(EventFilter())
    assert event.device_time == at + WEEKS
    assert event.values["week_rollover"] == 1
