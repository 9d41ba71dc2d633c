"""What readings mean, what is news, and that a dead unit does not cost its neighbours their pace."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import pytest

from drivers.modbus_points.capture import crc16, decode, split
from drivers.modbus_points.poll import DEAD_SHARE, GAP_S_MAX, MISSES_MAX, PAUSE_S
from drivers.modbus_points.profile import GAP_BITS, GAP_REGISTERS, Profile, Request, plan
from drivers.modbus_points.readings import PointState, interpret, value_of
from gateway.cli import explain as cli
from gateway.clock import RealClock
from gateway.driver import Bus, BusRefused, Context, FrameError, Kind, NoAnswer, Qualifier, Refused, Session, Table
from gateway.errors import ConfigError, LinkClosed, StoreError
from gateway.loader import load_profiles
from gateway.plan import prepare
from tests.conftest import JumpingClock, tool
from tests.modbus_bench import TCP, WAIT_S, Desk, bus_on, driver, running, shipped, slave, url_of, world

NEW, RESTORE = Qualifier.NEW, Qualifier.RESTORE


def profile_with(*points: Mapping[str, Any], **keys: Any) -> Profile:
    named = [{"name": f"p{index}", **point} for index, point in enumerate(points)]
    return Profile.model_validate({"point": named, **keys})


def bit(address: int, zone: int, kind: str = "burglary", **keys: Any) -> dict[str, Any]:
    read = {"table": "discrete_input", "address": address}
    return {"zone": zone, "read": read, "means": {1: kind, 0: "restore"}, **keys}


def word(address: int, zone: int | None, *, table: str = "input_register", **keys: Any) -> dict[str, Any]:
    how = {key: keys.pop(key) for key in ("type", "order", "scale", "bit") if key in keys}
    return {"zone": zone, "read": {"table": table, "address": address, **how}, **keys}


# -- edges ---------------------------------------------------------------------------------------------------------------


def edges(profile: Profile, readings: Iterable[float | None], *, active: Sequence[Kind] = ()) -> str:
    """What a row of readings of the first point, one a second, makes: `kind+` for new, `kind-` for its end, `.` for nothing."""
    point = profile.point[0]
    states = [PointState(active=frozenset(active))]
    said = []
    for second, reading in enumerate(readings):
        image = {} if reading is None else {(point.read.table, point.read.address): int(reading)}
        states, seen = interpret("d1", profile, image, states, second)
        said.append(",".join(f"{one.kind.value}{'+' if one.qualifier is NEW else '-'}" for one in seen) or ".")
    return " ".join(said)


ZONE = bit(0, 1)
LOOP = word(
    0, 1, hysteresis=100,
    below={550: "tamper", 1650: "loop_fault"},
    above={2750: "loop_fault", 3850: "burglary", 4950: "loop_fault", 8800: "tamper"},
)  # fmt: skip
COUNTER = word(0, 1, counter=1, kind="burglary")


@pytest.mark.parametrize(
    ("point", "readings", "expected", "claim"),
    [
        (ZONE, [0, 0, 1, 1, 1, 0, 0, 0], ". . burglary+ . . . burglary- .", "opens at once, restores after two"),
        (ZONE, [1, 0, 1, 0, 0], "burglary+ . . . burglary-", "a flicker inside an alarm is not its end"),
        (ZONE, [None, 1, None, None, 0, 0], ". burglary+ . . . burglary-", "what is not read stays as it was"),
        (ZONE | {"debounce": 2}, [1, 0, 1, 1, 1], ". . . burglary+ .", "two equal readings before it counts"),
        (ZONE | {"restore_after": 1}, [1, 0, 1], "burglary+ burglary- burglary+", "each is told"),
        (LOOP, [2200, 4400, 4400, 2200, 2200], ". burglary+ . . burglary-", "two resistors are an alarm"),
        (LOOP, [2200, 100, 2200, 2200], ". tamper+ . tamper-", "a short is tampering"),
        (LOOP, [2200, 65535], ". tamper+", "a cut is tampering"),
        (LOOP, [2200, 2800, 2700, 2640, 2640], ". loop_fault+ . . loop_fault-", "hysteresis on the way back"),
        (LOOP, [2200, 1600, 1700, 1760, 1760], ". loop_fault+ . . loop_fault-", "on the low side too"),
        (LOOP, [2200, 2800, 3860], ". loop_fault+ burglary+", "but none on the way out"),
        (LOOP, [4400, 65535, 4400, 2200, 2200], "burglary+ tamper+ . . burglary-,tamper-", "a cut ends no alarm"),
        (LOOP | {"debounce": 2}, [2200, 3000, 4400, 4400], ". . . burglary+", "passing a fault band is no fault"),
        (word(0, 1, below={180: "ac_loss"}, scale=0.1), [1800, 1799, 1801, 1801], ". ac_loss+ . ac_loss-", "threshold"),
        (
            word(0, 1, means={0: "restore", 1: "burglary", 2: "tamper"}),
            [0, 2, 1, 0, 0], ". tamper+ burglary+ . burglary-,tamper-", "several values of one register",
        ),
        (
            word(0, 1, means={0: "restore", 1: "burglary"}),
            [0, 7, 7, 7, 0, 0], ". . . device_fault+ . device_fault-", "an unlisted value is a fault, after three",
        ),
        (
            word(0, 1, below={180: "ac_loss"}, range=[0, 300]),
            [230, 9999, 230, 9999, 9999, 9999], ". . . . . device_fault+", "impossible is a fault and no alarm",
        ),
        (COUNTER, [65534, 65534, 65535, 65535, 65535], ". . burglary+ . burglary-", "a step is an alarm, rest ends it"),
        (COUNTER, [65535, 0], ". burglary+", "a counter wraps"),
        (COUNTER, [500, 0, 0], ". . .", "a counter that starts again has not counted"),
        (COUNTER | {"counter": 3}, [5, 7, 10], ". . burglary+", "fewer than its step is nothing"),
        (COUNTER, [None, 9], ". .", "the first reading of a counter tells nothing"),
        (
            word(0, 1, below={180: "ac_loss"}, stuck_after_s=3),
            [230] * 7 + [231, 231], ". . . . . device_fault+ . . device_fault-", "a dead value is a fault",
        ),
        (
            ZONE | {"flaps_max": 4, "restore_after": 1}, [0, 1, 0, 1, 0, 1, 0, 1, 0],
            ". burglary+ burglary- burglary+ burglary- . . device_fault+ .", "a loose contact is one fault and no storm",
        ),
        (
            ZONE | {"flaps_max": 4, "restore_after": 1}, [0, 1, 0, 1, 0, 1, 0, 1, *[0] * 60],
            ". burglary+ burglary- burglary+ burglary- . . device_fault+" + " ." * 58 + " device_fault- .",
            "which ends when it has been quiet for long enough",
        ),
        (
            bit(0, 1, means={1: "exit_request", 0: "restore"}), [0, 1, 1, 0, 0, 1], ". exit_request+ . . . exit_request+",
            "a press has no end",
        ),
    ],
)  # fmt: skip
def test_news_is_edges_only(point: dict[str, Any], readings: list[float | None], expected: str, claim: str) -> None:
    assert edges(profile_with(point), readings) == expected, claim


@pytest.mark.parametrize(
    ("active", "readings", "expected", "claim"),
    [
        ([Kind.BURGLARY], [1, 1], ". .", "stored before the restart and still there: not told twice"),
        ([Kind.BURGLARY], [0, 0, 0], ". burglary- .", "ended while we were away: told once"),
        ([], [1, 1], "burglary+ .", "began while we were away: told once"),
        ([Kind.BURGLARY], [None, None], ". .", "not read yet: unknown, so nothing ends"),
    ],
)
def test_a_restart_tells_only_what_changed(
    active: list[Kind], readings: list[float | None], expected: str, claim: str
) -> None:
    assert edges(profile_with(ZONE), readings, active=active) == expected, claim


def test_a_shifted_map_is_one_fault_and_no_storm_of_alarms() -> None:
    """The guard reads another model number; every loop beside it would be an alarm."""
    loops = shipped["loop_eol8"]
    image: dict[tuple[Table, int], int] = {("holding_register", 0): 1}
    image |= {("input_register", address): 65535 for address in range(8)}
    states = [PointState() for _ in loops.point]
    seen = []
    for second in range(10):
        states, now = interpret("d1", loops, image, states, second)
        seen += now

    assert [(one.kind, one.zone) for one in seen] == [(Kind.DEVICE_FAULT, 100)]


@pytest.mark.parametrize(
    ("read", "words", "expected"),
    [
        ({"type": "u16"}, [65535], 65535),
        ({"type": "s16"}, [0xFFFE], -2),
        ({"type": "u32"}, [0x0001, 0x86A0], 100_000),
        ({"type": "u32", "order": "little"}, [0x86A0, 0x0001], 100_000),
        ({"type": "s32"}, [0xFFFF, 0xFFFF], -1),
        ({"type": "f32"}, [0x41AC, 0x0000], 21.5),
        ({"type": "f32", "order": "little"}, [0x0000, 0x41AC], 21.5),
        ({"type": "s16", "scale": 0.1}, [0xFFFE], -0.2),
        ({"type": "u16", "scale": 0.1}, [2301], 230.1),
        ({"bit": 0}, [0x8001], 1),
        ({"bit": 15}, [0x8001], 1),
        ({"bit": 14}, [0x8001], 0),
        ({"type": "u32"}, [1], None),
    ],
)
def test_registers_are_read_as_the_profile_says(read: dict[str, Any], words: list[int], expected: float | None) -> None:
    """Two's complement and IEEE 754 by definition; 41AC 0000 for 21.5 also stands in the capture among the vectors."""
    judged: dict[str, Any] = {"means": {0: "restore", 1: "water"}} if "bit" in read else {"above": {1e9: "heat"}}
    (point,) = profile_with(word(7, 1, **read, **judged)).point

    assert value_of(point.read, {("input_register", 7 + index): one for index, one in enumerate(words)}) == expected


