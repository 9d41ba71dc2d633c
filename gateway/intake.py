"""From what a driver saw to what is kept: who, where, how urgent, and is it a repeat. One await, on the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from gateway.clock import PROGRAM_DATE, Clock
from gateway.config import StormsSection
from gateway.errors import FrameError, StoreError
from gateway.ids import EventIds
from gateway.kinds import FACTS, Kind, Lane, Qualifier
from gateway.metrics import Metrics
from gateway.model import Event, Observation, Place, TimeQuality
from gateway.receipt import Receipt, Series
from gateway.rules.storms import Reason, Storms
from gateway.rules.vehicles import unrolled
from gateway.rules.watching import RULES, Watch
from gateway.store import Entry, EventFilter, Rejected, Store

REPEAT_WINDOW_S = 60.0
"""A condition reported again unchanged inside this window, by a protocol that gives neither sequence nor time, is a repeat."""

REUSED_KEY_S = 300.0
"""So long a key that is given anew later tells a repeat: panels try again after seconds, on each of their paths, and give
up after some minutes; none sends another event of the same content under the same number so soon."""

REPEATS_REMEMBERED = 10_000
"""Conditions remembered for that; the oldest are forgotten first."""

DEVIATING_MAX = 256
"""Devices that are named in the metric of deviations; those of further ones count together, as "other"."""

LOAD_PAGE = 500
"""Events read at once when starting: a few milliseconds of work."""

LOAD_EVENTS_MAX = 50_000
"""Events read when starting, about a second of work. After a crash in a larger storm a summary counts fewer than there were."""

UNLIMITED = StormsSection(window_s=0, burst=100_000, per_s=100_000, life_burst=100_000, life_per_s=100_000)
"""Every event is sent on, whatever a source does."""

STORM_LOOK_S = 1.0
"""How often what a storm has left to be said is looked for."""

REJECTS_WAITING = 1000
"""Refused frames waiting to be kept; beyond it they are only counted, so that rubbish cannot crowd out events."""

CLOCK_AHEAD_MAX = timedelta(minutes=2)
"""A device further ahead than this has a wrong clock."""

DEVICE_TIME_MIN = timedelta(days=366 * 2)
"""Older than this is a clock that never was set (1970, 2014), not an event that waited."""


class Places(Protocol):
    """What the registry tells the hot path."""

    def place(self, device: str, zone: int | None) -> Place | None:
        """Where a device's zone belongs; None when nobody has claimed the device."""


class Trials(Protocol):
    """What people try out (gateway/commissioning/in_test.py). Never waits."""

    def covers(self, observation: Observation) -> bool:
        """Whether it is tried out: then it is no alarm."""

    def stored(self, event: Event) -> None:
        """It is on disk."""


class NoTrials:
    """Everything is in earnest."""

    def covers(self, _: Observation) -> bool:
        return False

    def stored(self, _: Event) -> None:
        return


@dataclass(frozen=True, slots=True)
class Route:
    """A destination, the lanes it takes, and whether it can say an event at all."""

    destination: str
    lanes: frozenset[Lane]
    wants: Callable[[Event], bool] = lambda _: True
    numbered: bool = False
    """Whether each event of an account gets a sequence number there."""
    proves: bool = False
    """Whether its answer proves that a person can hear the site. It gets the gateway's tests of sites, whatever its lanes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which conversation an observation came from."""

    driver: str
    connection: str
    heard_within_s: float | None = None
    heard_within_of: Callable[[str], float | None] | None = None
    """The driver's word on one device, where its devices differ: a radio receiver can be supervised, its sensors cannot."""
    place: Place | None = None
    """Set for the gateway's own reports about itself: the box."""
    proves_life: bool = True
    """False for what the gateway says about a device: that it is silent does not prove that it lives."""
    series: Series | None = None
    """Of a conversation that ends with the first report that is not stored; None: each report stands for itself."""

    def window_s(self, device: str) -> float | None:
        """How often `device` must be heard, by its driver; None: it cannot be supervised."""
        return self.heard_within_of(device) if self.heard_within_of else self.heard_within_s


FOLLOWED = Source(RULES, RULES)
"""Source of what the watches derive. It proves no life and is bounded like any source: a contact that flaps is one."""

