"""The destinations as a plan has them: one forwarder each, begun and ended one by one, restarted when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from random import Random

from structlog.typing import FilteringBoundLogger as Logger

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.forwarders import Outlet, device_of
from gateway.intake import Intake, Route, Source
from gateway.kinds import Kind, Qualifier
from gateway.metrics import Metrics
from gateway.model import Delivery, Observation
from gateway.plan import Plan, PlannedDestination
from gateway.store import Store
from gateway.tasks import apart

DRAIN_S = 2.0
"""A forwarder that is to end gets this long to finish what is queued; the rest stays queued."""

DRAIN_LOOK_S = 0.05

STEADY_S = 60.0
"""A forwarder that ran this long is started again at once after a fault."""


def routes(plan: Plan) -> Sequence[Route]:
    """Who must get which events."""
    return [
        Route(
            each.section.name,
            each.section.lane_set,
            each.forwarder.wants,
            each.forwarder.NUMBERED,
            each.forwarder.RECEIPTS,
        )
        for each in plan.destinations
    ]


class North:
    """The side of the receivers."""

    def __init__(
        self,
        *,
        store: Store,
        intake: Intake,
        own: Source,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        log: Logger,
        proven: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self._store = store
        self._intake = intake
        self._own = own
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._log = log
        self._proven = proven
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup

    async def run(self, plan: Plan) -> None:
        """Run the destinations of a plan, and those that are begun later, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self.begin(plan, [planned.section.name for planned in plan.destinations])
            await asyncio.Event().wait()

    def begin(self, plan: Plan, names: Collection[str]) -> None:
        """Begin these destinations of the plan, each with what waits for it on disk."""
        for planned in plan.destinations:
            name = planned.section.name
            if name in names:
                self._metrics.forwarder_errors.labels(name)
                self._tasks[name] = self._group.create_task(self._forward(plan, planned), name=f"destination {name}")

    async def end(self, names: Collection[str]) -> None:
        """End these. What they have not delivered stays queued; what they have, is on disk when this returns."""
        tasks = [self._tasks.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for name in names:
            with suppress(StoreError):
                await self._store.accepted(name, [])  # nothing, behind the outcomes handed over before it
            self._metrics.forget(destination=name)

    async def drain(self, names: Collection[str] | None = None) -> None:
        """Let these (None: all) finish what is queued, for a bounded time."""
        try:
            async with asyncio.timeout(DRAIN_S):
                for name in self._tasks if names is None else names:
                    while any((await self._store.backlog(name)).count.values()):
                        await self._clock.sleep(DRAIN_LOOK_S)
        except (TimeoutError, StoreError):
            self._log.info("events are still queued where a forwarder ends; they are sent when it is there again")

    # -- one destination -------------------------------------------------------------------------------------------------

    async def _forward(self, plan: Plan, planned: PlannedDestination) -> None:
        """Run one forwarder for ever, each time from what is on disk: its faults are its own, and devices go on being heard."""
        name, metrics = planned.section.name, self._metrics
        log = self._log.bind(destination=name)
        backoff = Backoff(self._random)
        outlet = self._outlet(plan, planned, log)
        while True:
            started = self._clock.monotonic()
            error = await apart(partial(planned.forwarder.run, outlet))
            metrics.forwarder_errors.labels(name).inc()
            log.error("a forwarder failed: this is a fault in the program", exc_info=error)
            metrics.destination_up.labels(name).set(0)
            if self._clock.monotonic() - started >= STEADY_S:
                backoff.reset()
            await self._clock.sleep(backoff.next_s())

    def _outlet(self, plan: Plan, planned: PlannedDestination, log: Logger) -> Outlet:
        name = planned.section.name

        async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
            observation = Observation(device_of(name), kind, qualifier, text=text)
            await (await self._intake.report(self._own, [observation]))

        return Outlet(
            destination=name,
            settings=planned.settings,
            base=plan.base,
            account=plan.site.gateway.account,
            store=self._store,
            clock=self._clock,
            random=self._random,
            metrics=self._metrics,
            log=log,
            report=report,
            proven=self._proven if planned.forwarder.RECEIPTS else lambda _: None,
        )
