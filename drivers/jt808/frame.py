"""The envelope of JT/T 808: delimiter, escape, check byte, the headers of 2013 and 2019, and the platform's own frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor

from gateway.driver import FrameError

BODY_BYTES_MAX = 1023
"""Ten bits of the properties hold the length (JT/T 808-2013 and -2019, 4.4.3)."""
FRAME_BYTES_MAX = 2 + 2 * (21 + BODY_BYTES_MAX + 1)
"""Both delimiters, the longest header (2019, in parts), body and check byte, each byte escaped."""

_LENGTH, _ENCRYPTED, _IN_PARTS, _IS_2019 = 0x03FF, 0x1C00, 0x2000, 0x4000
"""The message properties."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, or one part of it."""

    id: int
    phone: bytes
    """BCD as it was sent, 6 bytes or 10; it goes back as it came."""
    serial: int
    version: int | None
    """Of the 2019 header; None: 2013."""
    total: int
    index: int
    """Part `index` (from 1) of `total`; 1 of 1 for a message in one piece."""
    body: bytes
    raw: bytes

    @property
    def device(self) -> str:
        """The terminal's number without leading zeros: 2013 has 12 digits for it and 2019 has 20, and it stays the same
        terminal."""
        return self.phone.hex().lstrip("0") or "0"

    @property
    def is_part(self) -> bool:
        return self.total > 1


def split(buffer: bytearray) -> Iterator[bytes]:
    """What stands between two 7E, whole and with both. A receiver that pairs them is out of step for ever after one lost byte."""
    pieces = buffer.split(b"\x7e")
    rest = pieces.pop()
    if len(rest) > FRAME_BYTES_MAX:
        pieces, rest = [*pieces, rest], rest[:0]  # no frame is this long: to be refused, and never held on to
    buffer[:] = rest
    for piece in pieces:
        if piece:
            yield b"\x7e" + piece + b"\x7e"


def parse(raw: bytes) -> Frame:
    """The message between two delimiters, checked. Raises FrameError."""
    content = _unescaped(raw)
    if reduce(xor, content):
        raise FrameError(
            f"check byte is {content[-1]:02x}, the frame gives {reduce(xor, content[:-1], 0):02x}", "checksum"
        )
    try:
        return _message(content, raw)
    except struct.error as error:
        raise FrameError(f"{len(content)} bytes are no header of JT/T 808-2013 or -2019") from error


def _unescaped(raw: bytes) -> bytes:
    """7D 02 stands for 7E and 7D 01 for 7D. Raises FrameError."""
    if len(raw) > FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {len(raw)} bytes; at most {FRAME_BYTES_MAX}", "too_long")
    content = raw.strip(b"\x7e")
    if not content:
        raise FrameError("an empty frame")
    escapes = content.count(b"\x7d")
    if escapes:
        if content.count(b"\x7d\x01") + content.count(b"\x7d\x02") != escapes:
            raise FrameError("7d stands before something else than 01 or 02")
        content = content.replace(b"\x7d\x02", b"\x7e").replace(b"\x7d\x01", b"\x7d")
    return content


def _message(content: bytes, raw: bytes) -> Frame:
    message_id, properties = struct.unpack_from(">HH", content)
    version: int | None = None
    if properties & _IS_2019:
        version, phone, serial = struct.unpack_from(">B10sH", content, 4)
        start = 17
    else:
        phone, serial = struct.unpack_from(">6sH", content, 4)
        start = 12
    total = index = 1
    if properties & _IN_PARTS:
        total, index = struct.unpack_from(">HH", content, start)
        start += 4
    body, size = content[start:-1], len(content) - start - 1
    if size != properties & _LENGTH:  # also where the check byte would have to serve as the end of the header
        raise FrameError(f"the body has {size} bytes, its header says {properties & _LENGTH}")
    if properties & _ENCRYPTED:
        raise FrameError("the body is encrypted; a terminal that sends in the clear is expected")
    if not phone.hex().isdecimal():
        raise FrameError(f"the terminal's number is {phone.hex()}; decimal digits are expected")
    if not 1 <= index <= total:
        raise FrameError(f"part {index} of {total}")
    return Frame(message_id, phone, serial, version, total, index, body, raw)


def build(message_id: int, to: Frame, serial: int, body: bytes) -> bytes:
    """A frame of the platform for the terminal that sent `to`, in the form of its header."""
    if to.version is None:
        content = struct.pack(">HH6sH", message_id, len(body), to.phone, serial) + body
    else:
        content = struct.pack(">HHB10sH", message_id, _IS_2019 | len(body), to.version, to.phone, serial) + body
    content += bytes((reduce(xor, content),))
    return b"\x7e%b\x7e" % content.replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02")
