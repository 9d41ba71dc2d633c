"""The values that travel: what a driver saw, what is kept, where it belongs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from gateway.clock import PROGRAM_DATE
from gateway.kinds import FACTS, Kind, KindFacts, Lane, Qualifier

__all__ = [
    "FACTS",
    "Area",
    "AreaKind",
    "ClockQuality",
    "Delivery",
    "DeliveryState",
    "Device",
    "Event",
    "FenceRule",
    "Geofence",
    "Heard",
    "Kind",
    "KindFacts",
    "Lane",
    "Management",
    "Observation",
    "Place",
    "Point",
    "Position",
    "Qualifier",
    "Scalar",
    "Site",
    "TimeQuality",
    "Vehicle",
    "VehicleKind",
]  # fmt: skip

Scalar = str | int | float | bool | None
NOTHING: Mapping[str, Scalar] = MappingProxyType({})


class TimeQuality(StrEnum):
    """How far the device's own time can be trusted."""

    OK = "ok"
    UNKNOWN = "unknown"
    """The device gave none, or one that cannot be true; order and reports use the time of arrival."""


class ClockQuality(StrEnum):
    """How far the gateway's own time of an event can be trusted."""

    SET = "set"
    UNSET = "unset"
    """It came before the machine's clock was set: `received_at` only tells the order."""
    CORRECTED = "corrected"
    """It came before; once the clock was set, `received_at` was moved by as much as the clock."""


SETS_PROTECTION = frozenset({Kind.OPEN_CLOSE, Kind.BYPASS})
"""What says that a place is, or is not, protected from now on."""


@dataclass(frozen=True, slots=True)
class Position:
    """WGS-84, degrees, north and east positive; speed in km/h where known."""

    latitude: float
    longitude: float
    speed_kmh: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a driver makes of one frame. Pure fact: no site, no urgency, no judgement."""

    device: str
    """The id the device gives itself, as the registry knows it."""
    kind: Kind
    qualifier: Qualifier = Qualifier.NEW
    zone: int | None = None
    at: datetime | None = None
    """The device's own time, aware; None when it has no clock."""
    repeat_key: str | None = None
    """What makes a repeat of this very message recognisable (session and sequence), unique within the device.
    None: the protocol gives nothing, and a momentary kind is then never merged."""
    key_is_reused: bool = False
    """The protocol soon gives `repeat_key` to another message (four digits that begin anew): it tells a repeat for some
    minutes only."""
    code: str | None = None
    """The protocol's own code, kept beside the kind; the only name an unknown kind has."""
    text: str | None = None
    values: Mapping[str, Scalar] = field(default_factory=lambda: NOTHING)
    position: Position | None = None
    test: bool = False
    raw: bytes = b""


class AreaKind(StrEnum):
    """What areas there are, each inside one of the former."""

    DISTRICT = "district"
    CONTROL_ZONE = "control_zone"
    COMMUNITY = "community"


class Management(StrEnum):
    """How a community is looked after."""

    MANAGED = "managed"
    PARTLY = "partly"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Area:
    """A district, a control zone (street or town) in it, a community (or village) in that."""

    id: str
    name: str
    kind: AreaKind
    parent: str | None = None
    dwellings: int | None = None
    """Of a community; a number for comparison only, nothing is known of who lives there."""
    management: Management | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """A place that answers for itself towards 110. `account` is its DC-09 account (3 to 16 hex digits)."""

    id: str
    name: str
    account: str
    kind: str = "residential_estate"
    address: str = ""
    latitude: float | None = None
    longitude: float | None = None
    contact: str = ""
    """Call-back role and phone of the site (never a resident)."""
    area: str | None = None
    """The community it is in, or a higher area."""
    is_key_unit: bool = False
    """Listed by the police as a key security unit: its proof of network ages sooner."""
    responsible: str = ""
    """Role and phone of whoever has to close its gaps."""
    opens: str | None = None
    closes: str | None = None
    """First and last day (YYYY-MM-DD, local) of a site that is there for a time only."""


@dataclass(frozen=True, slots=True)
class Point:
    """A protection point: the smallest thing that is counted. `number` is its zone (CCC, 0..999) towards 110."""

    id: str
    site: str
    number: int
    name: str
    device: str | None = None
    zone: int | None = None
    """The device's own zone that watches this point; None: the whole device does."""
    kind: str = ""
    """What it is, as requirement profiles name it ("counter_panic"); "": nothing is required of it."""
    also: tuple[tuple[str, int | None], ...] = ()
    """Further watchers, as device and zone."""

    @property
    def watchers(self) -> tuple[tuple[str, int | None], ...]:
        """All that watch it, as device and zone."""
        return self.also if self.device is None else ((self.device, self.zone), *self.also)


