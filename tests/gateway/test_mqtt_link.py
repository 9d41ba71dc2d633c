"""The MQTT link against real brokers: nothing is confirmed to the broker that is not on disk."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import paho.mqtt.client as paho
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway import broker as broker_module
from gateway import logs
from gateway.broker import Broker
from gateway.errors import LinkClosed, Refused, StoreError
from gateway.links import mqtt, mqtt_client, mqtt_connect
from gateway.links.mqtt import Arrived, BrokerAddress, TopicsLink, open_topics
from gateway.links.mqtt_client import KEEPALIVE_S, Client
from gateway.links.mqtt_packets import extent
from gateway.receipt import Receipt
from gateway.secret import Secret
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
    """An ordinary MQTT client, as a device would use. Kept open: amqtt forgets what it acknowledged to one that left."""
    address = address_of("demo", broker, folder)
    assert address.password is not None
    async with aiomqtt.Client(
        address.host, address.port, username=address.username, password=address.password.reveal()
    ) as client:
        yield client


async def publish(client: aiomqtt.Client, *payloads: str) -> None:
    for payload in payloads:
        await client.publish("t/x", payload, qos=1)


def opened(
    broker: Broker,
    *,
    had_session: bool = False,
    client_id: str = "gw",
    dropped: Callable[[int], None] = lambda _: None,
) -> AbstractAsyncContextManager[TopicsLink]:
    return open_topics(
        broker.address, client_id=client_id, subscriptions=["t/#"], log=logs.logger(), had_session=had_session,
        dropped=dropped,
    )  # fmt: skip


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


@pytest.mark.row("D4b")
@pytest.mark.full
async def test_only_what_was_accepted_after_its_commit_is_not_sent_again(
    keeping_broker: Broker, tmp_path: Path
) -> None:
    async with device(keeping_broker, tmp_path) as client, opened(keeping_broker) as link:
        await publish(client, *"abcde")
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
    async with device(keeping_broker, tmp_path) as client, opened(keeping_broker) as link:
        await publish(client, "a", "b")
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
    async with device(keeping_broker, tmp_path) as client, opened(keeping_broker) as link:
        await publish(client, "old")
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
    with pytest.raises(LinkClosed, match="cannot reach the MQTT broker at"):
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


@pytest.mark.row("D2")
async def test_a_lost_session_is_a_possible_gap(broker: Broker, tmp_path: Path) -> None:
    async with opened(broker) as first, opened(broker, client_id="other") as other:
        assert not first.connected.session_present
        assert not first.gap_possible
        assert not other.gap_possible
    async with opened(broker, had_session=True) as link:
        assert link.connected.session_present
        assert not link.gap_possible
    logs.set_up("info")  # a test before this one may have wanted errors only
    with structlog.testing.capture_logs() as lines:
        async with opened(broker, had_session=True, client_id="forgotten") as link:
            assert link.gap_possible

    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.row("D3")
async def test_retained_messages_are_marked_as_state(broker: Broker, tmp_path: Path) -> None:
    async with device(broker, tmp_path) as client:
        await client.publish("t/door", "open", qos=1, retain=True)
        async with opened(broker) as link:
            (state,) = await take(link, 1)
            await publish(client, "news")
            (news,) = await take(link, 1)

    assert (state.topic, state.retained) == ("t/door", True)
    assert (news.topic, news.retained) == ("t/x", False)


@pytest.mark.row("D3")
@pytest.mark.parametrize("qos", [0, 1])
async def test_a_flood_is_held_back_at_the_bound(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    """Retained, at QoS 0 too, where no window of the broker helps (reliability: 50 000 retained)."""
    monkeypatch.setattr(mqtt, "IN_HAND_MAX", 50)
    most = 0
    topics: set[str] = set()
    async with device(broker, tmp_path) as client:
        for number in range(300):
            # The last one with an answer: then the broker has them all, before we ask for them.
            await client.publish(f"t/{number}", b"x" * 20, qos=qos if number < 299 else 1, retain=True)
        async with opened(broker) as link, asyncio.timeout(TIMEOUT_S):
            async for batch in link.batches():
                most = max(most, link.in_hand)
                topics.update(message.topic for message in batch)
                for message in batch:
                    message.accept(after=Receipt.settled())
                if len(topics) == 300:  # amqtt may send the newest twice, as news and as retained
                    break

    assert link.in_hand == len(link._inbox)
    assert most <= 50


async def test_the_bound_in_bytes_holds_back_too(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "IN_HAND_MAX_BYTES", 1000)
    async with device(broker, tmp_path) as client, opened(broker) as link:
        await publish(client, *["y" * 400] * 9)
        first = await take(link, 3)

        assert len(first) == 3
        for message in first:
            message.accept(after=Receipt.settled())
        assert len(await take(link, 1)) <= 3


@pytest.mark.full
async def test_a_backlog_beyond_the_bound_does_not_block_the_answer_to_our_subscription(
    keeping_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed session delivers before the SUBACK, as much as our window allows."""
    monkeypatch.setattr(mqtt, "IN_HAND_MAX", 50)
    async with opened(keeping_broker):
        pass
    async with device(keeping_broker, tmp_path) as client:
        await publish(client, *map(str, range(200)))
    seen: list[str] = []
    async with opened(keeping_broker, had_session=True) as link:
        while len(seen) < 200:
            batch = await take(link, 1)
            seen += payloads(batch)
            for message in batch:
                message.accept(after=Receipt.settled())

    assert seen == [str(number) for number in range(200)]


