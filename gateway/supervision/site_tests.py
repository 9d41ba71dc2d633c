"""A test event of each site that has to be networked, in time before its last proof grows too old.

A third of the window lies between two of them: one that is lost, or two, cost the site nothing. They go to every receiver whose
answer proves something, whatever lanes it takes, marked as tests and behind everything else.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from random import Random

from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import PROGRAM_DATE, Clock
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.requirements import Duty, Family, Networking
from gateway.errors import ConfigError, StoreError
from gateway.kinds import Kind
from gateway.metrics import Metrics
from gateway.model import Observation, Place, Point, Site
from gateway.receipt import Receipt
from gateway.registry import Registry
from gateway.store import EventFilter, Store

LOOK_S = 10.0
LEDGER_EVERY_S = 60.0
"""How soon a site that was entered, or its profile, is known here."""
SHARE = 3
"""Tests in a window."""
SOON_S = 600.0
"""Within which the first test of a new site goes out; 5000 sites entered at once are eight a second."""
AT_ONCE = 100
"""In one look: after a long pause 5000 sites are tested within ten minutes."""
SITES_MAX = 5000
"""Beyond the district that a box is made for; the ledger's bound."""

Report = Callable[[Site, Observation], Awaitable[Receipt]]


def name_of(site: str) -> str:
    """Under which the gateway speaks of a site's own way to the centre."""
    return f"site/{site}"


def wanting(sites: Iterable[Site], points: Iterable[Point], networked: Mapping[str, frozenset[str]]) -> list[Site]:
    """Sites with a point whose alarms have to reach 110, given the kinds of such points by kind of site."""
    kinds: dict[str, set[str]] = {}
    for point in points:
        kinds.setdefault(point.site, set()).add(point.kind)
    none: frozenset[str] = frozenset()
    return [site for site in sites if not networked.get(site.kind, none).isdisjoint(kinds.get(site.id, none))][
        :SITES_MAX
    ]


def networked_kinds(profiles: Iterable[Fact]) -> dict[str, frozenset[str]]:
    """By kind of site: the points that have to be networked."""
    return {
        fact.subject[0]: frozenset(
            each["point_kind"]
            for each in fact.value["requirements"]
            if (each["family"], each["duty"], each["networking"]) == (Family.TECHNICAL, Duty.MANDATORY, Networking.MUST)
        )
        for fact in profiles
        if fact.value is not None
    }


class SiteTests:
    """Sends them, each when it is due."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        report: Report,
        window: Callable[[Site], timedelta],
        may_send: Callable[[], bool],
        clock: Clock,
        random: Random,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        self._store = store
        self._registry = registry
        self._report = report
        self._window = window
        self._may_send = may_send
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._log = log
        self._sites: dict[str, Site] = {}
        self._due: list[tuple[float, str]] = []
        """On the monotonic clock; one entry for each site that is known."""
        self._read_mono = float("-inf")

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except (ConfigError, StoreError) as error:
                self._log.warning("sites cannot be tested; tried again", error=str(error))
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Send what is due. Raises ConfigError, StoreError."""
        if self._clock.now() < PROGRAM_DATE or not self._may_send():
            return
        if self._clock.monotonic() - self._read_mono >= LEDGER_EVERY_S:
            await self._read_ledger()
            self._read_mono = self._clock.monotonic()
        for _ in range(AT_ONCE):
            if not self._due or self._due[0][0] > self._clock.monotonic():
                return
            await self._test(heapq.heappop(self._due)[1])

    async def _read_ledger(self) -> None:
        profiles: list[Fact] = []
        async for page in self._registry.newest(Sort.PROFILE):
            profiles += page
        found = wanting(self._registry.sites(), self._registry.points(), networked_kinds(profiles))
        known, self._sites = self._sites, {site.id: site for site in found}
        self._metrics.tested_sites.set(len(found))
        scheduled = {site for _, site in self._due}
        for site in found:
            if site.id not in known and site.id not in scheduled:
                heapq.heappush(self._due, (await self._first(site), site.id))

    async def _first(self, site: Site) -> float:
        """When its next test is due: a start begins no new pace."""
        wanted = EventFilter(device=name_of(site.id), kind=Kind.TEST_PERIODIC)
        now, soon_s = self._clock.monotonic(), self._random.uniform(0, SOON_S)
        for event in await self._store.events(wanted, limit=1, newest_first=True):
            passed_s = (self._clock.now() - event.received_at).total_seconds()
            left_s = self._pace_s(site) - passed_s
            if passed_s >= 0 and left_s > 0:
                return now + left_s
        return now + min(soon_s, self._pace_s(site))

    def _pace_s(self, site: Site) -> float:
        """Up to a tenth early, so that sites entered together do not stay together."""
        return self._window(site).total_seconds() / SHARE * self._random.uniform(0.9, 1.0)

    async def _test(self, site_id: str) -> None:
        site = self._sites.get(site_id)
        if site is None:
            return  # it has to be networked no longer
        try:
            await (await self._report(site, Observation(name_of(site.id), Kind.TEST_PERIODIC, test=True)))
        except StoreError:
            heapq.heappush(self._due, (self._clock.monotonic() + LOOK_S, site.id))
            raise
        self._metrics.site_tests.inc()
        heapq.heappush(self._due, (self._clock.monotonic() + self._pace_s(site), site.id))


def place_of(site: Site) -> Place:
    """The site as a whole, as its zone 0."""
    return Place(site.id, site.account, site.name, None, 0, site.name, site.address)
