"""From one MQTT message to what it says, under the profile. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from drivers.mqtt_json.masking import mask
from drivers.mqtt_json.profile import Low, Message, Profile, Settings, base_of, bridge_of, profile_of, settings_of
from gateway.driver import (
    FACTS,
    Context,
    FrameError,
    Kind,
    Observation,
    Position,
    Qualifier,
    Scalar,
    clean_text,
    json_object,
)

PAYLOAD_MAX_BYTES = 64 * 1024
"""An uplink with its gateways has some 3 KB."""
WORD_MAX_BYTES = 64
TEXT_MAX = 128
CODE_MAX = 64
ID_MAX = 128
CLOCK_YEAR_MIN = 2024
"""A bridge whose clock was never set counts from 1970 or 2000 at each start, and would give old times to new alarms."""
MILLISECONDS_FROM = 1e11
"""A number of seconds beyond it would be the year 5138: these are milliseconds."""


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that a message says."""

    seen: Observation
    is_edge: bool = True
    """News only when it differs from what is known; else each time."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a message says."""

    said: Sequence[Said] = ()
    device: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    is_availability: bool = False
    repeats_state: bool = False
    moment_s: float | None = None
    """The bridge's own time, of whatever zone: for the distance between two messages only."""
    not_understood: Sequence[str] = ()
    """Members whose value the profile does not know: unknown, and a person must hear of it."""


def decode(topic: str, payload: bytes, context: Context) -> Sequence[Observation]:
    """What the message says. Raises FrameError and nothing else."""
    return [said.seen for said in read(topic, payload, context).said]


def read(topic: str, payload: bytes, context: Context) -> Reading:
    """The same, with what only the conversation needs. Raises FrameError."""
    payload = mask(payload)
    base, content = base_of(context), None
    rows = [(row, found) for row in profile_of(context).message if (found := row.pattern(base).fullmatch(topic))]
    if not rows:
        raise FrameError("topic is none of the profile's")
    for row, found in rows:
        if row.says == "nothing" or not payload:
            return Reading()  # an empty payload clears a retained topic: nothing is known any more
        if row.when:
            content = content or json_object(payload, size_max=PAYLOAD_MAX_BYTES)
            if not has(content, row.when):
                continue
        device = row.prefix + clean_text(found.groupdict().get("device", ""), ID_MAX)
        if row.says == "alive":
            return Reading(
                [Said(Observation(bridge_of(context) or device, Kind.HEARTBEAT, raw=payload), is_edge=False)]
            )
        if row.says in ("availability", "bridge"):
            return _availability(row, device, payload, context)
        if "member" in found.groupdict():
            content = {found["member"]: _word(payload)}
        content = content or json_object(payload, size_max=PAYLOAD_MAX_BYTES)
        return _content(row, device, content, payload, context)
    return Reading()


def _word(payload: bytes) -> str:
    if len(payload) > WORD_MAX_BYTES:
        raise FrameError(f"a word of {len(payload)} bytes; at most {WORD_MAX_BYTES}", "too_long")
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError as error:
        raise FrameError("a word that is not ASCII") from error


def _at(content: Mapping[str, Any], member: str) -> Any:
    """The value; None when it is not there, or null."""
    value: Any = content
    for name in member.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _same(value: Any, wanted: object) -> bool:
    """As JSON means it: 1 is 1.0, and true is neither."""
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def has(content: Mapping[str, Any], wanted: Mapping[str, object]) -> bool:
    """Whether all these members have these values."""
    return all(_same(_at(content, member), value) for member, value in wanted.items())


# -- who can be reached --------------------------------------------------------------------------------------------------


def _availability(row: Message, device: str, payload: bytes, context: Context) -> Reading:
    if payload[:1] == b"{" and row.word is not None:
        word = _at(json_object(payload, size_max=PAYLOAD_MAX_BYTES), row.word)
    else:
        word = _word(payload)
    whom = bridge_of(context) if row.says == "bridge" else device
    if whom is None or word not in row.online + row.offline:
        raise FrameError(f"availability is none of {', '.join(row.online + row.offline)}")
    qualifier = Qualifier.NEW if word in row.offline else Qualifier.RESTORE
    return Reading([Said(Observation(whom, Kind.COMM_FAULT, qualifier, raw=payload))], is_availability=True)


