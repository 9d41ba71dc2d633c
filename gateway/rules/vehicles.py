"""Vehicles: what follows from where they are, how fast, and whether somebody sits at the wheel. Drivers report only facts.

| condition | begins | ends |
| --- | --- | --- |
| overspeed | faster than the limit for as long as its kind is forgiven | the first fix that is not |
| geofence, a zone each | on the wrong side of the border, MARGIN_M beyond it | on the right side of it |
| moved while parked | ignition off, not unlocked, MOVED_M from where that began | ignition on, or unlocked |

The last two take FIXES_MIN fixes in a row: one fix may be a reflection off a tower, and what is said of one moment is one fix. A void
fix moves nothing. A late one, made up
after a gap or older than the last, is history: it is kept and changes no state. Of vehicles off duty, and of whatever else says
where it is, nothing is kept of that but alarms (`Vehicles.keeps`). Pure; times are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from gateway.clock import PROGRAM_DATE
from gateway.model import (
    FACTS,
    TERMINAL_AREAS,
    Device,
    Event,
    Geofence,
    Kind,
    Lane,
    Observation,
    Qualifier,
    Scalar,
    TimeQuality,
    Vehicle,
    VehicleKind,
)
from gateway.rules._ground import Spot, beyond_m, distance_m
from gateway.rules._words import OWN
from gateway.rules.watching import RULES, Memory, Words

FIXES_MIN = 3
"""In a row, before a vehicle is believed to be elsewhere."""
MARGIN_M = 30.0
"""Beyond a border before it counts as crossed: what a receiver between houses is off."""
MOVED_M = 100.0
"""Under a roof a parked receiver wanders some tens of metres."""
LATE_S = 120.0
"""A fix that took longer to arrive waited in the terminal; a slow radio link needs seconds."""
MEMORY_S = 300.0
"""Of events read after a start; conditions that stand are known from their last words, however old."""
WEEKS_COUNTED = timedelta(weeks=1024)
"""GPS numbers its weeks with ten bits: a receiver without an almanac dates itself 19.6 years back."""
ROLLED_AGE_MAX = timedelta(days=30)
"""A corrected date older than this is no better than the wrong one."""
AHEAD_MAX = timedelta(minutes=2)
"""Or further ahead."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual for a kind of vehicle, where the ledger says nothing of its own."""

    limit_kmh: float
    over_s: float
    """Faster than the limit for this long is overspeed."""
    silent_s: float
    """On duty, unheard for this long is silent."""
    silent_driving_s: float
    """The same while the ignition is on: three reports of a terminal under way."""


USUAL: Mapping[VehicleKind, Usual] = {
    VehicleKind.CASH_TRANSPORT: Usual(limit_kmh=80, over_s=10, silent_s=300, silent_driving_s=60),
    VehicleKind.TAXI: Usual(limit_kmh=100, over_s=20, silent_s=300, silent_driving_s=120),
    VehicleKind.PATROL_CAR: Usual(limit_kmh=120, over_s=30, silent_s=300, silent_driving_s=60),
}

FOLLOWED_BITS = sum(1 << bit for bit in (0, 8, 26, 27, 28, 29, 30, 31))
"""Alarm bits of JT/T 808 for which a vehicle is followed off duty: SOS, supply cut, theft, collision, door. What is broken in it is no
reason."""

Condition = tuple[Kind, int | None]
DERIVED = frozenset({Kind.OVERSPEED, Kind.GEOFENCE, Kind.VEHICLE_MOVED})


class Fleet(Protocol):
    """What the ledger tells of vehicles."""

    def vehicle(self, device_id: str) -> Vehicle | None: ...
    def device(self, device_id: str) -> Device | None: ...
    def vehicles(self) -> Iterable[Vehicle]: ...
    def geofences_of(self, vehicle: Vehicle) -> Sequence[Geofence]: ...


@dataclass(frozen=True, slots=True)
class Belief:
    """Where something is, which takes FIXES_MIN fixes in a row to change."""

    holds: bool = False
    contrary: int = 0

    def after(self, *, begins: bool, ends: bool) -> Belief:
        """With one more fix."""
        if not (ends if self.holds else begins):
            return Belief(self.holds)
        if self.contrary + 1 < FIXES_MIN:
            return Belief(self.holds, self.contrary + 1)
        return Belief(not self.holds)


