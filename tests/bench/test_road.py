"""The bench counts right: every event out, every acknowledgement back, nothing twice. How fast is no test."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from bench import ledger, wire
from bench.estate import Estate
from bench.road import WARM_UP, Load, measure, stage
from bench.systems import Daemon, Floor, System
from tests.conftest import tool

SMALL = Estate(devices=2000, accounts=7)
LOADS = (Load("all at once", 1500, 0), Load("spread", 100, 500))
"""The first is more than the window of 1 000."""

SYNCS_A_CHECKPOINT = 3
"""SQLite's own, as often as readers let it: the log ahead, the file, and the header of the log begun anew."""


def test_the_crc_has_the_published_check_value() -> None:
    # CRC-16/ARC, catalogue of parametrised CRC algorithms: check bb3d for 123456789.
    assert wire.crc16(b"123456789") == 0xBB3D


@pytest.mark.parametrize("kind", ["bare", "paho"])
def test_a_floor_carries_every_event_once_and_has_them_on_disk(tmp_path: Path, kind: str) -> None:
    carry(tmp_path, Floor(kind, kind, SMALL))

    database = sqlite3.connect(tmp_path / "0" / "floor.db")
    [(events,)] = database.execute("SELECT COUNT(*) FROM events").fetchall()
    [(waiting,)] = database.execute("SELECT COUNT(*) FROM outbox").fetchall()
    database.close()
    assert (events, waiting) == (WARM_UP + sum(load.count for load in LOADS), 0)


@pytest.mark.full
def test_the_daemon_carries_every_event_once(tmp_path: Path) -> None:
    carry(tmp_path, Daemon("ours", SMALL, ledger.write(tmp_path / "registry.db", SMALL)))


def carry(folder: Path, system: System) -> None:
    with stage([system], folder) as peer:
        for load in LOADS:
            [sample] = measure(peer, [system], load, 0)

            found = {name: sample.figures[name] for name in ("lost", "doubled", "wrong", "others")}
            assert found == {"lost": 0, "doubled": 0, "wrong": 0, "others": 0}
            assert len(sample.latencies_ms) == load.count
            assert 0 < sample.figures["syncs"] < 10


@pytest.mark.full
@pytest.mark.parametrize("kind", ["bare", "paho", "ours"])
def test_the_syncs_that_are_told_are_those_the_kernel_saw(tmp_path: Path, kind: str) -> None:
    strace, load = tool("strace"), Load("spread", 400, 200)
    system: System = Floor(kind, kind, SMALL)
    if kind == "ours":
        system = Daemon(kind, SMALL, ledger.write(tmp_path / "registry.db", SMALL))
    with stage([system], tmp_path) as peer:
        before = system.syncs()
        command = [
            strace,
            "-f",
            "-y",
            "-p",
            str(system.pid),
            "-e",
            "trace=fdatasync,fsync",
            "-o",
            str(tmp_path / "trace"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracing:
            assert tracing.stderr is not None
            said = tracing.stderr.readline()
            assert b"attached" in said, said
            [sample] = measure(peer, [system], load, 0)
            tracing.terminate()
            tracing.stderr.read()
        told_at_most = system.syncs() - before  # also those before and behind the load: of proofs of life, say

    seen = (tmp_path / "trace").read_text().splitlines()
    # "resumed" has no "("; the ledger's own file is none of the road's
    calls = [line for line in seen if "sync(" in line and "registry.db" not in line]
    checkpoints = sum("-wal>" not in call for call in calls)
    assert sample.figures["syncs"] * load.count <= len(calls) <= told_at_most + checkpoints * SYNCS_A_CHECKPOINT
