"""The fields inside a DC-09 frame: Contact ID, times, positions, text, keys. Pure; the unreadable is a FrameError."""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote

from gateway.errors import FrameError

TEXT_MAX = 256  # bytes of alarm text; the table of extended data gives I this width, older receivers cut there
UTF8_MAX = 4  # bytes of a character
KEY_BYTES = (16, 24, 32)

STAMPS_KEPT = 256  # seconds; in a flood thousands of frames share one

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_STAMP = re.compile(r"(\d\d):(\d\d):(\d\d),(\d\d)-(\d\d)-(\d{4})", re.ASCII)
_CID = re.compile(r"(?:#[0-9A-Za-z]{1,16}\|)?([136])([0-9A-Fa-f]{3}) ([0-9A-Fa-f]{2}) ([0-9A-Fa-f]{3})")
_POSITION = re.compile(r"(\d{1,3})([NSEW])(\d{1,2}(?:\.\d+)?)", re.ASCII)
_NUMBERED = {character: f"\\u{ord(character):04x}" for character in "[]|"}  # JSON may write any character so
_PLAIN_TEXT = {"[": "(", "]": ")", "|": "/"}


@dataclass(frozen=True, slots=True)
class ContactId:
    """One SIA DC-05 event. `qualifier` is 1 (new), 3 (restore) or 6 (still present); the others are hex digits."""

    qualifier: int
    code: str
    group: str = "00"
    zone: str = "000"

    def data(self, account: str) -> str:
        """The data field of an ADM-CID message of this account."""
        text = f"#{account}|{self.qualifier}{self.code} {self.group} {self.zone}"
        if not _CID.fullmatch(text):
            raise FrameError(f"Contact ID: expected #account|QXYZ GG CCC with Q 1, 3 or 6, found {text!r}")
        return text


def contact_id(data: str) -> ContactId:
    """Read the data field of an ADM-CID message; the account in front may be missing, as several panels omit it."""
    match = _CID.fullmatch(data)
    if match is None:
        raise FrameError(f"Contact ID: expected #account|QXYZ GG CCC with Q 1, 3 or 6, found {data!r}")
    qualifier, code, group, zone = match.groups()
    return ContactId(int(qualifier), code.upper(), group.upper(), zone.upper())


def stamp(at: datetime) -> str:
    """A time as DC-09 writes it: UTC, whole seconds. `at` must know its zone."""
    if at.tzinfo is None:
        raise FrameError(f"time {at}: expected one with a time zone")
    return _stamp((at - _EPOCH) // _SECOND)


@lru_cache(STAMPS_KEPT)
def _stamp(seconds: int) -> str:
    utc = _EPOCH + seconds * _SECOND
    return f"{utc:%H:%M:%S,%m-%d}-{utc.year:04d}"


def moment(text: str) -> datetime:
    """Read HH:MM:SS,MM-DD-YYYY; a leap second counts as the second before it."""
    match = _STAMP.fullmatch(text)
    if match is None:
        raise FrameError(f"time: expected HH:MM:SS,MM-DD-YYYY, found {text!r}")
    hour, minute, second, month, day, year = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC)
    except ValueError as error:
        raise FrameError(f"time {text!r}: {error}") from None


def plain_text(text: str, limit_bytes: int = TEXT_MAX) -> str:
    """Text that is safe in a field: one line, no structural or invisible character, cut between two characters."""
    shown = text
    if not text.isprintable():
        shown = "".join(" " if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in text)
    for structural, harmless in _PLAIN_TEXT.items():
        shown = shown.replace(structural, harmless)
    line = " ".join(shown.split())
    if len(line) * UTF8_MAX <= limit_bytes:
        return line
    return line.encode()[:limit_bytes].decode(errors="ignore")


def longitude(degrees: float) -> str:
    """Value of X: 121.4733 gives 121E28.398."""
    return _position(degrees, letters="EW", width=3, limit=180)


def latitude(degrees: float) -> str:
    """Value of Y: 31.2317 gives 31N13.902."""
    return _position(degrees, letters="NS", width=2, limit=90)


def degrees(text: str) -> float:
    """Read the value of X or Y."""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise FrameError(f"position: expected degrees, N S E or W, minutes such as 121E28.400, found {text!r}")
    value = int(match[1]) + float(match[3]) / 60
    if float(match[3]) >= 60 or value > (180 if match[2] in "EW" else 90):
        raise FrameError(f"position {text!r}: out of range")
    return -value if match[2] in "SW" else value


def json_object(members: Mapping[str, str | int | bool]) -> str:
    """Value of J: one flat JSON object in which no structural character occurs."""
    quoted = [
        f"{quote(name)}:{quote(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in members.items()
    ]
    text = f"{{{','.join(quoted)}}}"
    for character, number in _NUMBERED.items():  # inside strings only, as no member is a list
        text = text.replace(character, number)
    return text


def _position(value: float, *, letters: str, width: int, limit: int) -> str:
    if not abs(value) <= limit:
        raise FrameError(f"position: expected -{limit}..{limit} degrees, found {value}")
    whole, thousandths = divmod(round(abs(value) * 60_000), 60_000)  # of a minute, so that 59.9996 carries over
    return f"{whole:0{width}d}{letters[value < 0]}{thousandths // 1000:02d}.{thousandths % 1000:03d}"


def key_bytes(marked: str) -> bytes:
    """The AES key behind `text:...` (16, 24 or 32 characters) or `hex:...` (twice as many digits).

    Panels disagree on how a key is typed and a 32 character key can be read both ways, so it must be said.
    Raises ValueError, whose text never holds the key.
    """
    kind, _, value = marked.partition(":")
    if kind == "text":
        key = value.encode()
    elif kind == "hex" and re.fullmatch("[0-9A-Fa-f]*", value):
        key = bytes.fromhex(value) if len(value) % 2 == 0 else b""
    else:
        raise ValueError("an AES key is written text:<16, 24 or 32 characters> or hex:<32, 48 or 64 hex digits>")
    if len(key) not in KEY_BYTES:
        raise ValueError(f"an AES key has 16, 24 or 32 bytes; this one, read as {kind}, has {len(key)}")
    return key
