"""What a reader can be told: the bytes of an order, and what counts as evidence that it was obeyed."""

from __future__ import annotations

import math
from datetime import datetime

from drivers.osdp.frame import Command, Nak, Reply
from drivers.osdp.reader import Answer
from drivers.osdp.settings import OPEN_S_MAX, Reader, Settings
from gateway.driver import Act, Context
from gateway.driver import Command as Asked

ORDERS_MAX = 8
"""Orders that wait for one reader: a person presses no faster, and what is older is late."""
OFF, ON, ON_FOR = 1, 2, 5
"""Control codes of OUT. With ON_FOR the reader counts: a gateway that dies leaves no door open."""
GREEN, AMBER, BLACK = 2, 3, 0
LOCATE_S = 10.0
REFUSALS = {
    Nak.CHECK: "the command arrived garbled",
    Nak.LENGTH: "wrong length",
    Nak.COMMAND: "it does not know this command",
    Nak.SEQUENCE: "wrong number",
    Nak.NO_SECURE_CHANNEL: "it has no secure channel",
    Nak.NOT_SECURED: "a secure channel is needed",
    Nak.RECORD: "it cannot do this",
}


def obeys(device: str, context: Context) -> frozenset[Act]:
    """What this reader can be told to do."""
    settings: Settings = context.settings
    return next((_acts(reader) for reader in settings.readers if reader.device == device), frozenset())


def _acts(reader: Reader) -> frozenset[Act]:
    return frozenset({Act.LOCATE} | ({Act.OPEN, Act.LOCK, Act.UNLOCK} if reader.strike is not None else set()))


def said(reader: Reader, asked: Asked, now: datetime) -> bytes | str:
    """The command for what is asked; or why it cannot be."""
    if asked.act not in _acts(reader):
        return f"{reader.device} can {', '.join(sorted(_acts(reader)))}"
    match asked.act:
        case Act.OPEN:
            return _output(reader, ON_FOR, asked.seconds or reader.open_s)
        case Act.UNLOCK:
            assert asked.until is not None
            seconds = (asked.until - now).total_seconds()
            if not 0 < seconds <= OPEN_S_MAX:
                return f"until {asked.until.isoformat()}: a reader counts {OPEN_S_MAX:.0f} s at most by itself"
            return _output(reader, ON_FOR, seconds)
        case Act.LOCK:
            return _output(reader, OFF, 0)
        case _:
            return bytes([Command.BUZ, 0, 2, 5, 5, int(LOCATE_S)])  # half a second on, half off


def _output(reader: Reader, control: int, seconds: float) -> bytes:
    assert reader.strike is not None
    return bytes([Command.OUT, reader.strike, control]) + math.ceil(seconds * 10).to_bytes(2, "little")


def light(colour: int, seconds: float, *, off: int = BLACK) -> bytes:
    """The first LED in this colour for a while, then as it was."""
    blink = bytes([Command.LED, 0, 0, 2, 5, 0 if off == colour else 5, colour, off])
    return blink + min(0xFFFF, math.ceil(seconds * 10)).to_bytes(2, "little") + bytes(5)


def refusal(answer: Answer | None) -> str | None:
    """Why an order came to nothing; None: it did not."""
    if answer is None:
        return "the session ended before the reader answered: it may have obeyed"
    if answer.refusal is None:
        return None
    known = REFUSALS.get(Nak(answer.refusal)) if answer.refusal in set(Nak) else None
    return f"the reader refuses: {known or f'NAK {answer.refusal}'}"


def evidence(reader: Reader, act: Act, output: Answer | None) -> tuple[bool, str]:
    """Whether the reader's own report of its outputs shows it, and in which words. Some readers have no such report:
    their answer to the command is all there is."""
    if output is None or output.code != Reply.OSTATR or reader.strike is None or reader.strike >= len(output.data):
        return True, "ACK of the reader"
    is_on = bool(output.data[reader.strike])
    return is_on != (act is Act.LOCK), f"output {reader.strike} is {'on' if is_on else 'off'}"
