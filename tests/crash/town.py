"""Devices, broker, gateway and 110, with a fault proxy on both of the gateway's sides; only the gateway is killed."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.config import BrokerSection
from gateway.model import Device, Point, Site
from gateway.registry import Registry
from simulators import alarm_json
from simulators._clock import RealClock as SimulatorsClock
from simulators._tasks import Tasks
from simulators._world import Ledger, Simulated, Spec, World
from simulators.faults import Faults, TcpProxy
from simulators.police_centre import Misbehaviour, PoliceCentre
from tests.crash.nursery import Child, Nursery
from tests.stories.box import Api, free_ports, until

DEVICES, SITES = 48, 12
KEYS_REMEMBERED = 400_000
"""Events of a thousand kills that the centre must recognise again, at some 1 KB each."""
OWN_ACCOUNT = "A100"
SECRET = "for-this-test-only"
READY_WITHIN_S = 30.0
NO_FAULTS = Faults()

UNLIMITED = """\
# Every single event is followed to 110: nothing is summed up, no source is limited.
[storms]
window_s = 0
burst = 100000
per_s = 100000
life_burst = 100000
life_per_s = 100000
"""

SITE_FILE = """\
[gateway]
name = "crash"
account = "A100"

[api]
listen = "127.0.0.1:{api}"
token_file = "secret"

[broker]
url = "mqtt://127.0.0.1:{broker}"
username = "demo"
password_file = "secret"

{storms}

[[connection]]
name = "alarms"
driver = "alarm_json"
link = "mqtt://broker"

[[destination]]
name = "centre-110"
forwarder = "dc09"
[destination.settings]
connect = "127.0.0.1:{centre}"
answer_within_s = 1
"""


def account_of(number: int) -> str:
    return f"B{number % SITES:02}"


def where(device: str, _zone: int | None) -> tuple[str, int]:
    """Account and zone number towards 110 of a device."""
    number = int(device.removeprefix("a"))
    return account_of(number), number


def inventory(heard_within_s: float | None = None) -> Iterable[Site | Device | Point]:
    """One point a device, the devices spread over the sites."""
    for number in range(SITES):
        account = account_of(number)
        yield Site(account.lower(), f"小区 {account}", account)
    for number in range(1, DEVICES + 1):
        site, device = account_of(number).lower(), f"a{number:03}"
        yield Device(device, site, f"{number} 号无线报警器", heard_within_s)
        yield Point(f"p-{device}", site, number, f"{number} 号报警点", device)


@dataclass(slots=True)
class Town(Api):
    """Everything but the story. The gateway is started by the story."""

    folder: Path
    api: int
    centre: PoliceCentre
    to_110: TcpProxy
    to_broker: TcpProxy
    broker: Broker
    world: World
    nursery: Nursery
    ledger_file: Path
    record_file: Path
    tasks: Tasks
    devices: list[Simulated] = field(default_factory=list)
    gateway: Child | None = None

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(errors="replace")

    @property
    def data_dir(self) -> Path:
        return self.folder / "var"

    def switch_on(self, count: int, **options: Any) -> None:
        """The first `count` devices of the inventory."""
        address = self.broker.address
        for number in range(1, count + 1):
            connect = f"mqtt://demo:{SECRET}@{address.host}:{address.port}"
            made = alarm_json.make(Spec(f"a{number:03}", connect, {"heartbeat_s": 10, **options}), self.world)
            self.devices.append(made)
            self.tasks.start(made.run(), name=f"a{number:03}")

    async def start(self, *, is_stopped: bool = False, memory_bytes: int = 0) -> Child:
        """Does not wait until it is ready. `is_stopped` and `memory_bytes` as with the nursery."""
        self.gateway = await self.nursery.start(
            ["run", "--config", str(self.folder / "site.toml")],
            self.folder / "gateway.log",
            is_stopped=is_stopped,
            memory_bytes=memory_bytes,
        )
        return self.gateway

    async def ready(self) -> None:
        """Return when /readyz says so; fail with the log when it has ended."""

        def is_there() -> bool:
            assert self.gateway is not None
            assert self.gateway.is_running, self.log[-3000:]
            return self.is_ready()

        await until(is_there, within_s=READY_WITHIN_S, what="the gateway is ready", tell=lambda: self.log[-3000:])

    def is_ready(self) -> bool:
        """What it says of itself."""
        try:
            return bool(self.get("readyz")["ready"])
        except (OSError, urllib.error.URLError, ValueError):
            return False

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.gateway is not None
        self.gateway.signal(signal.SIGKILL)
        await self.gateway.wait()

    async def end(self) -> int:
        """SIGTERM; the exit code, within 10 s."""
        assert self.gateway is not None
        self.gateway.signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            return await self.gateway.wait()


@asynccontextmanager
async def town(
    folder: Path,
    *,
    seed: int,
    faults_110: Faults = NO_FAULTS,
    faults_broker: Faults = NO_FAULTS,
    bad: Iterable[Misbehaviour] = (),
    heard_within_s: float | None = None,
    storms: str = UNLIMITED,
) -> AsyncIterator[Town]:
    """With mosquitto as its broker: amqtt forgets what a killed gateway did not acknowledge. It runs as a site of these
    devices would have it (decision 0025)."""
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET + "\n")
    section = BrokerSection(listen="127.0.0.1:0", passwords={"demo": Path("secret")}, topics={"demo": ("#",)})
    clock, [api] = SimulatorsClock(), free_ports(1)
    ledger_file, record_file = folder / "ledger.jsonl", folder / "centre.jsonl"
    random = Random(seed)
    with closing(Ledger(clock, ledger_file)) as ledger:
        async with (
            Broker(section, folder, RealClock(), random, logs.logger(), base=folder, keeps_all=False) as broker,
            PoliceCentre(record=record_file, misbehave=bad, audit_memory=KEYS_REMEMBERED) as centre,
            TcpProxy(connect=f"127.0.0.1:{centre.port}", faults=faults_110, seed=seed) as to_110,
            TcpProxy(
                connect=f"{broker.address.host}:{broker.address.port}", faults=faults_broker, seed=seed + 1
            ) as to_broker,
            Nursery() as nursery,
            Tasks() as tasks,
        ):
            assert broker.kind == "mosquitto", "mosquitto is not installed"
            site = SITE_FILE.format(api=api, broker=to_broker.port, centre=to_110.port, storms=storms)
            (folder / "site.toml").write_text(site)
            (folder / "var").mkdir()
            registry = await Registry.open(folder / "var" / "registry.db")
            await registry.put(inventory(heard_within_s))
            await registry.close()
            world = World(clock, random, ledger)
            yield Town(folder, api, centre, to_110, to_broker, broker, world, nursery, ledger_file, record_file, tasks)
