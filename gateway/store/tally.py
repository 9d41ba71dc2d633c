"""What one transaction changes in the running counts: added to them only after COMMIT."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.kinds import Lane


@dataclass(slots=True)
class Tally:
    """Differences, so negative for what was removed."""

    stored: Counter[Lane] = field(default_factory=Counter)
    queued: Counter[tuple[str, Lane]] = field(default_factory=Counter)
    shed: Counter[Lane] = field(default_factory=Counter)
    repeats: int = 0

    def add(self, other: Tally) -> None:
        """Take over another's differences."""
        self.stored.update(other.stored)
        self.queued.update(other.queued)
        self.shed.update(other.shed)
        self.repeats += other.repeats
