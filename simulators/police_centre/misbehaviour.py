"""What a bad day at the centre looks like: which frames are answered wrongly, how often, with which dice."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

# A scenario has a handful; the list must not grow with a script that only ever adds.
ACTIVE_MAX = 32

# No sender waits longer than a day, and no clock that matters is further off.
SECONDS_MAX = 86_400.0

# name -> what the sender sees. The docs page and --help print this table.
KINDS: dict[str, str] = {
    "nak": "NAK; its time is our clock plus `seconds`",
    "duh": "DUH",
    "silence": "the frame is kept, nothing is answered",
    "drop_before_ack": "the frame is kept, then the connection is reset instead of an ACK",
    "late": "the ACK leaves `seconds` after the frame came",
    "double_ack": "the ACK is sent twice",
    "wrong_sequence": "an ACK for the following sequence number",
    "split": "the ACK leaves one byte at a time",
    "close_after_ack": "the connection is closed after each ACK",
    "slow": "we read 16 bytes, then wait `seconds`, then read on",
    "half_open": "the connection stays open, nothing is read any more",
    "refuse": "a new connection is reset at once",
    "clock": "our clock is `seconds` ahead (negative: behind): the window and NAK follow it",
}
# Asked about a connection or about the clock, not about a frame that is ready to be answered.
_NOT_PER_FRAME = {"slow", "half_open", "refuse", "clock"}
PER_FRAME = tuple(kind for kind in KINDS if kind not in _NOT_PER_FRAME)
# A datagram has no connection to reset, close or split.
PER_DATAGRAM = tuple(kind for kind in PER_FRAME if kind not in {"split", "close_after_ack"})
FRAMES = ("all", "event", "null")


@dataclass(slots=True)
class Misbehaviour:
    """One way to misbehave, for ``count`` frames (None: until told otherwise) out of a seeded ``share`` of them."""

    kind: str
    count: int | None = None
    share: float = 1.0
    seed: int = 0
    seconds: float = 0.0
    frames: str = "all"  # or only "event", only "null"
    _dice: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"misbehaviour {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"misbehaviour {self.kind}: count is {self.count}, expected 1 or more")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"misbehaviour {self.kind}: share is {self.share}, expected 0.0..1.0")
        if self.frames not in FRAMES:
            raise ValueError(f"misbehaviour {self.kind}: frames is {self.frames!r}, expected {', '.join(FRAMES)}")
        if self.frames != "all" and self.kind not in PER_FRAME:
            raise ValueError(f"misbehaviour {self.kind}: it concerns no single frame, so frames cannot be set")
        if self.kind == "clock" and (self.count is not None or self.share != 1.0):
            raise ValueError("misbehaviour clock: it holds until behave, so count and share cannot be set")
        least = -SECONDS_MAX if self.kind in {"nak", "clock"} else 0.0
        if not least <= self.seconds <= SECONDS_MAX:
            raise ValueError(
                f"misbehaviour {self.kind}: seconds is {self.seconds}, expected {least:.0f}..{SECONDS_MAX:.0f}"
            )
        self._dice = random.Random(self.seed)

    def described(self) -> dict[str, Any]:
        """As a control client would have written it."""
        return {
            "misbehave": self.kind,
            "count": self.count,
            "share": self.share,
            "seed": self.seed,
            "seconds": self.seconds,
            "frames": self.frames,
        }

    def fires(self) -> bool:
        """Throw the dice once; a hit uses up one of ``count``."""
        if self.count == 0 or self._dice.random() >= self.share:
            return False
        if self.count is not None:
            self.count -= 1
        return True


def from_mapping(wish: Mapping[str, Any]) -> Misbehaviour:
    """Build from ``{"misbehave": "nak", "count": 3}``; ValueError names the wrong key or value."""
    numbers: dict[str, type] = {"count": int, "share": float, "seed": int, "seconds": float}
    settings: dict[str, Any] = {}
    for name, value in wish.items():
        if name in numbers:
            if isinstance(value, bool) or not isinstance(value, (int, numbers[name])):
                expected = "a whole number" if numbers[name] is int else "a number"
                raise ValueError(f"{name} is {value!r}, expected {expected}")
            settings[name] = value
        elif name == "frames":
            settings[name] = value
        elif name != "misbehave":
            raise ValueError(f"unknown key {name!r}: expected misbehave, frames, {', '.join(numbers)}")
    return Misbehaviour(kind=str(wish.get("misbehave")), **settings)


def from_spec(spec: str) -> Misbehaviour:
    """Build from the command line's ``KIND[:name=value,...]``, such as ``drop_before_ack:share=0.1,seed=7``."""
    kind, _, rest = spec.partition(":")
    wish: dict[str, Any] = {"misbehave": kind}
    for setting in filter(None, rest.split(",")):
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"misbehaviour {spec!r}: {setting!r} is not name=value")
        wish[name] = value if name == "frames" else _number(value)
    return from_mapping(wish)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Plan:
    """The misbehaviours in force. The first one that fires decides about a frame."""

    def __init__(self, active: Collection[Misbehaviour] = ()) -> None:
        self.active: list[Misbehaviour] = []
        for misbehaviour in active:
            self.add(misbehaviour)

    def add(self, misbehaviour: Misbehaviour) -> None:
        """Put one more in force; ValueError when ACTIVE_MAX are already."""
        self._forget_spent()
        if len(self.active) >= ACTIVE_MAX:
            raise ValueError(f"{ACTIVE_MAX} misbehaviours are in force already; end some with behave")
        self.active.append(misbehaviour)

    def clear(self) -> None:
        """Behave again."""
        self.active.clear()

    def fire(self, kinds: Collection[str], frame: str = "all") -> Misbehaviour | None:
        """The first of these kinds that fires for this sort of frame ("event" or "null"), or None."""
        for misbehaviour in self.active:
            if misbehaviour.kind in kinds and misbehaviour.frames in {"all", frame} and misbehaviour.fires():
                self._forget_spent()
                return misbehaviour
        return None

    def clock_offset_s(self) -> float:
        """How far our clock is off at present."""
        return sum(misbehaviour.seconds for misbehaviour in self.active if misbehaviour.kind == "clock")

    def _forget_spent(self) -> None:
        self.active = [misbehaviour for misbehaviour in self.active if misbehaviour.count != 0]
