"""Commissioning over a real store, ledger and intake: what is tried out alarms nobody, and what is real always does."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.access import Actor, Role
from gateway.audit import Audit, rows
from gateway.commissioning import Commissioning, InTest
from gateway.commissioning.page import page
from gateway.commissioning.sheet import is_whole, read
from gateway.commissioning.walk import LOOK_S
from gateway.coverage.facts import Fact, Sort
from gateway.errors import ConfigError, Refused, StoreError
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.metrics import Metrics
from gateway.model import Device, Event, Kind, Lane, Observation, Point, Qualifier, Site
from gateway.registry import Registry
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.supervision.conditions import Conditions
from tests.conftest import JumpingClock

FITTER = Actor("account:li", Role.MAINTENANCE)
LINE = Source("test", "c1", 60.0)
NEW, RESTORE = Qualifier.NEW, Qualifier.RESTORE
ZONES = 60


@dataclass
class Box:
    """A site with a panel of 60 zones, and a panic button beside it that stands in no test."""

    store: SqliteStore
    registry: Registry
    intake: Intake
    in_test: InTest
    parts: Commissioning
    clock: JumpingClock
    audit: Audit
    metrics: Metrics

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    async def say(
        self, device: str, kind: Kind, qualifier: Qualifier = NEW, *, zone: int | None = None, **more: object
    ) -> None:
        await (await self.intake.report(LINE, [Observation(device, kind, qualifier, zone=zone, **more)]))  # type: ignore[arg-type]  # the test's own

    async def at_110(self) -> list[Event]:
        """What is queued for it: it takes every lane."""
        return [row.event for row in await self.store.deliveries(destination="110")]

    async def alarms_at_110(self) -> list[tuple[str, Kind, int | None]]:
        return [(each.device, each.kind, each.zone) for each in await self.at_110() if each.kind is not Kind.WALK_TEST]

    async def told(self) -> list[Qualifier]:
        events = await self.store.events(EventFilter(site="s1", kind=Kind.WALK_TEST))
        return [event.qualifier for event in events]

    async def facts(self, sort: Sort) -> list[Fact]:
        return list(await self.registry.facts(sort=sort))

    async def walk(self, *zones: int) -> None:
        """Trigger and restore each."""
        for zone in zones:
            await self.say("panel", Kind.BURGLARY, zone=zone, values={"rssi_dbm": -61 - zone % 7, "battery_pct": 96})
            await self.say("panel", Kind.BURGLARY, RESTORE, zone=zone)


@asynccontextmanager
async def box_on(path: Path, clock: JumpingClock) -> AsyncIterator[Box]:
    store = await SqliteStore.open(path, clock, inline=True)
    registry = await Registry.open(path / "registry.db", clock)
    audit, in_test = Audit(path / "audit.db", clock), InTest(registry, clock)
    metrics = Metrics()
    intake = Intake(
        store=store, places=registry, routes=[Route("110", frozenset(Lane))], ids=EventIds(clock, Random(1)), clock=clock,
        metrics=metrics, heard=lambda *_: None, trials=in_test,
    )  # fmt: skip
    parts = Commissioning.of(
        in_test=in_test, registry=registry, store=store, report=intake.report, audit=audit, clock=clock, metrics=metrics
    )
    await intake.load()
    await parts.walks.load()
    try:
        yield Box(store, registry, intake, in_test, parts, clock, audit, metrics)
    finally:
        await registry.close()
        await store.close()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: a new file is brought through every migration."""
    path = tmp_path_factory.mktemp("planned") / "registry.db"
    asyncio.run(_plan(path))
    return path


async def _plan(path: Path) -> None:
    registry = await Registry.open(path, JumpingClock())
    await registry.add(
        Site("s1", "阳泗小区", "A10B", address="阳泗路 1 号"), Site("s2", "东街金店", "A10C"), Device("panel", "s1", "主机"),
        Device("button", "s1", "紧急按钮", kind="panic_button"), Device("other", "s2"),
        *(Point(f"p{zone}", "s1", zone, f"{zone} 号门磁", "panel", zone, kind="door") for zone in range(1, ZONES + 1)),
        Point("counter", "s1", 100, "柜台", "button", kind="counter_panic"), Point("planned", "s1", 101, "后门"),
        Point("far", "s2", 1, "东街", "other"),
    )  # fmt: skip
    await registry.close()