@dataclass(frozen=True, slots=True)
class Drive:
    """What is known of a vehicle. None is unknown, never false."""

    newest: datetime | None = None
    """Its own time, of the newest fix or fact."""
    ignition: bool | None = None
    locked: bool | None = None
    stands: Spot | None = None
    """Where it was when it was first known to be parked."""
    moved: Belief = Belief()
    is_over: bool | None = None
    over_since_s: float = 0.0
    over_for_s: float = 0.0
    """By fixes alone: what happened since the last one, nobody knows."""
    fences: Mapping[str, Belief] = field(default_factory=dict)
    raised: frozenset[Condition] = frozenset()
    """Said here and not taken back."""
    theirs: frozenset[Condition] = frozenset()
    """The same conditions, said by the device itself, mostly under zones of its own; it must take them back itself."""

    @property
    def is_parked(self) -> bool:
        """Many terminals do not know their doors: unknown is enough, unlocked is not."""
        return self.ignition is False and self.locked is not False


class Vehicles:
    """The watch over all vehicles of the ledger (`gateway.rules.watching.Watch`)."""

    memory_s = MEMORY_S

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._drives = Memory[Drive](lambda _: Drive(), self._step)
        self._watched: set[str] = set()

    @property
    def devices(self) -> Collection[str]:
        """Vehicles, on duty or not: what was raised before a start must come to an end."""
        return [vehicle.id for vehicle in self._fleet.vehicles()]

    # -- what is kept --------------------------------------------------------------------------------------------------

    def keeps(self, observation: Observation) -> bool:
        """Of where something is: alarms and faults, and of vehicles on duty all."""
        if observation.position is None and observation.kind is not Kind.POSITION:
            return True
        return (
            FACTS[observation.kind].lane <= Lane.FAULT
            or self._on_duty(observation.device) is not None
            or _has_alarm(observation)
        )

    def _on_duty(self, device: str) -> Vehicle | None:
        vehicle = self._fleet.vehicle(device)
        return vehicle if vehicle is not None and vehicle.on_duty else None

    def patience_s(self, device: str, within_s: float | None) -> float | None:
        """How long a device may be unheard now; off duty for ever. `within_s` is what holds for what is no vehicle."""
        vehicle = self._fleet.vehicle(device)
        if vehicle is None:
            return within_s
        if not vehicle.on_duty:
            return math.inf
        usual, known = USUAL[vehicle.kind], self._fleet.device(device)
        silent_s = known.heard_within_s if known and known.heard_within_s is not None else usual.silent_s
        return min(silent_s, usual.silent_driving_s) if self._drives[device].ignition else silent_s

    # -- what follows --------------------------------------------------------------------------------------------------

    def seen(self, event: Event, now_s: float) -> Iterable[Observation]:
        """What begins and ends with this event."""
        vehicle = self._on_duty(event.device)
        if event.test or (vehicle is None and event.device not in self._watched):
            return ()
        is_late = _is_late(event, self._drives[event.device])
        drive = self._drives.take(event.device, event, now_s)
        self._watched.add(event.device)
        if event.driver == RULES or vehicle is None or is_late:
            return ()
        return list(self._changes(vehicle, drive, event))

    def settled(self, event: Event, *, is_stored: bool) -> None:
        """See Watch."""
        self._drives.settled(event, is_stored=is_stored)

    def _changes(self, vehicle: Vehicle, drive: Drive, event: Event) -> Iterator[Observation]:
        theirs = {kind for kind, _ in drive.theirs} - {Kind.GEOFENCE}  # its own areas are others than ours
        for word in self._words(vehicle, drive, event):
            condition = word.kind, word.zone
            if word.qualifier is Qualifier.NEW:
                if condition not in drive.raised and word.kind not in theirs:
                    yield word
            elif condition in drive.raised:
                yield word

    def _words(self, vehicle: Vehicle, drive: Drive, event: Event) -> Iterator[Observation]:
        """Every condition whose state is known."""
        at = event.device_time if event.time_quality is TimeQuality.OK else None

        def word(
            kind: Kind, holds: bool, *, zone: int | None = None, text: str | None = None, **values: Scalar
        ) -> Observation:
            qualifier = Qualifier.NEW if holds else Qualifier.RESTORE
            return Observation(
                vehicle.id, kind, qualifier, zone=zone, at=at, text=text, values=values, position=event.position
            )

        usual = USUAL[vehicle.kind]
        limit_kmh = _limit_kmh(vehicle)
        if drive.is_over is False or (drive.is_over and drive.over_for_s >= usual.over_s):
            yield word(Kind.OVERSPEED, bool(drive.is_over), speed_kmh=_speed_kmh(event), limit_kmh=limit_kmh)
        if drive.moved.holds or drive.ignition or drive.locked is False:
            metres = distance_m(drive.stands, _spot(event)) if drive.stands and event.position else None
            yield word(Kind.VEHICLE_MOVED, drive.moved.holds, distance_m=None if metres is None else round(metres))
        for fence in self._fleet.geofences_of(vehicle):
            belief = drive.fences.get(fence.id)
            if belief is not None:
                text = f"{'越界' if belief.holds else '恢复'}:{fence.name}"
                yield word(Kind.GEOFENCE, belief.holds, zone=fence.number, text=text, geofence=fence.id)

    # -- the fold ------------------------------------------------------------------------------------------------------

    def _step(self, drive: Drive, event: Event, at_s: float) -> Drive:
        if event.kind in DERIVED:
            drive = _with_word(drive, event)
        vehicle = self._fleet.vehicle(event.device)
        if event.driver == RULES or vehicle is None or _is_late(event, drive):
            return drive
        is_known = False
        if event.time_quality is TimeQuality.OK:
            is_known = event.device_time == drive.newest  # an alarm carries the fix of the report that it came in
            drive = replace(drive, newest=event.device_time)
        drive = _with_facts(drive, event)
        if event.position is None or event.values.get("fix") is False or is_known:
            return drive
        return self._with_fix(_with_speed(drive, event, at_s, _limit_kmh(vehicle)), vehicle, _spot(event))

    def _with_fix(self, drive: Drive, vehicle: Vehicle, spot: Spot) -> Drive:
        if drive.is_parked:
            if drive.stands is None:
                drive = replace(drive, stands=spot)
            is_away = distance_m(drive.stands or spot, spot) > MOVED_M
            drive = replace(drive, moved=drive.moved.after(begins=is_away, ends=False))
        fences = {}
        for fence in self._fleet.geofences_of(vehicle):
            metres = beyond_m(fence, spot)
            before = drive.fences.get(fence.id, Belief())
            fences[fence.id] = before.after(begins=metres > MARGIN_M, ends=metres <= 0)
        return replace(drive, fences=fences)

    # -- what time brings ----------------------------------------------------------------------------------------------

    def due(self, now_s: float, now: datetime) -> Iterable[Observation]:
        """The end of what nobody watches any more: off duty, or of a geofence that is no longer the vehicle's."""
        for device in list(self._watched):
            vehicle, drive = self._on_duty(device), self._drives[device]
            fences = self._fleet.geofences_of(vehicle) if vehicle and drive.raised else ()
            zones = {fence.number for fence in fences}
            for kind, zone in sorted(drive.raised, key=str):
                if vehicle is None or (kind is Kind.GEOFENCE and zone not in zones):
                    yield Observation(device, kind, Qualifier.RESTORE, zone=zone)
            # Where it stood before it went off duty, it need not stand when it comes back.
            if vehicle is None and not drive.raised and self._drives.forget(device):
                self._watched.discard(device)

    def recall(self, words: Mapping[str, Words], events: Iterable[Event], now_s: float, now: datetime) -> None:
        """See Watch."""
        for device, said in words.items():
            stands = frozenset(
                (kind, zone) for (kind, zone), word in said.items() if kind in DERIVED and word is not Qualifier.RESTORE
            )
            vehicle = self._fleet.vehicle(device)
            if not stands or vehicle is None:
                continue
            raised = frozenset(filter(_is_ours, stands))
            zones = {zone for kind, zone in raised if kind is Kind.GEOFENCE}
            fences = {fence.id: Belief(holds=fence.number in zones) for fence in self._fleet.geofences_of(vehicle)}
            moved = Belief(holds=(Kind.VEHICLE_MOVED, None) in raised)
            self._drives[device] = Drive(moved=moved, fences=fences, raised=raised, theirs=stands - raised)
            self._watched.add(device)
        for event in events:
            # A storm's summary says nothing that its events have not said.
            if self._on_duty(event.device) and not event.test and event.driver != OWN:
                self._watched.add(event.device)
                age_s = max(0.0, (now - event.received_at).total_seconds())  # negative: the clock went back
                self._drives.recall(event.device, event, now_s - age_s)