@pytest.mark.full
@pytest.mark.row("D5")
async def test_our_own_broker_keeps_more_for_us_than_mosquittos_thousand(
    keeping_broker: Broker, tmp_path: Path
) -> None:
    """Told nothing it would drop what comes beyond 1000 for a gateway that is away, and confirm it to the device."""
    sent = [str(number) for number in range(1500)]
    async with opened(keeping_broker):
        pass
    async with device(keeping_broker, tmp_path) as client:
        await publish(client, *sent)
    seen: list[str] = []
    async with opened(keeping_broker, had_session=True) as link:
        while len(seen) < len(sent):
            batch = await take(link, 1)
            seen += payloads(batch)
            for message in batch:
                message.accept(after=Receipt.settled())

    assert seen == sent


@pytest.mark.full
@pytest.mark.row("D5")
async def test_a_broker_that_drops_says_so_and_its_count_is_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = broker_module._mosquitto_config

    def short_of_room(*words: Any, **more: Any) -> str:
        return usual(*words, **more).replace("max_queued_messages 0", "max_queued_messages 10\nsys_interval 1")

    monkeypatch.setattr(broker_module, "_mosquitto_config", short_of_room)
    told: asyncio.Queue[int] = asyncio.Queue()
    async with running("mosquitto", tmp_path, monkeypatch) as broker:
        async with opened(broker, dropped=told.put_nowait):
            async with asyncio.timeout(TIMEOUT_S):
                assert await told.get() == 0
        async with device(broker, tmp_path) as client:
            await publish(client, *map(str, range(2000)))  # ten and a window of 1000 are kept
        async with opened(broker, had_session=True, dropped=told.put_nowait) as link:
            async with asyncio.timeout(TIMEOUT_S):
                while await told.get() == 0:
                    pass
            assert {message.topic for message in await take(link, 1)} == {"t/x"}


