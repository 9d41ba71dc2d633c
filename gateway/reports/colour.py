"""The colour of a community: the worst of its coverage, its load of alarms and its oldest critical deficiency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.config import ReportsSection

LEVELS = ("grey", "blue", "yellow", "orange", "red")
WEEKS = 15
"""Of its own past, against which the last week's alarms are held."""


def level(value: int, steps: Sequence[int]) -> str:
    """How many of the steps a value has reached."""
    return LEVELS[sum(value >= step for step in steps)]


def of_coverage(working: int, required: int, settings: ReportsSection) -> str | None:
    """By how much the effective coverage is short of what is promised. None where nothing is required."""
    if not required:
        return None
    # Rounded up: what is short by less than a thousandth is short.
    return level(settings.target_permille - working * 1000 // required, settings.shortfall_permille)


def of_alarms(last_week: int, before: Sequence[int], settings: ReportsSection) -> str | None:
    """Alarms of the last seven days against the mean of the weeks before. None: the log does not reach back so far."""
    if len(before) < WEEKS:
        return None
    if last_week < settings.alarms_min:
        return LEVELS[0]
    mean_of_all = sum(before) or 1  # a first alarm after fifteen quiet weeks is held against one in all that time
    return level(last_week * WEEKS * 100 // mean_of_all, settings.alarm_load_percent)


def of_critical(age_days: int | None, settings: ReportsSection) -> str:
    """How long the oldest critical deficiency has been open. None: there is none."""
    return LEVELS[0] if age_days is None else level(age_days, settings.critical_days)


def warning(node: Mapping[str, Any], settings: ReportsSection) -> dict[str, str | None]:
    """The three, and the worst of those that can be judged."""
    counts, load = node["counts"], node["load"]
    parts = {
        "coverage": of_coverage(counts["working"], counts["required"], settings),
        "alarms": of_alarms(load[-1], load[:-1], settings) if load else None,
        "critical": of_critical(node["critical_age_days"], settings),
    }
    worst = max((part for part in parts.values() if part is not None), key=LEVELS.index)
    return {"level": worst, **parts}
