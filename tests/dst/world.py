"""One run: devices, a gateway that dies and comes back, a disk, a network, a centre, all out of one seed."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import structlog

from gateway.errors import LinkClosed, StoreError
from gateway.forwarders import Outlet, _aside, _outbox, dc09
from gateway.forwarders.dc09 import Settings
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.kinds import Kind, Lane, Qualifier
from gateway.links.stream import StreamLink
from gateway.metrics import Metrics
from gateway.model import Observation, Place
from gateway.receipt import Series
from gateway.store import arrivals, numbers, sqlite
from simulators.police_centre.frames import Cutter
from tests.dst.centre import Centre, Frame, read
from tests.dst.devices import Device, Report, Style
from tests.dst.disk import Disk, SimulatedStore
from tests.dst.loop import START_S, SimulatedClock, SimulatedLoop
from tests.dst.model import DESTINATION, OWN, Model
from tests.dst.network import Network
from tests.dst.weather import Weather

SAFETY_S = 120.0
"""So long anything may go wrong."""
LIVENESS_S = 900.0
"""So long after the last fault everything must be where it belongs: offers every minute and a longest pause of one."""
RETRY_REFUSED_S = 60.0
STEPS_MAX = 200_000
"""A run that takes more turns in an hour of simulated time is going round in a circle."""
BOX_ACCOUNT = "0B0C"
ACCOUNTS = ("A001", "A002", "A003")


class Broken(AssertionError):
    """A promise was broken; the message says which."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run was."""

    seed: int
    broken: str
    """"" when all held."""
    trace: Sequence[str]
    steps: int
    frames: int
    copies: int
    lives: int
    drained_s: float
    """From the last fault to the last thing in its place."""

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=8).hexdigest()


class Life:
    """One process: the gateway's own parts, put together as the daemon does."""

    def __init__(self, world: World, store: SimulatedStore, number: int) -> None:
        self._world = world
        self.store = store
        self.random = Random(f"{world.seed}/gateway/{number}")
        self.metrics = Metrics()
        self.network = Network(world.centre, world.weather, world.dice("network", number), world.tap)
        self.intake = Intake(
            store=store,
            places=world,
            routes=[Route(DESTINATION, frozenset(Lane), dc09.wants, dc09.NUMBERED)],
            ids=EventIds(world.clock, self.random),
            clock=world.clock,
            metrics=self.metrics,
            heard=lambda device, source: None,
        )
        self._lines: dict[str, Line] = {}
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._group:
            self._group.create_task(dc09.run(self._outlet()), name="forwarder")

    def hear(self, device: Device, report: Report) -> None:
        """Something arrives on the device's line. On a new line a device begins with the oldest it has no answer to."""
        line = self._lines.get(device.id)
        if line is not None:
            line.arrive(report)
            return
        line = self._lines[device.id] = Line(self, device, self._world)
        self._group.create_task(line.run(), name=f"line of {device.id}")
        for each in device.waiting:
            line.arrive(each)

    def hang_up(self, line: Line) -> None:
        """The line's conversation is over."""
        if self._lines.get(line.device.id) is line:
            del self._lines[line.device.id]

    def _outlet(self) -> Outlet:
        world = self._world
        own = Source("gateway", "gateway", place=Place("box", BOX_ACCOUNT, "box", None, 0, "box"), proves_life=False)

        async def report(kind: Kind, qualifier: Qualifier, text: str) -> None:
            await (await self.intake.report(own, [Observation(OWN, kind, qualifier, text=text)]))

        settings = Settings(
            connect="centre:9000",
            key_file=world.key_file,
            retry_refused_s=RETRY_REFUSED_S,
            window=world.window,
        )
        return Outlet(
            destination=DESTINATION, settings=settings, base=world.folder, account=BOX_ACCOUNT, store=self.store,
            clock=world.clock, random=self.random, metrics=self.metrics, log=world.log, report=report,
            connect=self.network.connect,
        )  # fmt: skip


