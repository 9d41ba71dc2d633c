"""What the daemon does once a second beside the road: follow the ledger, watch journal and clock, count for the metrics,
prune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from structlog.typing import FilteringBoundLogger as Logger

from gateway.audit import Audit
from gateway.clock import PROGRAM_DATE, Clock
from gateway.config import StoreSection
from gateway.errors import StoreError
from gateway.health import Health
from gateway.intake import Intake, Source
from gateway.kinds import Kind, Lane, Qualifier
from gateway.metrics import Metrics
from gateway.model import Observation
from gateway.registry import Registry
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.timekeeping import JUMP_MIN, ClockWatch

LOOK_S = 1.0
"""Between two looks; also what feeds the watchdog, so that a loop that stands still is noticed."""

PRUNE_EVERY_S = 600.0

AGES_DOUBTED = timedelta(days=7)
"""After the clock has moved by more than a day nothing is removed by age for this long: time for a person to see the event
and put right a clock that runs in the wrong year. The disk budget still holds. A pause as long as this is told at the start."""

STEPS_READ = 1000
"""Steps of the clock looked at for that; a clock that steps more often than every ten minutes is moved a little each time."""

DAY_S = 86_400

LAG_LOOK_S = 0.1
"""Between two looks at how late the loop wakes: a stop of 50 ms is met in every second case, at ten wake-ups a second."""

AUDIT_LOOK_S = 10.0
"""Between two looks at whether the audit record is what it was; what is scraped is seldom younger."""


GRANTS = frozenset({Kind.ACCESS_GRANTED, Kind.CREDENTIAL, Kind.EXIT_REQUEST, Kind.DOOR_OPEN})
"""What tells who passed where and when, with no alarm about it."""


GATEWAY = "gateway"
UNKEPT_TOLD_S = 600.0
"""After a start an NTP client takes minutes to find its servers; a clock left alone drifts by seconds a day."""


@dataclass(slots=True)
class Housekeeping:
    """Looks at all parts and decides nothing about events."""

    store: SqliteStore
    registry: Registry
    health: Health
    intake: Intake
    audit: Audit
    metrics: Metrics
    clock: Clock
    log: Logger
    own: Source
    destinations: Callable[[], Collection[str]]
    """Those of the site file."""
    is_synchronised: Callable[[], bool | None]
    """Whether somebody keeps the machine's clock right; None: nobody can tell."""
    boot: str
    """Which run of the machine this is."""
    keep: Callable[[], StoreSection]
    """How long events are kept that nobody waits for."""
    alive: Callable[[], None]
    """Told at every look that the loop turns."""
    status: Callable[[str], None]
    """One line for `systemctl status`."""
    _shed: Counter[Lane] = field(default_factory=Counter)
    _told_of_damage: str = ""
    _said: str = ""
    _failures: int = 0
    _is_failing: bool = False
    """Told, and not yet told to be over."""
    _shown: Collection[str] = ()
    _unkept_since: float | None = None
    """Since when nobody keeps the clock right, monotonic."""
    _unkept_told: bool | None = None
    """What stands in the log of that; None: not looked yet."""
    _watch: ClockWatch = field(init=False)
    _step: timedelta = timedelta()
    """What the wall clock has stepped by and nobody was told yet."""

    def __post_init__(self) -> None:
        self._watch = ClockWatch(self.clock)

    async def run(self) -> None:
        """For ever."""
        revision = self.registry.revision
        with suppress(StoreError):
            await self._count()  # there from the first scrape on
        while True:
            await self.clock.sleep(LOOK_S)
            self.alive()
            if self.registry.revision != revision:
                revision = self.registry.revision
                self.health.ledger_changed()
            await self._journal_state()
            await self._clock_state()
            await self._clock_kept()
            await self.tell_damage()  # it may come to light at any time
            with suppress(StoreError):  # _journal_state says so, once
                await self._count()

    async def prune(self) -> None:
        """Remove what is too old, for ever, beside `run`: after a shorter retention it takes longer than the watchdog waits."""
        watch = ClockWatch(self.clock)
        while True:
            await self.clock.sleep(PRUNE_EVERY_S)
            if watch.step():
                continue  # the event that says so may not be stored yet
            with suppress(StoreError):
                if await self._ages_are_true():
                    await self._prune_events(self.keep())
                    await self.audit.prune()

    async def _prune_events(self, keep: StoreSection) -> None:
        """What is older than its class may be, each removal in the log with its count."""
        prune = self.store.prune
        for what, days, some in (
            ("all", keep.retention_days, prune),
            ("bulk", keep.positions_days, partial(prune, lane=Lane.BULK)),
            ("grants", keep.grants_days, partial(prune, lane=Lane.STATUS, kinds=GRANTS)),
        ):
            if count := await some(self.clock.now() - timedelta(days=days)):
                self.log.info("events were removed by their age", what=what, older_than_days=days, count=count)

    async def _ages_are_true(self) -> bool:
        now = self.clock.now()
        wanted = EventFilter(device="gateway", kind=Kind.CLOCK_SET, since=now - AGES_DOUBTED, until=now)
        steps = await self.store.events(wanted, limit=STEPS_READ, newest_first=True)
        # Anybody may call his device "gateway"; only what we said ourselves counts.
        return all(abs(float(step.values["by_s"] or 0)) < DAY_S for step in steps if step.driver == self.own.driver)

    async def watch_loop(self) -> None:
        """Measure, for ever, how late the event loop wakes."""
        while True:
            before = self.clock.monotonic()
            await self.clock.sleep(LAG_LOOK_S)
            self.metrics.loop_lag_seconds.observe(max(0.0, self.clock.monotonic() - before - LAG_LOOK_S))

    async def watch_audit(self) -> None:
        """Hold, for ever, the audit record against what was seen of it, and show its head: who has scraped that can tell later
        whether rows were cut off."""
        complaint = ""
        while True:
            before, complaint = complaint, await self._audit_complaint()
            if complaint and not before:
                self.log.error("the audit record is not in order", found=complaint)
            self.metrics.audit_ok.set(not complaint)
            self.metrics.audit_rows.set(self.audit.head.seq)
            self.metrics.audit_head.set(self.audit.head.mark)
            await self.clock.sleep(AUDIT_LOOK_S)

    async def _audit_complaint(self) -> str:
        try:
            await self.audit.look()
        except StoreError as error:
            return str(error)
        return self.audit.fault

    # -- the clock -----------------------------------------------------------------------------------------------------

    async def look_back(self) -> None:
        """At the start: a wall clock that stands before what was stored last, or long after all that is, is an event."""
        now = self.clock.now()
        with suppress(StoreError):  # then _journal_state has something worse to say
            newest = await self.store.events(EventFilter(), limit=1, newest_first=True)
            moments = [event.received_at for event in newest]
            moments += [row.at for row in await self.store.all_heard() if row.at and row.at <= now]
            if (
                moments
                and not -JUMP_MIN < (step := now - (moments[0] if now < moments[0] else max(moments))) < AGES_DOUBTED
            ):
                await self._tell_clock(
                    step, "上次记录以来停机过久,或时钟已改" if step > timedelta() else "时钟早于上次记录"
                )

    async def _clock_state(self) -> None:
        """Report a step of the wall clock, once, and correct what came before the clock was set."""
        self._step += self._watch.step()
        if not self._step:
            return
        step, before = self._step, self.clock.now() - self._step
        with suppress(StoreError):  # told at a later look
            await self._tell_clock(step, "网关时钟跳变" if before >= PROGRAM_DATE else "网关时钟校准")
            if before < PROGRAM_DATE:
                await self.store.correct_times(self.boot, step)
            self._step -= step

    async def _clock_kept(self) -> None:
        """Nobody keeps the clock right: told once it lasts, and when it is over, also by a later start."""
        is_kept = self.is_synchronised()
        if is_kept is None:
            return
        self.metrics.clock_synchronised.set(is_kept)
        now_s = self.clock.monotonic()
        if is_kept or self._unkept_since is None:
            self._unkept_since = None if is_kept else now_s
        lasts = self._unkept_since is not None and now_s - self._unkept_since >= UNKEPT_TOLD_S
        if (lasts or is_kept) and lasts is not self._unkept_told:
            with suppress(StoreError):  # told at a later look
                latest = await self.store.latest(GATEWAY)
                if lasts is not (latest.get((Kind.CLOCK_FAULT, None)) is Qualifier.NEW):
                    text = "网关时钟未同步" if lasts else "网关时钟已同步"
                    qualifier = Qualifier.NEW if lasts else Qualifier.RESTORE
                    observation = Observation(GATEWAY, Kind.CLOCK_FAULT, qualifier, text=text)
                    await (await self.intake.report(self.own, [observation]))
                    self.log.warning("the clock is kept right again" if is_kept else "nobody keeps the clock right")
                self._unkept_told = lasts

    async def _tell_clock(self, step: timedelta, text: str) -> None:
        seconds = round(step.total_seconds(), 3)
        observation = Observation("gateway", Kind.CLOCK_SET, text=f"{text} {seconds:+.0f} 秒", values={"by_s": seconds})
        await (await self.intake.report(self.own, [observation]))
        self.log.warning("the wall clock was set", by_s=seconds)

    async def tell_damage(self) -> None:
        """Report, once, a damaged event log that was set aside."""
        name = self.store.state.salvaged
        if name == self._told_of_damage:
            return
        observation = Observation("gateway", Kind.JOURNAL_FAULT, text=f"事件存储损坏,已另存为 {name}")
        try:
            await (await self.intake.report(self.own, [observation]))
        except StoreError:
            return  # told at a later look; _journal_state says that nothing can be stored
        self.log.error("the event log was damaged; it was set aside and what could be read was taken over", file=name)
        self._told_of_damage = name

    async def _journal_state(self) -> None:
        """Say once that the store fails, and once that it is over: also when it was over before anybody looked."""
        state = self.store.state
        self.metrics.store_up.set(state.ok)
        if state.failures != self._failures and not self._is_failing:
            self._is_failing = True
            self.log.error("events cannot be stored: no device is answered until they can", reason=state.error)
        self._failures = state.failures
        if not self._is_failing or not state.ok:
            return
        text = "事件存储曾中断,现已恢复"
        with suppress(StoreError):  # then it is not over
            observation = Observation("gateway", Kind.JOURNAL_FAULT, Qualifier.UPDATE, text=text)
            await (await self.intake.report(self.own, [observation]))
            self._is_failing = False
            self.log.warning("events are stored again")

    async def _count(self) -> None:
        metrics, state = self.metrics, self.store.state
        metrics.store_bytes.set(state.size_bytes)
        metrics.store_budget_bytes.set(state.budget_bytes)
        metrics.uncommitted.set(self.store.uncommitted)
        for lane, count in state.stored.items():
            metrics.stored.labels(lane.name.lower()).set(count)
        for lane, total in state.shed.items():
            metrics.shed.labels(lane.name.lower()).inc(total - self._shed[lane])
            self._shed[lane] = total
        waiting = await self._count_outbox()
        kept = "stored" if state.ok else f"NOT stored: {state.error}"
        status = f"events are {kept}; {sum(state.stored.values())} on disk, {waiting} to be sent"
        if status != self._said:
            self.status(status)
            self._said = status

    async def _count_outbox(self) -> int:
        """What waits for each destination, also for those that left the site file. Returns the sum."""
        metrics, now = self.metrics, self.clock.now()
        configured = self.destinations()
        names = {*configured, *await self.store.destinations()}
        waiting = 0
        for name in sorted(names):
            backlog = await self.store.backlog(name)
            for lane, count in backlog.count.items():
                metrics.pending.labels(name, lane.name.lower()).set(count)
                oldest = backlog.oldest.get(lane)
                age = (now - oldest).total_seconds() if oldest else 0.0
                metrics.oldest_seconds.labels(name, lane.name.lower()).set(max(0.0, age))
            metrics.dead.labels(name).set(backlog.dead)
            metrics.destination_configured.labels(name).set(name in configured)
            waiting += sum(backlog.count.values())
        for name in {*self._shown} - names:
            metrics.forget(destination=name)
        self._shown = names
        return waiting
