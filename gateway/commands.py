"""Commands: who asks what of a device, on disk before anything leaves, followed to its end. Nothing is ever sent twice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, TypeVar

from gateway.access import Actor, Permission
from gateway.acts import ACTS, OPEN_STATES, Act, Command, CommandRecord, CommandState, complete, mistake
from gateway.clock import Clock
from gateway.errors import Busy, Refused, StoreError
from gateway.kinds import Kind
from gateway.metrics import CommandOutcome, Metrics
from gateway.model import Device, Observation
from gateway.orders import GivenOrder, Inbox, Switchboard
from gateway.receipt import Receipt
from gateway.rules.orders import after, given_up, patience_s, recalled
from gateway.store import Store

OPEN_PER_DEVICE = 4
"""A door that is told more at once is told by a program that has run wild."""
OPEN_PER_LINE = 64
"""What a slow line can carry within the validity of a command."""
OPEN_MAX = 1000
"""Of the whole gateway, together a megabyte; also what a start takes up again."""

LOOK_S = 0.5
"""How late the end of a command's patience may be noticed. What is sent is asked for its age at that moment."""
RETRY_S = 1.0
"""Between two attempts to write down what became of a command, while the disk fails."""

PERMISSIONS: Mapping[Act, Permission] = {
    Act.OPEN: Permission.OPERATE,
    Act.LOCK: Permission.OPERATE,
    Act.UNLOCK: Permission.OPERATE,
    Act.SIREN: Permission.OPERATE,
    Act.ARM: Permission.OPERATE,
    Act.DISARM: Permission.OPERATE,
    Act.BYPASS: Permission.SERVICE,
    Act.SELF_TEST: Permission.SERVICE,
    Act.LOCATE: Permission.SERVICE,
}
"""What a role must grant for each act."""

WORDS: Mapping[CommandState, str] = {
    CommandState.CREATED: "待下发",
    CommandState.SENT: "已下发",
    CommandState.EXECUTED: "已执行",
    CommandState.FAILED: "失败",
    CommandState.EXPIRED: "已过期,未下发",
}


RecordT = TypeVar("RecordT", CommandRecord, CommandRecord | None)


class Ledger(Protocol):
    """What the registry tells about devices."""

    def device(self, device_id: str) -> Device | None: ...


@dataclass(frozen=True, slots=True)
class Given:
    """The answer to a wish."""

    record: CommandRecord
    is_new: bool
    """False: the id was there before, and this is how far that command is."""


