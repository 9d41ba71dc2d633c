"""How long equipment was out, from what the record says of its health."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from gateway.coverage.facts import ZONE_OF_ALL, Fact, Sort
from gateway.coverage.history import History
from gateway.reports.scope import Scope, lines

WORKS = ("working", "degraded")


def outages(
    history: History, facts: Sequence[Fact], scope: Scope, start: datetime, end: datetime
) -> Iterator[tuple[str, str, int]]:
    """Site, kind of device and whole seconds of each time a device did not work, as far as it lies within the period."""
    for (device, zone), said in lines(facts, Sort.HEALTH).items():
        what = history.at(Sort.DEVICE, (device,), end)
        if zone == ZONE_OF_ALL and what is not None and what["site"] in scope.sites:
            for seconds in _lasted(said, start, end):
                yield str(what["site"]), str(what.get("kind") or "other"), seconds


def _lasted(said: Sequence[Fact], start: datetime, end: datetime) -> Iterator[int]:
    """A change from one state that does not work to another ends no outage."""
    began: datetime | None = None
    for fact in said:
        is_out = fact.value is not None and fact.value["state"] not in WORKS
        if is_out and began is None:
            began = fact.valid_from
        elif not is_out and began is not None:
            yield from _within(began, fact.valid_from, start, end)
            began = None
    if began is not None:
        yield from _within(began, end, start, end)


def _within(began: datetime, ended: datetime, start: datetime, end: datetime) -> Iterator[int]:
    seconds = int((min(ended, end) - max(began, start)).total_seconds())
    if seconds > 0:
        yield seconds