Heard = Callable[[str, Source], None]


class Intake:
    """The one way in."""

    def __init__(
        self,
        *,
        store: Store,
        places: Places,
        routes: Sequence[Route],
        ids: EventIds,
        clock: Clock,
        metrics: Metrics,
        heard: Heard,
        boot: str = "",
        storms: StormsSection = UNLIMITED,
        watches: Sequence[Watch] = (),
        trials: Trials | None = None,
    ) -> None:
        self._store = store
        self._places = places
        self.route(routes)
        self._ids = ids
        self._clock = clock
        self._metrics = metrics
        self.heard = heard
        self._boot = boot
        self._storms = Storms(storms, ids.next)
        self._watches = watches
        self._trials = trials or NoTrials()
        for reason in Reason:
            metrics.suppressed.labels(reason.value)
        self._recent: OrderedDict[str, tuple[float, Qualifier, Receipt]] = OrderedDict()
        self._rejects: deque[Rejected] = deque()
        self._rejects_wake = asyncio.Event()
        self._deviating: set[str] = set()

    def route(self, routes: Sequence[Route]) -> None:
        """From now on events go these ways. Of two to one destination the later counts."""
        self._routes = {
            lane: list({route.destination: route for route in routes if lane in route.lanes}.values()) for lane in Lane
        }
        self._proving = [route for route in {route.destination: route for route in routes}.values() if route.proves]
        self._numbered = frozenset(route.destination for route in routes if route.numbered)

    def limit(self, storms: StormsSection) -> None:
        """From now on sources are held to these limits."""
        self._storms.limit(storms)

    def is_enrolled(self, device: str) -> bool:
        """Whether the register has it."""
        return self._places.place(device, None) is not None

    async def report(self, source: Source, observations: Sequence[Observation]) -> Receipt:
        """Queue what is news for the next commit. The receipt covers all of `observations`.

        Waits only while the store's bound on uncommitted events is reached.
        """
        own = Receipt()
        try:
            entries, earlier = self._sort(source, observations, own)
            if not entries:
                return Receipt.of_all(list({*earlier}))
            own.when_settled(lambda _: self._settled(entries, own))
            stored = await self._store.append(entries, series=source.series)
        except BaseException:  # or what was remembered would wait for this receipt for ever
            own.settle(StoreError("not stored: the report was broken off"))
            raise
        stored.when_settled(lambda _: own.settle(stored.error, stored.repeats))
        return Receipt.of_all(list({own, *earlier}))

    def _sort(
        self, source: Source, observations: Sequence[Observation], own: Receipt
    ) -> tuple[list[Entry], list[Receipt]]:
        """What is news, and the receipts of what was reported before. News is remembered under `own` at once: the same
        may be reported again while the store makes room."""
        entries: list[Entry] = []
        earlier: list[Receipt] = []
        now = self._clock.now()
        for observation in map(partial(unrolled, now=now), observations):
            if source.proves_life and not is_loss(observation):
                self.heard(observation.device, source)
            if observation.kind is Kind.HEARTBEAT:
                continue
            if source.proves_life and self._trials.covers(observation):
                observation = replace(observation, test=True)  # noqa: PLW2901  # from here on it is what it became
            if self._watches and not self._keeps(observation):
                self._metrics.not_kept.inc()
                continue
            key = content_key(observation, now)
            if key is not None and (known := self._seen(key, observation.qualifier)) is not None:
                self._metrics.repeats.inc()
                if known is not own:
                    earlier.append(known)
                continue
            entries += self._entries(source, observation, now)
            if key is not None:
                self._remember(key, observation.qualifier, own)
        return entries, earlier

    def _keeps(self, observation: Observation) -> bool:
        return all(watch.keeps(observation) for watch in self._watches)

    def _entries(self, source: Source, observation: Observation, now: datetime) -> list[Entry]:
        """The event, what follows from it and, where it begins a flood, the fault that says so."""
        event, entries = self._judged(source, observation, now)
        if self._watches:
            now_s = self._clock.monotonic()
            for watch in self._watches:
                for derived in watch.seen(event, now_s):
                    entries += self._derived(watch, derived, now_s, now, follows=event.id)
        return entries

    def _derived(
        self, watch: Watch, observation: Observation, now_s: float, now: datetime, *, follows: str = ""
    ) -> list[Entry]:
        """What a watch says, told back to it as what it will be on disk."""
        event, entries = self._judged(FOLLOWED, observation, now)
        more = list(watch.seen(event, now_s))
        assert not more, "what is derived has no consequences"
        return [replace(entry, follows=follows) for entry in entries] if follows else entries

    def _judged(self, source: Source, observation: Observation, now: datetime) -> tuple[Event, list[Entry]]:
        """The event, and as entries it and what must be said before it."""
        place = source.place or self._places.place(observation.device, observation.zone)
        event = judge(observation, source, place=place, event_id=self._ids.next(), now=now, boot=self._boot)
        if place is None:
            return event, [Entry(event)]  # unclaimed: kept and shown, sent to nobody until a person claims the device
        if not source.proves_life:  # the gateway itself, whose words are bounded where they are made
            return event, [self._routed(event)]
        event, said = self._storms.judge(event, self._clock.monotonic())
        return event, [*map(self._routed, said), self._routed(event)]

    def _routed(self, event: Event) -> Entry:
        if event.suppressed_by is not None or not event.is_believed or is_trial(event):
            return Entry(event)
        ways = self._proving if is_site_test(event) else self._routes[event.lane]
        to = [route.destination for route in ways if route.wants(event)]
        return Entry(event, to, self._numbered)

    def _settled(self, entries: Sequence[Entry], own: Receipt) -> None:
        """Count what is on disk. What is not counts for nothing in a storm."""
        repeats = frozenset(own.repeats)
        news = []
        for position, entry in enumerate(entries):
            is_stored = own.error is None and position not in repeats
            reason = self._storms.settled(entry.event, is_stored=is_stored)
            for watch in self._watches:
                watch.settled(entry.event, is_stored=is_stored)
            if reason is not None:
                self._metrics.suppressed.labels(reason.value).inc()
            if is_stored:
                self._trials.stored(entry.event)
                news.append(entry.event)
        self._metrics.repeats.inc(len(repeats))
        self._metrics.trials.inc(sum(map(is_trial, news)))
        self._metrics.unclaimed.inc(sum(event.place is None for event in news))
        for (kind, lane), count in Counter((event.kind, event.lane) for event in news).items():
            self._metrics.events.labels(kind.value, lane.name.lower()).inc(count)
        for driver, count in Counter(event.driver for event in news).items():
            self._metrics.driver_events.labels(driver).inc(count)

    # -- what time brings ------------------------------------------------------------------------------------------------

    async def sum_up(self) -> None:
        """Say what storms have left to be said and what follows from time alone, for ever."""
        while True:
            await self._clock.sleep(STORM_LOOK_S)
            await self._say_due()

    async def _say_due(self) -> None:
        now_s, now = self._clock.monotonic(), self._clock.now()
        entries = [self._routed(event) for event in self._storms.due(now_s, now)]
        for watch in self._watches:
            for observation in watch.due(now_s, now):
                entries += self._derived(watch, observation, now_s, now)
        self._metrics.flooding.set(self._storms.flooding)
        self._metrics.storm_windows.set(self._storms.windows)
        if entries:
            stored = await self._store.append(entries)
            stored.when_settled(lambda _: self._settled(entries, stored))
            with suppress(StoreError):  # taken back, and due again at the next look
                await stored

    # -- after a start ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the last minute: a device whose answer was lost in a crash repeats after it, and storms are summed up."""
        now = self._clock.now()
        recent = await self._newest(max(self._storms.memory_s, *(watch.memory_s for watch in self._watches), 0.0))
        for event in recent:
            age_s = (now - event.received_at).total_seconds()
            # Younger than now: the clock went back meanwhile, and nobody knows how old it is. Twice is better than never.
            if not 0 <= age_s <= REUSED_KEY_S or len(self._recent) >= REPEATS_REMEMBERED:
                break
            key = recalled_key(event)
            if key is not None and age_s <= window_s(key) and key not in self._recent:
                self._recent[key] = self._clock.monotonic() - age_s, event.qualifier, Receipt.settled()
                self._recent.move_to_end(key, last=False)  # read from the newest on: the oldest are forgotten first
        self._storms.recall(_reaching_back(recent, self._storms.memory_s), self._clock.monotonic(), now)
        for event_id in self._storms.guessed:
            if await self._store.event(event_id) is None:
                self._storms.begin(event_id)
        for watch in self._watches:
            await self._recall(watch, recent, now)
        await self._say_due()  # before anything newer hides what is left from the next start

    async def recall(self, watch: Watch) -> None:
        """Let a watch take up what it watches anew. Raises StoreError."""
        await self._recall(watch, await self._newest(watch.memory_s), self._clock.now())

    async def _recall(self, watch: Watch, recent: Sequence[Event], now: datetime) -> None:
        words = {device: await self._store.latest(device) for device in watch.devices}
        watch.recall(words, _reaching_back(recent, watch.memory_s), self._clock.monotonic(), now)

    async def _newest(self, memory_s: float) -> list[Event]:
        """What storms and watches remember, counted back from the newest event: the gateway may have been away for long."""
        found: list[Event] = []
        while len(found) < LOAD_EVENTS_MAX:
            page = await self._store.events(
                EventFilter(), after_seq=found[-1].seq if found else 0, limit=LOAD_PAGE, newest_first=True
            )
            found += page
            if not page or (found[0].received_at - page[-1].received_at).total_seconds() > memory_s:
                break
        return found

    # -- repeats without a key of their own ------------------------------------------------------------------------------

    def _seen(self, key: str, qualifier: Qualifier) -> Receipt | None:
        """The receipt of the same word about the same condition. An alarm after its restore is another alarm."""
        found = self._recent.get(key)
        if found is None or found[1] is not qualifier:
            return None
        at, _, receipt = found
        if self._clock.monotonic() - at > window_s(key) or receipt.error is not None:
            del self._recent[key]
            return None
        return receipt

    def _remember(self, key: str, qualifier: Qualifier, receipt: Receipt) -> None:
        self._recent[key] = (self._clock.monotonic(), qualifier, receipt)
        self._recent.move_to_end(key)
        while len(self._recent) > REPEATS_REMEMBERED:
            self._recent.popitem(last=False)

    # -- frames that were none -------------------------------------------------------------------------------------------

    def reject(self, source: Source, raw: bytes, error: FrameError) -> None:
        """Count it with its reason and queue its bytes to be kept."""
        self._metrics.rejected.labels(source.connection, error.reason).inc()
        if len(self._rejects) < REJECTS_WAITING:
            self._rejects.append(Rejected(self._clock.now(), source.connection, f"{error.reason}: {error}"[:300], raw))
            self._rejects_wake.set()

    def deviated(self, source: Source, device: str, deviations: Sequence[str]) -> None:
        """Count, by device and name, where a frame that was accepted departs from its protocol."""
        if device not in self._deviating:
            if len(self._deviating) >= DEVIATING_MAX:
                device = "other"
            else:
                self._deviating.add(device)
        for deviation in deviations:
            self._metrics.deviations.labels(source.connection, device, deviation).inc()

    async def keep_rejects(self) -> None:
        """Write queued refusals, for ever. A disk that does not take them costs evidence, never an event."""
        while True:
            await self._rejects_wake.wait()
            self._rejects_wake.clear()
            while self._rejects:
                with suppress(StoreError):  # the store says so itself; the count in the metrics stands
                    await self._store.reject(self._rejects.popleft())


