"""From gaps to their causes: forty detectors behind one lost panel are one thing to repair. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from gateway.coverage.facts import ZONE_OF_ALL, Sort
from gateway.coverage.tickets import INSTALLATION, TARGET, Gone, Risk

WAYS_MAX = 8
"""Devices on the way from a detector to the gateway; more are a circle in the ledger."""
PANIC = "panic"
"""The measure that is always of high risk."""


class Gapped(Protocol):
    """What is asked of a verdict."""

    @property
    def site(self) -> str: ...
    @property
    def point(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def gap(self) -> str | None: ...
    @property
    def because(self) -> str: ...
    @property
    def via(self) -> str: ...
    @property
    def since(self) -> datetime: ...


class Known(Protocol):
    """What is asked of the history."""

    def at(self, sort: Sort, subject: tuple[str, ...], t: datetime) -> Mapping[str, Any] | None: ...


@dataclass(slots=True)
class _Cause:
    site: str
    gap: str
    because: str
    risk: Risk
    since: datetime
    responsible: str
    points: set[str] = field(default_factory=set)


def causes(gaps: Iterable[Gapped], known: Known, now: datetime, target_kinds: Collection[str]) -> Sequence[Gone]:
    """What has to be put right so that these mandatory requirements are met, each cause once, with the points it concerns."""
    found: dict[str, _Cause] = {}
    for each in gaps:
        if each.gap is None:
            continue
        site = known.at(Sort.SITE, (each.site,), now) or {}
        subject, gap = _subject(each, known, now, is_target=site.get("kind") in target_kinds)
        risk = _risk(each, site, target_kinds)
        cause = found.get(f"{subject}:{gap}")
        if cause is None:
            responsible = site.get("responsible", "")
            cause = found[f"{subject}:{gap}"] = _Cause(
                each.site, gap, each.because, risk, each.since, responsible
            )  # fmt: skip
        cause.since = min(cause.since, each.since)
        cause.risk = min(cause.risk, risk, key=list(Risk).index)
        if each.point:
            cause.points.add(each.point)
    return [
        Gone(ticket, c.site, c.gap, c.because, c.risk, c.since, c.responsible, tuple(sorted(c.points)))
        for ticket, c in sorted(found.items())
    ]


def _risk(each: Gapped, site: Mapping[str, Any], target_kinds: Collection[str]) -> Risk:
    if each.family != "technical":
        return Risk.LOW
    if site.get("kind") in target_kinds or site.get("is_key_unit") or each.measure == PANIC:
        return Risk.HIGH
    return Risk.MEDIUM


def _subject(each: Gapped, known: Known, now: datetime, *, is_target: bool) -> tuple[str, str]:
    """Whose ticket it is, and of which gap."""
    gap = str(each.gap)
    if is_target and gap in INSTALLATION and each.family == "technical":
        return f"site:{each.site}", TARGET
    if gap in ("not_networked", "not_planned"):
        return f"site:{each.site}", gap
    if gap == "unreachable" and each.via:
        return _root(each.via, known, now)
    if gap in ("silent", "fault"):
        for device in _failing(each, gap, known, now):
            return f"device:{device}", gap
    return f"point:{each.point}", gap


def _failing(each: Gapped, gap: str, known: Known, now: datetime) -> Iterable[str]:
    """Watchers of its point that are, as a whole, in that state; one that nothing is known of was never heard."""
    point = known.at(Sort.POINT, (each.point,), now) or {}
    watchers = [(point.get("device"), None), *point.get("also", ())]
    for device, _zone in watchers:
        if device is not None:
            health = known.at(Sort.HEALTH, (device, ZONE_OF_ALL), now)
            if (health["state"] if health else "silent") == gap:
                yield device


def _root(device: str, known: Known, now: datetime) -> tuple[str, str]:
    """What everything behind it is unreachable through, and how that itself is."""
    for _ in range(WAYS_MAX):
        health = known.at(Sort.HEALTH, (device, ZONE_OF_ALL), now)
        if health is None or health["state"] != "unreachable" or not health.get("via"):
            break
        device = health["via"]
    state = health["state"] if health else "silent"
    return f"device:{device}", state if state in ("silent", "fault") else "unreachable"
