"""`fangkong try`: a driver alone on a real line. It says what it sees, keeps nothing, and leaves devices unanswered unless told."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tool
from tests.stories.box import free_ports

ROOT = Path(__file__).parents[2]
LINE = b"#PANEL12,9C1F,000017,BA,3*028E\r\n"
ANSWER = b"#ACK,9C1F,000017*2315\r\n"
WAIT_S = 30.0


class Said:
    """What a running `fangkong try` prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def until(self, key: str) -> Any:
        """The value of the next object that has this key."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if key in said:
                return said[key]
        raise AssertionError(f"it ended without saying {key!r}")


@contextmanager
def trying(folder: Path, *arguments: str) -> Iterator[Said]:
    """Ended at the end, which must be an orderly one."""
    command = [sys.executable, "-m", "gateway", "try", *arguments, "--seconds", str(WAIT_S)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Said(process)
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture
def driver(tmp_path: Path) -> str:
    """A file, as a person begins it."""
    subprocess.run(
        [sys.executable, "-m", "gateway", "driver", "new", "panel9", "--into", str(tmp_path / "mine")],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return "mine/panel9.py"


@pytest.mark.parametrize("answers", [False, True])
def test_a_file_listens_for_its_device(tmp_path: Path, driver: str, answers: bool) -> None:
    [port] = free_ports(1)
    more = ["--answer"] if answers else []
    with trying(tmp_path, driver, "--link", f"tcp-listen://127.0.0.1:{port}", *more) as said:
        said.until("line")
        with socket.create_connection(("127.0.0.1", port)) as device:
            device.sendall(LINE + b"#PANEL12,9C1F,000018,BA,3*0000\r\n")
            seen = said.until("seen")
            assert (seen["device"], seen["kind"], seen["zone"]) == ("panel12", "burglary", 3)
            assert said.until("sent") is answers
            assert "check 0000" in said.until("refused")
            if answers:
                device.settimeout(WAIT_S)
                assert device.recv(100) == ANSWER
            else:
                device.setblocking(False)
                with pytest.raises(BlockingIOError):
                    device.recv(1)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}  # nothing is kept


def test_a_serial_line_that_comes_back_is_opened_again(tmp_path: Path, driver: str) -> None:
    link = tmp_path / "port"
    with trying(tmp_path, driver, "--link", f"serial://{link}?baud=9600") as said:
        assert "no such port" in said.until("why")
        master, slave = pty.openpty()
        tty.setraw(slave)
        link.symlink_to(os.ttyname(slave))
        said.until("line")
        os.write(master, LINE)
        assert said.until("seen")["kind"] == "burglary"
        os.close(master)
        os.close(slave)


def test_a_profile_polls_a_bus(tmp_path: Path) -> None:
    [port] = free_ports(1)
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(
        f'seed = 1\n[[device]]\nsimulator = "modbus_points"\nid = "io"\nconnect = "modbus+tcp://127.0.0.1:{port}"\n'
        '[device.options]\nmodel = "fence8"\n'
    )
    command = [sys.executable, "-m", "gateway", "simulate", "--stay", str(scenario)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as simulated:
        try:
            settings = ["--set", 'units=[{unit=1,device="io",profile="fence8"}]']
            with trying(tmp_path, "modbus_points", "--link", f"modbus+tcp://127.0.0.1:{port}", *settings) as said:
                assert said.until("heard") == "io"
        finally:
            simulated.terminate()


@pytest.mark.full
@pytest.mark.peer("mosquitto")
def test_mqtt_leaves_nothing_behind_at_the_broker(tmp_path: Path) -> None:
    [port] = free_ports(1)
    broker = [tool("mosquitto"), "-p", str(port)]
    with subprocess.Popen(broker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as mosquitto:
        try:
            with trying(tmp_path, "alarm_json", "--link", f"mqtt://127.0.0.1:{port}") as said:
                said.until("line")
                payload = (ROOT / "tests/vectors/alarm_json.toml").read_text().split("payload = '")[1].split("'")[0]
                publish = [tool("mosquitto_pub"), "-p", str(port), "-t", "fangkong/v1/a001/event", "-m", payload]
                subprocess.run(publish, check=True)
                assert said.until("seen")["device"] == "a001"
                assert said.until("sent") is False
        finally:
            mosquitto.terminate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch", "--link", "tcp://127.0.0.1:1"], "is not known"),
        (["nosuch.py", "--link", "tcp://127.0.0.1:1"], "is not there"),
        (["rf_serial", "--link", "modbus+tcp://127.0.0.1:1"], "a link for a stream driver"),
        (["rf_serial", "--link", "tcp://127.0.0.1"], "tcp://HOST:PORT"),
        (["alarm_json", "--link", "mqtt://127.0.0.1:1", "--answer"], "nothing is answered"),
    ],
)
def test_what_cannot_be_tried_is_said(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "try", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert said in done.stderr
