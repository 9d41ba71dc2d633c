"""The first commands somebody types at a new box: what is wrong is said once, in both languages, with what to do."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from gateway.__main__ import main

FIVE_MISTAKES = """\
[gateway]
name = "Box 1"
data_dri = "var"

[[connection]]
name = "alarms"
driver = "alarm_jsn"
link = "mqtt://broker"

[[connection]]
name = "fence"
driver = "modbus_points"
link = "modbus+tcp://192.0.2.10:502"
[[connection.settings.units]]
unit = 300
device = "fence-1"
profile = "fence8"

[[destination]]
name = "centre"
forwarder = "dc09"
[destination.settings]
connect = "127.0.0.1"
"""
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    """Exit code and every line of a command."""
    code = main([*map(str, words)])
    out, err = capsys.readouterr()
    return code, (out + err).splitlines()


def test_mistakes_of_form_hide_no_mistake_of_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.toml"
    site.write_text(FIVE_MISTAKES)

    code, lines = said(capsys, "check", "--config", site)

    assert code == 2
    assert [line.removeprefix(f"{site}:").split(":")[:2] for line in lines[:-1]] == [
        ["2", " gateway.name"], ["3", " gateway.data_dri"], ["7", " driver"],
        ["15", " connection.1.settings.units.0.unit"], ["23", " destination.0.settings.connect"],
    ]  # fmt: skip
    assert all("; expected " in line and CHINESE.search(line) for line in lines[:-1])
    assert not any(re.search(r"\bString\b|pattern|\^", line) for line in lines)
    assert lines[-1] == "5 to mend 共 5 处需要修改"


@pytest.mark.parametrize("command", ["check", "doctor", "run", "tail", "migrate"])
def test_without_a_site_file_every_command_says_how_to_come_by_one(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = said(capsys, command, "--config", tmp_path / "site.toml")

    assert code == (1 if command == "doctor" else 2)
    assert "does not exist; expected a site file (fangkong init writes one" in lines[0]


def test_an_answer_that_cannot_be_used_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = said(capsys, "init", "--yes", "--dir", tmp_path, "--name", "Box 1", "--centre", "nowhere")

    assert code == 2
    assert "gateway.name: found 'Box 1'; expected 1 to 32 lower-case letters" in lines[1]
    assert "connect: found 'nowhere'; expected HOST:PORT" in lines[2]


def test_what_init_writes_passes_its_own_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--centre", "192.0.2.1:9110", "--serial", "/dev/ttyUSB0", "--modbus", "192.0.2.2:502")
    assert said(capsys, "init", "--yes", "--dir", tmp_path, *options)[0] == 0

    code, lines = said(capsys, "check", "--config", tmp_path / "site.toml")

    assert (code, lines) == (0, [f"{tmp_path / 'site.toml'}: ok; 3 connections, 1 destinations"])


def test_doctor_finds_a_broker_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "site.toml").write_text(
            f'[broker]\nlisten = "127.0.0.1:{port}"\n'
            '[[connection]]\nname = "alarms"\ndriver = "alarm_json"\nlink = "mqtt://broker"\n'
        )

        code, lines = said(capsys, "doctor", "--config", tmp_path / "site.toml")

    assert code == 1
    assert any(re.match(rf"failed +broker port +127\.0\.0\.1:{port}: Address already in use", line) for line in lines)