@pytest.fixture
def folder(tmp_path: Path, ledger: Path) -> Path:
    """A data directory with that ledger."""
    shutil.copy(ledger, tmp_path / "registry.db")
    return tmp_path


@pytest.fixture
async def box(folder: Path, jumping_clock: JumpingClock) -> AsyncIterator[Box]:
    async with box_on(folder, jumping_clock) as made:
        yield made


DOORS = [f"p{zone}" for zone in range(1, ZONES + 1)]


async def start(box: Box, *points: str, minutes: int = 60) -> None:
    await box.parts.walks.start(FITTER, "s1", points or DOORS, minutes=minutes, reason="handover")


# -- what goes to 110 ----------------------------------------------------------------------------------------------------


async def test_sixty_triggers_send_no_alarm_and_the_neighbours_panic_arrives(box: Box) -> None:
    await start(box)
    await box.walk(*range(1, ZONES + 1))
    await box.say("button", Kind.PANIC)
    await box.say("other", Kind.BURGLARY)

    assert await box.alarms_at_110() == [("button", Kind.PANIC, None), ("other", Kind.BURGLARY, None)]
    shown = await box.store.events(EventFilter(device="panel"), limit=1000)
    assert (len(shown), {event.test for event in shown}) == (2 * ZONES, {True})


@pytest.mark.parametrize(
    ("device", "kind", "zone"),
    [
        ("panel", Kind.DURESS, 1),  # nobody tries out being forced
        ("panel", Kind.BURGLARY, 61),  # a zone of the same panel that the ledger does not know
        ("panel", Kind.PANIC, None),  # the panel's own button
        ("panel", Kind.BURGLARY, 2),  # planned and bound, and not named
        ("panel", Kind.DEVICE_FAULT, 1),  # has to be mended all the same
        ("button", Kind.PANIC, None),
    ],
)
async def test_what_the_test_does_not_expect_is_real(box: Box, device: str, kind: Kind, zone: int | None) -> None:
    await start(box, "p1")
    await box.say(device, kind, zone=zone)

    assert await box.alarms_at_110() == [(device, kind, zone)]


async def test_a_ledger_that_cannot_be_read_makes_every_alarm_real(box: Box) -> None:
    await start(box)
    box.registry._error = "the disk is gone"
    await box.say("panel", Kind.BURGLARY, zone=1)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 1)]


async def test_a_real_alarm_from_before_ends_at_110_too(box: Box) -> None:
    await box.say("panel", Kind.BURGLARY, zone=1)
    await start(box)
    await box.say("panel", Kind.BURGLARY, RESTORE, zone=1)
    await box.walk(2)

    sent = [(event.kind, event.qualifier, event.zone) for event in await box.at_110()]
    assert sent == [(Kind.BURGLARY, NEW, 1), (Kind.WALK_TEST, NEW, None), (Kind.BURGLARY, RESTORE, 1)]


async def test_a_real_alarm_from_before_ends_at_110_too_over_a_crash(folder: Path, jumping_clock: JumpingClock) -> None:
    async with box_on(folder, jumping_clock) as box:
        await box.say("panel", Kind.BURGLARY, zone=1)
        await box.say("panel", Kind.BURGLARY, zone=2)
        await jumping_clock.advance(60)
        await start(box)
        await box.say("panel", Kind.BURGLARY, RESTORE, zone=2)
        await box.say("panel", Kind.BURGLARY, zone=1)  # tried out while the real one stands: both end at once
    await jumping_clock.advance(300)
    async with box_on(folder, jumping_clock) as box:
        await box.say("panel", Kind.BURGLARY, RESTORE, zone=1)
        for zone in (1, 2):
            await box.walk(zone)

        sent = [(event.kind, event.qualifier, event.zone) for event in await box.at_110()]
        alarms = [(Kind.BURGLARY, NEW, 1), (Kind.BURGLARY, NEW, 2), (Kind.WALK_TEST, NEW, None)]
        assert sent == [*alarms, (Kind.BURGLARY, RESTORE, 2), (Kind.BURGLARY, RESTORE, 1)]


