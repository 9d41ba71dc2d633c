"""Locks and sirens over Modbus: read back, ended by whoever the profile says, and never switched late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from drivers.modbus_points.outputs import PROOF_WITHIN_S
from gateway.clock import RealClock
from gateway.driver import Act, Bus, Command, NoAnswer
from gateway.errors import LinkClosed
from simulators import _clock
from simulators._world import Ledger, World
from simulators.modbus_points import COILS, HOLDING, Slave
from tests.conftest import JumpingClock
from tests.driver_cases import FakeOrder
from tests.modbus_bench import Desk, bus_on, driver, running, slave, url_of, world

WITHIN_S = 20.0
POINT = {"name": "p", "read": {"table": "coil", "address": 9}, "means": {1: "tamper", 0: "restore"}}
UNITS = [{"unit": 1, "device": "gate", "profile": "relay_io16", "every_s": 0.1}]


class Hours:
    """How far both sides' clocks are ahead of the machine's."""

    s = 0.0


class OurClock(RealClock):
    def __init__(self, ahead: Hours) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead.s)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead.s


class TheirClock(_clock.RealClock):
    def __init__(self, ahead: Hours) -> None:
        self._ahead = ahead

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead.s


class Gate:
    """A relay module on a wire, and the driver that polls and commands it. Time passes at a word."""

    def __init__(self, bus: Bus, module: Slave, desk: Desk, ahead: Hours) -> None:
        self.bus, self.module, self.desk, self.ahead = bus, module, desk, ahead

    def ask(self, act: Act, zone: int | None = 1, *, is_overdue: bool = False, **changes: Any) -> FakeOrder:
        command = Command("c1", "gate", act, zone=zone, valid_s=10, **changes)
        return self.desk.orders.give(FakeOrder(command, is_overdue=is_overdue))

    def coil(self, number: int) -> int:
        return self.module.memory.tables[COILS][number]

    async def is_polled(self) -> None:
        """Whatever is due by now has been done."""
        polls = len(self.desk.heard)
        await until(lambda: len(self.desk.heard) > polls + 5)


@asynccontextmanager
async def gate(*, timeout_ms: int = 3000) -> AsyncIterator[Gate]:
    ahead = Hours()
    clock = TheirClock(ahead)
    module = slave("modbus+tcp://127.0.0.1:0", World(clock, Random(7), Ledger(clock)), "gate", unit=1)
    desk = Desk()
    async with running(module), bus_on(url_of(module, timeout_ms)) as bus, asyncio.TaskGroup() as tasks:
        session = desk.session(bus, OurClock(ahead), UNITS)
        task = tasks.create_task(driver.run(session))
        yield Gate(bus, module, desk, ahead)
        task.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await RealClock().sleep(0.01)


async def ended(order: FakeOrder) -> tuple[str, str]:
    """How an order ended."""
    await until(lambda: bool(order.steps) and order.steps[-1][0] in ("executed", "failed"))
    return order.steps[-1]


def test_what_a_unit_obeys_stands_in_its_profile() -> None:
    context = Desk().session(None, RealClock(), [*UNITS, {"unit": 2, "device": "fence", "profile": "fence8"}]).context  # type: ignore[arg-type]  # no bus is asked

    assert driver.obeys("gate", context) == {Act.OPEN, Act.LOCK, Act.UNLOCK, Act.SIREN}
    assert driver.obeys("fence", context) == driver.obeys("stranger", context) == frozenset()


async def test_a_pulse_that_the_device_ends() -> None:
    async with gate() as there:
        order = there.ask(Act.OPEN, seconds=30)

        assert await ended(order) == ("executed", "coil 0 of unit 1 reads 1")
        assert order.steps[0] == ("sent", "")
        assert there.module.memory.tables[HOLDING][40] == 300
        there.ahead.s = 31
        await there.is_polled()
        assert list(there.module.memory.switched) == [(1, 0), (0, 1), (0, 0)]  # the gateway ended only what is its own


async def test_a_pulse_that_the_gateway_ends_and_a_longer_one_that_replaces_it() -> None:
    async with gate() as there:
        for seconds in (30, 60):
            assert (await ended(there.ask(Act.OPEN, 2, seconds=seconds)))[0] == "executed"
        there.ahead.s = 45
        await there.is_polled()
        assert there.coil(1) == 1
        there.ahead.s = 61
        await there.is_polled()

        assert there.coil(1) == 0


async def test_a_door_is_held_open_until_a_moment_or_until_it_is_locked() -> None:
    async with gate() as there:
        clock = OurClock(there.ahead)
        await ended(there.ask(Act.UNLOCK, 2, until=clock.now() + timedelta(hours=1)))
        there.ahead.s = 3500
        await there.is_polled()
        assert there.coil(1) == 1
        there.ahead.s = 3601
        await there.is_polled()
        assert there.coil(1) == 0
        await ended(there.ask(Act.UNLOCK, 2, until=clock.now() + timedelta(hours=1)))
        assert there.coil(1) == 1

        assert await ended(there.ask(Act.LOCK, 2)) == ("executed", "coil 1 of unit 1 reads 0")


async def test_a_siren_sounds_and_is_silenced() -> None:
    async with gate() as there:
        assert await ended(there.ask(Act.SIREN, None, seconds=600)) == ("executed", "coil 2 of unit 1 reads 1")
        assert await ended(there.ask(Act.SIREN, None, seconds=0)) == ("executed", "coil 2 of unit 1 reads 0")


async def test_what_an_earlier_process_left_on_is_ended_at_the_start() -> None:
    module = slave("modbus+tcp://127.0.0.1:0", world(), "gate", unit=1)
    module.memory.tables[COILS][0:2] = [1, 1]
    desk = Desk()
    async with running(module), bus_on(url_of(module)) as bus, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(driver.run(desk.session(bus, RealClock(), UNITS)))
        await until(lambda: module.memory.tables[COILS][1] == 0)
        task.cancel()

    assert module.memory.tables[COILS][0] == 1  # whose pulses the device ends is left to the device


async def test_a_relay_that_does_not_move_is_no_evidence() -> None:
    async with gate() as there:
        await there.module.do("stuck")
        state, detail = await ended(there.ask(Act.OPEN, seconds=5))

        assert (state, detail) == ("failed", f"coil 0 of unit 1 reads 0 {PROOF_WITHIN_S:g} s after it was switched")


@pytest.mark.parametrize(
    ("mood", "says"),
    [("exception", "unit 1 refuses: exception 4"), ("silent", "unknown outcome: unit 1 did not answer within 500 ms")],
)
async def test_a_unit_that_refuses_or_is_silent(mood: str, says: str) -> None:
    async with gate(timeout_ms=500) as there:
        await until(lambda: bool(there.desk.heard))
        await there.module.do(mood)
        state, detail = await ended(there.ask(Act.LOCK))

        assert state == "failed"
        assert detail.startswith(says)


async def test_a_late_order_is_not_switched() -> None:
    async with gate() as there:
        late = there.ask(Act.OPEN, seconds=5, is_overdue=True)
        also_late = there.ask(Act.OPEN, 2, seconds=5, is_overdue=True)
        await ended(there.ask(Act.LOCK))

        assert late.steps == also_late.steps == []
        assert (0, 1) not in there.module.memory.switched
        assert (1, 1) not in there.module.memory.switched


async def test_its_age_is_asked_for_when_the_wire_is_free_and_not_before() -> None:
    """A slow line: the write waits behind another unit's request, and is too late when its turn comes."""
    async with gate() as there:
        await until(lambda: bool(there.desk.heard))
        await there.module.do("silent")
        order = there.ask(Act.OPEN, seconds=5)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(there.bus.write(1, "coil", 5, [1], unless=lambda: order.is_overdue))
            order.is_overdue = True
            assert await waiting is False
        await there.module.do("back")
        await ended(there.ask(Act.LOCK))

        assert order.steps == []
        assert not {(0, 1), (5, 1)} & set(there.module.memory.switched)


