"""Proofs: the receiving centre has said that it took an event of this site."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import PROGRAM_DATE, Clock
from gateway.coverage.facts import Fact, Sort
from gateway.errors import ConfigError, StoreError
from gateway.kinds import Kind, Lane
from gateway.metrics import Metrics
from gateway.model import Delivery, DeliveryState, Event
from gateway.registry import Registry
from gateway.store import EventFilter, Store

LOOK_S = 5.0
EVERY = timedelta(minutes=1)
"""Between two proofs of a site: a storm of alarms proves no more than its newest."""
RECALLED = 2000
"""Of the newest events, those that were accepted in the moment of a crash are looked for."""
PAGE = 500
RETRY_S = 5.0


class Proofs:
    """Keeps the newest proof of each site until it is on disk."""

    def __init__(self, *, store: Store, registry: Registry, clock: Clock, metrics: Metrics, log: Logger) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._waiting: dict[str, Fact] = {}
        self._written: dict[str, datetime] = {}
        """By site: the moment of its last proof on disk."""

    def accepted(self, rows: Sequence[Delivery]) -> None:
        """A receiver has taken these, and that is on disk."""
        now = self._clock.now()
        if now < PROGRAM_DATE:
            return  # nobody knows when that was
        for row in rows:
            self._proven(row.event, row.accepted_at or now)

    def _proven(self, event: Event, at: datetime) -> None:
        rung = rung_of(event)
        if rung is None or event.place is None or event.place.site == "box":
            return
        value = {"rung": rung, "event": event.id}
        site, fact = event.place.site, Fact(Sort.PROOF, (event.place.site,), value, at, key=f"proof|{event.id}")
        known = self._waiting.get(site)
        if known is None or _worth(fact) >= _worth(known):
            self._waiting[site] = fact

    async def run(self) -> None:
        """Write them, for ever."""
        is_read = False
        while True:
            try:
                if not is_read:
                    await self.begin()
                    is_read = True
                await self.write()
            except (ConfigError, StoreError) as error:
                self._log.warning("proofs of the sites cannot be recorded; tried again", error=str(error))
                await self._clock.sleep(RETRY_S)
            await self._clock.sleep(LOOK_S)

    async def begin(self) -> None:
        """What was proven, also in the moment of a crash. Raises ConfigError, StoreError."""
        async for page in self._registry.newest(Sort.PROOF):
            self._written.update((fact.subject[0], fact.valid_from) for fact in page)
        newest = await self._store.events(EventFilter(), limit=1, newest_first=True)
        after = max(0, newest[0].seq - RECALLED) if newest else 0
        while rows := await self._store.deliveries(state=DeliveryState.ACCEPTED, after_seq=after, limit=PAGE):
            after = rows[-1].event.seq
            for row in rows:
                site, at = row.event.place.site if row.event.place else "", row.accepted_at
                if at is not None and at > self._written.get(site, PROGRAM_DATE):
                    self._proven(row.event, at)

    async def write(self) -> None:
        """Those that are due. Raises ConfigError."""
        now = self._clock.now()
        due = {
            site: fact
            for site, fact in self._waiting.items()
            if not timedelta() <= now - self._written.get(site, PROGRAM_DATE) < EVERY
        }
        facts = list(due.values())
        for start in range(0, len(facts), PAGE):
            page = facts[start : start + PAGE]
            await self._registry.record(page)
            self._metrics.facts.labels(Sort.PROOF.value).inc(len(page))
        for site, fact in due.items():
            self._written[site] = fact.valid_from
            if self._waiting.get(site) is fact:
                del self._waiting[site]


def rung_of(event: Event) -> str | None:
    """How far up the ladder it reaches: what is neither an alarm nor a test of the site proves nothing."""
    if event.test or event.kind is Kind.TEST_PERIODIC:
        return "test_accepted"
    return "alarm_accepted" if event.lane <= Lane.ALARM else None


def _worth(fact: Fact) -> tuple[bool, datetime]:
    """Of two in the same minute an alarm proves more."""
    assert fact.value is not None
    return fact.value["rung"] == "alarm_accepted", fact.valid_from