# -- facts -------------------------------------------------------------------------------------------------------------


def _is_ours(condition: Condition) -> bool:
    """Whether a word was said here; the log of last words does not tell. Terminals have zones of their own."""
    kind, zone = condition
    return zone not in TERMINAL_AREAS if kind is Kind.GEOFENCE else zone is None


def _with_word(drive: Drive, event: Event) -> Drive:
    condition = event.kind, event.zone
    name = "raised" if event.driver == RULES else "theirs"
    before: frozenset[Condition] = getattr(drive, name)
    after = before - {condition} if event.qualifier is Qualifier.RESTORE else before | {condition}
    return replace(drive, raised=after) if name == "raised" else replace(drive, theirs=after)


def _with_facts(drive: Drive, event: Event) -> Drive:
    ignition, locked = event.values.get("ignition"), event.values.get("locked")
    if event.kind is Kind.IGNITION:
        ignition = event.qualifier is not Qualifier.RESTORE
    elif event.kind is Kind.UNLOCKED:
        locked = event.qualifier is Qualifier.RESTORE
    if isinstance(ignition, bool):
        drive = replace(drive, ignition=ignition)
    if isinstance(locked, bool):
        drive = replace(drive, locked=locked)
    return drive if drive.is_parked else replace(drive, stands=None, moved=Belief())


