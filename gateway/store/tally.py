"""What one transaction changes: counted, and made known, only after COMMIT."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from gateway.kinds import Lane
from gateway.model import Delivery, Event


@dataclass(slots=True)
class Tally:
    """Counts are differences, so negative for what was removed."""

    stored: Counter[Lane] = field(default_factory=Counter)
    queued: Counter[tuple[str, Lane]] = field(default_factory=Counter)
    shed: Counter[Lane] = field(default_factory=Counter)
    repeats: int = 0
    placed: dict[int, Event] = field(default_factory=dict)
    """New events by their place in the order."""
    deliveries: defaultdict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    """New outbox rows by destination, in order."""

    def add(self, other: Tally) -> None:
        """Take over another's differences."""
        self.stored.update(other.stored)
        self.queued.update(other.queued)
        self.shed.update(other.shed)
        self.repeats += other.repeats
        self.placed.update(other.placed)
        for destination, rows in other.deliveries.items():
            self.deliveries[destination] += rows
