"""Storm rules on the road: what is stored, what gets an outbox row, what a crash leaves to be said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from gateway import intake
from gateway.config import StormsSection
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.intake import LOAD_PAGE, Intake, Route, Source
from gateway.metrics import Metrics
from gateway.model import DeliveryState, Event, Kind, Lane, Observation, Place, Qualifier
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

SOURCE = Source("test", "c1", 60.0)
LIMITS = StormsSection(window_s=10, burst=50, per_s=1)


class Everywhere:
    """A registry in which every device stands, but one."""

    def place(self, device: str, zone: int | None) -> Place | None:
        return None if device == "stranger" else Place("s1", "A10B", "阳泗小区", "p1", zone or 0, "东门")


@dataclass
class Road:
    """The intake on a real store."""

    store: SqliteStore
    clock: JumpingClock
    limits: StormsSection = LIMITS
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._ids = EventIds(self.clock, Random(7))
        self.intake = self._new()

    def _new(self) -> Intake:
        return Intake(
            store=self.store, places=Everywhere(), routes=[Route("110", frozenset(Lane))], ids=self._ids, clock=self.clock,
            metrics=self.metrics, heard=lambda *_: None, storms=self.limits,
        )  # fmt: skip

    async def say(self, times: int, kind: Kind = Kind.BURGLARY, *, restore: bool = False, device: str = "a001") -> None:
        """Numbered, so each is news, and awaited, so each was acknowledged."""
        qualifier = Qualifier.RESTORE if restore else Qualifier.NEW
        for _ in range(times):
            observation = Observation(device, kind, qualifier, zone=1, repeat_key=str(next(self._numbers)))
            await (await self.intake.report(SOURCE, [observation]))

    async def crash(self) -> None:
        self.intake = self._new()
        await self.intake.load()

    async def stored(self) -> list[Event]:
        return list(await self.store.events(EventFilter(), limit=10_000))

    async def sent(self) -> list[Event]:
        return [row.event for row in await self.store.deliveries(state=DeliveryState.QUEUED, limit=10_000)]

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"fangkong_{name}", labels)


@pytest.fixture
async def road(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Road]:
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    yield Road(store, jumping_clock)
    await store.close()


async def test_a_storm_is_one_alarm_and_one_count_and_every_event_is_on_disk(road: Road) -> None:
    async with asyncio.TaskGroup() as group:
        summing_up = group.create_task(road.intake.sum_up())
        await road.say(38)
        await road.clock.advance(11)
        summing_up.cancel()
    alarm, *repeats, summary = await road.stored()

    assert [event.id for event in await road.sent()] == [alarm.id, summary.id]
    assert (summary.qualifier, summary.lane, summary.values) == (
        Qualifier.UPDATE,
        Lane.ALARM,
        {"repeats": 37, "of": alarm.id},
    )
    assert {event.suppressed_by for event in repeats} == {alarm.id}
    assert len(repeats) == 37
    assert road.count("events_suppressed_total", reason="repeat") == 37
    assert road.count("storm_windows") == 0


async def test_a_crash_in_a_window_still_gives_the_count_and_the_state(road: Road) -> None:
    await road.say(200)
    await road.say(1, restore=True)
    await road.clock.advance(3600)  # the box was away for an hour
    await road.crash()
    sent = await road.sent()

    assert [(event.qualifier, event.values.get("repeats")) for event in sent] == [
        (Qualifier.NEW, None), (Qualifier.UPDATE, 199), (Qualifier.RESTORE, None),
    ]  # fmt: skip
    await road.crash()
    assert len(await road.sent()) == len(sent), "and it is said once"


async def test_a_crash_after_many_newer_events_still_finds_the_window(road: Road) -> None:
    await road.say(3)
    for n in range(LOAD_PAGE + 10):
        await road.say(1, Kind.TAMPER, device=f"b{n}")
    await road.crash()
    await road.say(2)
    await road.clock.advance(11)
    await road.intake._say_due()

    assert (await road.sent())[-1].values["repeats"] == 4


@pytest.mark.row("H5")
async def test_a_flood_is_recorded_whole_told_at_once_and_counted(road: Road) -> None:
    await road.say(1000, Kind.UNKNOWN)
    sent = await road.sent()
    begin = sent[-1]

    assert [event.kind for event in sent] == [Kind.UNKNOWN] * LIMITS.burst + [Kind.FLOODING]
    assert len(await road.stored()) == 1001
    assert road.count("events_suppressed_total", reason="flood") == 950
    await road.intake._say_due()
    assert road.count("flooding_sources") == 1
    await road.crash()
    await road.clock.advance(61)
    await road.intake._say_due()
    assert (await road.sent())[-1].values == {"of": begin.id, "suppressed": 950, "unknown": 950}


@pytest.mark.row("H5")
async def test_a_neighbour_of_a_flooding_source_is_sent_at_once(road: Road) -> None:
    await road.say(1000, Kind.UNKNOWN)
    await road.say(1, device="a002")

    assert (await road.sent())[-1].device == "a002"


async def test_an_unclaimed_device_has_no_storms(road: Road) -> None:
    await road.say(1000, Kind.UNKNOWN, device="stranger")

    assert {event.suppressed_by for event in await road.stored()} == {None}
    assert road.intake._storms.flooding == 0


async def test_what_the_gateway_says_is_not_limited(road: Road) -> None:
    own = Source("gateway", "gateway", proves_life=False)
    for _ in range(200):
        await (
            await road.intake.report(own, [Observation("a001", Kind.COMM_FAULT, repeat_key=str(next(road._numbers)))])
        )

    assert len(await road.sent()) == 200


async def test_a_numbered_repeat_is_counted_in_no_storm(road: Road) -> None:
    same = [Observation("a001", Kind.BURGLARY, zone=1, repeat_key="7")]
    for _ in range(5):
        await (await road.intake.report(SOURCE, same))
    await road.clock.advance(11)
    await road.intake._say_due()

    assert len(await road.stored()) == len(await road.sent()) == 1
    assert road.count("events_suppressed_total", reason="repeat") == 0
    assert road.intake._storms._decided == {}


async def test_what_a_repeat_has_kept_back_is_spoken_for_after_a_crash(road: Road) -> None:
    """A device says again what was stored long ago, and right behind it something new: one commit, in which the first turns out
    to be a repeat. Nobody has the event by which the second was kept back."""
    burglary = Observation("a001", Kind.BURGLARY, zone=1, repeat_key="7")
    await (await road.intake.report(SOURCE, [burglary]))
    await road.clock.advance(3600)
    await road.crash()
    await (await road.intake.report(SOURCE, [burglary, replace(burglary, repeat_key="8")]))
    (kept_back,) = [event for event in await road.stored() if event.suppressed_by]
    assert await road.store.event(str(kept_back.suppressed_by)) is None

    await road.crash()

    (word,) = [event for event in await road.sent() if event.id == kept_back.suppressed_by]
    assert (word.kind, word.qualifier, word.driver) == (Kind.FLOODING, Qualifier.NEW, "gateway")
    await road.crash()
    assert [event.id for event in await road.sent()].count(word.id) == 1, "said once"


async def test_a_report_that_was_broken_off_leaves_no_window(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as without_room:
        without_room.setattr(road.store, "append", full)
        with pytest.raises(StoreError):
            await road.say(1)
    await road.say(1)

    assert len(await road.sent()) == 1
    assert road.intake._storms._decided == {}


async def test_the_end_of_a_window_is_said_when_the_disk_is_well_again(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    await road.say(3)
    await road.clock.advance(11)

    with monkeypatch.context() as without_disk:
        without_disk.setattr(road.store._committer, "_transaction", _no_disk)
        await road.intake._say_due()
    assert len(await road.sent()) == 1
    await road.intake._say_due()
    assert (await road.sent())[-1].values["repeats"] == 2


async def test_what_is_read_at_a_start_is_bounded(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LOAD_EVENTS_MAX", 2 * LOAD_PAGE)
    await road.say(2 * LOAD_PAGE + 50)
    await road.crash()

    assert len(await road.intake._newest(65.0)) == 2 * LOAD_PAGE


def _no_disk(*_: object) -> None:
    raise OSError("no disk")
