"""Bridges of other makers on a broker, as their documentation has them (docs/drivers/mqtt_json.md names the pages).

One device of a scenario is one bridge with what hangs behind it; `zone` says which one acts, from 1. `connect` is
mqtt://[USER:PASSWORD@]HOST:PORT. Options: `family` (zigbee2mqtt, chirpstack_v4, rtl_433, tasmota_rf_bridge, owntracks,
esphome), `topic` (base topic, the family's usual one), `devices` (names, with commas between), `every_s` (how often each
says how it is, 60), `qos` (1), `password_file`, `jammed` (a lock that does not obey).
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiomqtt

from simulators._world import Spec, World

OPTIONS = frozenset({"family", "topic", "devices", "every_s", "qos", "password_file", "jammed"})
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 10.0
PUBLISH_TIMEOUT_S = 5.0
ACTS_WAITING_MAX = 1000
"""What a bridge keeps while its broker is away; real ones keep less."""

Said = tuple[str, bytes, bool]
"""Topic, payload, retain flag."""


@dataclass
class Behind:
    """One sensor, lock or phone: what it last said of itself."""

    name: str
    number: int
    state: dict[str, Any]


class Family:
    """What a family of bridges says. `kinds` are the words that `do` understands."""

    topic = ""
    kinds: frozenset[str] = frozenset()
    will: Said | None = None

    def __init__(self, topic: str, world: World) -> None:
        self.base = topic or self.topic
        self.world = world

    def birth(self, behind: list[Behind]) -> list[Said]:
        """Said once after connecting."""
        return []

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        """What a sensor's alarm, or the end of it, becomes."""
        raise NotImplementedError

    def again(self, one: Behind) -> list[Said]:
        """What is said now and then without anything having happened."""
        return []

    def stamp(self) -> datetime:
        return datetime.fromtimestamp(self.world.clock.now(), UTC)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