CONSUMER = """
import asyncio, os, sys
from pathlib import Path
from gateway import broker as broker_module
from gateway import logs
from gateway.secret import Secret
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


@pytest.mark.row("D4b")
@pytest.mark.full
async def test_a_consumer_killed_with_messages_in_hand_loses_none(keeping_broker: Broker, tmp_path: Path) -> None:
    sent = [str(number) for number in range(400)]
    held, stored = tmp_path / "held", tmp_path / "stored"
    async with device(keeping_broker, tmp_path) as client, consumer(keeping_broker, held, "hold") as process:
        await publish(client, *sent[:200])
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            await process.stdout.readline()
    for part in (sent[200:300], sent[300:]):
        async with device(keeping_broker, tmp_path) as client, consumer(keeping_broker, stored, "store") as process:
            await publish(client, *part)
            assert process.stdout is not None
            async with asyncio.timeout(TIMEOUT_S):
                await process.stdout.readline()  # killed after the first commit, whatever else is in hand

    before = stored.read_text().split()
    async with opened(keeping_broker) as link:
        rest = payloads(await take(link, len(set(sent) - set(before)))) if set(sent) - set(before) else []

    assert set(before) | set(rest) == set(sent)


# -- on the bare wire --------------------------------------------------------------------------------------------------


class BareBroker:
    """A few packets of MQTT 3.1.1 (OASIS standard, chapter 3), so that a test decides every packet identifier."""

    def __init__(self, *, is_mute: bool = False, is_5: bool = False, deaf_until: asyncio.Event | None = None) -> None:
        self._is_mute = is_mute
        self.deaf_until = deaf_until
        """Reads nothing after the subscription until then."""
        self._properties = bytes([0] if is_5 else [])
        self._version: Literal["3.1.1", "5"] = "5" if is_5 else "3.1.1"
        self.puback: list[list[int]] = []
        """Acknowledged packet identifiers, by connection."""
        self.subscribed: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.greeted = asyncio.Event()
        self.gone = asyncio.Event()

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[BrokerAddress]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        try:
            port = server.sockets[0].getsockname()[1]
            yield BrokerAddress("127.0.0.1", port, version=self._version, tls=tls is not None)
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        acknowledged: list[int] = []
        self.puback.append(acknowledged)
        try:
            while head := await reader.read(1):
                size = (await reader.readexactly(1))[0]
                assert size < 0x80, "only short packets are sent here"
                body = await reader.readexactly(size)
                match head[0] >> 4:
                    case 1:  # CONNECT
                        self.greeted.set()
                        if not self._is_mute:
                            writer.write(bytes([0x20, 2 + len(self._properties), 0, 0]) + self._properties)
                    case 8:  # SUBSCRIBE -> SUBACK, QoS 1 granted
                        head_size = 2 + len(self._properties)
                        writer.write(bytes([0x90, head_size + 1]) + body[:2] + self._properties + bytes([1]))
                        self.subscribed.put_nowait(writer)
                        if self.deaf_until:
                            await self.deaf_until.wait()
                    case 4:  # PUBACK
                        acknowledged.append(int.from_bytes(body))
        finally:
            self.gone.set()
            writer.close()


def packet(packet_id: int, payload: bytes, *, topic: bytes = b"t/x", dup: bool = False) -> bytes:
    """PUBLISH at QoS 1 (3.3)."""
    body = len(topic).to_bytes(2) + topic + packet_id.to_bytes(2) + payload
    length = len(body)
    written = (
        bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    )
    return bytes([0x3A if dup else 0x32]) + written + body


def opened_at(address: BrokerAddress) -> AbstractAsyncContextManager[TopicsLink]:
    return open_topics(address, client_id="gw", subscriptions=["t/#"], log=logs.logger())


async def acknowledged(bare: BareBroker, connection: int) -> list[int]:
    """Everything that connection said, which has ended in good order."""
    async with asyncio.timeout(TIMEOUT_S):
        await bare.gone.wait()
    return bare.puback[connection]


async def test_pubacks_leave_in_order_of_arrival_up_to_the_first_open_receipt() -> None:
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        line = await bare.subscribed.get()
        for number in (7, 8, 9):
            line.write(packet(number, b"%d" % number))
        receipts = [Receipt(), Receipt(), Receipt()]
        for message, receipt in zip(await take(link, 3), receipts, strict=True):
            message.accept(after=receipt)
        receipts[1].settle()
        receipts[2].settle()
        line.write(packet(10, b"a round trip"))
        await take(link, 1)
        assert bare.puback == [[]]
        receipts[0].settle()

    assert await acknowledged(bare, 0) == [7, 8, 9]


async def test_a_link_closed_in_order_still_acknowledges_what_is_being_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "SETTLE_WITHIN_S", 0.2)
    bare = BareBroker()
    stored, never = Receipt(), Receipt()
    async with bare.listening() as address:
        async with opened_at(address) as link:
            line = await bare.subscribed.get()
            line.write(packet(7, b"7") + packet(8, b"8"))
            for message, receipt in zip(await take(link, 2), (stored, never), strict=True):
                message.accept(after=receipt)
            asyncio.get_running_loop().call_soon(stored.settle)

        assert await acknowledged(bare, 0) == [7]


@pytest.mark.row("D4")
async def test_what_was_acknowledged_last_leaves_before_the_farewell() -> None:
    bare = BareBroker()
    async with bare.listening() as address:
        async with opened_at(address) as link:
            (await bare.subscribed.get()).write(packet(1, b"a") + packet(2, b"b"))
            for message in await take(link, 2):
                message.accept(after=Receipt.settled())

        assert await acknowledged(bare, 0) == [1, 2]


async def test_what_is_stored_is_acknowledged_also_when_the_next_commit_fails() -> None:
    bare = BareBroker()
    stored, failed = Receipt(), Receipt()
    async with bare.listening() as address:
        async with opened_at(address) as link:
            (await bare.subscribed.get()).write(packet(1, b"a") + packet(2, b"b"))
            first, second = await take(link, 2)
            first.accept(after=stored)
            second.accept(after=failed)
            stored.settle()
            failed.settle(StoreError("disk full"))

        assert await acknowledged(bare, 0) == [1]


async def test_a_late_acknowledgement_never_meets_the_next_connections_message_of_the_same_number() -> None:
    bare = BareBroker()
    late = Receipt()
    async with bare.listening() as address:
        async with opened_at(address) as link:
            (await bare.subscribed.get()).write(packet(1, b"old"))
            (old,) = await take(link, 1)
            old.accept(after=late)
        assert await acknowledged(bare, 0) == []
        bare.gone.clear()
        async with opened_at(address) as link:
            line = await bare.subscribed.get()
            line.write(packet(1, b"another"))
            await take(link, 1)
            late.settle()
            line.write(packet(2, b"stored"))
            (stored,) = await take(link, 1)
            stored.accept(after=Receipt.settled())

        assert await acknowledged(bare, 1) == [2]


@pytest.mark.row("D4")
async def test_a_repeated_packet_is_handed_on_and_acknowledged_like_the_first() -> None:
    """DUP and a re-used packet identifier are the broker's business; repeats are recognised by their key."""
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        line = await bare.subscribed.get()
        line.write(packet(1, b"a") + packet(1, b"a", dup=True) + packet(1, b"b"))

        assert payloads(await take(link, 3)) == ["a", "a", "b"]


