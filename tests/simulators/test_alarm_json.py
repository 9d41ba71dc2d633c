"""The JSON alarm as a device: judged by the vectors, then talking through a real broker to the driver."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest

from drivers import alarm_json as driver
from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.driver import Context, Kind, LatestKey, Observation, Qualifier, Receipt, Session, Topics
from gateway.links.mqtt import open_topics
from simulators import _clock, alarm_json
from simulators._world import Ledger, Option, Spec, World
from tests.conftest import JumpingClock
from tests.driver_cases import FakeOrders
from tests.gateway.mqtt_brokers import KINDS, address_of, running

TIMEOUT_S = 20
FORTY = [f"b{n:03}" for n in range(40)]
VECTORS = tomllib.loads((Path(__file__).parents[1] / "vectors/alarm_json.toml").read_text(encoding="utf-8"))["vector"]


class Seen:
    """Things that happened, and a way to wait for them."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self._more = asyncio.Condition()

    async def add(self, thing: Any) -> None:
        async with self._more:
            self.things.append(thing)
            self._more.notify_all()

    async def until(self, is_enough: Callable[[list[Any]], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S), self._more:
            await self._more.wait_for(lambda: is_enough(self.things))


class MarchFirst(_clock.RealClock):
    """Always the moment of the vectors."""

    def now(self) -> float:
        return 1772330584.0  # date -u -d 2026-03-01T02:03:04Z +%s


class Boot5f3a9c01(Random):
    """The boot id of the vectors."""

    def getrandbits(self, k: int, /) -> int:
        return 0x5F3A9C01 if k == 32 else super().getrandbits(k)


@pytest.fixture(params=KINDS)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    async with running(request.param, tmp_path, monkeypatch) as broker:
        yield broker


@asynccontextmanager
async def device(
    broker: Broker, folder: Path, **options: Option
) -> AsyncIterator[tuple[alarm_json.Alarm, list[Mapping[str, Option]]]]:
    """A running device `a001` and the rows of its ledger."""
    ledger = Ledger(MarchFirst())
    rows: list[Mapping[str, Option]] = []
    ledger.listeners.append(rows.append)
    address = broker.address
    spec = Spec(
        "a001",
        f"mqtt://{address.host}:{address.port}",
        {"username": "a001", "password_file": str(folder / "a001.password"), "repeat_s": 0.1, **options},
    )
    made = alarm_json.make(spec, World(MarchFirst(), Boot5f3a9c01(7), ledger))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.run())
        yield made, rows
        task.cancel()


@asynccontextmanager
async def forty_devices(broker: Broker, folder: Path) -> AsyncIterator[list[alarm_json.Alarm]]:
    address = f"mqtt://{broker.address.host}:{broker.address.port}"
    options: dict[str, Option] = {"username": "demo", "password_file": str(folder / "demo.password")}
    world = World(_clock.RealClock(), Random(7), Ledger(MarchFirst()))
    async with asyncio.TaskGroup() as tasks:
        alarms = [alarm_json.make(Spec(name, address, options), world) for name in FORTY]
        running = [tasks.create_task(alarm.run()) for alarm in alarms]
        yield alarms
        for task in running:
            task.cancel()


