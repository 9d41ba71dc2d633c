"""Silence is an alarm: on time, once, and no restart grants a new life."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType

import pytest

from gateway.health import FLUSH_S, LATE_SHARE, SAID_AT_ONCE, STARTUP_GRACE_S, STATES, Health, Report
from gateway.ids import EventIds
from gateway.intake import Intake, Source
from gateway.metrics import Metrics
from gateway.model import Device, Event, Kind, Observation, Place, Qualifier
from gateway.receipt import Receipt
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock


class Ledger:
    def __init__(self, *devices: Device) -> None:
        self._devices = {device.id: device for device in devices}

    def device(self, device_id: str) -> Device | None:
        return self._devices.get(device_id)

    def devices(self) -> Sequence[Device]:
        return list(self._devices.values())

    def place(self, device: str, zone: int | None) -> Place | None:
        return Place("s1", "A10B", "阳泗小区", None, 0, device)


class Box:
    """A store and a health watch, as the daemon would build them."""

    def __init__(self, store: SqliteStore, health: Health, metrics: Metrics, report: Report) -> None:
        self.store = store
        self.report = report
        self.health = health
        self.metrics = metrics
        self.up = True

    async def told(self) -> list[tuple[str, Qualifier]]:
        events: Sequence[Event] = await self.store.events(EventFilter(kind=Kind.SILENT), limit=1000)
        return [(event.device, event.qualifier) for event in events]


@asynccontextmanager
async def box(
    folder: Path, clock: JumpingClock, *devices: Device, patience: Mapping[str, float | None] = MappingProxyType({})
) -> AsyncIterator[Box]:
    store = await SqliteStore.open(folder, clock, inline=True)
    ledger = Ledger(*devices)
    intake = Intake(
        store=store, places=ledger, routes=[], ids=EventIds(clock, Random(5)), clock=clock, metrics=Metrics(),
        heard=lambda device, source: None,
    )  # fmt: skip
    own = Source("gateway", "gateway", proves_life=False)
    metrics = Metrics()
    up: list[Box] = []
    health = Health(
        store=store, ledger=ledger, clock=clock, metrics=metrics, report=partial(intake.report, own),
        line_is_up=lambda _: up[0].up,
        behind=lambda _, device: "bridge" if device.startswith("leaf") else None,
        patience_s=patience.get,
    )  # fmt: skip
    made = Box(store, health, metrics, partial(intake.report, own))
    up.append(made)
    await health.load()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(health.run())
        yield made
        task.cancel()
    await store.close()


async def test_a_device_is_silent_once_its_window_has_passed(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(99)
        assert await here.told() == []

        await jumping_clock.advance(6)
        assert await here.told() == [("a001", Qualifier.NEW)]

        await jumping_clock.advance(1000)
        assert await here.told() == [("a001", Qualifier.NEW)]


async def test_a_device_that_speaks_again_is_restored_once(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(110)
        for _ in range(3):
            here.health.heard("a001", "c1", None)
            await jumping_clock.advance(10)

        assert await here.told() == [("a001", Qualifier.NEW), ("a001", Qualifier.RESTORE)]


async def test_an_enrolled_device_never_heard_is_silent_too(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        await jumping_clock.advance(106)

        assert await here.told() == [("a001", Qualifier.NEW)]


async def test_whose_pace_only_its_driver_knows_owes_its_first_word_within_a_day(
    tmp_path: Path, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No start gives more time; a code that anybody can send owes none, and who has spoken owes what his driver says."""
    first_s = 1000.0  # of 99 000: every second is a look
    monkeypatch.setattr("gateway.health.FIRST_WORD_S", first_s)
    devices = [
        Device("mute", "s1"),
        Device("code", "s1", kind="radio_code"),
        Device("speaks", "s1"),
        Device("free", "s1"),
    ]
    async with box(tmp_path, jumping_clock, *devices) as here:
        await jumping_clock.advance(first_s / 2)
    for _ in range(3):
        async with box(tmp_path, jumping_clock, *devices) as here:
            here.health.heard("speaks", "c1", first_s)
            here.health.heard("free", "c1", None)
            await jumping_clock.advance(first_s / 10)
    async with box(tmp_path, jumping_clock, *devices) as here:
        await jumping_clock.advance(first_s * 0.15)
        assert await here.told() == []
        await jumping_clock.advance(first_s * 0.06)
        assert await here.told() == [("mute", Qualifier.NEW)]
        await jumping_clock.advance(first_s)
        assert await here.told() == [("mute", Qualifier.NEW), ("speaks", Qualifier.NEW)]


