"""aiomqtt with acknowledgement, reading and writing in our hands."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import LinkClosed
from gateway.links.mqtt_packets import PUBLISH, extent, publish_parts
from gateway.secret import Secret

Version = Literal["auto", "3.1.1", "5"]

IN_HAND_MAX = 1000
"""Messages taken and not yet acknowledged: one second of the busiest site, and the window our own broker is given.
Beyond it the socket is not read, so that brokers that ignore their window, and QoS 0, are held back by TCP."""
PACKET_MAX_BYTES = 1024 * 1024
"""Largest packet asked for from the broker (MQTT 5 only): the retained inventory of a bridge is some 100 KB."""
READ_BYTES = 64 * 1024
"""Taken from the socket in one turn of the loop: some 200 events or 5 ms, so that nobody else waits long. More than a
TLS record has (16 KB, RFC 8446, 5.1), or decoded bytes would stay where the socket announces nothing."""
UNSENT_MAX_BYTES = 1024 * 1024
"""Waiting because the broker does not read: some 10 000 receipts. A broker that far behind is not working."""
SESSION_EXPIRY_S = 7 * 24 * 3600
"""How long the broker keeps our session (MQTT 5): a box that is repaired within a week misses nothing."""
KEEPALIVE_S = 10
"""paho gives up after a second silent interval: a half-open line is found within 20 s."""

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


Take = Callable[[bytes, bytes, bool, int], None]
"""Given topic, payload, the retain flag and the packet identifier of each message."""


class Client(aiomqtt.Client):
    """aiomqtt with acknowledgement, reading and writing in our hands.

    Stock aiomqtt 2.5 confirms a message on arrival, loses it when killed, discards when its queue is full, and takes
    one packet in a turn of the loop with three reads and a task; paho 2.2 under it spends more on a message than we do
    on storing it. So the socket is read here, many packets at once; messages go to the link, the rest to paho. The
    private names that this needs (of aiomqtt `_client`, `_loop`, `_connected`, `_disconnected` and the callbacks, of
    paho `_sock_recv`, `_out_packet` and `_last_bytes_received`) are used in this class only, and the contract test
    runs it against every broker.
    """

    def __init__(self, address: BrokerAddress, protocol: aiomqtt.ProtocolVersion, client_id: str) -> None:
        self.is_5 = is_5 = protocol is aiomqtt.ProtocolVersion.V5
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
        self._client._sock_recv = self._serve  # type: ignore[method-assign]  # noqa: SLF001  # paho's only way to its bytes
        for ended in (self._connected, self._disconnected):
            ended.add_done_callback(_seen)  # also when we are cancelled before anybody could look
        self.session_present = False
        self.early: list[tuple[bytes, bytes, bool, int]] = []
        """What a resumed session brought before a link was there to take it."""
        self.take: Take = lambda *message: self.early.append(message)
        self.is_full: Callable[[], bool] = lambda: False
        self._fd = -1
        self._arrived = bytearray()
        """Read from the socket and not yet taken."""
        self._needed = 0
        """Size of the first packet in there, as far as known: one of a megabyte is not looked at sixteen times."""
        self._for_paho = b""
        self._is_at_end = False
        self._unsent: list[bytes] = []
        self._waiting_bytes = 0
        self._subscribed = False
        self._paused = False
        self._abandoned = False

    def watch(self, on_closed: Callable[[], None]) -> None:
        """Call `on_closed` when the connection has ended."""
        self._disconnected.add_done_callback(_seen)
        self._disconnected.add_done_callback(lambda _: on_closed())

    def resume(self) -> None:
        """Read again after `is_full` was true."""
        if self._paused and self._client.socket() is not None:
            self._paused = False
            self._loop.add_reader(self._fd, self._read)
            self._loop.call_soon(self._read)  # for what is read already

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
            self._guarded(self._end)

    def write(self, packet: bytes) -> None:
        """Send a packet that needs no answer, with all others of this turn of the loop in one write."""
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(packet)

    def flush(self) -> None:
        """Send now what `write` was given."""
        if self._unsent:
            self._guarded(self._send_unsent)

    @property
    def is_behind(self) -> bool:
        """Whether the broker has not yet taken what was sent before."""
        return bool(self._client.want_write())

    def why_closed(self) -> str:
        ended = self._disconnected
        error = ended.exception() if ended.done() and not ended.cancelled() else None
        if isinstance(error, aiomqtt.MqttCodeError) and reason_of(error) == TAKEN_OVER:
            return "another client uses our client id"
        return str(error) if error else "the connection was closed"

    # -- reading and writing -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._guarded(self._take_arrived)

    def _take_arrived(self) -> None:
        """Take the packets that have arrived, in order, as far as there is room for them."""
        self._take_packets()  # what a pause left
        sock = self._client.socket()
        if sock is None or self._paused:
            return
        try:
            chunk = sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._end()
            return
        self._client._last_bytes_received = paho.time_func()  # noqa: SLF001  # paho would take the broker for dead
        self._arrived += chunk
        self._take_packets()

    def _take_packets(self) -> None:
        if len(self._arrived) < self._needed:
            return
        arrived, at = bytes(self._arrived), 0
        while True:
            if self._subscribed and self.is_full():
                self._paused = True
                self._loop.remove_reader(self._fd)
                break
            found = extent(arrived, at)
            if found is None or found[1] > len(arrived):
                self._needed = found[1] - at if found else 0
                break
            start, end = found
            first = arrived[at]
            if first & 0xF0 == PUBLISH:
                topic, packet_id, payload = publish_parts(first, arrived[start:end], is_5=self.is_5)
                self.take(topic, payload, first & 1 == 1, packet_id)
            else:
                self._for_paho = arrived[at:end]
                self._client.loop_read()
                if self._client.socket() is None:
                    break
            at = end
        del self._arrived[:at]

    def _serve(self, bufsize: int) -> bytes:
        """In place of paho's own reading: whole packets of ours, then nothing until the next or the end."""
        if not self._for_paho and not self._is_at_end:
            raise BlockingIOError
        served, self._for_paho = self._for_paho[:bufsize], self._for_paho[bufsize:]
        return served

    def _end(self) -> None:
        """Let paho see the end of file and tidy up."""
        self._for_paho = b""
        self._is_at_end = True
        self._client.loop_read()

    def _send_unsent(self) -> None:
        # A view: paho cuts off what it has sent, which would copy the rest of a megabyte each time.
        packets, self._unsent = memoryview(b"".join(self._unsent)), []
        # Into paho's own queue, where its packets may be waiting, but without its detour over a writer of the loop.
        self._client._out_packet.append(  # noqa: SLF001
            {"command": paho.PUBACK, "mid": 0, "qos": 1, "pos": 0, "to_process": len(packets), "info": None,
             "packet": packets}  # type: ignore[typeddict-item]  # paho slices and sends it, nothing else
        )  # fmt: skip
        self._client.loop_write()
        self._waiting_bytes = self._waiting_bytes + len(packets) if self._client.want_write() else 0
        if self._waiting_bytes > UNSENT_MAX_BYTES:
            raise LinkClosed(f"the broker took none of the last {self._waiting_bytes} bytes we sent")

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  # whatever a broker's bytes provoke ends this connection only
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            if self._client.socket() is not None:
                self._loop.remove_reader(self._fd)

    # -- callbacks of aiomqtt and paho ---------------------------------------------------------------------------------

    def _client_connect(self) -> None:
        """In a thread. A connection whose opener was cancelled meanwhile would steal the session of the next one."""
        super()._client_connect()
        if self._abandoned:
            self._loop.call_soon_threadsafe(self.abandon)

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: paho.SocketLike) -> None:
        """In that thread."""
        super()._on_socket_open(client, userdata, sock)
        self._fd = sock.fileno()
        self._loop.call_soon_threadsafe(self._loop.add_reader, self._fd, self._read)  # in place of aiomqtt's

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


def _seen(ended: asyncio.Future[None]) -> None:
    """Nobody needs to be told of this error by asyncio: the link says why it closed."""
    if not ended.cancelled():
        ended.exception()


def _session_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho ships it without annotations
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = IN_HAND_MAX
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    return properties


def reason_of(error: aiomqtt.MqttCodeError) -> int | None:
    """The reason code the broker gave, in the terms of MQTT 5."""
    return error.rc.value if isinstance(error.rc, ReasonCode) else error.rc
