"""What is measured, as values: one sample a system, load and round; medians over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one system in one round."""

    load: str
    system: str
    round: int
    figures: dict[str, float]
    latencies_ms: Sequence[float] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over all rounds."""

    median: float
    lowest: float
    highest: float


def share(ordered: Sequence[float], percent: float) -> float:
    """The value that `percent` of the ordered values do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def spread(samples: Iterable[Sample], load: str, system: str, figure: str) -> Spread | None:
    """None when it was not measured."""
    values = [
        sample.figures[figure]
        for sample in samples
        if (sample.load, sample.system) == (load, system) and figure in sample.figures
    ]
    return Spread(median(values), min(values), max(values)) if values else None
