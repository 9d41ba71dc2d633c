"""Period: each count times how long it held, and how often devices failed. In whole milliseconds, so that parts add up."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.coverage.counts import Counts

NONE = Counts()


@dataclass(frozen=True, slots=True)
class Period:
    """Of one node, model or vendor, over one period; adds up over periods that follow each other, and over nodes."""

    held: Counts = NONE
    """Each count times how long it held, in ms: `held.working` is the time worked, added up over all requirements."""
    in_duty_ms: int = 0
    """Device time: accepted at a point of a site that is there, not out of service."""
    repair_ms: int = 0
    """Of it, with a fault or silent."""
    faults: int = 0
    """How often that began."""

    def __add__(self, other: Period) -> Period:
        return Period(
            self.held + other.held,
            self.in_duty_ms + other.in_duty_ms,
            self.repair_ms + other.repair_ms,
            self.faults + other.faults,
        )

    @property
    def availability(self) -> tuple[int, int]:
        """Time working and time required, in ms: the two counts of the rate."""
        return self.held.working, self.held.required

    @property
    def mttr_ms(self) -> int | None:
        """Mean time to repair; None: nothing failed."""
        return self.repair_ms // self.faults if self.faults else None

    @property
    def mtbf_ms(self) -> int | None:
        """Mean time in service between two failures; None: nothing failed."""
        return (self.in_duty_ms - self.repair_ms) // self.faults if self.faults else None