REUSED = "reused|"
"""Begins the keys that are given anew later."""


def window_s(key: str) -> float:
    """How long the key in memory tells a repeat."""
    return REUSED_KEY_S if key.startswith(REUSED) else REPEAT_WINDOW_S


def recalled_key(event: Event) -> str | None:
    """The key in memory that the event had when it came."""
    if event.repeat_key is None:
        return content_key(observation_of(event), event.received_at)
    return event.repeat_key.rpartition("|")[0] if event.repeat_key.startswith(REUSED) else None


def content_key(observation: Observation, now: datetime) -> str | None:
    """What makes an unnumbered condition without a true time recognisable inside the window; None when it must not be
    merged.

    Two presses of a panic button are two events: momentary kinds are never merged by content alone.
    """
    if observation.repeat_key is not None and observation.key_is_reused:
        return f"{REUSED}{observation.device}|{observation.repeat_key}"
    if observation.repeat_key is not None or time_quality(observation.at, now) is TimeQuality.OK:
        return None
    if observation.at is None and FACTS[observation.kind].momentary:
        return None
    facts = (
        observation.device,
        observation.kind.value,
        observation.zone,
        observation.code,
        observation.test,  # a real alarm right after a walk test is no repeat of it
        observation.at and observation.at.isoformat(),
    )
    return repr(facts)


