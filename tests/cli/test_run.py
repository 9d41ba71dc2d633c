"""init, check, run and doctor as a person uses them: exit codes, JSON, and words that say what to do."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.__main__ import COMMANDS, main
from gateway.cli.tail import LANES
from gateway.kinds import Lane
from tests.conftest import tool

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout and no installed one
HELP_COSTS_AT_MOST = 5
"""Bare starts of the interpreter (docs/decisions/0002); 3.0, however many commands there are."""
FANGKONG_HELP = "from gateway.__main__ import main; main(['--help'])"
"""What the installed command does."""
ROUNDS = 15
PATIENCE_S = 30

Fangkong = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fangkong(capsys: pytest.CaptureFixture[str]) -> Iterator[Fangkong]:
    """Runs a command in this process; returns its exit code and what it said."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([*map(str, words)])
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    yield run
    signal.signal(signal.SIGTERM, before)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "gateway", *map(str, words)]


def completed(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=ENVIRONMENT
    )


@pytest.fixture
def box(tmp_path: Path, fangkong: Fangkong) -> Path:
    """A folder with what `init --yes` writes, on free ports."""
    assert fangkong("init", "--yes", "--dir", tmp_path)[0] == 0
    site = tmp_path / "site.toml"
    text = site.read_text()
    for address in ("127.0.0.1:8110", "127.0.0.1:1883"):
        assert address in text
        text = text.replace(address, "127.0.0.1:0")
    site.write_text(text)
    return site


# -- init, check, run --------------------------------------------------------------------------------------------------


def test_what_init_writes_is_in_order_and_its_token_private(box: Path, fangkong: Fangkong) -> None:
    code, said, _ = fangkong("check", "--config", box)

    assert (code, said.splitlines()[0]) == (0, f"{box}: ok; 1 connections, 0 destinations")
    assert (box.parent / "secrets" / "api.token").stat().st_mode & 0o777 == 0o600


def test_every_choice_of_init_gives_a_file_that_is_in_order(tmp_path: Path, fangkong: Fangkong) -> None:
    words = ("--centre", "10.1.2.3:9110", "--serial", "/dev/ttyUSB0", "--modbus", "10.1.2.4:502", "--account", "A101")
    assert fangkong("init", "--yes", "--dir", tmp_path / "new", "--name", "east", *words)[0] == 0

    code, said, _ = fangkong("check", "--config", tmp_path / "new" / "site.toml")
    assert (code, "3 connections, 1 destinations" in said) == (0, True)


def test_init_replaces_a_file_only_by_force_and_never_a_token(box: Path, fangkong: Fangkong) -> None:
    token = (box.parent / "secrets" / "api.token").read_text()
    code, _, said = fangkong("init", "--yes", "--dir", box.parent)
    assert (code, f"{box} exists" in said) == (2, True)

    assert fangkong("init", "--yes", "--force", "--dir", box.parent)[0] == 0
    assert "127.0.0.1:8110" in box.read_text()
    assert (box.parent / "secrets" / "api.token").read_text() == token


