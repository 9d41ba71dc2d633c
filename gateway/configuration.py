"""The configuration in force, and the one road to another: read it, check all of it, change only what differs, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger as Logger

from gateway.access import Actor
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.difference import Difference, Reload, difference
from gateway.errors import Busy, ConfigError, Problem, Refused, StoreError
from gateway.history import History
from gateway.intake import Intake, Source
from gateway.kinds import Kind, Qualifier
from gateway.metrics import Metrics
from gateway.model import Observation
from gateway.north import North, routes
from gateway.plan import Plan, prepare
from gateway.rules.doors import Doors
from gateway.south import South
from gateway.store import Store

WISHES_MAX = 16
"""Wishes for another configuration that wait for the one before; a person makes one at a time."""

STOPPING = "the gateway is stopping"


class Configuration:
    """Owns the plan in force. One wish after the other; each ends with a plan that runs as a whole."""

    def __init__(
        self,
        plan: Plan,
        *,
        south: South,
        north: North,
        intake: Intake,
        doors: Doors,
        store: Store,
        own: Source,
        audit: Audit,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        self.plan = plan
        self._south = south
        self._north = north
        self._intake = intake
        self._doors = doors
        self._store = store
        self._own = own
        self._audit = audit
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._history = History(plan.data_dir)
        self._wishes: asyncio.Queue[tuple[Actor, str, asyncio.Future[Reload]]] = asyncio.Queue(WISHES_MAX)
        self._unanswered: set[asyncio.Future[Reload]] = set()
        self._is_stopping = False

    def reload(self, actor: Actor, who: str) -> asyncio.Future[Reload]:
        """Wish, as somebody (`who`: as the history calls them), for the site file as it stands now. The answer comes when the
        wish has ended. Raises Busy."""
        if self._is_stopping:
            raise Busy(STOPPING)
        if self._wishes.full():
            raise Busy(f"{WISHES_MAX} changes of the configuration wait already")
        answer: asyncio.Future[Reload] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        answer.add_done_callback(self._unanswered.discard)
        self._wishes.put_nowait((actor, who, answer))
        return answer

    async def run(self) -> None:
        """Fulfil wishes, for ever."""
        await self._in_force(self.plan, "start")
        try:
            while True:
                actor, who, answer = await self._wishes.get()
                reload = await self._fulfil(actor, who)
                self._metrics.config_reloads.labels(reload.outcome).inc()
                if not answer.done():
                    answer.set_result(reload)
        finally:
            self._is_stopping = True
            for answer in list(self._unanswered):
                answer.set_exception(Busy(STOPPING))
                answer.exception()  # whoever asked by a signal does not look

    async def _fulfil(self, actor: Actor, who: str) -> Reload:
        try:
            new = await asyncio.to_thread(prepare, self.plan.path)
            await self._audit.record(
                actor, Deed.CONFIGURATION, f"sha256:{new.sha256}", {"who": who, "from": f"sha256:{self.plan.sha256}"}
            )
            change = await self._change_to(new)
        except StoreError as error:
            return self._refused(
                who, [Problem(str(self.plan.path), None, "audit", str(error), "a record of who did it", "审计无法写入")]
            )
        except ConfigError as error:
            return self._refused(who, error.problems)
        except Exception as error:  # noqa: BLE001  # the task boundary: a fault met while changing must not end the gateway
            self._log.exception("the configuration could not be changed: this is a fault in the program", who=who)
            found = f"a fault in the program: {type(error).__name__}: {error}"
            return self._refused(who, [Problem(str(self.plan.path), None, "file", found, "see the log", "程序错误")])
        await self._in_force(self.plan, who)
        reload = Reload("applied" if change else "unchanged", self.plan.sha256, change)
        self._log.info(
            "the site file was taken", outcome=reload.outcome, who=who, sha256=reload.sha256, **_fields(change)
        )
        return reload

    def _refused(self, who: str, problems: Sequence[Problem]) -> Reload:
        self._metrics.config_ok.set(0)
        self._log.error("the configuration stays as it was", who=who, problems=[str(problem) for problem in problems])
        return Reload("refused", self.plan.sha256, problems=tuple(problems))

    async def _in_force(self, plan: Plan, who: str) -> None:
        metrics, now = self._metrics, self._clock.now()
        metrics.config_info.clear()
        metrics.config_info.labels(plan.sha256).set(1)
        metrics.config_ok.set(1)
        metrics.config_at.set(now.timestamp())
        try:
            await asyncio.to_thread(self._history.keep, plan.text, at=now, who=who)
        except (OSError, ConfigError) as error:
            self._log.warning("the configuration cannot be kept in the history", error=str(error))

    # -- from one plan to another ----------------------------------------------------------------------------------------

    async def _change_to(self, new: Plan) -> Difference:
        """Raises ConfigError when `new` cannot be had while the gateway runs; then everything is as it was."""
        change = difference(self.plan, new)
        if change.restart:
            raise ConfigError(change.restart)
        await self._change_lines(change, new)
        old, self.plan = self.plan, new
        self._store.state.budget_bytes = new.site.store.budget_mb << 20
        if new.site.storms != old.site.storms:  # a bucket is filled anew only when it changes
            self._intake.limit(new.site.storms)
        if new.site.door != old.site.door:
            await self._change_doors(new)
        self._intake.route(routes(new))
        await self._north.drain(change.destinations.removed)
        await self._north.end(change.destinations.ending)
        self._north.begin(new, change.destinations.beginning)
        for device in (
            *(f"connection/{name}" for name in change.connections.removed),
            *(f"destination/{name}" for name in change.destinations.removed),
        ):
            await self._end_fault(device)
        return change

    async def _change_doors(self, new: Plan) -> None:
        self._doors.declare(new.site.door)
        try:
            await self._intake.recall(self._doors)
        except StoreError as error:
            self._log.warning("a new door counts as closed until its contact moves", error=str(error))

    async def _end_fault(self, device: str) -> None:
        """What is no more cannot be out of order: without this its fault would stand at the receivers for ever."""
        try:
            if (await self._store.latest(device)).get((Kind.COMM_FAULT, None)) in (Qualifier.NEW, Qualifier.UPDATE):
                restore = Observation(device, Kind.COMM_FAULT, Qualifier.RESTORE, text="已从配置中移除")
                await (await self._intake.report(self._own, [restore]))
        except StoreError as error:
            self._log.warning("a fault of what was removed stays open", device=device, error=str(error))

    async def _change_lines(self, change: Difference, new: Plan) -> None:
        """What can fail comes first: a port that is taken, a broker that does not start."""
        old, lines = self.plan, change.connections
        users_change = not {"broker.passwords", "broker.topics"}.isdisjoint(change.settings)
        self._south.check_ports(old, new, lines.beginning)
        if users_change:
            await self._south.let_in(new)
        # While lines change, an event goes to whoever is to have it under either plan.
        self._intake.route([*routes(old), *routes(new)])
        await self._south.end(lines.ending)
        try:
            await self._south.begin(new, lines.beginning)
            await self._south.listening(new, lines.beginning)
        except Exception as error:  # whatever it was, it is raised again: first the old lines come back
            await self._south.end(lines.beginning)
            await self._south.begin(old, lines.ending)
            await self._south.tidy(old)
            if users_change:
                await self._south.let_in(old)
            self._intake.route(routes(old))
            if isinstance(error, Refused):
                expected = "a broker that starts"
                raise ConfigError(
                    [Problem(str(new.path), None, "broker", str(error), expected, "消息代理无法启动")]
                ) from error
            raise
        await self._south.tidy(new)


def _fields(change: Difference) -> dict[str, object]:
    """What a log record says of a change; only what there is."""
    parts = {
        f"{what}_{how}": names
        for what, part in (("connections", change.connections), ("destinations", change.destinations))
        for how, names in (("added", part.added), ("removed", part.removed), ("replaced", part.replaced))
    }
    return {name: names for name, names in {**parts, "settings": change.settings}.items() if names}
