"""MQTT: messages stay unacknowledged until what they said is on disk, also through kills and reconnects.

A link lives exactly as long as one connection. A late `accept` of a former connection therefore cannot confirm a
message of this one, although the broker counts its packet identifiers from 1 again (MQTT 3.1.1, 2.3.1).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode
from structlog.typing import FilteringBoundLogger as Logger

from gateway.errors import LinkClosed, NoAnswer, Refused, StoreError
from gateway.links.mqtt_client import IN_HAND_MAX, BrokerAddress, Client
from gateway.links.mqtt_connect import ANSWER_TIMEOUT_S, Connected, connect
from gateway.links.mqtt_packets import puback, publish, publish_once
from gateway.receipt import SETTLE_WITHIN_S, Receipt
from gateway.recording import Tap

__all__ = ["Arrived", "BrokerAddress", "TopicsLink", "open_topics"]

IN_HAND_MAX_BYTES = 16 * 1024 * 1024
"""As IN_HAND_MAX, in bytes: what a box with 256 MB can spare."""


PACKET_ID_MAX = 65535
"""MQTT, 2.2.1. What we send is not sent again, so that a number is free long before it comes round."""

DROPPED = "$SYS/broker/publish/messages/dropped"
"""Where mosquitto counts what it could not keep, for us or for another client. A broker without it says nothing."""


@dataclass(slots=True, eq=False)
class Arrived:
    """A `driver.Message`."""

    topic: str
    payload: bytes
    retained: bool
    _packet_id: int
    _acknowledge: Callable[[int, int, Receipt], None]
    _accepted: bool = field(default=False, init=False)

    def accept(self, *, after: Receipt) -> None:
        assert not self._accepted, "a message is accepted once"
        self._accepted = True
        self._acknowledge(self._packet_id, len(self.payload), after)


@dataclass(slots=True)
class Owed:
    """What leaves in one go once `after` is on disk."""

    after: Receipt
    packets: list[bytes] = field(default_factory=list)
    messages: int = 0
    """How many of those in hand this acknowledges."""
    size_bytes: int = 0


class TopicsLink:
    """A `driver.Topics` over one connection."""

    def __init__(
        self,
        client: Client,
        connected: Connected,
        *,
        gap_possible: bool,
        log: Logger,
        dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.connected = connected
        self.gap_possible = gap_possible
        """We had a session here and the broker lost it: what came meanwhile may be missing."""
        self.tap: Tap | None = None
        self.peer = "broker"
        self.in_hand = 0
        self._in_hand_bytes = 0
        self._client = client
        self._log = log
        self._dropped = dropped
        self._inbox: list[Arrived] = []
        self._arrived = asyncio.Event()
        self._owed: deque[Owed] = deque()
        self._packet_id = PACKET_ID_MAX // 2
        """Of the last message sent at QoS 1; far from those of our subscription, which paho counts from 1."""
        self._why_closed: str | None = None
        for message in client.early:
            self._take(*message)
        client.take = self._take
        client.is_full = self._is_full
        client.watch(self._closed)

    async def subscribe(self, subscriptions: Sequence[str]) -> None:
        """Raises LinkClosed, Refused."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answers = await self._client.subscribe([*((topic, 1) for topic in subscriptions), (DROPPED, 0)])
        except (aiomqtt.MqttError, TimeoutError) as error:
            raise LinkClosed(f"the broker did not answer our subscription: {error}") from error
        for index, topic in enumerate(subscriptions):
            answer = answers[index]
            code = answer.value if isinstance(answer, ReasonCode) else answer
            if code >= 0x80:
                raise Refused(f'the broker refuses the subscription "{topic}" (reason {code}): check its access list')

    async def batches(self) -> AsyncIterator[Sequence[Arrived]]:
        """Everything that has arrived since the last batch, in order. Raises LinkClosed."""
        while True:
            if self._inbox:
                batch, self._inbox = self._inbox, []
                if self.tap is not None:
                    self.tap.batch(batch)
                yield batch
            elif self._why_closed is not None:
                raise LinkClosed(self._why_closed)
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        """Publish once `after` is on disk, in the order of the calls (acknowledgements included)."""
        if self.tap is not None:
            self.tap.published(topic, payload)
        self._owe(after, publish(topic, payload, is_5=self._client.is_5))

    def send(self, topic: str, payload: bytes, *, expiry_s: int) -> None:
        """See Topics.send."""
        if self._why_closed is not None:
            raise LinkClosed(self._why_closed)
        if self._client.is_behind:
            raise NoAnswer("the broker does not take what we send")
        self._packet_id = self._packet_id % PACKET_ID_MAX + 1
        packet = publish_once(topic, payload, packet_id=self._packet_id, expiry_s=expiry_s, is_5=self._client.is_5)
        self._client.write(packet)
        self._client.flush()

    def close(self, why: str) -> None:
        """Drop the connection; the broker keeps everything unacknowledged."""
        if self._why_closed is None:
            self._why_closed = why
            self._owed.clear()
            self._arrived.set()
            self._client.abandon()

    async def finish(self) -> None:
        """Send what is owed for commits that are under way. What takes too long stays unacknowledged and comes again."""
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(SETTLE_WITHIN_S):
                while self._owed:
                    await self._owed[0].after

    def _take(self, topic: bytes, payload: bytes, retained: bool, packet_id: int) -> None:
        if topic == DROPPED.encode():
            if payload.isdigit():
                self._dropped(int(payload))
            return
        self.in_hand += 1
        self._in_hand_bytes += len(payload)
        try:
            message = Arrived(topic.decode(), payload, retained, packet_id, self._acknowledge)
        except UnicodeDecodeError:
            # Forbidden by MQTT 3.1.1, 1.5.3; left unacknowledged it would come back on every connection, for ever.
            self._log.warning("message with a topic that is not UTF-8 dropped")
            self._acknowledge(packet_id, len(payload), Receipt.settled())
            return
        self._inbox.append(message)
        self._arrived.set()

    def _is_full(self) -> bool:
        return self.in_hand >= IN_HAND_MAX or self._in_hand_bytes >= IN_HAND_MAX_BYTES

    def _acknowledge(self, packet_id: int, size_bytes: int, after: Receipt) -> None:
        # A message at QoS 0 has no packet identifier and wants no PUBACK.
        self._owe(after, puback(packet_id) if packet_id else b"", messages=1, size_bytes=size_bytes)

    def _owe(self, after: Receipt, packet: bytes, *, messages: int = 0, size_bytes: int = 0) -> None:
        if self._why_closed is not None:
            return
        is_another = not self._owed or self._owed[-1].after is not after
        if is_another:
            self._owed.append(Owed(after))
        owed = self._owed[-1]
        owed.packets.append(packet)
        owed.messages += messages
        owed.size_bytes += size_bytes
        if is_another:
            after.when_settled(self._pay)

    def _pay(self, _: Receipt) -> None:
        """Send what is owed, in order, up to the first receipt that is still open."""
        while self._owed and self._owed[0].after.is_settled:
            owed = self._owed.popleft()
            if owed.after.error is not None:
                self._client.flush()  # what is stored is acknowledged all the same
                self.close(f"nothing can be acknowledged: {owed.after.error}")
                return
            self._client.write(b"".join(owed.packets))
            self.in_hand -= owed.messages
            self._in_hand_bytes -= owed.size_bytes
        if self.in_hand <= IN_HAND_MAX // 2 and self._in_hand_bytes <= IN_HAND_MAX_BYTES // 2:
            self._client.resume()

    def _closed(self) -> None:
        if self._why_closed is None:
            self._why_closed = self._client.why_closed()
            self._owed.clear()
            self._arrived.set()


@asynccontextmanager
async def open_topics(
    address: BrokerAddress,
    *,
    client_id: str,
    subscriptions: Sequence[str],
    log: Logger,
    had_session: bool = False,
    dropped: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[TopicsLink]:
    """One connection with a persistent session under a fixed `client_id`. Raises LinkClosed, Refused.

    `had_session`: this client id was connected before (in this run or, as the store knows, an earlier one), so that a
    broker without our session means a gap. `dropped` is told how many messages the broker says it has dropped since its start.
    """
    client, connected = await connect(address, client_id)
    gap_possible = had_session and not connected.session_present
    if gap_possible:
        log.warning("gap possible: the broker no longer has our session", broker=f"{address.host}:{address.port}")
    link = TopicsLink(client, connected, gap_possible=gap_possible, log=log, dropped=dropped)
    try:
        await link.subscribe(subscriptions)
        yield link
    finally:
        await link.finish()
        client.flush()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await client.__aexit__(None, None, None)
        except (aiomqtt.MqttError, TimeoutError):
            pass  # the farewell did not get through; the broker finds out by itself
        finally:
            client.abandon()