def observation_of(event: Event) -> Observation:
    """What the event was made of, as far as repeats go by it."""
    return Observation(
        event.device,
        event.kind,
        event.qualifier,
        zone=event.zone,
        at=event.device_time,
        code=event.code,
        test=event.test,
    )


def _reaching_back(newest_first: Sequence[Event], seconds: float) -> list[Event]:
    """Those no older than this beside the newest, oldest first."""
    reach = timedelta(seconds=seconds)
    return [event for event in reversed(newest_first) if newest_first[0].received_at - event.received_at <= reach]


def is_site_test(event: Event) -> bool:
    """Whether the gateway itself sends it to see whether a site is heard."""
    return event.kind is Kind.TEST_PERIODIC and event.driver == "gateway"


def is_loss(observation: Observation) -> bool:
    """A driver that says a device cannot be reached has not heard it, nor has one that heard a stranger in its name."""
    return observation.kind in (Kind.COMM_FAULT, Kind.SECURITY) and observation.qualifier is not Qualifier.RESTORE


def is_trial(event: Event) -> bool:
    """An alarm or fault that somebody only tries out. A receiver goes by its code, which is that of a real one: it is kept and
    shown, and sent to nobody."""
    return event.test and FACTS[event.kind].lane < Lane.STATUS


def judge(
    observation: Observation, source: Source, *, place: Place | None, event_id: str, now: datetime, boot: str
) -> Event:
    """The event an observation becomes. Pure."""
    quality = time_quality(observation.at, now)
    return Event(
        id=event_id,
        device=observation.device,
        kind=observation.kind,
        qualifier=observation.qualifier,
        # A test never outranks or delays a real alarm.
        lane=Lane.STATUS if observation.test else FACTS[observation.kind].lane,
        received_at=now,
        driver=source.driver,
        connection=source.connection,
        zone=observation.zone,
        code=observation.code,
        text=observation.text,
        values=observation.values,
        device_time=observation.at,
        time_quality=quality,
        position=observation.position,
        test=observation.test,
        place=place,
        raw=observation.raw,
        repeat_key=repeat_key(observation, now, boot),
        boot=boot if now < PROGRAM_DATE else "",
    )


