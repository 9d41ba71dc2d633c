"""How sites, points and devices stand now, from the record of facts, with or without a running gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gateway.coverage.counts import Counts
    from gateway.coverage.history import History
    from gateway.coverage.live import Live
    from gateway.coverage.verdict import Verdict
    from gateway.registry import Registry


async def counted(args: argparse.Namespace, registry: Registry, now: datetime) -> Live:
    """Everything that is counted, at this moment. Raises ConfigError."""
    from gateway.cli._asked import history_of
    from gateway.cli._site_file import data_dir
    from gateway.coverage.facts import Sort
    from gateway.coverage.live import Live
    from gateway.coverage.verdict import Rules

    sorts = (
        Sort.PROFILE, Sort.AREA, Sort.SITE, Sort.POINT, Sort.DEVICE, Sort.STAGE, Sort.ACCEPTANCE, Sort.WAIVER, Sort.INSPECTION,
        Sort.HEALTH, Sort.LIVE_TEST, Sort.PROOF,
    )  # fmt: skip
    history = await history_of(registry, *sorts)
    return Live(history, now, rules=Rules.of(data_dir(args)[0].coverage))


def figures(counts: Counts, *, as_json: bool) -> dict[str, Any]:
    """The figures of a node: for people each rate with its two counts, for machines the counts alone."""
    from dataclasses import asdict

    from gateway.coverage.counts import NOTHING_INSTALLED, stated

    if as_json:
        return {"counts": asdict(counts)}
    return {
        "required": counts.required,
        "installed": stated(counts.installed, counts.required),
        "working": stated(counts.working, counts.installed, empty=NOTHING_INSTALLED),
        "networked": stated(counts.networked, counts.must_network),
        "waived": counts.waived, "unsupervised": counts.unsupervised, "overdue": counts.overdue,
        "physical": stated(counts.physical_ok, counts.physical),
    }  # fmt: skip


def requirements(verdicts: Sequence[Verdict], *, as_json: bool) -> list[dict[str, Any]]:
    """What is asked of points, and whether it is met."""
    return [
        {
            "point": each.point or None, "measure": each.measure, "duty": each.duty.value,
            **(_facts(each) if as_json else {"stands": _in_a_word(each)}),
            "gap": each.gap.value if each.gap else None, "because": each.because or None, "device": each.device or None,
            "via": each.via or None, "since": _moment(each.since),
        }
        for each in sorted(verdicts, key=lambda each: (each.point, each.measure))
    ]  # fmt: skip


def _facts(each: Verdict) -> dict[str, bool | None]:
    return {
        "required": each.required, "installed": each.installed, "working": each.working,
        "networked": each.networked if each.must_network else None, "waived": each.waived, "degraded": each.degraded,
        "unsupervised": each.unsupervised, "overdue": each.overdue,
    }  # fmt: skip


def _in_a_word(each: Verdict) -> str:
    """How far it is."""
    words = {
        "waived": each.waived, "overdue": each.overdue, "degraded": each.degraded, "networked": each.networked,
        "working": each.working, "installed": each.installed,
    }  # fmt: skip
    return next((word for word, is_so in words.items() if is_so), "missing")


def standing(history: History, device: str, now: datetime) -> dict[str, Any]:
    """Where a device is in its life, and how it is since when; `state` None: nothing was ever heard of it."""
    from gateway.coverage.facts import ZONE_OF_ALL, Sort
    from gateway.coverage.history import ms_of

    stage = history.at(Sort.STAGE, (device,), now) or {"stage": "planned"}
    stretch = history.look(Sort.HEALTH, (device, ZONE_OF_ALL), ms_of(now))
    health: Mapping[str, Any] = stretch.value or {}
    return {
        "stage": stage["stage"], "state": health.get("state"), "cause": health.get("cause") or None,
        "via": health.get("via") or None, "since": _moment(stretch.start) if health else None,
    }  # fmt: skip


def trends(samples: History, device: str, now: datetime) -> list[dict[str, Any]]:
    """The newest of each quantity the device says; of a battery, in how many days it will be empty or why nobody can tell."""
    from gateway.coverage.facts import Sort
    from gateway.supervision.trends import days_to_empty

    found = []
    for (of, quantity), track in sorted(samples.tracks[Sort.SAMPLE].items()):
        known = [(line.fact.valid_from, line.fact.value["value"]) for line in track.lines if line.fact.value]
        if of != device or not known:
            continue
        at, value = known[-1]
        row = {
            "quantity": quantity,
            "value": value,
            "at": at,
            "days_to_empty": None,
            "why": None,
        }
        if quantity == "battery_pct":
            forecast = days_to_empty(known, now)
            row["days_to_empty"] = None if forecast.days is None else round(forecast.days)
            row["why"] = forecast.why or None
        found.append(row)
    return found


def _moment(ms: int | None) -> datetime | None:
    from gateway.coverage.history import moment_of

    return None if ms is None else moment_of(ms)
