"""From gaps to their causes: forty detectors behind one lost panel are one thing to repair. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gateway.coverage.facts import ZONE_OF_ALL, Sort
from gateway.coverage.history import History, moment_of
from gateway.coverage.ranking import risk_of
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.tickets import INSTALLATION, TARGET, Gone, Risk
from gateway.coverage.verdict import Verdict

WAYS_MAX = 8
"""Devices on the way from a detector to the gateway; more are a circle in the ledger."""
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""Of a gap whose beginning nobody knows: its grace is over."""


class Open(NamedTuple):
    """A gap, what of it is somebody's task, and how urgent it is."""

    verdict: Verdict
    site: Mapping[str, Any]
    """The Site, as its fact has it."""
    ticket: str
    """The deficiency that it is, or becomes when it lasts; "" of what is only advised."""
    gap: str
    """The deficiency's own word: a detector behind a lost panel is unreachable, the panel is silent."""
    risk: Risk


@dataclass(slots=True)
class _Cause:
    site: str
    gap: str
    because: str
    risk: Risk
    since: datetime
    responsible: str
    points: set[str] = field(default_factory=set)


def open_gaps(
    verdicts: Iterable[Verdict], history: History, now: datetime, target_kinds: Collection[str]
) -> Iterator[Open]:
    """Every gap with the deficiency it belongs to."""
    for each in verdicts:
        if each.gap is None:
            continue
        site = history.at(Sort.SITE, (each.site,), now) or {}
        subject, gap = _subject(each, history, now, is_target=each.site_kind in target_kinds)
        ticket = f"{subject}:{gap}" if each.duty is Duty.MANDATORY else ""
        yield Open(each, site, ticket, gap, risk_of(each, site, target_kinds))


def causes(gaps: Iterable[Open]) -> Sequence[Gone]:
    """What has to be put right so that all mandatory requirements are met, each cause once, with the points it concerns."""
    found: dict[str, _Cause] = {}
    for each, site, ticket, gap, risk in gaps:
        if not ticket:
            continue
        since = LONG_AGO if each.since is None else moment_of(each.since) or LONG_AGO
        cause = found.get(ticket)
        if cause is None:
            responsible = site.get("responsible", "")
            cause = found[ticket] = _Cause(each.site, gap, each.because, risk, since, responsible)
        cause.since = min(cause.since, since)
        cause.risk = min(cause.risk, risk, key=list(Risk).index)
        if each.point:
            cause.points.add(each.point)
    return [
        Gone(ticket, c.site, c.gap, c.because, c.risk, c.since, c.responsible, tuple(sorted(c.points)))
        for ticket, c in sorted(found.items())
    ]


def _subject(each: Verdict, history: History, now: datetime, *, is_target: bool) -> tuple[str, str]:
    """Whose ticket it is, and of which gap."""
    gap = str(each.gap)
    if is_target and gap in INSTALLATION and each.family is Family.TECHNICAL:
        return f"site:{each.site}", TARGET
    if gap in ("not_networked", "not_planned"):
        return f"site:{each.site}", gap
    if gap == "unreachable" and each.via:
        return _root(each.via, history, now)
    if gap in ("silent", "fault") and _state(each.device, history, now) == gap:
        return f"device:{each.device}", gap  # the whole device, not one zone of it
    return f"point:{each.point}", gap


def _state(device: str, history: History, now: datetime) -> str:
    """Of the device as a whole; one that nothing is known of was never heard."""
    health = history.at(Sort.HEALTH, (device, ZONE_OF_ALL), now)
    return str(health["state"]) if health else "silent"


def _root(device: str, history: History, now: datetime) -> tuple[str, str]:
    """What everything behind it is unreachable through, and how that itself is."""
    for _ in range(WAYS_MAX):
        health = history.at(Sort.HEALTH, (device, ZONE_OF_ALL), now)
        if health is None or health["state"] != "unreachable" or not health.get("via"):
            break
        device = health["via"]
    state = _state(device, history, now)
    return f"device:{device}", state if state in ("silent", "fault") else "unreachable"
