"""One owned task per connection: open the line, run the driver, count, back off, again. A fault in one hurts no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import ModuleType
from typing import Any, get_args

from structlog.typing import FilteringBoundLogger as Logger

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.driver import Context, LatestKey, Session
from gateway.errors import Busy, FrameError, GatewayError, LinkClosed, Reason, StoreError, leaves
from gateway.intake import Intake, Source, is_loss
from gateway.kinds import Kind, Qualifier
from gateway.metrics import Metrics
from gateway.model import Observation
from gateway.orders import Inbox, Switchboard
from gateway.receipt import Series
from gateway.recording import Recorder
from gateway.store import Store
from gateway.tasks import apart, leave_if_cancelled

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
"""A device that is back is found again within half a minute, and a dead one costs two connects a minute."""

PORT_RETRY_MOST_S = 1.5
"""A port of this machine is only looked for: one that is plugged in again is used within two seconds, however long it was away."""

STABLE_S = 10.0
"""Only a line that lasted this long starts again without waiting: one that opens and breaks at once would spin."""

REJECTS_IN_A_ROW_MAX = 200
"""Refused frames without one good one between: the peer does not speak this protocol, its line is closed."""

LOOK_S = 1.0
"""Between two looks at whether a line is away."""

DOWN_REPORTED_AFTER_S = 10.0
"""A line that is away longer than this is a fault event; a shorter flap is only a log line and a count."""

Peer = Callable[[Any], Awaitable[None]]
Open = Callable[[], AbstractAsyncContextManager[Any]]
Listen = Callable[[Peer], AbstractAsyncContextManager[Any]]


@dataclass(slots=True)
class Connection:
    """One line of the site file, ready to run. Exactly one of `open` and `listen` is set."""

    name: str
    driver: ModuleType
    driver_name: str
    context: Context
    open: Open | None = None
    """Dial, open a port, subscribe, open a bus: one conversation at a time."""
    listen: Listen | None = None
    """Bind a port; while it is open, call the function given with the link of each peer that dials in."""
    up_since: float | None = None
    is_mute: bool = False
    """Nobody on it answers, says its driver: while that is so, that it is open does not make it up."""
    peers: int = 0
    retry_most_s: float = RETRY_MOST_S
    """Longest wait between two attempts to open it."""
    down_since: float | None = None
    last_reason: str = ""
    memory: Any = None
    """What its conversations share, if the driver has something for that."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first attempt to open it has ended, well or not."""
    inbox: Inbox | None = None
    """Of a line with one conversation at a time: the orders that wait for it, also while it is down."""

    links: dict[int, Any] = field(default_factory=dict)
    """The conversations under way."""
    recorder: Recorder | None = None
    """Set while somebody records them."""

    @property
    def is_up(self) -> bool:
        return self.up_since is not None

    @contextmanager
    def recorded_by(self, recorder: Recorder) -> Iterator[None]:
        """While this lasts, conversations are told to it, also those that begin meanwhile. Raises Busy: one at a time."""
        if self.recorder is not None:
            raise Busy(f"{self.name} is being recorded already")
        self.recorder = recorder
        for link in self.links.values():
            link.tap = recorder.conversation(link.peer, under_way=True)
        try:
            yield
        finally:
            self.recorder = None
            for link in self.links.values():
                link.tap = None

    @contextmanager
    def conversation(self, link: Any) -> Iterator[None]:
        """While this lasts, the link can be recorded."""
        self.links[id(link)] = link
        if self.recorder is not None:
            link.tap = self.recorder.conversation(link.peer)
        try:
            yield
        except BaseException as error:
            self.note(link, {"closed": str(error)})
            raise
        finally:
            del self.links[id(link)]

    def note(self, link: Any, fact: Mapping[str, Any]) -> None:
        """For the recording, if there is one: what the driver was told beside the line."""
        if self.recorder is not None:
            link.tap.note(fact)


