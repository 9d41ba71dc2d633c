"""Self-tests by the month: each device that can is told to test itself, by day, and its answer is kept with its points."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta

from gateway.access import GATEWAY
from gateway.acts import Act, Command, CommandRecord, CommandState
from gateway.clock import PROGRAM_DATE, Clock
from gateway.commands import Commands
from gateway.config import SelfTestSection
from gateway.coverage.days import LOCAL
from gateway.coverage.facts import Fact, Sort
from gateway.errors import Busy, ConfigError, Refused, StoreError
from gateway.kinds import Kind, Qualifier
from gateway.model import Observation
from gateway.receipt import Receipt
from gateway.registry import Registry

LOOK_S = 30.0
"""How late one begins: nobody waits for it."""
AT_ONCE = 16
"""Devices told at once: a quarter of what a line can have under way, so that people's commands find room."""
ANSWER_LOOK_S = 1.0
REASON = "monthly self-test"
CODE = "self_test"
"""The cause of a fault that a self-test found, as its event says it."""


class SelfTests:
    """Begins what is due, once, and writes down what came of it."""

    def __init__(
        self,
        *,
        plans: Callable[[], Sequence[SelfTestSection]],
        registry: Registry,
        commands: Commands,
        report: Callable[[Sequence[Observation]], Awaitable[Receipt]],
        clock: Clock,
    ) -> None:
        self._plans = plans
        self._registry = registry
        self._commands = commands
        self._report = report
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(LOOK_S)
            for plan in self._plans():
                try:
                    await self.look(plan)
                except (StoreError, ConfigError, Busy):
                    continue  # not done, so due at the next look, which finds what was told already; who fails says so itself

    async def look(self, plan: SelfTestSection) -> None:
        """Test one site, if that is due and no time of quiet. Raises StoreError, ConfigError, Busy: then it stays due."""
        now = self._clock.now()
        if now < PROGRAM_DATE or is_quiet(plan, now) or plan.site not in self._registry.snapshot.sites:
            return
        due, before = last_due(plan, now), await self._before(plan.site)
        if (done := before.get(("", ""))) is not None and datetime.fromisoformat(str(done["due"])) >= due:
            return
        for device in self._able(plan.site):
            await self._test(plan.site, device, due, before)
        await self._write(Fact(Sort.SELF_TEST, (plan.site, "", ""), {"due": due.isoformat()}, self._clock.now()))

    def _able(self, site: str) -> list[tuple[str, ...]]:
        """Those that can, in batches."""
        devices = self._registry.snapshot.devices.values()
        able = sorted(d.id for d in devices if d.site == site and self._commands.can(d.id, Act.SELF_TEST))
        return [tuple(able[start : start + AT_ONCE]) for start in range(0, len(able), AT_ONCE)]

    async def _test(
        self, site: str, devices: Sequence[str], due: datetime, before: Mapping[tuple[str, str], Mapping[str, object]]
    ) -> None:
        """Tell some, wait for all of them, write it down. After a crash the same commands are asked for their end."""
        told = {device: await self._tell(site, device, due) for device in devices}
        for device, given in told.items():
            ok, detail, command = await self._end(given)
            watched = [p.id for p in self._registry.points() if device in {name for name, _ in p.watchers}]
            value = {"due": due.isoformat(), "ok": ok, "detail": detail, "command": command}
            was_bad = any(before.get((point, device), {}).get("ok") is False for point in watched)
            if not ok or was_bad:
                qualifier = Qualifier.RESTORE if ok else Qualifier.NEW
                text = f"自检{'恢复正常' if ok else '未通过'}: {detail}"
                key = f"self-test/{command or device}/{due.isoformat()}"
                seen = Observation(device, Kind.DEVICE_FAULT, qualifier, code=CODE, text=text, repeat_key=key)
                await (await self._report([seen]))
            now = self._clock.now()
            await self._write(*(Fact(Sort.SELF_TEST, (site, point, device), value, now) for point in watched))

    async def _tell(self, site: str, device: str, due: datetime) -> CommandRecord | str:
        """What became of the wish; why it was refused."""
        name = hashlib.sha256(f"{site}/{device}/{due.isoformat()}".encode()).hexdigest()[:32]
        try:
            given = await self._commands.give(GATEWAY, Command(f"self-test.{name}", device, Act.SELF_TEST), REASON)
        except Refused as error:
            return str(error)
        return given.record

    async def _end(self, given: CommandRecord | str) -> tuple[bool, str, str]:
        """Whether it passed, why, and by which command. Every command ends by itself."""
        record: CommandRecord | None = None if isinstance(given, str) else given
        while record is not None and record.is_open:
            await self._clock.sleep(ANSWER_LOOK_S)
            record = await self._commands.known(record.command.id)
        if record is None:
            return False, given if isinstance(given, str) else "its record is gone", ""
        return record.state is CommandState.EXECUTED, record.detail or record.state.value, record.command.id

    async def _before(self, site: str) -> dict[tuple[str, str], Mapping[str, object]]:
        """The newest result of each point and device of a site."""
        found: dict[tuple[str, str], Mapping[str, object]] = {}
        async for page in self._registry.newest(Sort.SELF_TEST):
            for fact in page:
                of, point, device = fact.subject
                if of == site and fact.value is not None:
                    found[point, device] = fact.value
        return found

    async def _write(self, *facts: Fact) -> None:
        await self._registry.record(facts)


def last_due(plan: SelfTestSection, now: datetime) -> datetime:
    """The newest moment of the plan that has come. Local months, without summer time."""
    local = now.astimezone(LOCAL)
    due = datetime.combine(local.date().replace(day=plan.day), _hour(plan.at), LOCAL)
    if due > local:
        due = datetime.combine((due.replace(day=1) - timedelta(days=1)).date().replace(day=plan.day), due.time(), LOCAL)
    return due.astimezone(UTC)


def is_quiet(plan: SelfTestSection, now: datetime) -> bool:
    """Whether people sleep; a span that ends before it begins goes over midnight."""
    begins, ends, at = _hour(plan.quiet_from), _hour(plan.quiet_to), now.astimezone(LOCAL).time()
    return begins <= at < ends if begins <= ends else at >= begins or at < ends


def _hour(text: str) -> time:
    return time.fromisoformat(text)