async def test_a_topic_that_is_no_utf8_does_not_come_back_for_ever() -> None:
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        line = await bare.subscribed.get()
        line.write(packet(1, b"poison", topic=b"t/\xff") + packet(2, b"good"))
        assert payloads(await take(link, 1)) == ["good"]

    assert await acknowledged(bare, 0) == [1]


@pytest.mark.parametrize(
    ("rubbish", "why"),
    [
        ("32 01 00", "ends in the middle"),
        ("32 05 00 09 74 2F 78", "ends in the middle"),
        ("32 06 00 03 74 2F 78 00", "ends in the middle"),
        ("32 FF FF FF FF 01", "more than 4 bytes"),
        ("34 09 00 03 74 2F 78 00 01 68 69", "QoS 2"),
        ("36 09 00 03 74 2F 78 00 01 68 69", "QoS 3"),
        ("F0 00", ""),
    ],
)
async def test_bytes_that_are_no_mqtt_close_the_link_and_nothing_else(rubbish: str, why: str) -> None:
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        line = await bare.subscribed.get()
        line.write(packet(1, b"good") + bytes.fromhex(rubbish) + packet(2, b"lost in the rubbish"))

        assert payloads(await take(link, 1)) == ["good"]
        assert why in await closing(link)


@pytest.mark.parametrize(("piece_bytes", "large"), [(1, 17_000), (7, 17_000), (mqtt_client.READ_BYTES, 300_000)])
async def test_packets_may_come_in_any_pieces(monkeypatch: pytest.MonkeyPatch, piece_bytes: int, large: int) -> None:
    """Lengths of one, two and three bytes (2.2.3). A long packet is not looked at anew with every piece of it."""
    looks = 0

    def counted(buffer: bytes, at: int) -> tuple[int, int] | None:
        nonlocal looks
        looks += 1
        return extent(buffer, at)

    monkeypatch.setattr(mqtt_client, "extent", counted)
    monkeypatch.setattr(mqtt_client, "READ_BYTES", piece_bytes)
    sent = [b"%d" % number + b"x" * size for number, size in enumerate([0, 100, 130, large, 3])]
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        (await bare.subscribed.get()).write(b"".join(packet(number, payload) for number, payload in enumerate(sent, 1)))

        assert [message.payload for message in await take(link, len(sent))] == sent
    assert looks < 100


