"""Figures of a story: printed in the end, and kept for the table of `make soak`. No test judges by them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def tell(story: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print them, and add them to the file that `make soak` reads."""
    table = [(story, what, value) for what, value in rows]
    print()
    for row in table:
        print("  ".join(row))
    if kept := os.environ.get("SOAK_FIGURES"):
        with Path(kept).open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table)


def quantiles(seconds: Sequence[float]) -> str:
    """Median, 99 % and the largest, in milliseconds, with the count they come from."""
    if not seconds:
        return "none"
    ranked = sorted(seconds)
    p50, p99 = (ranked[min(len(ranked) - 1, int(len(ranked) * share))] for share in (0.5, 0.99))
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {ranked[-1] * 1000:.0f} ms of {len(ranked)}"


def resident_mb(process: int | str = "self") -> float:
    """Memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS in /proc: expected Linux")
