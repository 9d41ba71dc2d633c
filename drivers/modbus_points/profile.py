"""What a model of device means, as data, and what hangs on this bus. Checked as a whole before the first poll."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from gateway.driver import FACTS, Act, Context, Kind, Refused, Table
from gateway.driver import Settings as Section

REGISTERS_MAX = 125
BITS_MAX = 2000
"""What one request may ask for: Modbus Application Protocol V1.1b3, clauses 6.1 to 6.4."""
GAP_REGISTERS = 8
GAP_BITS = 128
"""Unused addresses read along rather than asked around: 16 bytes, about what a second RTU transaction costs."""
POINTS_MAX = 512
OUTPUTS_MAX = 64
EVERY_S_MAX = 30.0
"""Slower polling is no supervision: a lost unit would be noticed after minutes."""
HEARD_WITHIN_S: float | None = 2 * EVERY_S_MAX
"""Enough for the slowest poll, and for a lost unit's slowest probe."""

BIT_TABLES = frozenset({"coil", "discrete_input"})
WIDTH = {"bit": 1, "u16": 1, "s16": 1, "u32": 2, "s32": 2, "f32": 2}
NO_CONDITION = frozenset({Kind.HEARTBEAT, Kind.TELEMETRY, Kind.POSITION, Kind.COMMAND})
"""Kinds that do not begin and end, so that no value can mean them."""


def _kind(value: object) -> Kind:
    names = [kind.value for kind in Kind if kind not in NO_CONDITION]
    if value in names:
        return Kind(str(value))
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    raise ValueError((f'"{near[0]}"? ' if near else "") + "one of " + ", ".join(names))


def _meaning(value: object) -> Kind | None:
    return None if value == "restore" else _kind(value)


KindName = Annotated[Kind, BeforeValidator(_kind)]
Level = Kind | None
"""The one condition a single reading shows; None is normal."""
Meaning = Annotated[Kind | None, BeforeValidator(_meaning)]
Seconds = Annotated[float, Field(ge=0.05, le=EVERY_S_MAX)]


