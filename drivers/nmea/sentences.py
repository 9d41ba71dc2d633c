"""One sentence: its framing, its check, its fields by name. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time

from gateway.driver import FrameError, Scalar

SENTENCE_BYTES_MAX = 256
"""NMEA 0183 allows 82, receivers of several systems send up to some 130. More without an end is noise."""
VOID_MODES = frozenset("NMS")
"""RMC's mode: no fix, typed in by hand, simulated. Estimated (E) is dead reckoning in a tunnel, and a place."""
VOID_QUALITIES = frozenset("078")
"""The same for GGA's quality."""
KNOT_KMH = 1.852

_ENVELOPE = re.compile(rb"\$([A-Z][A-Z0-9]{2,7}),([ -#%-)+-~]{0,240})\*([0-9A-Fa-f]{2})\r?\n")
"""Printable ASCII without `$` and `*`."""
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d|60)(?:\.(\d{1,9}))?", re.ASCII)
_DATE = re.compile(r"(\d\d)(\d\d)(\d\d)", re.ASCII)
_LATITUDE = re.compile(r"([0-8]\d)([0-5]\d(?:\.\d{0,9})?)|(90)(00(?:\.0{0,9})?)", re.ASCII)
_LONGITUDE = re.compile(r"(0\d\d|1[0-7]\d)([0-5]\d(?:\.\d{0,9})?)|(180)(00(?:\.0{0,9})?)", re.ASCII)
_NUMBER = re.compile(r"-?(?:\d{1,7}(?:\.\d{0,9})?|\.\d{1,9})", re.ASCII)
_ANTENNA = re.compile(r"ANT(?:STATUS=|ENNA )(OK|OPEN|SHORT)\b")
"""u-blox and Quectel say the first, CASIC chips (ATGM332D, ATGM336H) the second."""

