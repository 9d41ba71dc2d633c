"""Acceptance: a walk test in which every point has shown its alarm and its restore becomes a sheet, and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gateway.access import Actor
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.commissioning.in_test import WalkTest
from gateway.commissioning.sheet import Row, canonical, content, rows
from gateway.commissioning.walk import NAMED_MAX, WalkTests, events_of
from gateway.coverage.facts import Fact, Sort
from gateway.errors import Refused
from gateway.model import Event
from gateway.registry import Registry
from gateway.store import Store

ACCEPT_WITHIN = timedelta(days=7)
"""What a walk has shown longer ago says little about today."""
MOMENT = timedelta(milliseconds=1)
"""What came in the very moment of its end was tried out as well."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a walk test is."""

    test: WalkTest
    is_running: bool
    rows: Sequence[Row]

    @property
    def lacking(self) -> Sequence[Row]:
        return [row for row in self.rows if row.lacks]


class Acceptance:
    """Looks at walk tests and accepts what they have shown."""

    def __init__(self, *, walks: WalkTests, registry: Registry, store: Store, audit: Audit, clock: Clock) -> None:
        self._walks = walks
        self._registry = registry
        self._store = store
        self._audit = audit
        self._clock = clock

    async def progress(self, site: str) -> Progress:
        """Of the test that runs at a site, or of its newest. Raises Refused, StoreError, ConfigError."""
        running = self._walks.running(site)
        test = running or await self._walks.latest(site)
        if test is None:
            raise Refused(f"no walk test was ever begun at {site}")
        ledger = self._registry.snapshot
        return Progress(test, running is not None, rows(test, ledger.points, ledger.devices, await self._events(test)))

    async def sheet(self, site: str) -> dict[str, Any]:
        """As `progress`, as a sheet with its hash; while the test runs it is a draft without an end."""
        progress = await self.progress(site)
        return self._sheet(progress)

    async def accept(self, actor: Actor, site: str) -> dict[str, Any]:
        """Accept every point of the newest test, which ends with it. Asking twice changes nothing. Raises Refused, naming
        what has not passed."""
        progress = await self._passed(site)
        now = self._clock.now()
        if not progress.is_running and progress.test.ends + ACCEPT_WITHIN < now:
            raise Refused(
                f"the test ended on {progress.test.ends:%Y-%m-%d}; expected one of the last {ACCEPT_WITHIN.days} days"
            )
        if progress.is_running:
            await self._walks.end(actor, site)
            progress = await self._passed(site)
        sheet = self._sheet(progress)
        await self._audit.record(actor, Deed.ACCEPTANCE, site, {"sheet": sheet["sha256"], "rows": len(sheet["rows"])})
        await self._registry.record(self._facts(actor, sheet, progress.rows))
        return sheet

    async def is_recorded(self, site: str, sha256: str) -> bool:
        """Whether a sheet with this hash was accepted at this site."""
        after = 0
        while page := await self._registry.facts(after=after, sort=Sort.SHEET):
            if any(fact.subject == (site, sha256) for fact in page):
                return True
            after = page[-1].id
        return False

    async def _passed(self, site: str) -> Progress:
        """Raises Refused, naming what has not passed."""
        progress = await self.progress(site)
        if progress.lacking:
            raise Refused(_lacks(progress.lacking))
        return progress

    def _sheet(self, progress: Progress) -> dict[str, Any]:
        site = self._registry.snapshot.sites.get(progress.test.site)
        if site is None:
            raise Refused(f"there is no site {progress.test.site}")
        return content(site, progress.test, progress.rows, is_over=not progress.is_running)

    def _facts(self, actor: Actor, sheet: dict[str, Any], accepted: Sequence[Row]) -> list[Fact]:
        """The sheet, and what follows from it, in one piece. The keys make a second asking change nothing."""
        now, role, sha256 = self._clock.now(), actor.role.value, sheet["sha256"]

        def fact(sort: Sort, subject: tuple[str, ...], value: dict[str, Any], key: str) -> Fact:
            return Fact(sort, subject, value, now, actor=actor.id, key=f"{sha256[:32]}/{key}")

        found = [fact(Sort.SHEET, (sheet["site"], sha256), {"content": canonical(sheet)}, "sheet")]
        for n, row in enumerate(accepted):
            value = {"sheet": sha256, "by": role}
            found.append(fact(Sort.ACCEPTANCE, (row.point, row.device, row.zone), value, f"acceptance/{n}"))
        for n, device in enumerate(dict.fromkeys(row.device for row in accepted)):
            found += [
                fact(Sort.STAGE, (device,), {"stage": stage}, f"{stage}/{n}") for stage in ("accepted", "in_service")
            ]
        return found

    async def _events(self, test: WalkTest) -> list[Event]:
        return await events_of(self._store, test.site, test.begins, test.ends + MOMENT)


def _lacks(lacking: Sequence[Row]) -> str:
    named = [f"{row.point} ({f'{row.device}: ' if row.device else ''}no {row.lacks})" for row in lacking[:NAMED_MAX]]
    more = f" and {len(lacking) - NAMED_MAX} more" if len(lacking) > NAMED_MAX else ""
    return f"not passed: {', '.join(named)}{more}; expected the alarm and the restore of every point"
