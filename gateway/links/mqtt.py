"""MQTT: messages stay unacknowledged until what they said is on disk, also through kills and reconnects.

A link lives exactly as long as one connection. A late `accept` of a former connection therefore cannot confirm a
message of this one, although the broker counts its packet identifiers from 1 again (MQTT 3.1.1, 2.3.1).
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from structlog.typing import FilteringBoundLogger as Logger

from gateway.config import Secret
from gateway.errors import LinkClosed, Refused
from gateway.receipt import Receipt

Version = Literal["auto", "3.1.1", "5"]

IN_HAND_MAX = 1000
"""Messages taken and not yet acknowledged: one second of the busiest site, and the window our own broker is given.
Beyond it the socket is not read, so that brokers that ignore their window, and QoS 0, are held back by TCP."""
IN_HAND_MAX_BYTES = 16 * 1024 * 1024
"""The same in bytes: what a box with 256 MB can spare."""
PACKET_MAX_BYTES = 1024 * 1024
"""Largest packet asked for from the broker (MQTT 5 only): the retained inventory of a bridge is some 100 KB."""
READ_BURST = 100
"""Packets parsed in one turn of the loop: some 5 ms, so that nobody else waits long."""
UNCONFIRMED_MAX = 5000
"""Publishes without the broker's PUBACK: several full intakes of receipts. A broker that far behind is not working."""
SESSION_EXPIRY_S = 7 * 24 * 3600
"""How long the broker keeps our session (MQTT 5): a box that is repaired within a week misses nothing."""
KEEPALIVE_S = 10
"""paho gives up after a second silent interval: a half-open line is found within 20 s."""
ANSWER_TIMEOUT_S = 10.0

UNSUPPORTED_VERSION = 132
REFUSALS = {133: "client id", 134: "user name or password", 135: "not authorised", 138: "banned"}
"""CONNACK reasons that trying again cannot change (MQTT 5, 3.2.2.2; paho maps those of 3.1.1 onto them)."""
TAKEN_OVER = 142


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and who we are there."""

    host: str
    port: int
    username: str | None = None
    password: Secret | None = None
    version: Version = "auto"
    tls: bool = False
    ca: Path | None = None
    """Certificates to trust instead of the system's. Only with `tls`."""


@dataclass(frozen=True, slots=True)
class Connected:
    """How the connection came about."""

    version: Literal["3.1.1", "5"]
    session_present: bool
    """The broker still had our session: what came while we were away follows now."""


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


