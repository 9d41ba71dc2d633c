"""A command's life, step by step, and its road to the conversation that last heard the device."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest

from gateway import orders
from gateway.acts import ACTS, Act, Command, CommandRecord, CommandState, complete, mistake
from gateway.driver import Context
from gateway.orders import DETAIL_MAX, GivenOrder, Inbox, Switchboard
from gateway.rules.orders import after, given_up, lateness, recalled
from tests.conftest import JumpingClock

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
CREATED, SENT, EXECUTED, FAILED, EXPIRED = CommandState
OPEN = Command("c1", "door-1", Act.OPEN, seconds=5, valid_s=10)


def record(state: CommandState = CREATED, *, taken: bool = False, command: Command = OPEN) -> CommandRecord:
    return CommandRecord(command, "li", "visitor", "s1", AT, state, taken=taken)


# -- pure ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", CommandState)
@pytest.mark.parametrize("step", CommandState)
def test_what_may_follow_what(state: CommandState, step: CommandState) -> None:
    follows = {
        (CREATED, SENT), (CREATED, EXECUTED), (CREATED, FAILED), (CREATED, EXPIRED),
        (SENT, EXECUTED), (SENT, FAILED),
    }  # fmt: skip
    found = after(record(state), step, AT, "why")

    assert (found is not None) is ((state, step) in follows)
    if found is not None:
        assert found.state is step
        assert (found.ended_at is not None) is (step is not SENT)


@pytest.mark.parametrize(
    ("elapsed_s", "wall_elapsed_s", "is_late"),
    [
        (0.0, 0.0, False),
        (9.9, 9.9, False),
        (9.9, 11.5, False),  # a slewing clock
        (10.0, 10.0, True),
        (3600.0, 3600.0, True),
        (1.0, 3601.0, True),  # the wall clock jumped, or the machine slept
        (1.0, -3599.0, True),
    ],
)
def test_when_a_command_is_too_late(elapsed_s: float, wall_elapsed_s: float, is_late: bool) -> None:
    assert (lateness(10, elapsed_s=elapsed_s, wall_elapsed_s=wall_elapsed_s) is not None) is is_late


@pytest.mark.parametrize(
    ("before", "age_s", "state", "left_s"),
    [
        (record(), 1, EXPIRED, 0),  # nobody had it: it is certain that it never left
        (record(), -5000, EXPIRED, 0),  # whatever the clock says
        (record(taken=True), 1, CREATED, 19),  # it may have left
        (record(SENT, taken=True), 5, SENT, 15),
        (record(SENT, taken=True), 3600, SENT, 0),
        (record(SENT, taken=True), -3600, SENT, 20),  # the clock went back: no longer than it ever had
    ],
)
def test_what_a_restart_makes_of_it(before: CommandRecord, age_s: int, state: CommandState, left_s: float) -> None:
    found, left = recalled(before, AT + timedelta(seconds=age_s))

    assert (found.state, left) == (state, left_s)


@pytest.mark.parametrize(
    ("before", "state", "begins"),
    [
        (record(), EXPIRED, "not sent"),
        (record(taken=True), FAILED, "unknown outcome"),
        (record(SENT, taken=True), FAILED, "unknown outcome"),
    ],
)
def test_what_the_end_of_patience_makes_of_it(before: CommandRecord, state: CommandState, begins: str) -> None:
    found = given_up(before, AT)

    assert found is not None
    assert found.state is state
    assert found.detail.startswith(begins)


@pytest.mark.parametrize("act", Act)
def test_every_act_is_right_as_it_is_filled_in(act: Act) -> None:
    facts = ACTS[act]
    until = AT + timedelta(hours=1) if facts.needs_until else None
    command = complete(Command("c1", "d1", act, zone=3 if facts.needs_zone else None, until=until))

    assert mistake(command, AT) is None
    assert command.valid_s == facts.valid_s


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"act": Act.OPEN, "seconds": 61}, "seconds is 61; expected 1 to 60 for open"),
        ({"act": Act.OPEN, "seconds": 0}, "seconds is 0; expected 1 to 60"),
        ({"act": Act.LOCK, "seconds": 5}, "lock has no length"),
        ({"act": Act.OPEN, "valid_s": 61.0}, "valid_s is 61; expected 1 to 60"),
        ({"act": Act.OPEN, "valid_s": 0.5}, "valid_s is 0.5"),
        ({"act": Act.SIREN, "seconds": 601}, "expected 0 to 600"),
        ({"act": Act.BYPASS}, "zone is missing"),
        ({"act": Act.OPEN, "zone": 1000}, "zone is 1000; expected 0 to 999"),
        ({"act": Act.UNLOCK}, "until is missing"),
        ({"act": Act.LOCK, "until": AT + timedelta(hours=1)}, "until is given"),
        ({"act": Act.UNLOCK, "until": AT}, "expected a moment within the next 24 h"),
        ({"act": Act.UNLOCK, "until": AT + timedelta(hours=25)}, "expected a moment within the next 24 h"),
    ],
)
def test_what_is_out_of_bounds_is_named(changes: Mapping[str, object], says: str) -> None:
    command = complete(Command("c1", "d1", **changes))  # type: ignore[arg-type]  # the fields are the test's own

    assert says in (mistake(command, AT) or "")


# -- the road --------------------------------------------------------------------------------------------------------------


class Road:
    """A switchboard, and orders whose every change is kept."""

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        self.last_heard_on: dict[str, str] = {}
        self.switchboard = Switchboard(lambda device: self.last_heard_on.get(device, ""))
        self.taken: list[str] = []
        self.is_disk_slow = asyncio.Event()
        self.is_disk_slow.set()

    async def take(self, order: GivenOrder) -> bool:
        await self.is_disk_slow.wait()
        self.taken.append(order.command.id)
        return True

    def peer(self, name: str, *acts: Act) -> Inbox:
        return self.switchboard.peer(name, obeying(*acts), Context())

    def order(self, device: str = "door-1", command_id: str = "c1") -> GivenOrder:
        command = Command(command_id, device, Act.OPEN, seconds=5, valid_s=10)
        now = self.clock.monotonic()
        kept = CommandRecord(command, "li", "visitor", "s1", self.clock.now())
        return GivenOrder(kept, self.clock, begun_s=now, changed=lambda _: None, take=self.take)

    def give(self, order: GivenOrder) -> None:
        inbox = self.switchboard.where(order.command.device)
        assert inbox is not None
        self.switchboard.give(order, inbox)


def obeying(*acts: Act) -> ModuleType:
    module = ModuleType("drivers.testing")
    if acts:
        module.obeys = lambda device, context: frozenset(acts)  # type: ignore[attr-defined]  # what a driver may declare
    return module


@pytest.fixture
def road(jumping_clock: JumpingClock) -> Road:
    return Road(jumping_clock)


async def first(inbox: Inbox) -> GivenOrder:
    async with asyncio.timeout(20):
        return await anext(aiter(inbox))


async def nothing(inbox: Inbox, clock: JumpingClock) -> bool:
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(first(inbox))
        await clock.settle()
        is_waiting = not reading.done()
        reading.cancel()
    return is_waiting


async def test_an_order_reaches_the_conversation_that_last_heard_the_device(road: Road) -> None:
    old, new, other = (road.peer(name, Act.OPEN) for name in ("old", "new", "other"))
    road.switchboard.heard("door-1", old)
    road.switchboard.heard("door-2", other)
    road.switchboard.heard("door-1", new)
    order = road.order()
    road.give(order)

    assert await first(new) is order
    assert await nothing(old, road.clock)
    assert await nothing(other, road.clock)


async def test_what_waits_moves_on_with_its_device(road: Road) -> None:
    old, new = road.peer("old", Act.OPEN), road.peer("new", Act.OPEN)
    road.switchboard.heard("door-1", old)
    road.switchboard.heard("door-2", old)
    first_order, neighbour = road.order(), road.order("door-2", "c2")
    road.give(first_order)
    road.give(neighbour)
    road.switchboard.close(old)
    road.switchboard.heard("door-1", new)

    assert await first(new) is first_order
    assert [order.command.id for order in old.waiting] == ["c2"]


async def test_one_that_moves_while_it_is_written_down_is_had_by_one_conversation_only(road: Road) -> None:
    old, new = road.peer("old", Act.OPEN), road.peer("new", Act.OPEN)
    road.switchboard.heard("door-1", old)
    order = road.order()
    road.give(order)
    road.is_disk_slow.clear()
    async with asyncio.TaskGroup() as tasks:
        at_old = tasks.create_task(first(old))
        await road.clock.settle()
        road.switchboard.heard("door-1", new)
        at_new = tasks.create_task(first(new))
        await road.clock.settle()
        road.is_disk_slow.set()
        assert await at_new is order
        await road.clock.settle()
        assert not at_old.done()
        at_old.cancel()


async def test_one_whose_conversation_ends_while_it_is_written_down_waits_for_the_next(road: Road) -> None:
    line = road.switchboard.line("line", obeying(Act.OPEN), Context())
    road.switchboard.heard("door-1", line)
    order = road.order()
    road.give(order)
    road.is_disk_slow.clear()
    assert await nothing(line, road.clock)
    road.is_disk_slow.set()

    assert await first(line) is order


async def test_a_device_that_moves_to_a_line_that_cannot_fails(road: Road) -> None:
    old, new = road.peer("old", Act.OPEN), road.peer("new", Act.SIREN)
    road.switchboard.heard("door-1", old)
    order = road.order()
    road.give(order)
    road.switchboard.heard("door-1", new)

    assert order.record.state is FAILED
    assert order.record.detail == "the device moved to new, which cannot open"
    assert not new.waiting


async def test_a_late_one_is_dropped_before_anybody_has_it(road: Road) -> None:
    inbox = road.peer("line", Act.OPEN)
    road.switchboard.heard("door-1", inbox)
    late = road.order()
    road.give(late)
    await road.clock.advance(10)
    fresh = road.order(command_id="c2")
    road.give(fresh)

    assert await first(inbox) is fresh
    assert late.record.state is EXPIRED
    assert road.taken == ["c2"]


async def test_one_in_hand_is_late_when_its_time_runs_out_there(road: Road) -> None:
    inbox = road.peer("line", Act.OPEN)
    road.switchboard.heard("door-1", inbox)
    order = road.order()
    road.give(order)
    in_hand = await first(inbox)

    assert not in_hand.is_late()
    road.clock.jump_wall(3600)
    assert in_hand.is_late()
    in_hand.sent()
    in_hand.executed("too late")
    assert order.record.state is EXPIRED


async def test_a_device_silent_since_the_start_is_found_on_its_old_line(road: Road) -> None:
    road.last_heard_on = {"door-1": "broker", "door-2": "gone"}
    line = road.switchboard.line("broker", obeying(Act.OPEN), Context())

    assert road.switchboard.where("door-1") is line
    assert road.switchboard.where("door-2") is None


async def test_a_line_that_was_replaced_still_has_its_silent_devices(road: Road) -> None:
    before = road.switchboard.line("broker", obeying(Act.OPEN), Context())
    road.switchboard.heard("door-1", before)
    road.switchboard.close(before)
    after_it = road.switchboard.line("broker", obeying(Act.OPEN), Context())

    assert road.switchboard.where("door-1") is after_it


async def test_what_ended_while_a_line_was_away_is_forgotten(road: Road) -> None:
    inbox = road.peer("line", Act.OPEN)
    road.switchboard.heard("door-1", inbox)
    for number in range(5):
        order = road.order(command_id=f"c{number}")
        road.give(order)
        order.failed("given up")
    road.give(road.order(command_id="c9"))

    assert [order.command.id for order in inbox.waiting] == ["c9"]


async def test_devices_that_are_remembered_are_bounded_and_noise_keeps_none_out(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "ROUTES_MAX", 2)
    inbox = road.peer("peer1", Act.OPEN)
    for device in ("noise", "door-1", "more noise", "door-1", "door-2"):
        road.switchboard.heard(device, inbox)

    assert [road.switchboard.where(device) for device in ("noise", "more noise", "door-1", "door-2")] == [
        None, None, inbox, inbox,
    ]  # fmt: skip


def test_what_is_said_of_a_command_is_bounded(road: Road) -> None:
    order = road.order()
    order.executed("yes\n" * 1000)

    assert len(order.record.detail) <= DETAIL_MAX
    assert "\n" not in order.record.detail


async def test_a_driver_that_obeys_nothing_is_not_followed(road: Road) -> None:
    assert not road.peer("line").takes_orders
    assert road.peer("line").obeys("door-1") == frozenset()
