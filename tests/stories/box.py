"""A real gateway process on free ports, to be started, killed and ended by a story."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.demo_community import SITE_FILE, enrol
from gateway.coverage.facts import Fact
from gateway.registry import Registry, Thing

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 30.0
LOOK_S = 0.05


WORKERS_MOST, PORTS_A_WORKER = 8, 1500


def _own_ports() -> Iterator[int]:
    """Those of this process of the test run, round and round. Below what the kernel gives out by itself, so that neither a
    neighbour nor anybody's outgoing connection takes one between two looks."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS_MOST
    first = 20_000 + worker * PORTS_A_WORKER
    offset = os.getpid() % PORTS_A_WORKER  # two test runs at once begin at different places
    for count in itertools.count(offset):
        yield first + count % PORTS_A_WORKER


_PORTS = _own_ports()


def free_ports(count: int) -> list[int]:
    """Ports nobody has at this moment, each one given once in a long while."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports


class Api:
    """What a gateway says of itself."""

    api: int
    """Its port."""

    def get(self, path: str) -> Any:
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        """What the API answers, as it came."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}/{path}", headers={"Authorization": "Bearer for-this-test-only"}
        )
        with urllib.request.urlopen(request, timeout=2) as answer:
            found: bytes = answer.read()
            return found.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that carry these labels; 0 when there is none."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.text("metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Box(Api):
    """The demo's gateway in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        centre: int,
        ports: str = "rf0",
        receiver: str = "",
        topics: Sequence[str] = (),
        broker: str = "",
        var: Path | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """`ports`: name or glob of the serial port; `receiver`: more settings of the 110 line, and more tables; `topics`: what the
        devices' user may say beside the demo's; `broker`: "amqtt" hides
        mosquitto; `var`: the data directory as we reach it; `under`: a command that becomes the gateway, strace say."""
        self.folder = folder
        self.var = var or folder / "var"
        self._under = under
        self.api, self.mqtt, self.modbus = free_ports(3)
        self.pty = folder / ports
        self.process: asyncio.subprocess.Process | None = None
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)} | (
            {"PATH": "/nonexistent"} if broker == "amqtt" else {}
        )
        settings = {"api": self.api, "mqtt": self.mqtt, "modbus": self.modbus, "pty": self.pty, "centre": centre}
        for name in ("api.token", "demo.password"):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text("for-this-test-only\n")
        allowed = "".join(f', "{topic}"' for topic in topics)
        site = SITE_FILE.format(**settings).replace('"fangkong/v1/#"', f'"fangkong/v1/#"{allowed}')
        (folder / "site.toml").write_text(site + receiver)

    @property
    def broker_url(self) -> str:
        return f"mqtt://demo:for-this-test-only@127.0.0.1:{self.mqtt}"

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    async def enrol(self) -> None:
        await enrol(self.folder / "var")

    async def register(self, *things: Thing) -> None:
        """Change the ledger as `fangkong device` does: in the file, from outside."""
        registry = await Registry.open(self.folder / "var" / "registry.db")
        await registry.put(things)
        await registry.close()

    async def facts(self) -> list[Fact]:
        """All that the gateway has recorded, read beside it."""
        registry = await Registry.open(self.folder / "var" / "registry.db")
        found: list[Fact] = []
        while page := await registry.facts(after=found[-1].id if found else 0):
            found += page
        await registry.close()
        return found

    async def start(self, *, wait: bool = True) -> None:
        if not (self.var / "registry.db").exists():  # on a disk that SQLite cannot reach from outside
            await asyncio.to_thread(shutil.copytree, self.folder / "var", self.var, dirs_exist_ok=True)
            await asyncio.to_thread(os.sync)  # as SQLite did where it wrote the ledger
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._under,
                sys.executable,
                "-m",
                "gateway",
                "run",
                "--config",
                str(self.folder / "site.toml"),
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        if wait:
            await self.ready()

    async def ready(self) -> None:
        """Return when /readyz says so; fail with the log when it never does."""
        assert self.process is not None
        async with asyncio.timeout(READY_WITHIN_S):
            while True:
                assert self.process.returncode is None, self.log
                try:
                    if (await asyncio.to_thread(self.get, "readyz"))["ready"]:
                        return
                except (OSError, urllib.error.URLError, ValueError):
                    pass
                await asyncio.sleep(LOOK_S)  # noqa: TID251  # between two looks at another process

    async def kill(self) -> None:
        """What a power cut does to a process."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def end(self) -> int:
        """SIGTERM; the exit code, within 10 s."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(10):
            return await self.process.wait()


async def until(condition: Any, *, within_s: float, what: str, tell: Callable[[], str] = str) -> None:
    """Wait for a condition of other processes. `tell` says how things stand when it never comes."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(LOOK_S)  # noqa: TID251  # between two looks at another process
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}\n{tell()}") from None
