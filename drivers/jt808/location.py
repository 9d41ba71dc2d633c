"""What a location report says: where, how fast, which alarm bits. Tables first, then the reading of one report."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from gateway.driver import FrameError, Kind, Observation, Position, Scalar

CHINA = timezone(timedelta(hours=8))
"""Every time of the protocol is UTC+8, wherever the vehicle is."""
FIXED_PART = struct.Struct(">IIIIHHH6s")
"""Alarm, status, latitude, longitude, altitude, speed, course, time: 28 bytes. The text of 2013 prints the time's start as
byte 21; course has two bytes, so it is 22."""
ITEMS_KEPT_MAX = 32
"""Additional items of one report that nobody here reads and that are kept as they came; real ones carry a dozen."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What an alarm bit means."""

    kind: Kind
    text: str
    until_answered: bool = False
    """The terminal holds the bit until the platform has answered; the others last as long as what they tell of."""


ALARMS: Mapping[int, Alarm] = {
    0: Alarm(Kind.PANIC, "紧急报警", until_answered=True),
    1: Alarm(Kind.OVERSPEED, "超速报警"),
    2: Alarm(Kind.TELEMETRY, "疲劳驾驶报警"),
    3: Alarm(Kind.TELEMETRY, "危险驾驶行为报警", until_answered=True),
    4: Alarm(Kind.DEVICE_FAULT, "卫星定位模块故障"),
    5: Alarm(Kind.ANTENNA_CUT, "卫星定位天线未接或被剪断"),
    6: Alarm(Kind.ANTENNA_CUT, "卫星定位天线短路"),
    7: Alarm(Kind.BATT_LOW, "终端主电源欠压"),
    8: Alarm(Kind.POWER_CUT, "终端主电源掉电"),
    9: Alarm(Kind.TELEMETRY, "终端显示器故障"),
    10: Alarm(Kind.TELEMETRY, "语音合成模块故障"),
    11: Alarm(Kind.TELEMETRY, "摄像头故障"),
    12: Alarm(Kind.TELEMETRY, "从业资格证读卡模块故障"),
    13: Alarm(Kind.TELEMETRY, "超速预警"),
    14: Alarm(Kind.TELEMETRY, "疲劳驾驶预警"),
    15: Alarm(Kind.TELEMETRY, "违规行驶报警"),
    16: Alarm(Kind.TELEMETRY, "胎压预警"),
    17: Alarm(Kind.TELEMETRY, "右转盲区异常报警"),
    18: Alarm(Kind.TELEMETRY, "当天累计驾驶超时"),
    19: Alarm(Kind.TELEMETRY, "超时停车"),
    20: Alarm(Kind.GEOFENCE, "进出区域报警", until_answered=True),
    21: Alarm(Kind.GEOFENCE, "进出路线报警", until_answered=True),
    22: Alarm(Kind.TELEMETRY, "路段行驶时间不足或过长", until_answered=True),
    23: Alarm(Kind.TELEMETRY, "路线偏离报警"),
    24: Alarm(Kind.TELEMETRY, "车辆速度传感器故障"),
    25: Alarm(Kind.TELEMETRY, "车辆油量异常"),
    26: Alarm(Kind.VEHICLE_MOVED, "车辆被盗"),
    27: Alarm(Kind.BURGLARY, "车辆非法点火", until_answered=True),
    28: Alarm(Kind.VEHICLE_MOVED, "车辆非法位移", until_answered=True),
    29: Alarm(Kind.COLLISION, "碰撞报警"),
    30: Alarm(Kind.COLLISION, "侧翻报警"),
    31: Alarm(Kind.DOOR_FORCED, "非法开门报警", until_answered=True),
}
"""JT/T 808-2019 table 24; 15 to 17 are reserved in 2013. What the gateway has no kind for travels as a fact with its code."""

IGNITION, FIX, SOUTH, WEST, ENCRYPTED, LOCKED = 0x01, 0x02, 0x04, 0x08, 0x20, 0x1000
DOORS = 0x3E000
"""The status bits that are read out; the whole word is kept too."""

UNTIL_ANSWERED = sum(1 << bit for bit, alarm in ALARMS.items() if alarm.until_answered)


def _one(name: str, form: str, scale: float = 1) -> Callable[[bytes], dict[str, Scalar]]:
    layout = struct.Struct(form)

    def read(value: bytes) -> dict[str, Scalar]:
        (number,) = layout.unpack(value)
        return {name: number if scale == 1 else round(number * scale, 1)}

    return read


def _word(name: str) -> Callable[[bytes], dict[str, Scalar]]:
    return lambda value: {name: value.hex()}