# -- what is the case ----------------------------------------------------------------------------------------------------


def _content(row: Message, device: str, content: dict[str, Any], payload: bytes, context: Context) -> Reading:
    profile = profile_of(context)
    for member, value in row.left_out.items():
        if _at(content, member) is None:
            content[member] = value
    whom, key = _device(row, device, content)
    if key is not None:
        content["key"] = key
    at, moment_s, time_key = _moment(_at(content, profile.time) if profile.time else None, settings_of(context))
    blank = Observation(whom, Kind.HEARTBEAT, at=at, values=_values(profile, content), raw=payload)
    if row.says == "position":
        said = [Said(replace(blank, kind=Kind.POSITION, position=_position(row, content)), is_edge=False)]
        unclear: list[str] = []
    else:
        said = [Said(blank, is_edge=False)]
        conditions, unclear = _conditions(profile, content, blank)
        said += conditions
        said += _words(profile, content, blank)
    if row.is_back:
        said.append(Said(replace(blank, kind=Kind.COMM_FAULT, qualifier=Qualifier.RESTORE, values={})))
    own_id = _at(content, profile.id) if profile.id else time_key
    if isinstance(own_id, str) and own_id:
        said = [_keyed(one, clean_text(own_id, ID_MAX)) for one in said]
    repeats = bool(row.repeats_state) and has(content, row.repeats_state)
    return Reading(said, whom, content, repeats_state=repeats, moment_s=moment_s, not_understood=unclear)


def _keyed(said: Said, own_id: str) -> Said:
    """Each thing said has a key of its own; a time alone would make one of two keys pressed in the same second."""
    seen = said.seen
    if seen.kind is Kind.HEARTBEAT:
        return said
    parts = (own_id, seen.kind.value, seen.qualifier.value, seen.zone, seen.code)
    return replace(said, seen=replace(seen, repeat_key="/".join(str(part) for part in parts if part is not None)))


def _device(row: Message, device: str, content: Mapping[str, Any]) -> tuple[str, str | None]:
    """Who speaks, and the key of a learning code. Raises FrameError."""
    if row.code is not None:
        code = _at(content, row.code)
        if not isinstance(code, str) or not re.fullmatch(r"[0-9A-Fa-f]{4,16}", code):
            raise FrameError(f'"{row.code}" is not 4 to 16 hex digits')
        code = code.upper()
        return row.prefix + code[: row.code_digits], code[row.code_digits :]
    if row.device:
        parts = [_at(content, member) for member in row.device]
        given = [str(part) for part in parts if isinstance(part, str | int) and not isinstance(part, bool)]
        if not given or parts[0] is None:
            raise FrameError(f'"{row.device[0]}" is missing: nobody knows who this is')
        return row.prefix + clean_text("-".join(given), ID_MAX), None
    return device, None


def _conditions(profile: Profile, content: Mapping[str, Any], blank: Observation) -> tuple[list[Said], list[str]]:
    """What is the case and what is not, as far as it is said; and what is not understood. Of several members that speak
    of one thing, one that says yes is enough."""
    found: dict[tuple[Kind, int | None], tuple[bool, bool]] = {}
    unclear: list[str] = []

    def note(kind: Kind, zone: int | None, *, is_active: bool, ends: bool) -> None:
        before, _ = found.get((kind, zone), (False, True))
        found[kind, zone] = before or is_active, ends

    for member, condition in profile.condition.items():
        value = _at(content, member)
        if value is None:
            continue
        if _same(value, condition.active):
            note(condition.kind, condition.zone, is_active=True, ends=condition.cleared is not None)
        elif condition.cleared is not None and _same(value, condition.cleared):
            note(condition.kind, condition.zone, is_active=False, ends=True)
        elif condition.cleared is not None:
            unclear.append(f'"{member}" is {str(value)[:CODE_MAX]!r}, which the profile does not know')
    for member, low in profile.low.items():
        value = _at(content, member)
        if value is None or any(_at(content, other) is True for other in low.unless):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            unclear.append(f'"{member}" is {str(value)[:CODE_MAX]!r}, and no number')
        elif (is_low := _is_low(low, value)) is not None:
            note(low.kind, None, is_active=is_low, ends=True)
    said = [
        Said(
            replace(blank, kind=kind, zone=zone, qualifier=Qualifier.NEW if is_active else Qualifier.RESTORE),
            is_edge=ends or not is_active,
        )
        for (kind, zone), (is_active, ends) in found.items()
    ]
    return said, unclear