class Supervisor:
    """Runs all connections."""

    def __init__(
        self,
        *,
        intake: Intake,
        store: Store,
        switchboard: Switchboard,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        log: Logger,
        own: Source,
    ) -> None:
        self._intake = intake
        self._store = store
        self._switchboard = switchboard
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._log = log
        self._own = own
        self.connections: dict[str, Connection] = {}
        self._tasks: dict[str, Sequence[asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup

    def line_is_up(self, connection: str) -> bool:
        """False only for a configured line that is down now; a line that left the site file blames nobody."""
        found = self.connections.get(connection)
        return found is None or found.is_up

    def is_recorded(self, name: str) -> bool | None:
        """Whether somebody records this connection; None when there is no such one."""
        connection = self.connections.get(name)
        return None if connection is None else connection.recorder is not None

    @contextmanager
    def recorded(self, name: str, write: Callable[[str], object]) -> Iterator[Recorder]:
        """Record a connection while this lasts; `write` takes whole lines. Raises KeyError, Busy."""
        connection = self.connections[name]
        recorder = Recorder(self._clock, write, connection=name, driver=connection.driver)
        with connection.recorded_by(recorder):
            yield recorder

    def behind(self, connection: str, device: str) -> str | None:
        """The bridge through which alone `device` is heard on this line; None where there is none."""
        found = self.connections.get(connection)
        bridge_of = getattr(found.driver, "behind", None) if found else None
        bridge: str | None = bridge_of(device, found.context) if found and bridge_of else None
        return bridge

    async def run(self, connections: Sequence[Connection]) -> None:
        """Run these, and those that are added, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for connection in connections:
                self.add(connection)
            await asyncio.Event().wait()

    def add(self, connection: Connection) -> None:
        """Run one more beside the others."""
        name = connection.name
        connection.memory = connection.driver.Memory() if hasattr(connection.driver, "Memory") else None
        self.connections[name] = connection
        if connection.open is not None:
            connection.inbox = self._switchboard.line(name, connection.driver, connection.context)
        self._metrics.connection_up.labels(name).set(0)
        self._metrics.connection_lost.labels(name)
        self._metrics.driver_errors.labels(name)
        self._metrics.connection_peers.labels(name).set(0)
        for reason in get_args(Reason):
            self._metrics.rejected.labels(name, reason)
        self._tasks[name] = (
            self._group.create_task(self._keep(connection), name=f"connection {name}"),
            self._group.create_task(self._tell_outage(connection), name=f"outage of {name}"),
        )

    async def remove(self, names: Collection[str]) -> None:
        """End these and return when their lines are closed. The others do not notice."""
        tasks = [task for name in names for task in self._tasks.pop(name)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for name in names:
            if (inbox := self.connections.pop(name).inbox) is not None:
                self._switchboard.close(inbox)
            self._metrics.forget(connection=name)

    # -- one connection --------------------------------------------------------------------------------------------------

    async def _keep(self, connection: Connection) -> None:
        log = self._log.bind(connection=connection.name, driver=connection.driver_name)
        backoff = Backoff(self._random, first_s=RETRY_FIRST_S, most_s=connection.retry_most_s)
        connection.down_since = self._clock.monotonic()
        while True:
            error = await apart(partial(self._attempt, connection, log))
            reason = str(error) or type(error).__name__
            if not isinstance(error, GatewayError | OSError):
                self._metrics.driver_errors.labels(connection.name).inc()
                log.error("a driver failed: this is a fault in the program", exc_info=error)
                reason = "driver failed"
            up_since = connection.up_since
            self._down(connection, log, reason)
            if up_since is not None and self._clock.monotonic() - up_since >= STABLE_S:
                backoff.reset()
            await self._clock.sleep(backoff.next_s())

    async def _attempt(self, connection: Connection, log: Logger) -> None:
        if connection.listen is not None:
            async with connection.listen(partial(self._converse_with_peer, connection, log)):
                self._up(connection, log)
                await asyncio.Event().wait()
        else:
            assert connection.open is not None
            async with connection.open() as link:
                leave_if_cancelled()
                if not connection.is_mute:
                    self._up(connection, log)
                assert connection.inbox is not None
                await self._converse(connection, link, connection.inbox, log)

    async def _converse_with_peer(self, connection: Connection, log: Logger, link: Any) -> None:
        """One device that dialled in. Ends with its line; its faults are its own."""
        connection.peers += 1
        self._metrics.connection_peers.labels(connection.name).set(connection.peers)
        inbox = self._switchboard.peer(connection.name, connection.driver, connection.context)
        try:
            await self._converse(connection, link, inbox, log.bind(peer=link.peer))
        except (GatewayError, OSError) as error:
            log.debug("a peer left", peer=link.peer, reason=str(error))
        except Exception:  # the task boundary: a fault in one conversation must not reach its neighbours
            self._metrics.driver_errors.labels(connection.name).inc()
            log.exception("a driver failed: this is a fault in the program", peer=link.peer)
        finally:
            self._switchboard.close(inbox)
            connection.peers -= 1
            self._metrics.connection_peers.labels(connection.name).set(connection.peers)

    async def _converse(self, connection: Connection, link: Any, inbox: Inbox, log: Logger) -> None:
        with connection.conversation(link):
            session = self._session(connection, link, inbox, log)
            try:
                await connection.driver.run(session)
            except ExceptionGroup as group:  # of a driver with tasks of its own
                foreign = group.split((GatewayError, OSError))[1]
                if foreign is not None:
                    raise
                raise LinkClosed("; ".join(sorted({str(leaf) for leaf in leaves(group)}))) from group
            raise LinkClosed("the conversation ended")

    def _session(self, connection: Connection, link: Any, inbox: Inbox, log: Logger) -> Session[Any]:
        driver = connection.driver
        of_device = getattr(driver, "heard_within_s", None)
        series = Series()
        source = Source(
            connection.driver_name, connection.name, driver.HEARD_WITHIN_S,
            heard_within_of=partial(of_device, context=connection.context) if of_device else None, series=series,
        )  # fmt: skip
        rejects_in_a_row = 0

        async def report(observations: Sequence[Observation]) -> Any:
            nonlocal rejects_in_a_row
            rejects_in_a_row = 0
            if series.is_broken:
                raise LinkClosed("an earlier report of this conversation was not stored")
            if inbox.takes_orders:
                for observation in observations:
                    if not is_loss(observation):
                        self._switchboard.heard(observation.device, inbox)
            return await self._intake.report(source, observations)

        def reject(raw: bytes, error: FrameError) -> None:
            nonlocal rejects_in_a_row
            rejects_in_a_row += 1
            self._intake.reject(source, raw, error)
            if rejects_in_a_row >= REJECTS_IN_A_ROW_MAX and connection.driver.LINK == "stream":
                raise LinkClosed(f"{rejects_in_a_row} refused frames in a row; the last: {error}")

        def heard(device: str) -> None:
            nonlocal rejects_in_a_row
            rejects_in_a_row = 0
            if inbox.takes_orders:
                self._switchboard.heard(device, inbox)
            self._answered(connection, log)
            self._intake.heard(device, source)

        async def latest(device: str) -> Mapping[LatestKey, Qualifier]:
            found = await self._store.latest(device)
            connection.note(link, {"latest": device, "is": [[*key, qualifier] for key, qualifier in found.items()]})
            return found

        def is_enrolled(device: str) -> bool:
            known = self._intake.is_enrolled(device)
            connection.note(link, {"enrolled": device, "is": known})
            return known

        return Session(
            link=link,
            report=report,
            reject=reject,
            heard=heard,
            latest=latest,
            orders=inbox,
            context=connection.context,
            clock=self._clock,
            log=log,
            deviated=partial(self._intake.deviated, source),
            is_enrolled=is_enrolled,
            memory=connection.memory,
            mute=partial(self._mute, connection, log),
        )

    # -- up and down: once in the log, once as an event --------------------------------------------------------------------

    def _up(self, connection: Connection, log: Logger) -> None:
        connection.up_since = self._clock.monotonic()
        connection.down_since = None
        connection.last_reason = ""
        connection.tried.set()
        self._metrics.connection_up.labels(connection.name).set(1)
        log.info("the line is open")

    def _mute(self, connection: Connection, log: Logger, reason: str) -> None:
        if not connection.is_mute:
            connection.is_mute = True
            self._down(connection, log, reason)

    def _answered(self, connection: Connection, log: Logger) -> None:
        if connection.is_mute:
            connection.is_mute = False
            self._up(connection, log)

    def _down(self, connection: Connection, log: Logger, reason: str) -> None:
        if connection.is_up:
            self._metrics.connection_lost.labels(connection.name).inc()
            log.warning("the line is lost", reason=reason)
            connection.down_since = self._clock.monotonic()
        elif reason != connection.last_reason:  # once for each cause, not once for each attempt
            log.warning("the line cannot be opened", reason=reason)
        connection.up_since = None
        connection.last_reason = reason
        connection.tried.set()
        self._metrics.connection_up.labels(connection.name).set(0)

    async def _tell_outage(self, connection: Connection) -> None:
        """Report a line that stays away, and its return, once each, also across restarts."""
        device = f"connection/{connection.name}"
        told: bool | None = None
        while True:
            await self._clock.sleep(LOOK_S)
            since = connection.down_since
            is_out = since is not None and self._clock.monotonic() - since >= DOWN_REPORTED_AFTER_S
            if is_out == told or (not is_out and not connection.is_up):
                continue
            qualifier = Qualifier.NEW if is_out else Qualifier.RESTORE
            observation = Observation(device, Kind.COMM_FAULT, qualifier, text=connection.name)
            try:
                if told is None:
                    told = (await self._store.latest(device)).get((Kind.COMM_FAULT, None)) is Qualifier.NEW
                if is_out != told:
                    await (await self._intake.report(self._own, [observation]))
            except StoreError:
                continue  # tried again at the next look; the store reports its own state
            told = is_out
