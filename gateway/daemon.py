"""The composition root: reads the plan, builds every part, owns their tasks, and takes them down in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from random import Random
from typing import Any
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger as Logger

from gateway.api import Looks, bind, create_app, serve
from gateway.backoff import Backoff
from gateway.broker import Broker
from gateway.clock import Clock
from gateway.driver import Topics
from gateway.errors import StoreError
from gateway.forwarders import Outlet
from gateway.health import Health
from gateway.housekeeping import Housekeeping
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.kinds import Kind, Qualifier
from gateway.links.modbus import open_bus
from gateway.links.mqtt import open_topics
from gateway.links.serial import open_serial
from gateway.links.tcp import dial, listen
from gateway.metrics import Metrics
from gateway.model import Observation, Place
from gateway.plan import Plan, PlannedConnection, PlannedDestination
from gateway.registry import Registry
from gateway.sdnotify import Notifier
from gateway.store.sqlite import SqliteStore
from gateway.supervisor import Connection, Open, Supervisor, apart
from gateway.timekeeping import boot_id

DRAIN_S = 2.0
"""After the last device is disconnected, forwarders get this long to finish what is in flight; the rest stays queued."""

STEADY_S = 60.0
"""A forwarder that ran this long is started again at once after a fault."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

VERSION = version("fangkong")


@dataclass(slots=True)
class Parts:
    """The running parts, for those who look at them."""

    store: SqliteStore
    registry: Registry
    intake: Intake
    health: Health
    supervisor: Supervisor
    broker: Broker | None
    metrics: Metrics
    api_socket: socket.socket


