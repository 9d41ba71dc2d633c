"""A wireless alarm that speaks docs/drivers/alarm_json.md: the device's side, written from the page alone.

Each device has a connection of its own, because MQTT gives one last will to one connection; forty in one process
are some tens of kilobytes each. `connect` is mqtt://[USER:PASSWORD@]HOST:PORT. Options: `username`, `password` or
`password_file`, `heartbeat_s` (30), `repeat_s` (2), `crc` (true), `text`, `latitude` and `longitude`.
"""

import asyncio
import json
import math
import socket
import zlib
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt

from simulators._world import Spec, World

OPTIONS = frozenset(
    {"username", "password", "password_file", "heartbeat_s", "repeat_s", "crc", "text", "latitude", "longitude"}
)
PENDING_MAX = 1000
"""Events a device remembers until they are acknowledged: what a small microcontroller's flash holds."""
REPEAT_MAX_S = 10.0
RESULTS_KEPT = 100
"""Commands whose ids a device remembers with what became of them: the same id again does nothing twice."""
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 10.0
ANSWER_TIMEOUT_S = 5.0
PENDING_CALLS = 10 * PENDING_MAX
"""Beyond this aiomqtt would warn; a burst is intended here."""


@dataclass
class Pending:
    """An event without its receipt."""

    payload: bytes
    what: str
    restore: bool
    zone: int | None
    ref: str