@pytest.mark.parametrize("crash", [False, True])
async def test_the_end_of_what_was_a_test_is_one_too_also_after_the_walk(
    folder: Path, jumping_clock: JumpingClock, *, crash: bool
) -> None:
    async with box_on(folder, jumping_clock) as box:
        await start(box)
        await box.say("panel", Kind.BURGLARY, zone=1)
        await box.say("panel", Kind.BURGLARY, zone=2)
        await box.parts.walks.end(FITTER, "s1")
        await box.say("panel", Kind.BURGLARY, zone=2)
        if not crash:
            await box.say("panel", Kind.BURGLARY, RESTORE, zone=1)
    await jumping_clock.advance(30)
    async with box_on(folder, jumping_clock) as box:
        if crash:
            await box.say("panel", Kind.BURGLARY, RESTORE, zone=1)
        await box.say("panel", Kind.BURGLARY, RESTORE, zone=2)  # raised again, in earnest
        await box.say("panel", Kind.BURGLARY, zone=1)

        sent = [(event.qualifier, event.zone) for event in await box.at_110() if event.kind is Kind.BURGLARY]
        assert sent == [(NEW, 2), (RESTORE, 2), (NEW, 1)]


async def test_what_a_device_itself_marks_as_a_test_is_kept_counted_and_sent_to_nobody(box: Box) -> None:
    await box.say("panel", Kind.BURGLARY, zone=1, test=True)
    await box.say("panel", Kind.BURGLARY, zone=2)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 2)]
    shown = await box.store.events(EventFilter(device="panel"))
    assert [(event.zone, event.test, event.lane) for event in shown] == [(1, True, Lane.STATUS), (2, False, Lane.ALARM)]
    live = [fact.subject for event in shown for fact in Conditions().take(event) if fact.sort is Sort.LIVE_TEST]
    assert live == [("panel", "1"), ("panel", "2")]
    assert box.metric("fangkong_trials_total") == 1


async def test_how_many_walk_tests_run_is_a_metric(box: Box) -> None:
    assert box.metric("fangkong_walk_tests") == 0
    await start(box, minutes=10)
    assert box.metric("fangkong_walk_tests") == 1
    await box.clock.advance(600)
    assert box.metric("fangkong_walk_tests") == 0


async def test_no_more_alarms_are_remembered_than_people_can_raise(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commissioning.in_test.TRIED_MAX", 1)
    await start(box)
    await box.say("panel", Kind.BURGLARY, zone=1)
    await box.say("panel", Kind.BURGLARY, zone=2)
    await box.parts.walks.end(FITTER, "s1")
    await box.say("panel", Kind.BURGLARY, RESTORE, zone=1)
    await box.say("panel", Kind.BURGLARY, RESTORE, zone=2)

    sent = [(event.qualifier, event.zone) for event in await box.at_110() if event.kind is Kind.BURGLARY]
    assert sent == [(RESTORE, 2)]


# -- its end -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(box: Box) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(box.parts.walks.run())
        yield
        task.cancel()


async def until_told(box: Box, *wanted: Qualifier) -> None:
    async with asyncio.timeout(20):
        while await box.told() != list(wanted):
            await box.clock.settle()


async def test_it_ends_by_itself_and_says_so(box: Box) -> None:
    async with running(box):
        await start(box, minutes=10)
        await box.clock.advance(600 - LOOK_S / 2)
        await box.say("panel", Kind.BURGLARY, zone=1)
        await box.clock.advance(LOOK_S)
        await until_told(box, NEW, RESTORE)
        await box.say("panel", Kind.BURGLARY, zone=2)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 2)]
    [begun, ended] = await box.facts(Sort.WALK_TEST)
    assert (ended.value, ended.valid_from) == (None, begun.valid_to)


@pytest.mark.parametrize("jump_s", [3600, -3600, -86_400 * 4000])
async def test_a_clock_that_jumps_ends_it(box: Box, jump_s: float) -> None:
    await start(box, minutes=30)
    box.clock.jump_wall(jump_s)
    await box.say("panel", Kind.BURGLARY, zone=1)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 1)]


