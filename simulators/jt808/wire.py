"""The bytes of JT/T 808 as a terminal makes and reads them, written from the standard's text alone."""

from __future__ import annotations

import time
from dataclasses import dataclass

PART_BYTES_MAX = 1000
"""The length has ten bits."""
FRAME_BYTES_MAX = 4096
"""A platform says nothing that is longer; more without a delimiter is noise."""


@dataclass(frozen=True)
class Word:
    """What the platform said."""

    id: int
    serial: int
    body: bytes


def framed(message: int, phone: str, serial: int, body: bytes, *, year: int, part: int = 1, parts: int = 1) -> bytes:
    """One frame under the header of 2013 or 2019."""
    properties = len(body) + (0x2000 if parts > 1 else 0) + (0x4000 if year == 2019 else 0)
    head = message.to_bytes(2, "big") + properties.to_bytes(2, "big")
    head += b"\x01" + bytes.fromhex(phone.zfill(20)) if year == 2019 else bytes.fromhex(phone.zfill(12))
    head += serial.to_bytes(2, "big")
    if parts > 1:
        head += parts.to_bytes(2, "big") + part.to_bytes(2, "big")
    return b"\x7e" + _escaped(head + body + bytes([_check(head + body)])) + b"\x7e"


def heard(buffer: bytearray, *, year: int) -> list[Word]:
    """The platform's words at the front of `buffer`, which keeps what is not complete. Spoilt ones are left out."""
    words = []
    while (end := buffer.find(b"\x7e")) >= 0:
        piece = _plain(bytes(buffer[:end]))
        del buffer[: end + 1]
        start = 17 if year == 2019 else 12
        if len(piece) > start and _check(piece) == 0:
            words.append(Word(_number(piece, 0), _number(piece, start - 2), piece[start:-1]))
    if len(buffer) > FRAME_BYTES_MAX:
        buffer.clear()
    return words


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _check(data: bytes) -> int:
    total = 0
    for byte in data:
        total ^= byte
    return total


def _escaped(data: bytes) -> bytes:
    made = bytearray()
    for byte in data:
        made += {0x7E: b"\x7d\x02", 0x7D: b"\x7d\x01"}.get(byte, bytes([byte]))
    return bytes(made)


def _plain(data: bytes) -> bytes:
    made, is_escaped = bytearray(), False
    for byte in data:
        if is_escaped:
            made.append(0x7E if byte == 2 else 0x7D)
        elif byte != 0x7D:
            made.append(byte)
        is_escaped = byte == 0x7D and not is_escaped
    return bytes(made)


@dataclass(frozen=True)
class Fix:
    """Where the vehicle is, what it does, and how it is."""

    at: float
    latitude: float
    longitude: float
    speed_kmh: float
    course: int
    metres: float
    ignition: bool
    bits: int
    locked: bool = False

    def report(self) -> bytes:
        """A location with mileage, signal strength and satellites."""
        status = (
            0x2 | self.ignition | (self.latitude < 0) << 2 | (self.longitude < 0) << 3 | self.locked << 12 | 0xC0000
        )
        fixed = self.bits.to_bytes(4, "big") + status.to_bytes(4, "big")
        fixed += round(abs(self.latitude) * 1e6).to_bytes(4, "big") + round(abs(self.longitude) * 1e6).to_bytes(
            4, "big"
        )
        fixed += (
            (12).to_bytes(2, "big") + round(self.speed_kmh * 10).to_bytes(2, "big") + self.course.to_bytes(2, "big")
        )
        fixed += bytes.fromhex(time.strftime("%y%m%d%H%M%S", time.gmtime(self.at + 8 * 3600)))
        return fixed + b"\x01\x04" + round(self.metres / 100).to_bytes(4, "big") + b"\x30\x01\x1d\x31\x01\x0d"


def batch(reports: list[bytes]) -> bytes:
    """Locations made up after a gap."""
    return len(reports).to_bytes(2, "big") + b"\x01" + b"".join(len(r).to_bytes(2, "big") + r for r in reports)
