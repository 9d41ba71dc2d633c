"""The MQTT link against real brokers: nothing is confirmed to the broker that is not on disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
import structlog

from gateway import logs
from gateway.broker import Broker
from gateway.config import Secret
from gateway.errors import LinkClosed, Refused, StoreError
from gateway.links import mqtt
from gateway.links.mqtt import Arrived, TopicsLink, open_topics
from gateway.receipt import Receipt
from tests.gateway.mqtt_brokers import KINDS, address_of, running

TIMEOUT_S = 20


@pytest.fixture(params=KINDS)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    async with running(request.param, tmp_path, monkeypatch) as broker:
        yield broker


@pytest.fixture
async def keeping_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """One that sends again what was not acknowledged. amqtt 0.12 does not: it forgets a message once it was sent."""
    async with running("mosquitto", tmp_path, monkeypatch) as broker:
        yield broker


@asynccontextmanager
async def device(broker: Broker, folder: Path) -> AsyncIterator[aiomqtt.Client]:
    """An ordinary MQTT client, as a device would use."""
    address = address_of("demo", broker, folder)
    assert address.password is not None
    async with aiomqtt.Client(
        address.host, address.port, username=address.username, password=address.password.reveal()
    ) as client:
        yield client


async def publish(broker: Broker, folder: Path, *payloads: str, topic: str = "t/x", retain: bool = False) -> None:
    async with device(broker, folder) as client:
        for payload in payloads:
            await client.publish(topic, payload, qos=1, retain=retain)


def opened(broker: Broker, *, had_session: bool = False, client_id: str = "gw"):
    return open_topics(
        broker.address, client_id=client_id, subscriptions=["t/#"], log=logs.logger(), had_session=had_session
    )


async def take(link: TopicsLink, count: int) -> list[Arrived]:
    """The next `count` messages, unacknowledged."""
    taken: list[Arrived] = []
    async with asyncio.timeout(TIMEOUT_S):
        async for batch in link.batches():
            taken += batch
            if len(taken) >= count:
                return taken
    raise AssertionError("the link ended")


def payloads(messages: Sequence[Arrived]) -> list[str]:
    return [message.payload.decode() for message in messages]


async def closing(link: TopicsLink) -> str:
    """Why the link ends."""
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(LinkClosed) as caught:
            async for _ in link.batches():
                pass
    return str(caught.value)


@pytest.mark.full
async def test_only_what_was_accepted_after_its_commit_is_not_sent_again(
    keeping_broker: Broker, tmp_path: Path
) -> None:
    async with opened(keeping_broker) as link:
        await publish(keeping_broker, tmp_path, *"abcde")
        first = await take(link, 5)
        first[0].accept(after=Receipt.settled())
        first[1].accept(after=Receipt.settled())
        first[2].accept(after=Receipt())

    async with opened(keeping_broker) as link:
        again = await take(link, 3)

    assert payloads(first) == list("abcde")
    assert payloads(again) == list("cde")


@pytest.mark.full
async def test_a_failed_commit_closes_the_link_and_confirms_nothing_after_it(
    keeping_broker: Broker, tmp_path: Path
) -> None:
    async with opened(keeping_broker) as link:
        await publish(keeping_broker, tmp_path, "a", "b")
        a, b = await take(link, 2)
        receipt = Receipt()
        a.accept(after=receipt)
        b.accept(after=Receipt.settled())
        receipt.settle(StoreError("disk full"))

        why = await closing(link)

    assert "disk full" in why
    async with opened(keeping_broker) as link:
        assert payloads(await take(link, 2)) == ["a", "b"]


@pytest.mark.full
async def test_a_late_accept_of_a_former_connection_confirms_nothing_on_this_one(
    keeping_broker: Broker, tmp_path: Path
) -> None:
    receipt = Receipt()
    async with opened(keeping_broker) as link:
        await publish(keeping_broker, tmp_path, "old")
        (old,) = await take(link, 1)
        old.accept(after=receipt)
    async with opened(keeping_broker) as link:
        (again,) = await take(link, 1)
        receipt.settle()  # the same packet identifier may now mean another message

        again.accept(after=Receipt())
    async with opened(keeping_broker) as link:
        assert payloads(await take(link, 1)) == ["old"]


async def test_receipts_are_published_in_order_and_only_after_their_commit(broker: Broker, tmp_path: Path) -> None:
    first, second = Receipt(), Receipt()
    async with device(broker, tmp_path) as client, opened(broker) as link:
        await client.subscribe("r/#", qos=1)
        link.publish("r/1", b"1", after=first)
        link.publish("r/2", b"2", after=second)
        link.publish("r/3", b"3", after=Receipt.settled())
        second.settle()
        await client.publish("r/0", b"nothing of ours before this", qos=1)
        first.settle()
        async with asyncio.timeout(TIMEOUT_S):
            seen = [str((await anext(client.messages)).topic) for _ in range(4)]

    assert seen == ["r/0", "r/1", "r/2", "r/3"]


async def test_a_broker_that_vanishes_closes_the_link(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(broker) as link:
        await broker.__aexit__(None, None, None)

        assert await closing(link)
    with pytest.raises(LinkClosed, match="no MQTT broker at"):
        async with opened(broker):
            pass


async def test_version_auto_finds_what_the_broker_speaks(broker: Broker) -> None:
    async with opened(broker) as link:
        assert link.connected.version == {"amqtt": "3.1.1", "mosquitto": "5"}[broker.kind]


async def test_a_wrong_password_is_refused_and_not_tried_for_ever(broker: Broker) -> None:
    wrong = replace(broker.address, password=Secret("canary-9f2"))
    with pytest.raises(Refused, match='refuses user "fangkong-gateway"') as caught:
        async with open_topics(wrong, client_id="gw", subscriptions=["t"], log=logs.logger()):
            pass

    assert "canary" not in str(caught.value)


async def test_a_lost_session_is_a_possible_gap(broker: Broker, tmp_path: Path) -> None:
    async with opened(broker) as first, opened(broker, client_id="other") as other:
        assert not first.connected.session_present
        assert not first.gap_possible
        assert not other.gap_possible
    async with opened(broker, had_session=True) as link:
        assert link.connected.session_present
        assert not link.gap_possible
    with structlog.testing.capture_logs() as lines:
        async with opened(broker, had_session=True, client_id="forgotten") as link:
            assert link.gap_possible

    assert [line["log_level"] for line in lines] == ["warning"]


async def test_retained_messages_are_marked_as_state(broker: Broker, tmp_path: Path) -> None:
    await publish(broker, tmp_path, "open", topic="t/door", retain=True)
    async with opened(broker) as link:
        (state,) = await take(link, 1)
        await publish(broker, tmp_path, "news")
        (news,) = await take(link, 1)

    assert (state.topic, state.retained) == ("t/door", True)
    assert (news.topic, news.retained) == ("t/x", False)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_flood_is_held_back_at_the_bound(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    """Retained, at QoS 0 too, where no window of the broker helps (reliability: 50 000 retained)."""
    monkeypatch.setattr(mqtt, "IN_HAND_MAX", 50)
    async with device(broker, tmp_path) as client:
        for number in range(300):
            await client.publish(f"t/{number}", b"x" * 20, qos=qos, retain=True)
    most = 0
    taken = 0
    async with opened(broker) as link:
        async with asyncio.timeout(TIMEOUT_S):
            async for batch in link.batches():
                most = max(most, link.in_hand)
                taken += len(batch)
                for message in batch:
                    message.accept(after=Receipt.settled())
                if taken == 300:
                    break

        assert link.in_hand == 0
    assert most <= 50


async def test_the_bound_in_bytes_holds_back_too(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "IN_HAND_MAX_BYTES", 1000)
    await publish(broker, tmp_path)
    async with opened(broker) as link:
        await publish(broker, tmp_path, *["y" * 400] * 9)
        first = await take(link, 3)

        assert len(first) == 3
        for message in first:
            message.accept(after=Receipt.settled())
        assert len(await take(link, 1)) <= 3


async def test_a_broker_that_confirms_none_of_our_publishes_ends_the_link(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "UNCONFIRMED_MAX", 3)
    async with opened(broker) as link:
        for _ in range(4):  # within one turn of the loop no PUBACK can have come
            link.publish("r/x", b"", after=Receipt.settled())

        assert await closing(link) == "the broker left 3 publishes unconfirmed"


CONSUMER = """
import asyncio, os, sys
from pathlib import Path
from gateway import logs
from gateway.config import Secret
from gateway.links.mqtt import BrokerAddress, open_topics
from gateway.receipt import Receipt

