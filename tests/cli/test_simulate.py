"""`fangkong simulate`: what a device cannot do is refused before anything starts; the end says how it went."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FENCE = '[[device]]\nsimulator = "modbus_points"\nid = "f"\nconnect = "modbus+tcp://127.0.0.1:0"\noptions = {model = "fence8"}\n'
RADIO = '[[device]]\nsimulator = "rf_serial"\nid = "rf-1"\nconnect = "pty:/nonexistent/rf"\n'


def simulate(tmp_path: Path, scenario: str, *words: str) -> tuple[int, str]:
    """Exit code and words of `fangkong simulate`."""
    path = tmp_path / "scenario.toml"
    path.write_text("seed = 1\n" + scenario, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "simulate", str(path), *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def step(device: str, do: str, more: str = "") -> str:
    return f'[[step]]\nat_s = 0.5\ndevice = "{device}"\ndo = "{do}"\n{more}\n'


@pytest.mark.parametrize(
    ("scenario", "complaint"),
    [
        (FENCE.replace("model =", "modell ="), "options of f: modell unknown; expected late_s, model, unit"),
        (FENCE + step("f", "burglary"), 'f at 0.5 s: fence8 cannot do "burglary"; it knows ac_loss, back'),
        (FENCE + step("f", "perimeter", "zone = 9"), "fence8 has no perimeter in zone 9; it has 1 to 8"),
        (RADIO + step("rf-1", "panic"), 'rf-1 cannot do "panic"; it knows batt_low, burglary'),
        (RADIO + step("rf-1", "tamper", "restore_after_s = 1"), 'rf-1 cannot do "tamper" restore; it knows burglary'),
        (RADIO + step("rf-1", "burglary", "zone = 5"), "zone 5 of rf-1: there are sensors 1 to 4"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(scenario: str, complaint: str, tmp_path: Path) -> None:
    code, words = simulate(tmp_path, scenario, "--seconds", "9")

    assert code == 2
    assert words.startswith("the scenario cannot be run: ")
    assert complaint in words
    assert "Traceback" not in words


def test_the_acts_are_listed_without_being_done(tmp_path: Path) -> None:
    scenario = FENCE + RADIO + step("f", "perimeter", "zone = 3\nrestore_after_s = 2") + step("rf-1", "silent")

    assert simulate(tmp_path, scenario, "--check") == (
        0,
        "    0.50 s  f            perimeter zone 3\n"
        "    0.50 s  rf-1         silent\n"
        "    2.50 s  f            perimeter restore zone 3\n",
    )


def test_the_end_says_what_was_raised_and_what_was_acknowledged(tmp_path: Path) -> None:
    assert simulate(tmp_path, FENCE + step("f", "perimeter"), "--seconds", "0.6") == (
        0, "raised 1, acknowledged 0\n",
    )  # fmt: skip


def test_a_control_port_that_nobody_serves_is_a_sentence(tmp_path: Path) -> None:
    scenario = FENCE + "[[centre]]\nat_s = 0\nsend = { off = true }\n"

    code, words = simulate(tmp_path, scenario, "--seconds", "9", "--control", "127.0.0.1:1")

    assert code == 1
    assert "Connect call failed" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_of_the_simulators_is_within_reach(option: str, tmp_path: Path) -> None:
    code, words = simulate(tmp_path, FENCE, option)

    assert code == 0
    assert "--ledger" in words


def test_one_seed_starts_other_sessions_in_every_run(tmp_path: Path) -> None:
    """Else a gateway that remembers the first run takes the second for repeats, and 110 hears nothing of it."""
    radio = RADIO.replace("/nonexistent", str(tmp_path)) + step("rf-1", "burglary")
    refs = set()
    for run in "12":
        ledger = tmp_path / f"ledger{run}.jsonl"
        assert simulate(tmp_path, radio, "--seconds", "0.6", "--ledger", str(ledger))[0] == 0
        refs |= {json.loads(line)["ref"] for line in ledger.read_text().splitlines()}

    assert len(refs) == 2
