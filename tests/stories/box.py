"""A real gateway process on free ports, to be started, killed and ended by a story."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.cli.demo_community import SITE_FILE, enrol

READY_WITHIN_S = 30.0
LOOK_S = 0.05


def free_ports(count: int) -> list[int]:
    """Ports nobody has at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Box:
    """The demo's gateway in a folder of its own."""

    def __init__(self, folder: Path, *, centre: int) -> None:
        self.folder = folder
        self.api, self.mqtt, self.modbus = free_ports(3)
        self.pty = folder / "rf0"
        self.process: asyncio.subprocess.Process | None = None
        settings = {"api": self.api, "mqtt": self.mqtt, "modbus": self.modbus, "pty": self.pty, "centre": centre}
        for name in ("api.token", "demo.password"):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text("for-this-test-only\n")
        (folder / "site.toml").write_text(SITE_FILE.format(**settings))

    @property
    def broker_url(self) -> str:
        return f"mqtt://demo:for-this-test-only@127.0.0.1:{self.mqtt}"

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    async def enrol(self) -> None:
        await enrol(self.folder / "var")

    async def start(self, *, wait: bool = True) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                "run",
                "--config",
                str(self.folder / "site.toml"),
                stdout=log,
                stderr=log,
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

    def get(self, path: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}/{path}", headers={"Authorization": "Bearer for-this-test-only"}
        )
        with urllib.request.urlopen(request, timeout=2) as answer:
            return json.load(answer)

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