def _place(prefix: str, value: bytes) -> dict[str, Scalar]:
    """Kind of place (0 none, 1 circle, 2 rectangle, 3 polygon, 4 route section) and its id."""
    if value == b"\x00":
        return {f"{prefix}_kind": 0}
    kind, number = struct.unpack(">BI", value)
    return {f"{prefix}_kind": kind, f"{prefix}_id": number}


def _area(value: bytes) -> dict[str, Scalar]:
    kind, number, is_out = struct.unpack(">BIB", value)
    return {"area_kind": kind, "area_id": number, "area_out": bool(is_out)}


def _section(value: bytes) -> dict[str, Scalar]:
    number, seconds, is_too_long = struct.unpack(">IHB", value)
    return {"section_id": number, "section_s": seconds, "section_too_long": bool(is_too_long)}


ITEMS: Mapping[int, Callable[[bytes], dict[str, Scalar]]] = {
    0x01: _one("mileage_km", ">I", 0.1),
    0x02: _one("fuel_l", ">H", 0.1),
    0x03: _one("recorder_kmh", ">H", 0.1),
    0x04: _one("alarm_event", ">H"),
    0x11: lambda value: _place("overspeed", value),
    0x12: _area,
    0x13: _section,
    0x25: _word("signal_bits"),
    0x2A: _word("io_bits"),
    0x2B: _word("analogue"),
    0x30: _one("signal", ">B"),
    0x31: _one("satellites", ">B"),
}
"""Additional items by id, as the standard has them. Each raises struct.error on another length."""


# -- one report --------------------------------------------------------------------------------------------------------


def observations(device: str, report: bytes, key: str, raw: bytes, *, is_late: bool = False) -> Sequence[Observation]:
    """The position, then an alarm for each bit that is set. `key` names the message. Raises FrameError."""
    if len(report) < FIXED_PART.size:
        raise FrameError(f"a location of {len(report)} bytes; at least {FIXED_PART.size}")
    alarms, status, latitude, longitude, altitude, speed, course, bcd = FIXED_PART.unpack_from(report)
    at = moment(bcd)
    # A clock that stands still, or starts anew with the serial numbers, would give old keys to new alarms.
    key = f"{key}/{bcd.hex()}" if at is not None else ""
    values: dict[str, Scalar] = {
        "alarm_bits": f"{alarms:08x}",
        "status_bits": f"{status:08x}",
        "ignition": bool(status & IGNITION),
        "fix": bool(status & FIX),
        "locked": bool(status & LOCKED),
        "door_open": bool(status & DOORS),
        "speed_kmh": speed / 10,
        "course": course,
        "altitude_m": altitude,
    }
    if is_late:
        values["late"] = True
    values |= _items(report[FIXED_PART.size :])
    position = _position(status, latitude, longitude, speed / 10)

    def seen(kind: Kind, part: str, zone: int | None = None, text: str | None = None) -> Observation:
        return Observation(
            device, kind, zone=zone, at=at, repeat_key=f"{key}/{part}" if key else None,
            code=part if zone is not None else None, text=text, values=values, position=position, raw=raw,
        )  # fmt: skip

    alarms_seen = (seen(ALARMS[bit].kind, f"bit{bit}", bit, ALARMS[bit].text) for bit in bits(alarms))
    return [seen(Kind.POSITION, "position"), *alarms_seen]


def bits(word: int) -> Iterator[int]:
    """The numbers of the bits that are set, from the lowest."""
    while word:
        lowest = word & -word
        yield lowest.bit_length() - 1
        word ^= lowest


def moment(bcd: bytes) -> datetime | None:
    """YYMMDDhhmmss; None where that is no moment of the calendar (a terminal that never had a fix sends zeros)."""
    digits = bcd.hex()
    try:
        year, month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(0, 12, 2))
        return datetime(2000 + year, month, day, hour, minute, min(second, 59), tzinfo=CHINA)  # :60 is a leap second
    except ValueError:
        return None


def _position(status: int, latitude: int, longitude: int, speed_kmh: float) -> Position | None:
    """None without a fix, and where latitude and longitude are encrypted or none."""
    if not status & FIX or status & ENCRYPTED or latitude > 90_000_000 or longitude > 180_000_000:
        return None
    return Position(
        (-latitude if status & SOUTH else latitude) / 1e6, (-longitude if status & WEST else longitude) / 1e6, speed_kmh
    )


def _items(rest: bytes) -> dict[str, Scalar]:
    """Many trackers put what they like into items: what does not read as the standard has it is kept as it came."""
    values: dict[str, Scalar] = {}
    kept = 0
    while len(rest) >= 2 and len(rest) >= 2 + rest[1]:
        number, value, rest = rest[0], rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
        try:
            values |= ITEMS[number](value)
        except (KeyError, struct.error):
            if kept < ITEMS_KEPT_MAX:
                values[f"item_{number:02x}"] = value.hex()
            kept += 1
    if rest:
        values["items_rest"] = rest.hex()
    return values
