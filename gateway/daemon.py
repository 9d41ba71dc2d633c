"""The composition root: reads the plan, builds every part, owns their tasks, and takes them down in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from random import Random

from structlog.typing import FilteringBoundLogger as Logger

from gateway.access import GATEWAY, Actor
from gateway.accounts import FIRST, ONE_TIME_S, Accounts
from gateway.acts import CommandRecord
from gateway.api import Looks, bind, create_app, serve
from gateway.assurance import Assurance
from gateway.audit import FILE as AUDIT_FILE
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.commands import Commands
from gateway.commissioning import Commissioning, InTest
from gateway.commissioning.self_tests import SelfTests
from gateway.config import StoreSection
from gateway.configuration import Configuration
from gateway.coverage.contracts import contracts_of
from gateway.errors import Busy, GatewayError, StoreError
from gateway.health import Health
from gateway.housekeeping import Housekeeping
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.login import LogIn
from gateway.metrics import Metrics
from gateway.model import Observation, Place, Site
from gateway.north import North, routes
from gateway.orders import Switchboard
from gateway.plan import Plan
from gateway.receipt import Receipt
from gateway.registry import Registry
from gateway.rules.doors import Doors
from gateway.rules.vehicles import Vehicles
from gateway.sdnotify import Notifier
from gateway.south import South
from gateway.store.sqlite import SqliteStore
from gateway.supervision.proofs import Proofs
from gateway.supervision.recorder import Recorder
from gateway.supervision.site_tests import SiteTests, place_of
from gateway.supervision.tree import parents_of
from gateway.supervisor import Supervisor
from gateway.threads import helpers
from gateway.timekeeping import Heartbeat, boot_id, is_synchronised

SWITCH_INTERVAL_S = 0.0005
"""Beside a busy loop the store's thread waits so long for Python's lock, twice for each statement. Python's own 5 ms would
make a tenth of a second of a commit that takes one millisecond."""

GC_THRESHOLDS = (20_000, 20, 50)
"""New objects after which the collector looks for cycles. Hardly anything here makes any, and in a flood Python's 700 cost a
twentieth of the work."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

VERSION = version("fangkong")


@dataclass(slots=True)
class Parts:
    """The running parts, for those who look at them."""

    store: SqliteStore
    registry: Registry
    intake: Intake
    health: Health
    commands: Commands
    commissioning: Commissioning
    supervisor: Supervisor
    south: South
    north: North
    proofs: Proofs
    assurance: Assurance
    audit: Audit
    accounts: Accounts
    log_in: LogIn
    api_socket: socket.socket


