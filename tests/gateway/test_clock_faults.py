"""The machine's own clock is wrong, jumps, drifts or was never set: what the gateway says, keeps and sends then."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from drivers import alarm_json
from gateway import housekeeping, logs
from gateway.clock import PROGRAM_DATE, RealClock
from gateway.codecs import dc09_fields
from gateway.daemon import Daemon, Parts
from gateway.driver import Context, FrameError, Session, Stream
from gateway.model import ClockQuality, Device, Event, Kind, Lane, Observation, Point, Qualifier, Site
from gateway.plan import prepare
from gateway.registry import Registry
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.timekeeping import JUMP_MIN, ClockWatch
from simulators.police_centre import PoliceCentre
from tests.conftest import JumpingClock
from tests.stories.box import free_ports

PATIENCE_S = 20
NEVER_SET = datetime(1970, 1, 1, 0, 0, 40, tzinfo=UTC)
HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
SITE = """
[gateway]
account = "0B0C"
[api]
listen = "127.0.0.1:0"
[storms]
window_s = 0
[store]
retention_days = 30
[[connection]]
name = "lines"
driver = "testing.lines"
link = "tcp-listen://127.0.0.1:{port}"
[[destination]]
name = "110"
forwarder = "dc09"
[destination.settings]
connect = "127.0.0.1:{centre}"
"""
CODES = {"burglary": "130", "clock_set": "625", "silent": "381"}


class SteppedClock(RealClock):
    """The machine's clock, with a wall clock that somebody sets."""

    def __init__(self, step: timedelta = timedelta()) -> None:
        self.step = step

    def now(self) -> datetime:
        return super().now() + self.step


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver of numbered lines, `N KIND QUALIFIER`, each answered by `N` once it is stored."""

    def split(buffer: bytearray) -> Iterator[bytes]:
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            yield line

    def decode(frame: bytes, context: Context) -> Sequence[Observation]:
        number, kind, qualifier = frame.decode().split()
        return [Observation("a001", Kind(kind), Qualifier(qualifier), repeat_key=number)]

    async def run(session: Session[Stream]) -> None:
        buffer = bytearray()
        while True:
            buffer += await session.link.read()
            for line in split(buffer):
                receipt = await session.report(decode(line, session.context))
                session.link.answer(line.split()[0] + b"\n", after=receipt)

    module = ModuleType("testing.lines")
    vars(module).update(LINK="stream", HEARD_WITHIN_S=None, split=split, decode=decode, run=run)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(housekeeping, "LOOK_S", 0.05)


numbers = count(1)
"""Of all messages of this run: a number that comes again is a repeat, also after a restart."""


class Box:
    """A gateway in this process under a clock that is set by hand, a device that speaks to it, and the 110 centre."""

    def __init__(self, daemon: Daemon, clock: SteppedClock, centre: PoliceCentre, store: SqliteStore) -> None:
        self.daemon, self.clock, self.centre, self.store = daemon, clock, centre, store
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self, port: int) -> None:
        up = partial(self.daemon._metrics.registry.get_sample_value, "fangkong_connection_up", {"connection": "lines"})
        while up() != 1:
            await self.clock.sleep(0.01)
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    async def say(self, kind: str, qualifier: str = "new", *, number: int | None = None) -> int:
        """One message of the device. Returns its number once it was answered, so once it is stored."""
        said = next(numbers) if number is None else number
        self._writer.write(f"{said} {kind} {qualifier}\n".encode())

        assert await self._reader.readline() == f"{said}\n".encode()
        return said

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def events(self, kind: Kind) -> Sequence[Event]:
        return await self.store.events(EventFilter(kind=kind))

    async def clock_events(self, least: int) -> list[float]:
        """The steps that were told, once there are `least` of them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await self.events(Kind.CLOCK_SET)) < least:
                await self.clock.sleep(0.02)
        return [float(str(event.values["by_s"])) for event in found]

    async def at_110(self, code: str, least: int) -> None:
        await self.centre.wait_for(lambda _: len(self.sent(code)) >= least, timeout_s=PATIENCE_S)

    def sent(self, code: str) -> list[Any]:
        return [row for row in self.centre.received if row.code == code]