def test_not_a_number_is_a_fault() -> None:
    high, low = struct.unpack(">HH", struct.pack(">f", float("nan")))
    profile = profile_with(word(0, 1, type="f32", above={60: "heat"}))
    image: dict[tuple[Table, int], int] = {("input_register", 0): high, ("input_register", 1): low}
    states: Sequence[PointState] = [PointState()]
    for _ in range(3):
        states, seen = interpret("d1", profile, image, states, 0)

    assert [(one.kind, dict(one.values)) for one in seen] == [(Kind.DEVICE_FAULT, {"value": None})]


# -- profiles ------------------------------------------------------------------------------------------------------------


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([bit(0, 1, "burglery")], ['"burglary"? one of', "point.0.means.1"]),
        ([bit(0, 1, "heartbeat")], ["one of panic"]),
        ([bit(0, 1) | {"zones": 1}], ["point.0.zones", "unknown key", '"zone"']),
        ([bit(0, 1), bit(1, 1)], ["one point for burglary in zone 1", '"p0" and "p1"']),
        ([bit(0, 1), bit(0, 2)], ['"p0" and "p1" both read discrete_input 0']),
        ([word(0, 1, type="u32", above={1: "heat"}), word(1, 2, above={1: "heat"})], ["both read input_register 1"]),
        ([word(0, 1, bit=3, means={1: "tamper", 0: "restore"}), word(0, 2, above={1: "heat"})], ["both read"]),
        ([word(0, None, range=[0, 9], above={1: "heat"})], ["device_fault without a zone", "the driver itself"]),
        ([bit(0, 1) | {"means": {1: "burglary"}}], ['a value that means "restore"']),
        ([bit(0, 1) | {"above": {1: "heat"}}], ["exactly one of"]),
        ([word(0, 1)], ["exactly one of"]),
        ([word(0, 1, below={10: "ac_loss"}, above={10: "heat"})], ["a normal band"]),
        ([word(0, 1, counter=1)], ["`kind` together with `counter`"]),
        ([word(65535, 1, type="f32", above={1: "heat"})], ["an address whose last word"]),
        ([word(0, 1, table="coil", type="u16", above={1: "heat"})], ["a coil is one bit"]),
        ([word(0, 1, type="bit", means={1: "heat", 0: "restore"})], ["`bit = 0..15`"]),
    ],
)
def test_a_mistake_in_a_profile_is_named(points: list[dict[str, Any]], words: list[str], tmp_path: Path) -> None:
    lines = ['driver = "modbus_points"']
    for index, point in enumerate(points):
        keys = [f"{key} = {toml(value)}" for key, value in point.items() if value is not None]
        lines += ["[[point]]", f'name = "p{index}"', *keys]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load_profiles(driver, tmp_path)

    assert "mine.toml" in str(caught.value)
    for expected in words:
        assert expected in str(caught.value)