async def test_a_clock_that_goes_back_a_little_makes_it_no_longer(box: Box) -> None:
    await start(box, minutes=30)
    await box.clock.advance(1200)
    box.clock.jump_wall(-1100)
    await box.clock.advance(601)
    await box.say("panel", Kind.BURGLARY, zone=1)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 1)]


@pytest.mark.parametrize(("away_s", "is_test"), [(60, True), (3601, False)])
async def test_it_outlives_a_crash_but_not_its_end(
    folder: Path, jumping_clock: JumpingClock, away_s: float, *, is_test: bool
) -> None:
    async with box_on(folder, jumping_clock) as box:
        await start(box)
    await jumping_clock.advance(away_s)
    async with box_on(folder, jumping_clock) as box:
        await box.say("panel", Kind.BURGLARY, zone=1)

        assert (await box.alarms_at_110() == []) == is_test
        assert await box.told() == ([NEW] if is_test else [NEW, RESTORE])
    async with box_on(folder, jumping_clock) as box:  # told once, however often it starts
        assert await box.told() == ([NEW] if is_test else [NEW, RESTORE])


async def test_one_that_was_ended_stays_ended_over_a_crash_and_a_clock_that_went_back(
    folder: Path, jumping_clock: JumpingClock
) -> None:
    async with box_on(folder, jumping_clock) as box:
        await start(box)
        await jumping_clock.advance(600)
        jumping_clock.jump_wall(-300)
        await box.parts.walks.end(FITTER, "s1")
    async with box_on(folder, jumping_clock) as box:
        await box.say("panel", Kind.BURGLARY, zone=1)

        assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 1)]
        assert await box.told() == [NEW, RESTORE]


