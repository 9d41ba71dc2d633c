"""States of devices: what events make of them, once each, whenever the gateway dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

import gateway.health
from gateway import logs
from gateway.coverage.contracts import CONTRACTS, contract_of
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import NEVER, History, ms_of
from gateway.health import STARTUP_GRACE_S, Health
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.kinds import FACTS, Lane
from gateway.metrics import Metrics
from gateway.model import Delivery, Device, Event, Kind, Observation, Place, Point, Qualifier, Scalar, Site, TimeQuality
from gateway.receipt import Receipt
from gateway.registry import Registry
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore
from gateway.supervision.conditions import Conditions
from gateway.supervision.proofs import Proofs
from gateway.supervision.recorder import Recorder
from gateway.supervision.site_tests import SiteTests, place_of
from gateway.supervision.tree import parents_of
from gateway.supervision.trends import Samples, days_to_empty
from tests.conftest import JumpingClock

START = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
HERE = Place("s1", "A10B", "阳泗小区", None, 0, "")
NEW, RESTORE, UPDATE = Qualifier.NEW, Qualifier.RESTORE, Qualifier.UPDATE


SECOND = timedelta(seconds=1)

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


def test_a_silence_that_ends_because_its_parent_is_lost_proves_no_life_and_leaves_one_cause() -> None:
    story = family()
    story.say("leaf-1", Kind.SILENT, driver="gateway")
    assert story.state("leaf-1") == "silent"
    story.say("panel", Kind.SILENT, driver="gateway")
    story.say("leaf-1", Kind.SILENT, RESTORE, driver="gateway", via="panel")
    standing = story.fold.standing("leaf-1")
    assert standing is not None
    assert (standing.state, standing.via, standing.open) == ("unreachable", "panel", frozenset())


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
        store=store, registry=registry, last_heard=health.last_heard, lapses=health.lapses, clock=Unhurried(clock), metrics=metrics,
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


@pytest.mark.parametrize("is_off", [False, True])
async def test_a_clock_that_ran_years_ahead_hides_nothing_that_comes_after_it(
    tmp_path: Path, jumping_clock: JumpingClock, is_off: bool
) -> None:
    """States and live tests of the future are withdrawn when the clock is put right, while the gateway runs or is off."""
    years_s = 9 * 365 * 86_400.0
    waived = Fact(Sort.WAIVER, ("p", "m"), {"reason": "", "approver": ""}, jumping_clock.now() + timedelta(days=400))
    async with ledger(tmp_path, jumping_clock, Device("d", "s1"), Device("e", "s1")) as registry:
        async with box(tmp_path, jumping_clock, registry) as here:
            await registry.record([replace(waived, actor="wang")])
            await here.say(Observation("d", Kind.TAMPER), Observation("e", Kind.TELEMETRY))
            await here.recorder.look()
            jumping_clock.jump_wall(years_s)
            await here.say(Observation("d", Kind.TAMPER, RESTORE), Observation("d", Kind.BURGLARY))
            await here.say(Observation("e", Kind.TAMPER))
            await here.recorder.look()
            await here.say(Observation("e", Kind.BATT_LOW))  # read only after the clock is right
            if is_off:
                await here.health.flush()
            else:
                jumping_clock.jump_wall(-years_s)
                await here.recorder.look()
                history = History(await registry.facts())
                assert state_of(history, jumping_clock.now(), "e") == "fault"
        if is_off:
            jumping_clock.jump_wall(-years_s)
        await jumping_clock.advance(1)  # ids are made from the moment
        async with box(tmp_path, jumping_clock, registry) as here:
            await here.recorder.look()
            history, now = History(await registry.facts()), jumping_clock.now()
            assert (state_of(history, now, "d"), state_of(history, now, "e")) == ("working", "fault")
            for sort in (Sort.HEALTH, Sort.LIVE_TEST, Sort.STAGE):
                for subject in history.subjects(sort):
                    assert history.look(sort, subject, ms_of(now)).stop == NEVER, "something waits in the future"
            assert history.at(Sort.WAIVER, ("p", "m"), now + timedelta(days=401)), (
                "what a person says of the future stays"
            )

            await here.say(Observation("d", Kind.BURGLARY))  # a live test anew, though there was one in years to come
            await here.say(Observation("e", Kind.TAMPER, RESTORE))
            await here.recorder.look()
            history, now = History(await registry.facts()), jumping_clock.now()
            assert state_of(history, now, "e") == "degraded"
            assert history.at(Sort.LIVE_TEST, ("d", ""), now) is not None


def test_a_clock_that_nobody_keeps_right_degrades_the_gateway_itself() -> None:
    story = Story()
    story.say("gateway", Kind.CLOCK_FAULT, driver="gateway")
    assert story.state("gateway") == "degraded"
    story.say("gateway", Kind.CLOCK_FAULT, RESTORE, driver="gateway")
    assert story.state("gateway") == "working"


async def test_the_gateways_own_time_off_is_a_fact(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """Once, however often it is written; afterwards the gateway is what it was before."""
    own = Fact(
        Sort.HEALTH, ("gateway", ""), {"state": "degraded", "cause": "clock_fault", "via": "", "open": ["clock_fault"]},
        jumping_clock.now() - timedelta(days=1),
    )  # fmt: skip
    until = jumping_clock.now()
    since = until - timedelta(hours=3)
    async with ledger(tmp_path, jumping_clock, Device("d", "s1")) as registry:
        await registry.record([own])
        for _ in range(2):
            async with box(tmp_path, jumping_clock, registry) as here:
                here.recorder._off = (since, until)
                await here.recorder.look()
                history = History(await registry.facts())
                states = [state_of(history, at, "gateway") for at in (since - SECOND, since, until - SECOND, until)]
                assert states == ["degraded", "silent", "silent", "degraded"]
                assert len(await here.facts()) == 3
            await jumping_clock.advance(1)


# -- once each, whenever the gateway dies ------------------------------------------------------------------------------


class Dies(Exception):
    """The process is gone."""


async def script(here: Box) -> None:
    """A bus with eight devices comes up, is lost and comes back, and one of them is opened meanwhile."""
    for number in range(8):
        await here.say(Observation(f"leaf-{number}", Kind.TELEMETRY, values={"battery": 80}))
    await here.say(Observation("panel", Kind.TELEMETRY))
    await here.say(Observation("panel", Kind.COMM_FAULT))
    await here.say(Observation("leaf-3", Kind.TAMPER, zone=1))
    await here.say(Observation("panel", Kind.COMM_FAULT, RESTORE))
    await here.say(Observation("leaf-3", Kind.TAMPER, RESTORE, zone=1), Observation("leaf-4", Kind.PANIC))


TOWN = [Device("panel", "s1"), *(Device(f"leaf-{number}", "s1", parent="panel") for number in range(8))]


async def written(
    folder: Path, clock: JumpingClock, monkeypatch: pytest.MonkeyPatch, *, dies_at: int, after: bool
) -> Any:
    """All facts from events, where the process dies at the n-th writing, before or after it; and how many writings it took."""
    writings = count(1)
    async with ledger(folder, clock, *TOWN) as registry:
        record = registry.record

        async def mortal(facts: Sequence[Fact], **how: Any) -> None:
            number = next(writings)
            if number == dies_at and not after:
                raise Dies
            await record(facts, **how)
            if number == dies_at:
                raise Dies

        monkeypatch.setattr(registry, "record", mortal)
        async with box(folder, clock, registry) as here:
            await script(here)
            with suppress(Dies):
                await here.recorder.look()
        async with box(folder, clock, registry) as here:
            await here.recorder.look()
            facts = [fact for sort in (Sort.HEALTH, Sort.LIVE_TEST, Sort.SAMPLE) for fact in await here.facts(sort)]
    facts.sort(key=lambda fact: fact.subject)  # of each its own, in order
    return [(fact.sort, fact.subject, fact.value and fact.value.get("state")) for fact in facts], next(writings) - 1


async def test_every_change_is_written_once_wherever_the_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.supervision.recorder.PAGE", 7)
    monkeypatch.setattr("gateway.supervision.recorder.FACTS_AT_ONCE", 6)

    async def run(dies_at: int, *, after: bool = False) -> Any:
        folder = tmp_path / f"{dies_at}-{after}"
        folder.mkdir()
        return await written(folder, JumpingClock(), monkeypatch, dies_at=dies_at, after=after)

    expected, writings = await run(0)
    assert writings > 6
    for dies_at in range(1, writings + 1, 3):
        for after in (False, True):
            facts, _ = await run(dies_at, after=after)
            assert facts == expected


async def test_the_loss_of_a_bus_with_10_000_devices_is_written_in_small_pieces(
    tmp_path: Path, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = [Device("bus", "s1"), *(Device(f"d{number}", "s1", parent="bus") for number in range(9_999))]
    sizes: list[int] = []
    async with (
        ledger(tmp_path, jumping_clock, *town) as registry,
        box(tmp_path, jumping_clock, registry) as here,
    ):
        await registry.record(
            [
                Fact(Sort.HEALTH, (device.id, ""), {"state": "working", "cause": "", "via": "", "open": []}, START)
                for device in town
            ]
        )
        await here.recorder.begin()
        record = registry.record

        async def counted(facts: Sequence[Fact], **how: Any) -> None:
            sizes.append(len(facts))
            await record(facts, **how)

        monkeypatch.setattr(registry, "record", counted)
        await here.say(Observation("bus", Kind.COMM_FAULT))
        await here.recorder.look()
        states = await here.states()
    assert {states[device.id] for device in town[1:]} == {"unreachable"}
    assert states["bus"] == "fault"
    assert max(sizes) <= 500
    assert len(sizes) <= 22


# -- silence leads to the state in time --------------------------------------------------------------------------------

DRIVERS_S = {
    "panel": 25 * 3600.0,
    "detector": 90.0,
    "perimeter_controller": 6.0,
    "bus_gateway": 6.0,
    "door_controller": 30.0,
}
"""What real drivers say of the kinds that leave it to them: a panel's daily test, two heartbeats, three polls."""
LATE_SHARE = 0.05
RESTARTED_EVERY_S = 600.0


