"""Frames of OSDP (IEC 60839-11-5, clause 5): cut from the line, checked, taken apart, put together. Pure."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from gateway.driver import FrameError

SOM = 0x53
MARK = b"\xff"
"""Sent before a command, so that line drivers have settled when SOM comes; never counted."""
BROADCAST = 0x7F
"""Every reader takes it and every reader answers: for one reader on the line only."""
FRAME_BYTES_MAX = 256
"""What we ask for is answered in far less (PDCAP with every function: 70); more is noise that looks like a length."""
MAC_BYTES = 4

REPLY, CRC, SECURED = 0x80, 0x04, 0x08
"""Bits of the address (REPLY) and of the control byte."""


class Command(IntEnum):
    """What the panel says."""

    POLL = 0x60
    ID = 0x61
    CAP = 0x62
    LSTAT = 0x64
    ISTAT = 0x65
    OSTAT = 0x66
    RSTAT = 0x67
    OUT = 0x68
    LED = 0x69
    BUZ = 0x6A
    COMSET = 0x6E
    KEYSET = 0x75
    CHLNG = 0x76
    SCRYPT = 0x77


class Reply(IntEnum):
    """What a reader says."""

    ACK = 0x40
    NAK = 0x41
    PDID = 0x45
    PDCAP = 0x46
    LSTATR = 0x48
    ISTATR = 0x49
    OSTATR = 0x4A
    RSTATR = 0x4B
    RAW = 0x50
    KEYPAD = 0x53
    COM = 0x54
    CCRYPT = 0x76
    RMAC_I = 0x78
    BUSY = 0x79


class Nak(IntEnum):
    """Why a reader refuses."""

    CHECK = 1
    LENGTH = 2
    COMMAND = 3
    SEQUENCE = 4
    NO_SECURE_CHANNEL = 5
    NOT_SECURED = 6
    BIOMETRIC_TYPE = 7
    BIOMETRIC_FORMAT = 8
    RECORD = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose length and check are right. `data` may still be encrypted, `mac` unproven."""

    address: int
    is_reply: bool
    sequence: int
    has_crc: bool
    security: bytes
    """The security block after its length byte: type and data; empty when there is none."""
    code: int
    data: bytes
    mac: bytes
    covered: bytes
    """What the MAC is taken over: from SOM to the end of the data."""


def split(buffer: bytearray) -> Iterator[bytes]:
    """Frames whose check is right, and what lies between them as noise to be counted. An unfinished frame waits, but
    hides no whole one behind it: its length may itself be noise."""
    while buffer:
        start, end = _next(buffer)
        noise, frame = bytes(buffer[:start]).strip(MARK), bytes(buffer[start:end])
        del buffer[:start]
        if noise:
            yield noise
        if not frame:
            return
        del buffer[: len(frame)]  # before it is handed out: who has the answer it waited for listens no further
        yield frame


def _next(buffer: bytearray) -> tuple[int, int]:
    """From where to where the first sound frame goes; without one, where the first unfinished begins, twice."""
    unfinished = len(buffer)
    at = buffer.find(SOM)
    while at >= 0:
        size = _size(buffer, at)
        if size is None or at + size > len(buffer):
            unfinished = min(unfinished, at)
        elif size and _is_sound(bytes(buffer[at : at + size])):
            return at, at + size
        at = buffer.find(SOM, at + 1)
    return unfinished, unfinished


def _size(buffer: bytearray, start: int) -> int | None:
    """The length a frame at `start` states; 0 when none can start there, None when too little has come to tell."""
    if len(buffer) - start < 5:
        return None
    size = buffer[start + 2] | buffer[start + 3] << 8
    shortest = 8 if buffer[start + 4] & CRC else 7
    return size if shortest <= size <= FRAME_BYTES_MAX else 0


def check_bytes(body: bytes, *, has_crc: bool) -> bytes:
    """CRC-16 (polynomial 1021, start 1D0F), low byte first, or the sum's two's complement."""
    return crc_hqx(body, 0x1D0F).to_bytes(2, "little") if has_crc else bytes([-sum(body) & 0xFF])


def _is_sound(frame: bytes) -> bool:
    has_crc = bool(frame[4] & CRC)
    cut = -2 if has_crc else -1
    return check_bytes(frame[:cut], has_crc=has_crc) == frame[cut:]


def parse(frame: bytes) -> Frame:
    """Raises FrameError for anything that is not exactly one sound frame."""
    if len(frame) < 5 or frame[0] != SOM or _size(bytearray(frame), 0) != len(frame):
        raise FrameError(f"{len(frame)} bytes that are no frame: 53, address, length, control expected")
    if not _is_sound(frame):
        raise FrameError("the check does not fit the frame", "checksum")
    has_crc = bool(frame[4] & CRC)
    covered, at, security = frame[: -2 if has_crc else -1], 5, b""
    if frame[4] & SECURED:
        size = frame[5]
        security, at = frame[6 : 5 + size], 5 + size
        if size < 2 or at >= len(covered):
            raise FrameError(f"a security block of {size} bytes in a frame of {len(frame)}")
    mac = b""
    if security and security[0] >= 0x15:
        covered, mac = covered[:-MAC_BYTES], covered[-MAC_BYTES:]
        if at >= len(covered):
            raise FrameError("no room for code and MAC behind the security block")
    return Frame(
        frame[1] & 0x7F,
        bool(frame[1] & REPLY),
        frame[4] & 3,
        has_crc,
        security,
        covered[at],
        covered[at + 1 :],
        mac,
        covered,
    )


def head(
    address: int, sequence: int, content: bytes, *, has_crc: bool = True, security: bytes = b"", mac: bool = False
) -> bytes:
    """A frame of the panel up to the end of its data: what a MAC is taken over. `security`: type and data of the block."""
    block = bytes([len(security) + 1]) + security if security else b""
    size = 5 + len(block) + len(content) + (MAC_BYTES if mac else 0) + (2 if has_crc else 1)
    control = sequence | (CRC if has_crc else 0) | (SECURED if security else 0)
    return bytes([SOM, address]) + size.to_bytes(2, "little") + bytes([control]) + block + content


def closed(covered: bytes, mac: bytes = b"") -> bytes:
    """The whole frame: MAC and check behind what they are taken over."""
    body = covered + mac
    return body + check_bytes(body, has_crc=bool(covered[4] & CRC))
