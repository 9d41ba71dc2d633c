"""What one transaction changes: counted, and made known, only after COMMIT."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.kinds import Lane
from gateway.model import Delivery


@dataclass(slots=True)
class Tally:
    """Counts are differences, so negative for what was removed."""

    stored: Counter[Lane] = field(default_factory=Counter)
    queued: Counter[tuple[str, Lane]] = field(default_factory=Counter)
    shed: Counter[Lane] = field(default_factory=Counter)
    repeats: int = 0
    deliveries: dict[str, list[Delivery]] = field(default_factory=dict)
    """New outbox rows by destination, in order."""

    def add(self, other: Tally) -> None:
        """Take over another's differences."""
        self.stored.update(other.stored)
        self.queued.update(other.queued)
        self.shed.update(other.shed)
        self.repeats += other.repeats
        for destination, rows in other.deliveries.items():
            self.deliveries.setdefault(destination, []).extend(rows)