async def test_a_flood_is_acknowledged_in_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write for each message cost more than storing it."""
    bare = BareBroker()
    writes = 0
    real = Client._send_unsent

    def counted(client: Client) -> None:
        nonlocal writes
        writes += 1
        real(client)

    monkeypatch.setattr(Client, "_send_unsent", counted)
    async with bare.listening() as address:
        async with opened_at(address) as link:
            (await bare.subscribed.get()).write(b"".join(packet(number, b"x") for number in range(1, 501)))
            receipt = Receipt()
            for message in await take(link, 500):
                message.accept(after=receipt)
                link.publish("r/x", b"stored", after=receipt)
            receipt.settle()

        assert await acknowledged(bare, 0) == list(range(1, 501))
    assert writes == 1


async def test_a_broker_that_reads_nothing_of_what_we_send_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_client, "UNSENT_MAX_BYTES", 100_000)
    deaf_until = asyncio.Event()
    bare = BareBroker(deaf_until=deaf_until)
    async with bare.listening() as address, opened_at(address) as link, asyncio.timeout(TIMEOUT_S):
        line = await bare.subscribed.get()

        async def answer_at_length() -> None:
            for number in range(1, 1_000):
                line.write(packet(number, b"asks"))
                for message in await take(link, 1):
                    message.accept(after=Receipt.settled())
                    link.publish("r/x", bytes(50_000), after=Receipt.settled())

        with pytest.raises(LinkClosed, match="took none of the last"):
            await answer_at_length()
        deaf_until.set()


async def test_what_arrives_is_a_sign_of_life_of_the_broker() -> None:
    """paho reads nothing itself any more, and gives up a broker of which it has read nothing for two intervals."""
    bare = BareBroker()
    async with bare.listening() as address, opened_at(address) as link:
        client = link._client._client
        client._last_bytes_received = 0.0
        (await bare.subscribed.get()).write(packet(1, b"alive"))
        await take(link, 1)

        assert client._last_bytes_received > 0.0


def test_the_private_names_of_paho_are_there() -> None:
    """A paho without them would be read twice, or be pinged to death, before any other test says why."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)

    assert callable(client._sock_recv)
    assert isinstance(client._out_packet, deque)
    assert isinstance(client._last_bytes_received, float)


@pytest.mark.row("D6")
async def test_a_second_client_under_our_name_is_named_as_the_cause() -> None:
    """DISCONNECT with reason 142 (MQTT 5, 3.14.2.1). mosquitto 2.0.11 closes without it."""
    bare = BareBroker(is_5=True)
    async with bare.listening() as address, opened_at(address) as link:
        (await bare.subscribed.get()).write(bytes([0xE0, 2, 142, 0]))

        assert await closing(link) == "another client uses our client id"


