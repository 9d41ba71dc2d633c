"""Every parser of bytes that come from outside: what it is fed from, how, and what it may hold on to."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from random import Random
from types import MappingProxyType

from drivers.jt808.frame import FRAME_BYTES_MAX as JT808_MAX
from drivers.modbus_points.capture import crc16
from drivers.nmea.sentences import SENTENCE_BYTES_MAX
from drivers.osdp.frame import FRAME_BYTES_MAX as OSDP_MAX
from drivers.osdp.frame import parse as osdp_parse
from drivers.osdp.secure import Handshake
from drivers.rf_serial import LINE_BYTES_MAX
from gateway.codecs import dc09, dc09_panels
from gateway.errors import FrameError
from gateway.links.mqtt_packets import Malformed, extent, publish_parts
from simulators.dc09 import framed
from simulators.osdp.frames import Session
from tests.driver_cases import Driver, Vector, driver
from tests.fuzz.mutations import Seal, inputs

Feed = Callable[[bytes], int]
"""Takes one input whole; gives how many bytes are still held on to. Raises nothing that the parser may raise."""
KEY = bytes(range(16))


@dataclass(frozen=True)
class Parser:
    """One parser."""

    name: str
    feed: Feed
    seeds: Sequence[bytes]
    held_max: int = 0
    """Bytes that may wait for the rest of a frame."""
    contents: Sequence[bytes] = field(default=(b"",))
    seal: Seal | None = None

    def inputs(self, random: Random) -> Iterator[bytes]:
        return inputs(self.seeds, self.contents, self.seal, random)


# -- feeding -----------------------------------------------------------------------------------------------------------


def stream(found: Driver, vector: Vector) -> Feed:
    """`split` and `decode` of a driver, as a line brings it."""
    split, decode, context = found.module.split, found.module.decode, vector.context

    def feed(data: bytes) -> int:
        buffer = bytearray(data)
        for frame in split(buffer):
            try:
                decode(frame, context)
            except FrameError:
                continue
        return len(buffer)

    return feed


def topics(found: Driver, vectors: Sequence[Vector]) -> Feed:
    """`decode` of a driver for messages of a broker; the topics of its vectors in turn."""
    decode, context = found.module.decode, vectors[0].context
    names = [str(vector.row["topic"]) for vector in vectors]

    def feed(data: bytes) -> int:
        name = names[len(data) % len(names)]
        with suppress(FrameError):
            decode(name if len(data) % 7 else data[:100].decode(errors="replace"), data, context)
        return 0

    return feed


def dc09_frames(data: bytes) -> int:
    """The codec of the line to 110."""
    buffer = bytearray(data)
    for frame in dc09.split(buffer):
        try:
            dc09.parse(frame, lambda _: KEY)
        except FrameError:
            continue
    return len(buffer)


def dc09_panel_frames(data: bytes) -> int:
    """The tolerant one, of panels; also where `split` was not before it."""
    buffer = bytearray(data)
    for frame in [*dc09_panels.split(buffer), data]:
        dc09_panels.heartbeat(frame)
        dc09_panels.account_of(frame)
        try:
            dc09_panels.read(frame, lambda _: KEY)
        except FrameError:
            continue
    return len(buffer)


def mqtt_packets(data: bytes) -> int:
    """Packets one behind the other, both versions."""
    at = 0
    try:
        while (body := extent(data, at)) is not None and body[1] <= len(data):
            for is_5 in (False, True):
                publish_parts(data[at], data[slice(*body)], is_5=is_5)
            at = body[1]
    except Malformed:
        pass
    return 0


def osdp_secure() -> Parser:
    """Answers inside a session, with the right MAC around nonsense; and answers to the handshake."""
    handshake = Handshake(KEY, bytes(8))
    theirs = Session(KEY, bytes(8), bytes(8))
    assert handshake.server_cryptogram(bytes(16) + theirs.client_cryptogram) is not None
    channel = handshake.channel(theirs.reply_mac)
    assert channel is not None
    command = osdp_parse(channel.sealed(1, 1, b"\x60", has_crc=True))
    command_mac = theirs.mac(command.covered, theirs.reply_mac)

    def sealed(content: bytes) -> bytes:
        size = 5 + 1 + len(content) + 4 + 2
        covered = b"\x53\x81" + size.to_bytes(2, "little") + b"\x0d\x02" + content
        return osdp_sealed((covered + theirs.mac(covered, command_mac)[:4])[4:])

    def feed(data: bytes) -> int:
        copy(handshake).server_cryptogram(data[:32].ljust(32, b"\0"))  # the reader's conversation refuses other lengths
        copy(handshake).channel(data)
        with suppress(FrameError):
            copy(channel).opened(osdp_parse(data))
        return 0

    answers = [b"\x16\x40", b"\x18\x50" + theirs.encrypted(b"\x00\x01\x1a\x00\x94\xd2\xa7\x80", bytes(16))]
    seeds = [sealed(answer) for answer in answers]
    assert copy(channel).opened(osdp_parse(seeds[0])) == b""
    return Parser("osdp secure channel", feed, seeds, 0, answers, sealed)


# -- envelopes ---------------------------------------------------------------------------------------------------------


def osdp_sealed(content: bytes) -> bytes:
    """A reply of address 1; `content` from the control byte on, which says what check it has."""
    has_crc = bool(content[:1] and content[0] & 4)
    size = 4 + len(content) + (2 if has_crc else 1)
    body = b"\x53\x81" + size.to_bytes(2, "little") + content
    return body + (crc_hqx(body, 0x1D0F).to_bytes(2, "little") if has_crc else bytes([-sum(body) & 0xFF]))


def nmea_sealed(content: bytes) -> bytes:
    return b"$%b*%02X\r\n" % (content, reduce(xor, content, 0))


def rf_sealed(content: bytes) -> bytes:
    body = b"%b,%04X" % (content, crc_hqx(content, 0xFFFF))
    return nmea_sealed(body)


def jt808_sealed(content: bytes) -> bytes:
    """Where the length fits, the header says it."""
    if len(content) > 12 and content[2:4] != b"\xff\xff":
        start = 17 if content[2] & 0x40 else 12
        size = max(0, len(content) - start) & 0x3FF
        content = content[:2] + bytes([content[2] & 0xFC | size >> 8, size & 0xFF]) + content[4:]
    content += bytes([reduce(xor, content, 0)])
    return b"\x7e%b\x7e" % content.replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02")


def jt808_content(frame: bytes) -> bytes:
    return frame[1:-2].replace(b"\x7d\x02", b"\x7e").replace(b"\x7d\x01", b"\x7d")


def modbus_sealed(content: bytes) -> bytes:
    """Request and answer, each with its CRC."""
    return b"".join(part + crc16(part).to_bytes(2, "little") for part in (content[:6], content[6:]))


def _first_frames(found: Driver) -> list[bytes]:
    return [frame for vector in found.vectors for frame in found.module.split(bytearray(vector.payload))]


# -- all of them -------------------------------------------------------------------------------------------------------


def _of_streams() -> Iterator[Parser]:
    cut: dict[str, tuple[int, Callable[[bytes], bytes], Seal]] = {
        "dc09": (dc09.FRAME_MAX + 2, lambda frame: frame[9:].rstrip(b"\r\0"), framed),
        "jt808": (JT808_MAX, jt808_content, jt808_sealed),
        "nmea": (SENTENCE_BYTES_MAX, lambda frame: frame[1:].partition(b"*")[0], nmea_sealed),
        "osdp": (OSDP_MAX, lambda frame: frame[4:-2], osdp_sealed),
        "rf_serial": (LINE_BYTES_MAX, lambda frame: frame[1:].rpartition(b",")[0], rf_sealed),
    }
    for name, (held_max, content, seal) in cut.items():
        found = driver(name)
        frames = _first_frames(found)
        contents = [inside for frame in frames if (inside := content(frame))]
        yield Parser(name, stream(found, found.vectors[0]), frames, held_max, contents, seal)
    found = driver("modbus_points")
    frames = [frame for frame in _first_frames(found) if len(frame) > 13]
    contents = [frame[:6] + frame[8:-2] for frame in frames]
    feed = stream(found, found.vectors[0])
    yield Parser("modbus_points", feed, frames, 8 + 256, contents, modbus_sealed)


def _of_topics() -> Iterator[Parser]:
    found = driver("alarm_json")
    yield Parser("alarm_json", topics(found, found.vectors), [vector.payload for vector in found.vectors])
    found = driver("mqtt_json")
    by_profile: dict[str, list[Vector]] = {}
    for vector in found.vectors:
        if not vector.is_error:
            by_profile.setdefault(vector.row["profile"], []).append(vector)
    for profile, vectors in by_profile.items():
        seeds = [vector.payload for vector in vectors if vector.payload]
        yield Parser(f"mqtt_json {profile}", topics(found, vectors), seeds)


def _of_codecs() -> Iterator[Parser]:
    found = driver("dc09")
    frames = _first_frames(found)
    contents = [frame[9:].rstrip(b"\r\0") for frame in frames]
    yield Parser("dc09 of 110", dc09_frames, frames, dc09.FRAME_MAX, contents, framed)
    yield Parser("dc09 of panels", dc09_panel_frames, frames, dc09.FRAME_MAX + 2, contents, framed)
    publish = b"\x32\x15\x00\x0bfangkong/v1\x00\x07{\x22a\x22:1}"
    yield Parser("mqtt_packets", mqtt_packets, [publish, b"\x40\x02\x00\x07", publish + b"\x30\x05\x00\x01a\x00b"])
    yield osdp_secure()


PARSERS = MappingProxyType({parser.name: parser for parser in (*_of_streams(), *_of_topics(), *_of_codecs())})
