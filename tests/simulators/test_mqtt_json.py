"""Simulated bridges and the driver, through a real broker: unplugged, silent, rubbish, slow, flooding; neighbours never notice."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest

from drivers import mqtt_json as driver
from drivers.mqtt_json.hearing import LOOK_S, OFFLINE_HOLD_S
from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.driver import Act, Command, Context, FrameError, Kind, LatestKey, Observation, Qualifier, Receipt, Session
from gateway.links.mqtt import open_topics
from gateway.loader import load_profiles
from simulators import _clock, mqtt_json
from simulators._world import Ledger, Spec, World
from tests.conftest import JumpingClock
from tests.driver_cases import FakeOrder, FakeOrders
from tests.gateway.mqtt_brokers import KINDS, address_of, running

TIMEOUT_S = 20
VECTORS = tomllib.loads((Path(__file__).parents[1] / "vectors/mqtt_json.toml").read_text(encoding="utf-8"))["vector"]
PROFILES = load_profiles(driver)
FLOOD = 2000


@pytest.fixture(params=KINDS)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    async with running(request.param, tmp_path, monkeypatch) as broker:
        yield broker


class Gateway:
    """Two connections, each with its family, on one real broker, before a store that commits at once."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.clock = JumpingClock()
        self.seen: list[Observation] = []
        self.rejected: list[str] = []
        self.orders = FakeOrders()
        self._changed = asyncio.Event()
        self._address = address_of("demo", broker, folder)
        self._password_file = str(folder / "demo.password")
        self.world = World(_clock.RealClock(), Random(7), Ledger(_clock.RealClock()))
        self.rows: list[Mapping[str, Any]] = []
        self.world.ledger.listeners.append(self._note)

    def _note(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        self._changed.set()

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        self.seen += observations
        self._changed.set()
        return Receipt.settled()

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        return {(seen.kind, seen.zone): seen.qualifier for seen in self.seen if seen.device == device}

    def reject(self, payload: bytes, error: FrameError) -> None:
        self.rejected.append(str(error))
        self._changed.set()

    def events(self) -> list[str]:
        """What is more than proof of life, in order."""
        return [f"{seen.device} {seen.kind} {seen.qualifier}" for seen in self.seen if seen.kind is not Kind.HEARTBEAT]

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def hold(self, wanted: str) -> None:
        """Let the time pass for which an "offline" is held, until `wanted` is reported."""
        async with asyncio.timeout(TIMEOUT_S):
            while wanted not in self.events():
                await self.clock.advance(OFFLINE_HOLD_S + LOOK_S)
                await RealClock().sleep(0.02)  # nothing tells when the word has come through the real broker

    @asynccontextmanager
    async def hearing(self, *families: str, **settings: Any) -> AsyncIterator[None]:
        """The driver with the profile of each family, on a connection of its own."""
        async with AsyncExitStack() as stack:
            tasks = []
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for family in families:
                of_family = settings if family == families[0] else {}
                given = driver.Settings(profile=family, topic=TOPICS.get(family), **of_family)
                context = Context(settings=given, profiles=PROFILES, connection=family)
                link = await stack.enter_async_context(
                    open_topics(
                        self.broker.address, client_id=f"gw-{family}", subscriptions=driver.subscriptions(context),
                        log=logs.logger(),
                    )
                )  # fmt: skip
                session = Session(
                    link=link, report=self.report, reject=self.reject, heard=lambda _: None, latest=self.latest,
                    orders=self.orders, context=context, clock=self.clock, log=logs.logger(),
                )  # fmt: skip
                tasks.append(group.create_task(driver.run(session)))
            yield
            for task in tasks:
                task.cancel()

    @asynccontextmanager
    async def bridge(self, family: str, devices: str = "door", **options: Any) -> AsyncIterator[mqtt_json.Bridge]:
        """A simulated bridge, switched on."""
        connect = f"mqtt://{self._address.username}@{self._address.host}:{self._address.port}"
        known = {"family": family, "topic": TOPICS.get(family), "devices": devices}
        spec = Spec(f"sim-{family}", connect, {**known, "password_file": self._password_file, **options})
        made = mqtt_json.make(spec, self.world)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(made.run())
            yield made
            task.cancel()

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[aiomqtt.Client]:
        address, password = self._address, self._address.password
        assert password is not None
        async with aiomqtt.Client(
            address.host, address.port, username=address.username, password=password.reveal()
        ) as client:
            yield client


TOPICS = {"tasmota_rf_bridge": "tasmota_sim", "rtl_433": "rtl_433/sim"}
NEIGHBOUR = "ev1527-00001 burglary new"


@pytest.fixture
def gateway(broker: Broker, tmp_path: Path) -> Gateway:
    return Gateway(broker, tmp_path)


@pytest.mark.parametrize(
    ("family", "acts", "events"),
    [
        ("zigbee2mqtt", ["burglary", "panic", "panic"], ["door burglary new", "door panic new", "door panic new"]),
        ("chirpstack_v4", ["burglary", "panic"], ["door burglary new", "door panic new"]),
        ("rtl_433", ["burglary", "unknown"], ["Honeywell-Security-1 burglary new", "Generic-Remote-1 unknown new"]),
        ("tasmota_rf_bridge", ["interior", "tamper"], ["ev1527-00001 interior new", "ev1527-00001 tamper new"]),
        ("owntracks", ["position"], ["sim/phone position new"]),
        ("esphome", ["smoke"], ["node smoke new"]),
    ],
)
async def test_what_a_bridge_says_arrives_as_what_happened(
    gateway: Gateway, family: str, acts: list[str], events: list[str]
) -> None:
    """Also what the family repeats on the air is there once. A bare sensor's word is enough to pay the broker for it."""
    async with gateway.hearing(family), gateway.bridge(family) as bridge:
        for act in acts:
            await bridge.do(act)
        await gateway.until(lambda: len(gateway.events()) >= len(events))
        await gateway.until(lambda: sum(row["state"] == "acknowledged" for row in gateway.rows) == len(acts))

    assert [event for event in gateway.events() if "comm_fault" not in event] == events
    assert gateway.rejected == []


async def test_unplug_of_a_bridge_is_one_event_and_its_return_another(gateway: Gateway) -> None:
    async with (
        gateway.hearing("zigbee2mqtt", "tasmota_rf_bridge"),
        gateway.bridge("zigbee2mqtt", "door,window,smoke") as bridge,
        gateway.bridge("tasmota_rf_bridge") as neighbour,
    ):
        await bridge.do("burglary", zone=2)
        await gateway.until(lambda: "window burglary new" in gateway.events())
        await bridge.do("offline")
        await gateway.hold("zigbee2mqtt comm_fault new")
        await neighbour.do("burglary")
        await gateway.until(lambda: NEIGHBOUR in gateway.events())
        await bridge.do("back")
        await gateway.until(lambda: "zigbee2mqtt comm_fault restore" in gateway.events())
        await bridge.do("burglary", zone=2, restore=True)
        await gateway.until(lambda: "window burglary restore" in gateway.events())

    assert gateway.events() == [
        "window burglary new", "zigbee2mqtt comm_fault new", NEIGHBOUR, "zigbee2mqtt comm_fault restore",
        "window burglary restore",
    ]  # fmt: skip


async def test_silence_of_a_bridge_hurts_no_neighbour(gateway: Gateway) -> None:
    """That it is silent is told by the watch over all devices, once for the bridge: tests/gateway/test_health.py."""
    async with (
        gateway.hearing("rtl_433", "tasmota_rf_bridge"),
        gateway.bridge("rtl_433") as bridge,
        gateway.bridge("tasmota_rf_bridge") as neighbour,
    ):
        await bridge.do("silent")
        await gateway.clock.advance(3600)
        await neighbour.do("burglary")
        await gateway.until(lambda: NEIGHBOUR in gateway.events())

    assert gateway.events() == [NEIGHBOUR]


async def test_garbage_is_refused_and_the_alarm_beside_it_counts(gateway: Gateway) -> None:
    rubbish = [b"\x00\xff{", b"[1]", b'{"contact":', b"9" * 5000, b"[" * 60_000, b"x" * 70_000, b'{"a":1,"a":2}']
    async with (
        gateway.hearing("zigbee2mqtt", "tasmota_rf_bridge"),
        gateway.bridge("tasmota_rf_bridge") as neighbour,
        gateway.stranger() as stranger,
    ):
        for payload in rubbish:
            await stranger.publish("zigbee2mqtt/door", payload, qos=1)
        await stranger.publish("zigbee2mqtt/door", b'{"contact":false}', qos=1)
        await neighbour.do("burglary")
        await gateway.until(lambda: {"door burglary new", NEIGHBOUR} <= set(gateway.events()))

    assert len(gateway.rejected) == len(rubbish)


async def test_a_slow_peer_holds_nobody_up(gateway: Gateway) -> None:
    """Half a packet at the broker, and the rest never."""
    connect = bytes.fromhex("10 10 00 04 4d515454 04 02 003c 0004 736c6f77")
    async with gateway.hearing("zigbee2mqtt"), gateway.bridge("zigbee2mqtt") as bridge:
        _, writer = await asyncio.open_connection(gateway.broker.address.host, gateway.broker.address.port)
        writer.write(connect[:9])
        await writer.drain()
        await bridge.do("burglary")
        await gateway.until(lambda: "door burglary new" in gateway.events())
        writer.close()
        await writer.wait_closed()


async def test_a_flood_of_one_bridge_leaves_the_neighbour_alone_and_all_of_it_counts(gateway: Gateway) -> None:
    async with (
        gateway.hearing("zigbee2mqtt", "tasmota_rf_bridge"),
        gateway.bridge("tasmota_rf_bridge") as neighbour,
        gateway.stranger() as stranger,
    ):
        stranger.pending_calls_threshold = FLOOD
        for number in range(FLOOD):
            payload = json.dumps({"action": "emergency", "n": number})
            await stranger.publish(f"zigbee2mqtt/sos-{number % 50}", payload, qos=1)
            if number == FLOOD // 2:
                await neighbour.do("burglary")
        await gateway.until(lambda: NEIGHBOUR in gateway.events())
        await gateway.until(lambda: len({seen.raw for seen in gateway.seen if seen.kind is Kind.PANIC}) == FLOOD)

    assert gateway.rejected == []


async def test_a_lock_obeys_and_its_own_word_is_the_evidence(gateway: Gateway) -> None:
    async with (
        gateway.hearing("zigbee2mqtt", roles={"front": "lock"}),
        gateway.bridge("zigbee2mqtt", "front", every_s=0.2) as bridge,
    ):
        await bridge.do("unlocked")
        await gateway.until(lambda: "front unlocked new" in gateway.events())
        order = gateway.orders.give(FakeOrder(Command("c1", "front", Act.LOCK)))
        await gateway.until(lambda: "front unlocked restore" in gateway.events())

    assert order.steps == [("sent", ""), ("executed", "lock_state is locked")]


async def test_a_jammed_lock_is_not_believed_to_have_locked(gateway: Gateway) -> None:
    async with (
        gateway.hearing("zigbee2mqtt", roles={"front": "lock"}),
        gateway.bridge("zigbee2mqtt", "front", every_s=0.2, jammed=True) as bridge,
    ):
        await bridge.do("unlocked")
        await gateway.until(lambda: "front unlocked new" in gateway.events())
        order = gateway.orders.give(FakeOrder(Command("c1", "front", Act.LOCK)))
        said = len(gateway.seen)
        await gateway.until(lambda: len(gateway.seen) >= said + 5)

    assert order.steps == [("sent", "")]


def test_what_the_simulator_says_has_the_members_that_others_published() -> None:
    """Written apart from the driver: held against the vectors' own messages."""
    world = World(_clock.RealClock(), Random(7), Ledger(_clock.RealClock()))
    behind = mqtt_json.Behind("door", 1, {})
    for family, act in (("rtl_433", "burglary"), ("tasmota_rf_bridge", "burglary"), ("chirpstack_v4", "burglary")):
        said = mqtt_json.FAMILIES[family]("", world).act(behind, act, restore=False)[0]
        published: set[str] = set()
        for row in VECTORS:
            if row.get("profile") == family and row["payload"].startswith("{"):
                published |= set(json.loads(row["payload"])) if "error" not in row else set()

        assert set(json.loads(said[1])) <= published, family
