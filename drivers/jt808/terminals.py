"""What terminals said last: an alarm bit that stays set is news once, and again after it was clear."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from drivers.jt808.location import ALARMS
from gateway.driver import FACTS, Kind, Observation, Qualifier, Receipt, Session, Stream

TERMINALS_MAX = 10_000
"""Terminals whose last word is remembered, at most some 30 MB; of one that is forgotten the stored word counts, as after a start."""
TOLD_MAX = 16
"""A terminal that repeats has a few messages in hand; what it repeats later is found by the store, and only its edges are told twice."""
CROSSING_S = 5.0
"""Reports that come so soon after our answer may have left before it was there: mobile networks take their time."""
AHEAD_MAX = timedelta(minutes=2)
"""A report from further ahead is of a wrong clock: were it ordered by its time, nothing that comes later could end it."""
PRESSES = {bit for bit, alarm in ALARMS.items() if alarm.until_answered and FACTS[alarm.kind].momentary}
Latest = Mapping[tuple[Kind, int | None], Qualifier]


@dataclass(slots=True)
class Terminal:
    """What a terminal said last, so that an alarm is news once."""

    bits: set[int]
    """The alarm bits of its last word."""
    is_suspect: bool
    """Somebody has spoken in its name without its code, and it has not shown it since."""
    showed_another: bool = False
    """It has shown a code that is not its own, once: that of before a rotation of the key is no alarm, as it registers anew then."""
    changed: dict[int, tuple[datetime, int]] = field(default_factory=dict)
    """When, by its own time, a bit last changed, and the serial number of that message."""
    answered_s: float | None = None
    """When the last press that stands was answered."""
    told: deque[str] = field(default_factory=lambda: deque(maxlen=TOLD_MAX))
    """Keys of its last reports."""
    teller: object = None
    """The conversation that reported last, and its receipt."""
    underway: Receipt = field(default_factory=Receipt.settled)

    @classmethod
    def stored(cls, latest: Latest) -> Terminal:
        """As the store has it. A press has no end there: the last one, be it of last year, must not hide the next."""
        bits = {bit for bit, alarm in ALARMS.items() if _stands(latest, alarm.kind, bit)}
        return cls(bits, is_suspect=_stands(latest, Kind.SECURITY, None))

    def news(self, report: Sequence[Observation], serial: int, now_s: float, now: datetime) -> Iterator[Observation]:
        """The position, alarms that were not there before, and the end of those that are gone. A repeat has no news."""
        self._take_back(now_s)
        position = report[0]
        yield position
        if position.repeat_key in self.told or (len(report) == 1 and not self.bits):
            return
        if position.repeat_key is not None:
            self.told.append(position.repeat_key)
        gone = set(self.bits)
        for alarm in report[1:]:
            assert alarm.zone is not None
            gone.discard(alarm.zone)
            is_late = bool(position.values.get("late"))
            if alarm.zone not in self.bits and (self._changes(alarm.zone, position, serial, now) or not is_late):
                self.bits.add(alarm.zone)
                yield alarm
        for bit in sorted(gone):
            if self._changes(bit, position, serial, now):
                self.bits.discard(bit)
                if not FACTS[ALARMS[bit].kind].momentary:
                    yield _ended(bit, position)

    def reported(self, receipt: Receipt, teller: object) -> Receipt:
        """What an answer must wait for: `receipt`, and what the line before has still under way. A repeat of that has no news here."""
        if teller is not self.teller and not self.underway.is_settled:
            receipt = Receipt.of_all([self.underway, receipt])
        self.teller, self.underway = teller, receipt
        return receipt

    def answered(self, now_s: float) -> None:
        """Our answer to its last word leaves."""
        if self.bits & PRESSES:
            self.answered_s = now_s

    def _take_back(self, now_s: float) -> None:
        """A terminal takes a press back when it has our answer: should the bit be set after that, it was pressed again."""
        if self.answered_s is not None and now_s - self.answered_s >= CROSSING_S:
            self.bits -= PRESSES
            self.answered_s = None

    def _changes(self, bit: int, position: Observation, serial: int, now: datetime) -> bool:
        """Whether this is newer than the last change, as far as its time can be believed. Terminals send what was not answered after what
        was, and what they make up after a gap at any time: an old word ends nothing."""
        if position.at is None or position.repeat_key is None or position.at > now + AHEAD_MAX:
            return True
        at, before = self.changed.get(bit, (position.at, serial))
        is_before = (serial - before) & 0xFFFF >= 0x8000  # they wrap; its time has whole seconds only
        if position.at < at or (position.at == at and is_before):
            return False
        self.changed[bit] = position.at, serial
        return True


def _stands(latest: Latest, kind: Kind, zone: int | None) -> bool:
    return not FACTS[kind].momentary and latest.get((kind, zone), Qualifier.RESTORE) is not Qualifier.RESTORE


def _ended(bit: int, position: Observation) -> Observation:
    key = position.repeat_key and position.repeat_key.removesuffix("position") + f"bit{bit}"
    alarm = ALARMS[bit]
    return replace(
        position,
        kind=alarm.kind,
        qualifier=Qualifier.RESTORE,
        zone=bit,
        code=f"bit{bit}",
        text=alarm.text,
        repeat_key=key,
    )


class Speaker(Protocol):
    """A conversation, as far as the others need it."""

    def lose(self, device: str) -> None:
        """The terminal speaks elsewhere from now on."""


class Memory:
    """What the conversations of one connection share."""

    def __init__(self) -> None:
        self.speakers: dict[str, Speaker] = {}
        """Which conversation speaks for a terminal."""
        self._terminals: OrderedDict[str, Terminal] = OrderedDict()

    async def terminal(self, device: str, session: Session[Stream]) -> Terminal:
        found = self._terminals.get(device)
        if found is None:
            found = self._terminals.setdefault(device, Terminal.stored(await session.latest(device)))
            if len(self._terminals) > TERMINALS_MAX:
                self._terminals.popitem(last=False)
        self._terminals.move_to_end(device)
        return found

    def answered(self, device: str, now_s: float) -> None:
        """What was reported of it is stored, and our answer leaves."""
        if device in self._terminals:
            self._terminals[device].answered(now_s)

    def forget(self, device: str) -> None:
        """What was reported of it is not stored: the stored word counts again."""
        self._terminals.pop(device, None)
