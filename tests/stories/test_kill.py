"""The promise: nothing acknowledged to a device is ever lost, and 110 has it once, whatever is killed, dropped or late."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.cli.demo_audit import balance
from gateway.cli.demo_community import where
from simulators import alarm_json
from simulators._clock import RealClock
from simulators._world import Ledger, Spec, World
from simulators.police_centre import Misbehaviour, PoliceCentre
from tests.conftest import tool
from tests.stories.box import Box, until

SEED = int(os.environ.get("STORY_SEED", "110"))
DEVICES = 40
EVENTS_PER_S = 50
CRASH_WINDOW_S = 1.5
KILLS = 4
KINDS = ("burglary", "panic", "tamper", "smoke", "rf_batt_low")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.row("A1")
@pytest.mark.row("A3")
@pytest.mark.row("A4")
async def test_no_kill_loses_or_doubles_what_was_acknowledged(tmp_path: Path) -> None:
    """A few, with the broker killed as well; by the hundred in tests/crash."""
    random = Random(SEED)
    clock = RealClock()
    record, ledger_file = tmp_path / "centre.jsonl", tmp_path / "ledger.jsonl"
    ledger = Ledger(clock, ledger_file)
    acknowledged: list[Mapping[str, Any]] = []
    ledger.listeners.append(lambda row: acknowledged.append(row) if row["state"] == "acknowledged" else None)
    bad_day = [
        Misbehaviour("drop_before_ack", share=0.1, seed=SEED),
        Misbehaviour("late", share=0.1, seed=SEED, seconds=0.5),
    ]
    async with PoliceCentre(record=record, misbehave=bad_day) as centre:
        box = Box(tmp_path, centre=centre.port)
        await box.enrol()
        await box.start()
        world = World(clock, random, ledger)
        devices = [
            alarm_json.make(Spec(f"a{n:03}", box.broker_url, {"heartbeat_s": 3}), world) for n in range(1, DEVICES + 1)
        ]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(device.run()) for device in devices]
            load = group.create_task(raise_for_ever(devices, random, clock))
            for _ in range(KILLS):
                acknowledged.clear()
                await until(lambda: acknowledged, within_s=30, what="a device is acknowledged after the restart")
                await clock.sleep(random.uniform(0, CRASH_WINDOW_S))  # the moment of the kill is drawn, not waited for
                await box.kill()
                await box.start(wait=False)
            load.cancel()
            centre.behave()
            await until(
                lambda: ledger.acknowledged_count == ledger.raised_count,
                within_s=60,
                what="every raised event is acknowledged",
                tell=lambda: f"{unacknowledged(ledger_file)}\n{box.log[-3000:]}",
            )
            await until(
                lambda: balance(rows(ledger_file), rows(record), where).lost == 0,
                within_s=60,
                what="every acknowledged event is at 110",
            )
            for task in running:
                task.cancel()
        assert await box.end() == 0
    ledger.close()
    audit = balance(rows(ledger_file), rows(record), where)
    assert ledger.raised_count > KILLS * 10
    assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())
    assert audit.delivered == audit.alarms
    assert centre.audit.new_key_duplicates == 0


def unacknowledged(ledger: Path) -> list[str]:
    """References of raised events whose device was never told."""
    told = {row["ref"] for row in rows(ledger) if row["state"] == "acknowledged"}
    return [row["ref"] for row in rows(ledger) if row["state"] == "raised" and row["ref"] not in told]


async def raise_for_ever(devices: list[Any], random: Random, clock: RealClock) -> None:
    """Alarms and restores in turn per device and kind, at the pace of the load."""
    open_conditions: set[tuple[int, str]] = set()
    while True:
        n, what = random.randrange(len(devices)), random.choice(KINDS)
        restore = (n, what) in open_conditions and what != "panic"
        (open_conditions.discard if restore else open_conditions.add)((n, what))
        await devices[n].do(what, restore=restore)
        await clock.sleep(random.expovariate(EVENTS_PER_S))


@pytest.mark.row("A7")
@pytest.mark.parametrize("after_s", [0.2, 0.6, 1.0, 1.5, 2.5])
async def test_sigterm_at_any_time_is_an_orderly_end(tmp_path: Path, after_s: float) -> None:
    async with PoliceCentre() as centre:
        box = Box(tmp_path, centre=centre.port)
        await box.enrol()
        await box.start(wait=False)
        await RealClock().sleep(after_s)

        assert await box.end() == 0, box.log


@pytest.mark.row("A10")
async def test_a_second_daemon_on_one_directory_is_refused(tmp_path: Path) -> None:
    async with PoliceCentre() as centre:
        box = Box(tmp_path, centre=centre.port)
        await box.enrol()
        await box.start()
        other = Box(tmp_path, centre=centre.port)  # its own ports, the same data directory
        other.pty = box.pty
        await other.start(wait=False)
        assert other.process is not None
        async with asyncio.timeout(15):
            code = await other.process.wait()

        assert code == 2
        assert "another fangkong already runs" in box.log
        assert box.get("readyz")["ready"]
        assert await box.end() == 0


@pytest.mark.full
async def test_a_frozen_broker_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The 110 line down with a backlog, and mosquitto stopped dead: still exit 0 within 10 s."""
    tool("mosquitto")
    async with PoliceCentre() as centre:
        box = Box(tmp_path, centre=centre.port)
        await box.enrol()
        await box.start()
        await centre.off()
        frozen = pid_of(str(tmp_path / "var" / "broker" / "mosquitto.conf"))
        os.kill(frozen, signal.SIGSTOP)

        assert await box.end() == 0, box.log


def pid_of(argument: str) -> int:
    """The process that was started with this argument and is not the leash around it."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().decode(errors="replace").split("\0")
        if argument in words and words[0].endswith("mosquitto"):
            return int(entry.parent.name)
    raise AssertionError(f"nobody runs with {argument}")
