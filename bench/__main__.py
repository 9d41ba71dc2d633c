"""python -m bench [--only flood,steady] [--rounds N]"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import ledger
from bench.estate import Estate
from bench.road import Load, measure, stage, steady
from bench.samples import Sample, spread
from bench.systems import Daemon, Floor, System

ESTATE = Estate(devices=10_000, accounts=100)

LOADS = {
    "steady": (steady(50, 3), steady(200, 3), steady(1000, 4)),
    "burst": (Load("burst of 5 000", 5_000, 0),),
    "flood": (Load("flood of 30 000", 30_000, 0),),
}
COLUMNS = {
    "p50_ms": "p50 ms", "p99_ms": "p99 ms", "max_ms": "max ms", "per_s": "events/s", "cpu_us": "CPU us/event",
    "syncs": "syncs/event", "rss_mb": "MiB", "lost": "lost", "doubled": "doubled", "wrong": "wrong",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="The gateway beside two floors, in one run.")
    parser.add_argument("--only", default=",".join(LOADS), help=f"parts, of {','.join(LOADS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", default="floor a,floor b,ours")
    arguments = parser.parse_args()
    loads = [load for name in arguments.only.split(",") for load in LOADS[name]]
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="fangkong-bench-") as name, Progress() as progress:
        folder = Path(name)
        known: dict[str, System] = {
            "floor a": Floor("floor a", "bare", ESTATE),
            "floor b": Floor("floor b", "paho", ESTATE),
            "ours": Daemon("ours", ESTATE, ledger.write(folder / "registry.db", ESTATE)),
        }
        systems = [known[name] for name in arguments.systems.split(",")]
        bar = progress.add_task("bench", total=arguments.rounds * len(systems) * sum(load.seconds for load in loads))
        for nth in range(arguments.rounds):
            round_folder = folder / f"round-{nth}"
            round_folder.mkdir()
            with stage(systems, round_folder) as peer:
                for load in loads:
                    for sample in measure(peer, systems, load, nth):
                        samples.append(sample)
                        progress.advance(bar, load.seconds)
    Console(width=160).print(table(samples, loads, systems))


def table(samples: Sequence[Sample], loads: Sequence[Load], systems: Sequence[System]) -> Table:
    """Medians over the rounds."""
    found = Table("load", "system")
    for title in COLUMNS.values():
        found.add_column(title, justify="right")
    for load in loads:
        for system in systems:
            cells = [spread(samples, load.name, system.name, figure) for figure in COLUMNS]
            found.add_row(load.name, system.name, *(short(cell.median) if cell else "" for cell in cells))
        found.add_section()
    return found


def short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


if __name__ == "__main__":
    main()
