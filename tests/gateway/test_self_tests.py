"""Monthly self-tests: by day, once, and what came of them stands with the points."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from gateway.access import Actor
from gateway.acts import Act, CommandRecord
from gateway.commands import Commands
from gateway.commissioning.self_tests import SelfTests, is_quiet, last_due
from gateway.config import SelfTestSection
from gateway.coverage.facts import Sort
from gateway.driver import Context
from gateway.metrics import Metrics
from gateway.model import Device, Kind, Observation, Point, Qualifier, Site
from gateway.orders import Switchboard
from gateway.receipt import Receipt
from gateway.registry import Registry
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

PLAN = SelfTestSection(site="s1", day=10, at="10:00", quiet_from="21:00", quiet_to="08:00")


def beijing(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+08:00").astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2027-03-10T10:00", "2027-03-10T10:00"),
        ("2027-03-10T09:59", "2027-02-10T10:00"),
        ("2027-03-01T00:30", "2027-02-10T10:00"),  # still February in UTC
        ("2027-01-09T23:00", "2026-12-10T10:00"),
    ],
)
def test_the_newest_moment_of_the_plan_that_has_come(now: str, due: str) -> None:
    assert last_due(PLAN, beijing(now)) == beijing(due)


@pytest.mark.parametrize(
    ("now", "quiet"),
    [("20:59", False), ("21:00", True), ("23:59", True), ("00:00", True), ("07:59", True), ("08:00", False)],
)
def test_quiet_goes_over_midnight(now: str, *, quiet: bool) -> None:
    assert is_quiet(PLAN, beijing(f"2027-07-01T{now}")) is quiet


def test_quiet_within_a_day() -> None:
    plan = SelfTestSection(site="s1", quiet_from="12:00", quiet_to="14:00")

    assert [is_quiet(plan, beijing(f"2027-07-01T{at}")) for at in ("11:59", "12:00", "13:59", "14:00")] == [
        False, True, True, False
    ]  # fmt: skip


class Box:
    """Two sirens that can test themselves and a button that cannot, over a real store and ledger."""

    def __init__(self, store: SqliteStore, registry: Registry, clock: JumpingClock) -> None:
        self.store, self.registry, self.clock = store, registry, clock
        self.told: list[Observation] = []
        self.passes = True
        self.switchboard = Switchboard(lambda _: "")
        module = ModuleType("drivers.testing")
        module.obeys = lambda device, context: frozenset({Act.SELF_TEST} if "siren" in device else ())  # type: ignore[attr-defined]  # optional
        self.line = self.switchboard.line("line1", module, Context())
        for device in ("siren-1", "siren-2", "button"):
            self.switchboard.heard(device, self.line)
        self.begin()

    def begin(self) -> None:
        """As after a start."""
        self.commands = Commands(
            store=self.store, ledger=self.registry, switchboard=self.switchboard, clock=self.clock, metrics=Metrics(),
            report=self.report, audit=self.audit,
        )  # fmt: skip
        self.tests = SelfTests(
            plans=lambda: [PLAN], registry=self.registry, commands=self.commands, report=self.report, clock=self.clock
        )

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        self.told += observations
        return Receipt.settled()

    async def audit(self, actor: Actor, record: CommandRecord) -> None: ...

    async def obey(self) -> None:
        """The devices' answers, for ever."""
        async for order in self.line:
            order.sent()
            if self.passes or order.command.device == "siren-1":
                order.executed("loop closed")
            else:
                order.failed("relay stuck")

    async def look(self) -> None:
        """One look, with the devices there and time passing."""
        async with asyncio.TaskGroup() as tasks:
            obeying = tasks.create_task(self.obey())
            looking = tasks.create_task(self.tests.look(PLAN))
            async with asyncio.timeout(20):
                while not looking.done():
                    await self.clock.advance(1)
            obeying.cancel()

    async def results(self) -> list[tuple[str, str, object]]:
        facts = await self.registry.facts(sort=Sort.SELF_TEST)
        return [(f.subject[1], f.subject[2], f.value["ok"]) for f in facts if f.value and f.subject[1]]

    def faults(self) -> list[tuple[str, Qualifier]]:
        return [(seen.device, seen.qualifier) for seen in self.told if seen.kind is Kind.DEVICE_FAULT]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock = JumpingClock(beijing("2027-03-10T10:00"))
    store = await SqliteStore.open(tmp_path, clock, inline=True)
    registry = await Registry.open(tmp_path / "registry.db", clock)
    await registry.add(
        Site("s1", "s1", "A10B"), *(Device(name, "s1") for name in ("siren-1", "siren-2", "button", "silent-siren")),
        Point("p1", "s1", 1, "a", "siren-1"), Point("p2", "s1", 2, "b", "siren-2"), Point("p3", "s1", 3, "c", "button"),
    )  # fmt: skip
    yield Box(store, registry, clock)
    await registry.close()
    await store.close()


async def test_each_device_that_can_is_tested_once_a_month_and_its_point_has_the_result(box: Box) -> None:
    await box.look()
    await box.look()

    assert await box.results() == [("p1", "siren-1", True), ("p2", "siren-2", True)]
    assert box.faults() == []
    await box.clock.advance(31 * 86_400)
    await box.look()
    assert len(await box.results()) == 4


async def test_what_fails_is_a_fault_until_it_passes(box: Box) -> None:
    box.passes = False
    await box.look()
    assert await box.results() == [("p1", "siren-1", True), ("p2", "siren-2", False)]
    assert box.faults() == [("siren-2", Qualifier.NEW)]

    box.passes = True
    await box.clock.advance(31 * 86_400)
    await box.look()
    assert box.faults() == [("siren-2", Qualifier.NEW), ("siren-2", Qualifier.RESTORE)]


async def test_one_that_was_missed_is_made_up_for_once_and_not_by_night(box: Box) -> None:
    await box.clock.advance(12 * 3600)  # the box comes back at 22:00
    await box.tests.look(PLAN)
    assert await box.results() == []

    await box.clock.advance(10 * 3600 - 60)
    await box.tests.look(PLAN)
    assert await box.results() == []

    await box.clock.advance(60)  # 08:00
    await box.look()
    await box.look()
    assert len(await box.results()) == 2


async def test_a_crash_between_the_answer_and_its_record_tells_no_device_twice(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(box.tests, "_write", fail)
        async with asyncio.TaskGroup() as tasks:
            obeying = tasks.create_task(box.obey())
            looking = tasks.create_task(box.tests.look(PLAN))
            while not looking.done():
                await box.clock.advance(1)
            obeying.cancel()
    await box.commands.flush()
    box.begin()
    await box.look()

    assert await box.results() == [("p1", "siren-1", True), ("p2", "siren-2", True)]
    assert len(await box.store.commands()) == 2
