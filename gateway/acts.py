"""What can be asked of a device: the closed list of acts, a command that asks for one, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

UNTIL_MAX = timedelta(hours=24)
"""Longer than this a door stands open by a person's decision anew."""
ZONE_MAX = 999


class Act(StrEnum):
    """One thing a device can be told to do."""

    OPEN = "open"
    """Release a lock for a moment; the door locks again by itself."""
    LOCK = "lock"
    UNLOCK = "unlock"
    """Release a lock until a moment, which ends it."""
    SIREN = "siren"
    """Sound for some seconds; 0 silences."""
    ARM = "arm"
    DISARM = "disarm"
    BYPASS = "bypass"
    SELF_TEST = "self-test"
    LOCATE = "locate"


@dataclass(frozen=True, slots=True)
class ActFacts:
    """What holds for every command of an act. Seconds throughout."""

    valid_s: float
    """How long it may wait for the line unless the caller says otherwise: a person stands at the door now."""
    valid_max_s: float
    evidence_s: float
    """How long after that the device's own word is waited for."""
    zh: str
    seconds: tuple[int, int, int] | None = None
    """Least, most and default length, where the act has one."""
    needs_zone: bool = False
    needs_until: bool = False


ACTS: dict[Act, ActFacts] = {
    Act.OPEN: ActFacts(10, 60, 10, "开门", seconds=(1, 60, 5)),
    Act.LOCK: ActFacts(10, 60, 10, "锁门"),
    Act.UNLOCK: ActFacts(10, 60, 10, "保持开锁", needs_until=True),
    Act.SIREN: ActFacts(10, 60, 10, "警号", seconds=(0, 600, 180)),
    Act.ARM: ActFacts(30, 300, 60, "布防"),
    Act.DISARM: ActFacts(10, 60, 30, "撤防"),
    Act.BYPASS: ActFacts(30, 300, 30, "旁路", needs_zone=True),
    Act.SELF_TEST: ActFacts(60, 600, 300, "自检"),
    Act.LOCATE: ActFacts(60, 600, 60, "定位"),
}


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked. The id is the caller's: the same id again is the same command."""

    id: str
    device: str
    act: Act
    zone: int | None = None
    seconds: int | None = None
    """How long; None for acts without a length."""
    until: datetime | None = None
    """Aware; the moment an unlocked door locks again."""
    valid_s: float = 0.0
    """How long it may wait for the line; later it is dropped."""


def complete(command: Command) -> Command:
    """The command with what its act fills in where the caller said nothing."""
    facts = ACTS[command.act]
    seconds = facts.seconds[2] if command.seconds is None and facts.seconds else command.seconds
    return replace(command, seconds=seconds, valid_s=command.valid_s or facts.valid_s)


def mistake(command: Command, now: datetime) -> str | None:
    """What is wrong with a complete command, and what was expected; None when nothing is."""
    return next(_mistakes(command, now), None)


def _mistakes(command: Command, now: datetime) -> Iterator[str]:
    facts, act = ACTS[command.act], command.act.value
    zone, seconds, until = command.zone, command.seconds, command.until
    if not 1 <= command.valid_s <= facts.valid_max_s:
        yield f"valid_s is {command.valid_s:g}; expected 1 to {facts.valid_max_s:g} for {act}"
    if facts.seconds is None and seconds is not None:
        yield f"seconds is {seconds}; expected none: {act} has no length"
    if facts.seconds is not None and not facts.seconds[0] <= (seconds or 0) <= facts.seconds[1]:
        yield f"seconds is {seconds}; expected {facts.seconds[0]} to {facts.seconds[1]} for {act}"
    if zone is None and facts.needs_zone:
        yield f"zone is missing; {act} is of one zone"
    if zone is not None and not 0 <= zone <= ZONE_MAX:
        yield f"zone is {zone}; expected 0 to {ZONE_MAX}"
    if (until is not None) is not facts.needs_until:
        yield f"until is {'missing' if facts.needs_until else 'given'}; {act} {'ends' if facts.needs_until else 'has none'}"
    elif until is not None and not now < until <= now + UNTIL_MAX:
        yield f"until is {until.isoformat()}; expected a moment within the next {UNTIL_MAX // timedelta(hours=1)} h"


class CommandState(StrEnum):
    """How far a command has come. The last three are ends."""

    CREATED = "created"
    """On disk; nothing has left."""
    SENT = "sent"
    """It has left; the device has not said what became of it."""
    EXECUTED = "executed"
    """The device itself has shown that it did it."""
    FAILED = "failed"
    """It was not done, or nobody knows: `detail` says which."""
    EXPIRED = "expired"
    """Its time ran out before it left. It was never sent and never will be."""


OPEN_STATES = frozenset({CommandState.CREATED, CommandState.SENT})


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command as it is kept: who asked why, and how far it is."""

    command: Command
    issuer: str
    reason: str
    site: str
    """Of the device when it was asked, so that history stays true."""
    created_at: datetime
    state: CommandState = CommandState.CREATED
    taken: bool = False
    """A conversation has it in hand: from here on it may have left."""
    sent_at: datetime | None = None
    ended_at: datetime | None = None
    detail: str = ""
    """The evidence, or why it was not done."""
    n: int = 0
    """The store's own order; 0 until stored."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES
