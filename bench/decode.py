"""What it costs to read one frame, in turn with the packages that read the same: CPU of this process, nothing else runs in it.

Ours does more than its peers: it cuts the stream, and gives observations where they give fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pynmeagps import NMEAReader
from pysiaalarm.account import SIAAccount
from pysiaalarm.event import SIAEvent
from siadc09.message import parse_frame

from bench.aims import DC09, NMEA, OURS
from bench.samples import Sample
from gateway.driver import Context, FrameError
from gateway.loader import load_module, load_profiles, load_settings

READERS = 9
"""Systems of all loads together."""
_FRAMES: Mapping[str, tuple[str, ...]] = {
    "osdp": (
        "53 81 10 00 06 50 00 01 1a 00 94 d2 a7 80 f6 84",
        "53 81 0d 00 06 53 00 03 31 32 23 b2 95",
        "53 81 0a 00 06 48 01 00 16 d7",
    ),
    "jt808": ("7e02000022013912345678000b000000010000000301dc89d0073d8aa5000c01b001672701151630000104000004d2957e",),
    "modbus_points": ("01 01 00 00 00 10 3D C6 01 01 02 00 00 B9 FC",),
}
"""A card, a code and a tamper contact; a position with an SOS; sixteen coils."""
_SETTINGS: Mapping[str, dict[str, Any]] = {
    "osdp": {"readers": [{"address": 1, "device": "door-1", "secure": False}]},
    "modbus_points": {"units": [{"unit": 1, "device": "io-1", "profile": "relay_io16"}]},
    "mqtt_json": {"profile": "zigbee2mqtt"},
}
_SENTENCES = (
    b"$GNRMC,073144.000,A,3149.330773,N,11706.946971,E,0.00,337.47,150422,,,D,V*07\r\n",
    b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\r\n",
    b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*5B\r\n",
)
_MESSAGES = (
    b'{"battery":100,"battery_low":false,"contact":false,"linkquality":51,"tamper":false,"voltage":3000}',
    b'{"action":"emergency","battery":90,"linkquality":80}',
)


def _crc16(body: bytes) -> int:
    """CRC-16/ARC."""
    value = 0
    for byte in body:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)
    return value


def _events() -> list[bytes]:
    """Contact ID events, plain and with the time they happened."""
    now = datetime.now(UTC).strftime("%H:%M:%S,%m-%d-%Y")  # the peers hold it against their own clock
    found = []
    for number, code in enumerate((1130, 3130, 1120, 1144, 1301), 1):
        for extended in ("", f"[H{now}]"):
            body = f'"ADM-CID"{number:04d}R1L3#A10B[#A10B|{code} 02 017]{extended}_{now}'.encode()
            found.append(b"\n%04X0%03X%b\r" % (_crc16(body), len(body), body))
    return found


def _stream(name: str) -> Callable[[bytes], object]:
    """A driver as a line feeds it: cut, checked, read, told."""
    module, context = _loaded(name)

    def read(frame: bytes) -> None:
        for one in module.split(bytearray(frame)):
            module.decode(one, context)

    return read


def _loaded(name: str) -> tuple[Any, Context]:
    module = load_module("drivers", name)
    settings = load_settings(module, dict(_SETTINGS.get(name, {})), file="bench", lines={}, at=())
    return module, Context(settings=settings, profiles=load_profiles(module, None), connection="bench")


def _topic() -> Callable[[bytes], object]:
    module, context = _loaded("mqtt_json")
    return lambda payload: module.decode("zigbee2mqtt/door", payload, context)


def _systems() -> Iterator[tuple[str, Mapping[str, Callable[[bytes], object]], Sequence[bytes]]]:
    """Load, who reads, what is read."""
    accounts = {"A10B": SIAAccount("A10B", allowed_timeband=None)}
    yield (
        DC09,
        {
            OURS: _stream("dc09"),
            "siadc09": lambda frame: parse_frame(frame, None).data.event.code,
            "pysiaalarm": lambda frame: SIAEvent.from_line(frame.decode().strip(), accounts).event_type,
        },
        _events(),
    )
    yield NMEA, {OURS: _stream("nmea"), "pynmeagps": NMEAReader.parse}, _SENTENCES
    for name, frames in _FRAMES.items():
        yield f"decode {name}", {OURS: _stream(name)}, [bytes.fromhex(frame) for frame in frames]
    yield "decode mqtt_json", {OURS: _topic()}, _MESSAGES


def decoding(rounds: int, seconds: float) -> Iterator[Sample]:
    """Each load in each round by all who can read it, one after the other, some `seconds` for each."""
    for nth in range(rounds):
        for load, systems, frames in _systems():
            for system, read in systems.items():
                yield Sample(load, system, nth, {"us_per_frame": _cost_s(read, frames, seconds) * 1e6})


def _cost_s(read: Callable[[bytes], object], frames: Sequence[bytes], seconds: float) -> float:
    """CPU seconds of one frame. A frame that is refused would cost less than one that is read: that is an error here."""
    with suppress(FrameError):
        count, began_s = 0, time.thread_time()
        while (used_s := time.thread_time() - began_s) < seconds:
            for frame in frames:
                read(frame)
            count += len(frames)
        return used_s / count
    raise AssertionError(f"{frames[0]!r} is not read")
