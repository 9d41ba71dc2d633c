"""What the daemon does once a second beside the road: follow the ledger, watch the journal, count for the metrics, prune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.health import Health
from gateway.intake import Intake, Source
from gateway.kinds import Kind, Lane, Qualifier
from gateway.metrics import Metrics
from gateway.model import Observation
from gateway.registry import Registry
from gateway.store.sqlite import SqliteStore

LOOK_S = 1.0
"""Between two looks; also what feeds the watchdog, so that a loop that stands still is noticed."""

PRUNE_EVERY_S = 600.0


@dataclass(slots=True)
class Housekeeping:
    """Looks at all parts and decides nothing about events."""

    store: SqliteStore
    registry: Registry
    health: Health
    intake: Intake
    metrics: Metrics
    clock: Clock
    log: Logger
    own: Source
    destinations: Callable[[], Collection[str]]
    """Those of the site file."""
    keep: Callable[[], timedelta]
    """How long events are kept that nobody waits for."""
    alive: Callable[[], None]
    """Told at every look that the loop turns."""
    status: Callable[[str], None]
    """One line for `systemctl status`."""
    _shed: Counter[Lane] = field(default_factory=Counter)
    _told_of_damage: str = ""
    _said: str = ""
    _shown: Collection[str] = ()

    async def run(self) -> None:
        """For ever."""
        revision = self.registry.revision
        store_ok = True
        with suppress(StoreError):
            await self._count()  # there from the first scrape on
        while True:
            await self.clock.sleep(LOOK_S)
            self.alive()
            if self.registry.revision != revision:
                revision = self.registry.revision
                self.health.ledger_changed()
            store_ok = await self._journal_state(store_ok)
            await self.tell_damage()  # it may come to light at any time
            with suppress(StoreError):  # _journal_state says so, once
                await self._count()

    async def prune(self) -> None:
        """Remove what is too old, for ever, beside `run`: after a shorter retention it takes longer than the watchdog waits."""
        while True:
            await self.clock.sleep(PRUNE_EVERY_S)
            with suppress(StoreError):
                await self.store.prune(self.clock.now() - self.keep())

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

    async def _journal_state(self, was_ok: bool) -> bool:
        state = self.store.state
        self.metrics.store_up.set(state.ok)
        if state.ok == was_ok:
            return was_ok
        if state.ok:
            self.log.warning("events are stored again")
            text = "事件存储曾中断,现已恢复"
            await self.intake.report(
                self.own, [Observation("gateway", Kind.JOURNAL_FAULT, Qualifier.UPDATE, text=text)]
            )
        else:
            self.log.error("events cannot be stored: no device is answered until they can", reason=state.error)
        return state.ok

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
