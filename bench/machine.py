"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]


def facts(folder: Path) -> dict[str, str]:
    """Everything a reader needs to judge a figure; `folder` is where the data lay."""
    memory_kb = _first(r"MemTotal:\s*(\d+)", "/proc/meminfo")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("describe", "--always", "--dirty", "--abbrev=10"),
        "processor": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory_kb) / 1048576:.1f} GiB",
        "kernel": platform.release(),
        "file system": _file_system(folder),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _git(*words: str) -> str:
    try:
        told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607  # whichever git there is
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def _first(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found[1] if found else ""


def _file_system(folder: Path) -> str:
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(at), kind, device) for device, at, kind in mounts if folder.resolve().is_relative_to(at)]
    _, kind, device = max(holding)
    return f"{kind} on {device}"