@dataclass(frozen=True, slots=True)
class Device:
    """Something that reports. `heard_within_s` None: its driver's default counts."""

    id: str
    site: str
    name: str = ""
    heard_within_s: float | None = None
    kind: str = ""
    """What it is ("panic_button"): says what proves that it lives (gateway/coverage/contracts.py)."""
    vendor: str = ""
    model: str = ""
    parent: str | None = None
    """The device through which alone it is heard: a panel, a bus controller."""


class VehicleKind(StrEnum):
    """What a vehicle is for; each has its usual limits (gateway/rules/vehicles.py)."""

    CASH_TRANSPORT = "cash_transport"
    TAXI = "taxi"
    PATROL_CAR = "patrol_car"


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A device that drives. `id` is the device's; a fleet number is its name, and of its driver nothing is known."""

    id: str
    kind: VehicleKind
    on_duty: bool = False
    """Off duty nothing is kept of where it is."""
    limit_kmh: float | None = None
    """None: its kind's."""
    geofences: tuple[str, ...] = ()


class FenceRule(StrEnum):
    """On which side of a geofence a vehicle belongs."""

    STAY_IN = "stay_in"
    KEEP_OUT = "keep_out"


TERMINAL_AREAS = frozenset({20, 21})
"""Zones under which terminals of JT/T 808 report areas of their own (their alarm bits): no geofence may have them."""


@dataclass(frozen=True, slots=True)
class Geofence:
    """An area on the ground: a circle (one corner and a radius) or a polygon (three corners or more).

    `number` is its zone (1..999, none of TERMINAL_AREAS), in events and towards 110.
    """

    id: str
    number: int
    name: str
    rule: FenceRule
    corners: tuple[tuple[float, float], ...]
    """Latitude and longitude, WGS-84."""
    radius_m: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event belongs, copied into it so that history stays true when the ledger changes."""

    site: str
    account: str
    site_name: str
    point: str | None
    number: int
    point_name: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A record that is never edited. `seq` is the store's own order, 0 until stored."""

    id: str
    device: str
    kind: Kind
    qualifier: Qualifier
    lane: Lane
    received_at: datetime
    driver: str
    connection: str
    zone: int | None = None
    code: str | None = None
    text: str | None = None
    values: Mapping[str, Scalar] = field(default_factory=lambda: NOTHING)
    device_time: datetime | None = None
    time_quality: TimeQuality = TimeQuality.UNKNOWN
    position: Position | None = None
    test: bool = False
    place: Place | None = None
    """None: the device is unclaimed. Stored and shown, sent to nobody until a person claims it."""
    raw: bytes = b""
    repeat_key: str | None = None
    """Unique over the whole store; a second event with the same key is a repeat and is not stored again."""
    suppressed_by: str | None = None
    """Id of the event that speaks for it: recorded, and sent to nobody, as part of a storm. None: sent on as ever."""
    seq: int = 0
    boot: str = ""
    """The run of the machine in which it came while the clock was not set; "" when it was."""

    @property
    def clock(self) -> ClockQuality:
        """What `received_at` is worth."""
        if self.received_at < PROGRAM_DATE:
            return ClockQuality.UNSET
        return ClockQuality.CORRECTED if self.boot else ClockQuality.SET

    @property
    def is_believed(self) -> bool:
        """False for a word about protection that anybody can have said: a radio code copied off the air. It is kept and
        shown as a fact, changes nothing and is sent to nobody."""
        return not (self.kind in SETS_PROTECTION and self.values.get("assurance") == "low")

    @property
    def occurred_at(self) -> datetime | None:
        """Device time where it can be trusted, else arrival; None where no clock was set."""
        if self.device_time is not None and self.time_quality is TimeQuality.OK:
            return self.device_time
        return None if self.clock is ClockQuality.UNSET else self.received_at

    @property
    def account(self) -> str | None:
        """The account its place has towards receivers, which tell accounts apart without regard to case."""
        return self.place.account.upper() if self.place else None


class DeliveryState(StrEnum):
    """An outbox row's life. Rows are never deleted on failure."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one destination."""

    destination: str
    event: Event
    number: int | None = None
    """The wrapping sequence number taken for it (DC-09: 1..9999); kept through every retry and restart."""
    state: DeliveryState = DeliveryState.QUEUED
    reason: str = ""
    accepted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """When a device was last heard and by when it must be heard again, as wall times that survive a restart."""

    device: str
    at: datetime | None
    """None: enrolled, never heard."""
    deadline: datetime | None
    silent: bool = False
    connection: str = ""