def _is_low(low: Low, value: float) -> bool | None:
    """None in between, where it stays what it was."""
    if value < low.below:
        return True
    return False if value >= low.well_from else None


def _words(profile: Profile, content: Mapping[str, Any], blank: Observation) -> Iterator[Said]:
    for words in profile.words:
        value = _at(content, words.member)
        if value is None or isinstance(value, dict | list) or not has(content, words.when):
            continue
        word = str(value).lower() if isinstance(value, bool) else clean_text(str(value), CODE_MAX)
        meaning = words.means.get(word)
        if meaning is not None:
            is_press = FACTS[meaning.kind].momentary or (words.each and meaning.qualifier is Qualifier.NEW)
            seen = replace(
                blank, kind=meaning.kind, qualifier=meaning.qualifier, zone=meaning.zone, code=_code(words.member, word)
            )
            yield Said(seen, is_edge=not is_press)
        elif word not in words.ignore:
            yield Said(replace(blank, kind=Kind.UNKNOWN, code=_code(words.member, word)), is_edge=False)


def _code(member: str, word: str) -> str:
    return f"{member}={word}"[:CODE_MAX]


# -- values, times, places -----------------------------------------------------------------------------------------------


def _values(profile: Profile, content: Mapping[str, Any]) -> dict[str, Scalar]:
    """The listed measurements, as far as they are there."""
    values: dict[str, Scalar] = {"assurance": profile.assurance} if profile.assurance else {}
    for member, name in profile.values.items():
        value = _at(content, member)
        if isinstance(value, str):
            values[name] = clean_text(value, TEXT_MAX)
        elif isinstance(value, bool | int | float):
            values[name] = value
    return values


def _moment(value: Any, settings: Settings) -> tuple[datetime | None, float | None, str | None]:
    """The device's time, its seconds, and, where its zone is not known, the words as they are, to know a repeat by."""
    if isinstance(value, str) and re.fullmatch(r"\d{9,13}", value, re.ASCII):
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if abs(value) > MILLISECONDS_FROM else float(value)
        try:
            return datetime.fromtimestamp(seconds, UTC), seconds, None
        except (ValueError, OverflowError, OSError):
            return None, None, None
    if not isinstance(value, str):
        return None, None, None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None and settings.utc_offset is not None:
            at = datetime.fromisoformat(f"{at.isoformat()}{settings.utc_offset}")
        if at.tzinfo is not None:
            at = at.astimezone(UTC)
            return at, at.timestamp(), None
        seconds = at.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None, None, None
    return None, seconds, clean_text(value, TEXT_MAX) if at.year >= CLOCK_YEAR_MIN else None


def _position(row: Message, content: Mapping[str, Any]) -> Position:
    """Raises FrameError."""
    latitude, longitude = _number(content, row.latitude, 90), _number(content, row.longitude, 180)
    if latitude is None or longitude is None:
        raise FrameError(f'"{row.latitude}" and "{row.longitude}" are not both there')
    return Position(latitude, longitude, _number(content, row.speed_kmh, math.inf) if row.speed_kmh else None)


def _number(content: Mapping[str, Any], member: str, most: float) -> float | None:
    value = _at(content, member)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
        raise FrameError(f'"{member}" is not a number from -{most} to {most}')
    return float(value)