async def main(host, port, password, path, slow):
    address = BrokerAddress(host, int(port), "fangkong-gateway", Secret(password))
    with open(path, "ab") as file:
        async with open_topics(address, client_id="gw", subscriptions=["t/#"], log=logs.logger()) as link:
            print("ready", flush=True)
            async for batch in link.batches():
                receipt = Receipt()
                for message in batch:
                    file.write(message.payload + b"\\n")
                    message.accept(after=receipt)
                if slow == "hold":
                    print("holding", len(batch), flush=True)
                    continue            # written to no disk, confirmed to nobody
                file.flush(); os.fsync(file.fileno())
                receipt.settle()
                print("stored", len(batch), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def consumer(broker: Broker, path: Path, mode: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that stores with fsync and confirms; it is killed at the end, without a word."""
    address = broker.address
    assert address.password is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONSUMER, address.host, str(address.port), address.password.reveal(), str(path), mode,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.stdout.read()
        await process.wait()


@pytest.mark.full
async def test_a_consumer_killed_with_messages_in_hand_loses_none(keeping_broker: Broker, tmp_path: Path) -> None:
    sent = [str(number) for number in range(400)]
    held, stored = tmp_path / "held", tmp_path / "stored"
    async with consumer(keeping_broker, held, "hold") as process:
        await publish(keeping_broker, tmp_path, *sent[:200])
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            await process.stdout.readline()
    for part in (sent[200:300], sent[300:]):
        async with consumer(keeping_broker, stored, "store") as process:
            await publish(keeping_broker, tmp_path, *part)
            assert process.stdout is not None
            async with asyncio.timeout(TIMEOUT_S):
                await process.stdout.readline()  # killed after the first commit, whatever else is in hand

    before = stored.read_text().split()
    async with opened(keeping_broker) as link:
        rest = payloads(await take(link, len(set(sent) - set(before)))) if set(sent) - set(before) else []

    assert set(before) | set(rest) == set(sent)
