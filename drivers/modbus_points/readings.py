"""From registers and bits to edges: what a value means, and when a change of it is news. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drivers.modbus_points.profile import Level, Point, Profile, Read, Request
from gateway.driver import FACTS, Kind, Observation, Qualifier, Scalar, Table

IMPLAUSIBLE_READINGS = 3
"""One garbled reading is noise on the line; three in a row are a detector fault."""

FLAP_WINDOW_S = 60.0
"""`flaps_max` counts within it."""

Image = Mapping[tuple[Table, int], int]
"""What has been read, by table and wire address. What is not in it is unknown, never false."""


@dataclass(frozen=True, slots=True)
class PointState:
    """What is known of a point: what is stored as active, and what the last readings showed."""

    active: frozenset[Kind] = frozenset()
    level: Level = None
    """Of the last reading; `count` readings in a row have shown it."""
    count: int = 0
    value: float | None = None
    """None: never read."""
    moved_at: float = 0.0
    """Monotonic time at which the value last changed."""
    shown: Level = None
    """What the last reading showed, were the detector sound."""
    flips_s: tuple[float, ...] = ()
    """When that last changed between normal and not, where it is counted: one more than is allowed at most."""
    is_flapping: bool = False


def image_of(request: Request, values: Sequence[int]) -> dict[tuple[Table, int], int]:
    """The answer to `request` by address."""
    return {(request.table, request.address + index): value for index, value in enumerate(values)}


def value_of(read: Read, image: Image) -> float | None:
    """The scaled value; None when it is not (completely) in the image."""
    words = [image.get((read.table, read.address + index)) for index in range(read.width)]
    known = [word for word in words if word is not None]
    if len(known) < len(words):
        return None
    if read.order == "little":
        known.reverse()
    if read.bit is not None:
        return known[0] >> read.bit & 1
    if read.type in {"bit", "u16"}:
        return _scaled(known[0], read.scale)
    packed = b"".join(word.to_bytes(2, "big") for word in known)
    value: int | float = struct.unpack({"s16": ">h", "u32": ">I", "s32": ">i", "f32": ">f"}[read.type], packed)[0]
    return _scaled(value, read.scale)


def _scaled(value: float, scale: float) -> float:
    """Whole numbers stay whole; 2301 x 0.1 is 230.1 and not 230.10000000000002."""
    return value if scale == 1 else float(f"{value * scale:.9g}")


# -- what one reading shows ----------------------------------------------------------------------------------------------


def level_of(point: Point, value: float, before: PointState) -> Level:
    """The condition a reading shows, given the reading before it. An impossible value is a detector fault."""
    if not math.isfinite(value) or (point.range and not point.range[0] <= value <= point.range[1]):
        return Kind.DEVICE_FAULT
    if point.means:
        return point.means.get(int(value), Kind.DEVICE_FAULT)
    if point.counter is not None:
        return point.kind if _steps(point.read, before.value, value) >= point.counter else None
    return _banded(point, value, before.level)


def _banded(point: Point, value: float, held: Level) -> Level:
    """Outwards at once, back towards normal only `hysteresis` inside the threshold."""
    level = _crossed(point, value)
    if held is None or level == held:
        return level
    outward = point.hysteresis if _is_high(point, value) else -point.hysteresis
    return held if _crossed(point, value + outward) == held else level


def _crossed(point: Point, value: float) -> Level:
    if over := [limit for limit in point.above if value > limit]:
        return point.above[max(over)]
    if under := [limit for limit in point.below if value < limit]:
        return point.below[min(under)]
    return None


def _is_high(point: Point, value: float) -> bool:
    """On which side of normal the value stands."""
    if point.above and point.below:
        return value > (max(point.below) + min(point.above)) / 2
    return bool(point.above)


def _steps(read: Read, before: float | None, now: float) -> float:
    """How far a counter went on, across its wrap. Going back by less than half its span is a restart of the device."""
    if before is None:
        return 0
    span = (1 << 16 * read.width) * read.scale
    forward = (now - before) % span
    return forward if forward < span / 2 else 0


# -- when it is news -----------------------------------------------------------------------------------------------------


def interpret(
    device: str, profile: Profile, image: Image, states: Sequence[PointState], now_s: float
) -> tuple[list[PointState], list[Observation]]:
    """The states after this image and the edges it makes. Points that are not in the image stay as they were."""
    values = [value_of(point.read, image) for point in profile.point]
    believed = all(
        value is not None and level_of(point, value, PointState()) is None
        for point, value in zip(profile.point, values, strict=True)
        if point.guard
    )
    after: list[PointState] = []
    seen: list[Observation] = []
    for point, value, before in zip(profile.point, values, states, strict=True):
        if value is None or not (believed or point.guard):
            after.append(before)
            continue
        state, edges = _step(point, before, value, now_s)
        after.append(state)
        seen += [observation(device, point, kind, qualifier, value=value) for kind, qualifier in edges]
    return after, seen


def _step(
    point: Point, before: PointState, value: float, now_s: float
) -> tuple[PointState, list[tuple[Kind, Qualifier]]]:
    moved_at = before.moved_at if value == before.value else now_s
    is_stuck = point.stuck_after_s is not None and now_s - moved_at >= point.stuck_after_s
    shown = level_of(point, value, before)
    flips_s = _flips_s(point, before, shown, now_s)
    # Over only when half as many are left: a contact that flaps at the limit is one fault.
    is_flapping = point.flaps_max is not None and len(flips_s) > point.flaps_max // (2 if before.is_flapping else 1)
    level = Kind.DEVICE_FAULT if is_stuck or is_flapping else shown
    count = before.count + 1 if level == before.level else 1
    needed = _needed(point, level)
    state = PointState(before.active, level, min(count, needed), value, moved_at, shown, flips_s, is_flapping)
    if count < needed:
        return state, []
    if level is None:
        if not before.active:
            return state, []
        over = [
            kind for kind in point.kinds if kind in before.active and not FACTS[kind].momentary
        ]  # a press has no end
        return replace(state, active=frozenset()), [(kind, Qualifier.RESTORE) for kind in over]
    # A cut loop hides the alarm behind it: what is active ends with a normal reading only, never with a worse one.
    if level in before.active:
        return state, []
    return replace(state, active=before.active | {level}), [(level, Qualifier.NEW)]


def _flips_s(point: Point, before: PointState, shown: Level, now_s: float) -> tuple[float, ...]:
    if point.flaps_max is None:
        return ()
    recent = tuple(flip_s for flip_s in before.flips_s if now_s - flip_s < FLAP_WINDOW_S)
    if (shown is None) is (before.shown is None) or before.value is None:
        return recent
    return (*recent, now_s)[-point.flaps_max - 1 :]


def _needed(point: Point, level: Level) -> int:
    if level is None:
        return point.restore_after
    if point.counter is not None:
        return 1  # a step is seen in one reading only
    if level is Kind.DEVICE_FAULT:
        return max(point.debounce, IMPLAUSIBLE_READINGS)
    return point.debounce


def observation(
    device: str, point: Point, kind: Kind, qualifier: Qualifier, *, value: float, raw: bytes = b""
) -> Observation:
    """One edge. A register's value travels along, so that a person sees how bad it is."""
    values: dict[str, Scalar] = {}
    if point.read.type != "bit":
        values["value"] = value if math.isfinite(value) else None
        if point.read.unit:
            values["unit"] = point.read.unit
    return Observation(device, kind, qualifier, point.zone, text=point.name, values=values, raw=raw)
