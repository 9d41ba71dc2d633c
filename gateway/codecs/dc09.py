"""SIA DC-09 as both ends of a line speak it: bytes to values and back, without sockets, clocks or dice.

    LF CRC 0LLL "[*]token" seq [Rrcvr] [Lpref] #acct [data] *([xdata]) [_timestamp] CR

`split` cuts a stream into frames, `parse` reads one, `build` writes one. Everything that cannot be read or must not
be written raises FrameError. Clauses named are those of ANSI/SIA DC-09.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from string import ascii_uppercase

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fastcrc import crc16

from gateway.codecs.dc09_fields import moment, stamp
from gateway.errors import FrameError

BODY_MAX = 0xFFF  # bytes; the length field is "0" and three hex digits
FRAME_MAX = 1 + 4 + 4 + BODY_MAX + 1  # LF, CRC, length, body, CR: what `split` may leave in the buffer stays below it
SEQUENCE_MAX = 9999  # four decimal digits; 0001 follows 9999
PAD_MIN = 16  # one whole cipher block of chance, because the IV is always zero (5.4.4.3)

HEADS_KEPT = 16_384  # fields that repeat from frame to frame, read and written once; some per account, 4 MB at most

ADM_CID, NULL = "ADM-CID", "NULL"
ACK, NAK, DUH, RSP = "ACK", "NAK", "DUH", "RSP"

Pad = Callable[[int], bytes]
"""Gives n random bytes; passed in so that a test can know them."""

KeyOf = Callable[[str], bytes | None]
"""The AES key of an account (upper-case digits); None where it has none."""

Text = Callable[[bytes], str]
"""Reads a field that may hold more than ASCII; never refuses."""

_BLOCK = 16
_HEADER = re.compile(rb"\n([0-9A-Fa-f]{4})0([0-9A-Fa-f]{3})")
_HEADER_SIZE = 9
_BODY = re.compile(
    rb'"(?P<star>\*?)(?P<token>[A-Z0-9-]{1,16})"(?P<sequence>[0-9]{4})'
    rb"(?P<route>(?:[RL][0-9A-Fa-f]{0,6}){0,2})"  # R then L by the standard; pysiaalarm's NAK has them reversed
    rb"(?:#(?P<account>[0-9A-Za-z]{1,16})|A0)"  # A0: the NAK names no account
    rb"\[(?P<rest>.*)",
    re.DOTALL,
)
_ROUTE = re.compile(r"R(?P<receiver>[0-9A-F]*?)(?=L|$)|L(?P<line>[0-9A-F]*?)(?=R|$)")
_CONTENT = re.compile(rb"(?P<data>[^\[\]]*)\](?P<xdata>(?:\[[^\[\]]*\])*)(?:_(?P<stamp>[^\[\]]*))?", re.DOTALL)
_PADDED = re.compile(rb"[^|\[\]]*(?:\||(?=\]))", re.DOTALL)
_XDATA = re.compile(rb"\[([^\[\]]*)\]", re.DOTALL)
_TOKEN = re.compile(r"[A-Z0-9-]{1,16}")
_ACCOUNT = re.compile(r"[0-9A-F]{3,16}")
_ROUTE_NUMBER = re.compile(r"[0-9A-F]{1,6}")
_LETTERS = frozenset(ascii_uppercase)
_STRUCTURAL = re.compile(r"[\[\]|\r\n]")
# Bytes that would end the pad early or break the frame's own lines, and harmless ones in their place.
_PAD_TABLE = bytes.maketrans(b"[]|\r\n", b"()/-.")


@dataclass(frozen=True, slots=True)
class Message:
    """What one frame says. `account` is empty only in a NAK, which names none."""

    token: str
    sequence: int
    account: str
    receiver: str | None = None
    line: str | None = "0"
    data: str = ""
    xdata: tuple[tuple[str, str], ...] = ()
    timestamp: datetime | None = None
    encrypted: bool = False

    def extended(self, letter: str) -> str | None:
        """The first extended data field with this letter, without the letter."""
        for key, value in self.xdata:
            if key == letter:
                return value
        return None


# -- the stream -------------------------------------------------------------------------------------------------------


def split(buffer: bytearray) -> Iterator[bytes]:
    """Take whole frames (LF to CR) out of the front of `buffer`; what is left is shorter than FRAME_MAX.

    Frames are cut by their length. LF occurs nowhere inside a frame, so after anything that is not one the search
    goes on at the next LF: noise costs the frame it hit, never the one behind it.
    """
    while True:
        start = buffer.find(b"\n")
        del buffer[: start if start >= 0 else len(buffer)]
        if not buffer:
            return
        size = _frame_size(buffer)
        following = buffer.find(b"\n", 1, size)
        if following > 0:  # also where a broken length reaches into the next frame
            del buffer[:following]
        elif len(buffer) < size:
            return
        elif size == 1 or buffer[size - 1] != 0x0D:
            del buffer[0]
        else:
            frame = bytes(buffer[:size])
            del buffer[:size]
            yield frame


def _frame_size(buffer: bytearray) -> int:
    """How many bytes the frame at the front has, as far as that can be told; 1 = no frame begins here."""
    if len(buffer) < _HEADER_SIZE:
        return _HEADER_SIZE
    header = _HEADER.match(buffer)
    return _HEADER_SIZE + int(header[2], 16) + 1 if header else 1


def parse(frame: bytes, key_of: KeyOf = lambda _: None) -> Message:
    """Read one frame, LF to CR. `key_of` gives the AES key of an account that may send encrypted."""
    return parse_body(_checked_body(frame), key_of)


def parse_body(body: bytes, key_of: KeyOf, text: Text | None = None) -> Message:
    """Read what CRC and length cover, both found right. `text` reads what is no ASCII. An encrypted body that gives no
    sense is refused as "spoofed", one for whose account no key is known as "unknown_device"."""
    text = text or _text
    match = _BODY.fullmatch(body)
    if match is None:
        raise FrameError(f'body {body[:40]!r}: expected "token" and four digits, R, L, #account, [')
    star, name, sequence, route, digits, content = match.groups()
    token, account, encrypted = name.decode(), (digits or b"").decode().upper(), bool(star)
    if encrypted:
        content = _decrypted(content, account, key_of(account))
    parts = _CONTENT.fullmatch(content)
    if parts is None:
        raise FrameError(
            f"{token} of account {account}: expected data], extended data in [ ], _timestamp",
            "spoofed" if encrypted else "malformed",
        )
    data, xdata, written_at = parts.groups()
    timestamp = None
    if written_at is not None:
        # Advisory on a plain frame: an alarm is not refused for a bad clock. Required when encrypted, where it is also
        # what tells a wrong key from a right one.
        with suppress(FrameError):
            timestamp = moment(text(written_at))
    if encrypted and timestamp is None:
        raise FrameError(
            f"{token} of account {account}: encrypted without a readable timestamp; is the key right?", "spoofed"
        )
    receiver, line = _route(route)
    return Message(
        token=token,
        sequence=int(sequence),
        account=account,
        receiver=receiver,
        line=line,
        data=text(data),
        xdata=tuple((field[:1], field[1:]) for field in map(text, _XDATA.findall(xdata))) if xdata else (),
        timestamp=timestamp,
        encrypted=encrypted,
    )


def build(message: Message, key: bytes | None = None, pad: Pad | None = None) -> bytes:
    """Write one frame, LF to CR. An encrypted message needs its account's key and a source of pad bytes."""
    before, after = _head(message.token, message.account, message.receiver, message.line, message.encrypted)
    _check(message)
    xdata = "".join([f"[{letter}{value}]" for letter, value in message.xdata])
    time = "" if message.timestamp is None else f"_{stamp(message.timestamp)}"
    content = f"{message.data}]{xdata}{time}".encode()
    if message.encrypted:
        if key is None or pad is None:
            raise FrameError(f"{message.token} of account {message.account}: encryption needs a key and a pad source")
        content = _encrypted(content, has_data=bool(message.data), key=key, pad=pad)
    body = b"%b%04d%b%b" % (before, message.sequence, after, content)
    if len(body) > BODY_MAX:
        raise FrameError(f"{message.token} of account {message.account}: {len(body)} bytes, at most {BODY_MAX} fit")
    return b"\n%04X0%03X%b\r" % (crc(body), len(body), body)