@pytest.mark.parametrize(("act", "zone"), [(Act.OPEN, 7), (Act.OPEN, None), (Act.SIREN, 1), (Act.UNLOCK, 1)])
async def test_an_output_that_is_not_there_is_named(act: Act, zone: int | None) -> None:
    async with gate() as there:
        state, detail = await ended(there.ask(act, zone, seconds=5))

        assert state == "failed"
        assert detail.startswith(f"nothing to {act.value} ")
        assert "; there is one with " in detail


class LostOnWrite:
    """A bus that goes at the first write."""

    async def read(self, unit: int, table: str, address: int, count: int) -> list[int]:
        raise NoAnswer("quiet")

    async def write(self, unit: int, table: str, address: int, values: list[int], *, unless: Any = None) -> bool:
        if address == 0:
            raise LinkClosed("pulled out")
        raise NoAnswer("quiet")


async def test_a_line_that_is_lost_while_it_is_written_leaves_an_unknown_outcome(jumping_clock: JumpingClock) -> None:
    desk = Desk()
    order = desk.orders.give(FakeOrder(Command("c1", "gate", Act.LOCK, zone=1, valid_s=10)))
    with pytest.raises(ExceptionGroup) as ended_by:
        await driver.run(desk.session(LostOnWrite(), jumping_clock, UNITS))

    assert ended_by.group_contains(LinkClosed)
    assert order.steps == [("failed", "unknown outcome: pulled out")]


