"""What a running gateway stored of a conversation and what a replay of its recording sees are the same, bit for bit."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import rows
from gateway.store.beside import read_newest
from tests.stories.box import Box, free_ports, until

ROOT = Path(__file__).parents[2]
WAIT_S = 40.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

UNITS = ",".join(f'{{unit={n},device="fence-{n}",profile="fence8"}}' for n in range(1, 5))
LINES = {
    "alarms": ("topics", "alarm_json", ()),
    "perimeter": (
        "bus",
        "modbus_points",
        ("--set", f"units=[{UNITS}]"),
    ),
    "radio": ("stream", "rf_serial", ("--set", "receiver=rf-1", "--set", "profile=kerui_ev1527")),
}
"""The demo's connections, one of each shape, and what their drivers are told."""

SCENARIO = """\
seed = 7
[[device]]
simulator = "alarm_json"
id = "a{{n:03}}"
count = 2
connect = "{mqtt}"
[[device]]
simulator = "modbus_points"
id = "fence-{{n}}"
count = 4
connect = "modbus+tcp://127.0.0.1:{modbus}"
options = {{ model = "fence8" }}
[[device]]
simulator = "rf_serial"
id = "rf-1"
connect = "pty:{pty}"
options = {{ sensors = 2 }}
[[step]]
at_s = 0.5
device = "a001"
do = "panic"
[[step]]
at_s = 0.5
device = "a002"
do = "tamper"
restore_after_s = 0.5
[[step]]
at_s = 0.5
device = "rf-1"
do = "burglary"
zone = 2
# Late and long: the line looks again after a pause for units that were not there, and a bus is only heard when it is asked.
[[step]]
at_s = 12.0
device = "fence-2"
do = "perimeter"
zone = 3
restore_after_s = 5.0
"""


def fangkong(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **options)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.terminate()


def stored(box: Box, connection: str) -> list[dict[str, Any]]:
    """What the log has of this line."""
    return [
        {
            "device": event.device, "kind": event.kind, "qualifier": event.qualifier, "zone": event.zone,
            "code": event.code, "values": dict(event.values), "raw": event.raw.hex(),
            "repeat_key": event.repeat_key and event.repeat_key.removeprefix(f"{event.device}|"),  # as the driver gave it
        }
        for event in read_newest(box.var / "events.db", 1000)
        if event.connection == connection
    ]  # fmt: skip


def replayed(folder: Path, connection: str) -> list[dict[str, Any]]:
    _, driver, settings = LINES[connection]
    replay = fangkong(
        "replay", folder / f"{connection}.jsonl", "--driver", driver, *settings, stdout=subprocess.PIPE, cwd=folder
    )
    said = [json.loads(line) for line in replay.communicate(timeout=WAIT_S)[0].splitlines()]
    assert replay.returncode == 0
    return [
        {name: one["seen"][name] for name in SAME} | {"raw": one["raw"]}
        for one in said
        if "seen" in one and one["seen"]["kind"] != "heartbeat"  # proof of life, which no log keeps
    ]


SAME = ("device", "kind", "qualifier", "zone", "code", "values", "repeat_key")


@pytest.mark.full
async def test_every_shape_of_line_is_recorded_and_played_to_the_same_events(tmp_path: Path) -> None:
    box = Box(tmp_path, centre=free_ports(1)[0])
    await box.enrol()
    await box.start()
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(SCENARIO.format(mqtt=box.broker_url, modbus=box.modbus, pty=box.pty))
    site = ["--config", tmp_path / "site.toml"]
    with ExitStack() as devices, ExitStack() as recordings:
        files = [tmp_path / f"{name}.jsonl" for name in LINES]
        for name, file in zip(LINES, files, strict=True):
            recordings.enter_context(ended(fangkong("capture", name, "--seconds", "120", "-o", file, *site)))
        await until(lambda: all(f.exists() and f.stat().st_size for f in files), within_s=WAIT_S, what="recording")
        simulated = fangkong("simulate", "--stay", scenario, stdout=subprocess.DEVNULL)
        devices.enter_context(ended(simulated))
        wanted = {"alarms": 3, "perimeter": 2, "radio": 1}

        def tell() -> str:
            return json.dumps({name: stored(box, name) for name in LINES}, indent=1)

        await until(
            lambda: all(len(stored(box, name)) >= count for name, count in wanted.items()),
            within_s=WAIT_S, what="the events of the scenario", tell=tell,
        )  # fmt: skip
        recordings.close()
        await box.end()

    for name in LINES:
        assert replayed(tmp_path, name) == stored(box, name) != []
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    recorded = [row.subject for row in rows(box.var / "audit.db") if row.deed == "capture"]
    assert sorted(recorded) == [f"connection {name}" for name in LINES]