def _checked_body(frame: bytes) -> bytes:
    header = _HEADER.match(frame)
    if header is None or frame[-1:] != b"\r":
        raise FrameError(f"frame {frame[:40]!r}: expected LF, four hex digits CRC, 0 and three of length ... CR")
    body = frame[_HEADER_SIZE:-1]
    if len(body) != int(header[2], 16):
        raise FrameError(f"frame {frame[:40]!r}: the header says {int(header[2], 16)} bytes, there are {len(body)}")
    if b"\n" in body or b"\r" in body:
        raise FrameError(f"frame {frame[:40]!r}: CR or LF inside")
    if crc(body) != int(header[1], 16):
        raise FrameError(f"frame {frame[:40]!r}: CRC should be {crc(body):04X}, is {header[1].decode()}")
    return body


@lru_cache(HEADS_KEPT)
def _route(text: bytes) -> tuple[str | None, str | None]:
    """R and L, each None when absent and possibly empty: several panels send a bare L, and want the same back."""
    receiver = line = None
    for match in _ROUTE.finditer(text.decode().upper()):
        if match["receiver"] is not None:
            receiver = match["receiver"]
        else:
            line = match["line"]
    return receiver, line


@lru_cache(HEADS_KEPT)
def _head(token: str, account: str, receiver: str | None, line: str | None, encrypted: bool) -> tuple[bytes, bytes]:
    """What stands before the sequence number and after it, up to the data. Refuses what would not be a frame: a wrong
    field here is our own mistake, and must not reach a receiver."""
    where = f"{token} of account {account!r}"
    if not _TOKEN.fullmatch(token):
        raise FrameError(f"{where}: expected a token of A-Z, 0-9, -")
    if not _ACCOUNT.fullmatch(account) and not (token == NAK and not account):
        raise FrameError(f"{where}: expected an account of 3 to 16 digits 0-9, A-F")
    if any(number and not _ROUTE_NUMBER.fullmatch(number) for number in (receiver, line)):
        raise FrameError(f"{where}: expected R and L of at most 6 digits 0-9, A-F")
    if encrypted and token in (NAK, DUH):
        raise FrameError(f"{where}: {token} is never encrypted")
    route = ("" if receiver is None else f"R{receiver}") + ("" if line is None else f"L{line}")
    return f'"{"*" if encrypted else ""}{token}"'.encode(), f"{route}{f'#{account}' if account else 'A0'}[".encode()