class Zigbee(Family):
    """zigbee2mqtt 2.x: the whole state at each change, availability and bridge state retained."""

    topic = "zigbee2mqtt"
    keys: Mapping[str, tuple[str, Any, Any]] = {
        "burglary": ("contact", False, True),
        "interior": ("occupancy", True, False),
        "smoke": ("smoke", True, False),
        "gas": ("gas", True, False),
        "carbon_monoxide": ("carbon_monoxide", True, False),
        "water": ("water_leak", True, False),
        "tamper": ("tamper", True, False),
        "rf_batt_low": ("battery_low", True, False),
        "unlocked": ("lock_state", "unlocked", "locked"),
    }
    kinds = frozenset({*keys, "panic"})

    def __init__(self, topic: str, world: World) -> None:
        super().__init__(topic, world)
        self.will = (f"{self.base}/bridge/state", b'{"state":"offline"}', True)

    def birth(self, behind: list[Behind]) -> list[Said]:
        online = b'{"state":"online"}'
        of_each = [(f"{self.base}/{one.name}/availability", online, True) for one in behind]
        return [(f"{self.base}/bridge/state", online, True), *of_each]

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        if what == "panic":
            return [self._whole(one, action="emergency")]  # momentary: never part of the state
        key, active, clear = self.keys[what]
        one.state[key] = clear if restore else active
        return [self._whole(one)]

    def again(self, one: Behind) -> list[Said]:
        return [self._whole(one)]

    def _whole(self, one: Behind, **more: object) -> Said:
        link = {"battery": 100, "linkquality": 40 + self.world.random.randrange(60), "voltage": 3000}
        seen = {"last_seen": self.stamp().isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        return f"{self.base}/{one.name}", _json({**link, **one.state, **seen, **more}), False


class ChirpStack(Family):
    """ChirpStack v4, JSON: zero and false at the top are left out, what the codec made stands in `object`."""

    topic = "application"
    keys: Mapping[str, tuple[str, Any, Any]] = {
        "burglary": ("magnet_status", "open", "close"),
        "tamper": ("tamper_status", "uninstalled", "installed"),
        "water": ("leakage_status", "leak", "normal"),
        "interior": ("pir", "trigger", "normal"),
        "smoke": ("smoke", True, False),
        "panic": ("sos", True, True),
    }
    kinds = frozenset(keys)

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        key, active, clear = self.keys[what]
        return [self._up(one, {key: clear if restore else active})]

    def again(self, one: Behind) -> list[Said]:
        return [self._up(one, {"battery": 90.0})]

    def _up(self, one: Behind, decoded: dict[str, Any]) -> Said:
        count = one.state["fCnt"] = one.state.get("fCnt", -1) + 1
        bits = f"{self.world.random.getrandbits(96):024x}{self.world.boot():08x}"
        unique = "-".join([bits[:8], bits[8:12], bits[12:16], bits[16:20], bits[20:]])
        event: dict[str, Any] = {
            "deduplicationId": unique,
            "time": self.stamp().isoformat(),
            "deviceInfo": {"devEui": one.name},
        }
        event |= {"fPort": 85, "data": "qg==", "object": decoded} | ({"fCnt": count} if count else {})
        return f"{self.base}/sim/device/{one.name}/event/up", _json(event), False


class Rtl433(Family):
    """rtl_433 -F mqtt: no will, nothing retained; every message several times on the air."""

    topic = "rtl_433/sim"
    kinds = frozenset({"burglary", "tamper", "rf_batt_low", "unknown"})
    COPIES = 3

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        if what == "unknown":
            return [self._event({"model": "Generic-Remote", "id": one.number, "cmd": 40})] * self.COPIES
        key, active, clear = {"burglary": ("contact_open", 1, 0), "tamper": ("tamper", 1, 0)}.get(
            what, ("battery_ok", 0, 1)
        )
        one.state[key] = clear if restore else active
        return [self._honeywell(one, heartbeat=0)] * self.COPIES

    def again(self, one: Behind) -> list[Said]:
        return [self._honeywell(one, heartbeat=1)]

    def _honeywell(self, one: Behind, *, heartbeat: int) -> Said:
        quiet = {"contact_open": 0, "reed_open": 0, "alarm": 0, "tamper": 0, "battery_ok": 1}
        model = {"model": "Honeywell-Security", "id": one.number, "channel": 8}
        return self._event({**model, **quiet, **one.state, "heartbeat": heartbeat, "mic": "CRC"})

    def _event(self, content: dict[str, Any]) -> Said:
        stamp = self.stamp().isoformat(timespec="microseconds").replace("+00:00", "+0000")
        return f"{self.base}/events", _json({"time": stamp, **content}), False


class Tasmota(Family):
    """Tasmota on a Sonoff RF Bridge: LWT retained, local time without a zone."""

    topic = "tasmota_sim"
    keys: Mapping[str, str] = {"interior": "A", "burglary": "E", "tamper": "B", "water": "5", "rf_batt_low": "F"}
    kinds = frozenset(keys)

    def __init__(self, topic: str, world: World) -> None:
        super().__init__(topic, world)
        self.will = (f"tele/{self.base}/LWT", b"Offline", True)

    def birth(self, behind: list[Behind]) -> list[Said]:
        return [(f"tele/{self.base}/LWT", b"Online", True)]

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        key = "7" if restore and what == "burglary" else self.keys[what]
        heard = {"Sync": 10250, "Low": 340, "High": 1010, "Data": f"{one.number:05X}{key}", "RfKey": "None"}
        return [(f"tele/{self.base}/RESULT", _json({"Time": self._time(), "RfReceived": heard}), False)]

    def again(self, one: Behind) -> list[Said]:
        return [(f"tele/{self.base}/STATE", _json({"Time": self._time(), "Uptime": "0T01:00:00"}), False)]

    def _time(self) -> str:
        return self.stamp().strftime("%Y-%m-%dT%H:%M:%S")


class OwnTracks(Family):
    """A phone: a will that is not retained, places that are."""

    topic = "owntracks/sim"
    kinds = frozenset({"position"})

    def __init__(self, topic: str, world: World) -> None:
        super().__init__(topic, world)
        self.will = (f"{self.base}/phone", _json({"_type": "lwt", "tst": int(world.clock.now())}), False)

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        place = {"lat": 37.53 + self.world.random.random() / 100, "lon": 121.39, "acc": 8, "batt": 80, "vel": 12}
        return [(f"{self.base}/phone", _json({"_type": "location", "tst": int(self.world.clock.now()), **place}), True)]

    def again(self, one: Behind) -> list[Said]:
        return self.act(one, "position", restore=False)


class EspHome(Family):
    """An ESPHome node: one word a topic, all retained."""

    topic = "node"
    ids: Mapping[str, str] = {"burglary": "door", "interior": "motion", "smoke": "smoke", "water": "moisture"}
    kinds = frozenset(ids)

    def __init__(self, topic: str, world: World) -> None:
        super().__init__(topic, world)
        self.will = (f"{self.base}/status", b"offline", True)

    def birth(self, behind: list[Behind]) -> list[Said]:
        return [(f"{self.base}/status", b"online", True)]

    def act(self, one: Behind, what: str, *, restore: bool) -> list[Said]:
        return [(f"{self.base}/binary_sensor/{self.ids[what]}/state", b"OFF" if restore else b"ON", True)]


FAMILIES: Mapping[str, Callable[[str, World], Family]] = {
    "zigbee2mqtt": Zigbee,
    "chirpstack_v4": ChirpStack,
    "rtl_433": Rtl433,
    "tasmota_rf_bridge": Tasmota,
    "owntracks": OwnTracks,
    "esphome": EspHome,
}


class Bridge:
    """One bridge with its one connection and its one will."""

    def __init__(self, spec: Spec, world: World) -> None:
        self._name, self._world, options = spec.device, world, spec.options
        address = urlsplit(spec.connect)
        family = str(options.get("family") or "zigbee2mqtt")
        if address.scheme != "mqtt" or not address.hostname:
            raise ValueError(f'connect = "{spec.connect}"; expected mqtt://HOST:PORT')
        if family not in FAMILIES:
            raise ValueError(f'family = "{family}"; expected one of {", ".join(FAMILIES)}')
        self._address, self._host, self._port = address, address.hostname, address.port or 1883
        self._family = FAMILIES[family](str(options.get("topic") or ""), world)
        names = str(options.get("devices") or "sensor-1").split(",")
        self.behind = [Behind(name.strip(), number, {}) for number, name in enumerate(names, 1)]
        self._every_s = float(options.get("every_s") or 60)
        self._qos = int(options["qos"] or 0) if "qos" in options else 1
        password_file = options.get("password_file")
        self._password = (
            Path(str(password_file)).read_text(encoding="utf-8").strip() if password_file else address.password
        )
        self._is_jammed = bool(options.get("jammed"))
        self._acts: asyncio.Queue[tuple[list[Said], Callable[[], None]]] = asyncio.Queue(ACTS_WAITING_MAX)
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._hushed = asyncio.Event()
        self._is_cut = False
        self._count = 0

    async def run(self) -> None:
        """Be the bridge, for ever."""
        delay_s = RECONNECT_MIN_S
        while True:
            await self._may_speak.wait()
            try:
                async with self._client() as client:
                    delay_s = RECONNECT_MIN_S
                    await self._converse(client)
            except* aiomqtt.MqttError:
                await self._world.clock.sleep(delay_s * self._world.random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Raises ValueError."""
        known = self._family.kinds | {"offline", "silent", "back"}
        if what not in known:
            raise ValueError(f"{self._name} cannot {what!r}; expected one of {', '.join(sorted(known))}")
        if not 1 <= (zone or 1) <= len(self.behind):
            raise ValueError(f"{self._name} has nothing at zone {zone}; expected 1 to {len(self.behind)}")

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """What a device behind the bridge does, or, of the bridge: "offline" (cut, the will follows), "silent", "back"."""
        self.check(what, restore=restore, zone=zone)
        if what in ("offline", "silent"):
            self._is_cut = what == "offline"
            self._may_speak.clear()
            self._hushed.set()
        elif what == "back":
            self._hushed.clear()
            self._may_speak.set()
        else:
            one = self.behind[(zone or 1) - 1]
            self._count += 1
            row = (one.name, what)
            facts: dict[str, Any] = {
                "restore": restore,
                "zone": zone,
                "ref": f"{self._name}/{self._world.run}/{self._count}",
            }
            self._world.ledger.raised("mqtt_json", *row, **facts)
            said = self._family.act(one, what, restore=restore)
            await self._acts.put((said, lambda: self._world.ledger.acknowledged("mqtt_json", *row, **facts)))

    # -- the line --------------------------------------------------------------------------------------------------------

    def _client(self) -> aiomqtt.Client:
        will = self._family.will
        return aiomqtt.Client(
            self._host, self._port, identifier=f"sim-{self._name}".replace("/", "-"), keepalive=15,
            username=self._address.username, password=self._password,
            will=aiomqtt.Will(will[0], will[1], qos=1, retain=will[2]) if will else None,
        )  # fmt: skip

    async def _converse(self, client: aiomqtt.Client) -> None:
        for said in self._family.birth(self.behind):
            await self._publish(client, said)
        if isinstance(self._family, Zigbee):
            await client.subscribe(f"{self._family.base}/+/set", qos=1)
        async with asyncio.TaskGroup() as group:
            talking = [group.create_task(task(client)) for task in (self._act, self._repeat, self._obey)]
            await self._hushed.wait()
            for task in talking:
                task.cancel()
        line = client._client.socket()  # noqa: SLF001  # aiomqtt offers no way to drop a line without a farewell
        if self._is_cut and isinstance(line, socket.socket):
            line.shutdown(socket.SHUT_RDWR)
        elif not self._is_cut:
            await self._may_speak.wait()  # connected, and says nothing

    async def _publish(self, client: aiomqtt.Client, said: Said) -> None:
        """Raises MqttError. Not by aiomqtt's own timeout: `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await client.publish(said[0], said[1], qos=self._qos, retain=said[2], timeout=float("inf"))
        except TimeoutError as error:
            raise aiomqtt.MqttError("the broker did not answer") from error

    async def _act(self, client: aiomqtt.Client) -> None:
        while True:
            said, acknowledged = await self._acts.get()
            for one in said:
                await self._publish(client, one)
            if self._qos:
                acknowledged()  # the broker has it, which keeps it for the gateway's session

    async def _repeat(self, client: aiomqtt.Client) -> None:
        while True:
            await self._world.clock.sleep(self._every_s * self._world.random.uniform(0.8, 1.2))
            for one in self.behind:
                for said in self._family.again(one):
                    await self._publish(client, said)

    async def _obey(self, client: aiomqtt.Client) -> None:
        """A lock does as it is told and says so, unless it is jammed."""
        async for message in client.messages:
            name = str(message.topic).removeprefix(f"{self._family.base}/").removesuffix("/set")
            with suppress(ValueError, StopIteration):
                wanted = json.loads(bytes(message.payload)).get("state")
                one = next(one for one in self.behind if one.name == name)
                if wanted in ("LOCK", "UNLOCK") and not self._is_jammed:
                    for said in self._family.act(one, "unlocked", restore=wanted == "LOCK"):
                        await self._publish(client, said)


def make(spec: Spec, world: World) -> Bridge:
    """One simulated bridge."""
    return Bridge(spec, world)
