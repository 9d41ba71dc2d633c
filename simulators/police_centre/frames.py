"""DC-09 frames as a receiving centre sees them: cut from a stream, read, answered."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

# The length field is `0` and three hex digits.
BODY_MAX_BYTES = 0xFFF
# LF, CRC, length, body, CR. Anything longer without a CR cannot become a frame and is thrown away.
FRAME_MAX_BYTES = 1 + 4 + 4 + BODY_MAX_BYTES + 1
KEY_SIZES = (16, 24, 32)
PAD_MIN_BYTES = 16
_BLOCK = 16
_STAMP = "%H:%M:%S,%m-%d-%Y"

_PREAMBLE = re.compile(rb"[0-9A-Fa-f]{4}0[0-9A-Fa-f]{3}")
_EDGE = re.compile(rb"[\r\n]")
_HEADER = re.compile(rb'"(\*?)([A-Z0-9-]{2,8})"(\d{4})(R[0-9A-Fa-f]{1,6})?(L[0-9A-Fa-f]{1,6})#([0-9A-Fa-f]{3,16})\[')
_CONTENT = re.compile(rb"([^\[\]]*)\]((?:\[[^\[\]]+\])*)(?:_(\d\d:\d\d:\d\d,\d\d-\d\d-\d{4}))?")
_EXTENDED = re.compile(rb"\[([^\[\]]+)\]")


class Unreadable(Exception):
    """Bytes that are no frame, or no frame for us: a receiver stays silent."""


@dataclass(frozen=True, slots=True)
class Rubbish:
    """Bytes thrown away while looking for a frame, and the reason."""

    raw: bytes
    why: str


@dataclass(frozen=True, slots=True)
class Header:
    """The readable part of a frame, each field as it stood on the wire."""

    encrypted: bool
    token: str
    seq: str
    receiver: str  # "R1", or "" when absent
    prefix: str  # "L0"
    account: str


@dataclass(frozen=True, slots=True)
class Content:
    """What stands behind the opening bracket, decrypted."""

    data: bytes
    extended: tuple[tuple[str, bytes], ...]  # (letter, value) in wire order
    stamp: str | None
    stamp_s: float | None  # the same as unix seconds
    pad_bytes: int | None  # None when plain
    key: bytes | None  # the key that opened it


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(map(_crc_entry, range(256)))


def crc16(body: bytes | bytearray) -> int:
    """CRC-16/ARC: polynomial 0x8005 reflected, start 0, no final xor."""
    crc = 0
    for byte in body:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


class Cutter:
    """Cuts a byte stream into frame bodies by the length field; after a bad frame it goes on at the next LF."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished frame is waiting; never more than FRAME_MAX_BYTES between calls."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> Iterator[bytes | Rubbish]:
        """Yield every body (CRC and length proven) and every stretch of rubbish that is now complete."""
        self._buffer += chunk
        while self._buffer and (piece := self._next()) is not None:
            yield piece

    def finish(self) -> Iterator[Rubbish]:
        """The stream has ended: what is left can only be half a frame."""
        if self._buffer:
            yield self._discard(len(self._buffer), "the stream ended inside a frame")

    def _next(self) -> bytes | Rubbish | None:
        buffer = self._buffer
        if start := buffer.find(b"\n"):
            return self._discard(start if start > 0 else len(buffer), "no LF before it")
        end = 9 + int(buffer[5:9], 16) if _PREAMBLE.match(buffer, 1) else 0
        edge = _EDGE.search(buffer, 1)  # neither CR nor LF ever stands inside a body
        if edge is None and len(buffer) <= max(end, 8):
            return None
        if not end:
            why = f"CRC and length are not 4 hex digits and 0LLL: {bytes(buffer[1:9])!r}"
        elif edge is None or edge.start() != end or buffer[end] != 0x0D:
            why = f"no CR where the length field {end - 9} puts it"
        elif (computed := crc16(buffer[9:end])) != (told := int(buffer[1:5], 16)):
            why = f"CRC {told:04X} on the wire, {computed:04X} computed"
        else:
            body = bytes(buffer[9:end])
            del buffer[: end + 1]
            return body
        following = buffer.find(b"\n", 1)
        return self._discard(following if following > 0 else len(buffer), why)

    def _discard(self, count: int, why: str) -> Rubbish:
        raw = bytes(self._buffer[:count])
        del self._buffer[:count]
        return Rubbish(raw, why)