async def test_a_broker_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connect, "ANSWER_TIMEOUT_S", 0.2)
    bare = BareBroker(is_mute=True)
    async with bare.listening() as address, asyncio.timeout(TIMEOUT_S):
        with pytest.raises(LinkClosed, match="no answer within"):
            async with opened_at(address):
                pass
        await bare.gone.wait()


async def test_an_opener_cancelled_half_way_leaves_no_connection_behind() -> None:
    """It would hold our client id and throw the next connection out."""
    bare = BareBroker(is_mute=True)

    async def open_it() -> None:
        async with opened_at(address):
            raise AssertionError("a mute broker let us in")

    async with bare.listening() as address, asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
        opening = tasks.create_task(open_it())
        await bare.greeted.wait()
        opening.cancel()
        await bare.gone.wait()

    assert opening.cancelled()


def certificate(folder: Path, lasts: timedelta = timedelta(days=1)) -> ssl.SSLContext:
    """A server certificate for 127.0.0.1 that vouches for itself, as `folder/ca.pem`, and is good for so long from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test broker")])
    now = datetime.now(UTC)  # noqa: TID251  # the TLS library asks the machine's clock too
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + lasts
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def test_tls_delivers_what_one_record_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded bytes wait inside the TLS layer, where the socket announces nothing more; also after a pause."""
    monkeypatch.setattr(mqtt, "IN_HAND_MAX", 10)
    bare = BareBroker()
    async with bare.listening(certificate(tmp_path)) as address:
        async with opened_at(replace(address, ca=tmp_path / "ca.pem")) as link:
            line = await bare.subscribed.get()
            line.write(b"".join(packet(number, b"%d" % number) for number in range(1, 101)))
            seen: list[str] = []
            while len(seen) < 100:
                for message in await take(link, 1):
                    seen.append(message.payload.decode())
                    message.accept(after=Receipt.settled())

        assert seen == [str(number) for number in range(1, 101)]
        assert await acknowledged(bare, 0) == list(range(1, 101))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls_with_an_unknown_authority_fails_closed(tmp_path: Path) -> None:
    async with BareBroker().listening(certificate(tmp_path)) as address:
        with pytest.raises(LinkClosed, match="certificate verify failed"):
            async with opened_at(address):
                pass
    gc.collect()  # paho 2.2 drops the socket of a failed handshake instead of closing it


async def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    address = BrokerAddress("127.0.0.1", 1, tls=True, ca=tmp_path / "missing.pem")
    with pytest.raises(Refused, match=r"missing\.pem"):
        async with opened_at(address):
            pass


async def test_an_opener_cancelled_while_a_thread_still_dials_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = BareBroker()
    dialling, may_dial = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    dial = aiomqtt.Client._client_connect

    def dial_late(client: aiomqtt.Client) -> None:
        loop.call_soon_threadsafe(dialling.set)
        may_dial.wait(TIMEOUT_S)
        dial(client)

    async def open_it() -> None:
        async with opened_at(address):
            raise AssertionError("it was cancelled")

    monkeypatch.setattr(aiomqtt.Client, "_client_connect", dial_late)
    async with bare.listening() as address, asyncio.timeout(KEEPALIVE_S / 2), asyncio.TaskGroup() as tasks:
        opening = tasks.create_task(open_it())
        await dialling.wait()
        opening.cancel()
        await asyncio.wait([opening])
        may_dial.set()
        await bare.gone.wait()

    assert opening.cancelled()


async def test_a_broker_that_hangs_up_before_it_answers_is_given_up_at_once() -> None:
    """A broker that is just being killed does so; waiting for an answer would hold up every alarm for the timeout."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1])

        async with asyncio.timeout(mqtt.ANSWER_TIMEOUT_S / 4):
            with pytest.raises(LinkClosed, match="hung up"):
                async with open_topics(address, client_id="gw", subscriptions=["t/#"], log=logs.logger()):
                    pass