async def test_what_cannot_be_switched_off_is_tried_again_ever_more_slowly(jumping_clock: JumpingClock) -> None:
    tries: list[float] = []

    class Dead(LostOnWrite):
        async def write(self, unit: int, table: str, address: int, values: list[int], *, unless: Any = None) -> bool:
            tries.append(jumping_clock.monotonic())
            raise NoAnswer("quiet")

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(driver.run(Desk().session(Dead(), jumping_clock, UNITS)))
        await jumping_clock.advance(300)
        task.cancel()

    assert 10 <= len(tries) <= 16
    assert max(later - earlier for earlier, later in pairwise(tries)) <= 31


async def test_an_end_that_waited_for_the_wire_does_not_end_a_newer_command(jumping_clock: JumpingClock) -> None:
    may_end = asyncio.Event()
    may_end.set()
    coils = {0: 0, 1: 0, 2: 0}

    class Slow(LostOnWrite):
        async def read(self, unit: int, table: str, address: int, count: int) -> list[int]:
            return [coils.get(address, 1)] * count

        async def write(self, unit: int, table: str, address: int, values: list[int], *, unless: Any = None) -> bool:
            if values == [0]:
                await may_end.wait()
            if unless is not None and unless():
                return False
            coils[address] = values[0]
            return True

    desk = Desk()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(driver.run(desk.session(Slow(), jumping_clock, UNITS)))
        for command_id in ("first", "second"):
            order = desk.orders.give(FakeOrder(Command(command_id, "gate", Act.OPEN, zone=2, seconds=5, valid_s=10)))
            await jumping_clock.advance(1)
            assert order.steps[-1][0] == "executed"
            may_end.clear()
            await jumping_clock.advance(4 if command_id == "first" else 0)  # the first one's end waits for the wire
        may_end.set()
        await jumping_clock.advance(1)
        assert coils[1] == 1
        await jumping_clock.advance(5)
        assert coils[1] == 0
        task.cancel()


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({"on": 5}, "of a coil as 0 and 1"),
        ({"on": 0, "off": 0}, "that differ"),
        ({"ends": "gateway", "timer": {"address": 1, "per_s": 10}}, "`timer` together with"),
        ({"ends": "nobody"}, "device"),
    ],
)
def test_a_mistake_in_an_output_is_named(output: dict[str, Any], says: str) -> None:
    whole = {"name": "x", "does": "lock", "write": {"table": "coil", "address": 0}, "ends": "device", **output}

    with pytest.raises(ValueError, match=says):
        driver.Profile.model_validate({"point": [POINT], "output": [whole]})


def test_two_outputs_for_one_command_are_a_mistake() -> None:
    one = {"name": "x", "does": "lock", "write": {"table": "coil", "address": 0}, "ends": "device"}

    with pytest.raises(ValueError, match="one zone for each thing it does, but two have lock None"):
        driver.Profile.model_validate(
            {"point": [POINT], "output": [one, {**one, "write": {"table": "coil", "address": 1}}]}
        )
    with pytest.raises(ValueError, match="one output at one place, but two have coil 0"):
        driver.Profile.model_validate({"point": [POINT], "output": [one, {**one, "zone": 1}]})