class Daemon:
    """One gateway. `run` returns when `stop` was asked for."""

    def __init__(
        self,
        plan: Plan,
        *,
        clock: Clock,
        random: Random,
        log: Logger,
        is_synchronised: Callable[[], bool | None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._is_synchronised = is_synchronised
        self._heartbeat = Heartbeat(plan.data_dir / "alive", clock)
        self._clock = clock
        self._random = random
        self._log = log
        self._stop = asyncio.Event()
        self._notify = Notifier.from_environment()
        self._metrics = Metrics()
        self._boot = boot_id()
        self._own = Source(
            driver="gateway",
            connection="gateway",
            place=Place("box", plan.site.gateway.account, plan.site.gateway.name, None, 0, plan.site.gateway.name),
            proves_life=False,
        )
        self.ready = asyncio.Event()
        self.api_url = ""
        self.configuration: Configuration
        """There once `ready`."""

    def stop(self) -> None:
        """Ask for an orderly end; asking twice changes nothing."""
        self._stop.set()

    def reload(self) -> None:
        """Take the site file as it stands now. During the start this means nothing: it was read just now."""
        if self.ready.is_set():
            with suppress(Busy):  # those that wait read the file as it stands then
                self.configuration.reload(GATEWAY, "SIGHUP")

    async def run(self) -> None:
        """Start everything, serve until `stop`, take everything down. Raises StoreError, ConfigError when it cannot start."""
        async with AsyncExitStack() as stack:
            parts = await self._build(stack)
            keeping = self._housekeeping(parts)
            async with asyncio.TaskGroup() as group:
                # Alarms before pages: the road is open before anything is begun that only looks at it.
                north = group.create_task(parts.north.run(self._plan), name="destinations")
                south = group.create_task(parts.south.run(self._plan), name="connections")
                inside = [
                    group.create_task(parts.intake.keep_rejects(), name="rejects"),
                    group.create_task(parts.intake.sum_up(), name="storms"),
                    group.create_task(parts.health.run(), name="health"),
                    group.create_task(parts.commands.run(), name="commands"),
                    group.create_task(parts.commissioning.walks.run(), name="walk tests"),
                    group.create_task(self._self_tests(parts).run(), name="self-tests"),
                    group.create_task(self._recorder(parts).run(), name="supervision"),
                    group.create_task(parts.proofs.run(), name="proofs"),
                    group.create_task(self._site_tests(parts).run(), name="site tests"),
                    group.create_task(parts.assurance.run(), name="coverage"),
                    group.create_task(parts.registry.watch(self._clock), name="registry"),
                    group.create_task(keeping.run(), name="housekeeping"),
                    group.create_task(keeping.prune(), name="prune"),
                    group.create_task(keeping.watch_loop(), name="loop lag"),
                    group.create_task(keeping.watch_audit(), name="audit"),
                    group.create_task(self._invite(parts.accounts), name="first log-in"),
                ]
                configuration = group.create_task(self.configuration.run(), name="configuration")
                await keeping.tell_damage()
                await keeping.look_back()
                # Fifty routes are a tenth of a second of work, while devices say again what nobody took during the start.
                app = await asyncio.to_thread(create_app, self._looks(parts))
                api = group.create_task(serve(app, parts.api_socket), name="api")
                # What stands now stays: 75 000 objects and the register, which no collection needs to walk again. It cost 4 us
                # an event in a flood, and pauses of 30 ms.
                gc.freeze()
                stack.callback(gc.unfreeze)
                self._notify.ready()
                self.ready.set()
                self._log.info(
                    "fangkong is running", version=VERSION, api=self.api_url, data_dir=str(self._plan.data_dir)
                )
                await self._stop.wait()

                self._notify.stopping()
                self._log.info("stopping")
                await _end([configuration, south])
                await parts.north.drain()
                await _end([north, *inside, api])
                await parts.health.flush()
                with suppress(StoreError):  # then a start takes up what was last written
                    await parts.commands.flush()
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
        plan.credential.make()
        registry = await Registry.open(plan.data_dir / "registry.db")
        stack.push_async_callback(registry.close)
        audit = Audit(plan.data_dir / AUDIT_FILE, clock)
        accounts = await Accounts.open(registry, audit, clock)
        log_in = LogIn(accounts, audit, clock)
        stack.callback(log_in.close)
        doors, vehicles = Doors(site.door), Vehicles(registry)
        in_test = InTest(registry, clock)
        intake = Intake(
            store=store,
            places=registry,
            routes=routes(plan),
            ids=EventIds(clock, self._random),
            clock=clock,
            metrics=metrics,
            boot=self._boot,
            heard=lambda device, source: health.heard(device, source.connection, source.window_s(device)),
            storms=site.storms,
            watches=[doors, vehicles],
            trials=in_test,
        )
        switchboard = Switchboard(lambda device: health.last_connection(device))  # noqa: PLW0108  # made below
        supervisor = Supervisor(
            intake=intake, store=store, switchboard=switchboard, clock=clock, random=self._random, metrics=metrics,
            log=self._log, own=self._own,
        )  # fmt: skip
        about_devices = Source("gateway", "gateway", proves_life=False)
        health = Health(
            store=store,
            ledger=registry,
            clock=clock,
            metrics=metrics,
            report=partial(intake.report, about_devices),
            line_is_up=supervisor.line_is_up,
            behind=supervisor.behind,
            patience_s=vehicles.patience_s,
            contracts=contracts_of(site.coverage.contract),
        )
        commands = Commands(
            store=store,
            ledger=registry,
            switchboard=switchboard,
            clock=clock,
            metrics=metrics,
            report=partial(intake.report, about_devices),
            audit=partial(_record_command, audit),
        )
        commissioning = Commissioning.of(
            in_test=in_test,
            registry=registry,
            store=store,
            report=intake.report,
            audit=audit,
            clock=clock,
            metrics=metrics,
        )
        south = South(
            supervisor=supervisor, intake=intake, own=self._own, clock=clock, random=self._random, metrics=metrics,
            log=self._log, subscribed_before={row.connection for row in await store.all_heard()},
        )  # fmt: skip
        stack.push_async_callback(south.close_broker)
        await south.open_broker(plan)
        proofs = Proofs(store=store, registry=registry, clock=clock, metrics=metrics, log=self._log)
        north = North(
            store=store, intake=intake, own=self._own, clock=clock, random=self._random, metrics=metrics, log=self._log,
            proven=proofs.accepted,
        )  # fmt: skip
        self.configuration = Configuration(
            plan,
            south=south,
            north=north,
            intake=intake,
            doors=doors,
            store=store,
            own=self._own,
            audit=audit,
            clock=clock,
            metrics=metrics,
            log=self._log,
        )
        await health.load()
        await intake.load()
        await commands.load()
        await commissioning.walks.load()
        return Parts(
            store,
            registry,
            intake,
            health,
            commands,
            commissioning,
            supervisor,
            south,
            north,
            proofs,
            Assurance(registry, site.coverage, clock=clock, metrics=metrics, log=self._log),
            audit,
            accounts,
            log_in,
            api_socket,
        )

    async def _invite(self, accounts: Accounts) -> None:
        """A box that knows nobody says, once, how the first person gets in. Alarms do not wait for it to succeed."""
        try:
            secret = await accounts.first()
        except GatewayError as error:
            self._log.warning("the first account cannot be made; the next start tries again", error=str(error))
            return
        if secret is not None:
            # Not a log record, whose reader may be anybody. Who reads nothing of it asks for another one.
            with suppress(OSError, UnicodeError):
                sys.stdout.write(
                    f"\nfirst log-in 首次登录: {self.api_url}\n  account 账号 {FIRST}\n  one-time secret 一次性口令 {secret}\n"
                    f"  good for {ONE_TIME_S // 3600} h and one use; another one 重新获取: fangkong account passwd {FIRST}\n\n"
                )
                sys.stdout.flush()

    # -- running -------------------------------------------------------------------------------------------------------

    def _looks(self, parts: Parts) -> Looks:
        return Looks(
            store=parts.store,
            registry=parts.registry,
            health=parts.health,
            commands=parts.commands,
            coverage=parts.assurance,
            commissioning=parts.commissioning,
            lines=parts.supervisor,
            metrics=self._metrics,
            clock=self._clock,
            plan=lambda: self.configuration.plan,
            accounts=parts.accounts,
            log_in=parts.log_in,
            audit=parts.audit,
            reload=self.configuration.reload,
            version=VERSION,
            checks=partial(self._checks, parts),
        )

    def _recorder(self, parts: Parts) -> Recorder:
        parents = partial(
            parents_of,
            ledger=parts.registry,
            behind=parts.supervisor.behind,
            last_connection=parts.health.last_connection,
        )
        return Recorder(
            store=parts.store, registry=parts.registry, parents=parents, last_heard=parts.health.last_heard,
            lapses=parts.health.lapses, clock=self._clock, metrics=self._metrics, log=self._log,
            off=self._heartbeat.off(),
        )  # fmt: skip

    def _site_tests(self, parts: Parts) -> SiteTests:
        async def report(site: Site, observation: Observation) -> Receipt:
            return await parts.intake.report(replace(self._own, place=place_of(site)), [observation])

        def window(site: Site) -> timedelta:
            coverage = self.configuration.plan.site.coverage
            return timedelta(hours=coverage.proof_key_unit_h if site.is_key_unit else coverage.proof_h)

        return SiteTests(
            store=parts.store, registry=parts.registry, report=report, window=window, clock=self._clock,
            may_send=lambda: any(each.forwarder.RECEIPTS for each in self.configuration.plan.destinations),
            random=self._random, metrics=self._metrics, log=self._log,
        )  # fmt: skip

    def _self_tests(self, parts: Parts) -> SelfTests:
        return SelfTests(
            plans=lambda: self.configuration.plan.site.self_test,
            registry=parts.registry,
            commands=parts.commands,
            report=partial(parts.intake.report, Source("gateway", "gateway", proves_life=False)),
            clock=self._clock,
        )

    def _keep(self) -> StoreSection:
        return self.configuration.plan.site.store

    def _checks(self, parts: Parts) -> Mapping[str, str | None]:
        """What must hold for this gateway to be ready, each with its complaint or None."""
        store = parts.store.state
        checks: dict[str, str | None] = {"store": None if store.ok else store.error, "registry": parts.registry.error}
        return {**checks, **parts.south.complaints()}

    def _alive(self) -> None:
        self._notify.watchdog()
        self._heartbeat.beat()

    def _housekeeping(self, parts: Parts) -> Housekeeping:
        return Housekeeping(
            store=parts.store,
            registry=parts.registry,
            health=parts.health,
            intake=parts.intake,
            audit=parts.audit,
            metrics=self._metrics,
            clock=self._clock,
            log=self._log,
            own=self._own,
            destinations=lambda: [section.name for section in self.configuration.plan.site.destination],
            boot=self._boot,
            keep=self._keep,
            alive=self._alive,
            is_synchronised=self._is_synchronised,
            status=self._notify.status,
        )


async def _record_command(record: Audit, actor: Actor, asked: CommandRecord) -> None:
    command = asked.command
    details = {
        "id": command.id,
        "act": command.act.value,
        "zone": command.zone,
        "seconds": command.seconds,
        "until": command.until.isoformat() if command.until else None,
        "valid_s": command.valid_s,
        "reason": asked.reason,
    }
    await record.record(actor, Deed.COMMAND, command.device, details)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def run_until_signalled(plan: Plan, *, clock: Clock, random: Random, log: Logger) -> None:
    """Run a daemon; SIGTERM or SIGINT ends it in order, at whatever moment it comes, also while it starts. SIGHUP reads
    the site file anew."""
    daemon = Daemon(plan, clock=clock, random=random, log=log, is_synchronised=is_synchronised)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(helpers())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
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
            signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(daemon.reload))
    finally:
        for number in (
            *STOP_SIGNALS,
            signal.SIGHUP,
        ):  # the end is under way: one more signal must not make it a failure
            signal.signal(number, signal.SIG_IGN)