async def test_one_that_cannot_be_written_down_does_not_begin(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ConfigError([])

    with monkeypatch.context() as patched:
        patched.setattr(box.registry, "record", fail)
        with pytest.raises(ConfigError):
            await start(box)
    await box.say("panel", Kind.BURGLARY, zone=1)

    assert await box.alarms_at_110() == [("panel", Kind.BURGLARY, 1)]
    assert await box.told() == [NEW, RESTORE]


async def test_without_an_audit_record_none_begins(box: Box) -> None:
    box.audit.path.mkdir()
    with pytest.raises(StoreError):
        await start(box)

    assert (box.parts.walks.running("s1"), await box.told()) == (None, [])


@pytest.mark.parametrize(
    ("points", "minutes", "found"),
    [(["far"], 60, "far: expected points of s1"), ([], 0, "1 to 480"), ([], 481, "1 to 480")],
)
async def test_a_wish_that_makes_no_sense_is_refused(box: Box, points: list[str], minutes: int, found: str) -> None:
    with pytest.raises(Refused, match=found):
        await box.parts.walks.start(FITTER, "s1", points, minutes=minutes, reason="handover")


async def test_a_second_one_at_the_same_site_is_refused(box: Box) -> None:
    await start(box, "p1")
    with pytest.raises(Refused, match="in test until"):
        await start(box, "p2")


async def test_before_the_clock_is_set_none_begins(box: Box) -> None:
    box.clock.jump_wall(-86_400 * 4000)
    with pytest.raises(Refused, match="the clock is not set"):
        await start(box)


# -- the sheet -----------------------------------------------------------------------------------------------------------


async def test_untriggered_points_block_acceptance_and_are_named(box: Box) -> None:
    await start(box, "p1", "p2", "p3", "planned", "counter")
    await box.walk(1)
    await box.say("panel", Kind.BURGLARY, zone=2)
    await box.say("panel", Kind.TAMPER, zone=3)
    await box.say("panel", Kind.TAMPER, RESTORE, zone=3)
    await box.say("button", Kind.PANIC)
    with pytest.raises(Refused, match=r"p2 \(panel: no restore\), p3 \(panel: no alarm\), planned \(no device\); exp"):
        await box.parts.acceptance.accept(FITTER, "s1")

    assert await box.facts(Sort.ACCEPTANCE) == []


async def test_what_has_shown_alarm_and_restore_is_accepted_once(box: Box) -> None:
    await start(box, "p1", "p2", "counter")
    await box.walk(1, 2)
    await box.say("button", Kind.PANIC)
    sheet = await box.parts.acceptance.accept(FITTER, "s1")
    again = await box.parts.acceptance.accept(FITTER, "s1")

    accepted = [(fact.subject, fact.value) for fact in await box.facts(Sort.ACCEPTANCE)]
    value = {"sheet": sheet["sha256"], "by": "maintenance"}
    assert accepted == [
        (("p1", "panel", "1"), value), (("p2", "panel", "2"), value), (("counter", "button", ""), value)
    ]  # fmt: skip
    stages = [(fact.subject, fact.value["stage"]) for fact in await box.facts(Sort.STAGE) if fact.value]
    assert stages == [((device,), stage) for device in ("panel", "button") for stage in ("accepted", "in_service")]
    assert again == sheet
    [kept] = await box.facts(Sort.SHEET)
    assert kept.value is not None
    assert json.loads(kept.value["content"]) == sheet
    assert box.parts.walks.running("s1") is None
    assert [row.deed for row in rows(box.audit.path)] == ["acceptance", "acceptance", "walk test", "walk test"]


async def test_a_crash_before_acceptance_loses_nothing_of_what_was_shown(
    folder: Path, jumping_clock: JumpingClock
) -> None:
    async with box_on(folder, jumping_clock) as box:
        await start(box, "p1", "p2")
        await box.walk(1)
    await jumping_clock.advance(30)
    async with box_on(folder, jumping_clock) as box:
        await box.walk(2)
        sheet = await box.parts.acceptance.accept(FITTER, "s1")

    assert (sheet["passed"], is_whole(sheet)) == (2, True)


async def test_what_a_replaced_device_has_shown_does_not_count(box: Box) -> None:
    await start(box, "p1")
    await box.walk(1)
    known = box.registry.snapshot.points["p1"]
    await box.registry.put([Device("panel-2", "s1"), replace(known, device="panel-2")])

    [row] = (await box.parts.acceptance.progress("s1")).rows
    assert (row.device, row.lacks) == ("panel-2", "alarm")


async def test_a_sheet_shows_who_when_and_how_well_it_was_heard(box: Box) -> None:
    await start(box, "p1", "counter")
    begun = box.clock.now()
    await box.clock.advance(60)
    await box.walk(1)
    await box.say("button", Kind.PANIC)
    await box.parts.walks.end(FITTER, "s1")
    sheet = await box.parts.acceptance.sheet("s1")

    [door, button] = sheet["rows"]
    at = begun + timedelta(seconds=60)
    assert datetime.fromisoformat(door["alarm_at"]) == datetime.fromisoformat(door["restore_at"]) == at
    assert door["measured"] == {"rssi_dbm": -62, "battery_pct": 96}
    assert (button["is_press"], button["restore_at"], button["lacks"]) == (True, "", "")
    assert (sheet["tester"], sheet["ended"]) == ("maintenance", at.isoformat())


async def test_a_changed_sheet_is_recognised(box: Box) -> None:
    await start(box, "p1")
    await box.walk(1)
    sheet = await box.parts.acceptance.accept(FITTER, "s1")
    text = json.dumps(sheet, ensure_ascii=False, indent=1)

    assert read(text) == sheet
    assert read(text.replace("2027-01-15T08", "2027-01-15T09")) is None
    assert read(text.replace('"passed": 1', '"passed": 2')) is None
    assert await box.parts.acceptance.is_recorded("s1", sheet["sha256"])
    assert not await box.parts.acceptance.is_recorded("s2", sheet["sha256"])
    with pytest.raises(ValueError, match="no fangkong acceptance sheet"):
        read("{}")


async def test_an_old_test_is_not_accepted(box: Box) -> None:
    await start(box, "p1")
    await box.walk(1)
    await box.parts.walks.end(FITTER, "s1")
    await box.clock.advance(7 * 86_400 + 1)
    with pytest.raises(Refused, match="last 7 days"):
        await box.parts.acceptance.accept(FITTER, "s1")


async def test_the_page_says_it_in_chinese_and_english(box: Box) -> None:
    await start(box, "p1", "counter", "planned")
    await box.walk(1)
    sheet = await box.parts.acceptance.sheet("s1")

    chinese, english = page(sheet), page(sheet, "en")
    for word in (
        "安防设施验收单",
        "草稿",
        "16:30:00",
        "-62 dBm",
        "盗警",
        "未触发",
        "未装设备",
        sheet["sha256"],
        "运维人员",
    ):
        assert word in chinese
    for word in ("Acceptance sheet", "Draft", "burglary", "not triggered", "no device", sheet["sha256"]):
        assert word in english
    assert "<script>" not in page({**sheet, "reason": "<script>"})


# -- claiming ------------------------------------------------------------------------------------------------------------


async def test_the_one_that_was_triggered_is_bound_to_the_planned_point(box: Box) -> None:
    await box.say("early", Kind.BURGLARY)
    await box.clock.advance(1)
    since = box.clock.now()
    await box.say("checks-in", Kind.TELEMETRY)
    await box.say("new-1", Kind.BURGLARY, zone=3)
    claimed = await box.parts.claiming.claim(FITTER, "planned", since, said={"kind": "radio_sensor"})

    assert (claimed.device, claimed.zone) == ("new-1", 3)
    assert box.registry.snapshot.points["planned"].watchers == (("new-1", 3),)
    assert box.registry.device("new-1") == Device("new-1", "s1", "后门", kind="radio_sensor")
    stages = await box.facts(Sort.STAGE)
    assert [(fact.subject, fact.value, fact.actor) for fact in stages] == [
        (("new-1",), {"stage": "installed"}, "account:li")
    ]
    assert await box.at_110() == []


async def test_of_several_none_is_guessed(box: Box) -> None:
    since = box.clock.now()
    await box.say("new-1", Kind.BURGLARY)
    await box.say("new-2", Kind.TEST_MANUAL)
    with pytest.raises(Refused, match="triggered and unclaimed: new-1, new-2"):
        await box.parts.claiming.claim(FITTER, "planned", since)
    await box.parts.claiming.claim(FITTER, "planned", since, device="new-2", whole=True)

    assert box.registry.snapshot.points["planned"].watchers == (("new-2", None),)


async def test_an_unbound_zone_of_a_panel_in_the_ledger_is_claimed_by_its_trigger(box: Box) -> None:
    since = box.clock.now()
    await box.say("panel", Kind.BURGLARY, zone=3)  # another door, which has its point
    await box.say("other", Kind.BURGLARY, zone=9)  # another site's
    await box.say("panel", Kind.BURGLARY, zone=61)
    with pytest.raises(Refused, match="model can be said of a new device alone"):
        await box.parts.claiming.claim(FITTER, "planned", since, said={"model": "M"})
    claimed = await box.parts.claiming.claim(FITTER, "planned", since, whole=True, point_kind="back_door")

    assert (claimed.device, claimed.zone, claimed.is_known) == ("panel", 61, True)
    bound = box.registry.snapshot.points["planned"]
    assert (bound.watchers, bound.kind) == ((("panel", 61),), "back_door")
    assert (box.registry.snapshot.devices["panel"].name, await box.facts(Sort.STAGE)) == ("主机", [])


async def test_of_several_zones_none_is_guessed(box: Box) -> None:
    since = box.clock.now()
    await box.say("panel", Kind.BURGLARY, zone=61)
    await box.say("panel", Kind.BURGLARY, zone=62)
    with pytest.raises(Refused, match="panel zone 61, panel zone 62"):
        await box.parts.claiming.claim(FITTER, "planned", since)
    claimed = await box.parts.claiming.claim(FITTER, "planned", since, device="panel", zone=62)

    assert claimed.zone == 62


@pytest.mark.parametrize(
    ("point", "found"), [("p1", "watched by panel"), ("nowhere", "plan it first"), ("planned", "unclaimed: none")]
)
async def test_what_cannot_be_claimed_is_refused(box: Box, point: str, found: str) -> None:
    with pytest.raises(Refused, match=found):
        await box.parts.claiming.claim(FITTER, point, box.clock.now())


async def test_nobody_listens_for_longer_than_ten_minutes(box: Box) -> None:
    with pytest.raises(Refused, match="the last 10 minutes"):
        await box.parts.claiming.candidates(box.clock.now() - timedelta(seconds=601))
