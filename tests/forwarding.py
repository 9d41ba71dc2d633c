"""A DC-09 forwarder on the real store and real sockets, with time made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import structlog
from structlog.testing import LogCapture

from gateway.forwarders import Connect, Outlet, dc09
from gateway.forwarders.dc09 import Settings
from gateway.ids import EventIds
from gateway.metrics import Metrics
from gateway.model import Event, Kind, Lane, Place, Qualifier
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock


@dataclass
class Rig:
    store: SqliteStore
    data_dir: Path
    clock: JumpingClock
    metrics: Metrics
    logs: list[Any]
    reports: list[tuple[Kind, Qualifier, str]]
    ids: EventIds

    def event(self, number: int = 17, **changes: Any) -> Event:
        account = changes.pop("account", "A10B")
        place = Place("s1", account, "阳泗小区", f"p{number}", number, "3号楼东门")
        plain = Event(
            self.ids.next(), f"d{number}", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, self.clock.now(), "test", "c",
            place=place,
        )  # fmt: skip
        return replace(plain, **changes)

    async def append(self, *events: Event) -> None:
        await (await self.store.append([Entry(event, ["110"]) for event in events]))

    @asynccontextmanager
    async def forwarding(
        self, port: int, *, connect: Connect = asyncio.open_connection, **settings: Any
    ) -> AsyncIterator[None]:
        async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
            self.reports.append((kind, qualifier, text))

        outlet = Outlet(
            destination="110", settings=Settings(connect=f"127.0.0.1:{port}", **settings), base=self.data_dir, account="0B0C",
            store=self.store, clock=self.clock, random=Random(3), metrics=self.metrics, log=structlog.get_logger(),
            report=report, connect=connect,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            task = group.create_task(dc09.run(outlet))
            yield
            task.cancel()

    async def until(self, claim: Callable[[], bool], *, pace_s: float = 0.0) -> None:
        """Wait for a claim to come true while time passes by `pace_s` a millisecond."""
        async with asyncio.timeout(10):
            while not claim():
                await self.clock.advance(pace_s)
                await asyncio.sleep(0.001)  # noqa: TID251  # gives sockets and the store's thread a turn

    async def until_states(self, *, pace_s: float = 0.0, **counts: int) -> None:
        async with asyncio.timeout(10):
            while await self.states() != counts:
                await self.clock.advance(pace_s)
                await asyncio.sleep(0.001)  # noqa: TID251  # as above

    async def states(self) -> dict[str, int]:
        rows = await self.store.deliveries(limit=10_000)
        states = [row.state.value for row in rows]
        return {state: states.count(state) for state in set(states)}

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"fangkong_{name}", {"destination": "110", **labels}) or 0.0

    def said(self, words: str) -> int:
        return sum(entry["event"] == words for entry in self.logs)


@asynccontextmanager
async def open_rig(data_dir: Path, clock: JumpingClock) -> AsyncIterator[Rig]:
    """A store in `data_dir` and what belongs to it; logs are captured."""
    capture = LogCapture()
    structlog.configure(processors=[capture])
    store = await SqliteStore.open(data_dir, clock)
    rig = Rig(store, data_dir, clock, Metrics(), capture.entries, [], EventIds(clock, Random(5)))
    yield rig
    await rig.store.close()
    structlog.reset_defaults()
