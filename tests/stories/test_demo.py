"""The demo, as a stranger runs it: no terminal, one kill, one outage, and a last line that says what happened."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

SUMMARY = re.compile(
    r"DEMO alarms=(\d+) delivered=(\d+) lost=(\d+) duplicates=(\d+) kills=(\d+) first_alarm_s=(\d+\.\d+)"
)
SAMPLE = re.compile(r"DEMO coverage 示范区\(示例数据\): required \d{4}, installed 9\d\.\d % .*")
PLAYED = re.compile(
    r"DEMO coverage 演示区\(仿真设备\): required (?P<required>\d+), installed [\d.]+ % \((?P<installed>\d+)/\d+\), "
    r"working [\d.]+ % \((?P<working>\d+)/\d+\), networked [\d.]+ % \((?P<networked>\d+)/(?P<must>\d+)\), .*"
)
FAMILIES = {"alarm_json", "dc09", "jt808", "modbus_points", "mqtt_json", "nmea", "osdp", "rf_serial"}


async def demo(tmp_path: Path, path: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "demo", "--dir", str(tmp_path / "demo"),
        env={**os.environ, "PATH": path, "DEMO_SECONDS": "12"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def without_mosquitto() -> str:
    """A PATH that does not lead to mosquitto: a bare machine."""
    found = shutil.which("mosquitto")
    hidden = str(Path(found).parent) if found else None
    return os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != hidden)


@pytest.mark.parametrize("broker", ["amqtt", pytest.param("as installed", marks=pytest.mark.full)])
async def test_the_demo_kills_its_gateway_and_loses_nothing(tmp_path: Path, broker: str) -> None:
    code, output = await demo(tmp_path, os.environ["PATH"] if broker == "as installed" else without_mosquitto())

    *_, sample, played, families, last = output.splitlines()
    summary = SUMMARY.fullmatch(last)
    assert summary, output
    alarms, delivered, lost, duplicates, kills = map(int, summary.groups()[:5])
    assert (lost, duplicates, kills, code) == (0, 0, 1, 0), output
    assert alarms == delivered > 5
    shares = dict(re.findall(r"(\w+)=(\d+/\d+)", families))
    assert shares.keys() == FAMILIES
    assert SAMPLE.fullmatch(sample), output
    figures = PLAYED.fullmatch(played)
    assert figures, output
    required, installed, working, must_network, networked = (
        int(figures[name]) for name in ("required", "installed", "working", "must", "networked")
    )
    assert required - 1 == installed >= working > 0  # nobody has installed the school's gate
    assert 0 < networked <= must_network == 5  # by alarms that the centre took
    assert all(delivered == raised for delivered, raised in (share.split("/") for share in shares.values())), families


async def test_without_a_terminal_and_a_time_it_says_what_to_do(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DEMO_SECONDS"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "demo", env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()

    assert process.returncode == 2
    assert b"DEMO_SECONDS=20" in output