class Commands:
    """Takes wishes and follows them."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        switchboard: Switchboard,
        clock: Clock,
        metrics: Metrics,
        report: Callable[[Sequence[Observation]], Awaitable[Receipt]],
        audit: Callable[[Actor, CommandRecord], Awaitable[None]],
    ) -> None:
        """`audit` records who asks for what, before it takes effect; it raises StoreError."""
        self._store = store
        self._ledger = ledger
        self._switchboard = switchboard
        self._open = switchboard.open
        self._clock = clock
        self._metrics = metrics
        self._report = report
        self._audit = audit
        self._turn = asyncio.Lock()
        self._steps: deque[CommandRecord] = deque()
        """What is not yet written: at most the steps of OPEN_MAX commands."""
        self._stepped = asyncio.Event()
        self._writing = asyncio.Lock()

    # -- a wish --------------------------------------------------------------------------------------------------------

    async def give(self, actor: Actor, command: Command, reason: str) -> Given:
        """Have a device do something. Raises Refused (with what was expected), Busy, StoreError; then it will not happen."""
        asked_at, asked_s = self._clock.now(), self._clock.monotonic()
        command = complete(command)
        async with self._turn:  # two wishes with one id, and two for the last free place
            known = await self.known(command.id)
            if known is not None and command.id not in self._open:
                # Left open by a commit that failed and went through all the same: its caller was told that nothing happens.
                known = (
                    self._stepped_to(after(known, CommandState.EXPIRED, asked_at, "it could not be written down"))
                    or known
                )
            if known is not None:
                return Given(self._repeated(known, actor, command, reason), is_new=False)
            try:
                device, inbox = self._able(command, asked_at)
            except (Refused, Busy):
                self._count(command.act, "refused")
                raise
            record = CommandRecord(command, actor.id, reason, device.site, asked_at)
            await self._audit(actor, record)
            kept = await self._store.add_command(record)
            order = GivenOrder(kept, self._clock, begun_s=asked_s, changed=self._changed, take=self._take)
            self._open[command.id] = order
            self._changed(order)
            self._switchboard.give(order, inbox)
            return Given(order.record, is_new=True)

    def can(self, device: str, act: Act) -> bool:
        """Whether its driver obeys this, on the line it was last heard on."""
        inbox = self._switchboard.where(device)
        return inbox is not None and act in inbox.obeys(device)

    async def known(self, command_id: str) -> CommandRecord | None:
        """A command as it stands."""
        if (order := self._open.get(command_id)) is not None:
            return order.record
        unwritten = (record for record in reversed(self._steps) if record.command.id == command_id)
        return next(unwritten, None) or await self._store.command(command_id)

    def _repeated(self, known: CommandRecord, actor: Actor, command: Command, reason: str) -> CommandRecord:
        if (known.command, known.issuer, known.reason) != (command, actor.id, reason):
            self._count(command.act, "refused")
            raise Refused(f"the id {command.id} is another command's; a wish of its own needs an id of its own")
        self._count(command.act, "repeated")
        return known

    def _able(self, command: Command, now: datetime) -> tuple[Device, Inbox]:
        """The device and where its orders go. Raises Refused, Busy."""
        if wrong := mistake(command, now):
            raise Refused(wrong)
        device = self._ledger.device(command.device)
        if device is None:
            raise Refused(f"nobody has enrolled {command.device}; expected a device of the register")
        inbox = self._switchboard.where(command.device)
        if inbox is None:
            raise Refused(f"{command.device} was never heard on a line that is there; expected one to send it over")
        able = inbox.obeys(command.device)
        if command.act not in able:
            can = ", ".join(sorted(able)) or "nothing of the kind"
            raise Refused(f"{command.device} cannot {command.act} on {inbox.connection}; it can: {can}")
        self._check_room(command.device, inbox)
        return device, inbox

    def _check_room(self, device: str, inbox: Inbox) -> None:
        devices = [order.command.device for order in self._open.values()]
        lines = [line.connection for each in devices if (line := self._switchboard.where(each))]
        for what, count, most in (
            (device, devices.count(device), OPEN_PER_DEVICE),
            (f"the line {inbox.connection}", lines.count(inbox.connection), OPEN_PER_LINE),
            ("the gateway", len(devices), OPEN_MAX),
        ):
            if count >= most:
                raise Busy(f"{count} commands for {what} have not ended; at most {most} at once")

    # -- its life --------------------------------------------------------------------------------------------------------

    async def _take(self, order: GivenOrder) -> bool:
        """Write down that a conversation has it: from here on it may have left, whatever happens to us."""
        try:
            await self._store.save_commands([replace(order.record, taken=True)])
        except StoreError as error:
            order.failed(f"not sent, because that could not be written down: {error}")
        if not order.record.is_open:
            return False
        order.record = replace(order.record, taken=True)
        return True

    def _changed(self, order: GivenOrder) -> None:
        record = self._stepped_to(order.record)
        if not record.is_open:
            self._open.pop(record.command.id, None)
            if record.state is CommandState.EXECUTED:
                self._metrics.command_seconds.labels(record.command.act.value).observe(order.age_s)
            self._count(record.command.act, record.state.value)
        self._metrics.commands_open.set(len(self._open))

    def _stepped_to(self, record: RecordT) -> RecordT:
        """Have a step written down, if there is one."""
        if record is not None:
            self._steps.append(record)
            self._stepped.set()
        return record

    def _count(self, act: Act, outcome: CommandOutcome | str) -> None:
        self._metrics.commands.labels(act.value, outcome).inc()

    async def run(self) -> None:
        """Follow every open command, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="patience with commands")
            tasks.create_task(self._keep(), name="steps of commands")

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            for order in list(self._open.values()):
                if order.is_waiting:
                    order.is_late()
                if order.age_s >= order.patience_s:
                    order.put(given_up(order.record, self._clock.now()))

    async def _keep(self) -> None:
        while True:
            await self._stepped.wait()
            self._stepped.clear()
            while self._steps:
                try:
                    await self.flush()
                except StoreError:
                    await self._clock.sleep(RETRY_S)  # the store says so itself; what was said last is not forgotten

    async def flush(self) -> None:
        """Write down every step, then tell it as an event. Raises StoreError."""
        async with self._writing:
            await self._write_steps(list(self._steps))

    async def _write_steps(self, steps: Sequence[CommandRecord]) -> None:
        if steps:
            # What was created is there already, and a conversation may have it by now.
            await self._store.save_commands([step for step in steps if step.state is not CommandState.CREATED])
            await (await self._report([told(record) for record in steps]))
        for _ in steps:
            self._steps.popleft()

    # -- after a start ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what had not ended: nothing of it is sent, of what may have left the evidence is still waited for."""
        now = self._clock.now()
        for record in await self._store.commands(states=OPEN_STATES, limit=OPEN_MAX):
            found, left_s = recalled(record, now)
            begun_s = self._clock.monotonic() - (patience_s(record) - left_s)
            order = GivenOrder(record, self._clock, begun_s=begun_s, changed=self._changed, take=self._take)
            self._open[record.command.id] = order
            if found is not record:
                order.put(found)
        self._metrics.commands_open.set(len(self._open))


def told(record: CommandRecord) -> Observation:
    """A step as an event: what everybody may see who sees the device. Who asked and why stands with the command."""
    command = record.command
    text = f"{ACTS[command.act].zh}: {WORDS[record.state]}"
    return Observation(
        command.device,
        Kind.COMMAND,
        zone=command.zone,
        repeat_key=f"command/{command.id}/{record.state}",
        code=command.act.value,
        text=text,
        values={"command": command.id, "act": command.act.value, "state": record.state.value, "detail": record.detail},
    )