@asynccontextmanager
async def running(folder: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    (port,) = free_ports(1)
    logs.set_up("error")
    opened: list[SqliteStore] = []
    build = Daemon._build

    async def kept(self: Daemon, stack: Any) -> Parts:
        parts = await build(self, stack)
        opened.append(parts.store)
        return parts

    monkeypatch.setattr(Daemon, "_build", kept)
    async with PoliceCentre() as centre:
        (folder / "site.toml").write_text(SITE.format(port=port, centre=centre.port))
        (folder / "var").mkdir(exist_ok=True)
        registry = await Registry.open(folder / "var" / "registry.db")
        await registry.put(
            [Site("s1", "阳泗小区", "A10B"), Device("a001", "s1"), Point("p1", "s1", 17, "东门", "a001")]
        )
        await registry.close()
        daemon = Daemon(prepare(folder / "site.toml"), clock=clock, random=Random(1), log=logs.logger())
        async with asyncio.timeout(3 * PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(daemon.run())
            await daemon.ready.wait()
            box = Box(daemon, clock, centre, opened[0])
            await box.connect(port)
            try:
                yield box
            finally:
                await box.close()
                daemon.stop()


# -- a clock that is set -----------------------------------------------------------------------------------------------


@pytest.mark.row("C1")
@pytest.mark.parametrize("step", [HOUR, -2 * HOUR, 10 * YEAR], ids=["1 h ahead", "2 h back", "10 years ahead"])
async def test_a_jump_is_one_event_and_changes_nothing_else(
    tmp_path: Path, lines: None, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    clock = SteppedClock()
    async with running(tmp_path, clock, monkeypatch) as box:
        await box.say("burglary")
        clock.step = step
        await box.say("burglary", "restore")
        first = await box.say("burglary")
        assert await box.clock_events(1) == [pytest.approx(step.total_seconds(), abs=0.1)]

        clock.step = timedelta()
        assert await box.say("burglary", number=first) == first
        await box.say("burglary", "restore")
        assert await box.clock_events(2) == [
            pytest.approx(step.total_seconds(), abs=0.1),
            pytest.approx(-step.total_seconds(), abs=0.1),
        ]
        await box.at_110("130", 4)
        await box.at_110("625", 2)

        assert [row.qualifier for row in box.sent("130")] == [1, 3, 1, 3]
        assert len(box.sent("625")) == 2
        assert box.sent("381") == []
        kinds = [event.kind.value for event in await box.store.events(EventFilter())]
        assert (kinds.count("burglary"), kinds.count("clock_set"), len(kinds)) == (4, 2, 6)


@pytest.mark.row("C1")
async def test_a_year_too_late_costs_no_history(tmp_path: Path, lines: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes by age, and a wrong clock makes everything old."""
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", 0.05)
    rounds: list[datetime] = []
    prune = SqliteStore.prune

    async def counted(
        self: SqliteStore, before: datetime, *, lane: Lane | None = None, kinds: Collection[Kind] = ()
    ) -> int:
        if lane is None:
            rounds.append(before)
        return await prune(self, before, lane=lane, kinds=kinds)

    monkeypatch.setattr(SqliteStore, "prune", counted)
    clock = SteppedClock()
    async with running(tmp_path, clock, monkeypatch) as box:
        await box.say("burglary")
        await box.at_110("130", 1)
        clock.step = YEAR
        await box.clock_events(1)
        before = len(rounds)
        await box.clock.sleep(0.5)  # ten rounds

        assert len(rounds) - before <= 1, "a round that had begun"
        assert len(await box.events(Kind.BURGLARY)) == 1

        monkeypatch.setattr(housekeeping, "AGES_DOUBTED", timedelta())
        async with asyncio.timeout(PATIENCE_S):
            while await box.events(Kind.BURGLARY):
                await box.clock.sleep(0.02)


@pytest.mark.row("C1")
@pytest.mark.parametrize(
    ("step", "told"), [(-HOUR, 1), (20 * DAY, 1), (2 * DAY, 0)], ids=["back", "a long pause", "a weekend"]
)
async def test_a_clock_that_changed_while_the_gateway_was_off_is_told_at_the_start(
    tmp_path: Path, lines: None, monkeypatch: pytest.MonkeyPatch, step: timedelta, told: int
) -> None:
    async with running(tmp_path, SteppedClock(), monkeypatch) as box:
        await box.say("burglary")
    for _ in range(2):
        async with running(tmp_path, SteppedClock(step), monkeypatch) as box:
            found = [float(str(event.values["by_s"])) for event in await box.events(Kind.CLOCK_SET)]

            assert found == [pytest.approx(step.total_seconds(), abs=20)] * told


@pytest.mark.row("C3")
@pytest.mark.parametrize("drift", [0.001, -0.001])
@pytest.mark.parametrize("look_s", [housekeeping.LOOK_S, housekeeping.PRUNE_EVERY_S])
def test_days_of_drift_are_no_jump(jumping_clock: JumpingClock, drift: float, look_s: float) -> None:
    watch = ClockWatch(jumping_clock)
    for _ in range(10_000):
        jumping_clock._move(jumping_clock.monotonic() + look_s)
        jumping_clock.jump_wall(look_s * drift)
        assert not watch.step()

    jumping_clock.jump_wall(JUMP_MIN.total_seconds() + 0.1)
    assert watch.step() == JUMP_MIN + timedelta(seconds=0.1)
    assert not watch.step()


# -- a clock that was never set ----------------------------------------------------------------------------------------


@pytest.mark.row("C2")
async def test_what_comes_before_the_clock_is_set_is_kept_sent_and_corrected(
    tmp_path: Path, lines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SteppedClock(NEVER_SET - RealClock().now())
    async with running(tmp_path, clock, monkeypatch) as box:
        repeated = await box.say("burglary")
        await box.at_110("130", 1)
        (unset,) = await box.events(Kind.BURGLARY)
        assert (unset.clock, unset.occurred_at) == (ClockQuality.UNSET, None)
        assert box.sent("130")[0].h is None

        came = RealClock().now()
        clock.step = timedelta()
        (step,) = await box.clock_events(1)
        async with asyncio.timeout(PATIENCE_S):
            while (await box.events(Kind.BURGLARY))[0].clock is ClockQuality.UNSET:
                await clock.sleep(0.02)
        await box.say("burglary", number=repeated)
        await box.say("burglary", "restore")
        alarm, restore = await box.events(Kind.BURGLARY)

        assert alarm.clock is ClockQuality.CORRECTED
        assert came - timedelta(seconds=PATIENCE_S) < alarm.received_at <= came
        assert alarm.received_at - unset.received_at == pytest.approx(
            timedelta(seconds=step), abs=timedelta(seconds=0.01)
        )
        assert restore.clock is ClockQuality.SET
        await box.at_110("130", 2)
        assert [row.qualifier for row in box.sent("130")] == [1, 3]


@pytest.mark.row("C2")
async def test_a_correction_reaches_no_event_of_another_boot(
    tmp_path: Path, lines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_set = NEVER_SET - RealClock().now()
    monkeypatch.setattr("gateway.daemon.boot_id", lambda: "the boot before")
    async with running(tmp_path, SteppedClock(never_set), monkeypatch) as box:
        await box.say("burglary")
    monkeypatch.setattr("gateway.daemon.boot_id", lambda: "this boot")
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", 0.05)
    monkeypatch.setattr(housekeeping, "AGES_DOUBTED", timedelta())
    clock = SteppedClock(never_set)
    async with running(tmp_path, clock, monkeypatch) as box:
        await box.say("burglary", "restore")
        clock.step = timedelta()
        async with asyncio.timeout(PATIENCE_S):
            while (found := await box.events(Kind.BURGLARY))[1].clock is not ClockQuality.CORRECTED:
                await clock.sleep(0.02)
        await clock.sleep(0.5)  # ten rounds of retention: what has no age is not old

        assert [event.clock for event in await box.events(Kind.BURGLARY)] == [
            ClockQuality.UNSET,
            ClockQuality.CORRECTED,
        ]
        assert found[0].received_at < PROGRAM_DATE


# -- the calendar ------------------------------------------------------------------------------------------------------


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process in a zone that repeats an hour."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("local", "fold", "utc"),
    [
        ("2027-10-31T02:30:00", 0, "2027-10-31T00:30:00+00:00"),  # Directive 2000/84/EC: back at 01:00 UTC
        ("2027-10-31T02:30:00", 1, "2027-10-31T01:30:00+00:00"),
        ("2027-03-28T03:00:00", 0, "2027-03-28T01:00:00+00:00"),
    ],
    ids=["before", "repeated", "after the missing hour"],
)
def test_where_an_hour_is_repeated_or_missing_times_stay_utc(berlin: None, local: str, fold: int, utc: str) -> None:
    at = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    stamp = dc09_fields.stamp(at)
    payload = f'{{"v":1,"device":"a001","session":"s","seq":1,"kind":"panic","at":"{at.isoformat()}"}}'.encode()
    (seen,) = alarm_json.decode("fangkong/v1/a001/event", payload, Context())

    assert stamp == datetime.fromisoformat(utc).strftime("%H:%M:%S,%m-%d-%Y")
    assert dc09_fields.moment(stamp) == datetime.fromisoformat(utc)
    assert seen.at == datetime.fromisoformat(utc)


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("at", "read"),
    [
        ("2028-02-29T23:59:59Z", datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("2027-02-29T12:00:00Z", None),
        ("1990-12-31T23:59:60Z", datetime(1990, 12, 31, 23, 59, 59, tzinfo=UTC)),  # RFC 3339 section 5.8
        ("2027-01-15T24:00:00Z", None),
        ("0000-00-00T00:00:00Z", None),
    ],
)
def test_a_date_is_read_or_refused_and_never_fails(at: str, read: datetime | None) -> None:
    payload = f'{{"v":1,"device":"a001","session":"s","seq":1,"kind":"panic","at":"{at}"}}'.encode()
    if read is None:
        with pytest.raises(FrameError, match='"at" is no'):
            alarm_json.decode("fangkong/v1/a001/event", payload, Context())
        return
    (seen,) = alarm_json.decode("fangkong/v1/a001/event", payload, Context())

    assert seen.at == read