def test_bits_of_one_register_may_be_points_of_their_own() -> None:
    bits = [word(0, zone, bit=zone, means={1: "tamper", 0: "restore"}) for zone in range(16)]

    assert plan(profile_with(*bits)) == (Request("input_register", 0, 1),)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([(1, "a"), (1, "b")], "each unit once: 1"),
        ([(1, "a"), (2, "a")], "each device once: a"),
        ([(250, "a")], "248 to 254 are reserved"),
        ([(0, "a")], "greater than or equal to 1"),
    ],
)
def test_a_mistake_in_the_settings_is_named(units: list[tuple[int, str]], expected: str) -> None:
    rows = [{"unit": unit, "device": device, "profile": "fence8"} for unit, device in units]
    with pytest.raises(ValueError, match=expected):
        driver.Settings.model_validate({"units": rows})


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([bit(z, z) for z in range(8)], [("discrete_input", 0, 8)]),
        ([bit(7, 7), bit(0, 0)], [("discrete_input", 0, 8)]),
        ([bit(0, 0), bit(GAP_BITS + 1, 1)], [("discrete_input", 0, GAP_BITS + 2)]),
        ([bit(0, 0), bit(GAP_BITS + 2, 1)], [("discrete_input", 0, 1), ("discrete_input", GAP_BITS + 2, 1)]),
        (
            [word(0, 0, above={1: "heat"}), word(GAP_REGISTERS + 1, 1, above={1: "heat"})],
            [("input_register", 0, GAP_REGISTERS + 2)],
        ),
        (
            [word(z * 2, z, type="u32", above={1: "heat"}) for z in range(63)],
            [("input_register", 0, 124), ("input_register", 124, 2)],
        ),
        ([bit(z * 100, z) for z in range(25)], [("discrete_input", 0, 1901), ("discrete_input", 2000, 401)]),
        (
            [bit(0, 0), word(1, 1, above={1: "heat"}), word(1, 2, table="holding_register", above={1: "heat"})],
            [("discrete_input", 0, 1), ("holding_register", 1, 1), ("input_register", 1, 1)],
        ),
    ],
)
def test_neighbours_are_read_in_one_request(
    points: list[dict[str, Any]], expected: list[tuple[Table, int, int]]
) -> None:
    """125 registers and 2000 bits are the most one request may ask for; no 32-bit value is cut in two."""
    assert plan(profile_with(*points)) == tuple(Request(*one) for one in expected)


def test_a_device_that_refuses_holes_is_not_read_across_them() -> None:
    assert plan(profile_with(bit(0, 0), bit(2, 2), holes=False)) == (
        Request("discrete_input", 0, 1),
        Request("discrete_input", 2, 1),
    )


# -- captures ------------------------------------------------------------------------------------------------------------


def test_a_capture_is_explained_with_nothing_but_a_profile() -> None:
    """The request as published (CRC 79 CC); the answer's CRC by pymodbus 3.16.1."""
    (frame,) = split(bytearray.fromhex("01 02 00 00 00 08 79 CC 01 02 01 04 A0 4B"))
    seen = decode(frame, Context(profiles={"fence8": shipped["fence8"]}))

    assert [(one.device, one.zone) for one in seen if one.qualifier is NEW] == [("1", 3)]
    assert len(seen) == 8
    with pytest.raises(FrameError, match=r"unit 1: no profile is named; expected one of .*fence8"):
        decode(frame, Context(profiles=shipped))


