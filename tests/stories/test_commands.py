"""A person opens a door: command line, gateway, line, device, its own word, and everybody who looks sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from gateway import audit, logs
from gateway.clock import RealClock
from gateway.daemon import Daemon
from gateway.model import Device, Site
from gateway.plan import prepare
from gateway.registry import Registry
from simulators import _clock
from simulators._world import Ledger, Spec, World
from simulators.alarm_json import Alarm
from simulators.modbus_points import COILS, Slave
from tests.stories.box import free_ports

PATIENCE_S = 60.0
TOKEN = "for-this-test-only"
SITE = """
[gateway]
data_dir = "var"
[api]
listen = "127.0.0.1:{api}"
token_file = "token"
[broker]
listen = "127.0.0.1:{mqtt}"
passwords = {{ siren-1 = "siren-1.password" }}
[[connection]]
name = "wireless"
driver = "alarm_json"
link = "mqtt://broker"
[connection.settings]
obeys = {{ siren-1 = ["siren", "self-test"] }}
[[connection]]
name = "doors"
driver = "modbus_points"
link = "modbus+tcp://127.0.0.1:{modbus}?timeout_ms=500"
[connection.settings]
units = [{{ unit = 1, device = "gate-1", profile = "relay_io16", every_s = 0.1 }}]
"""


class Street:
    """A gateway, a gate and a siren."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api, mqtt, modbus = free_ports(3)
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(TOKEN)
        (folder / "site.toml").write_text(SITE.format(api=self.api, mqtt=mqtt, modbus=modbus))
        clock = _clock.RealClock()
        world = World(clock, Random(7), Ledger(clock))
        self.gate = Slave(Spec("gate-1", f"modbus+tcp://127.0.0.1:{modbus}", {"unit": 1}), world)
        options = {"username": "siren-1", "password_file": str(folder / "siren-1.password"), "heartbeat_s": 0.5}
        self.siren = Alarm(Spec("siren-1", f"mqtt://127.0.0.1:{mqtt}", options), world)

    async def enrol(self) -> None:
        registry = await Registry.open(self.folder / "var" / "registry.db")
        await registry.add(Site("s1", "near", "A10B"), Device("gate-1", "s1"), Device("siren-1", "s1"))
        await registry.close()

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        """A daemon that is ready and has heard both devices."""
        daemon = Daemon(prepare(self.folder / "site.toml"), clock=RealClock(), random=Random(1), log=logs.logger())
        headers, url = {"authorization": f"Bearer {TOKEN}"}, f"http://127.0.0.1:{self.api}"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon.run())
            await daemon.ready.wait()
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
                await until(lambda: self._are_heard(client))
                yield client
            daemon.stop()

    @asynccontextmanager
    async def killed_gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        """The same as a process of its own, which gets no chance to say anything at the end of the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "run", "--config", str(self.folder / "site.toml"),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        headers, url = {"authorization": f"Bearer {TOKEN}"}, f"http://127.0.0.1:{self.api}"
        try:
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
                await until(lambda: self._are_heard(client))
                yield client
        finally:
            process.kill()
            await process.wait()

    async def _are_heard(self, client: httpx.AsyncClient) -> bool:
        try:
            devices = (await client.get("/api/v1/devices")).json()["items"]
        except httpx.TransportError:  # it does not listen yet
            return False
        return {row["id"] for row in devices if row["state"] == "heard"} >= {"gate-1", "siren-1"}

    async def command(self, *words: str) -> tuple[int, str, str]:
        """What a person types."""
        config = str(self.folder / "site.toml")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "command", *words, "--config", config,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


async def until(claim: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await claim():
            await RealClock().sleep(0.05)


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    logs.set_up("warning")
    found = Street(tmp_path)
    await found.enrol()
    async with asyncio.TaskGroup() as tasks:
        devices = [tasks.create_task(found.gate.run()), tasks.create_task(started(found))]
        yield found
        for task in devices:
            task.cancel()


async def started(street: Street) -> None:
    """The siren, once the broker has made its password."""
    async with asyncio.timeout(PATIENCE_S):
        while not (street.folder / "siren-1.password").exists():
            await RealClock().sleep(0.05)
    await street.siren.run()


async def steps(lines: AsyncIterator[str], command_id: str) -> list[str]:
    """The states of one command as a listener of the live stream hears them, up to its end."""
    found: list[str] = []
    async for line in lines:
        if not line.startswith("data: "):
            continue
        event: dict[str, Any] = json.loads(line[6:])
        if event["kind"] == "command" and event["values"]["command"] == command_id:
            found.append(event["values"]["state"])
            if found[-1] in ("executed", "failed", "expired"):
                break
    return found


def audited(street: Street) -> Iterable[tuple[str, str, Any]]:
    for row in audit.rows(street.folder / "var" / audit.FILE):
        if row.deed == audit.Deed.COMMAND:
            yield row.actor, row.subject, json.loads(row.details)["reason"]


async def test_from_the_command_line_to_the_door_and_back(street: Street) -> None:
    async with street.gateway() as client, client.stream("GET", "/api/v1/stream", params={"after": 0}) as stream:
        lines = stream.aiter_lines()
        words = ("open", "gate-1", "--zone", "1", "--for", "1", "--reason", "ambulance", "--id", "call-17", "--json")
        code, out, err = await street.command(*words)

        assert (code, err) == (0, "")
        assert json.loads(out)["detail"] == "coil 0 of unit 1 reads 1"
        assert await steps(lines, "call-17") == ["created", "sent", "executed"]
        [(actor, *rest)] = audited(street)
        assert (actor[:3], *rest) == ("os:", "gate-1", "ambulance")  # the person who typed it
        again = await street.command(*words)
        assert again[0] == 0
        assert [row for row in street.gate.memory.switched if row == (0, 1)] == [(0, 1)]  # one pulse for one id

        code, out, err = await street.command("siren", "siren-1", "--for", "5", "--reason", "burglar", "--json")
        assert (code, json.loads(out)["detail"]) == (0, "its result: siren done")
        code, out, err = await street.command("disarm", "siren-1", "--reason", "why not")
        assert code == 1
        assert "siren-1 cannot disarm on wireless; it can: self-test, siren" in err
        await street.siren.do("jammed")
        code, out, err = await street.command("siren", "siren-1", "--reason", "burglar", "--json")
        assert (code, json.loads(out)["detail"]) == (1, "its result: failed the bolt does not move")
        code, out, err = await street.command("list", "--json")
        assert [row["state"] for row in json.loads(out)] == ["failed", "executed", "executed"]
        assert street.siren.done == ["siren"]


@pytest.mark.full
async def test_a_device_that_is_away_is_not_commanded_when_it_comes_back(street: Street) -> None:
    async with street.gateway() as client:
        await street.siren.do("silent")
        await street.gate.do("silent")
        for device, zone, act in (("siren-1", None, "siren"), ("gate-1", 1, "open")):
            wish = {"id": f"for-{device}", "device": device, "zone": zone, "act": act, "reason": "late", "valid_s": 1}
            assert (await client.post("/api/v1/commands", json=wish)).status_code == 202

        async def has_left() -> bool:
            found = [(await client.get(f"/api/v1/commands/for-{device}")).json() for device in ("siren-1", "gate-1")]
            return all(row["state"] != "created" for row in found)

        await until(has_left)
        await RealClock().sleep(1.5)  # its validity
        await street.siren.do("back")
        await street.gate.do("back")
        beats = (await client.get("/api/v1/devices")).json()["items"]

        async def beat_again() -> bool:
            now = (await client.get("/api/v1/devices")).json()["items"]
            return all(one["last_heard"] > other["last_heard"] for one, other in zip(now, beats, strict=True))

        await until(beat_again)
        assert street.siren.done == []
        assert street.gate.memory.tables[COILS][0] == 0
        assert (0, 1) not in street.gate.memory.switched


@pytest.mark.full
async def test_a_kill_sends_nothing_again_and_the_device_is_still_believed(street: Street) -> None:
    async with street.killed_gateway() as client:
        await street.siren.do("deaf")
        wish = {"id": "c1", "device": "siren-1", "act": "self-test", "reason": "monthly test"}
        await client.post("/api/v1/commands", json=wish)

        async def is_sent() -> bool:
            """On disk: a step is told as an event once it is written down, and asked for it stands before."""
            told = (await client.get("/api/v1/events", params={"kind": "command"})).json()["items"]
            return "sent" in [event["values"]["state"] for event in told]

        await until(is_sent)
    await street.siren.do("back")
    async with street.gateway() as client:
        assert (await client.post("/api/v1/commands", json=wish)).json()["state"] == "sent"
        assert street.siren.done == []
        answer = street.siren._obey({"id": "c1", "act": "self-test", "expires_at": "2099-01-01T00:00:00Z"})
        assert street.siren._client is not None
        await street.siren._publish(street.siren._client, "result", answer)

        async def is_executed() -> bool:
            return bool((await client.get("/api/v1/commands/c1")).json()["state"] == "executed")

        await until(is_executed)