def _with_speed(drive: Drive, event: Event, at_s: float, limit_kmh: float) -> Drive:
    speed = _speed_kmh(event)
    if speed is None:
        return drive
    if speed <= limit_kmh:
        return replace(drive, is_over=False)
    since_s = drive.over_since_s if drive.is_over else at_s
    return replace(drive, is_over=True, over_since_s=since_s, over_for_s=at_s - since_s)


def _is_late(event: Event, drive: Drive) -> bool:
    """Made up after a gap, or older than the last."""
    if event.values.get("late") is True:
        return True
    at = event.device_time
    if at is None or event.time_quality is not TimeQuality.OK:
        return False
    is_older = drive.newest is not None and at < drive.newest
    return is_older or (event.received_at - at).total_seconds() > LATE_S


def _spot(event: Event) -> Spot:
    assert event.position is not None
    return event.position.latitude, event.position.longitude


def _speed_kmh(event: Event) -> float | None:
    speed = event.position.speed_kmh if event.position else None
    if speed is None:
        given = event.values.get("speed_kmh")
        speed = given if isinstance(given, int | float) and not isinstance(given, bool) else None
    return speed


def _limit_kmh(vehicle: Vehicle) -> float:
    return USUAL[vehicle.kind].limit_kmh if vehicle.limit_kmh is None else vehicle.limit_kmh


def _has_alarm(observation: Observation) -> bool:
    bits = observation.values.get("alarm_bits")
    try:
        return isinstance(bits, str) and int(bits, 16) & FOLLOWED_BITS != 0
    except ValueError:
        return False


def unrolled(observation: Observation, now: datetime) -> Observation:
    """With its own date, where it is 1024 weeks back, or twice that, against a clock that can be believed; marked so."""
    is_fix = observation.position is not None or observation.kind is Kind.POSITION
    at = observation.at
    if not is_fix or at is None or now < PROGRAM_DATE:
        return observation
    rounds = round((now - at) / WEEKS_COUNTED)
    moved = at + rounds * WEEKS_COUNTED
    if rounds < 1 or not now - ROLLED_AGE_MAX <= moved <= now + AHEAD_MAX:
        return observation
    return replace(observation, at=moved, values={**observation.values, "week_rollover": rounds})