def time_quality(at: datetime | None, now: datetime) -> TimeQuality:
    """Whether the device's time can be believed. Without a clock of our own that is set, nobody can tell."""
    if at is None or now < PROGRAM_DATE or at > now + CLOCK_AHEAD_MAX or at < now - DEVICE_TIME_MIN:
        return TimeQuality.UNKNOWN
    return TimeQuality.OK


def repeat_key(observation: Observation, now: datetime, boot: str = "") -> str | None:
    """The store's unique key for this message: the protocol's own, else device time with content, else none.

    A time that cannot be true is no key: a clock that stands still gives it to every alarm there will ever be.
    """
    if observation.repeat_key is not None and observation.key_is_reused:
        # The last part makes it unique for ever; what comes within the window of its first is known by memory. A clock that
        # was not set begins each run of the machine at the same moment.
        run = boot if now < PROGRAM_DATE else ""
        return f"{REUSED}{observation.device}|{observation.repeat_key}|{run}/{now.timestamp() // REUSED_KEY_S:.0f}"
    if observation.repeat_key is not None:
        return f"{observation.device}|{observation.repeat_key}"
    if observation.at is None or time_quality(observation.at, now) is not TimeQuality.OK:
        return None
    content = (
        observation.kind.value,
        observation.qualifier.value,
        observation.zone,
        observation.code,
        observation.text,
        observation.test,
        sorted(observation.values.items()),
    )
    digest = hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()
    return f"{observation.device}|{observation.at.isoformat()}|{digest}"