@asynccontextmanager
async def eavesdropper(broker: Broker, folder: Path) -> AsyncIterator[Seen]:
    """Everything on the device's topics, as (topic's last word, payload)."""
    seen = Seen()
    address = address_of("demo", broker, folder)
    assert address.password is not None

    async def listen(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            await seen.add((str(message.topic).rpartition("/")[2], bytes(message.payload)))

    async with (
        aiomqtt.Client(
            address.host, address.port, username=address.username, password=address.password.reveal()
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.subscribe("fangkong/v1/a001/+", qos=1)
        task = tasks.create_task(listen(client))
        yield seen
        task.cancel()


class Gateway:
    """The driver on a real link, before a store that commits at once or not at all."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.clock = JumpingClock()
        self.is_committing = True
        self._open: list[Receipt] = []

    def commit(self) -> None:
        self.is_committing = True
        for receipt in self._open:
            receipt.settle()

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        for observation in observations:
            await self.seen.add(observation)
        if self.is_committing:
            return Receipt.settled()
        self._open.append(Receipt())
        return self._open[-1]

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        return {
            (seen.kind, seen.zone): seen.qualifier
            for seen in self.seen.things
            if isinstance(seen, Observation) and seen.device == device
        }

    async def hold(self) -> None:
        """Let the time pass for which an "offline" is held, until it is reported."""
        async with asyncio.timeout(TIMEOUT_S):
            while (Kind.COMM_FAULT, Qualifier.NEW) not in self.kinds():
                await self.clock.advance(driver.OFFLINE_HOLD_S + driver.LOOK_S)
                await RealClock().sleep(0.02)  # nothing tells when the word has come through the real broker

    @asynccontextmanager
    async def serving(self, broker: Broker) -> AsyncIterator[None]:
        log = logs.logger()
        topics = driver.subscriptions(Context())
        async with (
            open_topics(broker.address, client_id="gw", subscriptions=topics, log=log) as link,
            asyncio.TaskGroup() as tasks,
        ):
            session: Session[Topics] = Session(
                link, self.report, lambda _, error: pytest.fail(str(error)), lambda _: None, self.latest, FakeOrders(),
                Context(), self.clock, log,
            )  # fmt: skip
            task = tasks.create_task(driver.run(session))
            yield
            task.cancel()

    def beating(self) -> set[str]:
        """Devices whose heartbeat came through."""
        return {
            seen.device for seen in self.seen.things if isinstance(seen, Observation) and seen.kind is Kind.HEARTBEAT
        }

    def kinds(self) -> list[tuple[Kind, Qualifier]]:
        return [
            (seen.kind, seen.qualifier)
            for seen in self.seen.things
            if isinstance(seen, Observation) and seen.kind is not Kind.HEARTBEAT
        ]


async def test_what_it_sends_is_what_the_vector_says(broker: Broker, tmp_path: Path) -> None:
    (expected,) = (
        row["payload"].encode() for row in VECTORS if '"seq":1,' in row["payload"] and "6beece56" in row["payload"]
    )
    async with eavesdropper(broker, tmp_path) as seen, device(broker, tmp_path) as (alarm, _):
        await alarm.do("burglary", zone=3)
        await seen.until(lambda things: any(word == "event" for word, _ in things))

    assert next(payload for word, payload in seen.things if word == "event") == expected
    assert ("availability", b"online") in seen.things


async def test_it_repeats_until_the_receipt_and_then_stops(broker: Broker, tmp_path: Path) -> None:
    gateway = Gateway()
    gateway.is_committing = False
    async with gateway.serving(broker), device(broker, tmp_path) as (alarm, rows):
        await alarm.do("panic", zone=1)
        await gateway.seen.until(lambda _: len(gateway.kinds()) >= 3)
        gateway.commit()
        async with asyncio.timeout(TIMEOUT_S):
            while len(rows) < 2:
                await RealClock().sleep(0.02)  # the ledger has no way to wait
        before = len(gateway.kinds())
        await alarm.do("tamper")
        await gateway.seen.until(lambda _: (Kind.TAMPER, Qualifier.NEW) in gateway.kinds())

    keys = {
        seen.repeat_key for seen in gateway.seen.things if isinstance(seen, Observation) and seen.kind is Kind.PANIC
    }
    assert keys == {"5f3a9c01/1"}
    assert [(row["state"], row["what"], row["ref"]) for row in rows[:2]] == [
        ("raised", "panic", "a001/5f3a9c01/1"),
        ("acknowledged", "panic", "a001/5f3a9c01/1"),
    ]
    assert gateway.kinds()[before:].count((Kind.PANIC, Qualifier.NEW)) <= 1


async def test_silence_says_nothing_and_a_cut_line_says_offline(broker: Broker, tmp_path: Path) -> None:
    gateway = Gateway()
    async with (
        eavesdropper(broker, tmp_path) as heard,
        gateway.serving(broker),
        device(broker, tmp_path, heartbeat_s=0.05) as (alarm, _),
    ):
        await heard.until(lambda things: any(word == "heartbeat" for word, _ in things))
        await alarm.do("silent")
        await alarm.do("back")
        await heard.until(lambda things: things.count(("availability", b"online")) == 2)
        assert ("availability", b"offline") not in heard.things
        await alarm.do("offline")
        await gateway.hold()
        await alarm.do("panic")
        await alarm.do("back")
        await gateway.seen.until(lambda _: (Kind.PANIC, Qualifier.NEW) in gateway.kinds())

    assert gateway.kinds()[:3] == [
        (Kind.COMM_FAULT, Qualifier.NEW),
        (Kind.COMM_FAULT, Qualifier.RESTORE),
        (Kind.PANIC, Qualifier.NEW),
    ]


async def test_an_offline_while_the_gateway_was_away_is_found_at_its_return(broker: Broker, tmp_path: Path) -> None:
    gateway = Gateway()
    async with eavesdropper(broker, tmp_path) as heard, device(broker, tmp_path) as (alarm, _):
        await heard.until(lambda things: ("availability", b"online") in things)
        await alarm.do("offline")
        await heard.until(lambda things: ("availability", b"offline") in things)
        async with gateway.serving(broker):
            await gateway.hold()

    assert gateway.kinds() == [(Kind.COMM_FAULT, Qualifier.NEW)]


async def all_say(word: bytes, broker: Broker, folder: Path) -> None:
    """Return once the broker has that word of all forty and has passed on, behind it, a heartbeat of a device `word`."""
    said: dict[str, bytes] = {}
    address = address_of("demo", broker, folder)
    assert address.password is not None
    async with (
        asyncio.timeout(TIMEOUT_S),
        aiomqtt.Client(
            address.host, address.port, username=address.username, password=address.password.reveal()
        ) as client,
    ):
        await client.subscribe("fangkong/v1/+/availability", qos=1)
        async for message in client.messages:
            said[str(message.topic).split("/")[2]] = bytes(message.payload)
            if said == dict.fromkeys(FORTY, word):
                break
        mark = word.decode()
        await client.publish(f"fangkong/v1/{mark}/heartbeat", f'{{"v":1,"device":"{mark}"}}', qos=1)


@pytest.mark.full
async def test_a_broker_that_dies_with_its_gateway_is_no_fault_of_forty_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mosquitto keeps the wills of all at its own end; amqtt forgets them."""
    gateway = Gateway()
    async with running("mosquitto", tmp_path, monkeypatch) as broker, forty_devices(broker, tmp_path) as alarms:
        async with gateway.serving(broker):
            await all_say(b"online", broker, tmp_path)
            await gateway.seen.until(lambda _: "online" in gateway.beating())
        await broker.__aexit__(None, None, None)
        for alarm in alarms:
            await alarm.do("silent")  # not back before the gateway
        gateway.seen.things.clear()
        await broker._start()
        async with gateway.serving(broker):
            await all_say(b"offline", broker, tmp_path)
            await gateway.seen.until(lambda _: "offline" in gateway.beating())
            await gateway.clock.advance(driver.OFFLINE_HOLD_S - driver.LOOK_S)
            for alarm in alarms:
                await alarm.do("back")
            await all_say(b"online", broker, tmp_path)
            await gateway.seen.until(lambda _: "online" in gateway.beating())
            await gateway.clock.advance(3600)

    assert gateway.kinds() == []


async def test_it_remembers_a_bounded_number_of_events() -> None:
    ledger = Ledger(MarchFirst())
    alarm = alarm_json.make(Spec("a001", "mqtt://127.0.0.1:1"), World(MarchFirst(), Random(7), ledger))
    for _ in range(alarm_json.PENDING_MAX + 5):
        await alarm.do("panic")

    assert len(alarm._pending) == alarm_json.PENDING_MAX
    assert min(alarm._pending) == 6


def test_an_address_it_cannot_use_is_named() -> None:
    with pytest.raises(ValueError, match="expected mqtt://HOST:PORT"):
        alarm_json.make(Spec("a001", "tcp://127.0.0.1:1"), World(MarchFirst(), Random(7), Ledger(MarchFirst())))