class _Client(aiomqtt.Client):
    """aiomqtt with acknowledgement and reading in our hands.

    Stock aiomqtt 2.5 confirms a message on arrival, loses it when killed, and discards when its queue is full. The
    private names that change this (`_client`, `_loop`, `_connected`, `_disconnected` and the callbacks) are used in
    this class only, and the contract test runs it against every broker.
    """

    def __init__(self, address: BrokerAddress, protocol: aiomqtt.ProtocolVersion, client_id: str) -> None:
        is_5 = protocol is aiomqtt.ProtocolVersion.V5
        super().__init__(
            address.host,
            address.port,
            username=address.username,
            password=address.password.reveal() if address.password else None,
            identifier=client_id,
            protocol=protocol,
            clean_session=None if is_5 else False,
            clean_start=False if is_5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=_session_properties() if is_5 else None,
            tls_context=ssl.create_default_context(cafile=address.ca) if address.tls else None,
            keepalive=KEEPALIVE_S,
            # Ours instead: aiomqtt's is `asyncio.wait_for`, which on Python 3.11 may swallow a cancellation.
            timeout=math.inf,
        )
        self._client.manual_ack_set(True)
        self.session_present = False
        self.unconfirmed = 0
        self.refused_publishes = 0
        self.early: list[paho.MQTTMessage] = []
        """What a resumed session brought before a link was there to take it."""
        self.on_arrival: Callable[[paho.MQTTMessage], None] = self.early.append
        self.is_full: Callable[[], bool] = lambda: False
        self._arrivals = 0
        self._fd = -1
        self._subscribed = False
        self._paused = False
        self._abandoned = False

    def take_over(self, on_closed: Callable[[], None]) -> None:
        """Read the socket ourselves from now on."""
        if (sock := self._client.socket()) is not None:
            self._fd = sock.fileno()
            self._loop.add_reader(self._fd, self._read)
        self._disconnected.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # has been seen
        self._disconnected.add_done_callback(lambda _: on_closed())

    def resume(self) -> None:
        """Read again after `is_full` was true."""
        if self._paused and self._client.socket() is not None:
            self._paused = False
            self._loop.add_reader(self._fd, self._read)
            self._loop.call_soon(self._read)  # TLS may hold decoded bytes that the socket no longer announces

    def abandon(self) -> None:
        """Close without a word: the broker keeps the session and whatever we did not acknowledge."""
        self._abandoned = True
        if self._connected.cancelled():
            self._connected = self._loop.create_future()  # aiomqtt would ask the cancelled one how it went
        sock = self._client.socket()
        if sock is not None:
            with suppress(OSError):
                if isinstance(sock, socket.socket):
                    sock.shutdown(socket.SHUT_RDWR)
            self._guarded(self._client.loop_read)  # paho sees the end of file and tidies up

    def confirm(self, packet_id: int) -> None:
        """PUBACK. Packet id 0 is a message at QoS 0, which has none."""
        if packet_id:
            self._client.ack(packet_id, 1)

    def send(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        """PUBLISH, in the order of the calls, without waiting for the PUBACK."""
        self.unconfirmed += 1  # paho reports a publish at QoS 0 too, as soon as it is written
        self._client.publish(topic, payload, qos=qos, retain=retain)

    def why_closed(self) -> str:
        ended = self._disconnected
        error = ended.exception() if ended.done() and not ended.cancelled() else None
        if isinstance(error, aiomqtt.MqttCodeError) and _reason(error) == TAKEN_OVER:
            return "another client uses our client id"
        return str(error) if error else "the connection was closed"

    def _read(self) -> None:
        """Take what has arrived, until nothing more comes or we hold enough."""
        for _ in range(READ_BURST):
            if self._client.socket() is None:
                return
            if self._subscribed and self.is_full():
                self._paused = True
                self._loop.remove_reader(self._fd)
                return
            before = self._arrivals
            self._guarded(self._client.loop_read)
            if self._arrivals == before and not self._decoded_bytes_wait():
                return
        self._loop.call_soon(self._read)

    def _decoded_bytes_wait(self) -> bool:
        sock = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  # whatever a broker's bytes provoke in paho ends this connection only
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _client_connect(self) -> None:
        """In a thread. A connection whose opener was cancelled meanwhile would steal the session of the next one."""
        super()._client_connect()
        if self._abandoned:
            self._loop.call_soon_threadsafe(self.abandon)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_present = bool(flags.session_present)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done() and not self._abandoned:  # aiomqtt would wait for the CONNACK all the same
            self._connected.set_exception(aiomqtt.MqttError("it hung up before it answered"))

    def _on_subscribe(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties | None = None,
    ) -> None:
        # Not before may reading pause: a resumed session fills our window ahead of this answer.
        self._subscribed = True
        super()._on_subscribe(client, userdata, mid, reason_codes, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._arrivals += 1
        self.on_arrival(message)

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self.unconfirmed -= 1
        self.refused_publishes += reason_code.is_failure
        super()._on_publish(client, userdata, mid, reason_code, properties)


class TopicsLink:
    """A `driver.Topics` over one connection."""

    def __init__(self, client: _Client, connected: Connected, *, gap_possible: bool, log: Logger) -> None:
        self.connected = connected
        self.gap_possible = gap_possible
        """We had a session here and the broker lost it: what came meanwhile may be missing."""
        self.in_hand = 0
        self._in_hand_bytes = 0
        self._client = client
        self._log = log
        self._inbox: list[Arrived] = []
        self._arrived = asyncio.Event()
        self._owed: deque[tuple[Receipt, Callable[[], None]]] = deque()
        self._why_closed: str | None = None
        for message in client.early:
            self._take(message)
        client.on_arrival = self._take
        client.is_full = self._is_full
        client.take_over(self._closed)

    async def subscribe(self, subscriptions: Sequence[str]) -> None:
        """Raises LinkClosed, Refused."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answers = await self._client.subscribe([(topic, 1) for topic in subscriptions])
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
                yield batch
            elif self._why_closed is not None:
                raise LinkClosed(self._why_closed)
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def publish(
        self, topic: str, payload: bytes, *, after: Receipt, retain: bool = False, qos: Literal[0, 1] = 1
    ) -> None:
        """Publish once `after` is on disk, in the order of the calls (acknowledgements included)."""
        self._owe(after, lambda: self._send(topic, payload, retain=retain, qos=qos))

    def close(self, why: str) -> None:
        """Drop the connection; the broker keeps everything unacknowledged."""
        if self._why_closed is None:
            self._why_closed = why
            self._owed.clear()
            self._arrived.set()
            self._client.abandon()

    def _take(self, message: paho.MQTTMessage) -> None:
        self.in_hand += 1
        self._in_hand_bytes += len(message.payload)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Forbidden by MQTT 3.1.1, 1.5.3; left unacknowledged it would come back on every connection, for ever.
            self._log.warning("message with a topic that is not UTF-8 dropped")
            self._acknowledge(message.mid, len(message.payload), Receipt.settled())
            return
        self._inbox.append(Arrived(topic, bytes(message.payload), message.retain, message.mid, self._acknowledge))
        self._arrived.set()

    def _is_full(self) -> bool:
        return self.in_hand >= IN_HAND_MAX or self._in_hand_bytes >= IN_HAND_MAX_BYTES

    def _acknowledge(self, packet_id: int, size_bytes: int, after: Receipt) -> None:
        self._owe(after, lambda: self._confirm(packet_id, size_bytes))

    def _owe(self, after: Receipt, act: Callable[[], None]) -> None:
        if self._why_closed is None:
            self._owed.append((after, act))
            after.when_settled(lambda _: self._pay())

    def _pay(self) -> None:
        """Do what is owed, in order, up to the first receipt that is still open."""
        while self._owed and self._owed[0][0].is_settled:
            receipt, act = self._owed.popleft()
            if receipt.error is not None:
                self.close(f"nothing can be acknowledged: {receipt.error}")
            else:
                act()

    def _confirm(self, packet_id: int, size_bytes: int) -> None:
        self._client.confirm(packet_id)
        self.in_hand -= 1
        self._in_hand_bytes -= size_bytes
        if self.in_hand <= IN_HAND_MAX // 2 and self._in_hand_bytes <= IN_HAND_MAX_BYTES // 2:
            self._client.resume()

    def _send(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        if qos and self._client.unconfirmed >= UNCONFIRMED_MAX:
            self.close(f"the broker left {UNCONFIRMED_MAX} publishes unconfirmed")
            return
        self._client.send(topic, payload, retain=retain, qos=qos)

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
) -> AsyncIterator[TopicsLink]:
    """One connection with a persistent session under a fixed `client_id`. Raises LinkClosed, Refused.

    `had_session`: this client id was connected before (in this run or, as the store knows, an earlier one), so that a
    broker without our session means a gap.
    """
    client, connected = await _connect(address, client_id)
    gap_possible = had_session and not connected.session_present
    if gap_possible:
        log.warning("gap possible: the broker no longer has our session", broker=f"{address.host}:{address.port}")
    link = TopicsLink(client, connected, gap_possible=gap_possible, log=log)
    try:
        await link.subscribe(subscriptions)
        yield link
    finally:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await client.__aexit__(None, None, None)
        except (aiomqtt.MqttError, TimeoutError):
            pass  # the farewell did not get through; the broker finds out by itself
        finally:
            client.abandon()
        if client.refused_publishes:
            log.warning("the broker refused publishes of ours", count=client.refused_publishes)


async def _connect(address: BrokerAddress, client_id: str) -> tuple[_Client, Connected]:
    if address.version != "3.1.1":
        try:
            return await _connect_as("5", address, client_id)
        except aiomqtt.MqttCodeError as error:
            if address.version == "5" or _reason(error) != UNSUPPORTED_VERSION:
                raise _explained(error, address) from error
        except LinkClosed:
            if address.version == "5":
                raise
            # An old broker may take the properties of MQTT 5 for the client id and wait for the rest of it.
    try:
        return await _connect_as("3.1.1", address, client_id)
    except aiomqtt.MqttCodeError as error:
        raise _explained(error, address) from error


async def _connect_as(
    version: Literal["3.1.1", "5"], address: BrokerAddress, client_id: str
) -> tuple[_Client, Connected]:
    protocol = aiomqtt.ProtocolVersion.V5 if version == "5" else aiomqtt.ProtocolVersion.V311
    try:
        client = _Client(address, protocol, client_id)
    except OSError as error:  # ssl.SSLError among them: the file with the certificates
        raise Refused(f"cannot use the certificates in {address.ca}: {error}") from error
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await client.__aenter__()
    except aiomqtt.MqttCodeError:
        client.abandon()
        raise
    except (aiomqtt.MqttError, TimeoutError) as error:
        client.abandon()
        why = str(error) or f"no answer within {ANSWER_TIMEOUT_S:.0f} s"
        raise LinkClosed(f"cannot reach the MQTT broker at {address.host}:{address.port}: {why}") from error
    except BaseException:  # cancelled: see _Client._client_connect
        client.abandon()
        raise
    return client, Connected(version, client.session_present)


def _session_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho ships it without annotations
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = IN_HAND_MAX
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    return properties


def _explained(error: aiomqtt.MqttCodeError, address: BrokerAddress) -> Refused | LinkClosed:
    where = f"{address.host}:{address.port}"
    reason = _reason(error)
    if reason == UNSUPPORTED_VERSION:
        return Refused(f'the broker at {where} does not speak MQTT {address.version}; try version = "auto"')
    if reason in REFUSALS:
        return Refused(f'the broker at {where} refuses user "{address.username}": {REFUSALS[reason]} (reason {reason})')
    return LinkClosed(f"the broker at {where} is not ready: {error}")


def _reason(error: aiomqtt.MqttCodeError) -> int | None:
    return error.rc.value if isinstance(error.rc, ReasonCode) else error.rc
