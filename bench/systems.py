"""What is measured: the gateway as it is installed, and the two floors; each a process of its own, started afresh."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.estate import Estate

READY_WITHIN_S = 60.0
END_WITHIN_S = 15.0
ANSWER_WITHIN_S = 300.0
"""The longest load, with a machine that does half of what is asked of it."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

TOKEN = "for-the-bench-only"  # noqa: S105  # opens a daemon on loopback that lives for minutes
SITE_FILE = """\
[gateway]
name = "bench"
account = "0B0B"
profiles_dir = "profiles"

[api]
listen = "127.0.0.1:{api}"
token_file = "api.token"

[broker]
{broker}

[[connection]]
name = "alarms"
driver = "alarm_json"
link = "mqtt://broker"

[[destination]]
name = "centre"
forwarder = "dc09"
lanes = ["life", "alarm", "fault", "status"]
[destination.settings]
connect = "127.0.0.1:{centre}"
"""
"""As docs/install.md has it: every part of the daemon is on."""


class Failed(Exception):
    """A process of the bench did not do what it should; the text says what it said."""


class Talker:
    """A child that answers each line on its stdin with one line."""

    def __init__(self, *command: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **command: Any) -> Any:
        """Say one thing, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        """The next answer. Raises Failed when the child has ended, or says nothing for too long."""
        assert self._process.stdout is not None
        is_there, _, _ = select.select([self._process.stdout], [], [], ANSWER_WITHIN_S)
        line = self._process.stdout.readline() if is_there else b""
        if not line:
            said = self._log.read_text()[-2000:]
            raise Failed(f"{self._process.args!r} {'ended' if is_there else 'does not answer'}: {said}")
        return json.loads(line)

    def end(self) -> None:
        """Kill; nobody minds."""
        with self._process:
            self._process.kill()


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_mb(pid: int) -> float:
    """Memory in use, MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Somebody listens there."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@dataclass(slots=True)
class Floor:
    """One of bench/floors.py."""

    name: str
    kind: str
    estate: Estate
    _talker: Talker | None = field(default=None, init=False)

    def start(self, folder: Path, *, mqtt: int, centre: int) -> None:
        self._talker = Talker(
            "bench.floors", self.kind, "--mqtt", str(mqtt), "--centre", str(centre), "--data", str(folder),
            "--devices", str(self.estate.devices), "--accounts", str(self.estate.accounts), log=folder / "floor.log",
        )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._talker is not None
        return self._talker.pid

    def syncs(self) -> int:
        """Commits so far that waited for the disk."""
        assert self._talker is not None
        return int(self._talker.ask()["syncs"])

    def kept_back(self) -> int:
        """It sends everything on."""
        return 0

    def watched(self) -> AbstractContextManager[None]:
        """There is nothing to look at."""
        return nullcontext()

    def end(self) -> None:
        if self._talker is not None:
            self._talker.end()


@dataclass(slots=True)
class Daemon:
    """`fangkong run` with a site file of its own."""

    name: str
    estate: Estate
    ledger: Path
    """A register of devices to begin with."""
    is_watched: bool = False
    """While a load runs, bench/readers.py looks at it from all sides."""
    settings: str = ""
    """More of the site file."""
    api: int = field(default=0, init=False)
    folder: Path = field(default=Path(), init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, folder: Path, *, mqtt: int, centre: int) -> None:
        self.prepare(folder, broker=f'url = "mqtt://127.0.0.1:{mqtt}"', centre=centre)
        self.run()

    def prepare(self, folder: Path, *, broker: str, centre: int, more: str = "") -> None:
        """Write the site file, the token and the ledger."""
        self.folder = folder
        more = self.settings + more
        self.api = free_port()
        (folder / "api.token").touch(mode=0o600)
        (folder / "api.token").write_text(TOKEN + "\n")
        (folder / "site.toml").write_text(SITE_FILE.format(api=self.api, broker=broker, centre=centre) + more)
        (folder / "var").mkdir()
        (folder / "var" / "registry.db").write_bytes(self.ledger.read_bytes())

    def run(self) -> float:
        """Start it. Gives the seconds from exec to a good /readyz."""
        with (self.folder / "gateway.log").open("ab") as log:
            started = monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "--config", str(self.folder / "site.toml")],
                stdout=log,
                stderr=log,
            )
        while monotonic() - started < READY_WITHIN_S:
            if self._process.poll() is not None:
                break
            try:
                self.get("readyz")
            except OSError:  # not there yet, or 503: not ready yet
                sleep(0.005)
            else:
                return monotonic() - started
        raise Failed(f"the daemon is not ready: {(self.folder / 'gateway.log').read_text()[-2000:]}")

    def get(self, path: str) -> bytes:
        """What the API answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}/{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: bytes = answer.read()
            return found

    def metric(self, name: str) -> float:
        """The sum of the series of this name. Raises Failed when there is no such metric."""
        text = self.get("metrics").decode()
        if f"# TYPE {name.removesuffix('_count')} " not in text:
            raise Failed(f"the daemon has no metric {name}")
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def syncs(self) -> int:
        """Commits so far that waited for the disk."""
        return int(self.metric("fangkong_commit_seconds_count"))

    def kept_back(self) -> int:
        """Events so far that are stored and, by the rules of storms, not sent on."""
        return int(self.metric("fangkong_events_suppressed_total"))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While a load runs: with its readers, if it has any."""
        if not self.is_watched:
            yield
            return
        readers = Talker("bench.readers", str(self.api), TOKEN, log=self.folder / "readers.log")
        try:
            readers.hear()
            yield
            readers.ask()  # they have read to the end
        finally:
            readers.end()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


System = Floor | Daemon
