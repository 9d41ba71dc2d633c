"""The HTTP side of a gateway with nothing below that is not real, and a client that speaks to it over TCP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Literal

import httpx
from fastapi import FastAPI

from gateway.access import Actor
from gateway.accounts import Accounts
from gateway.acts import CommandRecord
from gateway.api import Looks, bind, create_app, serve
from gateway.assurance import Assurance
from gateway.audit import Audit, Deed
from gateway.clock import RealClock
from gateway.commands import Commands
from gateway.commissioning import Commissioning, InTest
from gateway.config import CoverageSection, DestinationSection, GatewaySection, SiteFile
from gateway.credentials import KeyFile
from gateway.difference import Reload
from gateway.health import DeviceHealth
from gateway.ids import EventIds
from gateway.login import LogIn
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import Event, Kind, Lane, Observation, Place, Qualifier
from gateway.orders import Switchboard
from gateway.plan import Plan
from gateway.receipt import Receipt
from gateway.recording import Recorder
from gateway.registry import Registry
from gateway.secret import Secret
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import Connection

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
UNCLAIMED = DeviceHealth("stranger", "unclaimed", AT, None)
TOKEN = "correct horse battery staple"
ids = EventIds(RealClock(), Random(1))
PLACE = Place("s1", "A10B", "阳泗小区", "p1", 17, "东门")


def event(**changes: object) -> Event:
    plain = Event(ids.next(), "a001", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c1", place=PLACE)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields are the test's own


class ShiftedClock(RealClock):
    """The machine's wall clock, and what a test adds to it; its monotonic time stands still but for that, however slow the
    machine is."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.shift_s)

    def monotonic(self) -> float:
        return 1000.0 + self.shift_s


class Health:
    def __init__(self) -> None:
        self.known: list[DeviceHealth] = []
        self.connections: dict[str, str] = {}

    def states(self) -> Iterable[DeviceHealth]:
        return self.known

    def hear(self, device: str, connection: str) -> None:
        self.known.append(DeviceHealth(device, "heard", AT, None))
        self.connections[device] = connection

    def last_connection(self, device: str) -> str:
        return self.connections.get(device, "")


class Lines:
    """Connections that can be recorded, without lines."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}

    def is_recorded(self, name: str) -> bool | None:
        found = self.connections.get(name)
        return None if found is None else found.recorder is not None

    @contextmanager
    def recorded(self, name: str, write: Callable[[str], object]) -> Iterator[Recorder]:
        recorder = Recorder(RealClock(), write, connection=name, driver=self.connections[name].driver)
        with self.connections[name].recorded_by(recorder):
            yield recorder


class Box:
    """A gateway's parts, and a client that speaks to them over TCP."""

    def __init__(
        self, store: SqliteStore, registry: Registry, accounts: Accounts, audit: Audit, clock: ShiftedClock
    ) -> None:
        self.store, self.registry, self.accounts, self.audit, self.clock = store, registry, accounts, audit, clock
        self.health, self.metrics, self.lines = Health(), Metrics(), Lines()
        self.switchboard = Switchboard(lambda _: "")
        self.told: list[Observation] = []
        self.commands = Commands(
            store=store, ledger=registry, switchboard=self.switchboard, clock=RealClock(), metrics=self.metrics,
            report=self.report, audit=self.record,
        )  # fmt: skip
        self.in_test = InTest(registry, clock)
        self.commissioning = Commissioning.of(
            in_test=self.in_test, registry=registry, store=store, report=lambda _, seen: self.report(seen), audit=audit,
            clock=clock, metrics=self.metrics,
        )  # fmt: skip
        self.assurance = Assurance(registry, CoverageSection(), clock=clock, metrics=self.metrics, log=logger())
        self.failing: dict[str, str | None] = {"store": None}
        self.reloads: list[Reload] = []
        """How wishes for another configuration will end, in turn."""
        self.wishes: list[str] = []
        self.app: FastAPI
        self.looks: Looks
        self.client: httpx.AsyncClient
        self.port = 0

    async def reload(self, actor: Actor, who: str) -> Reload:
        self.wishes.append(f"{actor.id} {who}")
        return self.reloads.pop(0)

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        self.told += observations
        return Receipt.settled()

    async def record(self, actor: Actor, record: CommandRecord) -> None:
        await self.audit.record(actor, Deed.COMMAND, record.command.device, {"act": record.command.act})

    async def keep(self, *events: Event, to: tuple[str, ...] = ()) -> None:
        await (await self.store.append([Entry(each, to) for each in events]))

    async def get(self, path: str, **query: str | int | bool) -> httpx.Response:
        return await self.client.get(path, params=query)

    @asynccontextmanager
    async def open(
        self, *, token: str | None = TOKEN, language: Literal["zh-CN", "en"] = "zh-CN"
    ) -> AsyncIterator[Box]:
        site = SiteFile(
            gateway=GatewaySection(language=language),
            destination=(DestinationSection(name="centre", forwarder="dc09"),),
        )
        here = Path("site.toml")
        plan = Plan(
            here,
            Path(),
            "",
            {},
            site,
            Path("var"),
            Secret(token) if token else None,
            KeyFile(Path("unused")),
            {},
            (),
            (),
        )
        log_in = LogIn(self.accounts, self.audit, self.clock)
        self.looks = looks = Looks(
            store=self.store, registry=self.registry, health=self.health, commands=self.commands,
            commissioning=self.commissioning, metrics=self.metrics, version="1.2.3",
            clock=self.clock, plan=lambda: plan, reload=self.reload, checks=lambda: self.failing,
            accounts=self.accounts, log_in=log_in, audit=self.audit, lines=self.lines, coverage=self.assurance,
        )  # fmt: skip
        self.app = create_app(looks)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with bind("127.0.0.1:0") as sock:
            self.port = sock.getsockname()[1]
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(serve(self.app, sock))
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers) as self.client:
                    yield self
                serving.cancel()
        log_in.close()


@asynccontextmanager
async def closed_box(data_dir: Path) -> AsyncIterator[Box]:
    """A box whose parts run and whose door is still shut."""
    store = await SqliteStore.open(data_dir, RealClock())
    registry = await Registry.open(data_dir / "registry.db")
    clock = ShiftedClock()
    audit = Audit(data_dir / "audit.db", clock)
    yield Box(store, registry, await Accounts.open(registry, audit, clock), audit, clock)
    await registry.close()
    await store.close()
