"""The demo's stage hands: start the processes, kill the gateway when asked, watch the centre's record, draw the screen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import termios
import tty
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gateway.cli import demo_families
from gateway.cli.demo_audit import Audit, accepted_events, balance
from gateway.cli.demo_community import SITE_FILE, where
from gateway.cli.demo_view import coverage, draw, in_words
from gateway.clock import Clock, RealClock

PORTS = ("api", "mqtt", "modbus", "door", "dc09", "jt808", "nmea")
READY_WITHIN_S = 20.0
DRAIN_WITHIN_S = 20.0
"""After the last event is raised, everything must have arrived within this time, whatever was killed or cut before."""
LOOK_S = 0.25
ASKED_TIMES = 60
"""For the last figures, at the least for fifteen seconds: what 110 took is written down every five."""
RESTART_AFTER_S = 0.3
RAISING_S = 7200.0
"""At a terminal devices raise events for two hours."""


class StageError(Exception):
    """The demo cannot go on; the message says why."""


class Stage:
    """One run of the demo."""

    def __init__(self, folder: Path | None, seconds: float | None) -> None:
        self._clock = RealClock()
        self._seconds = seconds
        self._folder = folder
        self._dir = Path()
        self._kills = 0
        self._line_cut = False
        self._ports: dict[str, int] = {}
        self._daemon: Process | None = None
        self._devices: Process
        self._control: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['api']}/"

    async def play(self) -> int:
        """Play until the time is over or `q`. Exit code 1 when anything was lost or doubled."""
        with (
            contextlib.nullcontext(self._folder)
            if self._folder
            else tempfile.TemporaryDirectory(prefix="fangkong-demo-") as folder
        ):
            self._dir = Path(str(folder)).resolve()  # noqa: ASYNC240  # before anything runs
            self._dir.mkdir(parents=True, exist_ok=True)
            async with AsyncExitStack() as stack:
                await self._set_up(stack)
                await self._watch(stack)
                coverage = await self._coverage()
            audit = self.audit()
            first = self._first_alarm_s()
        for line in coverage:
            print(f"DEMO coverage {line}")
        families = (f"{name}={delivered}/{alarms}" for name, (alarms, delivered) in sorted(audit.families.items()))
        print(f"DEMO families, alarms at 110 of those raised: {' '.join(families)}")
        print(
            f"DEMO alarms={audit.alarms} delivered={audit.delivered} lost={audit.lost} "
            f"duplicates={audit.duplicates} kills={self._kills} first_alarm_s={first:.1f}"
        )
        return 1 if audit.lost or audit.duplicates or not audit.alarms else 0

    # -- starting and ending processes -----------------------------------------------------------------------------------

    async def _set_up(self, stack: AsyncExitStack) -> None:
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        own = {"api.token": self._token, "demo.password": secrets.token_urlsafe(16)}
        for name, secret in (own | demo_families.SECRETS).items():
            path = self._dir / name
            path.touch(mode=0o600)
            path.write_text(secret + "\n", encoding="utf-8")
        centre = await self._start(
            stack, "-m", "simulators.police_centre", "--tcp", "127.0.0.1:0", "--control", "0",
            "--record", str(self._record), stdout=PIPE,
        )  # fmt: skip
        await _enrol(self._dir / "var")
        assert centre.stdout is not None
        async with asyncio.timeout(READY_WITHIN_S):
            ready = json.loads(await centre.stdout.readline())
        self._ports |= {"centre": ready["tcp"], "control": ready["control"]}
        self._control = await asyncio.open_connection("127.0.0.1", ready["control"])
        stack.callback(self._control[1].close)
        settings = {name: str(port) for name, port in self._ports.items()}
        settings |= {"pty": str(self._dir / "rf0"), "osdp": str(self._dir / "rs485")}
        site_file = (SITE_FILE + demo_families.TABLES).format(**settings)
        (self._dir / "site.toml").write_text(site_file, encoding="utf-8")
        await self._start_daemon(stack)
        await self._broker_accepts()
        password = (self._dir / "demo.password").read_text(encoding="utf-8").strip()
        settings["mqtt"] = f"mqtt://demo:{password}@127.0.0.1:{self._ports['mqtt']}"
        self._devices = await self._start(
            stack, "-m", "simulators", str(_scenario()), "--stay", "--seconds", str(self._raising_s()),
            "--ledger", str(self._ledger), "--control", f"127.0.0.1:{self._ports['control']}",
            *(f"--set={name}={value}" for name, value in settings.items()),
        )  # fmt: skip

    async def _broker_accepts(self) -> None:
        """Devices are switched on when there is something to talk to; they would find it by themselves, only later."""
        deadline = self._clock.monotonic() + READY_WITHIN_S
        while self._clock.monotonic() < deadline:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._ports["mqtt"])
            except OSError:
                self._check_daemon()
                await self._clock.sleep(0.05)
            else:
                writer.close()
                return
        raise StageError(f"the gateway did not start within {READY_WITHIN_S:.0f} s; see {self._dir / 'gateway.log'}")

    def _check_daemon(self) -> None:
        if self._daemon is not None and self._daemon.returncode is not None:
            log = (self._dir / "gateway.log").read_text(encoding="utf-8")
            raise StageError(f"the gateway ended by itself:\n{log[-2000:]}")

    def _raising_s(self) -> float:
        return RAISING_S if self._seconds is None else max(2.0, self._seconds - 4.0)

    async def _start(self, stack: AsyncExitStack, *arguments: str, stdout: int = DEVNULL) -> Process:
        log = stack.enter_context((self._dir / f"{arguments[1]}.log").open("ab"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=stdout, stderr=log, stdin=DEVNULL
        )
        stack.push_async_callback(_end, process)
        return process

    async def _start_daemon(self, stack: AsyncExitStack) -> None:
        self._daemon = await self._start(stack, "-m", "gateway", "run", "--config", str(self._dir / "site.toml"))

    async def _kill_daemon(self, stack: AsyncExitStack) -> None:
        """No warning, no clean-up: what a power cut does to a process. Then what systemd does."""
        assert self._daemon is not None
        self._check_daemon()
        self._kills += 1
        self._daemon.kill()
        await self._daemon.wait()
        await self._clock.sleep(RESTART_AFTER_S)
        await self._start_daemon(stack)

    async def _tell_centre(self, command: dict[str, Any]) -> None:
        assert self._control is not None
        reader, writer = self._control
        writer.write(json.dumps(command).encode() + b"\n")
        await writer.drain()
        await reader.readline()

    # -- watching --------------------------------------------------------------------------------------------------------

    async def _watch(self, stack: AsyncExitStack) -> None:
        if self._seconds is None:
            stack.enter_context(_single_keys())
            keys: asyncio.Queue[str] = asyncio.Queue(maxsize=16)
            loop = asyncio.get_running_loop()
            loop.add_reader(sys.stdin, _take_key, keys)
            stack.callback(loop.remove_reader, sys.stdin)
            await self._at_terminal(stack, keys)
            self._devices.send_signal(signal.SIGUSR1)  # raise nothing new, but hear the answers to what is raised
            await self._drain()
            return
        print(f"fangkong demo: {self._seconds:.0f} s, API {self.url} (token {self._token}), files in {self._dir}")
        await self._clock.sleep(self._seconds / 2)
        await self._kill_daemon(stack)
        await self._clock.sleep(self._seconds / 2)
        await self._drain()

    async def _at_terminal(self, stack: AsyncExitStack, keys: asyncio.Queue[str]) -> None:
        while True:
            draw(self.url, self._token, self._dir, self.audit(), kills=self._kills, line_cut=self._line_cut)
            try:
                async with asyncio.timeout(2 * LOOK_S):
                    key = await keys.get()
            except TimeoutError:
                continue
            if key == "k":
                await self._kill_daemon(stack)
            elif key == "o":
                self._line_cut = not self._line_cut
                await self._tell_centre({"off": True} if self._line_cut else {"on": True})
            elif key == "q":
                if self._line_cut:
                    await self._tell_centre({"on": True})
                print("\nletting the last events arrive ...")
                return

    async def _coverage(self) -> list[str]:
        """The figures, once what 110 has taken is counted in them. Raises StageError when the gateway does not tell them."""
        answers = []
        for _ in range(ASKED_TIMES):
            with contextlib.suppress(OSError, ValueError):
                answers = await asyncio.to_thread(coverage, self.url, self._token)
                if answers[-1]["counts"]["networked"]:
                    break
            await self._clock.sleep(LOOK_S)
        if not answers:
            raise StageError(f"the gateway does not tell its figures; see {self._dir / 'gateway.log'}")
        return list(in_words(answers))

    async def _drain(self) -> None:
        """Wait until everything has arrived, or the time for it is over."""
        deadline = self._clock.monotonic() + DRAIN_WITHIN_S
        while self._clock.monotonic() < deadline:
            audit = self.audit()
            if audit.alarms and audit.lost == 0 and audit.delivered == audit.alarms:
                return
            await self._clock.sleep(LOOK_S)

    # -- the evidence ------------------------------------------------------------------------------------------------------

    @property
    def _record(self) -> Path:
        return self._dir / "centre.jsonl"

    @property
    def _ledger(self) -> Path:
        return self._dir / "ledger.jsonl"

    def audit(self) -> Audit:
        return balance(_rows(self._ledger), _rows(self._record), where)

    def _first_alarm_s(self) -> float:
        """From the start of this process to the first alarm (not a restore, not a fault) that the centre accepted."""
        rows = accepted_events(_rows(self._record))
        accepted = [row["t"] for row in rows if row["code"].startswith("1") and int(row["qualifier"]) == 1]
        return min(accepted) - _process_start(self._clock) if accepted else float("nan")


def _scenario() -> Path:
    import importlib.util

    # Found, not imported: the gateway knows no simulator.
    spec = importlib.util.find_spec("simulators")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "community" / "scenario.toml"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that is still being written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _process_start(clock: Clock) -> float:
    """Unix time at which this process was started, by the kernel's word (proc(5): field 22 of stat, ticks since boot)."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
    up_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    age_s = up_s - ticks / os.sysconf("SC_CLK_TCK")
    return clock.now().timestamp() - age_s


async def _enrol(data_dir: Path) -> None:
    from gateway.cli import demo_community, demo_coverage  # half a second of imports, while the centre starts

    await demo_coverage.enrol(data_dir, [*demo_community.things(), *demo_families.things()])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _take_key(keys: asyncio.Queue[str]) -> None:
    key = sys.stdin.read(1)
    if not keys.full():
        keys.put_nowait(key)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Keys at once, without Enter; the terminal is given back as it was."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
