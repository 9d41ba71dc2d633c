"""What the Modbus tests share: running simulated slaves, our bus on them, and a desk that holds what was reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.clock import Clock, RealClock
from gateway.driver import Bus, Context, FrameError, Kind, LatestKey, Observation, Qualifier, Receipt, Session
from gateway.errors import StoreError
from gateway.links.modbus import open_bus
from gateway.loader import load_module, load_profiles
from gateway.logs import logger
from gateway.metrics import Metrics
from simulators import _clock as simulated
from simulators._world import Ledger, Option, Spec, World
from simulators.modbus_points import Slave, make
from tests.driver_cases import FakeOrders

TCP = "modbus+tcp://127.0.0.1:0"
WAIT_S = 10.0

driver = load_module("drivers", "modbus_points")
shipped: Mapping[str, Any] = load_profiles(driver)


def world(seed: int = 7) -> World:
    clock = simulated.RealClock()
    return World(clock, Random(seed), Ledger(clock))


def slave(connect: str, in_world: World, device: str = "d1", **options: Option) -> Slave:
    return make(Spec(device, connect, options), in_world)


@asynccontextmanager
async def running(*slaves: Slave) -> AsyncIterator[None]:
    """The slaves on their (one) wire, until the end of the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in slaves]
        async with asyncio.timeout(WAIT_S):
            await slaves[0].wire.opened.wait()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def url_of(one: Slave, timeout_ms: int = 100) -> str:
    return f"modbus+tcp://127.0.0.1:{one.wire.port}?timeout_ms={timeout_ms}"


@asynccontextmanager
async def bus_on(
    url: str,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    reject: Callable[[bytes, FrameError], None] = lambda _raw, _error: None,
) -> AsyncIterator[Bus]:
    async with open_bus(
        url, clock=clock or RealClock(), log=logger(), metrics=metrics or Metrics(), connection="line1", reject=reject
    ) as bus:
        yield bus


@dataclass
class Desk:
    """Stands for intake and store: keeps what was reported, and the latest state as the store would."""

    stored: dict[str, dict[LatestKey, Qualifier]] = field(default_factory=dict)
    seen: list[Observation] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    is_broken: bool = False
    orders: FakeOrders = field(default_factory=FakeOrders)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        receipt = Receipt()
        if self.is_broken:
            receipt.settle(StoreError("the disk is full"))
            return receipt
        self.seen += observations
        for one in observations:
            self.stored.setdefault(one.device, {})[one.kind, one.zone] = one.qualifier
        receipt.settle()
        self.news.set()
        return receipt

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        return self.stored.get(device, {})

    def edges(self) -> list[tuple[str, Kind, Qualifier, int | None]]:
        return [(one.device, one.kind, one.qualifier, one.zone) for one in self.seen]

    async def until(self, count: int) -> None:
        """Wait for that many observations in all."""
        async with asyncio.timeout(WAIT_S):
            while len(self.seen) < count:
                self.news.clear()
                await self.news.wait()

    def session(self, bus: Bus, clock: Clock, units: Sequence[Mapping[str, Any]], **profiles: Any) -> Session[Bus]:
        settings = driver.Settings.model_validate({"units": units})
        context = Context(settings=settings, profiles={**shipped, **profiles}, connection="line1")
        return Session(
            link=bus,
            report=self.report,
            reject=lambda raw, error: None,
            heard=self.heard.append,
            latest=self.latest,
            orders=self.orders,
            context=context,
            clock=clock,
            log=logger(),
        )
