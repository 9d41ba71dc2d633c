"""Commands from the wish to their end: on disk first, once, in time, and true after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway import commands
from gateway.access import Actor, Role
from gateway.acts import Act, Command, CommandRecord, CommandState
from gateway.commands import LOOK_S, OPEN_PER_DEVICE, OPEN_PER_LINE, RETRY_S, Commands
from gateway.driver import Context, Order
from gateway.errors import Busy, Refused, StoreError
from gateway.metrics import Metrics
from gateway.model import Device, Observation
from gateway.orders import Inbox, Switchboard
from gateway.receipt import Receipt
from gateway.store import commands as rows
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

CREATED, SENT, EXECUTED, FAILED, EXPIRED = CommandState
LI = Actor("account:li", Role.DUTY_OFFICER)


class Box:
    """Commands over a real store, whose steps and audit a test reads."""

    def __init__(self, store: SqliteStore, clock: JumpingClock) -> None:
        self.store, self.clock = store, clock
        self.metrics = Metrics()
        self.switchboard = Switchboard(lambda _: "")
        self.told: list[Observation] = []
        self.audited: list[tuple[str, str, str]] = []
        self.audit_fails = False
        self.unknown: set[str] = set()
        self.commands = Commands(
            store=store, ledger=self, switchboard=self.switchboard, clock=clock, metrics=self.metrics,
            report=self.report, audit=self.audit,
        )  # fmt: skip
        self.line = self.inbox("line1")

    def inbox(self, name: str, *acts: Act) -> Inbox:
        module = ModuleType("drivers.testing")
        module.obeys = lambda device, context: frozenset(acts or {Act.OPEN, Act.LOCK})  # type: ignore[attr-defined]  # optional
        return self.switchboard.line(name, module, Context())

    def device(self, device_id: str) -> Device | None:
        return None if device_id in self.unknown else Device(device_id, "s1")

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        self.told += observations
        return Receipt.settled()

    async def audit(self, actor: Actor, record: CommandRecord) -> None:
        if self.audit_fails:
            raise StoreError("the audit record cannot be written")
        await self.clock.settle()  # a disk takes its time, and others go on meanwhile
        self.audited.append((actor.id, record.command.act, record.reason))

    async def ask(self, command_id: str = "c1", device: str = "door-1", **changes: Any) -> CommandRecord:
        self.switchboard.heard(device, changes.pop("line", self.line))
        command = Command(command_id, device, changes.pop("act", Act.OPEN), **changes)
        return (await self.commands.give(LI, command, "visitor")).record

    async def state(self, command_id: str = "c1") -> CommandState:
        """As the disk has it."""
        await self.commands.flush()
        kept = await self.store.command(command_id)
        assert kept is not None
        return kept.state

    def steps(self) -> list[str]:
        return [str(seen.values["state"]) for seen in self.told]

    def count(self, act: Act, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("fangkong_commands_total", {"act": act, "outcome": outcome})


@asynccontextmanager
async def box_on(path: Path, clock: JumpingClock) -> AsyncIterator[Box]:
    store = await SqliteStore.open(path, clock, inline=True)
    yield Box(store, clock)
    await store.close()


@pytest.fixture
async def box(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Box]:
    async with box_on(tmp_path, jumping_clock) as found:
        yield found


@asynccontextmanager
async def running(box: Box) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(box.commands.run())
        yield
        await box.clock.settle()
        task.cancel()


async def in_hand(inbox: Inbox) -> Order:
    async with asyncio.timeout(20):
        return await anext(aiter(inbox))


async def test_executed_with_the_devices_evidence(box: Box) -> None:
    async with running(box):
        asked = await box.ask(seconds=3)
        order = await in_hand(box.line)

        assert (asked.state, asked.site, asked.issuer) == (CREATED, "s1", "account:li")
        assert box.audited == [("account:li", "open", "visitor")]
        assert (order.command.seconds, order.is_late()) == (3, False)
        order.sent()
        order.executed("coil 3 reads 1")
    assert await box.state() is EXECUTED
    kept = await box.commands.known("c1")
    assert kept is not None
    assert (kept.detail, kept.sent_at, kept.ended_at) == ("coil 3 reads 1", box.clock.now(), box.clock.now())
    assert box.steps() == ["created", "sent", "executed"]
    assert box.told[-1].text == "开门: 已执行"
    assert "visitor" not in repr(box.told)  # who asked and why is not for everybody who sees the door
    assert box.count(Act.OPEN, "executed") == 1


async def test_failed_with_the_drivers_reason(box: Box) -> None:
    await box.ask()
    order = await in_hand(box.line)
    order.failed("exception 2:\nno such coil \u202e")

    assert await box.state() is FAILED
    kept = await box.commands.known("c1")
    assert kept is not None
    assert kept.detail == "exception 2:\N{REPLACEMENT CHARACTER}no such coil \N{REPLACEMENT CHARACTER}"


async def test_an_order_for_a_line_that_is_away_expires_and_never_leaves(box: Box) -> None:
    async with running(box):
        await box.ask()
        await box.clock.advance(10 + LOOK_S)

        assert await box.state() is EXPIRED
    await box.ask("c2")
    assert (await in_hand(box.line)).command.id == "c2"
    assert box.count(Act.OPEN, "expired") == 1


async def test_without_evidence_the_outcome_is_unknown(box: Box) -> None:
    async with running(box):
        await box.ask()
        order = await in_hand(box.line)
        order.sent()
        await box.clock.advance(20 - 2 * LOOK_S)
        assert await box.state() is SENT
        await box.clock.advance(2 * LOOK_S)
        assert await box.state() is FAILED
    order.executed("much later")
    kept = await box.commands.known("c1")
    assert kept is not None
    assert kept.detail.startswith("unknown outcome")
    assert not box.switchboard.open


async def test_one_that_a_driver_had_and_never_ended_is_of_unknown_outcome(box: Box) -> None:
    """It may have left: only what nobody had is known not to have."""
    async with running(box):
        await box.ask()
        await in_hand(box.line)
        await box.clock.advance(15)
        assert await box.state() is CREATED
        await box.clock.advance(5 + LOOK_S)

        assert await box.state() is FAILED
    kept = await box.commands.known("c1")
    assert kept is not None
    assert kept.detail.startswith("unknown outcome")


async def test_a_wall_clock_that_jumps_ends_what_waits(box: Box) -> None:
    async with running(box):
        await box.ask()
        box.clock.jump_wall(-3600)
        await box.clock.advance(LOOK_S)

        assert await box.state() is EXPIRED


async def test_a_repeated_id_is_one_command(box: Box) -> None:
    await box.ask()
    order = await in_hand(box.line)
    order.sent()
    again = await box.ask()
    order.executed("done")
    after_its_end = await box.ask()

    assert again.state is SENT
    assert after_its_end.state is EXECUTED
    assert not box.line.waiting
    assert len(box.audited) == 1
    assert box.count(Act.OPEN, "repeated") == 2


async def test_a_repeated_id_is_one_command_also_when_both_come_at_once(box: Box) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(box.ask()) for _ in range(2)]

    assert [task.result().n for task in asked] == [1, 1]
    assert len(box.line.waiting) == 1


@pytest.mark.parametrize("other", [{"seconds": 6}, {"device": "door-2"}, {"act": Act.LOCK}, {"valid_s": 11.0}])
async def test_the_same_id_with_other_content_is_refused(box: Box, other: dict[str, Any]) -> None:
    await box.ask(seconds=5)

    with pytest.raises(Refused, match="the id c1 is another command's"):
        await box.ask(**{"seconds": None if "act" in other else 5, **other})
    with pytest.raises(Refused, match="the id c1 is another command's"):
        await box.commands.give(replace(LI, id="account:wu"), Command("c1", "door-1", Act.OPEN, seconds=5), "visitor")


async def test_what_cannot_be_is_refused_at_once(box: Box) -> None:
    box.unknown = {"door-9"}
    for asks, says in (
        (box.ask(act=Act.SIREN), "door-1 cannot siren on line1; it can: lock, open"),
        (box.ask(device="door-9"), "nobody has enrolled door-9"),
        (box.ask(seconds=3600), "seconds is 3600; expected 1 to 60"),
        (box.commands.give(LI, Command("c2", "door-3", Act.OPEN), "why"), "door-3 was never heard"),
    ):
        with pytest.raises(Refused, match=says):
            await asks

    assert not box.audited
    assert await box.store.commands() == []
    assert box.count(Act.OPEN, "refused") == 3


async def test_commands_in_flight_are_bounded_for_a_device_and_for_a_line(box: Box) -> None:
    other = box.inbox("line2")
    for number in range(OPEN_PER_DEVICE):
        await box.ask(f"c{number}")
    with pytest.raises(Busy, match=f"{OPEN_PER_DEVICE} commands for door-1 have not ended"):
        await box.ask("one more")
    for number in range(OPEN_PER_DEVICE, OPEN_PER_LINE):
        await box.ask(f"c{number}", f"door-{number}")
    with pytest.raises(Busy, match=f"{OPEN_PER_LINE} commands for the line line1"):
        await box.ask("one more", "door-x")
    await box.ask("next door", "door-x", line=other)

    (await in_hand(box.line)).failed("no")
    await box.ask("a place is free")


async def test_commands_in_flight_are_bounded_for_the_gateway(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OPEN_MAX", 2)
    for number in range(2):
        await box.ask(f"c{number}", f"door-{number}")
    with pytest.raises(Busy, match="2 commands for the gateway have not ended; at most 2 at once"):
        await box.ask("one more", "door-x", line=box.inbox("line2"))


async def test_what_cannot_be_recorded_is_not_done(box: Box) -> None:
    box.audit_fails = True
    with pytest.raises(StoreError):
        await box.ask()

    assert not box.line.waiting
    assert not box.switchboard.open
    assert await box.store.commands() == []


class Failing:
    """A store whose disk takes nothing of what it is told to refuse."""

    def __init__(self, box: Box, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.is_failing = True
        real = getattr(box.store, name)

        async def method(given: Any) -> Any:
            if self.is_failing:
                raise StoreError("disk full")
            return await real(given)

        monkeypatch.setattr(box.store, name, method)


async def test_an_order_whose_taking_cannot_be_written_does_not_leave(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.ask()
    disk = Failing(box, monkeypatch, "save_commands")
    async with asyncio.TaskGroup() as tasks:
        hand = tasks.create_task(in_hand(box.line))
        await box.clock.settle()
        assert not hand.done()
        hand.cancel()
    disk.is_failing = False

    assert await box.state() is FAILED


async def test_what_became_of_it_is_written_once_the_disk_is_well_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(box):
        await box.ask()
        order = await in_hand(box.line)
        disk = Failing(box, monkeypatch, "save_commands")
        order.executed("done")
        await box.clock.advance(5 * RETRY_S)
        seen = await box.commands.known("c1")
        assert seen is not None
        assert seen.state is EXECUTED
        disk.is_failing = False
        await box.clock.advance(RETRY_S)

        kept = await box.store.command("c1")
        assert kept is not None
        assert kept.state is EXECUTED


@pytest.mark.parametrize(
    ("before_the_crash", "state", "detail"),
    [
        ("created", EXPIRED, "the gateway was started anew before it was sent"),
        ("taken", CREATED, ""),
        ("sent", SENT, ""),
        ("executed", EXECUTED, "done"),
    ],
)
async def test_a_restart_between_states_sends_nothing_again(
    tmp_path: Path, jumping_clock: JumpingClock, before_the_crash: str, state: CommandState, detail: str
) -> None:
    async with box_on(tmp_path, jumping_clock) as box:
        await box.ask()
        order = await in_hand(box.line) if before_the_crash != "created" else None
        if order is not None and before_the_crash in ("sent", "executed"):
            order.sent()
        if order is not None and before_the_crash == "executed":
            order.executed("done")
        if before_the_crash in ("sent", "executed"):
            await box.commands.flush()
    await jumping_clock.advance(2)
    async with box_on(tmp_path, jumping_clock) as box, running(box):
        await box.commands.load()

        assert await box.state() is state
        box.switchboard.heard("door-1", box.line)
        assert not box.line.waiting
        if state in (EXPIRED, EXECUTED):
            assert box.line.awaiting("c1") is None
        kept = await box.commands.known("c1")
        assert kept is not None
        assert kept.detail == detail


@pytest.mark.parametrize("evidence_comes", [True, False])
async def test_evidence_is_waited_for_across_a_restart(
    tmp_path: Path, jumping_clock: JumpingClock, *, evidence_comes: bool
) -> None:
    async with box_on(tmp_path, jumping_clock) as box:
        await box.ask()
        (await in_hand(box.line)).sent()
        await box.commands.flush()
    await jumping_clock.advance(5)
    async with box_on(tmp_path, jumping_clock) as box, running(box):
        await box.commands.load()
        order = box.line.awaiting("c1")
        assert order is not None
        if evidence_comes:
            order.executed("its own answer")
        else:
            await jumping_clock.advance(15 + LOOK_S)

        assert await box.state() is (EXECUTED if evidence_comes else FAILED)


async def test_what_a_failed_commit_left_behind_is_over(box: Box) -> None:
    left = CommandRecord(
        Command("c1", "door-1", Act.OPEN, seconds=5, valid_s=10), LI.id, "visitor", "s1", box.clock.now()
    )
    await box.store.add_command(left)
    asked = await box.ask()

    assert asked.state is EXPIRED
    assert not box.line.waiting
    assert await box.state() is EXPIRED


async def test_rows_are_bounded_and_open_ones_stay(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "COMMANDS_KEPT", 3)
    await box.ask("open")
    for number in range(6):
        await box.ask(f"c{number}", f"door-{number}")
    while box.line.waiting:
        order = await in_hand(box.line)
        if order.command.id != "open":
            order.failed("no")
    await box.commands.flush()
    await box.ask("last")

    assert [record.command.id for record in await box.store.commands()] == ["last", "c5", "c4", "open"]


async def test_commands_are_listed_newest_first_page_by_page(box: Box) -> None:
    for number in range(5):
        await box.ask(f"c{number}", f"door-{number % 2}")
    page = await box.store.commands(limit=2)
    rest = await box.store.commands(before=page[-1].n, limit=9)

    assert [record.command.id for record in (*page, *rest)] == ["c4", "c3", "c2", "c1", "c0"]
    assert [record.command.id for record in await box.store.commands(device="door-1")] == ["c3", "c1"]
    assert await box.store.commands(states={EXECUTED}) == []
    assert await box.store.commands(sites={"s2"}) == []
    assert len(await box.store.commands(sites={"s1", "s2"}, states={CREATED})) == 5


async def test_old_ended_commands_are_pruned_with_the_events(box: Box) -> None:
    await box.ask("old")
    (await in_hand(box.line)).failed("no")
    await box.commands.flush()
    await box.clock.advance(3600)
    await box.ask("new")
    await box.store.prune(box.clock.now())

    assert [record.command.id for record in await box.store.commands()] == ["new"]
