"""The supervised broker: chosen, started, fenced in, restarted, and gone with its daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import aiomqtt
import pytest
import structlog.testing

from gateway import broker as broker_module
from gateway import logs
from gateway.broker import Broker, _Walkable
from gateway.clock import RealClock
from gateway.config import GATEWAY_USER, BrokerSection, load_site_file, read_secret
from gateway.errors import ConfigError, Refused
from gateway.links.broker_url import external_address
from gateway.links.mqtt import BrokerAddress, open_topics
from gateway.receipt import Receipt
from tests.conftest import tool
from tests.gateway.mqtt_brokers import KINDS, BrokerKind, address_of, running

TIMEOUT_S = 30


def made(section: BrokerSection, folder: Path) -> Broker:
    return Broker(section, folder, RealClock(), Random(7), logs.logger(), base=folder)


@asynccontextmanager
async def client(address: BrokerAddress) -> AsyncIterator[aiomqtt.Client]:
    password = address.password.reveal() if address.password else None
    async with aiomqtt.Client(address.host, address.port, username=address.username, password=password) as made:
        yield made


async def until_port(address: tuple[str, int], *, is_open: bool) -> None:
    """Wait until that port accepts, or refuses."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                await writer.wait_closed()
                accepted = True
            except OSError:
                accepted = False
            if accepted is is_open:
                return
            await RealClock().sleep(0.02)  # nothing tells when a port changes


# -- which one ---------------------------------------------------------------------------------------------------------