async def test_restarts_every_ten_minutes_grant_no_new_life(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    device = Device("a001", "s1", heard_within_s=3600)
    for restart in range(6):
        async with box(tmp_path, jumping_clock, device) as here:
            if restart == 0:
                here.health.heard("a001", "c1", None)
            await jumping_clock.advance(595)
            assert await here.told() == []
        await jumping_clock.advance(5)

    async with box(tmp_path, jumping_clock, device) as here:
        await jumping_clock.advance(3600 * 0.05)
        assert await here.told() == [("a001", Qualifier.NEW)]


async def test_a_restart_does_not_tell_a_silence_twice(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    device = Device("a001", "s1", heard_within_s=100)
    async with box(tmp_path, jumping_clock, device) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(102)
        assert len(await here.told()) == 1
    # Killed before its own record was written: the event log alone must be enough.
    async with box(tmp_path, jumping_clock, device) as here:
        await jumping_clock.advance(200)
        assert len(await here.told()) == 1


async def test_a_passed_deadline_waits_for_the_lines_to_come_up(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    device = Device("a001", "s1", heard_within_s=100)
    async with box(tmp_path, jumping_clock, device) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(10)
    await jumping_clock.advance(7200)

    async with box(tmp_path, jumping_clock, device) as here:
        await jumping_clock.advance(STARTUP_GRACE_S - 1)
        assert await here.told() == []
        await jumping_clock.advance(2)
        assert await here.told() == [("a001", Qualifier.NEW)]


@pytest.mark.row("C1")
async def test_a_wall_clock_that_jumps_silences_nobody(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        jumping_clock.jump_wall(3600)
        await jumping_clock.advance(50)
        jumping_clock.jump_wall(-7200)
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(90)
        assert await here.told() == []

        await jumping_clock.advance(20)
        assert await here.told() == [("a001", Qualifier.NEW)]


@pytest.mark.row("C3")
@pytest.mark.parametrize("uptime_s", [2**31 / 1000, 2**32 / 1000, 2.0**31], ids=["24.9 days", "49.7 days", "68 years"])
async def test_a_long_uptime_moves_no_deadline(tmp_path: Path, jumping_clock: JumpingClock, uptime_s: float) -> None:
    await jumping_clock.advance(uptime_s - 50 - jumping_clock.monotonic())
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(99)
        assert await here.told() == []
        await jumping_clock.advance(2)
        assert await here.told() == [("a001", Qualifier.NEW)]


@pytest.mark.row("C1")
async def test_who_spoke_after_its_fault_is_missed_also_when_the_clock_went_back(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        await reports(here, Qualifier.NEW)
        jumping_clock.jump_wall(-7200)
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(110)

        assert await here.told() == [("a001", Qualifier.NEW)]


@pytest.mark.row("A8")
async def test_a_process_that_stood_still_blames_nobody_at_once(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """What the devices said meanwhile is still unread when the timers fire."""
    async with box(tmp_path, jumping_clock, Device("a001", "s1", "1", 20.0), Device("a002", "s1", "2", 600.0)) as made:
        for device in ("a001", "a002"):
            made.health.heard(device, "c1", None)
        await jumping_clock.advance(1)
        jumping_clock._mono += 60.0  # without anybody awake
        await jumping_clock.advance(0)
        assert await made.told() == []
        await jumping_clock.advance(10)
        made.health.heard("a001", "c1", None)
        await jumping_clock.advance(19)
        assert await made.told() == []
        await jumping_clock.advance(10)

        assert await made.told() == [("a001", Qualifier.NEW)]


async def test_a_dead_line_is_not_blamed_on_its_devices(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        here.up = False
        await jumping_clock.advance(1000)
        assert await here.told() == []

        here.up = True
        await jumping_clock.advance(STARTUP_GRACE_S + 2)
        assert await here.told() == [("a001", Qualifier.NEW)]


async def test_an_unclaimed_device_is_listed_and_not_missed(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock) as here:
        here.health.heard("stranger", "c1", 60.0)
        await jumping_clock.advance(1000)

        assert await here.told() == []
        assert [(state.device, state.state) for state in here.health.states()] == [("stranger", "unclaimed")]


async def test_the_drivers_window_counts_where_the_ledger_has_none(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1")) as here:
        here.health.heard("a001", "c1", 20.0)
        await jumping_clock.advance(22)

        assert await here.told() == [("a001", Qualifier.NEW)]


@pytest.mark.parametrize(
    ("kind", "own_s", "silent_after_s"), [("panic_button", None, 99_000), ("", 40.0, 40), ("", None, 90)]
)
async def test_a_claimed_device_owes_what_it_is_claimed_as_from_when_it_last_spoke(
    tmp_path: Path, jumping_clock: JumpingClock, kind: str, own_s: float | None, silent_after_s: float
) -> None:
    async with box(tmp_path, jumping_clock) as here:
        here.health.heard("btn", "c1", 90.0)
        await jumping_clock.advance(10)
        here.health._ledger._devices["btn"] = Device("btn", "s1", heard_within_s=own_s, kind=kind)  # type: ignore[attr-defined]  # the test's own ledger
        here.health.ledger_changed()

        await jumping_clock.advance(silent_after_s - 11)
        assert await here.told() == []
        await jumping_clock.advance(2)
        assert await here.told() == [("btn", Qualifier.NEW)]


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_once_a_person_takes_a_window_back_the_drivers_counts(
    tmp_path: Path, jumping_clock: JumpingClock, is_restarted: bool
) -> None:
    ledger = {own_s: Device("a001", "s1", heard_within_s=own_s) for own_s in (None, 5_000.0)}
    async with box(tmp_path, jumping_clock, ledger[None]) as here:
        here.health.heard("a001", "c1", 90.0)
        here.health._ledger._devices["a001"] = ledger[5_000.0]  # type: ignore[attr-defined]  # the test's own ledger
        here.health.ledger_changed()
        await jumping_clock.advance(200)
        assert await here.told() == []
        if not is_restarted:
            here.health.heard("a001", "c1", 90.0)
            here.health._ledger._devices["a001"] = ledger[None]  # type: ignore[attr-defined]  # the test's own ledger
            here.health.ledger_changed()
            await jumping_clock.advance(95)
            assert await here.told() == [("a001", Qualifier.NEW)]
    if is_restarted:
        async with box(tmp_path, jumping_clock, ledger[None]) as here:
            here.health.heard("a001", "c1", 90.0)
            await jumping_clock.advance(95)
            assert await here.told() == [("a001", Qualifier.NEW)]


async def test_every_state_of_a_site_is_shown_zeros_too(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """An alert can only watch a series that is there."""
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=3600)) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(60)

        shown = {
            sample.labels["state"]: sample.value
            for family in here.metrics.devices.collect()
            for sample in family.samples
            if sample.labels["site"] == "s1"
        }

    assert shown == {"heard": 1, "silent": 0, "unproven": 0, "unclaimed": 0}


async def test_the_counts_shown_are_those_of_a_recount_whatever_happens(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """They are kept by difference, so that a tick costs nothing for devices about which there is nothing to say."""
    random = Random(7)
    devices = [Device(f"a{n}", "s1", heard_within_s=float(random.randint(5, 60))) for n in range(20)]
    async with box(tmp_path, jumping_clock, *devices[:10]) as here:
        known = here.health._ledger._devices  # type: ignore[attr-defined]  # the test's own ledger
        states = set()
        for _ in range(200):
            device = random.choice(devices)
            match random.randrange(6):
                case 0:
                    known[device.id] = replace(device, site=f"s{random.randint(1, 3)}")
                    here.health.ledger_changed()
                case 1:
                    known.pop(device.id, None)
                    here.health.ledger_changed()
                case _:
                    here.health.heard(device.id, "c1", None)
            await jumping_clock.advance(FLUSH_S)
            here.health._show()  # as the watch does every FLUSH_S

            counted = Counter(
                (known[life.device].site if life.device in known else "", life.state) for life in here.health.states()
            )
            shown = {
                (sample.labels["site"], sample.labels["state"]): int(sample.value)
                for family in here.metrics.devices.collect()
                for sample in family.samples
            }
            assert {key: count for key, count in shown.items() if count} == dict(counted)
            assert {site for site, _ in shown} == {site for site, _ in counted}
            states |= {state for _, state in counted}

    assert states == set(STATES)


async def reports(here: Box, qualifier: Qualifier) -> None:
    """What a driver says of a device that cannot be reached, or can again."""
    await (await here.report([Observation("a001", Kind.COMM_FAULT, qualifier)]))


@pytest.mark.parametrize("known", [Qualifier.NEW, Qualifier.UPDATE])
async def test_a_device_that_cannot_be_reached_is_not_silent_as_well(
    tmp_path: Path, jumping_clock: JumpingClock, known: Qualifier
) -> None:
    """One cause, one event; and its return ends only what was told."""
    device = Device("a001", "s1", heard_within_s=100)
    async with box(tmp_path, jumping_clock, device) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(50)
        await reports(here, known)
        await jumping_clock.advance(1000)
        assert await here.told() == []
        assert [state.state for state in here.health.states()] == ["silent"]

    async with box(tmp_path, jumping_clock, device) as here:
        await jumping_clock.advance(1000)
        await reports(here, Qualifier.RESTORE)
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(50)
        assert await here.told() == []
        assert [state.state for state in here.health.states()] == ["heard"]

        await jumping_clock.advance(60)
        assert await here.told() == [("a001", Qualifier.NEW)]


async def test_a_silence_told_before_the_fault_is_ended(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(110)
        await reports(here, Qualifier.NEW)
        await jumping_clock.advance(110)
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(2)

        assert await here.told() == [("a001", Qualifier.NEW), ("a001", Qualifier.RESTORE)]


async def test_who_spoke_after_its_fault_is_missed_again(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """A last will that came late leaves a fault open although the device lives."""
    async with box(tmp_path, jumping_clock, Device("a001", "s1", heard_within_s=100)) as here:
        await reports(here, Qualifier.NEW)
        await jumping_clock.advance(10)
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(110)

        assert await here.told() == [("a001", Qualifier.NEW)]


# -- behind a bridge ---------------------------------------------------------------------------------------------------

LEAVES = [Device(f"leaf-{n}", "s1", heard_within_s=100) for n in range(50)]


async def say_of_bridge(here: Box, qualifier: Qualifier) -> None:
    await (await here.report([Observation("bridge", Kind.COMM_FAULT, qualifier)]))


async def test_a_lost_bridge_is_one_event_and_what_is_behind_it_unknown(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with box(tmp_path, jumping_clock, *LEAVES) as here:
        for leaf in LEAVES:
            here.health.heard(leaf.id, "c1", None)
        await say_of_bridge(here, Qualifier.NEW)
        await jumping_clock.advance(500)

        assert await here.told() == []
        assert {known.state for known in here.health.states()} == {"unproven"}

    async with box(tmp_path, jumping_clock, *LEAVES) as here:  # a restart meanwhile grants and takes nothing
        await jumping_clock.advance(500)
        assert await here.told() == []

        await say_of_bridge(here, Qualifier.RESTORE)
        await jumping_clock.advance(90)
        for leaf in LEAVES[1:]:
            here.health.heard(leaf.id, "c1", None)
        assert await here.told() == []
        await jumping_clock.advance(50)
        assert await here.told() == [("leaf-0", Qualifier.NEW)]


async def test_a_bridge_that_falls_silent_is_told_alone(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """Also when those behind it are due before it is."""
    bridge = Device("bridge", "s1", heard_within_s=300)
    async with box(tmp_path, jumping_clock, bridge, *LEAVES) as here:
        for leaf in LEAVES:
            here.health.heard("bridge", "c1", None)
            here.health.heard(leaf.id, "c1", None)
        await jumping_clock.advance(2000)

        assert await here.told() == [("bridge", Qualifier.NEW)]


async def test_a_device_that_is_silent_behind_a_living_bridge_is_told(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    bridge = Device("bridge", "s1", heard_within_s=300)
    async with box(tmp_path, jumping_clock, bridge, *LEAVES[:2]) as here:
        for _ in range(3):
            here.health.heard("leaf-1", "c1", None)
            here.health.heard("bridge", "c1", None)
            await jumping_clock.advance(60)

        assert await here.told() == [("leaf-0", Qualifier.NEW)]


async def test_a_bridge_whose_loss_is_still_held_is_told_alone(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """Those behind it come due within the 20 s for which its last will is held."""
    async with box(tmp_path, jumping_clock, *LEAVES) as here:
        for leaf in LEAVES:
            here.health.heard(leaf.id, "c1", None)
        await jumping_clock.advance(121)  # cut at 100, reported at 121
        await say_of_bridge(here, Qualifier.NEW)
        await jumping_clock.advance(500)

        assert await here.told() == []


async def test_patience_may_grow_and_shrink_and_end(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """A vehicle: sooner with its ignition on, at no time off duty, and its whole time when it is on duty again."""
    patience: dict[str, float | None] = {"van": 300.0}
    async with box(tmp_path, jumping_clock, Device("van", "s1"), patience=patience) as here:
        here.health.heard("van", "c1", 15.0)
        await jumping_clock.advance(290)
        here.health.heard("van", "c1", 15.0)
        await jumping_clock.advance(15)  # past the first deadline: the heap now has the second, 275 s ahead
        patience["van"] = 50.0
        here.health.heard("van", "c1", 15.0)
        await jumping_clock.advance(49)
        assert await here.told() == []
        await jumping_clock.advance(2)
        assert await here.told() == [("van", Qualifier.NEW)]
        here.health.heard("van", "c1", 15.0)
        await jumping_clock.advance(1)
        assert (await here.told())[1:] == [("van", Qualifier.RESTORE)]

        patience["van"] = math.inf
        here.health.ledger_changed()
        await jumping_clock.advance(10_000)
        assert len(await here.told()) == 2
        patience["van"] = 300.0
        here.health.ledger_changed()
        await jumping_clock.advance(299)
        assert len(await here.told()) == 2
        await jumping_clock.advance(2)
        assert (await here.told())[2:] == [("van", Qualifier.NEW)]
        assert len(here.health._deadlines) <= 3, "a heap that grows with every change"


async def test_what_is_behind_a_lost_parent_of_the_ledger_is_not_called_silent(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """Also when the child falls due a moment before it; once the parent is back, the child has its whole window."""
    panel, sensor = (
        Device("panel", "s1", heard_within_s=101),
        Device("a-sensor", "s1", heard_within_s=100, parent="panel"),
    )
    async with box(tmp_path, jumping_clock, panel, sensor) as here:
        here.health.heard("a-sensor", "c1", None)
        here.health.heard("panel", "c1", None)
        await jumping_clock.advance(1000)
        assert await here.told() == [("panel", Qualifier.NEW)]

        here.health.heard("panel", "c1", None)
        await jumping_clock.advance(90)
        here.health.heard("panel", "c1", None)
        assert await here.told() == [("panel", Qualifier.NEW), ("panel", Qualifier.RESTORE)]
        await jumping_clock.advance(50)
        assert (await here.told())[2:] == [("a-sensor", Qualifier.NEW)]


async def test_a_parent_that_works_excuses_nobody(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """A panel that speaks once a day says nothing of a sensor that should every 100 s."""
    panel, sensor = (
        Device("panel", "s1", heard_within_s=90_000),
        Device("a-sensor", "s1", heard_within_s=100, parent="panel"),
    )
    async with box(tmp_path, jumping_clock, panel, sensor) as here:
        here.health.heard("panel", "c1", None)
        await jumping_clock.advance(10)
        here.health.heard("a-sensor", "c1", None)
        await jumping_clock.advance(105)
        assert await here.told() == [("a-sensor", Qualifier.NEW)]


@pytest.mark.parametrize(
    ("windows_s", "is_child_told"),
    [((6.0, 3.0), True), ((600.0, 30.0), True), ((6.0, 6.0), False), ((100.0, 96.0), False), ((3.0, 6.0), False),
     ((30.0, 600.0), False)],
)  # fmt: skip
@pytest.mark.parametrize("order", [("panel", "a-button"), ("a-button", "panel")])
async def test_a_lost_parent_is_one_cause_whichever_contract_ends_first(
    tmp_path: Path,
    jumping_clock: JumpingClock,
    windows_s: tuple[float, float],
    is_child_told: bool,
    order: Sequence[str],
) -> None:
    """A child that owes its word first is told on time; that ends when the parent turns out lost: the parent alone stands."""
    panel_s, button_s = windows_s
    panel = Device("panel", "s1", heard_within_s=panel_s)
    button = Device("a-button", "s1", heard_within_s=button_s, parent="panel")
    async with box(tmp_path, jumping_clock, panel, button) as here:
        for device in order:
            here.health.heard(device, "c1", None)
            await jumping_clock.advance(0.1)
        await jumping_clock.advance(button_s * (1 + LATE_SHARE))
        assert (("a-button", Qualifier.NEW) in await here.told()) == is_child_told
        await jumping_clock.advance(max(panel_s, button_s) + STARTUP_GRACE_S)
        passing = [("a-button", Qualifier.NEW), ("panel", Qualifier.NEW), ("a-button", Qualifier.RESTORE)]
        assert await here.told() == (passing if is_child_told else [("panel", Qualifier.NEW)])
        assert here.health._doubted == {}

        here.health.heard("panel", "c1", None)
        for _ in range(math.ceil((button_s + 2 * STARTUP_GRACE_S) / (panel_s / 2))):
            await jumping_clock.advance(panel_s / 2)
            here.health.heard("panel", "c1", None)
        assert (await here.told())[-1] == ("a-button", Qualifier.NEW)


async def test_a_child_silent_before_its_parent_spoke_last_stays_silent(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    panel, button = Device("panel", "s1", heard_within_s=60), Device("button", "s1", heard_within_s=30, parent="panel")
    async with box(tmp_path, jumping_clock, panel, button) as here:
        here.health.heard("button", "c1", None)
        await jumping_clock.advance(40)
        here.health.heard("panel", "c1", None)
        await jumping_clock.advance(300)
        assert await here.told() == [("button", Qualifier.NEW), ("panel", Qualifier.NEW)]
        assert here.health._doubted == {}


async def test_a_start_between_the_childs_deadline_and_the_parents_changes_nothing(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """Nor do a grandparent, nor more children than fit into a commit."""
    line, panel = Device("bus", "s1", heard_within_s=200), Device("panel", "s1", heard_within_s=400, parent="bus")
    buttons = [Device(f"b{n}", "s1", heard_within_s=50, parent="panel") for n in range(SAID_AT_ONCE + 1)]
    async with box(tmp_path, jumping_clock, line, panel, *buttons) as here:
        for device in (line, panel, *buttons):
            here.health.heard(device.id, "c1", None)
        await jumping_clock.advance(100)
    async with box(tmp_path, jumping_clock, line, panel, *buttons) as here:
        await jumping_clock.advance(150)
        for _ in range(5):
            await jumping_clock.settle()
            await jumping_clock.advance(FLUSH_S)
        told = Counter(await here.told())
        assert told == Counter({
            ("bus", Qualifier.NEW): 1,
            **{(each.id, qualifier): 1 for each in buttons for qualifier in (Qualifier.NEW, Qualifier.RESTORE)},
        })  # fmt: skip
        ended = await here.store.events(EventFilter(kind=Kind.SILENT, device="b0"), newest_first=True, limit=1)
        assert ended[0].values["via"] == "panel"


async def test_the_silence_of_a_town_costs_a_commit_for_each_250(
    tmp_path: Path, jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = [Device(f"d{number:04}", "s1", heard_within_s=100) for number in range(10_000)]
    sizes: list[int] = []
    async with box(tmp_path, jumping_clock, *town) as here:
        report = here.health._report

        async def counted(observations: Sequence[Observation]) -> Receipt:
            sizes.append(len(observations))
            return await report(observations)

        monkeypatch.setattr(here.health, "_report", counted)
        for device in town:
            here.health.heard(device.id, "c1", None)
        await jumping_clock.advance(101)
        for _ in range(10):
            await jumping_clock.settle()  # a commit takes some turns of the loop
        assert sizes == [SAID_AT_ONCE] * (10_000 // SAID_AT_ONCE)
        for device in town:
            here.health.heard(device.id, "c1", None)
        await jumping_clock.advance(5)
        for _ in range(10):
            await jumping_clock.settle()
        assert sizes == [SAID_AT_ONCE] * (2 * 10_000 // SAID_AT_ONCE)
        assert {state.state for state in here.health.states()} == {"heard"}
