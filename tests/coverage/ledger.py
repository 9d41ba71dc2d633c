"""Facts for tests, in few words: a ledger that writes what it is told, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.coverage.facts import Fact, Sort
from gateway.coverage.requirements import Requirement
from gateway.model import Area, Device, Point, Site

START = datetime(2026, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


class Ledger:
    """Collects facts and gives each its id."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def say(
        self,
        sort: Sort,
        subject: Sequence[str],
        value: Mapping[str, Any] | None,
        at: datetime = START,
        *,
        until: datetime | None = None,
        recorded: datetime | None = None,
        withdraws: int | None = None,
    ) -> Fact:
        fact = Fact(sort, tuple(subject), value, at, until, recorded or at, "test", withdraws, id=len(self.facts) + 1)
        self.facts.append(fact)
        return fact

    def withdraw(self, fact: Fact, recorded: datetime) -> Fact:
        return self.say(fact.sort, fact.subject, None, fact.valid_from, recorded=recorded, withdraws=fact.id)

    def area(self, name: str, kind: Any = "community", parent: str | None = None, at: datetime = START) -> Fact:
        return self._thing(Sort.AREA, Area(name, name, kind, parent), at)

    def site(self, name: str, kind: str = "jewelry_store", at: datetime = START, **more: Any) -> Fact:
        return self._thing(Sort.SITE, Site(name, name, "1234", kind, **more), at)

    def point(self, name: str, site: str, kind: str, *watchers: Any, at: datetime = START) -> Fact:
        pairs = [(one, None) if isinstance(one, str) else one for one in watchers]
        first, also = (pairs[0], tuple(pairs[1:])) if pairs else ((None, None), ())
        return self._thing(Sort.POINT, Point(name, site, 1, name, first[0], first[1], kind, also), at)

    def device(self, name: str, site: str = "S", kind: str = "panel", at: datetime = START, **more: Any) -> Fact:
        return self._thing(Sort.DEVICE, Device(name, site, name, kind=kind, **more), at)

    def profile(self, kind: str, *requirements: Requirement, version: str = "1", at: datetime = START) -> Fact:
        lines = [asdict(line) for line in requirements]
        return self.say(Sort.PROFILE, (kind,), {"version": version, "source": "test", "requirements": lines}, at)

    def accept(self, point: str, device: str, zone: str = "", at: datetime = START) -> Fact:
        return self.say(Sort.ACCEPTANCE, (point, device, zone), {"sheet": "0", "by": "maintenance"}, at)

    def health(self, device: str, state: str = "working", at: datetime = START, zone: str = "", **more: str) -> Fact:
        return self.say(Sort.HEALTH, (device, zone), {"state": state, "cause": "", "via": "", **more}, at)

    def live_test(self, device: str, at: datetime, zone: str = "") -> Fact:
        return self.say(Sort.LIVE_TEST, (device, zone), {"event": "e"}, at)

    def proof(self, site: str, at: datetime = START, rung: str = "test_accepted") -> Fact:
        return self.say(Sort.PROOF, (site,), {"rung": rung, "event": "e"}, at)

    def waive(self, point: str, measure: str, at: datetime, until: datetime) -> Fact:
        return self.say(Sort.WAIVER, (point, measure), {"reason": "rebuilding", "approver": "a"}, at, until=until)

    def inspect(self, point: str, measure: str, ok: bool, at: datetime, until: datetime) -> Fact:
        value = {"ok": ok, "by": "inspector", "remark": "" if ok else "rust"}
        return self.say(Sort.INSPECTION, (point, measure), value, at, until=until)

    def stage(self, device: str, stage: str, at: datetime = START) -> Fact:
        return self.say(Sort.STAGE, (device,), {"stage": stage}, at)

    def _thing(self, sort: Sort, thing: Any, at: datetime) -> Fact:
        value = asdict(thing)
        return self.say(sort, (value.pop("id"),), value, at)

    def works(self, point: str, device: str, zone: str = "", at: datetime = START) -> None:
        """Accepted and well."""
        self.accept(point, device, zone, at)
        self.health(device, at=at)

    def recorded(self, first: int, at: datetime) -> None:
        """These were written down only then."""
        self.facts[first:] = [replace(fact, recorded_at=at) for fact in self.facts[first:]]