def _check(message: Message) -> None:
    """Refuse the fields that change from message to message, as `_head` does the others."""
    if not 0 <= message.sequence <= SEQUENCE_MAX:
        raise _wrong(message, f"expected a sequence number 0..{SEQUENCE_MAX}, found {message.sequence}")
    if message.timestamp is None and (message.encrypted or message.token == NAK):
        raise _wrong(message, "expected a timestamp")
    if _STRUCTURAL.search(message.data.replace("|", "")):
        raise _wrong(message, f"[ ] CR LF inside the data field {message.data!r}")
    for letter, value in message.xdata:
        if letter not in _LETTERS or _STRUCTURAL.search(value):
            raise _wrong(message, f"expected a letter A-Z and text without [ ] | CR LF, found {letter + value!r}")


def _wrong(message: Message, what: str) -> FrameError:
    return FrameError(f"{message.token} {message.sequence} of account {message.account!r}: {what}")


def _text(raw: bytes) -> str:
    """UTF-8, else the Windows-1252 of older senders; never refused."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def crc(body: bytes) -> int:
    """CRC-16/ARC: polynomial 8005 reflected, start 0. Byte by byte in Python it is a third of a frame's work."""
    return crc16.arc(body)


# -- encryption (5.4) -------------------------------------------------------------------------------------------------


