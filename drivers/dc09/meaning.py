"""From a message to observations: one for each code, with what they share; and what the message's time is worth."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from drivers.dc09 import payload
from drivers.dc09.codes import CONTACT_ID, SIA, UNNAMED, Meaning
from drivers.dc09.payload import Payload, Said
from drivers.dc09.settings import ClockDeviation, ContentDeviation, device_of, profile_of
from gateway.codecs.dc09 import ADM_CID, NULL, Message
from gateway.codecs.dc09_fields import degrees, moment
from gateway.driver import Context, FrameError, Kind, Observation, Position, Scalar, clean_text

SIA_DCS, XNM = "SIA-DCS", "XNM"
TEXT_MAX = 256
AHEAD_MAX, BEHIND_MAX = timedelta(seconds=20), timedelta(seconds=40)
"""The window of the standard between a message's time and ours (5.5.1.9)."""
ZONES_OF_TIME = timedelta(minutes=30)
"""Local times are whole half hours away from UTC, seldom quarters."""
LOCAL_MAX = timedelta(hours=14)
NEVER_SET = timedelta(days=365)
"""A clock so far behind has lost its supply: 1970, 2000, 2014."""
HAPPENED_MAX = timedelta(days=366 * 2)

_NAMED = {
    "L": "location", "M": "mac", "O": "building", "R": "room", "S": "site", "T": "trigger",
    "V": "verification", "C": "supervision", "G": "path", "Z": "altitude",
}  # fmt: skip
"""Extended data that is kept beside the event; A, K, N, P and J stay in the raw frame."""
_MODIFIERS = {
    "ti": "panel_time",
    "da": "panel_date",
    "id": "user",
    "pi": "peripheral",
    "va": "value",
    "ss": "subscriber",
}


class Meant(NamedTuple):
    """What a message says, and where its content departs from the standard."""

    observations: list[Observation]
    deviations: list[ContentDeviation]


def meant(message: Message, frame: bytes, context: Context, now: datetime | None = None) -> Meant:
    """The observations of a message. Without `now` its times are believed. Raises FrameError."""
    device = device_of(message.account, context)
    deviations: list[ContentDeviation] = []
    if message.token in (NULL, XNM):
        if message.data:
            deviations.append("null_with_data")
        return Meant(
            [Observation(device, Kind.HEARTBEAT, at=message.timestamp, code=message.token, raw=frame)], deviations
        )
    read = payload.contact_id(message.data) if message.token == ADM_CID else payload.sia(message.data)
    if read.account is None:
        deviations.append("account_missing_in_data")
    elif read.account != message.account:
        deviations.append("account_differs_in_data")
    if read.slash_missing:
        deviations.append("sia_without_slash")
    if read.extra_block:
        deviations.append("sia_extra_block")
    happened = _happened(message, now)
    shared: dict[str, Any] = {
        "at": happened or _sent(message, now),
        "key_is_reused": happened is None,
        "position": _position(message),
        "raw": frame,
    }
    profile = profile_of(context)
    own = profile.contact_id if message.token == ADM_CID else profile.sia
    table = CONTACT_ID if message.token == ADM_CID else SIA
    key, values, words = _key(message), _shared(message, read), message.extended("I")
    seen = []
    for index, said in enumerate(read.said):
        meaning = table.get(said.code, UNNAMED)
        zone, numbered = _number(said, meaning)
        text = said.text or words
        seen.append(
            Observation(
                device,
                own.get(said.code, meaning.kind),
                said.qualifier or meaning.qualifier,
                zone=zone,
                repeat_key=f"{key}.{index}" if index and key else key,
                code=said.code,
                text=clean_text(text, TEXT_MAX) if text else meaning.words or None,
                values={**values, **numbered},
                **shared,
            )
        )
    return Meant(seen, deviations)


def _number(said: Said, meaning: Meaning) -> tuple[int | None, dict[str, Scalar]]:
    """The zone, and what else the number behind the code counts. 000 is none."""
    number: Scalar = int(said.number) if said.number.isdecimal() else said.number
    if not number:
        return None, {}
    if meaning.number == "zone" and isinstance(number, int):
        return number, {}
    return None, {meaning.number: number}


def _shared(message: Message, read: Payload) -> dict[str, Scalar]:
    values: dict[str, Scalar] = {}
    if area := read.modifiers.get("ri"):
        values["partition"] = int(area) if area.isdecimal() else area
    for modifier, given in read.modifiers.items():
        if given and (name := _MODIFIERS.get(modifier)):
            values[name] = given
    for letter, given in message.xdata:
        if name := _NAMED.get(letter, ""):
            values[name] = clean_text(given, TEXT_MAX)
    if read.account is not None and read.account != message.account:
        values["account_in_data"] = read.account
    return values


def _position(message: Message) -> Position | None:
    """Longitude and latitude, where both can be read; an alarm is not refused for a bad position."""
    x, y = message.extended("X"), message.extended("Y")
    if x is None or y is None:
        return None
    try:
        return Position(degrees(y), degrees(x))
    except FrameError:
        return None


def _key(message: Message) -> str | None:
    """Number and content. A repeat that is encrypted anew has a new time and the old number, so the message's own time is
    no part of it; H is, as it belongs to the content. Where all have the number 0000 it tells nothing."""
    if message.sequence == 0:
        return None
    content = f"{message.token}|{message.data}|{message.xdata}"
    return f"{message.sequence:04}/{blake2b(content.encode(), digest_size=8).hexdigest()}"


# -- time --------------------------------------------------------------------------------------------------------------


def _happened(message: Message, now: datetime | None) -> datetime | None:
    """H, the time of occurrence, where it can be true."""
    text = message.extended("H")
    if text is None:
        return None
    try:
        at = moment(text)
    except FrameError:
        return None
    return at if now is None or now - HAPPENED_MAX <= at <= now + AHEAD_MAX else None


def _sent(message: Message, now: datetime | None) -> datetime | None:
    """The message's own time, where it is about now: one that is hours away is local, or of a clock that nobody set."""
    at = message.timestamp
    return at if at is None or now is None or is_in_window(at, now) else None


def is_in_window(at: datetime, now: datetime) -> bool:
    return -BEHIND_MAX <= at - now <= AHEAD_MAX


def clock_deviation(at: datetime | None, now: datetime) -> ClockDeviation | None:
    """What is wrong with the time of a plain message."""
    if at is None:
        return "no_timestamp"
    if is_in_window(at, now):
        return None
    off = at - now
    if off < -NEVER_SET:
        return "timestamp_not_set"
    rest = abs(off) % ZONES_OF_TIME
    is_half_hours = min(rest, ZONES_OF_TIME - rest) <= BEHIND_MAX and abs(off) >= ZONES_OF_TIME - BEHIND_MAX
    return "timestamp_local" if is_half_hours and abs(off) <= LOCAL_MAX + BEHIND_MAX else "timestamp_off"