@pytest.fixture
def fewer_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day has 86 400 looks at the clock. A deadline is waited for to the moment; the looks between find nothing."""
    monkeypatch.setattr(gateway.health, "TICK_S", 300.0)
    monkeypatch.setattr(gateway.health, "STALL_S", 1000.0)


@pytest.mark.usefixtures("fewer_looks")
@pytest.mark.parametrize("kind", [*(kind for kind in CONTRACTS if contract_of(kind).is_supervised), ""])
@pytest.mark.parametrize("how", ["runs on", "restarts every ten minutes", "down at the start"])
async def test_silence_leads_to_the_state_within_the_contract_and_5_percent(
    tmp_path: Path, jumping_clock: JumpingClock, kind: str, how: str
) -> None:
    """Of every kind, with the windows that are in force."""
    driver_s = DRIVERS_S.get(kind, 90.0)
    window_s = contract_of(kind).heard_within_s or driver_s
    end_s = (1 + LATE_SHARE) * window_s
    clock = jumping_clock
    async with ledger(tmp_path, clock, Device("d", "s1", kind=kind)) as registry:
        async with box(tmp_path, clock, registry) as here:
            here.health.heard("d", "c1", driver_s)
            await here.recorder.look()
            await here.health.flush()
            heard_at = clock.now()
            if how == "runs on":
                await clock.advance(end_s)
                await here.recorder.look()
        if how == "restarts every ten minutes":
            # The last start stands where it does most harm: a moment before the window ends.
            first_s = (window_s - 0.5) % RESTARTED_EVERY_S
            for run_s in (first_s, *[RESTARTED_EVERY_S] * int(window_s // RESTARTED_EVERY_S)):
                async with box(tmp_path, clock, registry) as here:
                    await clock.advance(run_s)
                    await here.recorder.look()
        async with box(tmp_path, clock, registry) as here:
            left_s = end_s - (clock.now() - heard_at).total_seconds()
            await clock.advance(max(0.0, left_s))
            await here.recorder.look()
            in_time = await here.facts()
            await clock.advance(STARTUP_GRACE_S)
            await here.recorder.look()
            facts = await here.facts()

    first = min(fact.valid_from for fact in facts if fact.value and fact.value["state"] == "silent")
    assert window_s - 0.001 <= (first - heard_at).total_seconds() <= end_s
    history = History(facts)
    assert state_of(history, heard_at + timedelta(seconds=0.999 * window_s)) == "working"
    assert state_of(history, heard_at + timedelta(seconds=end_s)) == "silent"
    if how != "restarts every ten minutes" or window_s >= 300:  # a shorter one ends within what a start needs
        assert state_of(History(in_time), heard_at + timedelta(seconds=end_s)) == "silent"


def state_of(history: History, at: datetime, device: str = "d") -> str | None:
    value = history.at(Sort.HEALTH, (device, ""), at)
    return value and value["state"]


async def test_the_time_the_gateway_was_off_proves_nothing_beyond_the_deadline(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """As it was until its deadline, then silent until it is heard: no better and no worse than what is known."""
    clock = jumping_clock
    devices = [Device(name, "s1", heard_within_s=3600) for name in ("back", "gone", "early", "hurt", "new")]
    async with ledger(tmp_path, clock, *devices) as registry:
        async with box(tmp_path, clock, registry) as here:
            for device in ("back", "gone", "early", "hurt"):
                here.health.heard(device, "c1", None)
            await here.recorder.look()
            await here.health.flush()
        heard_at = clock.now()
        await clock.advance(2 * 3600)
        async with box(tmp_path, clock, registry) as here:
            await clock.advance(10)
            await here.say(Observation("back", Kind.TELEMETRY), Observation("hurt", Kind.TAMPER))
            here.health.heard("early", "c1", None)
            back_at = clock.now()
            await here.recorder.look()
            await here.recorder.look()
            await clock.advance(60)
            await here.recorder.look()
            facts = await here.facts()
    history = History(facts)

    def state(device: str, after_s: float) -> str | None:
        value = history.at(Sort.HEALTH, (device, ""), heard_at + timedelta(seconds=after_s))
        return value and value["state"]

    for device in ("back", "gone", "early", "hurt"):
        assert [state(device, after_s) for after_s in (3599, 3601, 7200)] == ["working", "silent", "silent"]
    now_s = (back_at - heard_at).total_seconds() + 61
    assert {device: state(device, now_s) for device in ("back", "gone", "early")} == {
        "back": "working", "gone": "silent", "early": "working",
    }  # fmt: skip
    # And the next start takes up what is so now.
    async with ledger(tmp_path, clock) as registry, box(tmp_path, clock, registry) as here:
        for device, expected in {"back": "working", "gone": "silent", "early": "working", "hurt": "fault"}.items():
            standing = here.recorder._conditions.standing(device)
            assert standing is not None
            assert standing.state == expected


# -- trends ------------------------------------------------------------------------------------------------------------


def test_of_a_radio_that_wavers_eight_samples_a_day_are_kept() -> None:
    samples, kept = Samples(), []
    for minute in range(3 * 1440):
        at = START + timedelta(minutes=minute)
        event = Event(
            f"e{minute}", "d", Kind.TELEMETRY, NEW, FACTS[Kind.TELEMETRY].lane, at, "mqtt_json", "c1", place=HERE,
            values={"battery": 80, "rssi_dbm": -60 - 10 * (minute % 2), "linkquality": True},
        )  # fmt: skip
        kept += list(samples.take(event))
    found = [fact.subject[1] for fact in kept]
    assert found.count("battery_pct") == 1
    assert 20 <= found.count("rssi_dbm") <= 24
    assert "linkquality" not in found


def curve(days: float, *, life_days: float, seed: int) -> list[tuple[datetime, float]]:
    """A battery that falls evenly, read twice a day to a whole per cent, swayed by nights and one reading in twenty wrong."""
    dice, found = Random(seed), []
    for half in range(int(days * 2)):
        level = 100 * (1 - half / 2 / life_days) + (1.5 if half % 2 else -1.5)
        level = dice.uniform(0, 100) if dice.random() < 0.05 else level
        found.append((START + timedelta(days=half / 2), float(round(min(100.0, max(0.0, level))))))
    return found


@pytest.mark.parametrize("life_days", [60.0, 365.0, 1000.0])
@pytest.mark.parametrize("seed", range(5))
def test_at_half_its_life_the_end_of_a_battery_is_known_within_a_fifth(life_days: float, seed: int) -> None:
    half = life_days / 2
    found = days_to_empty(
        [each for each in curve(half, life_days=life_days, seed=seed) if each[1] > 20], START + timedelta(days=half)
    )
    true_days = 0.95 * life_days - half
    assert found.days == pytest.approx(true_days, rel=0.2)


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ([], "too few samples"),
        ([(0, 90), (1, 89), (2, 88)], "seen for less than a week"),
        ([(0, 90), (20, 90), (40, 89)], "it does not fall"),
        (
            [(0, 30), (20, 20), (40, 10), (41, 100), (43, 99), (44, 98), (45, 98)],
            "seen for less than a week",
        ),  # a new battery
    ],
)
def test_where_nobody_can_tell_the_forecast_says_so(levels: Sequence[tuple[int, float]], why: str) -> None:
    samples = [(START + timedelta(days=day), float(level)) for day, level in levels]
    found = days_to_empty(samples, START + timedelta(days=50))
    assert (found.days, found.why) == (None, why)


# -- networked ---------------------------------------------------------------------------------------------------------

PROFILE = {
    "version": "1", "source": "test", "requirements": [
        {"point_kind": "counter_panic", "measure": "panic", "family": "technical", "duty": "mandatory", "networking": "must"},
        {"point_kind": "store_room", "measure": "intrusion", "family": "technical", "duty": "mandatory", "networking": "no"},
    ],
}  # fmt: skip


@dataclass
class Town:
    """Tests of sites, a queue to 110 and what the centre makes of it."""

    store: SqliteStore
    registry: Registry
    tests: SiteTests
    proofs: Proofs
    sent: list[Event] = field(default_factory=list)

    async def hour(self, clock: JumpingClock, *, answers: bool) -> None:
        """An hour of six looks; the centre, where it answers, takes what waits."""
        for _ in range(6):
            await clock.advance(600)
            await self.tests.look()
            waiting = await self.store.pending("110", Lane.STATUS, after_seq=0, limit=100)
            if waiting and answers:
                self.sent += [row.event for row in waiting]
                await self.store.accepted("110", [row.event.seq for row in waiting])
                self.proofs.accepted(waiting)
            await self.proofs.write()

    async def proven(self) -> list[Fact]:
        return [fact for fact in await self.registry.facts() if fact.sort is Sort.PROOF]


@asynccontextmanager
async def town(folder: Path, clock: JumpingClock, *points: Point) -> AsyncIterator[Town]:
    async with ledger(folder, clock, Device("d", "s1")) as registry:
        await registry.update(Site("s1", "银行", "A10B", kind="bank_branch", is_key_unit=True))
        await registry.add(*points)
        await registry.record([Fact(Sort.PROFILE, ("bank_branch",), PROFILE, START)])
        store = await SqliteStore.open(folder / "store", clock, inline=True)
        metrics = Metrics()
        intake = Intake(
            store=store, places=registry, ids=EventIds(clock, Random(5)), clock=clock, metrics=metrics,
            routes=[
                Route("110", frozenset({Lane.LIFE}), proves=True), Route("webhook", frozenset({Lane.LIFE})),
            ],
            heard=lambda device, source: None,
        )  # fmt: skip

        async def report(site: Site, observation: Observation) -> Receipt:
            return await intake.report(
                Source("gateway", "gateway", place=place_of(site), proves_life=False), [observation]
            )

        tests = SiteTests(
            store=store, registry=registry, report=report, window=lambda _: timedelta(hours=24), may_send=lambda: True,
            clock=clock, random=Random(7), metrics=metrics, log=logs.logger(),
        )  # fmt: skip
        proofs = Proofs(store=store, registry=registry, clock=clock, metrics=metrics, log=logs.logger())
        await proofs.begin()
        yield Town(store, registry, tests, proofs)
        await store.close()


async def test_a_site_is_proven_while_the_centre_answers_and_for_its_window_after(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with town(tmp_path, jumping_clock, Point("p", "s1", 1, "柜台", kind="counter_panic")) as here:
        for hour in range(30):
            await here.hour(jumping_clock, answers=hour != 8)
            newest = (await here.proven())[-1]
            assert jumping_clock.now() - newest.valid_from < timedelta(hours=24)
        assert 4 <= len(here.sent) <= 6  # every 7.2 to 8 hours
        assert {(event.kind, event.test, event.lane) for event in here.sent} == {
            (Kind.TEST_PERIODIC, True, Lane.STATUS)
        }
        assert newest.value == {"rung": "test_accepted", "event": here.sent[-1].id}

        stopped_at, outlived = jumping_clock.now(), newest.valid_from + timedelta(hours=24)
        for _ in range(26):
            await here.hour(jumping_clock, answers=False)
        assert (await here.proven())[-1] == newest
        assert timedelta(hours=15) < outlived - stopped_at <= timedelta(hours=24)
        assert not await here.store.pending("webhook", Lane.STATUS, after_seq=0, limit=1)


async def test_no_test_leaves_where_nothing_has_to_be_networked(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with town(tmp_path, jumping_clock, Point("p", "s1", 1, "库房", kind="store_room")) as here:
        for _ in range(30):
            await here.hour(jumping_clock, answers=True)
        assert (here.sent, await here.proven()) == ([], [])


async def test_a_start_begins_no_new_pace(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with town(tmp_path, jumping_clock, Point("p", "s1", 1, "柜台", kind="counter_panic")) as here:
        for _ in range(24):
            again = replace_tests(here)
            again.sent = here.sent
            await again.hour(jumping_clock, answers=True)
        assert 3 <= len(here.sent) <= 5


def replace_tests(town: Town) -> Town:
    """The same town after a start of the gateway."""
    old = town.tests
    tests = SiteTests(
        store=town.store, registry=town.registry, report=old._report, window=old._window, may_send=lambda: True,
        clock=old._clock, random=Random(9), metrics=old._metrics, log=logs.logger(),
    )  # fmt: skip
    return Town(town.store, town.registry, tests, town.proofs)


async def test_a_storm_of_alarms_is_one_proof_a_minute_and_the_newest_is_not_lost(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with town(tmp_path, jumping_clock) as here:
        for number in range(120):
            event = Event(f"e{number}", "d", Kind.PANIC, NEW, Lane.LIFE, jumping_clock.now(), "dc09", "c1", place=HERE)
            here.proofs.accepted([Delivery("110", event)])
            await here.proofs.write()
            await jumping_clock.advance(1)
        await jumping_clock.advance(60)
        await here.proofs.write()
        found = await here.proven()
        assert [fact.value for fact in found] == [
            {"rung": "alarm_accepted", "event": event} for event in ("e0", "e60", "e119")
        ]


async def test_what_was_accepted_in_the_moment_of_a_crash_is_a_proof_after_it(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with town(tmp_path, jumping_clock) as here:
        event = Event("e1", "d", Kind.PANIC, NEW, Lane.LIFE, jumping_clock.now(), "dc09", "c1", place=HERE)
        await (await here.store.append([Entry(event, ["110"])]))
        waiting = await here.store.pending("110", Lane.LIFE, after_seq=0, limit=1)
        await here.store.accepted("110", [waiting[0].event.seq])
        for _ in range(2):
            await here.proofs.begin()
            await here.proofs.write()
        assert [fact.value for fact in await here.proven()] == [{"rung": "alarm_accepted", "event": "e1"}]
