"""The lines to devices as a plan has them: how each is opened, begun and ended one by one, and the broker some of them need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger as Logger

from gateway.broker import Broker
from gateway.clock import Clock
from gateway.difference import broker_keeps_all, has_topics
from gateway.driver import Topics
from gateway.errors import ConfigError, Problem
from gateway.intake import Intake, Source
from gateway.kinds import Kind, Qualifier
from gateway.links import tcp, udp
from gateway.links.endpoint import LISTENING, why_taken
from gateway.links.modbus import open_bus
from gateway.links.mqtt import open_topics
from gateway.links.serial import open_serial
from gateway.links.tcp import dial
from gateway.metrics import Metrics
from gateway.model import Observation
from gateway.plan import Plan, PlannedConnection
from gateway.supervisor import PORT_RETRY_MOST_S, Connection, Open, Supervisor

LISTENING_WITHIN_S = 5.0
"""A port is had at once or not at all; this is for a loop that is busy."""

LISTEN = {"tcp-listen": tcp.listen, "udp-listen": udp.listen}
PORTS = frozenset({"serial", "modbus+rtu"})
"""Schemes of links that are a port of this machine."""


class South:
    """The side of the devices."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        intake: Intake,
        own: Source,
        subscribed_before: set[str],
        clock: Clock,
        random: Random,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        """`subscribed_before`: connections for which a broker should have a session, of an earlier run."""
        self._supervisor = supervisor
        self._intake = intake
        self._own = own
        self._subscribed_before = subscribed_before
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._log = log
        self._gap_untold = False
        self._dropped: int | None = None
        """What the broker has last said."""
        self.broker: Broker | None = None
        self._broker_open = AsyncExitStack()
        self._tasks: asyncio.TaskGroup
        self._broker_task: asyncio.Task[None] | None = None

    async def open_broker(self, plan: Plan) -> None:
        """Start the broker if the plan needs one and none is there. Raises ConfigError, Refused."""
        if self.broker is None and has_topics(plan):
            broker = Broker(
                plan.site.broker, plan.data_dir, self._clock, self._random, self._log, base=plan.base,
                keeps_all=broker_keeps_all(plan),
            )  # fmt: skip
            try:
                self.broker = await self._broker_open.enter_async_context(broker)
            except ConfigError as error:
                raise plan.placed(error) from error

    async def let_in(self, plan: Plan) -> None:
        """Tell a broker of our own whom the plan lets in. Raises ConfigError."""
        if self.broker is None:
            return
        try:
            await self.broker.let_in(plan.site.broker)
        except OSError as error:
            found, line = error.strerror or str(error), plan.line_of_key("broker.passwords")
            problem = Problem(str(plan.path), line, "broker.passwords", found, "files that can be written", "无法写入")
            raise ConfigError([problem]) from error

    async def close_broker(self) -> None:
        """End the broker, if there is one."""
        if self._broker_task is not None:
            self._broker_task.cancel()
            await asyncio.wait([self._broker_task])
            self._broker_task = None
        self.broker = None
        await self._broker_open.aclose()

    async def run(self, plan: Plan) -> None:
        """Run the lines of a plan, whose broker is open, and those that are begun later, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._keep_broker()
            await self._supervisor.run([self._line(plan, planned) for planned in plan.connections])

    async def begin(self, plan: Plan, names: Collection[str]) -> None:
        """Begin these lines of the plan, and a broker if there must be one now. Raises ConfigError, Refused."""
        await self.open_broker(plan)
        self._keep_broker()
        for planned in plan.connections:
            if planned.section.name in names:
                self._supervisor.add(self._line(plan, planned))

    async def end(self, names: Collection[str]) -> None:
        """End these lines, where they run."""
        await self._supervisor.remove([name for name in names if name in self._supervisor.connections])

    async def tidy(self, plan: Plan) -> None:
        """End the broker when the plan has no use for it."""
        if not has_topics(plan):
            await self.close_broker()

    def check_ports(self, old: Plan, new: Plan, names: Collection[str]) -> None:
        """Before anything is touched: the new ports of these lines, but for those the old plan holds. Raises ConfigError."""
        ours = {_port(section.link) for section in old.site.connection}
        problems = [
            _taken(new, section.name, found)
            for section in new.site.connection
            if section.name in names and _port(section.link) not in ours and (found := _why_taken(section.link))
        ]
        if problems:
            raise ConfigError(problems)

    async def listening(self, plan: Plan, names: Collection[str]) -> None:
        """Wait for the ports among these lines. Raises ConfigError when some cannot be had after all."""
        problems = []
        for name in names:
            connection = self._supervisor.connections[name]
            if connection.listen is None:
                continue  # whether a device, a cable or a broker is there now says nothing about the site file
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTENING_WITHIN_S):
                    await connection.tried.wait()
            if not connection.is_up:
                problems.append(_taken(plan, name, connection.last_reason or "does not open"))
        if problems:
            raise ConfigError(problems)

    def complaints(self) -> Mapping[str, str | None]:
        """What must hold for the gateway to be ready, each with its complaint or None."""
        checks: dict[str, str | None] = {}
        if self.broker is not None:
            checks["broker"] = None if self.broker.is_up else "the MQTT broker does not run"
        for name, connection in self._supervisor.connections.items():
            if connection.listen is not None:
                complaint = None if connection.is_up else connection.last_reason or "not listening yet"
                checks[f"connection {name}"] = complaint
        return checks

    # -- opening ---------------------------------------------------------------------------------------------------------

    def _keep_broker(self) -> None:
        if self.broker is not None and self._broker_task is None:
            self._broker_task = self._tasks.create_task(self.broker.supervise(), name="broker")

    def _line(self, plan: Plan, planned: PlannedConnection) -> Connection:
        section = planned.section
        line = Connection(section.name, planned.driver, section.driver, planned.context)
        scheme = urlsplit(section.link).scheme
        if listen := LISTEN.get(scheme):
            line.listen = partial(listen, section.link)
        else:
            line.open = self._opener(plan, planned)
        if scheme in PORTS:
            line.retry_most_s = PORT_RETRY_MOST_S
        return line

    def _opener(self, plan: Plan, planned: PlannedConnection) -> Open:
        """How the line of a connection is opened, by the scheme of its link."""
        section, link = planned.section, planned.section.link
        log = self._log.bind(connection=section.name)
        match urlsplit(link).scheme:
            case "tcp":
                return lambda: _closing(dial(link))
            case "serial":
                return lambda: _closing(open_serial(link))
            case "mqtt":
                return partial(self._subscribed, plan.site.gateway.name, planned, log)
            case _:
                return partial(
                    open_bus, link, clock=self._clock, log=log, metrics=self._metrics, connection=section.name,
                    reject=partial(self._intake.reject, Source(section.driver, section.name)),
                )  # fmt: skip

    @asynccontextmanager
    async def _subscribed(self, box: str, planned: PlannedConnection, log: Logger) -> AsyncIterator[Topics]:
        """Topics at the broker. A session that it has lost is told before the conversation goes on."""
        assert self.broker is not None
        name = planned.section.name
        async with open_topics(
            self.broker.address,
            client_id=f"fangkong-{box}-{name}",
            subscriptions=planned.driver.subscriptions(planned.context),
            log=log,
            had_session=name in self._subscribed_before,
            dropped=self._broker_drops,
        ) as link:
            self._subscribed_before.add(name)
            self._gap_untold |= link.gap_possible
            if self._gap_untold:
                # Without the connection's name: a broker that loses the sessions of several is one event.
                text = "消息代理丢失会话,可能有缺口"
                observation = Observation("gateway", Kind.COMM_FAULT, Qualifier.UPDATE, text=text)
                await (await self._intake.report(self._own, [observation]))
                self._gap_untold = False
            yield link

    def _broker_drops(self, count: int) -> None:
        """Count what it drops from now on; when it begins to count anew, it was started anew."""
        before, self._dropped = self._dropped, count
        if before is None or count == before:
            return
        more = count - before if count > before else count
        self._metrics.broker_dropped.inc(more)
        self._log.warning("the broker has dropped messages", count=more)


def _why_taken(link: str) -> str:
    return why_taken(link) if urlsplit(link).scheme in LISTENING else ""


def _port(link: str) -> tuple[bool, int | None]:
    """UDP has ports of its own."""
    parts = urlsplit(link)
    return parts.scheme == "udp-listen", parts.port


def _taken(plan: Plan, name: str, found: str) -> Problem:
    line = plan.line("connection", name, "link")
    return Problem(str(plan.path), line, f"connection.{name}.link", found, "a port that is free", "端口被占用")


@asynccontextmanager
async def _closing(opening: Awaitable[Any]) -> AsyncIterator[Any]:
    link = await opening
    try:
        yield link
    finally:
        await link.close()
