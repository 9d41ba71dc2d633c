"""A 433/868 MHz receiver on a serial line that hands on the codes of simple alarm sensors (docs/drivers/rf_serial.md).

Sentences are framed as NMEA 0183 proprietary ones; a CRC-16 inside catches what NMEA's XOR lets through. EV1527 and
PT2262 codes can be copied off the air by anybody: every value says so.
"""

from __future__ import annotations

import difflib
import re
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from gateway.driver import (
    Context,
    FrameError,
    Kind,
    Observation,
    Qualifier,
    Scalar,
    Session,
    Stream,
)
from gateway.driver import Settings as Base

LINK: Literal["stream"] = "stream"
HEARD_WITHIN_S: float | None = None
"""The sensors only ever send when something happens: nobody can tell a quiet one from a dead one."""
RECEIVER_HEARD_WITHIN_S = 180.0
"""The receiver itself says HB every 60 s: two may be lost."""
LINE_BYTES_MAX = 120
"""NMEA 0183 allows 82; the longest sentence here has 77. More than this without an end is noise."""


class Settings(Base):
    """Which receiver this is and which sensors it hears."""

    receiver: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = "rf-1"
    profile: str = "kerui_ev1527"


class Meaning(Base):
    """What one key of a sensor says."""

    kind: Kind
    qualifier: Qualifier = Qualifier.NEW


class Profile(Base):
    """What the keys of one family of sensors mean. EV1527 keys are one hex digit, PT2262 keys four of 0, 1, F."""

    coding: Literal["EV1527", "PT2262"]
    key: dict[Annotated[str, Field(pattern=r"^([0-9A-F]|[01F]{4})$")], Meaning]


# -- framing -----------------------------------------------------------------------------------------------------------

_ENVELOPE = re.compile(rb"\$(PFKRF,[ -#%-)+-~]{2,100}),([0-9A-F]{4})\*([0-9A-F]{2})\r\n")
"""Printable ASCII without `$` and `*`."""


def split(buffer: bytearray) -> Iterator[bytes]:
    """Lines, and what lies between them as noise to be counted. A `$` always starts a new one, so one lost line end
    costs one line; blank lines are skipped."""
    while buffer:
        end = buffer.find(b"\n") + 1
        start = buffer.find(b"$", 1)
        if start > 0 and (end == 0 or start < end):
            end = start
        if end == 0:
            if len(buffer) <= LINE_BYTES_MAX:
                return
            end = LINE_BYTES_MAX
        piece = bytes(buffer[: min(end, LINE_BYTES_MAX)])
        del buffer[: len(piece)]
        if piece.strip():
            yield piece


def sentence(fields: str) -> bytes:
    """`$PFKRF,fields,CRC*HH`: CRC-16/CCITT-FALSE from the P to the last field, XOR from the P to the CRC."""
    body = f"PFKRF,{fields}"
    body += f",{crc_hqx(body.encode('ascii'), 0xFFFF):04X}"
    return f"${body}*{_xor(body.encode('ascii')):02X}\r\n".encode("ascii")


def _xor(body: bytes) -> int:
    total = 0
    for byte in body:
        total ^= byte
    return total


def _fields(frame: bytes) -> list[str]:
    """Sentence name and fields, both checks passed. Raises FrameError."""
    found = _ENVELOPE.fullmatch(frame)
    if found is None:
        raise FrameError("not a $PFKRF,...,CRC*HH sentence ended by CR LF")
    body, crc, xor = found.groups()
    if _xor(body + b"," + crc) != int(xor, 16):
        raise FrameError(f"checksum is {xor.decode()}, the line gives {_xor(body + b',' + crc):02X}", "checksum")
    if crc_hqx(body, 0xFFFF) != int(crc, 16):
        raise FrameError(f"CRC is {crc.decode()}, the line gives {crc_hqx(body, 0xFFFF):04X}", "checksum")
    return body.decode("ascii").split(",")[1:]


# -- meaning -----------------------------------------------------------------------------------------------------------

_HEX8, _DBM, _COUNT = r"[0-9A-F]{8}", r"-?\d{1,3}", r"\d{1,8}"
_GRAMMAR = {
    "RX": re.compile(rf"({_HEX8}),({_HEX8}),([A-Z0-9]{{1,8}}),([0-9A-F]{{2,16}}),({_DBM}),({_COUNT})", re.ASCII),
    "JM": re.compile(rf"({_HEX8}),({_HEX8}),({_DBM}),([01]),({_COUNT})", re.ASCII),
    "HB": re.compile(rf"({_HEX8}),({_DBM}),({_COUNT}),({_COUNT})", re.ASCII),
    "HI": re.compile(rf"({_HEX8}),([\w .+-]{{1,24}}),([\w .+-]{{1,16}})", re.ASCII),
}


def _parsed(frame: bytes) -> tuple[str, tuple[str, ...]]:
    """Name and fields of a sentence of the receiver. Raises FrameError."""
    name, *fields = _fields(frame)
    grammar = _GRAMMAR.get(name)
    if grammar is None:
        raise FrameError(f"sentence {name!r} is none of {', '.join(_GRAMMAR)}")
    found = grammar.fullmatch(",".join(fields))
    if found is None:
        raise FrameError(f"fields of {name} are {','.join(fields)!r}, expected {grammar.pattern}")
    return name, found.groups()


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """What one sentence says. Raises FrameError and nothing else."""
    settings: Settings = context.settings or Settings()
    name, fields = _parsed(frame)
    match name:
        case "RX":
            return [_radio_code(frame, fields, _profile(context, settings))]
        case "JM":
            return [_jamming(frame, fields, settings.receiver)]
        case "HB":
            return _heartbeat(frame, fields, settings.receiver)
        case _:
            return [_start(frame, fields, settings.receiver)]