def _encrypted(content: bytes, *, has_data: bool, key: bytes, pad: Pad) -> bytes:
    clear = b"|" + content if has_data else content
    size = PAD_MIN + -len(clear) % _BLOCK
    padding = pad(size).translate(_PAD_TABLE)
    if len(padding) != size:
        raise FrameError(f"pad source gave {len(padding)} bytes, asked for {size}")
    cipher = _cipher(key).encryptor()
    return (cipher.update(padding + clear) + cipher.finalize()).hex().upper().encode()


def _decrypted(content: bytes, account: str, key: bytes | None) -> bytes:
    if key is None:
        raise FrameError(f"encrypted frame of account {account}: no key is known for it", "unknown_device")
    if not content or len(content) % (2 * _BLOCK) or not re.fullmatch(rb"[0-9A-Fa-f]+", content):
        raise FrameError(
            f"encrypted frame of account {account}: expected hex digits in whole blocks of 16 bytes", "spoofed"
        )
    cipher = _cipher(key).decryptor()
    clear = cipher.update(bytes.fromhex(content.decode())) + cipher.finalize()
    padding = _PADDED.match(clear)
    if padding is None:
        raise FrameError(f"encrypted frame of account {account}: no data after the pad; is the key right?", "spoofed")
    return clear[padding.end() :]


def _cipher(key: bytes) -> Cipher[modes.CBC]:
    return Cipher(algorithms.AES(key), modes.CBC(bytes(_BLOCK)))


# -- answers --------------------------------------------------------------------------------------------------------


def ack(message: Message, at: datetime) -> Message:
    """The positive answer; `at` is sent only where the message was encrypted."""
    return _answer(ACK, message, at=at if message.encrypted else None)


def duh(message: Message) -> Message:
    """Well formed, but it cannot be used: the sender need not try again. Never encrypted."""
    return replace(_answer(DUH, message, at=None), encrypted=False)


def rsp(message: Message, at: datetime, *, data: str = "", xdata: tuple[tuple[str, str], ...] = ()) -> Message:
    """The answer to a request that needs content, such as a new key."""
    return _answer(RSP, message, at=at if message.encrypted else None, data=data, xdata=xdata)


def echo(
    token: str, head: bytes, *, key: bytes | None = None, at: datetime | None = None, pad: Pad | None = None
) -> bytes:
    """The frame of an answer without data that repeats `head`, which stands between token and `[`, byte for byte: some panels
    take nothing else. Encrypted with its timestamp when a key is given."""
    if key is None:
        body = b'"%b"%b[]' % (token.encode(), head)
    else:
        assert at is not None
        assert pad is not None
        content = _encrypted(f"]_{stamp(at)}".encode(), has_data=False, key=key, pad=pad)
        body = b'"*%b"%b[%b' % (token.encode(), head, content)
    return b"\n%04X0%03X%b\r" % (crc(body), len(body), body)


def nak(at: datetime) -> Message:
    """The sender's clock is outside the window: `at` is the receiver's time. Names no account."""
    return Message(NAK, 0, account="", receiver="0", line="0", timestamp=at)


def _answer(
    token: str, to: Message, *, at: datetime | None, data: str = "", xdata: tuple[tuple[str, str], ...] = ()
) -> Message:
    return Message(token, to.sequence, to.account, to.receiver, to.line, data, xdata, at, to.encrypted)
