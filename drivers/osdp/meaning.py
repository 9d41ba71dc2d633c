"""What the words of a reader mean: levels, whose edges are news, and credentials, which are news each time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from drivers.osdp.frame import SECURED, Reply, parse
from drivers.osdp.settings import Reader, Settings
from gateway.driver import FACTS, Context, FrameError, Kind, LatestKey, Observation, Qualifier, Scalar

KEYS_MAX = 16
"""Digits of one code; who types more starts anew."""
KEYS_WITHIN_S = 10.0
"""Between two keys of one code."""
ENTER, CLEAR = b"\r#", b"\x7f*"


@dataclass(frozen=True, slots=True)
class Level:
    """A condition that is there or not."""

    kind: Kind
    zone: int | None
    is_active: bool


def levels(reader: Reader, code: int, data: bytes) -> list[Level]:
    """What a status report says. Raises FrameError."""
    match code:
        case Reply.LSTATR:
            if len(data) != 2:
                raise FrameError(f"LSTATR with {len(data)} bytes, expected 2: tamper, power")
            return [Level(Kind.TAMPER, None, bool(data[0])), Level(Kind.AC_LOSS, None, bool(data[1]))]
        case Reply.ISTATR:
            return [
                Level(meaning.kind, number, data[number] == meaning.active)
                for number, meaning in ((int(text), meaning) for text, meaning in reader.inputs.items())
                if number < len(data)
            ]
        case Reply.OSTATR if reader.strike is not None and reader.strike < len(data):
            return [Level(Kind.UNLOCKED, reader.strike, bool(data[reader.strike]))]
        case Reply.RSTATR:
            return [Level(Kind.DEVICE_FAULT, None, any(status == 1 for status in data))]  # 1: reader head not connected
        case _:
            return []


# -- credentials -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Keys:
    """The keys of a code that is being typed."""

    typed: bytearray = field(default_factory=bytearray)
    last_s: float = 0.0

    def press(self, keys: bytes, now_s: float) -> Iterator[bytes]:
        """Codes that are complete with these keys."""
        if now_s - self.last_s > KEYS_WITHIN_S:
            self.typed.clear()
        self.last_s = now_s
        for key in keys:
            if key in CLEAR or len(self.typed) >= KEYS_MAX:
                self.typed.clear()
            if key in ENTER:
                if self.typed:
                    yield bytes(self.typed)
                self.typed.clear()
            elif key not in CLEAR:
                self.typed.append(key)


def credentials(
    reader: Reader, code: int, data: bytes, keys: Keys, context: Context, *, now_s: float
) -> list[Observation]:
    """Cards and complete codes, as hashes. Raises FrameError."""
    if code == Reply.RAW:
        return [_card(reader, data, context)]
    if code == Reply.KEYPAD:
        if len(data) < 2 or len(data) != 2 + data[1]:
            raise FrameError(f"KEYPAD with {len(data)} bytes, expected reader, count and as many keys")
        return [_presented(reader, "code", context.credential(typed)) for typed in keys.press(data[2:], now_s)]
    return []


def _card(reader: Reader, data: bytes, context: Context) -> Observation:
    bits = data[2] | data[3] << 8 if len(data) >= 4 else 0
    card = data[4:]
    if not bits or len(card) != (bits + 7) // 8:
        raise FrameError(f"RAW with {len(card)} bytes of card, expected reader, format, count of bits and as many")
    number = int.from_bytes(card, "big") >> -bits % 8  # without what fills the last byte
    # With the count: two formats may share a number, never a length and a number.
    return _presented(reader, "card", context.credential(b"%d:%x" % (bits, number)), bits=bits)


def _presented(reader: Reader, medium: str, credential: str, **more: Scalar) -> Observation:
    return Observation(
        reader.device, Kind.CREDENTIAL, values={"credential": credential, "medium": medium, **more}
    )  # `raw` would hold the number in the clear


# -- edges -------------------------------------------------------------------------------------------------------------


def observation(reader: Reader, level: Level, raw: bytes = b"") -> Observation:
    """A level as it is."""
    qualifier = Qualifier.NEW if level.is_active else Qualifier.RESTORE
    return Observation(reader.device, level.kind, qualifier, zone=level.zone, raw=raw)


@dataclass(slots=True)
class Known:
    """What is on disk about one reader, so that a level is reported once, also across restarts."""

    active: dict[LatestKey, bool]

    def edges(
        self, reader: Reader, seen: Sequence[Level], raw: bytes = b"", text: str | None = None
    ) -> list[Observation]:
        """What of this is news. `text` says more of what begins."""
        news = []
        for level in seen:
            key = (level.kind, level.zone)
            is_momentary = FACTS[level.kind].momentary
            # A press has no end, and one that nobody saw begin may be an hour old: only its beginning is news.
            before = self.active.get(key, level.is_active if is_momentary else False)
            self.active[key] = level.is_active
            if level.is_active != before and (level.is_active or not is_momentary):
                news.append(replace(observation(reader, level, raw), text=text if level.is_active else None))
        return news


def known(latest: Mapping[LatestKey, Qualifier]) -> Known:
    """From what the store remembers. Of presses it knows only that there were some."""
    return Known(
        {key: qualifier is not Qualifier.RESTORE for key, qualifier in latest.items() if not FACTS[key[0]].momentary}
    )


# -- one frame, as a person explains it --------------------------------------------------------------------------------


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """What one frame in plain text says. Raises FrameError and nothing else; what is secured only its session can open."""
    parsed = parse(frame)
    if not parsed.is_reply:
        return []
    settings: Settings = context.settings
    reader = next((one for one in settings.readers if one.address == parsed.address), None)
    if reader is None:
        raise FrameError(f"no reader with address {parsed.address} in the settings", "unknown_device")
    if frame[4] & SECURED:
        raise FrameError("secured: only the session it belongs to can open it", "spoofed")
    if reader.secure and parsed.code not in {Reply.NAK, Reply.BUSY, Reply.PDID, Reply.PDCAP}:
        raise FrameError(f"plain text of {reader.device}, which must be secure", "spoofed")
    seen = [
        observation(reader, level, bytes([parsed.code]) + parsed.data)
        for level in levels(reader, parsed.code, parsed.data)
    ]
    return [
        *(one for one in seen if one.qualifier is Qualifier.NEW or not FACTS[one.kind].momentary),
        *credentials(reader, parsed.code, parsed.data, Keys(), context, now_s=0.0),
    ]
