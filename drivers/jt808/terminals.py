"""What terminals said last: an alarm bit that stays set is news once, and again after it was clear."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from drivers.jt808.location import ALARMS
from gateway.driver import FACTS, Kind, Observation, Qualifier, Session, Stream

TERMINALS_MAX = 10_000
"""Terminals whose last word is remembered, some 5 MB; of one that is forgotten the stored word counts, as after a start."""
Latest = Mapping[tuple[Kind, int | None], Qualifier]


@dataclass(slots=True)
class Terminal:
    """What a terminal said last, so that an alarm is news once."""

    bits: set[int]
    """The alarm bits of its last word."""
    is_suspect: bool
    """Somebody has spoken in its name without its code, and it has not shown it since."""
    changed: dict[int, datetime] = field(default_factory=dict)
    """When, by its own time, a bit last changed."""

    @classmethod
    def stored(cls, latest: Latest) -> Terminal:
        """As the store has it."""
        bits = {bit for bit, alarm in ALARMS.items() if _stands(latest, alarm.kind, bit)}
        return cls(bits, is_suspect=_stands(latest, Kind.SECURITY, None))

    def news(self, report: Sequence[Observation]) -> Iterator[Observation]:
        """The position, alarms that were not there before, and the end of those that are gone."""
        position = report[0]
        yield position
        if len(report) == 1 and not self.bits:
            return
        gone = set(self.bits)
        for alarm in report[1:]:
            assert alarm.zone is not None
            gone.discard(alarm.zone)
            if alarm.zone not in self.bits and self._may_change(alarm.zone, position):
                self.bits.add(alarm.zone)
                yield alarm
        for bit in sorted(gone):
            if self._may_change(bit, position):
                self.bits.discard(bit)
                if not FACTS[ALARMS[bit].kind].momentary:
                    yield _ended(bit, position)

    def _may_change(self, bit: int, position: Observation) -> bool:
        """What is made up after a gap is older than what came meanwhile, and changes nothing that changed after it."""
        at, changed = position.at, self.changed.get(bit)
        if at is None:
            return True
        if changed is not None and at < changed and position.values.get("late"):
            return False
        self.changed[bit] = at
        return True


def _stands(latest: Latest, kind: Kind, zone: int | None) -> bool:
    return latest.get((kind, zone), Qualifier.RESTORE) is not Qualifier.RESTORE


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

    def forget(self, device: str) -> None:
        """What was reported of it was not stored: the stored word counts again."""
        self._terminals.pop(device, None)
