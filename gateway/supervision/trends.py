"""Trends: what devices say of battery, radio and mains, kept in steps, and in how many days a battery will be empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from gateway.coverage.facts import Fact, Sort
from gateway.model import Event

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that drivers say beside their events."""

    names: Sequence[str]
    """Under which they say it."""
    step: float
    """Smaller changes are not kept."""
    low: float
    high: float
    """What lies outside was not measured."""
    scale: float = 1.0


QUANTITIES: Mapping[str, Quantity] = {
    "battery_pct": Quantity(("battery_pct", "battery"), 1, 0, 100),
    "battery_v": Quantity(("voltage_mv",), 0.05, 0, 60, scale=0.001),
    "rssi_dbm": Quantity(("rssi_dbm",), 5, -150, 0),
    "linkquality": Quantity(("linkquality",), 20, 0, 255),
    "signal": Quantity(("signal",), 4, 0, 99),
    "mains_v": Quantity(("mains_v",), 5, 0, 500),
}

SAMPLE_EVERY = timedelta(hours=3)
"""At most eight a day of one quantity of one device, whatever its radio does."""
SUBJECTS_MAX = 100_000
"""Quantities of devices. Beyond it, new ones are not kept."""

SAMPLES_MIN = 3
SPAN_MIN = 7 * DAY
"""A trend over less is weather: cold nights take a tenth of a battery and give it back."""
DROP_MIN_PCT = 4.0
"""Less is what a percentage is rounded by."""
FRESH_PCT = 15.0
"""A rise like this is a new battery: what was before it says nothing of it."""
CUT_OFF_PCT = 5.0
"""Below it most radios fall silent."""
POINTS_MAX = 120
"""Fitted pair by pair: 7000 slopes."""
DAYS_MAX = 3650.0
"""Beyond ten years nobody plans."""


class Samples:
    """Picks from events what has changed by a step."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[datetime, float]] = {}

    def restore(self, facts: Iterable[Fact]) -> None:
        """Take up what was written: the newest sample of each."""
        for fact in facts:
            if fact.value is not None:
                device, quantity = fact.subject
                self._last[device, quantity] = fact.valid_from, fact.value["value"]

    def take(self, event: Event) -> Iterator[Fact]:
        """What an event says, where it is news."""
        if event.place is None or event.values.get("late") is True or event.values.get("assurance") == "low":
            return
        for quantity, facts in QUANTITIES.items():
            found = next((event.values[name] for name in facts.names if name in event.values), None)
            if isinstance(found, bool) or not isinstance(found, int | float):
                continue
            value = round(found * facts.scale, 3)
            if facts.low <= value <= facts.high and self._is_news((event.device, quantity), event.received_at, value):
                subject = event.device, quantity
                key = f"sample|{event.id}|{quantity}"
                yield Fact(Sort.SAMPLE, subject, {"value": value}, event.received_at, key=key)

    def _is_news(self, subject: tuple[str, str], at: datetime, value: float) -> bool:
        last = self._last.get(subject)
        if last is None and len(self._last) >= SUBJECTS_MAX:
            return False
        if last is not None:
            since = at - last[0]
            if abs(value - last[1]) < QUANTITIES[subject[1]].step or timedelta() <= since < SAMPLE_EVERY:
                return False
        self._last[subject] = at, value
        return True


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a battery will be empty. `days` None: nobody can tell, `why` says so."""

    days: float | None
    why: str = ""


def days_to_empty(samples: Sequence[tuple[datetime, float]], now: datetime) -> Forecast:
    """From percentages in order of time: the median of the slopes between all pairs (Theil and Sen), which one wrong
    reading in four does not move. What was last read still holds now: less than a step is not read."""
    points = _of_this_battery(samples)
    if len(points) < SAMPLES_MIN:
        return Forecast(None, "too few samples")
    if points[-1][0] - points[0][0] < SPAN_MIN:
        return Forecast(None, "seen for less than a week")
    points = _thinned(points)
    days = [(at - points[0][0]) / DAY for at, _ in points]
    values = [value for _, value in points]
    slopes = [
        (later - earlier) / (days[j] - days[i])
        for i, earlier in enumerate(values)
        for j, later in enumerate(values[i + 1 :], i + 1)
        if days[j] > days[i]
    ]
    slope = median(slopes)
    span = days[-1] - days[0]
    if -slope * span < DROP_MIN_PCT:
        return Forecast(None, "it does not fall")
    level = median(value - slope * day for value, day in zip(values, days, strict=True))
    left = level + slope * ((now - points[0][0]) / DAY) - CUT_OFF_PCT
    return Forecast(min(DAYS_MAX, max(0.0, left / -slope)))


def _of_this_battery(samples: Sequence[tuple[datetime, float]]) -> Sequence[tuple[datetime, float]]:
    """Those since it was put in: a rise that five readings before and after agree on."""
    values = [value for _, value in samples]
    fresh = [
        index
        for index in range(1, len(values) - 1)
        if median(values[index : index + 5]) - median(values[max(0, index - 5) : index]) >= FRESH_PCT
        and values[index] - values[index - 1] >= FRESH_PCT
    ]
    return samples[fresh[-1] :] if fresh else samples


def _thinned(points: Sequence[tuple[datetime, float]]) -> Sequence[tuple[datetime, float]]:
    """The newest half as they are, the rest evenly."""
    if len(points) <= POINTS_MAX:
        return points
    newest, older = points[-POINTS_MAX // 2 :], points[: -POINTS_MAX // 2]
    every = -(-len(older) // (POINTS_MAX // 2))
    return [*older[::every], *newest]
