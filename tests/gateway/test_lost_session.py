"""A broker that lost our session is one event of the gateway, told by the whole daemon over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import aiomqtt
import pytest

from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.config import BrokerSection
from gateway.daemon import Daemon
from gateway.kinds import Kind, Qualifier
from gateway.plan import prepare
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import tool
from tests.gateway.mqtt_brokers import address_of

TIMEOUT_S = 30
GAP = (Kind.COMM_FAULT, Qualifier.UPDATE, "消息代理丢失会话,可能有缺口")
SITE_FILE = """
[api]
listen = "127.0.0.1:0"

[broker]
url = "mqtt://127.0.0.1:{port}"
username = "demo"
password_file = "demo.password"

[[connection]]
name = "wireless"
driver = "alarm_json"
link = "mqtt://broker"
"""


class Bench:
    """A broker that is not the daemon's, and may lose its memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    @asynccontextmanager
    async def broker(self, *, forgets: bool) -> AsyncIterator[Broker]:
        if forgets:
            (self.folder / "broker" / "mosquitto.db").unlink()
        section = BrokerSection(
            listen=f"127.0.0.1:{self.port}", passwords={"demo": Path("demo.password")}, topics={"demo": ("#",)}
        )
        async with Broker(section, self.folder, RealClock(), Random(7), logs.logger(), base=self.folder) as broker:
            self.port = broker.address.port
            yield broker

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        site = self.folder / "site.toml"
        site.write_text(SITE_FILE.format(port=self.port))
        daemon = Daemon(prepare(site), clock=RealClock(), random=Random(7), log=logs.logger())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon.run())
            async with asyncio.timeout(TIMEOUT_S):
                await daemon.ready.wait()
            yield
            daemon.stop()

    async def heard(self, broker: Broker, seq: int) -> None:
        """A device speaks until it has its receipt: by then the daemon talks with this broker."""
        address = address_of("demo", broker, self.folder)
        assert address.password is not None
        event = f'{{"v":1,"device":"a001","session":"s","seq":{seq},"kind":"panic"}}'
        async with (
            asyncio.timeout(TIMEOUT_S),
            aiomqtt.Client(
                address.host, address.port, username=address.username, password=address.password.reveal()
            ) as client,
        ):
            await client.subscribe("fangkong/v1/a001/receipt", qos=1)
            receipts = client.messages
            while True:
                await client.publish("fangkong/v1/a001/event", event, qos=1)
                try:
                    async with asyncio.timeout(0.2):
                        await anext(receipts)
                        return
                except TimeoutError:
                    continue  # it does not listen yet

    async def faults(self) -> Sequence[tuple[Kind, Qualifier, str | None]]:
        store = await SqliteStore.open(self.folder / "var", RealClock())
        events = await store.events(EventFilter(device="gateway"))
        await store.close()
        return [(event.kind, event.qualifier, event.text) for event in events]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With mosquitto: amqtt has no memory that it could keep."""
    tool("mosquitto")
    return Bench(tmp_path)


@pytest.mark.row("D2")
@pytest.mark.full
async def test_a_broker_that_lost_our_session_is_told_once_each_time(bench: Bench) -> None:
    for seq in (1, 2):
        async with bench.broker(forgets=False) as broker, bench.daemon():
            await bench.heard(broker, seq)
    assert await bench.faults() == []  # a start of both alone loses nothing

    async with bench.broker(forgets=True) as broker, bench.daemon():  # lost while we were away
        await bench.heard(broker, 3)
    assert await bench.faults() == [GAP]


@pytest.mark.row("D1")
@pytest.mark.row("D2")
@pytest.mark.full
async def test_a_session_lost_under_a_running_daemon_is_told(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        async with bench.broker(forgets=False) as broker:
            await stack.enter_async_context(bench.daemon())
            await bench.heard(broker, 1)
        async with bench.broker(forgets=True) as broker:
            await bench.heard(broker, 2)
            await stack.aclose()
    assert await bench.faults() == [GAP]
