"""The messages of a terminal: what each says, and what goes back. Pure."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from drivers.jt808.frame import Frame, build, parse
from drivers.jt808.location import UNTIL_ANSWERED, observations
from gateway.driver import Act, Context, FrameError, Kind, Observation
from gateway.driver import Settings as Base

ANSWER, HEARTBEAT, DEREGISTER, REGISTER, AUTHENTICATE = 0x0001, 0x0002, 0x0003, 0x0100, 0x0102
LOCATION, LOCATED, BATCH = 0x0200, 0x0201, 0x0704
LOCATIONS = frozenset({LOCATION, LOCATED, BATCH})
"""Of the terminal."""
GENERAL_ANSWER, ASK_AGAIN, REGISTERED, LOCATE = 0x8001, 0x8003, 0x8100, 0x8201
"""Of the platform."""
OK, FAILED, WRONG, UNSUPPORTED = range(4)
"""Results of a general answer; 4 is "alarm handled"."""
NO_SUCH_TERMINAL = 4
"""Result of a registration: it is not in the platform's books."""

READ = LOCATIONS | {HEARTBEAT, DEREGISTER, AUTHENTICATE}
"""Messages that are read and get a general answer; others are answered as unsupported."""


class Settings(Base):
    """Whom to believe, and how the terminals of this line want to be answered."""

    accept: Literal["enrolled", "open"] = "enrolled"
    """Who gets a code: terminals in the register of devices, or all that ask."""
    unauthenticated: Literal["refuse", "record"] = "refuse"
    """What becomes of a report from a terminal that has not shown its code on this line."""
    alarm_result: Literal[0, 4] = 0
    """Answer to a report with an alarm that the terminal holds until it is answered. 4, "alarm handled", is for models
    that do not take 0 for it."""
    heartbeat_s: Annotated[float, Field(ge=5, le=3600)] = 60.0
    """How often the terminals send a heartbeat (their parameter 0001)."""


def obeys(device: str, context: Context) -> frozenset[Act]:
    """A terminal can be asked where it is."""
    return frozenset({Act.LOCATE})


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """What one frame says. Raises FrameError and nothing else."""
    return [seen for report in reports(parse(frame)) for seen in report]


def reports(frame: Frame) -> Sequence[Sequence[Observation]]:
    """Each report of the message: its position, then its alarms. A message that reports nothing is proof of life.
    Raises FrameError."""
    key = f"{frame.id:04x}/{frame.serial}"
    if frame.is_part or frame.id not in LOCATIONS:
        return [[Observation(frame.device, Kind.HEARTBEAT, code=f"{frame.id:04x}", raw=frame.raw)]]
    if frame.id == BATCH:
        return _batch(frame, key)
    report = frame.body[2:] if frame.id == LOCATED else frame.body
    return [observations(frame.device, report, key, frame.raw)]


def _batch(frame: Frame, key: str) -> Sequence[Sequence[Observation]]:
    """Count, kind (1: made up after a gap), then locations each behind its length. What is whole counts, whatever follows."""
    is_late = frame.body[2:3] == b"\x01"
    rest = memoryview(frame.body)[3:]
    found: list[Sequence[Observation]] = []
    while len(rest) >= 2:
        (length,) = struct.unpack_from(">H", rest)
        if length > len(rest) - 2:
            break
        report = bytes(rest[2 : 2 + length])
        found.append(observations(frame.device, report, f"{key}/{len(found)}", report, is_late=is_late))
        rest = rest[2 + length :]
    if not found:
        raise FrameError(f"a batch of {len(frame.body)} bytes without one whole location")
    return found


def answered(report: bytes) -> str:
    """That it told where it is, as evidence. Where that was stands in its position alone, which not everybody may see."""
    seen = observations("", report, "", report)[0]
    fix = "its position" if seen.position else "no fix"
    return f"{fix} of {seen.at.isoformat()}" if seen.at else fix


def refused(body: bytes) -> str | None:
    """Why the terminal does not do what the general answer is about; None when it says that it does."""
    words = {FAILED: "it failed", WRONG: "the message is wrong", UNSUPPORTED: "it cannot do that"}
    result = body[4] if len(body) == 5 else FAILED
    return None if result == OK else f"the terminal answers {result}: {words.get(result, 'no reason known')}"


# -- what goes back ----------------------------------------------------------------------------------------------------


def answer(frame: bytes, context: Context) -> bytes | None:
    """What goes back once stored, should the terminal be one that may report. Raises FrameError."""
    message = parse(frame)
    if message.id == REGISTER:
        return registered(message, code(message.device, context))
    return None if message.id == ANSWER else general(message, result_of(message, context))


def result_of(message: Frame, context: Context) -> int:
    """The result of the general answer."""
    if message.id not in READ:
        return UNSUPPORTED
    if message.id == AUTHENTICATE:
        return OK if shows_code(message, context) else FAILED
    settings: Settings = context.settings or Settings()
    is_alarm = message.id == LOCATION and int.from_bytes(message.body[:4]) & UNTIL_ANSWERED
    return settings.alarm_result if is_alarm else OK


def general(to: Frame, result: int) -> bytes:
    """The platform's general answer. It bears the serial number of what it answers: the terminal counts for both."""
    return build(GENERAL_ANSWER, to, to.serial, struct.pack(">HHB", to.serial, to.id, result))


def registered(to: Frame, code: str | None) -> bytes:
    """The answer to a registration; no code: there is no such terminal."""
    result = NO_SUCH_TERMINAL if code is None else OK
    return build(REGISTERED, to, to.serial, struct.pack(">HB", to.serial, result) + (code or "").encode())


def ask_again(to: Frame, first_serial: int, missing: Sequence[int]) -> bytes:
    """Send these parts again, please. The count has one byte in 2013 and two in 2019."""
    form = ">HB" if to.version is None else ">HH"
    body = struct.pack(form, first_serial, len(missing)) + struct.pack(f">{len(missing)}H", *missing)
    return build(ASK_AGAIN, to, to.serial, body)


def locate(to: Frame, serial: int) -> bytes:
    """Where are you? The terminal's answer bears `serial`."""
    return build(LOCATE, to, serial, b"")


def code(device: str, context: Context) -> str:
    """What the terminal is to show on every line: it need not be remembered, because nobody but this box can make it."""
    return context.credential(b"jt808 " + device.encode())


def shows_code(message: Frame, context: Context) -> bool:
    """2013: the body is the code; 2019: its length, the code, then IMEI and software. Some 2019 terminals send it bare."""
    body, right = message.body, code(message.device, context).encode()
    if hmac.compare_digest(body.rstrip(b"\0"), right):
        return True
    return message.version is not None and hmac.compare_digest(body[1 : 1 + body[0]] if body else b"", right)