class Daemon:
    """One gateway. `run` returns when `stop` was asked for."""

    def __init__(self, plan: Plan, *, clock: Clock, random: Random, log: Logger) -> None:
        self._plan = plan
        self._clock = clock
        self._random = random
        self._log = log
        self._stop = asyncio.Event()
        self._notify = Notifier.from_environment()
        self._metrics = Metrics()
        self._boot = boot_id()
        self._subscribed_before: set[str] = set()
        """Connections for which a broker should have a session, of this run or an earlier one."""
        self._gap_untold = False
        self._own = Source(
            driver="gateway",
            connection="gateway",
            place=Place("box", plan.site.gateway.account, plan.site.gateway.name, None, 0, plan.site.gateway.name),
            proves_life=False,
        )
        self.ready = asyncio.Event()
        self.api_url = ""

    def stop(self) -> None:
        """Ask for an orderly end; asking twice changes nothing."""
        self._stop.set()

    async def run(self) -> None:
        """Start everything, serve until `stop`, take everything down. Raises StoreError, ConfigError when it cannot start."""
        async with AsyncExitStack() as stack:
            parts = await self._build(stack)
            keeping = self._housekeeping(parts)
            async with asyncio.TaskGroup() as group:
                api = group.create_task(self._serve_api(parts), name="api")
                inside = [
                    group.create_task(parts.intake.keep_rejects(), name="rejects"),
                    group.create_task(parts.intake.sum_up(), name="storms"),
                    group.create_task(parts.health.run(), name="health"),
                    group.create_task(parts.registry.watch(self._clock), name="registry"),
                    group.create_task(keeping.run(), name="housekeeping"),
                    group.create_task(keeping.prune(), name="prune"),
                    group.create_task(keeping.watch_loop(), name="loop lag"),
                ]
                if parts.broker:
                    inside.append(group.create_task(parts.broker.supervise(), name="broker"))
                north = [
                    group.create_task(self._forward(parts, planned), name=f"destination {planned.section.name}")
                    for planned in self._plan.destinations
                ]
                south = group.create_task(parts.supervisor.run(self._lines(parts)), name="connections")
                await keeping.tell_damage()
                await keeping.look_back()
                self._notify.ready()
                self.ready.set()
                self._log.info(
                    "fangkong is running", version=VERSION, api=self.api_url, data_dir=str(self._plan.data_dir)
                )
                await self._stop.wait()

                self._notify.stopping()
                self._log.info("stopping")
                await _end([south])
                await self._drain(parts)
                await _end([*north, *inside, api])
                await parts.health.flush()
        self._log.info("stopped")

    # -- building ------------------------------------------------------------------------------------------------------

    async def _build(self, stack: AsyncExitStack) -> Parts:
        plan, clock, metrics = self._plan, self._clock, self._metrics
        site = plan.site
        metrics.build_info.labels(VERSION, site.gateway.name).set(1)
        api_socket = stack.enter_context(bind(site.api.listen))
        host, port = api_socket.getsockname()[:2]
        self.api_url = f"http://{host}:{port}/"
        budget = site.store.budget_mb << 20
        store = await SqliteStore.open(
            plan.data_dir, clock, budget_bytes=budget, observe=metrics.commit_seconds.observe
        )
        stack.push_async_callback(store.close)
        registry = await Registry.open(plan.data_dir / "registry.db")
        stack.push_async_callback(registry.close)
        broker: Broker | None = None
        if any(planned.driver.LINK == "topics" for planned in plan.connections):
            broker = await stack.enter_async_context(
                Broker(site.broker, plan.data_dir, clock, self._random, self._log, base=plan.path.resolve().parent)
            )
            self._subscribed_before = {row.connection for row in await store.all_heard()}
        intake = Intake(
            store=store,
            places=registry,
            routes=[
                Route(p.section.name, p.section.lane_set, p.forwarder.wants, p.forwarder.NUMBERED)
                for p in plan.destinations
            ],
            ids=EventIds(clock, self._random),
            clock=clock,
            metrics=metrics,
            boot=self._boot,
            heard=lambda device, source: health.heard(device, source.connection, source.window_s(device)),
            storms=site.storms,
        )
        supervisor = Supervisor(
            intake=intake, store=store, clock=clock, random=self._random, metrics=metrics, log=self._log, own=self._own
        )
        about_devices = Source("gateway", "gateway", proves_life=False)
        health = Health(
            store=store,
            ledger=registry,
            clock=clock,
            metrics=metrics,
            report=partial(intake.report, about_devices),
            line_is_up=supervisor.line_is_up,
        )
        await health.load()
        await intake.load()
        return Parts(store, registry, intake, health, supervisor, broker, metrics, api_socket)

    def _lines(self, parts: Parts) -> Sequence[Connection]:
        lines = []
        for planned in self._plan.connections:
            section = planned.section
            line = Connection(section.name, planned.driver, section.driver, planned.context)
            if urlsplit(section.link).scheme == "tcp-listen":
                line.listen = partial(listen, section.link)
            else:
                line.open = self._opener(parts, planned)
            lines.append(line)
        return lines

    def _opener(self, parts: Parts, planned: PlannedConnection) -> Open:
        """How the line of a connection is opened, by the scheme of its link."""
        section, link = planned.section, planned.section.link
        log = self._log.bind(connection=section.name)
        match urlsplit(link).scheme:
            case "tcp":
                return lambda: _closing(dial(link))
            case "serial":
                return lambda: _closing(open_serial(link))
            case "mqtt":
                return partial(self._subscribed, parts, planned, log)
            case _:
                return partial(
                    open_bus, link, clock=self._clock, log=log, metrics=self._metrics, connection=section.name
                )

    @asynccontextmanager
    async def _subscribed(self, parts: Parts, planned: PlannedConnection, log: Logger) -> AsyncIterator[Topics]:
        """Topics at the broker. A session that it has lost is told before the conversation goes on."""
        assert parts.broker is not None
        name = planned.section.name
        async with open_topics(
            parts.broker.address,
            client_id=f"fangkong-{self._plan.site.gateway.name}-{name}",
            subscriptions=planned.driver.subscriptions(planned.context),
            log=log,
            had_session=name in self._subscribed_before,
        ) as link:
            self._subscribed_before.add(name)
            self._gap_untold |= link.gap_possible
            if self._gap_untold:
                # Without the connection's name: a broker that loses the sessions of several is one event.
                text = "消息代理丢失会话,可能有缺口"
                observation = Observation("gateway", Kind.COMM_FAULT, Qualifier.UPDATE, text=text)
                await (await parts.intake.report(self._own, [observation]))
                self._gap_untold = False
            yield link

    async def _forward(self, parts: Parts, planned: PlannedDestination) -> None:
        """Run one forwarder for ever, each time from what is on disk: its faults are its own, and devices go on being heard."""
        name, metrics = planned.section.name, self._metrics
        log = self._log.bind(destination=name)
        backoff = Backoff(self._random)
        outlet = self._outlet(parts, planned, log)
        metrics.forwarder_errors.labels(name)
        while True:
            started = self._clock.monotonic()
            error = await apart(partial(planned.forwarder.run, outlet))
            metrics.forwarder_errors.labels(name).inc()
            log.error("a forwarder failed: this is a fault in the program", exc_info=error)
            metrics.destination_up.labels(name).set(0)
            if self._clock.monotonic() - started >= STEADY_S:
                backoff.reset()
            await self._clock.sleep(backoff.next_s())

    def _outlet(self, parts: Parts, planned: PlannedDestination, log: Logger) -> Outlet:
        name = planned.section.name

        async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
            observation = Observation(f"destination/{name}", kind, qualifier, text=text)
            await (await parts.intake.report(self._own, [observation]))

        return Outlet(
            destination=name,
            settings=planned.settings,
            base=self._plan.path.resolve().parent,
            account=self._plan.site.gateway.account,
            store=parts.store,
            clock=self._clock,
            random=self._random,
            metrics=self._metrics,
            log=log,
            report=report,
        )

    # -- running -------------------------------------------------------------------------------------------------------

    async def _serve_api(self, parts: Parts) -> None:
        looks = Looks(
            store=parts.store,
            registry=parts.registry,
            health=parts.health,
            metrics=self._metrics,
            site=self._plan.site,
            token=self._plan.token,
            version=VERSION,
            checks=partial(self._checks, parts),
        )
        await serve(create_app(looks), parts.api_socket)

    def _checks(self, parts: Parts) -> Mapping[str, str | None]:
        """What must hold for this gateway to be ready, each with its complaint or None."""
        store = parts.store.state
        checks: dict[str, str | None] = {"store": None if store.ok else store.error, "registry": parts.registry.error}
        if parts.broker:
            checks["broker"] = None if parts.broker.is_up else "the MQTT broker does not run"
        for name, connection in parts.supervisor.connections.items():
            if connection.listen is not None:
                checks[f"connection {name}"] = (
                    None if connection.is_up else connection.last_reason or "not listening yet"
                )
        return checks

    def _housekeeping(self, parts: Parts) -> Housekeeping:
        return Housekeeping(
            store=parts.store,
            registry=parts.registry,
            health=parts.health,
            intake=parts.intake,
            metrics=self._metrics,
            clock=self._clock,
            log=self._log,
            own=self._own,
            destinations=[planned.section.name for planned in self._plan.destinations],
            boot=self._boot,
            keep=timedelta(days=self._plan.site.store.retention_days),
            alive=self._notify.watchdog,
            status=self._notify.status,
        )

    async def _drain(self, parts: Parts) -> None:
        """Let forwarders finish, for a bounded time. What they do not finish stays queued on disk."""
        try:
            async with asyncio.timeout(DRAIN_S):
                for planned in self._plan.destinations:
                    while any((await parts.store.backlog(planned.section.name)).count.values()):
                        await self._clock.sleep(0.05)
        except (TimeoutError, StoreError):
            self._log.info("stopping with events still queued; they are sent after the next start")


@asynccontextmanager
async def _closing(opening: Awaitable[Any]) -> AsyncIterator[Any]:
    link = await opening
    try:
        yield link
    finally:
        await link.close()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def run_until_signalled(plan: Plan, *, clock: Clock, random: Random, log: Logger) -> None:
    """Run a daemon; SIGTERM or SIGINT ends it in order, at whatever moment it comes, also while it starts."""
    daemon = Daemon(plan, clock=clock, random=random, log=log)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(daemon.run(), name="daemon")

            def stop() -> None:
                daemon.stop()
                if not daemon.ready.is_set():
                    task.cancel()

            # Not loop.add_signal_handler: a loop that closes gives the signal back its deadly default.
            for number in STOP_SIGNALS:
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    finally:
        for number in STOP_SIGNALS:  # the end is under way: one more signal must not make it a failure
            signal.signal(number, signal.SIG_IGN)
