"""What is counted, as numbers that add up: over points to a site, over sites to an area, over boxes to a district.

Rates are never kept: they are made from two counts when they are printed, rounded down, and 100 % only when both are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import add, attrgetter, sub


@dataclass(frozen=True, slots=True)
class Counts:
    """At one instant. Mandatory technical requirements, unless a name says otherwise."""

    required: int = 0
    installed: int = 0
    working: int = 0
    networked: int = 0
    """Of those that must be: working, and proved to reach 110 within the window."""
    must_network: int = 0
    waived: int = 0
    degraded: int = 0
    """Of the working ones."""
    unsupervised: int = 0
    """Of the working ones: nothing but its live tests proves that it lives."""
    overdue: int = 0
    """Of the degraded ones: its live test is overdue, within the grace."""
    advised: int = 0
    advised_installed: int = 0
    physical: int = 0
    """Mandatory physical requirements."""
    physical_ok: int = 0
    entrances: int = 0
    entrances_controlled: int = 0
    units: int = 0
    """Sites that have any mandatory technical requirement."""
    units_installed: int = 0
    """Of these, sites whose requirements are all installed."""
    target_units: int = 0
    """As `units`, over the kinds of site for which the target of 100 % holds."""
    target_units_installed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, _numbers(self), _numbers(other)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*map(sub, _numbers(self), _numbers(other)))

    def __mul__(self, number: int) -> Counts:
        """Each so many times."""
        return Counts(*(count * number for count in _numbers(self)))


_numbers = attrgetter(*(field.name for field in fields(Counts)))


def rate(part: int, whole: int) -> str:
    """A share for people: "98.3 %", rounded down to a tenth; "n/a" where nothing is required."""
    if whole == 0:
        return "n/a"
    return f"{part * 1000 // whole / 10:.1f} %"


EMPTY = {"zh": "n/a (无应装点位)", "en": "n/a (nothing required)"}
NOTHING_INSTALLED = {"zh": "n/a (无已装点位)", "en": "n/a (nothing installed)"}


def stated(part: int, whole: int, language: str = "zh", *, empty: Mapping[str, str] = EMPTY) -> str:
    """A rate as people must see it, with its two counts: "98.3 % (60/61)"; `empty`: what is said of a share of nothing."""
    return f"{rate(part, whole)} ({part}/{whole})" if whole else empty[language]
