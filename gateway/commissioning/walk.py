"""Walk tests: begun and ended by a person, ended by time in any case, and kept in the record over a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from gateway.access import Actor
from gateway.audit import Audit, Deed
from gateway.clock import PROGRAM_DATE, Clock
from gateway.commissioning.in_test import EXPECTED, Condition, InTest, WalkTest
from gateway.coverage.facts import Fact, Sort
from gateway.errors import ConfigError, Refused, StoreError
from gateway.intake import Source
from gateway.kinds import FACTS, Kind, Qualifier
from gateway.model import Event, Observation, Place, Point, Site
from gateway.receipt import Receipt
from gateway.registry import Registry
from gateway.store import EventFilter, Store

MINUTES = 60
MINUTES_MAX = 480
"""A working day: whoever walks longer begins again, and thinks of who is unprotected meanwhile."""
NAMED_MAX = 10
"""Points named in one sentence."""
LOOK_S = 1.0
"""How late the end is told. What counts as an alarm, is asked anew for each."""
TELL_WITHIN = timedelta(days=1)
"""The end of a test that came while the gateway was away is told at its next start, if that is not longer ago."""

PAGE = 1000
EVENTS_MAX = 50_000
"""Events of one site read for one test, about a second of work. A site that says more in eight hours has a storm to mend
before anybody can accept it; what comes later is then not seen, so that its points do not pass."""

Report = Callable[[Source, Sequence[Observation]], Awaitable[Receipt]]


class WalkTests:
    """Begins, ends and remembers them."""

    def __init__(
        self, *, in_test: InTest, registry: Registry, store: Store, report: Report, audit: Audit, clock: Clock
    ) -> None:
        self._in_test = in_test
        self._registry = registry
        self._store = store
        self._report = report
        self._audit = audit
        self._clock = clock

    async def start(
        self, actor: Actor, site: str, points: Sequence[str] = (), *, minutes: int = MINUTES, reason: str
    ) -> WalkTest:
        """Have these points (none: all of the site) be in test. Raises Refused, StoreError, ConfigError: then none is."""
        now = _whole_ms(self._clock.now())
        if now < PROGRAM_DATE:
            raise Refused("the clock is not set, so no end could be kept; expected a gateway that knows the time")
        if not 1 <= minutes <= MINUTES_MAX:
            raise Refused(f"{minutes} minutes; expected 1 to {MINUTES_MAX}")
        if running := self._in_test.of_site(site):
            raise Refused(f"{site} is in test until {running.ends:%H:%M:%S} UTC already; end that one first")
        chosen = self._chosen(site, points)
        ends = now + timedelta(minutes=minutes)
        points = tuple(point.id for point in chosen)
        standing = tuple(await self._standing(chosen))
        test = WalkTest(site, points, now, ends, actor.role.value, actor.id, reason, standing)
        await self._audit.record(
            actor, Deed.WALK_TEST, site, {"points": len(chosen), "minutes": minutes, "reason": reason}
        )
        await self._say(test, Qualifier.NEW)
        try:
            await self._registry.record([fact_of(test)])
        except ConfigError:
            await self._say(test, Qualifier.RESTORE)
            raise
        self._in_test.begin(test)
        return test

    async def end(self, actor: Actor, site: str) -> WalkTest:
        """From now on every alarm there is real. Raises Refused; StoreError and ConfigError when its end could not be
        written down, and it still is at its end."""
        test = self._in_test.of_site(site)
        if test is None:
            raise Refused(f"no walk test runs at {site}")
        self._in_test.stop(site)
        await self._audit.record(actor, Deed.WALK_TEST, site, {"ended": True})
        await self._ended(test, actor.id)
        return test

    def running(self, site: str) -> WalkTest | None:
        """The one that runs at a site."""
        return self._in_test.of_site(site)

    async def latest(self, site: str) -> WalkTest | None:
        """The newest that was begun at a site, with its true end. Raises ConfigError."""
        return (await self._recorded()).get(site)

    async def run(self) -> None:
        """End for ever what is over."""
        while True:
            await self._clock.sleep(LOOK_S)
            for test in self._in_test.take_over():
                try:
                    await self._ended(test, "gateway")
                except (StoreError, ConfigError):  # it is over all the same; the next start tells it
                    continue

    async def load(self) -> None:
        """Take up what runs; tell the end of what ended while nobody was here. Raises ConfigError."""
        now = self._clock.now()
        for test in (await self._recorded()).values():
            if test.begins <= now < test.ends:
                self._in_test.begin(test)
            elif now - TELL_WITHIN < test.ends <= now:
                await self._say(test, Qualifier.RESTORE)
            else:
                continue
            self._in_test.recall(await events_of(self._store, test.site, test.begins, now))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _chosen(self, site: str, wanted: Sequence[str]) -> list[Point]:
        ledger = self._registry.snapshot
        if site not in ledger.sites:
            raise Refused(f"there is no site {site}")
        there = {point.id: point for point in ledger.points.values() if point.site == site}
        if strangers := [point for point in wanted if point not in there]:
            raise Refused(f"{', '.join(strangers[:NAMED_MAX])}: expected points of {site}")
        chosen = [there[point] for point in dict.fromkeys(wanted)] or list(there.values())
        if not chosen:
            raise Refused(f"{site} has no points; plan them first")
        return sorted(chosen, key=lambda point: point.number)

    async def _standing(self, points: Collection[Point]) -> list[Condition]:
        """The alarms at these that have not ended. Raises StoreError."""
        watchers = {watcher for point in points for watcher in point.watchers}
        found = []
        for device in sorted({device for device, _ in watchers}):
            for (kind, zone), last in (await self._store.latest(device)).items():
                is_ours = (device, zone) in watchers or (device, None) in watchers
                is_open = last is Qualifier.NEW and kind in EXPECTED and not FACTS[kind].momentary
                if is_ours and is_open:
                    found.append((device, kind, zone))
        return found

    async def _ended(self, test: WalkTest, actor: str) -> None:
        now = _whole_ms(self._clock.now())
        at = min(max(now, test.begins), test.ends)
        await self._registry.record([Fact(Sort.WALK_TEST, (test.site,), None, at, actor=actor)])
        await self._say(test, Qualifier.RESTORE)

    async def _say(self, test: WalkTest, qualifier: Qualifier) -> None:
        """As an event, once, however often it is said."""
        site = self._registry.snapshot.sites.get(test.site)
        if site is None:
            return
        word = "结束" if qualifier is Qualifier.RESTORE else "开始"
        observation = Observation(
            "gateway",
            Kind.WALK_TEST,
            qualifier,
            repeat_key=f"walk-test/{test.site}/{test.begins.isoformat()}/{qualifier.value}",
            text=f"步测{word},{len(test.points)} 个点位",
            values={"points": len(test.points), "until": test.ends.isoformat()},
        )
        source = Source("gateway", "gateway", place=_place(site), proves_life=False)
        await (await self._report(source, [observation]))

    async def _recorded(self) -> dict[str, WalkTest]:
        """The newest of each site. In the order of writing, which no clock can turn round."""
        tests: dict[str, WalkTest] = {}
        after = 0
        while page := await self._registry.facts(after=after, sort=Sort.WALK_TEST):
            for fact in page:
                [site] = fact.subject
                tests[site] = recalled(fact, tests.get(site))
            after = page[-1].id
        return tests


async def events_of(store: Store, site: str, since: datetime, until: datetime) -> list[Event]:
    """What a site said from one moment up to another, the oldest first. Raises StoreError."""
    found: list[Event] = []
    wanted = EventFilter(site=site, since=since, until=until)
    while len(found) < EVENTS_MAX:
        page = await store.events(wanted, after_seq=found[-1].seq if found else 0, limit=PAGE)
        found += page
        if len(page) < PAGE:
            break
    return found


def fact_of(test: WalkTest) -> Fact:
    """What is written down of it."""
    standing = [[device, kind.value, zone] for device, kind, zone in test.standing]
    value = {"points": list(test.points), "by": test.by, "reason": test.reason, "standing": standing}
    return Fact(Sort.WALK_TEST, (test.site,), value, test.begins, test.ends, actor=test.actor)


def recalled(fact: Fact, before: WalkTest | None) -> WalkTest:
    """The test that a line of the record tells of: a new one, or the end of the one before."""
    if fact.value is None:
        assert before is not None, "an end follows a beginning"
        return replace(before, ends=fact.valid_from)
    assert fact.valid_to is not None, "a walk test always has an end"
    standing = tuple((device, Kind(kind), zone) for device, kind, zone in fact.value.get("standing", ()))
    return WalkTest(
        fact.subject[0], tuple(fact.value["points"]), fact.valid_from, fact.valid_to, fact.value["by"], fact.actor,
        fact.value["reason"], standing,
    )  # fmt: skip


def _place(site: Site) -> Place:
    return Place(site.id, site.account, site.name, None, 0, site.name, site.address)


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