@pytest.mark.parametrize(
    ("capture", "words"),
    [
        ("11 01 04 A1 00 01 AF 88 11 81 02 C0 54", "it has no such address"),
        ("11 02 00 00 00 08 7B 5C 11 02 01 84 A5 2A", "CRC does not fit"),
        ("11 02 00 00 00 08 7B 5C 12 02 01 84 A5 6F", "no answer follows"),
        ("11 02 00 00 00 08 7B 5D 11 02 01 84 A5 2B", "do not begin with a read request"),
    ],
)
def test_a_capture_that_says_nothing_says_why(capture: str, words: str) -> None:
    frame, *_ = split(bytearray.fromhex(capture))

    with pytest.raises(FrameError, match=words):
        decode(frame, Context(profiles={"fence8": shipped["fence8"]}))


@pytest.mark.parametrize(("protocol", "profile"), [("modbus_points", "fence8"), ("fence8", None)])
def test_explain_needs_no_more_than_the_profiles_name(protocol: str, profile: str | None) -> None:
    module, context = cli.prepare(protocol, profile, [], None)
    (told,) = cli.explain(module, context, "01 02 00 00 00 08 79 CC 01 02 01 04 A0 4B")

    assert told["ok"]
    assert [one["zone"] for one in told["observations"] if one["qualifier"] == "new"] == [3]


def test_the_checksum_is_that_of_the_published_request() -> None:
    assert crc16(bytes.fromhex("01 02 00 00 00 08")).to_bytes(2, "little") == bytes.fromhex("79 CC")


def test_any_bytes_make_refused_frames_or_nothing() -> None:
    dice = Random(20270115)
    context = Context(profiles={"fence8": shipped["fence8"]})
    request = bytes.fromhex("01 02 00 00 00 08 79 CC")
    for _ in range(300):
        buffer = bytearray(dice.choice([dice.randbytes(40), request + dice.randbytes(9)]))
        for frame in split(buffer):
            with pytest.raises(FrameError):
                decode(frame, context)

        assert len(buffer) <= 8 + 255


# -- the conversation ----------------------------------------------------------------------------------------------------


class ModelBus:
    """A bus whose requests take the time they would take on a line: only the clock is not real."""

    def __init__(self, clock: JumpingClock, *, answer_s: float = 0.01, timeout_s: float = 0.2) -> None:
        self.clock, self.answer_s, self.timeout_s = clock, answer_s, timeout_s
        self.dead: set[int] = set()
        self.refusing: dict[tuple[int, Table], int] = {}
        self.bits: dict[tuple[int, int], int] = {}
        self.asked: dict[int, list[float]] = defaultdict(list)
        self.is_cut = False

    async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        if self.is_cut:
            raise LinkClosed("cut")
        self.asked[unit].append(self.clock.monotonic())
        await self.clock.sleep(self.timeout_s if unit in self.dead else self.answer_s)
        if unit in self.dead:
            raise NoAnswer(f"unit {unit}")
        if (unit, table) in self.refusing:
            raise BusRefused(self.refusing[unit, table])
        return [self.bits.get((unit, address + index), 0) for index in range(count)]

    async def write(self, unit: int, table: Table, address: int, values: Sequence[int]) -> None:
        raise AssertionError("this driver only reads")


def units(count: int, profile: str = "zones8", **keys: Any) -> list[dict[str, Any]]:
    return [{"unit": n, "device": f"u{n}", "profile": profile, **keys} for n in range(1, count + 1)]


ZONES8 = profile_with(*(bit(address, address + 1) for address in range(8)))


@asynccontextmanager
async def polled(
    bus: Bus, clock: JumpingClock, desk: Desk, rows: Sequence[Mapping[str, Any]], **profiles: Profile
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(desk.session(bus, clock, rows, zones8=ZONES8, **profiles)))
        try:
            yield
        finally:
            task.cancel()