async def test_a_configured_url_wins_and_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "secret").chmod(0o600)
    section = BrokerSection(url="mqtts://broker.example:8884?ca=ca.pem", username="gw", password_file=Path("secret"))
    async with made(section, tmp_path) as broker:
        assert broker.kind == "external"
        assert broker.address.password is not None
        assert broker.address.password.reveal() == "s3cret"
        assert replace(broker.address, password=None) == BrokerAddress(
            "broker.example", 8884, "gw", None, "auto", True, tmp_path / "ca.pem"
        )
    assert not (tmp_path / "broker").exists()


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("mqtt://h", "h", 1883), ("mqtts://h", "h", 8883), ("mqtt://[::1]:1900", "::1", 1900), ("mqtt://h:99/", "h", 99)],
)
def test_a_url_names_host_and_port(url: str, host: str, port: int) -> None:
    address = external_address(BrokerSection(url=url))

    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    ["broker", "http://h", "mqtt://", "mqtt://h:70000", "mqtt://h/topic", "mqtt://h?x=1", "mqtt://me:canary-77@h"],
)
def test_a_url_that_cannot_be_meant_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.url: .* expected mqtt://HOST:PORT") as refused:
        external_address(BrokerSection(url=url))

    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "topic",
    ["", "a/#/b", "#/a", "a#", "a/b+", "+a/b", "a/##", "a/++", " a", "a ", "a\ntopic readwrite #", "a\0", "x" * 65_536],
)
def test_a_topic_filter_that_is_none_is_named_with_its_line(topic: str, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(f'[broker]\npasswords = {{ b1 = "p" }}\n[broker.topics]\nb1 = ["ok/#", {json.dumps(topic)}]\n')

    with pytest.raises(ConfigError) as refused:
        load_site_file(site)
    (problem,) = refused.value.problems
    assert (problem.line, problem.key) == (4, "broker.topics.b1.1")
    assert problem.expected.startswith("an MQTT topic filter")


def test_topics_of_a_user_without_a_password_are_refused(tmp_path: Path) -> None:
    """A slip in the name would leave that user with the topics of its own name, and nobody told."""
    site = tmp_path / "site.toml"
    site.write_text('[broker]\npasswords = { bridge1 = "p" }\ntopics = { brigde1 = ["t/#"] }\n')

    with pytest.raises(ConfigError, match=r"site\.toml:3: broker\.topics: .*brigde1.* expected .*passwords.*brigde1"):
        load_site_file(site)


FILTERS = ("#", "+", "+/#", "fangkong/v1/b101/#", "fangkong/v1/+/event", "/", "a//b", "a b/c", "小区/+/x", "$SYS/#")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_filter_that_is_one_is_taken_by_the_broker(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "amqtt":
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        tool("mosquitto")
    section = BrokerSection(listen="127.0.0.1:0", passwords={"d": Path("p")}, topics={"d": FILTERS})
    async with made(section, tmp_path) as broker:
        assert broker.kind == kind
        assert broker.is_up


async def test_without_mosquitto_on_path_it_is_amqtt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("amqtt", tmp_path, monkeypatch) as broker:
        assert broker.address.username == GATEWAY_USER


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_reaches_its_own_topics_only(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running(kind, tmp_path, monkeypatch) as broker,
        open_topics(broker.address, client_id="gw", subscriptions=["#"], log=logs.logger()) as link,
        asyncio.timeout(TIMEOUT_S),
    ):
        for topic in ("fangkong/v1/b002/event", "a0012/x", "fangkong/v1/a001/event"):
            async with client(address_of("a001", broker, tmp_path)) as device:
                await device.publish(topic, b"x", qos=0)  # amqtt leaves a forbidden publish at QoS 1 unanswered
                if topic == "fangkong/v1/a001/event":
                    (message,) = await anext(link.batches())

        assert message.topic == "fangkong/v1/a001/event"
        async with client(address_of("a001", broker, tmp_path)) as spy:
            await spy.subscribe("#", qos=1)
            await spy.subscribe("fangkong/v1/a001/receipt", qos=1)
            link.publish("fangkong/v1/b002/receipt", b"not for a001", after=Receipt.settled())
            link.publish("fangkong/v1/a001/receipt", b"for a001", after=Receipt.settled())

            assert bytes((await anext(spy.messages)).payload) == b"for a001"


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_comes_in_without_a_password(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(kind, tmp_path, monkeypatch) as broker:
        for address in (
            replace(broker.address, username=None, password=None),
            replace(broker.address, username="nobody"),
            replace(broker.address, password=address_of("a001", broker, tmp_path).password),
        ):
            with pytest.raises(Refused):
                async with open_topics(address, client_id="x", subscriptions=["t"], log=logs.logger()):
                    pass


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_it_writes_is_private(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "passwords").touch(mode=0o644)
    async with running(kind, tmp_path, monkeypatch):
        files = [tmp_path / "demo.password", tmp_path / "broker" / "gateway.password"]
        files += [f for f in (tmp_path / "broker").iterdir() if not f.name.endswith(".db")]
        if kind == "amqtt":
            files.remove(tmp_path / "broker" / "passwords")

        assert {oct(stat.S_IMODE(file.stat().st_mode)) for file in files} == {"0o600"}


@pytest.mark.row("B1")
async def test_a_password_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, left by a power cut at the first start, would keep every later start from succeeding."""

    def power_cut(_: int) -> None:
        raise OSError("the power went")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(Refused, match="cannot write the files of the broker: the power went"):
        await running("amqtt", tmp_path, monkeypatch).__aenter__()

    assert not (tmp_path / "broker" / "gateway.password").exists()


async def test_a_password_lives_on_across_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("amqtt", tmp_path, monkeypatch) as broker:
        first = broker.address.password
    async with running("amqtt", tmp_path, monkeypatch) as broker:
        second = broker.address.password

    assert first is not None
    assert second is not None
    assert first.reveal() == second.reveal()


@pytest.mark.parametrize("user", ["", "a/b", "a+", "#", "a:b", "a\nb", GATEWAY_USER, "x" * 65])
def test_a_user_name_that_would_widen_its_rights_is_refused(user: str, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(f'[broker.passwords]\n{json.dumps(user)} = "p"\n')
    with pytest.raises(ConfigError, match=r"site\.toml:1: broker\.passwords: .*expected user names of letters"):
        load_site_file(tmp_path / "site.toml")


async def test_a_new_user_comes_in_while_the_others_stay_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("mosquitto")
    one = BrokerSection(listen="127.0.0.1:0", passwords={"d1": Path("p1"), "gone": Path("p0")})
    two = BrokerSection(listen="127.0.0.1:0", passwords={"d1": Path("p1"), "d2": Path("p2")}, topics={"d1": ("t/#",)})
    async with (
        made(one, tmp_path) as broker,
        open_topics(broker.address, client_id="gw", subscriptions=["#"], log=logs.logger()) as link,
        client(as_user(broker, "d1", tmp_path / "p1")) as stays,
        asyncio.timeout(TIMEOUT_S),
    ):
        gone = as_user(broker, "gone", tmp_path / "p0")
        await broker.let_in(two)

        await until_in(as_user(broker, "d2", tmp_path / "p2"))
        with pytest.raises(aiomqtt.MqttError):
            async with client(gone):
                pass
        await stays.publish("t/1", b"under its new filter", qos=1)
        (message,) = await anext(link.batches())
        assert message.payload == b"under its new filter"


def as_user(broker: Broker, user: str, password: Path) -> BrokerAddress:
    return replace(broker.address, username=user, password=read_secret(password))


async def until_in(address: BrokerAddress) -> None:
    """A broker reads its files when it comes to it."""
    while True:
        try:
            async with client(address):
                return
        except aiomqtt.MqttError:
            await asyncio.sleep(0.02)  # noqa: TID251  # between two tries; bounded by the caller


async def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("x")
    (tmp_path / "p").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        async with made(BrokerSection(listen="127.0.0.1:0", passwords={"d": Path("p")}), tmp_path):
            pass


async def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "PORT_FREE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"broker\.listen: 127\.0\.0\.1:{port}: Address already in use"):
            async with made(BrokerSection(listen=f"127.0.0.1:{port}"), tmp_path):
                pass


async def test_waiting_for_a_port_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "PORT_FREE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other, structlog.testing.capture_logs() as said:
        section = BrokerSection(listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError):
            async with made(section, tmp_path):
                pass

    assert [line["event"] for line in said] == ["broker port is taken"]


# -- its life ----------------------------------------------------------------------------------------------------------

OWNER = """
import asyncio, sys
from pathlib import Path
from random import Random
from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.config import GATEWAY_USER, BrokerSection, load_site_file, read_secret

async def main(folder):
    async with Broker(BrokerSection(listen="127.0.0.1:0"), folder, RealClock(), Random(7), logs.logger()) as broker:
        print(broker.kind, broker.address.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_it_dies_with_a_daemon_that_is_killed(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "amqtt":
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        tool("mosquitto")
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        said = ""
        while not said.startswith(kind):  # log lines may come first
            said = (await owner.stdout.readline()).decode()
            assert said
    address = ("127.0.0.1", int(said.split()[1]))
    await until_port(address, is_open=True)
    owner.kill()
    await owner.stdout.read()
    await owner.wait()

    await until_port(address, is_open=False)


async def test_a_start_that_is_cancelled_leaves_no_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # amqtt takes long enough to start
    broker = made(BrokerSection(listen="127.0.0.1:0"), tmp_path)
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(broker.__aenter__())
        while broker._process is None:
            await RealClock().sleep(0.01)  # nothing tells when the child is there
        starting.cancel()

    assert starting.cancelled()
    assert broker._process.returncode is not None


def broker_process(broker: Broker) -> int:
    """The process id below the leash."""
    assert broker._process is not None
    leash = broker._process.pid
    return int(Path(f"/proc/{leash}/task/{leash}/children").read_text().split()[0])


@asynccontextmanager
async def supervised(broker: Broker) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(broker.supervise())
        yield
        task.cancel()


@pytest.mark.row("D1")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_broker_that_dies_is_started_again(
    kind: BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(kind, tmp_path, monkeypatch) as broker, supervised(broker):
        first = broker_process(broker)
        os.kill(first, signal.SIGKILL)
        address = (broker.address.host, broker.address.port)
        await until_port(address, is_open=False)
        await until_port(address, is_open=True)

        assert broker_process(broker) != first


@pytest.mark.row("D1")
@pytest.mark.full
async def test_what_mosquitto_acknowledged_survives_its_own_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but what came within its last turn: it confirms first and saves up to 0.1 s later."""
    sent = [f"message-{number}" for number in range(20)]
    async with running("mosquitto", tmp_path, monkeypatch) as broker, supervised(broker):
        async with open_topics(broker.address, client_id="gw", subscriptions=["t"], log=logs.logger()):
            pass
        async with client(address_of("demo", broker, tmp_path)) as device:
            for payload in sent:
                await device.publish("t", payload, qos=1)
        async with asyncio.timeout(TIMEOUT_S):
            while sent[-1].encode() not in (tmp_path / "broker" / "mosquitto.db").read_bytes():
                await RealClock().sleep(0.02)  # nothing tells when it has saved
        os.kill(broker_process(broker), signal.SIGKILL)
        address = (broker.address.host, broker.address.port)
        await until_port(address, is_open=False)
        await until_port(address, is_open=True)
        seen: list[str] = []
        async with (
            open_topics(
                broker.address, client_id="gw", subscriptions=["t"], log=logs.logger(), had_session=True
            ) as link,
            asyncio.timeout(TIMEOUT_S),
        ):
            while len(seen) < 20:
                seen += [message.payload.decode() for message in await anext(link.batches())]

    assert seen == sent
    assert not link.gap_possible


@pytest.mark.full
async def test_a_broker_whose_devices_repeat_does_not_save_each_message(tmp_path: Path) -> None:
    """Its whole state per message is what limits a busy site to some 1 500 messages a second."""
    tool("mosquitto")
    section = BrokerSection(listen="127.0.0.1:0")
    saved = tmp_path / "broker" / "mosquitto.db"
    async with Broker(section, tmp_path, RealClock(), Random(7), logs.logger(), keeps_all=False) as broker:
        async with client(broker.address) as device:
            for _ in range(100):
                await device.publish("fangkong/v1/d1/availability", b"online", qos=1, retain=True)

        assert not saved.exists()
    assert saved.exists(), "and yet it saves when it is stopped in order"


def test_the_demo_brokers_subscriptions_may_change_while_they_are_walked() -> None:
    subscriptions = _Walkable(a=[1], b=[2])
    for topic in subscriptions:
        subscriptions[topic + "/new"] = []
    for topic, sessions in subscriptions.items():
        assert isinstance(sessions, list)
        del subscriptions[topic]

    assert subscriptions == {}
