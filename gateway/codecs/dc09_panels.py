"""SIA DC-09 as panels in the field send it: every departure from the standard that is known is read, and named.

`split` cuts a stream, `read` reads one piece of it. Whether a departure is accepted decides whoever calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from gateway.codecs import dc09
from gateway.codecs.dc09 import KeyOf, Message
from gateway.errors import FrameError

Deviation = Literal[
    "crc_over_cr", "length_over_cr", "crc_raw", "nul_after_cr", "line_without_digits", "account_not_hex", "text_not_utf8"
]  # fmt: skip

HEADER_SIZE = 10
"""LF, CRC, length and the first quote."""
HEARTBEAT_BYTES_MAX = 48
"""An Osborne-Hoffman heartbeat has 38."""
NOISE_BYTES_MAX = 512
"""Of what is no frame, as much at a time is handed out to be counted."""

_ASCII = re.compile(rb'\n([0-9A-Fa-f]{4})0([0-9A-Fa-f]{3})"')
_RAW = re.compile(rb'\n([\x00-\xff]{2})0([0-9A-Fa-f]{3})"')
_BLANK = b"\x00\r\n \t"
_LINE_ENDS = re.compile(rb"[\r\n]+")
_HEARTBEAT = re.compile(rb"SR(\d{4})L(\d{4})[ \x00]{1,8}(\w{4,8})[ \x00]{1,8}\[ID(\w{8})\]", re.ASCII)
_HEAD = re.compile(rb'"\*?[A-Z0-9-]{1,16}"([^\[\]]*)\[')
_ACCOUNT = re.compile(rb"#([0-9A-Za-z]{1,16})\[")
_BARE_LINE = re.compile(rb"\d{4}(?:R[0-9A-Fa-f]*)?L(?![0-9A-Fa-f])")
_HEX_ACCOUNT = re.compile(r"[0-9A-F]{3,16}")


class Reading(NamedTuple):
    """One frame, and where it departs from the standard."""

    message: Message
    head: bytes
    """What stands between the token and `[`: the answer repeats it."""
    deviations: list[Deviation]


class Heartbeat(NamedTuple):
    """The supervision of Osborne-Hoffman panels, which nothing but its form protects. It is answered `"ACK"`, as it is."""

    account: str


def split(buffer: bytearray) -> Iterator[bytes]:
    """Cut frames off the front of `buffer`, and what lies between them to be counted as noise. What is left is shorter than a
    frame can be. Frames are cut by their length; LF begins one and, but for two raw bytes of CRC, stands nowhere inside."""
    while buffer:
        if buffer[0] != 0x0A:
            size = _heartbeat_size(buffer)
        elif len(buffer) < HEADER_SIZE:
            return
        else:
            size = _frame_size(buffer)
        if size == 0:
            return
        piece = bytes(buffer[:size])
        del buffer[:size]
        if piece.strip(_BLANK):
            yield piece


def _heartbeat_size(buffer: bytearray) -> int:
    """Of what stands before the next LF: a heartbeat, or noise. 0: not all of a heartbeat may be here yet."""
    end = buffer.find(b"\n")
    if buffer.startswith((b"SR", b"S")):
        if found := _HEARTBEAT.match(buffer):
            return found.end()
        if end < 0 and len(buffer) < HEARTBEAT_BYTES_MAX and b"]" not in buffer:
            return 0
    return min(end if end >= 0 else len(buffer), NOISE_BYTES_MAX)


def _frame_size(buffer: bytearray) -> int:
    """Bytes of the frame at the front with its CR and a NUL behind; or of what begins none; 0: not all of
    it is here yet."""
    header = _ASCII.match(buffer)
    body_from = 9
    if header is None:
        header, body_from = _RAW.match(buffer), 7
        if header is None:
            return _blank_size(buffer)
    end = body_from + int(header[2], 16)
    next_line = buffer.find(b"\n", body_from, end + 1)
    if next_line > 0:  # broken off, or its length is wrong: what follows is whole, perhaps
        return next_line
    if len(buffer) >= end and buffer[end - 1] == 0x0D:
        size = end  # the CR was counted too
    elif len(buffer) <= end:
        return 0
    elif buffer[end] == 0x0D:
        size = end + 1
    else:
        return 1
    return size + 1 if buffer[size : size + 1] == b"\0" else size


def _blank_size(buffer: bytearray) -> int:
    """Line ends at the front that begin no frame; the last three may yet be an LF and a raw CRC."""
    blank = _LINE_ENDS.match(buffer)
    return max(1, blank.end() - 3) if blank else 1


def read(frame: bytes, key_of: KeyOf = lambda _: None) -> Reading:
    """One frame of `split`. Raises FrameError."""
    deviations: list[Deviation] = []
    body = _body(frame, deviations)

    def text(raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            deviations.append("text_not_utf8")
            return _chinese(raw)

    message = dc09.parse_body(body, key_of, text)
    head = _HEAD.match(body)
    assert head is not None, "parse_body has read it"
    if message.line == "" and _BARE_LINE.match(head[1]):
        deviations.append("line_without_digits")
    if message.account and not _is_hex(message.account):
        deviations.append("account_not_hex")
    return Reading(message, head[1], deviations)


@lru_cache(dc09.HEADS_KEPT)
def _is_hex(account: str) -> bool:
    return _HEX_ACCOUNT.fullmatch(account) is not None


def heartbeat(piece: bytes) -> Heartbeat | None:
    """An Osborne-Hoffman heartbeat; None for everything else."""
    found = _HEARTBEAT.fullmatch(piece)
    return Heartbeat(found[3].decode().upper().rstrip("X")) if found else None


def account_of(frame: bytes) -> str:
    """The account in the open head of a frame that cannot be read any further; empty where there is none."""
    found = _ACCOUNT.search(frame)
    return found[1].decode().upper() if found else ""


def _body(frame: bytes, deviations: list[Deviation]) -> bytes:
    """What CRC and length cover, both right in one of the ways that are known. Raises FrameError."""
    if frame.endswith(b"\r\0"):
        deviations.append("nul_after_cr")
        frame = frame[:-1]
    header = _ASCII.match(frame)
    if header is not None:
        declared, body = int(header[1], 16), frame[9:-1]
    else:
        header = _RAW.match(frame)
        declared, body = int.from_bytes(frame[1:3]), frame[7:-1]
        deviations.append("crc_raw")
    if header is None or frame[-1:] != b"\r":
        raise FrameError(f'{frame[:40]!r}: expected LF, CRC, 0 and three digits of length, "token" ... CR')
    length = int(header[2], 16)
    if length != len(body):
        if length != len(body) + 1:
            raise FrameError(f"{frame[:40]!r}: the header says {length} bytes, there are {len(body)}")
        deviations.append("length_over_cr")
    if declared != dc09.crc(body):
        if declared != dc09.crc(body + b"\r"):
            raise FrameError(f"{frame[:40]!r}: CRC should be {dc09.crc(body):04X}, is {declared:04X}", "checksum")
        deviations.append("crc_over_cr")
    return body


def _chinese(raw: bytes) -> str:
    """GBK and its successor, else the Windows-1252 of older senders; never refused."""
    try:
        return raw.decode("gb18030")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")
