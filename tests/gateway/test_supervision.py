"""States of devices: what events make of them, once each, whenever the gateway dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import logs
from gateway.coverage.facts import Fact, Sort
from gateway.health import Health
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.kinds import FACTS
from gateway.metrics import Metrics
from gateway.model import Device, Event, Kind, Observation, Place, Qualifier, Scalar, Site, TimeQuality
from gateway.registry import Registry
from gateway.store.sqlite import SqliteStore
from gateway.supervision.conditions import Conditions
from gateway.supervision.recorder import Recorder
from gateway.supervision.tree import parents_of
from tests.conftest import JumpingClock

START = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
HERE = Place("s1", "A10B", "阳泗小区", None, 0, "")
NEW, RESTORE, UPDATE = Qualifier.NEW, Qualifier.RESTORE, Qualifier.UPDATE


# -- the fold ----------------------------------------------------------------------------------------------------------


class Story:
    """Events one after another, a minute apart, and what the fold makes of them."""

    def __init__(self, parents: Mapping[str, Sequence[str]] | None = None) -> None:
        above = parents or {}
        self.fold = Conditions(lambda device: above.get(device, ()))
        self.facts: list[Fact] = []
        self._number = count(1)
        self.now = START

    def say(
        self, device: str, kind: Kind, qualifier: Qualifier = NEW, *, zone: int | None = None, driver: str = "dc09",
        place: Place | None = HERE, code: str | None = None, **values: Scalar,
    ) -> list[Fact]:  # fmt: skip
        self.now += timedelta(minutes=1)
        event = Event(
            f"e{next(self._number)}", device, kind, qualifier, FACTS[kind].lane, self.now, driver, "c1",
            zone=zone, place=place, code=code, values=values,
        )  # fmt: skip
        return self.take(event)

    def take(self, event: Event) -> list[Fact]:
        facts = list(self.fold.take(event))
        self.facts += facts
        return facts

    def state(self, device: str, zone: str = "") -> str:
        standing = self.fold.standing(device, zone)
        return standing.state if standing else "never heard"

    def via(self, device: str) -> str:
        standing = self.fold.standing(device)
        return standing.via if standing else ""


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (Kind.TAMPER, "fault"), (Kind.DEVICE_FAULT, "fault"), (Kind.LOOP_FAULT, "fault"), (Kind.ANTENNA_CUT, "fault"),
        (Kind.RF_JAMMING, "fault"), (Kind.COMM_FAULT, "fault"), (Kind.SILENT, "silent"), (Kind.BYPASS, "bypassed"),
        (Kind.AC_LOSS, "degraded"), (Kind.POWER_CUT, "degraded"), (Kind.BATT_LOW, "degraded"),
        (Kind.RF_BATT_LOW, "degraded"), (Kind.CLOCK_FAULT, "degraded"), (Kind.SECURITY, "degraded"),
        (Kind.FLOODING, "degraded"), (Kind.BURGLARY, "working"), (Kind.DOOR_HELD, "working"), (Kind.TELEMETRY, "working"),
    ],
)  # fmt: skip
def test_what_a_kind_of_event_makes_of_a_device(kind: Kind, state: str) -> None:
    story = Story()
    story.say("d", Kind.TELEMETRY)
    story.say("d", kind)
    assert story.state("d") == state
    story.say("d", kind, UPDATE)
    assert story.state("d") == state
    story.say("d", kind, RESTORE)
    assert story.state("d") == "working"


def test_what_stands_longest_in_the_table_comes_first() -> None:
    story = Story()
    for kind, state in [
        (Kind.AC_LOSS, "degraded"), (Kind.BATT_LOW, "fault"), (Kind.TAMPER, "fault"), (Kind.BYPASS, "bypassed"),
        (Kind.SILENT, "silent"),
    ]:  # fmt: skip
        story.say("d", kind)
        assert story.state("d") == state
    for kind, state in [
        (Kind.SILENT, "bypassed"), (Kind.BYPASS, "fault"), (Kind.BATT_LOW, "fault"), (Kind.TAMPER, "degraded"),
        (Kind.AC_LOSS, "working"),
    ]:  # fmt: skip
        story.say("d", kind, RESTORE)
        assert story.state("d") == state


def test_a_zone_has_a_state_of_its_own_and_the_device_keeps_its_own() -> None:
    story = Story()
    facts = story.say("p", Kind.LOOP_FAULT, zone=3)
    assert [(fact.subject, fact.value and fact.value["state"]) for fact in facts] == [
        (("p", "3"), "fault"), (("p", ""), "working"),
    ]  # fmt: skip
    story.say("p", Kind.BYPASS, zone=4)
    assert (story.state("p", "3"), story.state("p", "4"), story.state("p")) == ("fault", "bypassed", "working")


def test_what_the_gateway_says_of_a_device_does_not_prove_that_it_lives() -> None:
    story = Story()
    story.say("d", Kind.COMMAND, driver="gateway")
    assert story.state("d") == "never heard"
    story.say("d", Kind.SILENT, driver="gateway")
    assert story.state("d") == "silent"
    story.say("e", Kind.BURGLARY)
    assert story.state("e") == "working"


def test_a_code_anybody_can_send_changes_no_state_and_is_a_live_test() -> None:
    story = Story()
    for kind in (Kind.TAMPER, Kind.BYPASS, Kind.RF_BATT_LOW):
        story.say("key", kind, assurance="low", rssi_dbm=-120)
    assert story.state("key") == "working"
    assert [fact.sort for fact in story.say("key", Kind.PANIC, assurance="low")] == [Sort.LIVE_TEST]


def test_a_second_line_of_a_panel_that_fails_is_no_loss_of_the_panel() -> None:
    story = Story()
    story.say("p", Kind.COMM_FAULT, code="350")
    assert story.state("p") == "degraded"
    story.say("p", Kind.COMM_FAULT, RESTORE, code="350")
    assert story.state("p") == "working"


def test_weak_radio_and_a_clock_that_is_off_are_warnings_until_they_are_over() -> None:
    story = Story()
    for dbm, state in [(-90, "working"), (-110, "degraded"), (-103, "degraded"), (-99, "working")]:
        story.say("d", Kind.TELEMETRY, rssi_dbm=dbm)
        assert story.state("d") == state
    for ahead_min, state in [(0, "working"), (30, "degraded"), (-600, "working")]:  # a late message is none
        story.now += timedelta(minutes=1)
        event = Event(
            f"t{ahead_min}", "d", Kind.TELEMETRY, NEW, FACTS[Kind.TELEMETRY].lane, story.now, "jt808", "c1",
            device_time=story.now + timedelta(minutes=ahead_min), time_quality=TimeQuality.OK, place=HERE,
        )  # fmt: skip
        story.take(event)
        assert story.state("d") == state


def test_a_strangers_word_in_the_name_of_a_line_counts_for_nothing() -> None:
    story = Story({"d": ["connection/c1"]})
    story.say("d", Kind.TELEMETRY)
    story.say("connection/c1", Kind.COMM_FAULT, place=None, driver="mqtt_json")
    assert story.state("d") == "working"


# -- live tests --------------------------------------------------------------------------------------------------------


def test_a_trigger_is_a_live_test_once_an_hour() -> None:
    story = Story()
    kinds = [Kind.PANIC, Kind.PANIC, Kind.TAMPER, Kind.UNKNOWN, Kind.AC_LOSS]
    found = [fact for kind in kinds for fact in story.say("d", kind, zone=2) if fact.sort is Sort.LIVE_TEST]
    assert [(fact.subject, fact.value) for fact in found] == [(("d", "2"), {"event": "e1"})]
    story.now += timedelta(hours=1)
    assert [fact.sort for fact in story.say("d", Kind.PANIC, zone=2)] == [Sort.LIVE_TEST]


# -- the tree ----------------------------------------------------------------------------------------------------------

TREE = {"leaf-1": ["panel", "connection/c1"], "leaf-2": ["panel", "connection/c1"], "panel": ["connection/c1"]}


def family() -> Story:
    story = Story(TREE)
    for device in ("panel", "leaf-1", "leaf-2"):
        story.say(device, Kind.TELEMETRY)
    story.say("leaf-2", Kind.TAMPER)
    return story


@pytest.mark.parametrize(
    ("lost", "kind", "children"),
    [
        ("panel", Kind.SILENT, ["leaf-1", "leaf-2"]),  # a panel
        ("panel", Kind.COMM_FAULT, ["leaf-1", "leaf-2"]),  # a bridge, a unit on the bus: its driver says so
        ("connection/c1", Kind.COMM_FAULT, ["leaf-1", "leaf-2", "panel"]),  # a bus
    ],
)
def test_a_loss_is_one_cause_and_what_is_behind_it_is_afterwards_what_it_was(
    lost: str, kind: Kind, children: Sequence[str]
) -> None:
    story = family()
    before = {device: story.state(device) for device in TREE}
    facts = story.say(lost, kind, driver="gateway", place=None)
    assert sorted(fact.subject[0] for fact in facts) == sorted([*children, lost])
    for child in children:
        standing = story.fold.standing(child)
        assert standing is not None
        assert (standing.state, standing.via, standing.cause) == ("unreachable", lost, kind)

    story.say(lost, kind, RESTORE, driver="gateway", place=None)
    assert {device: story.state(device) for device in TREE} == before


def test_of_two_losses_above_each_other_the_topmost_is_the_cause() -> None:
    story = family()
    story.say("panel", Kind.SILENT, driver="gateway")
    story.say("connection/c1", Kind.COMM_FAULT, driver="gateway")
    assert story.via("leaf-1") == "connection/c1"
    story.say("connection/c1", Kind.COMM_FAULT, RESTORE, driver="gateway")
    assert story.via("leaf-1") == "panel"
    assert story.state("panel") == "silent"


def test_a_circle_in_the_ledger_ends() -> None:
    story = Story({"a": ["b"], "b": ["a"]})
    story.say("a", Kind.TELEMETRY)
    story.say("b", Kind.TELEMETRY)
    story.say("a", Kind.SILENT, driver="gateway")
    story.say("a", Kind.SILENT, RESTORE, driver="gateway")
    assert (story.state("a"), story.state("b")) == ("working", "working")


def test_a_loss_ten_minutes_late_is_contradicted_by_who_was_heard_since() -> None:
    story = Story()
    story.say("d", Kind.COMM_FAULT)
    assert list(story.fold.heard("d", story.now - timedelta(seconds=1), "k1")) == []
    list(story.fold.heard("d", story.now + timedelta(seconds=1), "k2"))
    assert story.state("d") == "working"


# -- chatter -----------------------------------------------------------------------------------------------------------


def test_a_contact_that_chatters_writes_what_makes_it_worse_and_how_it_ends() -> None:
    story = Story()
    story.say("d", Kind.FLOODING)
    facts = [
        fact
        for _ in range(1000)
        for qualifier in (NEW, RESTORE)
        for fact in story.say("d", Kind.LOOP_FAULT, qualifier, zone=1)
    ]
    assert len(facts) == 1
    assert story.state("d", "1") == "fault"
    story.say("d", Kind.FLOODING, RESTORE)
    assert (story.state("d"), story.state("d", "1")) == ("working", "working")


def test_after_a_start_a_flood_ends_as_the_log_says() -> None:
    story = Story()
    story.say("d", Kind.FLOODING)
    story.say("d", Kind.LOOP_FAULT, zone=1)
    story.say("d", Kind.LOOP_FAULT, RESTORE, zone=1)
    again = Story()
    again.fold.restore(story.facts)
    again.now = story.now
    assert again.fold.flooding == ["d"]
    again.fold.corrected("d", {(Kind.LOOP_FAULT, 1): RESTORE, (Kind.FLOODING, None): NEW})
    again.say("d", Kind.FLOODING, RESTORE)
    assert again.state("d", "1") == "working"


# -- the recorder, with real parts -------------------------------------------------------------------------------------


class Unhurried:
    """The same time; whoever sleeps goes on at once."""

    def __init__(self, clock: JumpingClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, delay_s: float) -> None:
        return


@dataclass
class Box:
    """What the daemon would build, but for lines: `heard` and `say` stand for them."""

    store: SqliteStore
    intake: Intake
    health: Health
    recorder: Recorder
    registry: Registry
    bridges: dict[str, str] = field(default_factory=dict)

    async def say(self, *observations: Observation, driver: str = "mqtt_json") -> None:
        await (await self.intake.report(Source(driver, "c1"), observations))

    async def facts(self, sort: Sort = Sort.HEALTH) -> list[Fact]:
        found: list[Fact] = []
        while page := await self.registry.facts(after=found[-1].id if found else 0):
            found += page
        return [fact for fact in found if fact.sort is sort]

    async def states(self) -> dict[str, Any]:
        return {fact.subject[0]: fact.value and fact.value["state"] for fact in await self.facts()}


@asynccontextmanager
async def ledger(folder: Path, clock: JumpingClock, *devices: Device) -> AsyncIterator[Registry]:
    registry = await Registry.open(folder / "registry.db", Unhurried(clock))
    if devices:
        await registry.put([Site("s1", "阳泗小区", "A10B"), *devices])
    yield registry
    await registry.close()


@asynccontextmanager
async def box(folder: Path, clock: JumpingClock, registry: Registry, **bridges: str) -> AsyncIterator[Box]:
    store = await SqliteStore.open(folder / "store", clock, inline=True)
    metrics = Metrics()
    intake = Intake(
        store=store, places=registry, routes=[], ids=EventIds(clock, Random(5)), clock=clock, metrics=metrics,
        heard=lambda device, source: health.heard(device, source.connection, 90.0),
    )  # fmt: skip

    def behind(_: str, device: str) -> str | None:
        return bridges.get(device)

    health = Health(
        store=store, ledger=registry, clock=clock, metrics=metrics, line_is_up=lambda _: True, behind=behind,
        report=partial(intake.report, Source("gateway", "gateway", proves_life=False)),
    )  # fmt: skip
    recorder = Recorder(
        store=store, registry=registry, last_heard=health.last_heard, clock=Unhurried(clock), metrics=metrics,
        parents=partial(parents_of, ledger=registry, behind=behind, last_connection=health.last_connection),
        log=logs.logger(),
    )  # fmt: skip
    await health.load()
    await intake.load()
    await recorder.begin()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(health.run())
        yield Box(store, intake, health, recorder, registry)
        task.cancel()
    await store.close()


async def test_a_sign_of_life_that_is_no_event_makes_a_device_work(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with (
        ledger(tmp_path, jumping_clock, Device("d", "s1"), Device("e", "s1")) as registry,
        box(tmp_path, jumping_clock, registry) as here,
    ):
        here.health.heard("d", "c1", 90.0)
        await here.recorder.look()
        assert await here.states() == {"d": "working"}
        assert [fact.value for fact in await here.facts(Sort.STAGE)] == [{"stage": "installed"}]
        await here.recorder.look()
        assert len(await here.facts()) == 1


async def test_what_was_accepted_and_works_is_in_service(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with (
        ledger(tmp_path, jumping_clock, Device("d", "s1")) as registry,
        box(tmp_path, jumping_clock, registry) as here,
    ):
        await here.say(Observation("d", Kind.BURGLARY))
        await here.recorder.look()
        await registry.record([Fact(Sort.STAGE, ("d",), {"stage": "accepted"}, jumping_clock.now(), actor="wang")])
        await here.recorder.look()
        stages = [fact.value and fact.value["stage"] for fact in await here.facts(Sort.STAGE)]
        assert stages == ["installed", "accepted", "in_service"]