class Line:
    """What a driver does for one device, over the real link: report, and answer after the commit."""

    def __init__(self, life: Life, device: Device, world: World) -> None:
        self.device = device
        self._life = life
        self._world = world
        self._arrived: deque[Report] = deque()
        self._has_arrived = asyncio.Event()
        self._link = StreamLink(reader=self, writer=self, peer=device.id, abort=self._abort)  # type: ignore[arg-type]

    async def run(self) -> None:
        source = Source("simulated", "line", series=Series())
        with suppress(LinkClosed):
            while True:
                await self._link.read()
                several = [self._arrived.popleft() for _ in range(len(self._arrived))]
                if self._world.chance.random() < 0.5:  # a driver that reports frame by frame, or all it has read
                    for report in several:
                        self._answer([report], await self._life.intake.report(source, [report.observation]))
                else:
                    self._answer(
                        several, await self._life.intake.report(source, [each.observation for each in several])
                    )

    def _answer(self, reports: Sequence[Report], receipt: Any) -> None:
        for report in reports:
            self._link.answer(report.tag.encode(), after=receipt)

    def arrive(self, report: Report) -> None:
        self._arrived.append(report)
        self._has_arrived.set()

    # What the link is on: a reader and a writer.

    async def read(self, _: int = -1) -> bytes:
        if not self._arrived:
            self._has_arrived.clear()
            await self._has_arrived.wait()
        return b"reports" if self._arrived else b""

    def write(self, tag: bytes) -> None:
        if self._life is self._world.life:
            self._world.model.acknowledged(tag.decode())
            self.device.answer(tag.decode())

    async def drain(self) -> None:
        pass

    def _abort(self) -> None:
        self._arrived.clear()
        self._has_arrived.set()
        self._life.hang_up(self)


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, folder: Path, loop: SimulatedLoop) -> None:
        self.seed = seed
        self.folder = folder
        self._loop = loop
        self.chance = Random(f"{seed}/world")
        self.clock = SimulatedClock(loop)
        self.weather = Weather.drawn(self.chance)
        self._jumps = self.weather.clock_jumps_every_s > 0
        self.window = self.chance.choice((1, 2, 32))
        self.key_file: Path | None = None
        key = None
        if self.chance.random() < 0.3:
            key = b"0123456789abcdef"
            self.key_file = folder / "key"
            self.key_file.write_text(f"text:{key.decode()}\n")
            self.key_file.chmod(0o600)
        self.trace: list[str] = []
        self.broken = ""
        self.model = Model(fail=self.fail, time_s=loop.time)
        self.disk = Disk(folder, self.weather, self.dice("disk"), self)
        self.centre = Centre(self.weather, self.dice("centre"), self.clock, self, key)
        self.life: Life | None = None
        self.lives = 0
        self.drained_s = 0.0
        self.log = structlog.wrap_logger(None, processors=[self._log], wrapper_class=structlog.BoundLogger)
        self._ended = asyncio.Event()
        self._must_stop = False
        self._places: dict[str, Place | None] = {}
        self._key = key
        self.devices = [self._device(number) for number in range(self.chance.randint(2, 6))]
        self.note("seed", f"{seed}: {self.weather}; window {self.window}, {'encrypted' if key else 'plain'}")

    def dice(self, *part: object) -> Random:
        """Chance of its own for each part, so that one more throw here changes nothing there."""
        return Random("/".join(map(str, (self.seed, *part))))

    def _device(self, number: int) -> Device:
        name = f"d{number}"
        self._places[name] = self._place(name) if self.chance.random() < 0.85 else None
        device = Device(
            id=name, style=self.chance.choice(list(Style)), weather=self.weather, dice=self.dice(name), clock=self.clock,
            way=self, note=self.note, events=self.chance.choice((3, 8, 20)),
        )  # fmt: skip
        self.note(name, f"{device.style.value}, at {self._places[name] and self._places[name].account}")
        return device

    def _place(self, device: str) -> Place:
        account = self.chance.choice(ACCOUNTS)
        return Place(f"site {account}", account, "阳泗小区", None, int(device[1:]), "3号楼东门")

    # -- what the parts tell -------------------------------------------------------------------------------------------

    def note(self, who: str, what: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self._loop.time() - START_S:10.4f} {who:>8} {what.replace(str(self.folder), '')}")

    def fail(self, what: str) -> None:
        """A promise is broken: the first one counts."""
        if not self.broken:
            self.broken = what
            self.note("BROKEN", what)

    def _log(self, logger: Any, level: str, entry: dict[str, Any]) -> Any:
        words = entry.pop("event")
        self.note("gateway", f"{level}: {words} {entry or ''}")
        raise structlog.DropEvent

    def place(self, device: str, zone: int | None) -> Place | None:
        """`gateway.intake.Places`."""
        return self._places[device]

    def hear(self, device: Device, report: Report) -> None:
        """`devices.Way`."""
        if device.style is Style.NUMBERED:
            self.model.numbered.add(report.tag)
        elif device.style is Style.TIMED and self._jumps:
            self.model.mergeable.add(report.tag)
        if self.life is not None:
            self.life.hear(device, report)

    def tap(self, data: bytes) -> None:
        """The gateway writes whole frames."""
        cutter = Cutter()
        for body in cutter.feed(data):
            assert isinstance(body, bytes), body
            _, frame = read(body, self._key)
            self.note("gateway", f"sends {frame.token} {frame.account} {frame.number:04d} {frame.data}")
            self.model.sent(frame)
        assert not cutter.held_bytes, data

    def at_centre(self, frame: Frame) -> None:
        """`centre.Witness`."""

    def answered(self, frame: Frame, token: str) -> None:
        self.model.answered(frame, token)

    def committed(self) -> None:
        """`disk.Witness`."""
        if self.life is not None:
            self.model.committed()

    def disturbed(self, for_s: float) -> None:
        self.model.disturbed(for_s)

    def killed(self) -> None:
        life, self.life = self.life, None
        self.model.unwatch()
        if life is not None:
            life.network.forget()
        self._ended.set()

    # -- the process ---------------------------------------------------------------------------------------------------

    async def _live_for_ever(self) -> None:
        while True:
            self._must_stop = False
            self._ended.clear()
            try:
                store = await SimulatedStore.on(self.disk, self.clock, self.model.decided)
            except StoreError as error:
                self.note("gateway", f"cannot start: {error}")
                await self.clock.sleep(1.0)
                continue
            try:
                await self._live(store)
            finally:
                self.model.unwatch()
                store.drop()
            self.disk.replace()
            await self.clock.sleep(self.chance.choice((0.1, 1.0, 10.0)) * self.chance.random())

    async def _live(self, store: SimulatedStore) -> None:
        self.lives += 1
        self.note("gateway", f"life {self.lives} begins")
        life = Life(self, store, self.lives)
        try:
            await life.intake.load()
        except StoreError as error:
            self.note("gateway", f"cannot start: {error}")
            await store.close()
            return
        self.model.watch(self.disk.data_dir)
        self.model.disturbed(1.0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(life.run(), name="life")
            task.add_done_callback(lambda _: self._ended.set())
            self.life = life
            await self._ended.wait()
            if task.done() and not task.cancelled() and not self.disk.is_dead:
                raise Broken("the gateway ended by itself") from task.exception()
            self.life = None
            task.cancel()
        if not self.disk.is_dead:
            await store.close()
        self.note("gateway", f"life {self.lives} is over")

    def stop(self) -> None:
        """An orderly end, as SIGTERM asks for."""
        if self.life is not None:
            self.note("world", "the gateway is restarted")
            self._ended.set()

    # -- the weather ---------------------------------------------------------------------------------------------------

    async def _storm(self) -> None:
        """Episodes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, episode in (
                ("kill_every_s", self._kill),
                ("power_fails_every_s", self._lose_power),
                ("restart_every_s", self._restart),
                ("disk_full_every_s", self._fill_disk),
                ("outage_every_s", self._outage),
                ("clock_jumps_every_s", self._jump),
                ("claim_every_s", self._claim),
            ):
                if getattr(self.weather, name):
                    group.create_task(self._again(getattr(self.weather, name), episode), name=name)

    async def _again(self, every_s: float, episode: Any) -> None:
        while True:
            await self.clock.sleep(self.chance.expovariate(1 / every_s))
            await episode()

    async def _kill(self) -> None:
        if self.life is not None and not self.disk.is_dead:
            self.note("world", "the process is killed")
            self.disk.die()

    async def _lose_power(self) -> None:
        if self.life is not None and not self.disk.is_dead:
            self.note("world", "the power fails")
            self.model.power_failed()
            self.disk.lose_power()

    async def _restart(self) -> None:
        self.stop()

    async def _fill_disk(self) -> None:
        self.note("world", "the disk is full")
        self.disk.is_full = True
        await self.clock.sleep(self.chance.uniform(0, 30))
        self.disk.is_full = False
        self.note("world", "the disk has room")

    async def _outage(self) -> None:
        if self.life is None:
            return
        network = self.life.network
        self.note("world", "the centre is gone")
        network.outage(begins=True)
        await self.clock.sleep(self.chance.uniform(0, 60))
        network.outage(begins=False)
        self.note("world", "the centre is back")

    async def _jump(self) -> None:
        to_1970 = datetime.fromtimestamp(100, self.clock.true_now().tzinfo) - self.clock.true_now()
        self.clock.error = self.chance.choice((timedelta(hours=1), timedelta(hours=-2), timedelta(), to_1970))
        self.note("world", f"the wall clock jumps to {self.clock.now():%Y-%m-%d %H:%M}")

    async def _claim(self) -> None:
        device = self.chance.choice(self.devices).id
        if self._places[device] is None:
            self._places[device] = self._place(device)
            self.note("world", f"{device} is claimed for {self._places[device].account}")

    # -- the run -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Safety with faults, then liveness without."""
        self._loop.after_step = self._after_step
        self._loop.set_exception_handler(self._escaped)
        try:
            await self._run()
        finally:
            self._loop.after_step = lambda: None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            living = group.create_task(self._live_for_ever(), name="process")
            playing = [group.create_task(device.run(), name=device.id) for device in self.devices]
            storm = group.create_task(self._storm(), name="storm")
            with suppress(TimeoutError):
                async with asyncio.timeout(SAFETY_S):
                    await asyncio.wait(playing)
            storm.cancel()
            self._calm()
            await self._drain(playing)
            living.cancel()

    def _calm(self) -> None:
        self.note("world", "calm")
        calm = Weather()
        for name in Weather.__dataclass_fields__:
            setattr(self.weather, name, getattr(calm, name))
        self.disk.is_full = False
        self.clock.error = timedelta()
        if self.life is not None:
            self.life.network.is_down = False
        self.model.disturbed(1.0)

    async def _drain(self, playing: Sequence[asyncio.Task[None]]) -> None:
        began_s = self._loop.time()
        while self._loop.time() < began_s + LIVENESS_S:
            await self.clock.sleep(1.0)
            if (
                all(task.done() for task in playing)
                and not self.model.open_rows()
                and not self.model.has_open_trouble()
            ):
                self.drained_s = self._loop.time() - began_s
                return
        unanswered = [device.id for device in self.devices if device.waiting]
        late = [f"{each.event.seq} ({each.event.kind}, {each.state} {each.reason})" for each in self.model.open_rows()]
        trouble = self.model.has_open_trouble()
        self.fail(
            f"after {LIVENESS_S:.0f} s without a fault: unanswered {unanswered}, waiting {late}, trouble {trouble}"
        )

    def _escaped(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback let out. A future that nobody asked belongs to a life that was cut short."""
        if "handle" in context:
            self.fail(f"a callback failed: {context.get('exception')!r}")

    def _after_step(self) -> None:
        if not self.broken and self._loop.steps > STEPS_MAX:
            self.fail(f"{STEPS_MAX} turns of the loop: something goes round in a circle")
        if self.broken:
            self._loop.after_step = lambda: None
            raise Broken(self.broken)


@contextmanager
def small_bounds(dice: Random) -> Iterator[None]:
    """Bounds that a short run reaches."""
    numbers_max = dice.choice((40, 9999))
    with (
        patch.object(_outbox, "HELD_MAX", dice.choice((4, 16, 512))),
        patch.object(_outbox, "NUMBERS_AHEAD", dice.choice((1, 3, 16))),
        patch.object(_outbox, "ASIDE_BATCH", dice.choice((1, 64))),
        patch.object(_aside, "ASIDE_BATCH", 64),
        patch.object(numbers, "NUMBER_MAX", numbers_max),
        patch.object(arrivals, "NUMBERED_AT_ONCE_MAX", dice.choice((0, 3, numbers_max // 5))),
        patch.object(sqlite, "UNCOMMITTED_MAX", dice.choice((3, 20_000))),
    ):
        yield


def play(seed: int, folder: Path) -> Result:
    """Run one seed in an empty folder."""
    loop = SimulatedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, small_bounds(Random(f"{seed}/bounds")):
        world = runner.run(_made(seed, folder, loop))
        try:
            runner.run(world.run())
        except* Broken:
            pass
        except* Exception as errors:  # noqa: BLE001  # the boundary of a run: whatever went wrong is its result
            world.fail(repr(errors.exceptions[0]))
    return Result(
        seed,
        world.broken,
        world.trace,
        loop.steps,
        world.model.frames,
        world.model.copies,
        world.lives,
        world.drained_s,
    )


async def _made(seed: int, folder: Path, loop: SimulatedLoop) -> World:
    return World(seed, folder, loop)
