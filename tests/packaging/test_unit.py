"""The systemd unit is valid and its sandbox is tight, as systemd itself judges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import tool

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "fangkong.service"
PROGRAM = "/opt/fangkong/venv/bin/fangkong"
EXPOSURE_MAX = 2.0


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.full
def test_systemd_finds_no_mistake(tmp_path: Path) -> None:
    """Its program is not installed where tests run, so another one stands in its place."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")

    done = analyze("verify", "--recursive-errors=no", str(unit))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.full
def test_the_sandbox_is_tight() -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(UNIT))

    assert done.returncode == 0, done.stdout


@pytest.mark.row("B8")
def test_the_journal_takes_no_flood() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if line.startswith("Log"))

    assert settings == {"LogRateLimitIntervalSec": "30s", "LogRateLimitBurst": "2000"}
    assert not any(line.startswith(("StandardOutput=", "StandardError=")) for line in lines), (
        "the default is the journal"
    )


def test_the_unit_starts_what_the_installation_page_installs() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    lines = UNIT.read_text(encoding="utf-8").splitlines()

    assert f"ExecStart={PROGRAM} run --config /etc/fangkong/site.toml" in lines
    assert "/opt/fangkong/venv" in page
    assert "/etc/fangkong/site.toml" in page
    assert 'data_dir = "/var/lib/fangkong"' in page