class Read(Section):
    """Where a value stands. Addresses are those on the wire: input "10001" and register "40001" of a manual are 0."""

    table: Table
    address: Annotated[int, Field(ge=0, le=65535)]
    type: Literal["bit", "u16", "s16", "u32", "s32", "f32"]
    """Left out: bit for bit tables and where `bit` is given, else u16."""
    order: Literal["big", "little"] = "big"
    """Of the two words of a 32-bit value: the high word first, or the low one. Bytes in a word are always high first."""
    bit: Annotated[int, Field(ge=0, le=15)] | None = None
    """Of a register, 0 is the least significant."""
    scale: FiniteFloat = 1.0
    unit: Annotated[str, Field(max_length=16)] = ""

    @model_validator(mode="before")
    @classmethod
    def _default_type(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "type" not in given:
            is_bit = given.get("table") in BIT_TABLES or "bit" in given
            return {**given, "type": "bit" if is_bit else "u16"}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Read:
        if self.table in BIT_TABLES and (self.type != "bit" or self.bit is not None):
            raise ValueError(f'type "bit" and no `bit`: a {self.table} is one bit')
        if self.table not in BIT_TABLES and (self.type == "bit") != (self.bit is not None):
            raise ValueError('`bit = 0..15` together with type "bit", for one bit of a register')
        if self.scale == 0:
            raise ValueError("a scale other than 0")
        if self.address + self.width > 65536:
            raise ValueError("an address whose last word is at most 65535")
        return self

    @property
    def width(self) -> int:
        """Addresses taken."""
        return WIDTH[self.type]


class Point(Section):
    """One thing that is watched. Exactly one of `means`, `below`/`above` and `counter` says how a value is judged."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    zone: Annotated[int, Field(ge=0, le=999)] | None = None
    read: Read
    means: dict[int, Meaning] = Field(default_factory=dict)
    below: dict[FiniteFloat, KindName] = Field(default_factory=dict)
    above: dict[FiniteFloat, KindName] = Field(default_factory=dict)
    """Thresholds on the scaled value. The outermost one crossed counts, so that several make bands."""
    hysteresis: Annotated[float, Field(ge=0)] = 0.0
    """How far back inside a threshold the value must come before its band is left towards normal."""
    counter: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The value counts happenings: that many more since the last reading is one."""
    kind: KindName | None = None
    """What a counter counts."""
    range: tuple[FiniteFloat, FiniteFloat] | None = None
    """What the device can truly measure; outside it the detector is faulty, whatever the thresholds say."""
    stuck_after_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    """A live value that has not moved at all for so long is none."""
    flaps_max: Annotated[int, Field(ge=4, le=100)] | None = None
    """More changes between normal and not in a minute (`readings.FLAP_WINDOW_S`) are a contact that is loose."""
    debounce: Annotated[int, Field(ge=1, le=20)] = 1
    """Equal readings in a row before a condition counts: alarms open fast."""
    restore_after: Annotated[int, Field(ge=1, le=20)] = 2
    """Normal readings in a row before it is over: alarms restore slowly."""
    guard: bool = False
    """Proof that the map is the expected one (a model number, a firmware mark): while it reads anything but `restore`
    the unit's other points are not believed."""

    @model_validator(mode="after")
    def _judged_in_one_way(self) -> Point:
        ways = [bool(self.means), bool(self.below or self.above), self.counter is not None]
        if sum(ways) != 1:
            raise ValueError("exactly one of `means`, `below`/`above`, `counter`")
        if (self.kind is None) != (self.counter is None):
            raise ValueError("`kind` together with `counter`, and only there")
        if self.means and None not in self.means.values():
            raise ValueError('a value that means "restore": else the alarm would never end')
        if self.means and (self.hysteresis or self.read.scale != 1 or self.read.type == "f32"):
            raise ValueError("`means` on a whole number, without `scale` and `hysteresis`")
        if self.counter and self.read.type not in {"u16", "u32"}:
            raise ValueError("a counter of type u16 or u32")
        if (self.below or self.above) and self.read.type == "bit":
            raise ValueError("`means` for a bit: it has no thresholds")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("a range from the lower to the higher value")
        if self.below and self.above and max(self.below) + 2 * self.hysteresis >= min(self.above):
            raise ValueError("a normal band between `below` and `above` that is wider than twice the hysteresis")
        if self.flaps_max is not None and self.counter is not None:
            raise ValueError("`flaps_max` on a state: a counter goes on and does not flap")
        if self.guard and not self.means:
            raise ValueError("a guard judged by `means`")
        return self

    @property
    def may_be_implausible(self) -> bool:
        """Whether a reading can be refused, which is a detector fault in this zone."""
        unlisted = bool(self.means) and not (self.read.type == "bit" and self.means.keys() >= {0, 1})
        limits = (self.range, self.stuck_after_s, self.flaps_max)
        return unlisted or any(limit is not None for limit in limits) or self.read.type == "f32"

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Everything this point can report, the most urgent first."""
        named = {*self.means.values(), *self.below.values(), *self.above.values(), self.kind} - {None}
        kinds = [kind for kind in Kind if kind in named or (kind is Kind.DEVICE_FAULT and self.may_be_implausible)]
        return tuple(sorted(kinds, key=lambda kind: FACTS[kind].lane))


class Place(Section):
    """A coil or holding register, by its address on the wire."""

    table: Literal["coil", "holding_register"]
    address: Annotated[int, Field(ge=0, le=65535)]


class Proof(Section):
    """Where an output shows: best a contact of the lock itself, which no relay can feign."""

    table: Table
    address: Annotated[int, Field(ge=0, le=65535)]
    on: Annotated[int, Field(ge=0, le=65535)] = 1
    off: Annotated[int, Field(ge=0, le=65535)] = 0


class Timer(Section):
    """The register that says how long the device's own pulse lasts, written just before it."""

    address: Annotated[int, Field(ge=0, le=65535)]
    per_s: Annotated[int, Field(ge=1, le=1000)]
    """Its counts in a second."""


class Output(Section):
    """Something that can be switched: a lock or a siren."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    does: Literal["lock", "siren"]
    """Switched on, a lock is released and a siren sounds."""
    zone: Annotated[int, Field(ge=0, le=999)] | None = None
    """Commands that name it are for this output; None: those without a zone."""
    write: Place
    on: Annotated[int, Field(ge=0, le=65535)] = 1
    off: Annotated[int, Field(ge=0, le=65535)] = 0
    proof: Proof | None = None
    """None: the output itself is read back."""
    ends: Literal["device", "gateway"]
    """Who ends a pulse. The device also when the gateway has died or the cable is cut; the gateway only while it lives."""
    timer: Timer | None = None
    """None with `ends = "device"`: the pulse is as long as the device is set to."""

    @model_validator(mode="after")
    def _fits(self) -> Output:
        if self.on == self.off:
            raise ValueError("`on` and `off` that differ")
        if self.write.table == "coil" and {self.on, self.off} != {0, 1}:
            raise ValueError("`on` and `off` of a coil as 0 and 1")
        if self.timer is not None and self.ends != "device":
            raise ValueError('`timer` together with ends = "device"')
        return self

    @property
    def shown(self) -> Proof:
        """Where it is read back."""
        return self.proof or Proof(table=self.write.table, address=self.write.address, on=self.on, off=self.off)

    @property
    def acts(self) -> frozenset[Act]:
        """What it can be told. A lock that its device locks again by itself cannot be held open."""
        if self.does == "siren":
            return frozenset({Act.SIREN})
        return frozenset({Act.OPEN, Act.LOCK, Act.UNLOCK} if self.ends == "gateway" else {Act.OPEN, Act.LOCK})


class Profile(Section):
    """One model of device."""

    every_s: Seconds = 1.0
    heard_within_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """A silence longer than this is a lost unit even before three polls were missed."""
    holes: bool = True
    """False: the device refuses a request that touches an unused address, so none is read along."""
    point: Annotated[tuple[Point, ...], Field(min_length=1, max_length=POINTS_MAX)]
    output: Annotated[tuple[Output, ...], Field(max_length=OUTPUTS_MAX)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        mistakes = [*_same_edge(self.point), *_same_address(self.point), *_same_output(self.output)]
        if self.heard_within_s is not None and self.heard_within_s <= self.every_s:
            mistakes.append(f"heard_within_s longer than every_s ({self.every_s:g} s)")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @cached_property
    def depends_on_time(self) -> bool:
        """Whether time alone can make an unchanged value news."""
        return any(point.stuck_after_s is not None or point.flaps_max is not None for point in self.point)


def _same_edge(points: Sequence[Point]) -> Iterator[str]:
    """Two points that report the same kind in the same zone would restore each other's alarms."""
    owners: dict[tuple[Kind, int | None], str] = {
        (Kind.COMM_FAULT, None): "the driver itself",
        (Kind.DEVICE_FAULT, None): "the driver itself",
    }
    for point in points:
        for kind in point.kinds:
            owner = owners.setdefault((kind, point.zone), f'"{point.name}"')
            if owner != f'"{point.name}"':
                zone = "without a zone" if point.zone is None else f"in zone {point.zone}"
                yield f'one point for {kind.value} {zone}, but {owner} and "{point.name}" report it: give it another zone'


def _same_output(outputs: Sequence[Output]) -> Iterator[str]:
    """Two outputs that one command could mean, or that are one."""
    for what, keys in (
        ("zone for each thing it does", [(output.does, output.zone) for output in outputs]),
        ("output at one place", [(output.write.table, output.write.address) for output in outputs]),
    ):
        if twice := _first_twice(keys):
            yield f"one {what}, but two have {' '.join(map(str, twice))}"


def _same_address(points: Sequence[Point]) -> Iterator[str]:
    """Two points on one address are two opinions about one value, unless each takes a bit of its own."""
    taken: dict[tuple[Table, int], list[Point]] = {}
    for point in points:
        for address in range(point.read.address, point.read.address + point.read.width):
            for other in taken.setdefault((point.read.table, address), []):
                if point.read.bit is None or other.read.bit is None or point.read.bit == other.read.bit:
                    yield f'one point per value, but "{other.name}" and "{point.name}" both read {point.read.table} {address}'
            taken[point.read.table, address].append(point)


# -- which requests read it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One read on the wire."""

    table: Table
    address: int
    count: int


def plan(profile: Profile) -> tuple[Request, ...]:
    """The fewest requests that read every point: neighbours coalesced, small holes read along, no value split."""
    requests: list[Request] = []
    spans = sorted((point.read.table, point.read.address, point.read.width) for point in profile.point)
    for table, address, width in spans:
        count_max, gap_max = (BITS_MAX, GAP_BITS) if table in BIT_TABLES else (REGISTERS_MAX, GAP_REGISTERS)
        last = requests[-1] if requests else None
        if last is not None and last.table == table:
            end = max(last.address + last.count, address + width)
            gap = address - (last.address + last.count)
            if gap <= (gap_max if profile.holes else 0) and end - last.address <= count_max:
                requests[-1] = Request(table, last.address, end - last.address)
                continue
        requests.append(Request(table, address, width))
    return tuple(requests)


# -- the bus of a site ---------------------------------------------------------------------------------------------------


class Unit(Section):
    """One slave."""

    unit: Annotated[int, Field(ge=1, le=255)]
    """1 to 247; 255 is what the Modbus TCP guide gives a device that stands alone behind its address."""
    device: Annotated[str, Field(min_length=1, max_length=64)]
    profile: str | None = None
    """Left out: that of the whole bus."""
    every_s: Seconds | None = None
    """Instead of the profile's."""

    @model_validator(mode="after")
    def _not_reserved(self) -> Unit:
        if 248 <= self.unit <= 254:
            raise ValueError("unit 1 to 247 (or 255 for a lone TCP device): 248 to 254 are reserved")
        return self


class Settings(Section):
    """What hangs on this bus. Without units nothing can be polled, but a capture can be explained."""

    profile: str | None = None
    """Of every unit that names none."""
    units: Annotated[tuple[Unit, ...], Field(max_length=248)] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Settings:
        for what, values in (
            ("unit", [unit.unit for unit in self.units]),
            ("device", [unit.device for unit in self.units]),
        ):
            if twice := _first_twice(values):
                raise ValueError(f"each {what} once: {twice} is there twice")
        return self

    def profile_of(self, unit: Unit, context: Context) -> Profile:
        """Raises Refused with what there is and the nearest spelling."""
        return profile_named(unit.profile or self.profile, context)


ValueT = TypeVar("ValueT")


def _first_twice(values: Sequence[ValueT]) -> ValueT | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def profile_named(name: str | None, context: Context) -> Profile:
    """The profile of that name. Raises Refused with what there is and the nearest spelling."""
    profile = context.profiles.get(name or "")
    if not isinstance(profile, Profile):
        raise Refused(f"{_not_known(name)}; expected {_profiles_like(name, context)}")
    return profile


def mistakes(context: Context) -> Sequence[tuple[str, str]]:
    """What is wrong with settings and profiles together, as found and expected."""
    settings = context.settings
    assert isinstance(settings, Settings)
    if not settings.units:
        return [("no units", 'units = [{ unit = 1, device = "fence-1", profile = "fence8" }]')]
    names = [(unit, unit.profile or settings.profile) for unit in settings.units]
    return [
        (f'unit {unit.unit} "{unit.device}": {_not_known(name)}', _profiles_like(name, context))
        for unit, name in names
        if name not in context.profiles
    ]


def _not_known(name: str | None) -> str:
    return "no profile is named" if name is None else f'profile "{name}" is not known'


def _profiles_like(name: str | None, context: Context) -> str:
    near = difflib.get_close_matches(name or "", context.profiles, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"one of {', '.join(sorted(context.profiles))}{hint}"


def unit_of(device: str, context: Context) -> tuple[Unit, Profile] | None:
    """The unit that carries this id, and its profile."""
    settings = context.settings
    assert isinstance(settings, Settings)
    found = next((unit for unit in settings.units if unit.device == device), None)
    return None if found is None else (found, settings.profile_of(found, context))


def obeys(device: str, context: Context) -> frozenset[Act]:
    """What the outputs of its profile can do."""
    found = unit_of(device, context)
    return frozenset(act for output in found[1].output for act in output.acts) if found else frozenset()


def heard_within_s(device: str, context: Context) -> float | None:
    """How often a unit must be heard: its profile's word, else the driver's."""
    found = unit_of(device, context)
    return (found[1].heard_within_s if found else None) or HEARD_WITHIN_S