def _jamming(frame: bytes, fields: tuple[str, ...], receiver: str) -> Observation:
    boot, seq, noise, is_jammed, age = fields
    return Observation(
        receiver,
        Kind.RF_JAMMING,
        Qualifier.NEW if is_jammed == "1" else Qualifier.RESTORE,
        repeat_key=f"{boot}/{seq}",
        code="JM",
        values={"noise_dbm": int(noise), "age_s": int(age)},
        raw=frame,
    )


def _heartbeat(frame: bytes, fields: tuple[str, ...], receiver: str) -> list[Observation]:
    boot, noise, waiting, lost = fields
    life: dict[str, Scalar] = {"boot": boot, "noise_dbm": int(noise), "waiting": int(waiting), "lost": int(lost)}
    # Lines that the receiver had to give up are gone for good: a person must know, until it starts anew.
    overflow = Qualifier.NEW if int(lost) else Qualifier.RESTORE
    return [
        Observation(receiver, Kind.HEARTBEAT, code="HB", values=life, raw=frame),
        Observation(receiver, Kind.DEVICE_FAULT, overflow, code="HB", values={"lost": int(lost)}, raw=frame),
    ]


def _start(frame: bytes, fields: tuple[str, ...], receiver: str) -> Observation:
    boot, model, firmware = fields
    values: dict[str, Scalar] = {"boot": boot, "model": model, "firmware": firmware}
    return Observation(receiver, Kind.HEARTBEAT, code="HI", values=values, raw=frame)


def mistakes(context: Context) -> Sequence[tuple[str, str]]:
    """What is wrong with settings and profiles together, as found and expected."""
    settings: Settings = context.settings or Settings()
    if settings.profile in context.profiles:
        return []
    near = difflib.get_close_matches(settings.profile, context.profiles, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return [(f'profile "{settings.profile}" is not known', f"one of {', '.join(sorted(context.profiles))}{hint}")]


def _profile(context: Context, settings: Settings) -> Profile:
    profile: Profile | None = context.profiles.get(settings.profile)
    if profile is None:
        raise FrameError(f'profile "{settings.profile}" is not there, one of {", ".join(sorted(context.profiles))}')
    return profile


def _radio_code(frame: bytes, fields: tuple[str, ...], profile: Profile) -> Observation:
    boot, seq, coding, code, rssi, age = fields
    sensor, key = _sensor_and_key(coding, code)
    # Keys of another coding than the profile's, and keys it does not name, travel on as unknown: they may be an alarm.
    meaning = profile.key.get(key) if coding == profile.coding else None
    return Observation(
        f"{coding.lower()}-{sensor}",
        meaning.kind if meaning else Kind.UNKNOWN,
        meaning.qualifier if meaning else Qualifier.NEW,
        repeat_key=f"{boot}/{seq}",
        code=code,
        values={"assurance": "low", "coding": coding, "key": key, "rssi_dbm": int(rssi), "age_s": int(age)},
        raw=frame,
    )


_TRISTATE = {"00": "0", "11": "1", "01": "F"}
"""PT2262 data sheet: each pin is two bits; 10 is never sent."""


def _sensor_and_key(coding: str, code: str) -> tuple[str, str]:
    """EV1527: 20 bits and 4. PT2262: eight pins of address, four of data. Else the whole code is the sensor."""
    if coding == "EV1527" and len(code) == 6:
        return code[:5], code[5]
    if coding == "PT2262" and len(code) == 6:
        bits = f"{int(code, 16):024b}"
        pins = "".join(_TRISTATE.get(bits[at : at + 2], "?") for at in range(0, 24, 2))
        if "?" not in pins:
            return pins[:8], pins[8:]
    return code, ""


def answer(frame: bytes, context: Context) -> bytes | None:
    """The acknowledgement that lets the receiver forget the line; None where none is due. Raises FrameError."""
    name, fields = _parsed(frame)
    return sentence(f"AK,{fields[0]},{fields[1]}") if name in ("RX", "JM") else None


def heard_within_s(device: str, context: Context) -> float | None:
    """The receiver can be supervised, its sensors cannot."""
    settings: Settings = context.settings or Settings()
    return RECEIVER_HEARD_WITHIN_S if device == settings.receiver else HEARD_WITHIN_S


# -- conversation ------------------------------------------------------------------------------------------------------


async def run(session: Session[Stream]) -> None:
    """Report, and acknowledge after the commit. Ends by LinkClosed."""
    settings: Settings = session.context.settings or Settings()
    buffer = bytearray()
    while True:
        buffer += await session.link.read()
        for frame in split(buffer):
            try:
                seen = decode(frame, session.context)
                reply = answer(frame, session.context)
            except FrameError as error:
                session.reject(frame, error)
                continue
            session.heard(settings.receiver)
            receipt = await session.report(await _news(seen, session))
            if reply is not None:
                session.link.answer(reply, after=receipt)


async def _news(seen: Sequence[Observation], session: Session[Stream]) -> list[Observation]:
    """Heartbeats repeat the overflow state: only its edges are news. What waited in the receiver gets its own time."""
    news = []
    for observation in seen:
        if observation.kind is Kind.DEVICE_FAULT:
            last = (await session.latest(observation.device)).get((Kind.DEVICE_FAULT, None), Qualifier.RESTORE)
            if last is observation.qualifier:
                continue
        age_s = observation.values.get("age_s")
        if isinstance(age_s, int) and age_s > 0:
            observation = replace(observation, at=session.clock.now() - timedelta(seconds=age_s))  # noqa: PLW2901  # the same one, dated
        news.append(observation)
    return news