class Alarm:
    """One device."""

    def __init__(self, spec: Spec, world: World) -> None:
        self._name = spec.device
        self._world = world
        self._options = spec.options
        self._topic = f"fangkong/v1/{spec.device}"
        self._url = address = urlsplit(spec.connect)
        if address.scheme != "mqtt" or not address.hostname:
            raise ValueError(f'connect = "{spec.connect}"; expected mqtt://HOST:PORT')
        self._host, self._port = address.hostname, address.port or 1883
        self._heartbeat_s = float(spec.options.get("heartbeat_s") or 30)
        self._repeat_s = float(spec.options.get("repeat_s") or 2)
        self._boot = f"{world.boot():08x}"
        self._seq = 0
        self._pending: dict[int, Pending] = {}
        self._fresh: asyncio.Queue[int] = asyncio.Queue()
        self._client: aiomqtt.Client | None = None
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._connected = asyncio.Event()
        self._hushed = asyncio.Event()
        self._is_cut = False
        self._mood = ""
        self._results: dict[str, bytes] = {}
        self.done: list[str] = []
        """Acts that took effect, in order; a test reads it."""

    async def run(self) -> None:
        """Be the device, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_connected())
            while True:
                group.create_task(self._insist(await self._fresh.get()))

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Any word is sent: what the gateway does not know travels on as an unknown alarm."""

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """A kind of alarm, or: "silent" (gone without a word, no will), "offline" (line cut, the will follows), "deaf" (no
        answer to commands), "jammed" (cannot do what it is told), "back" (from all of these)."""
        if what in ("deaf", "jammed"):
            self._mood = what
        elif what in ("silent", "offline"):
            self._may_speak.clear()
            self._is_cut = what == "offline"
            self._hushed.set()
        elif what == "back":
            self._mood = ""
            self._hushed.clear()
            self._may_speak.set()
        else:
            self._raise(what, restore=restore, zone=zone)

    # -- the line ------------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        delay_s = RECONNECT_MIN_S
        while True:
            await self._may_speak.wait()
            try:
                async with self._new_client() as client:
                    delay_s = RECONNECT_MIN_S
                    await self._converse(client)
            except* aiomqtt.MqttError:
                await self._world.clock.sleep(delay_s * self._world.random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    def _new_client(self) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=f"sim-{self._name}",
            username=self._url.username or self._text_option("username"),
            password=self._password(),
            keepalive=15,
            will=aiomqtt.Will(f"{self._topic}/availability", b"offline", qos=1, retain=True),
        )
        client.pending_calls_threshold = PENDING_CALLS
        return client

    async def _converse(self, client: aiomqtt.Client) -> None:
        """Until told to be quiet, or the line breaks."""
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # swallowed while it connected: aiomqtt waits with `asyncio.wait_for`
        topics = [(f"{self._topic}/receipt", 1), (f"{self._topic}/command", 1)]
        await self._answered(client.subscribe(topics, timeout=math.inf))
        await self._publish(client, "availability", b"online", retain=True)
        self._client = client
        self._connected.set()
        try:
            async with asyncio.TaskGroup() as group:
                talking = [group.create_task(self._beat(client)), group.create_task(self._hear(client))]
                await self._hushed.wait()
                for task in talking:
                    task.cancel()
        finally:
            self._connected.clear()
            self._client = None
        line = client._client.socket()  # noqa: SLF001  # aiomqtt offers no way to drop a line without a farewell
        if self._is_cut and isinstance(line, socket.socket):
            line.shutdown(socket.SHUT_RDWR)

    async def _publish(
        self, client: aiomqtt.Client, name: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> None:
        """Raises MqttError."""
        await self._answered(client.publish(f"{self._topic}/{name}", payload, qos=qos, retain=retain, timeout=math.inf))

    async def _answered(self, asked: Awaitable[object]) -> None:
        """Raises MqttError. Not by aiomqtt's own timeout: `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asked
        except TimeoutError as error:
            raise aiomqtt.MqttError("the broker did not answer") from error

    # -- what it says --------------------------------------------------------------------------------------------------

    async def _beat(self, client: aiomqtt.Client) -> None:
        while True:
            values = {"battery_pct": 87, "rssi_dbm": -60 - self._world.random.randrange(20)}
            beat = self._sealed({"v": 1, "device": self._name, "values": values})
            await self._publish(client, "heartbeat", beat)
            await self._world.clock.sleep(self._heartbeat_s)

    def _raise(self, what: str, *, restore: bool, zone: int | None) -> None:
        self._seq += 1
        event: dict[str, object] = {"v": 1, "device": self._name, "session": self._boot, "seq": self._seq, "kind": what}
        event["qualifier"] = "restore" if restore else "new"
        if zone is not None:
            event["zone"] = zone
        event["at"] = datetime.fromtimestamp(self._world.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if text := self._text_option("text"):
            event["text"] = text
        if "latitude" in self._options and "longitude" in self._options:
            event["lat"], event["lon"] = self._options["latitude"], self._options["longitude"]
        if len(self._pending) >= PENDING_MAX:
            self._pending.pop(next(iter(self._pending)))  # the oldest makes room
        ref = f"{self._name}/{self._boot}/{self._seq}"
        self._pending[self._seq] = Pending(self._sealed(event), what, restore, zone, ref)
        self._world.ledger.raised("alarm_json", self._name, what, restore=restore, zone=zone, ref=ref)
        self._fresh.put_nowait(self._seq)

    async def _insist(self, seq: int) -> None:
        """Send, and send again, until the receipt is there.

        The first time at QoS 1, which the broker keeps for a gateway that is away; then at QoS 0, so that nothing piles up.
        """
        delay_s, qos = self._repeat_s, 1
        while True:
            await self._connected.wait()
            pending, client = self._pending.get(seq), self._client
            if pending is None:
                return
            if client is not None:
                with suppress(aiomqtt.MqttError):  # the line broke: the next round finds the new one
                    await self._publish(client, "event", pending.payload, qos=qos)
                    qos = 0
            await self._world.clock.sleep(delay_s * self._world.random.uniform(0.8, 1.2))
            delay_s = min(delay_s * 1.5, REPEAT_MAX_S)

    async def _hear(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if str(message.topic) == f"{self._topic}/command" and not message.retain and self._mood != "deaf":
                await self._publish(client, "result", self._obey(json.loads(bytes(message.payload))))
            if str(message.topic) != f"{self._topic}/receipt":
                continue  # amqtt hands out retained messages that nobody here subscribed to
            receipt = json.loads(bytes(message.payload))
            if receipt["session"] != self._boot:
                continue
            pending = self._pending.pop(receipt["seq"], None)
            if pending is not None:
                self._world.ledger.acknowledged(
                    "alarm_json", self._name, pending.what,
                    restore=pending.restore, zone=pending.zone, ref=pending.ref,
                )  # fmt: skip

    def _obey(self, command: dict[str, str]) -> bytes:
        """Do what is asked, once and in time, and say what became of it."""
        if (known := self._results.get(command["id"])) is not None:
            return known
        if datetime.fromisoformat(command["expires_at"]).timestamp() <= self._world.clock.now():
            result, text = "expired", f"it was over at {command['expires_at']}"
        elif self._mood == "jammed":
            result, text = "failed", "the bolt does not move"
        else:
            self.done.append(command["act"])
            result, text = "executed", f"{command['act']} done"
        answer = self._sealed({"v": 1, "device": self._name, "id": command["id"], "result": result, "text": text})
        self._results[command["id"]] = answer
        while len(self._results) > RESULTS_KEPT:
            self._results.pop(next(iter(self._results)))
        return answer

    def _sealed(self, message: dict[str, object]) -> bytes:
        """JSON with the checksum of the page's section "Checksum" as its last member."""
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        if self._options.get("crc") is False:
            return text
        body = text[:-1]
        return body + b',"crc":"%08x"}' % zlib.crc32(body)

    def _text_option(self, name: str) -> str | None:
        value = self._options.get(name)
        return None if value is None else str(value)

    def _password(self) -> str | None:
        if path := self._text_option("password_file"):
            return Path(path).read_text(encoding="utf-8").split("\n", 1)[0].strip()
        return self._url.password or self._text_option("password")


def make(spec: Spec, world: World) -> Alarm:
    """One simulated device."""
    return Alarm(spec, world)
