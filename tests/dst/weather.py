"""What goes wrong in a run, and how often: drawn from the seed. Each run has its own few faults, some of them heavy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

FAULT_SHARE = 0.35
"""Of all faults, this many are on in a run: a fault that is drowned by nine others finds nothing."""


@dataclass(slots=True)
class Weather:
    """Chances (0..1) where not said otherwise. All zero: the liveness phase."""

    # The disk, per commit or read.
    commit_fails: float = 0.0
    """Nothing is stored, an error is told."""
    commit_lies: float = 0.0
    """Everything is stored, an error is told."""
    statement_fails: float = 0.0
    read_fails: float = 0.0
    killed_before_commit: float = 0.0
    killed_after_commit: float = 0.0
    """On disk, and nobody was told."""
    commit_torn: float = 0.0
    """The process dies while the transaction is written: a part of it is in the write-ahead log."""
    open_fails: float = 0.0
    slow_disk: float = 0.0
    """A sync takes up to two seconds instead of twenty milliseconds."""
    # The network, per connection.
    connect_refused: float = 0.0
    connect_hangs: float = 0.0
    breaks: float = 0.0
    """The connection is reset after a while, perhaps inside a frame."""
    freezes: float = 0.0
    """It goes half open: nothing arrives any more, nobody is told."""
    slow_network: float = 0.0
    bytewise: float = 0.0
    """Every byte arrives by itself."""
    # The 110 centre, per frame.
    silent: float = 0.0
    answers_late: float = 0.0
    answers_twice: float = 0.0
    answers_other: float = 0.0
    """For another number or account."""
    answers_rubbish: float = 0.0
    answers_plain: float = 0.0
    """To an encrypted frame."""
    nak: float = 0.0
    duh: float = 0.0
    poison: float = 0.0
    """Per event: refused, or never answered, each time it comes."""
    hangs_up: float = 0.0
    strict_clock: float = 0.0
    """Not a chance: above 0.5 plain frames are judged by their stamp too."""
    # The devices, per message.
    answer_lost: float = 0.0
    impatient: float = 0.0
    """Repeats while the first is still on its way."""
    # Episodes, each once in so many seconds on average where the weather has it (0: never).
    kill_every_s: float = 0.0
    power_fails_every_s: float = 0.0
    """As killed, and what was not synced is lost."""
    restart_every_s: float = 0.0
    disk_full_every_s: float = 0.0
    outage_every_s: float = 0.0
    """The centre refuses connections and drops those it has."""
    clock_jumps_every_s: float = 0.0
    claim_every_s: float = 0.0
    """A person claims, moves or releases a device."""

    @classmethod
    def drawn(cls, dice: Random) -> Weather:
        """A few faults, each at a strength of its own."""
        weather = cls()
        for field in fields(cls):
            if dice.random() >= FAULT_SHARE:
                continue
            if field.name.endswith("_every_s"):
                strength = dice.choice((15.0, 40.0, 120.0))
            elif field.name.startswith(("killed", "commit_torn")):
                strength = dice.choice((0.002, 0.01, 0.05))
            elif field.name in {"silent", "duh", "poison", "nak"}:
                strength = dice.choice((0.02, 0.1, 0.3))
            else:
                strength = dice.choice((0.02, 0.1, 0.3, 0.6))
            setattr(weather, field.name, strength)
        if dice.random() < FAULT_SHARE:
            weather.strict_clock = 1.0
        return weather

    def __str__(self) -> str:
        on = [f"{field.name}={getattr(self, field.name):g}" for field in fields(self) if getattr(self, field.name)]
        return ", ".join(on) or "calm"
