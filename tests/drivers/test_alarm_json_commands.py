"""Commands to alarms over MQTT: sent once with the time they have left, ended by the device's own result."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest

from drivers import alarm_json as driver
from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.driver import Act, Command, Context, NoAnswer, Session, Topics
from gateway.links.mqtt import open_topics
from simulators import _clock
from simulators._world import Ledger, Spec, World
from simulators.alarm_json import Alarm
from tests.conftest import JumpingClock
from tests.driver_cases import Desk, FakeMessage, FakeOrder, FakeTopics
from tests.gateway.mqtt_brokers import KINDS, BrokerKind, address_of, running

WITHIN_S = 30.0
CONTEXT = Context(settings=driver.Settings(obeys={"a001": frozenset({Act.OPEN}), "*": frozenset({Act.SIREN})}))


def order(act: Act = Act.OPEN, device: str = "a001", command_id: str = "c1", **changes: Any) -> FakeOrder:
    is_overdue = changes.pop("is_overdue", False)
    return FakeOrder(Command(command_id, device, act, valid_s=10, **changes), is_overdue=is_overdue, age_s=2.5)


def result(device: str, word: str, text: str = "", command_id: str = "c1", *, retained: bool = False) -> FakeMessage:
    body = {"v": 1, "device": device, "id": command_id, "result": word, "text": text}
    return FakeMessage(f"fangkong/v1/{device}/result", json.dumps(body).encode(), [], retained=retained)


async def conversation(
    clock: JumpingClock, orders: Sequence[FakeOrder], *messages: FakeMessage, link: FakeTopics | None = None
) -> FakeTopics:
    """The driver between these orders and messages, until nothing happens any more."""
    desk, topics = Desk(is_prompt=True), link or FakeTopics(messages, [])
    for one in orders:
        desk.orders.give(one)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(driver.run(desk.session(topics, CONTEXT, clock)))
        await clock.settle()
        task.cancel()
    assert not desk.rejected
    return topics


def test_what_a_device_obeys_stands_in_the_settings() -> None:
    assert driver.obeys("a001", CONTEXT) == {Act.OPEN}
    assert driver.obeys("other", CONTEXT) == {Act.SIREN}
    assert driver.obeys("a001", Context(settings=driver.Settings())) == frozenset()


async def test_a_command_carries_until_when_it_holds(jumping_clock: JumpingClock) -> None:
    asked = order(seconds=5, until=datetime(2027, 1, 15, 9, tzinfo=UTC))
    ((topic, payload, expiry_s),) = (await conversation(jumping_clock, [asked])).sent

    assert topic == "fangkong/v1/a001/command"
    body, _, crc = payload.partition(b',"crc":"')
    assert json.loads(body + b"}") == {
        "v": 1, "id": "c1", "act": "open", "seconds": 5,
        "expires_at": "2027-01-15T08:30:07.500Z",  # 7.5 s of its 10 are left
        "until": "2027-01-15T09:00:00.000Z",
    }  # fmt: skip
    assert crc == b'%08x"}' % zlib.crc32(body)
    assert expiry_s == 8
    assert asked.steps == [("sent", "")]


async def test_a_late_one_is_not_sent(jumping_clock: JumpingClock) -> None:
    late, fresh = order(is_overdue=True), order(command_id="c2")
    sent = (await conversation(jumping_clock, [late, fresh])).sent

    assert [json.loads(payload)["id"] for _, payload, _ in sent] == ["c2"]
    assert late.steps == []


async def test_a_broker_that_takes_nothing_is_told(jumping_clock: JumpingClock) -> None:
    class Stuck(FakeTopics):
        def send(self, topic: str, payload: bytes, *, expiry_s: int) -> None:
            raise NoAnswer("the broker does not take what we send")

    asked = order()
    await conversation(jumping_clock, [asked], link=Stuck([], []))

    assert asked.steps == [("failed", "not sent: the broker does not take what we send")]


@pytest.mark.parametrize(
    ("message", "step"),
    [
        (result("a001", "executed", "bolt back"), ("executed", "its result: bolt back")),
        (result("a001", "executed"), ("executed", "its result: executed")),
        (result("a001", "failed", "the bolt does not move"), ("failed", "its result: failed the bolt does not move")),
        (result("a001", "expired"), ("failed", "its result: expired")),
        (result("a002", "executed"), None),  # another device's word
        (result("a001", "executed", command_id="c9"), None),
        (result("a001", "executed", retained=True), None),
    ],
)
async def test_only_its_own_fresh_result_ends_it(
    jumping_clock: JumpingClock, message: FakeMessage, step: tuple[str, str] | None
) -> None:
    asked = order()
    await conversation(jumping_clock, [asked], message)

    assert [found for found in asked.steps if found[0] != "sent"] == ([step] if step else [])
    assert message.is_accepted


# -- on real brokers -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    kind: BrokerKind = request.param
    async with running(kind, tmp_path, monkeypatch) as found:
        yield found


@asynccontextmanager
async def gateway(broker: Broker, desk: Desk) -> AsyncIterator[None]:
    topics = driver.subscriptions(CONTEXT)
    async with (
        open_topics(broker.address, client_id="gw", subscriptions=topics, log=logs.logger()) as link,
        asyncio.TaskGroup() as tasks,
    ):
        session: Session[Topics] = desk.session(link, CONTEXT, RealClock())
        task = tasks.create_task(driver.run(session))
        yield
        task.cancel()


@asynccontextmanager
async def alarm(broker: Broker, folder: Path) -> AsyncIterator[Alarm]:
    clock = _clock.RealClock()
    address = address_of("a001", broker, folder)
    options = {"username": "a001", "password_file": str(folder / "a001.password")}
    made = Alarm(Spec("a001", f"mqtt://{address.host}:{address.port}", options), World(clock, Random(7), Ledger(clock)))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.run())
        async with asyncio.timeout(WITHIN_S):
            await made._connected.wait()
        yield made
        task.cancel()


async def changed(asked: FakeOrder) -> str:
    async with asyncio.timeout(WITHIN_S):
        while not asked.steps or asked.steps[-1][0] == "sent":
            asked.changed.clear()
            await asked.changed.wait()
    return asked.steps[-1][0]


async def test_a_device_does_it_once_whatever_the_broker_repeats(broker: Broker, tmp_path: Path) -> None:
    desk = Desk(is_prompt=True)
    async with gateway(broker, desk), alarm(broker, tmp_path) as device:
        asked = desk.orders.give(order(seconds=5))
        assert await changed(asked) == "executed"
        again = desk.orders.give(order(seconds=5))  # as QoS 1 may bring it twice
        assert await changed(again) == "executed"

        assert device.done == ["open"]


async def test_a_device_whose_clock_says_that_it_is_over_does_nothing(broker: Broker, tmp_path: Path) -> None:
    desk = Desk(is_prompt=True)
    async with gateway(broker, desk), alarm(broker, tmp_path) as device:
        asked = order()
        asked.age_s = 11.0
        desk.orders.give(asked)

        assert await changed(asked) == "failed"
        assert device.done == []


@pytest.mark.full
@pytest.mark.peer("mosquitto")
async def test_a_broker_hands_no_command_to_a_device_that_comes_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with a session of its own, so that the broker keeps for it what comes meanwhile."""
    desk = Desk(is_prompt=True)
    async with running("mosquitto", tmp_path, monkeypatch) as broker, gateway(broker, desk):
        address = address_of("a001", broker, tmp_path)
        assert address.password is not None
        options: dict[str, Any] = {
            "username": "a001", "password": address.password.reveal(), "identifier": "sleeper", "clean_session": False,
        }  # fmt: skip
        async with aiomqtt.Client(address.host, address.port, **options) as client:
            await client.subscribe("fangkong/v1/a001/command", qos=1)
        for command_id, age_s in (("short", 9.5), ("long", 0.0)):
            asked = order(command_id=command_id)
            asked.age_s = age_s
            desk.orders.give(asked)
            async with asyncio.timeout(WITHIN_S):
                await asked.changed.wait()
        await RealClock().sleep(2)  # the short one's validity at the broker
        async with asyncio.timeout(WITHIN_S), aiomqtt.Client(address.host, address.port, **options) as client:
            message = await anext(aiter(client.messages))

        assert json.loads(bytes(message.payload))["id"] == "long"  # type: ignore[arg-type]  # bytes, as everything that arrives