async def test_what_init_writes_runs_until_it_is_told_to_stop(box: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("run", "--config", box), stderr=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        said: list[dict[str, Any]] = []
        while not said or said[-1]["event"] != "fangkong is running":
            line = await process.stderr.readline()
            assert line, said
            said.append(json.loads(line))
        process.terminate()
        _, rest = await process.communicate()

    assert process.returncode == 0, rest
    assert json.loads(rest.splitlines()[-1])["event"] == "stopped"


async def test_a_new_box_says_once_how_the_first_person_gets_in(box: Path) -> None:
    """On stdout: the log beside it is read by others, one JSON object a line."""
    for is_first in (True, False):
        process = await asyncio.create_subprocess_exec(
            *command("run", "--config", box),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert process.stderr is not None
        assert process.stdout is not None
        told = b""
        async with asyncio.timeout(PATIENCE_S):
            while b"fangkong is running" not in (line := await process.stderr.readline()):
                assert line
            while is_first and b"fangkong account passwd admin" not in told:
                told += await process.stdout.readline()
            process.terminate()
            rest, log = await process.communicate()

        secrets = re.findall(rb"one-time secret \S+ ((?:[2-9A-Z]{4}-){4}[2-9A-Z]{4})", told + rest)
        assert len(secrets) == is_first
        assert not is_first or secrets[0] not in line + log
    listed = completed("account", "list", "--json", "--config", box)
    assert json.loads(listed.stdout) == [
        {"name": "admin", "role": "administrator", "sites": "all", "state": "waits for its owner"}
    ]


async def test_a_listener_on_the_live_stream_does_not_mar_the_end(box: Path) -> None:
    token = (box.parent / "secrets" / "api.token").read_text().strip()
    process = await asyncio.create_subprocess_exec(
        *command("run", "--config", box), stderr=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while b"fangkong is running" not in (line := await process.stderr.readline()):
            assert line
        address = urlsplit(json.loads(line)["api"])
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        process.terminate()
        _, rest = await process.communicate()
    writer.close()

    assert process.returncode == 0
    assert b"Traceback" not in rest, rest.decode()


@pytest.mark.row("A7")
async def test_a_second_word_to_stop_changes_nothing_however_late_it_comes(box: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("run", "--config", box), stderr=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while b"fangkong is running" not in (line := await process.stderr.readline()):
            assert line
        process.terminate()
        while process.returncode is None:  # as often as the system takes it, to the very end
            # Not process.send_signal: it polls first, and may take the exit status away from the loop (255 then).
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            await asyncio.sleep(0.001)  # noqa: TID251  # lets the loop see the end
        await process.communicate()

    assert process.returncode == 0


# -- what is wrong, and how it is told ---------------------------------------------------------------------------------


def test_a_wrong_site_file_is_2_with_its_mistakes_as_text_and_as_json(box: Path, fangkong: Fangkong) -> None:
    box.write_text(
        '[api]\nlistn = "127.0.0.1:0"\n[[connection]]\nname = "a"\ndriver = "alarm_jsn"\nlink = "mqtt://broker"\n'
    )
    code, said, _ = fangkong("check", "--config", box)
    assert code == 2
    assert said.splitlines()[0].startswith(f"{box}:2: api.listn: unknown key; expected one of listen, ")
    assert said.splitlines()[-1].startswith("2 to mend")

    code, said, _ = fangkong("check", "--json", "--config", box)
    found = json.loads(said)
    assert (code, found["ok"]) == (2, False)
    assert [(each["file"], each["line"], each["key"]) for each in found["problems"]] == [
        (str(box), 2, "api.listn"),
        (str(box), 5, "driver"),
    ]
    assert "alarm_json" in found["problems"][1]["hint"]


def test_a_right_one_is_ok_as_json(box: Path, fangkong: Fangkong) -> None:
    code, said, _ = fangkong("check", "--json", "--config", box)

    assert (code, json.loads(said)) == (0, {"ok": True, "problems": []})


def test_run_refuses_a_wrong_site_file_in_words(box: Path) -> None:
    box.write_text("[api]\nlistn = 1\n")
    ended = completed("run", "--config", box)

    assert ended.returncode == 2
    assert f"{box}:2: api.listn: unknown key" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_run_says_whose_port_it_cannot_have(box: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        box.write_text(f'[api]\nlisten = "{address}"\n')
        ended = completed("run", "--config", box)

    assert ended.returncode == 2
    assert f"api.listen: {address}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_run_says_what_a_broker_said_that_did_not_start(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = box.parent / "bin" / "mosquitto"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho no such listener >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{fake.parent}:{os.environ['PATH']}")
    ended = completed("run", "--config", box)

    assert ended.returncode == 2
    assert "mosquitto ended at once with status 3: no such listener" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [(), ("no-such-command",), ("run", "--no-such-option"), ("tail", "--lane", "urgent")])
def test_wrong_usage_is_2(fangkong: Fangkong, words: tuple[str, ...]) -> None:
    code, _, said = fangkong(*words)

    assert code == 2
    assert "usage: fangkong" in said


def test_a_wrong_demo_setting_concerns_the_demo_alone(
    box: Path, fangkong: Fangkong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_SECONDS", "long")
    assert fangkong("check", "--config", box)[0] == 0

    code, _, said = fangkong("demo")
    assert (code, "invalid float value: 'long'" in said) == (2, True)


def test_tail_knows_the_lanes_there_are() -> None:
    assert [lane.name.lower() for lane in Lane] == list(LANES)


# -- doctor ------------------------------------------------------------------------------------------------------------


def findings(fangkong: Fangkong, site: Path) -> tuple[int, dict[str, dict[str, str]]]:
    code, said, _ = fangkong("doctor", "--json", "--config", site)
    return code, {finding["what"]: finding for finding in json.loads(said)}


def test_doctor_finds_what_a_person_must_mend(tmp_path: Path, fangkong: Fangkong) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, socket.create_server(("127.0.0.1", 0)) as centre:
        taken = holder.getsockname()[1]
        here, gone = centre.getsockname()[1], free_port()
        site = tmp_path / "site.toml"
        site.write_text(
            f'[api]\nlisten = "127.0.0.1:{taken}"\n'
            '[[connection]]\nname = "radio"\ndriver = "rf_serial"\nlink = "serial:///dev/ttyNONE?baud=9600"\n'
            '[connection.settings]\nreceiver = "rf-1"\nprofile = "kerui_ev1527"\n'
            '[[connection]]\nname = "far"\ndriver = "rf_serial"\nlink = "tcp-listen://127.0.0.1:0"\n'
            '[connection.settings]\nreceiver = "rf-2"\nprofile = "kerui_ev1527"\n'
            + "".join(
                f'[[destination]]\nname = "{name}"\nforwarder = "dc09"\nsettings = {{ connect = "127.0.0.1:{port}" }}\n'
                for name, port in {"one": here, "two": gone}.items()
            )
        )
        code, found = findings(fangkong, site)

    assert code == 1
    states = {what: finding["state"] for what, finding in found.items()}
    assert states.pop("clock") in {"ok", "warning"}
    assert states.pop("data directory") in {"ok", "warning"}
    assert states == {
        "site file": "ok",
        "daemon": "ok",
        "api token": "warning",
        "api port": "failed",
        "port of far": "ok",
        "serial radio": "failed",
        "110 line one": "ok",
        "110 line two": "failed",
    }
    assert f"127.0.0.1:{taken}" in found["api port"]["found"]
    assert all(finding["hint"] for finding in found.values() if finding["state"] != "ok")


def test_doctor_on_a_new_box_warns_and_passes(box: Path, fangkong: Fangkong) -> None:
    code, found = findings(fangkong, box)

    assert (code, found["destinations"]["state"], found["MQTT broker"]["state"] in {"ok", "warning"}) == (
        0,
        "warning",
        True,
    )
    assert found["daemon"]["found"] == "not running"


def test_doctor_tells_a_running_daemon_from_a_taken_port(box: Path, fangkong: Fangkong) -> None:
    (box.parent / "var").mkdir()
    with (box.parent / "var" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, found = findings(fangkong, box)

    assert found["daemon"]["found"] == "running on this data directory"
    assert "api port" not in found


def test_doctor_says_that_a_data_directory_cannot_be_used(box: Path, fangkong: Fangkong) -> None:
    """A file stands in its place: no lock can be looked at in it, nothing written into it."""
    (box.parent / "var").write_text("")
    code, found = findings(fangkong, box)

    assert (code, found["data directory"]["state"], found["daemon"]["found"]) == (1, "failed", "not running")


def test_doctor_gets_over_a_lock_it_may_not_open(box: Path, fangkong: Fangkong) -> None:
    (box.parent / "var" / "lock").mkdir(parents=True)  # as another user's would be, also for root
    assert findings(fangkong, box)[1]["daemon"]["found"] == "not running"


def test_doctor_passes_on_the_mistakes_of_a_wrong_site_file(box: Path, fangkong: Fangkong) -> None:
    box.write_text("[api]\nlistn = 1\n")
    code, found = findings(fangkong, box)

    assert (code, found["site file"]["state"]) == (1, "failed")
    assert f"{box}:2: api.listn" in found["site file"]["found"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


# -- starting ----------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_costs_a_few_bare_starts(fangkong: Fangkong, tmp_path: Path) -> None:
    code, said, _ = fangkong("--help")
    assert (code, [name for name in COMMANDS if f"\n    {name}" not in said]) == (0, [])

    environment = {**ENVIRONMENT, "PYTHONPYCACHEPREFIX": str(tmp_path)}  # compiled once, as where it is installed
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(code: str) -> float:
        """Of a processor: what the clock on the wall says belongs to the neighbours too."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds(FANGKONG_HELP)
    # In turn, and the ratio of each pair: what slows the machine slows both.
    ratios = [seconds(FANGKONG_HELP) / seconds("pass") for _ in range(ROUNDS)]
    assert statistics.median(ratios) <= HELP_COSTS_AT_MOST, ratios


def test_each_command_is_made_by_the_module_it_is_said_to_be_of() -> None:
    modules = {module for module, _ in COMMANDS.values()}
    made: dict[str, str] = {}
    for module in modules:
        commands = argparse.ArgumentParser().add_subparsers()
        importlib.import_module(f"gateway.cli.{module}").add_parser(commands)
        made |= dict.fromkeys(commands.choices, module)
    assert made == {name: module for name, (module, _) in COMMANDS.items()}
    files = {path.stem for path in (ROOT / "gateway" / "cli").glob("[a-z]*.py")}
    assert {name for name in files - modules if not name.startswith("demo_")} == set()


@pytest.mark.row("A7")
def test_an_early_sigterm_is_not_lost_in_an_import_that_catches_everything() -> None:
    code = """
import os, signal
from gateway.__main__ import main
from gateway.cli import run

def catches_all(arguments):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        print("caught")
    return None, "went on"

run.prepared = catches_all
main(["run", "--config", "none.toml"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    make = tool("make")
    for name in ("Makefile", "requirements-uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && { echo Python 3.9.2; exit 0; }\nexit 1\n')
    old.chmod(0o755)
    bare = tmp_path / "python3.11-without-venv"
    bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexit 0\n')
    bare.chmod(0o755)
    for python, expected in (
        (str(bare), "The venv module is missing: apt install python3-venv"),
        (str(old), f"Fangkong needs Python 3.11 or newer; {old} is Python 3.9.2. Try: make PYTHON=python3.11 demo"),
        ("python-none", "python-none is not installed: apt install python3 python3-venv"),
    ):
        ended = subprocess.run(
            [make, "demo", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, expected in ended.stdout) == (2, True), ended
