"""When everything that is required will be installed, if it goes on like this: a straight line, or an honest no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction

POINTS_MIN = 4
"""Fewer weeks are no line."""
FIT_MIN = Fraction(7, 10)
"""Of the curve's variance that the line must explain (R²)."""
YEARS_MAX = 5
"""What lies beyond is no forecast."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A day, or why there is none: reached, nothing_required, too_short, not_falling, not_a_line, too_far."""

    day: date | None
    why: str = ""


def forecast(curve: Sequence[tuple[date, int, int]]) -> Forecast:
    """From (day, required, installed), oldest first. What is fitted is the number that is missing."""
    known = [(day, required - installed) for day, required, installed in curve if required]
    if not known:
        return Forecast(None, "nothing_required")
    last, missing = known[-1]
    if missing == 0:
        return Forecast(last, "reached")
    if len(known) < POINTS_MIN:
        return Forecast(None, "too_short")
    slope, fit = _line([((day - last).days, number) for day, number in known])
    if slope >= 0:
        return Forecast(None, "not_falling")
    if fit < FIT_MIN:
        return Forecast(None, "not_a_line")
    days = -(missing // slope)  # rounded up: the first day on which none is missing
    return Forecast(last + timedelta(days=days)) if days <= 366 * YEARS_MAX else Forecast(None, "too_far")


def _line(points: Sequence[tuple[int, int]]) -> tuple[Fraction, Fraction]:
    """Slope of the least squares, and the share of the variance that it explains; exact."""
    n = len(points)
    x_mean, y_mean = Fraction(sum(x for x, _ in points), n), Fraction(sum(y for _, y in points), n)
    xx = sum(((x - x_mean) ** 2 for x, _ in points), Fraction())
    xy = sum(((x - x_mean) * (y - y_mean) for x, y in points), Fraction())
    yy = sum(((y - y_mean) ** 2 for _, y in points), Fraction())
    if not xx or not yy:
        return Fraction(), Fraction()
    return xy / xx, xy**2 / (xx * yy)