def periods(moments: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


@pytest.mark.parametrize(
    ("every_s", "dead"),
    [(1.0, [13]), (0.05, [13]), (0.05, [5, 13, 21])],
    ids=["idle bus", "full bus", "full bus, three dead"],
)
async def test_dead_units_cost_the_living_less_than_a_tenth(
    jumping_clock: JumpingClock, every_s: float, dead: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """31 units at 9600 baud (some 25 ms a request), 200 ms timeout. A full bus is polled as fast as it goes."""
    bus = ModelBus(jumping_clock, answer_s=0.025)
    async with polled(bus, jumping_clock, Desk(), units(31, every_s=every_s)):
        await jumping_clock.advance(30)
        before = {unit: periods(moments) for unit, moments in bus.asked.items()}
        bus.dead.update(dead)
        await jumping_clock.advance(30)
        bus.asked.clear()
        await jumping_clock.advance(90)
    alive = [unit for unit in range(1, 32) if unit not in dead]
    was = mean(mean(before[unit]) for unit in alive)
    now = mean(mean(periods(bus.asked[unit])) for unit in alive)
    middle = median(median(periods(bus.asked[unit])) for unit in alive)
    with capsys.disabled():
        print(
            f"\n    every {every_s} s, {len(dead)} of 31 dead: mean period {was:.4f} -> {now:.4f} s, median {middle:.4f} s"
        )

    assert now < was * 1.10
    assert middle < was * 1.10
    assert all(len(bus.asked[unit]) >= 90 / GAP_S_MAX - 1 for unit in dead), "the dead are still looked for"


async def test_a_dead_unit_on_a_real_wire_costs_the_living_less_than_a_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = world()
    slaves = [slave(TCP, here, f"u{n}") for n in range(1, 32)]
    clock, desk = RealClock(), Desk()
    asked: dict[int, list[float]] = defaultdict(list)
    async with running(*slaves), bus_on(url_of(slaves[0], 100)) as bus:

        class Watched:
            async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
                asked[unit].append(clock.monotonic())
                return await bus.read(unit, table, address, count)

            async def write(self, unit: int, table: Table, address: int, values: Sequence[int]) -> None:
                raise AssertionError("this driver only reads")

        closed = profile_with(*(bit(z, z + 1) | {"means": {0: "burglary", 1: "restore"}} for z in range(8)))
        async with asyncio.TaskGroup() as group:
            rows = units(31, "closed", every_s=0.15)
            task = group.create_task(driver.run(desk.session(Watched(), clock, rows, closed=closed)))
            await clock.sleep(1.0)
            was = median(median(periods(asked[unit])) for unit in range(2, 32))
            await slaves[0].do("silent")
            await desk.until(1)
            asked.clear()
            await clock.sleep(1.5)
            task.cancel()
    now = median(median(periods(asked[unit])) for unit in range(2, 32))
    with capsys.disabled():
        print(f"\n    TCP, every 0.15 s, 1 of 31 dead: median period {was:.4f} -> {now:.4f} s")

    assert now < was * 1.10
    assert desk.edges() == [("u1", Kind.COMM_FAULT, NEW, None)]


async def test_a_lost_unit_is_one_fault_and_its_return_one_restore(jumping_clock: JumpingClock) -> None:
    bus, desk = ModelBus(jumping_clock), Desk()
    async with polled(bus, jumping_clock, desk, units(2)):
        await jumping_clock.advance(5)
        bus.dead.add(1)
        bus.bits[2, 0] = 1
        await jumping_clock.advance(200)
        gaps = periods(bus.asked[1])[-3:]
        bus.bits[1, 3] = 1
        bus.dead.clear()
        await jumping_clock.advance(GAP_S_MAX + 1)

    assert desk.edges() == [
        ("u2", Kind.BURGLARY, NEW, 1),
        ("u1", Kind.COMM_FAULT, NEW, None),
        ("u1", Kind.COMM_FAULT, RESTORE, None),
        ("u1", Kind.BURGLARY, NEW, 4),
    ]
    assert all(gap <= GAP_S_MAX + bus.timeout_s + 0.1 for gap in gaps)
    assert desk.heard.count("u2") > 200


@pytest.mark.parametrize(
    ("quiet_s", "told"),
    [(2.5, [NEW]), (5.0, [NEW, RESTORE, NEW])],
    ids=["one reading of quiet is no end", "held until it was read twice"],
)
async def test_a_late_answer_costs_the_state_its_readings(
    jumping_clock: JumpingClock, quiet_s: float, told: list[Qualifier]
) -> None:
    """Quiet between two alarms, and of its pollings (at 2.0, 3.3, 4.3) the first is answered too late."""
    bus, desk = ModelBus(jumping_clock, timeout_s=0.3), Desk()
    bus.bits[1, 0] = 1
    async with polled(bus, jumping_clock, desk, units(1, every_s=1.0)):
        await jumping_clock.advance(1.1)
        bus.bits[1, 0] = 0
        bus.dead.add(1)
        await jumping_clock.advance(1.3)
        bus.dead.clear()
        await jumping_clock.advance(quiet_s - 1.3)
        bus.bits[1, 0] = 1
        await jumping_clock.advance(5)

    assert desk.edges() == [("u1", Kind.BURGLARY, qualifier, 1) for qualifier in told]


async def test_the_gap_to_a_dead_unit_grows_and_its_share_of_the_bus_is_bounded(jumping_clock: JumpingClock) -> None:
    bus = ModelBus(jumping_clock)
    bus.dead.add(1)
    async with polled(bus, jumping_clock, Desk(), units(2, every_s=0.1)):
        await jumping_clock.advance(120)
    gaps = periods(bus.asked[1])

    assert all(gap >= PAUSE_S for gap in gaps)
    assert all(gap < 2 * PAUSE_S for gap in gaps[: MISSES_MAX - 1])
    assert all(gap >= bus.timeout_s / DEAD_SHARE for gap in gaps[MISSES_MAX - 1 :])
    assert gaps[-1] > gaps[MISSES_MAX]


async def test_a_dead_unit_costs_one_timeout_a_poll_however_many_ranges_it_has(jumping_clock: JumpingClock) -> None:
    two = profile_with(bit(0, 1), word(0, 2, above={60: "heat"}))
    bus = ModelBus(jumping_clock)
    bus.dead.add(1)
    async with polled(bus, jumping_clock, Desk(), units(1, "two"), two=two):
        await jumping_clock.advance(2.5)

    assert [round(moment - 1000) for moment in bus.asked[1]] == [0, 1, 2]


async def test_a_silence_longer_than_the_profile_allows_is_a_fault_before_three_misses(
    jumping_clock: JumpingClock,
) -> None:
    impatient = profile_with(bit(0, 1), every_s=4, heard_within_s=5)
    bus, desk = ModelBus(jumping_clock), Desk()
    async with polled(bus, jumping_clock, desk, units(1, "impatient"), impatient=impatient):
        await jumping_clock.advance(1)
        bus.dead.add(1)
        await jumping_clock.advance(8)

    assert len(bus.asked[1]) == 3
    assert desk.edges() == [("u1", Kind.COMM_FAULT, NEW, None)]


async def test_a_value_that_stands_still_is_suspected_however_often_it_is_read(jumping_clock: JumpingClock) -> None:
    live = profile_with(word(0, 2, above={60: "heat"}, stuck_after_s=20))
    desk = Desk()
    async with polled(ModelBus(jumping_clock), jumping_clock, desk, units(1, "live"), live=live):
        await jumping_clock.advance(15)
        assert desk.edges() == []
        await jumping_clock.advance(15)

    assert desk.edges() == [("u1", Kind.DEVICE_FAULT, NEW, 2)]


async def test_a_contact_that_flapped_is_sound_again_after_a_quiet_minute(jumping_clock: JumpingClock) -> None:
    """Its image does not change any more: time alone ends the fault."""
    loose, bus, desk = profile_with(bit(0, 1) | {"flaps_max": 4}), ModelBus(jumping_clock), Desk()
    async with polled(bus, jumping_clock, desk, units(1, "loose"), loose=loose):
        for second in range(12):
            bus.bits[1, 0] = second % 2
            await jumping_clock.advance(1)
        assert desk.edges()[-1] == ("u1", Kind.DEVICE_FAULT, NEW, 1)
        bus.bits[1, 0] = 0
        told = len(desk.seen)
        await jumping_clock.advance(50)
        assert len(desk.seen) == told
        await jumping_clock.advance(20)

    assert ("u1", Kind.DEVICE_FAULT, RESTORE, 1) in desk.edges()[told:]


async def test_after_a_restart_a_unit_known_as_lost_is_not_told_again(jumping_clock: JumpingClock) -> None:
    bus, desk = ModelBus(jumping_clock), Desk()
    desk.stored["u1"] = {(Kind.COMM_FAULT, None): NEW, (Kind.BURGLARY, 2): NEW, (Kind.BURGLARY, 3): NEW}
    bus.dead.add(1)
    bus.bits[1, 1] = 1
    async with polled(bus, jumping_clock, desk, units(1)):
        await jumping_clock.advance(3)
        probes = len(bus.asked[1])
        await jumping_clock.advance(57)
        told_while_lost = desk.edges()
        bus.dead.clear()
        await jumping_clock.advance(60)

    assert probes == 1, "that it is still lost needs no three polls"
    assert told_while_lost == []
    assert desk.edges() == [("u1", Kind.COMM_FAULT, RESTORE, None), ("u1", Kind.BURGLARY, RESTORE, 3)]


async def test_a_unit_that_refuses_part_of_its_map_is_a_fault_and_the_rest_is_still_watched(
    jumping_clock: JumpingClock,
) -> None:
    mixed = profile_with(bit(0, 1), word(0, 2, above={60: "heat"}))
    bus, desk = ModelBus(jumping_clock), Desk()
    bus.refusing[1, "input_register"] = 2
    async with polled(bus, jumping_clock, desk, units(1, "mixed"), mixed=mixed):
        await jumping_clock.advance(5)
        bus.bits[1, 0] = 1
        await jumping_clock.advance(5)
        bus.bits.clear()
        bus.refusing.clear()
        await jumping_clock.advance(5)

    assert desk.edges() == [
        ("u1", Kind.DEVICE_FAULT, NEW, None),
        ("u1", Kind.BURGLARY, NEW, 1),
        ("u1", Kind.DEVICE_FAULT, RESTORE, None),
        ("u1", Kind.BURGLARY, RESTORE, 1),
    ]
    assert "it has no such address" in str(desk.seen[0].text)
    assert desk.seen[0].values == {"unit": 1, "exception": 2}


async def test_an_edge_that_could_not_be_stored_is_told_again(jumping_clock: JumpingClock) -> None:
    bus, desk = ModelBus(jumping_clock), Desk()
    bus.bits[1, 0] = 1
    desk.is_broken = True
    with pytest.raises(ExceptionGroup) as caught:
        async with polled(bus, jumping_clock, desk, units(1)):
            await jumping_clock.advance(5)
    desk.is_broken = False
    async with polled(bus, jumping_clock, desk, units(1)):
        await jumping_clock.advance(5)

    assert caught.group_contains(StoreError)
    assert desk.edges() == [("u1", Kind.BURGLARY, NEW, 1)]


async def test_a_cut_line_ends_the_conversation(jumping_clock: JumpingClock) -> None:
    bus = ModelBus(jumping_clock)
    bus.is_cut = True

    with pytest.raises(LinkClosed):
        await driver.run(Desk().session(bus, jumping_clock, units(1), zones8=ZONES8))


async def test_a_profile_that_does_not_exist_is_refused_with_the_nearest_spelling(jumping_clock: JumpingClock) -> None:
    with pytest.raises(Refused, match=r'unit 1 "u1": profile "fence9" is not known.*did you mean "fence8"'):
        await driver.run(Desk().session(ModelBus(jumping_clock), jumping_clock, units(1, "fence9")))


def test_it_is_found_before_anything_starts_with_file_and_line(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        "[[connection]]\nname = 'bus'\ndriver = 'modbus_points'\nlink = 'modbus+tcp://127.0.0.1:502'\n\n"
        "[connection.settings]\nunits = [{ unit = 1, device = 'u1', profile = 'fence9' }]\n"
    )
    with pytest.raises(ConfigError) as caught:
        prepare(site)

    (problem,) = caught.value.problems
    assert (problem.line, problem.found) == (6, 'unit 1 "u1": profile "fence9" is not known')
    assert problem.expected.startswith("one of door_adam6050, door_io4, ")
    assert problem.expected.endswith('did you mean "fence8"?')


def test_one_profile_can_be_named_for_the_whole_bus() -> None:
    settings = driver.Settings.model_validate(
        {
            "profile": "fence8",
            "units": [{"unit": 1, "device": "a"}, {"unit": 2, "device": "b", "profile": "relay_io16"}],
        }
    )
    context = Context(settings=settings, profiles=shipped)

    assert [settings.profile_of(unit, context) for unit in settings.units] == [shipped["fence8"], shipped["relay_io16"]]
    assert driver.mistakes(context) == []


@pytest.mark.parametrize(
    ("settings", "found"),
    [({}, "no units"), ({"units": [{"unit": 3, "device": "a"}]}, 'unit 3 "a": no profile is named')],
)
def test_settings_that_cannot_be_polled_are_named(settings: dict[str, Any], found: str) -> None:
    context = Context(settings=driver.Settings.model_validate(settings), profiles=shipped)

    assert [wrong for wrong, _ in driver.mistakes(context)] == [found]


def test_a_unit_must_be_heard_as_its_profile_says() -> None:
    context = Context(settings=driver.Settings.model_validate({"units": units(1, "fence8")}), profiles=shipped)

    assert driver.heard_within_s("u1", context) == 10
    assert driver.heard_within_s("somebody", context) == driver.HEARD_WITHIN_S


@pytest.mark.parametrize(
    ("model", "what", "zone"),
    [
        ("fence8", "perimeter", 3),
        ("fence8", "tamper", 100),
        ("fence8", "ac_loss", 101),
        ("fence8", "batt_low", 102),
        ("relay_io16", "burglary", 15),
        ("door_io4", "door_open", 21),
        ("door_relay8", "unlocked", 43),
        ("door_adam6050", "door_open", 61),
        ("door_adam6050", "unlocked", 63),
        ("perimeter_io12", "door_open", 14),
        ("perimeter_io12", "ac_loss", 41),
        ("vibration4", "tamper", 101),
        ("loop_eol8", "burglary", 8),
        ("loop_eol8", "tamper", 1),
        ("loop_eol8", "loop_fault", 2),
    ],
)
async def test_what_a_device_raises_is_reported(model: str, what: str, zone: int) -> None:
    one, desk = slave(TCP, world(), "u1", model=model), Desk()
    async with running(one), bus_on(url_of(one)) as bus, asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(desk.session(bus, RealClock(), units(1, model, every_s=0.05))))
        await one.do(what, zone=zone)
        await desk.until(1)
        await one.do(what, zone=zone, restore=True)
        await desk.until(2)
        task.cancel()

    assert desk.edges() == [("u1", Kind(what), NEW, zone), ("u1", Kind(what), RESTORE, zone)]


async def test_a_press_of_an_exit_button_is_one_event() -> None:
    one, desk = slave(TCP, world(), "u1", model="door_io4"), Desk()
    async with running(one), bus_on(url_of(one)) as bus, asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(desk.session(bus, RealClock(), units(1, "door_io4", every_s=0.05))))
        for number in (1, 2):
            await one.do("exit_request", zone=12)
            await desk.until(number)
            await one.do("exit_request", zone=12, restore=True)
            heard = len(desk.heard)
            async with asyncio.timeout(WAIT_S):
                while len(desk.heard) < heard + 4:
                    await RealClock().sleep(0.01)
        task.cancel()

    assert desk.edges() == [("u1", Kind.EXIT_REQUEST, NEW, 12)] * 2