def read_header(body: bytes) -> Header:
    """The readable part of a body; Unreadable when it does not follow the frame's grammar."""
    match = _HEADER.match(body)
    if match is None:
        raise Unreadable(f'expected "token" seq [Rrcvr] Lpref #acct [, found {body[:48]!r}')
    star, token, seq, receiver, prefix, account = ((group or b"").decode("ascii") for group in match.groups())
    return Header(encrypted=bool(star), token=token, seq=seq, receiver=receiver, prefix=prefix, account=account)


def read_content(body: bytes, header: Header, keys: tuple[bytes, ...]) -> Content:
    """What follows the header, opened with the first key that fits; Unreadable when nothing does."""
    wire = body[body.index(b"[") + 1 :]
    if not header.encrypted:
        return _parse(wire, pad_bytes=None, key=None)
    if not keys:
        raise Unreadable(f"encrypted, and no key is known for account {header.account}")
    for key in keys:
        try:
            return _open(wire, key)
        except Unreadable as error:
            why = error
    raise Unreadable(f"none of {len(keys)} keys of account {header.account} opens it: {why}")


def _open(wire: bytes, key: bytes) -> Content:
    try:
        cipher_text = bytes.fromhex(wire.decode("ascii"))
    except ValueError:
        raise Unreadable("the encrypted part is not hex digits") from None
    if not cipher_text or len(cipher_text) % _BLOCK:
        raise Unreadable(f"{len(cipher_text)} encrypted bytes are not a multiple of {_BLOCK}")
    decryptor = Cipher(AES(key), CBC(bytes(_BLOCK))).decryptor()
    clear = decryptor.update(cipher_text) + decryptor.finalize()
    # pad | data ] ...; without data (NULL, ACK) there is no bar: pad ] ...
    pad_bytes = min((at for at in (clear.find(b"|"), clear.find(b"]")) if at >= 0), default=-1)
    if pad_bytes < 0:
        raise Unreadable("no | or ] behind the pad")
    content = _parse(clear[pad_bytes:].removeprefix(b"|"), pad_bytes=pad_bytes, key=key)
    if content.stamp_s is None:
        raise Unreadable("no timestamp, which an encrypted message must carry")
    return content


def _parse(text: bytes, *, pad_bytes: int | None, key: bytes | None) -> Content:
    match = _CONTENT.fullmatch(text)
    if match is None:
        raise Unreadable(f"expected data] [xdata]... _HH:MM:SS,MM-DD-YYYY, found {text[:48]!r}")
    data, extended, stamp = match[1], match[2], match[3].decode("ascii") if match[3] else None
    fields = tuple((field[:1].decode("latin-1"), field[1:]) for field in _EXTENDED.findall(extended))
    return Content(data, fields, stamp, stamp_seconds(stamp) if stamp else None, pad_bytes, key)


def stamp_seconds(stamp: str) -> float | None:
    """A DC-09 time (UTC) as unix seconds; None when there is no such day or hour."""
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def stamp_text(unix_s: float) -> str:
    """Unix seconds as a DC-09 time, HH:MM:SS,MM-DD-YYYY in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime(_STAMP)


def envelope(body: bytes) -> bytes:
    """A body with LF, CRC and length before it and CR behind."""
    return b"\n%04X0%03X%b\r" % (crc16(body), len(body), body)


def reply(
    token: str, header: Header, *, seq: str, key: bytes | None, now_s: float, pad: Callable[[int], bytes]
) -> bytes:
    """ACK or RSP to a frame, echoing seq, R, L and account; encrypted and stamped when the frame was (``key``)."""
    star = "*" if key else ""
    head = f'"{star}{token}"{seq}{header.receiver}{header.prefix}#{header.account}['.encode("ascii")
    if key is None:
        return envelope(head + b"]")
    tail = b"]_" + stamp_text(now_s).encode("ascii")
    clear = pad(PAD_MIN_BYTES + -(PAD_MIN_BYTES + len(tail)) % _BLOCK) + tail
    encryptor = Cipher(AES(key), CBC(bytes(_BLOCK))).encryptor()
    return envelope(head + (encryptor.update(clear) + encryptor.finalize()).hex().upper().encode("ascii"))


def duh(header: Header) -> bytes:
    """DUH: well formed, but we can do nothing with it. Never encrypted."""
    return envelope(f'"DUH"{header.seq}{header.receiver}{header.prefix}#{header.account}[]'.encode("ascii"))


def nak(now_s: float) -> bytes:
    """NAK with the receiver's time. It names no account (`A0`, without #) and is never encrypted."""
    return envelope(b'"NAK"0000R0L0A0[]_' + stamp_text(now_s).encode("ascii"))