Values = dict[str, Scalar]
Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one sentence says."""

    name: str
    talker: str
    raw: bytes
    time: time | None = None
    date: date | None = None
    fix: bool | None = None
    """Whether its position may be used; None: it says nothing about that."""
    place: tuple[float, float] | None = None
    """Latitude and longitude; there when `fix` is True."""
    values: Mapping[str, Scalar] = field(default_factory=dict)
    antenna: str | None = None
    """ok, open or short."""


def split(buffer: bytearray) -> Iterator[bytes]:
    """Lines, and what lies between them as noise to be counted. A `$` always starts a new one, so one lost line end costs
    one sentence; blank lines are skipped."""
    while buffer:
        end = buffer.find(b"\n", 0, SENTENCE_BYTES_MAX) + 1
        start = buffer.find(b"$", 1, end or SENTENCE_BYTES_MAX)
        if start > 0:
            end = start
        if end == 0:
            if len(buffer) < SENTENCE_BYTES_MAX:
                return
            end = SENTENCE_BYTES_MAX
        piece = bytes(buffer[:end])
        del buffer[:end]
        if piece.strip():
            yield piece


def read(frame: bytes) -> Sentence:
    """Raises FrameError."""
    found = _ENVELOPE.fullmatch(frame)
    if found is None:
        raise FrameError("not a sentence $ADDRESS,fields*HH with its line end")
    address, body, stated = found.groups()
    given = checksum(frame[1 : found.end(2)])
    if given != int(stated, 16):
        raise FrameError(f"checksum is {stated.decode()}, the sentence gives {given:02X}", "checksum")
    name = address.decode("ascii")
    # Proprietary sentences, a P and the maker's letters, have no talker.
    talker, name = ("", name) if name[0] == "P" else (name[:2], name[2:])
    sentence = Sentence(name, talker, frame)
    known = _KNOWN.get(name)
    if known is None:
        return sentence
    names, reader = known
    fields = body.decode("ascii").split(",")
    # Later editions append fields, early ones lack the last: by name both are right, and what is missing is empty.
    fields += [""] * (len(names) - len(fields))
    return reader(sentence, dict(zip(names, fields, strict=False)))


def checksum(body: bytes) -> int:
    """Exclusive or of all bytes, folded by halves: a loop over them takes longer than all the rest of a sentence."""
    folded = int.from_bytes(body, "big")
    for bits in (1024, 512, 256, 128, 64, 32, 16, 8):
        folded ^= folded >> bits
    return folded & 0xFF


# -- sentences by name -------------------------------------------------------------------------------------------------


def _rmc(sentence: Sentence, fields: Fields) -> Sentence:
    place = _place(fields)
    values: Values = {"speed_kmh": _kmh(fields["knots"]), "course": _number(fields["course"], "course")}
    if fields["mode"]:
        values["mode"] = fields["mode"]
    return replace(
        sentence,
        time=_time(fields["time"]),
        date=_date(fields["date"]),
        # The navigation status behind the mode is no help: receivers that know nothing of hazards at sea say V for ever.
        fix=fields["status"] == "A" and fields["mode"] not in VOID_MODES and place is not None,
        place=place,
        values=_given(values),
    )


def _gga(sentence: Sentence, fields: Fields) -> Sentence:
    place = _place(fields)
    quality, satellites = _number(fields["quality"], "quality"), _number(fields["satellites"], "satellites")
    values: Values = {
        "quality": None if quality is None else int(quality),
        "satellites": None if satellites is None else int(satellites),
        "hdop": _number(fields["hdop"], "hdop"),
        "altitude_m": _number(fields["altitude"], "altitude"),
    }
    fix = fields["quality"] not in VOID_QUALITIES and quality is not None and place is not None
    return replace(sentence, time=_time(fields["time"]), fix=fix, place=place, values=_given(values))


def _gsa(sentence: Sentence, fields: Fields) -> Sentence:
    values: Values = {"hdop": _number(fields["hdop"], "hdop"), "pdop": _number(fields["pdop"], "pdop")}
    if fields["dimensions"] in ("2", "3"):
        values["dimensions"] = int(fields["dimensions"])
    return replace(sentence, values=_given(values))


def _vtg(sentence: Sentence, fields: Fields) -> Sentence:
    values: Values = {"course": _number(fields["course"], "course"), "speed_kmh": _kmh(fields["knots"])}
    return replace(sentence, values=_given(values))


def _zda(sentence: Sentence, fields: Fields) -> Sentence:
    day = _date(f"{fields['day']}{fields['month']}{fields['year'][2:]}")
    return replace(sentence, time=_time(fields["time"]), date=day)


def _txt(sentence: Sentence, fields: Fields) -> Sentence:
    found = _ANTENNA.search(fields["text"])
    return replace(sentence, antenna=found[1].lower()) if found else sentence


_PLACE = "latitude north longitude east"
_KNOWN: Mapping[str, tuple[list[str], Callable[[Sentence, Fields], Sentence]]] = {
    name: (names.split(), reader)
    for name, names, reader in (
        ("RMC", f"time status {_PLACE} knots course date variation variation_east mode navigation", _rmc),
        ("GGA", f"time {_PLACE} quality satellites hdop altitude", _gga),
        ("GSA", f"selection dimensions {' '.join(f'satellite{n}' for n in range(12))} pdop hdop vdop", _gsa),
        ("VTG", "course true magnetic_course magnetic knots", _vtg),
        ("ZDA", "time day month year", _zda),
        ("TXT", "total number severity text", _txt),
    )
}


# -- fields ------------------------------------------------------------------------------------------------------------


def _given(values: Values) -> Values:
    return {name: value for name, value in values.items() if value is not None}


def _number(text: str, name: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise FrameError(f"{name} is {text!r}, expected a number")
    return float(text)


def _kmh(knots: str) -> float | None:
    speed = _number(knots, "speed")
    return None if speed is None else round(speed * KNOT_KMH, 2)


def _time(text: str) -> time | None:
    """The second of a leap (60) is told as the one before it."""
    if not text:
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise FrameError(f"time is {text!r}, expected hhmmss.sss")
    hour, minute, second, fraction = found.groups()
    microsecond = int(f"{fraction:0<6}"[:6]) if fraction else 0
    return time(int(hour), int(minute), min(int(second), 59), microsecond)


def _date(text: str) -> date | None:
    """None for a day that is none: receivers say 000000 before they know it, and the position is good all the same."""
    if not text:
        return None
    found = _DATE.fullmatch(text)
    if found is None:
        raise FrameError(f"date is {text!r}, expected ddmmyy")
    day, month, year = map(int, found.groups())
    try:
        return date(year + (1900 if year >= 80 else 2000), month, day)  # GPS began to count in 1980
    except ValueError:
        return None


def _place(fields: Fields) -> tuple[float, float] | None:
    if not fields["latitude"] and not fields["longitude"]:
        return None
    return (
        _degrees(fields["latitude"], fields["north"], _LATITUDE, "NS", "latitude"),
        _degrees(fields["longitude"], fields["east"], _LONGITUDE, "EW", "longitude"),
    )


def _degrees(text: str, side: str, form: re.Pattern[str], sides: str, name: str) -> float:
    """Seven decimals are a centimetre, less than any receiver knows."""
    found = form.fullmatch(text)
    if found is None or len(side) != 1 or side not in sides:
        raise FrameError(f"{name} is {text},{side}, expected degrees and minutes and one of {', '.join(sides)}")
    whole, minutes = (found[1], found[2]) if found[1] else (found[3], found[4])
    degrees = round(int(whole) + float(minutes) / 60, 7)
    return degrees if side == sides[0] else -degrees