async def test_a_pulse_shorter_than_the_poll_is_found_in_the_counter() -> None:
    one, desk = slave(TCP, world(), "u1"), Desk()
    async with running(one), bus_on(url_of(one)) as bus, asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(desk.session(bus, RealClock(), units(1, "relay_io16", every_s=0.05))))
        async with asyncio.timeout(WAIT_S):
            while len(desk.heard) < 2:
                await RealClock().sleep(0.01)
        await one.do("burglary", zone=16)
        await desk.until(2)
        task.cancel()

    assert desk.edges() == [("u1", Kind.BURGLARY, NEW, 16), ("u1", Kind.BURGLARY, RESTORE, 16)]


def muted(session: Session[Bus], told: list[str]) -> Session[Bus]:
    return replace(session, mute=told.append, memory=driver.Memory())


@asynccontextmanager
async def lined(session: Session[Bus]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(driver.run(session))
        try:
            yield
        finally:
            task.cancel()


@pytest.mark.parametrize("count", [2, 31])
async def test_a_line_on_which_nobody_answers_is_mute_and_no_unit_is_blamed(
    jumping_clock: JumpingClock, count: int
) -> None:
    bus, desk, told = ModelBus(jumping_clock), Desk(), list[str]()
    async with lined(muted(desk.session(bus, jumping_clock, units(count), zones8=ZONES8), told)):
        await jumping_clock.advance(5)
        bus.dead.update(range(1, count + 1))
        await jumping_clock.advance(60)
        assert set(told) == {f"none of {count} units answers"}
        heard = len(desk.heard)
        bus.dead.clear()
        await jumping_clock.advance(2)
        assert len(set(desk.heard[heard:])) == count, "all are asked at once when one is back"
        told.clear()
        await jumping_clock.advance(30)

    assert (desk.edges(), told) == ([], [])


async def test_a_unit_that_stays_dead_when_the_line_is_back_is_a_fault_of_its_own(jumping_clock: JumpingClock) -> None:
    bus, desk, told = ModelBus(jumping_clock), Desk(), list[str]()
    async with lined(muted(desk.session(bus, jumping_clock, units(3), zones8=ZONES8), told)):
        await jumping_clock.advance(5)
        bus.dead.update({1, 2, 3})
        await jumping_clock.advance(60)
        bus.dead = {3}
        await jumping_clock.advance(1.9)
        assert desk.edges() == [], "what was missed while the line was away counts for nothing"
        await jumping_clock.advance(10)

    assert desk.edges() == [("u3", Kind.COMM_FAULT, NEW, None)]


async def test_a_neighbour_that_is_seldom_asked_tells_unit_and_line_apart_at_once(jumping_clock: JumpingClock) -> None:
    rows = [*units(1, every_s=1.0), {"unit": 2, "device": "u2", "profile": "zones8", "every_s": 30.0}]
    bus, desk, told = ModelBus(jumping_clock), Desk(), list[str]()
    async with lined(muted(desk.session(bus, jumping_clock, rows, zones8=ZONES8), told)):
        await jumping_clock.advance(32)
        bus.dead.add(1)
        await jumping_clock.advance(9)

    assert (desk.edges(), told) == ([("u1", Kind.COMM_FAULT, NEW, None)], [])


@pytest.mark.full
async def test_a_dead_unit_takes_less_than_a_twentieth_of_a_paced_line(tmp_path: Path) -> None:
    """Eight units at 9600 baud, asked as fast as it goes. `pytest -s -k twentieth` prints the figure."""
    address, here = f"modbus+rtu://{tmp_path / 'line'}?baud=9600", world()
    slaves = [slave(address, here, f"u{n}") for n in range(1, 9)]
    clock, desk = RealClock(), Desk()
    asked: list[tuple[float, float]] = []
    async with running(*slaves), bus_on(f"{address}&timeout_ms=200") as bus:

        class Timed:
            async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
                began_s = clock.monotonic()
                try:
                    return await bus.read(unit, table, address, count)
                finally:
                    if unit == 1:
                        asked.append((began_s, clock.monotonic() - began_s))

            async def write(self, unit: int, table: Table, address: int, values: Sequence[int]) -> None:
                raise AssertionError("this driver only reads")

        closed = profile_with(*(bit(z, z + 1) | {"means": {0: "burglary", 1: "restore"}} for z in range(8)))
        session = desk.session(Timed(), clock, units(8, "closed", every_s=0.05), closed=closed)
        async with lined(session):
            await slaves[0].do("silent")
            await desk.until(1)
            asked.clear()
            await clock.sleep(20)
    probes = len(asked) - 1  # from the first to the beginning of the last: whole rounds
    share = sum(took_s for _, took_s in asked[:-1]) / (asked[-1][0] - asked[0][0])
    print(f"a dead unit of 8 at 9600 baud took {share:.1%} of the bus time, in {probes} probes")

    assert share < 0.05
    assert desk.edges() == [("u1", Kind.COMM_FAULT, NEW, None)]


# -- judged by libmodbus ---------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.peer("libmodbus")
async def test_what_libmodbus_asks_on_a_tapped_line_is_read_as_it_reads_it(tmp_path: Path) -> None:
    """mbpoll asks, socat writes down every byte of both directions: one conversation, two readings of it."""
    line, tap = tmp_path / "line", tmp_path / "tap"
    fence = slave(f"modbus+rtu://{line}?baud=19200", world(), model="fence8", unit=7)
    async with running(fence):
        await fence.do("perimeter", zone=5)
        monitor = await asyncio.create_subprocess_exec(
            tool("socat"), "-x", f"pty,link={tap},raw,echo=0", f"{line},raw,echo=0", stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(WAIT_S):
            while not tap.exists():
                await RealClock().sleep(0.01)
        asked = await asyncio.create_subprocess_exec(
            tool("mbpoll"), "-m", "rtu", "-b", "19200", "-P", "none", "-a", "7", "-0", "-1", "-o", "1",
            "-t", "1", "-r", "0", "-c", "8", str(tap), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(WAIT_S):
            output, _ = await asked.communicate()
            monitor.terminate()
            _, dump = await monitor.communicate()
    theirs = [row.split()[1] == b"1" for row in output.splitlines() if row.startswith(b"[")]
    captured = bytearray.fromhex(" ".join(row for row in dump.decode().splitlines() if row.startswith(" ")))
    context = Context(settings=driver.Settings(profile="fence8"), profiles=shipped, connection="tap")
    ours = {
        one.zone: one.qualifier is NEW
        for frame in split(captured)
        for one in decode(frame, context)
        if one.kind is Kind.PERIMETER
    }

    assert ours == dict(enumerate(theirs, 1)), dump
    assert ours[5]
