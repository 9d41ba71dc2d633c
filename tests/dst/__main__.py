"""Many bad weeks a minute: python -m tests.dst [--seeds 10000] [--first 0]; one of them in full: --seed 123."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.dst.world import Result, play

SHOWN_MAX = 20
"""Failing seeds named; one is enough to begin with."""


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder in memory where there is one: the simulated disk's faults are its own."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a fresh folder inside it
    with tempfile.TemporaryDirectory(prefix="fangkong-dst-", dir=memory) as folder:
        yield Path(folder)


def run(seed: int) -> Result:
    """One seed from beginning to end."""
    gc.disable()  # a run is short, and a pause for garbage a third of it
    gc.freeze()  # afterwards only what this run left is looked at, not the thousands of things a test run holds
    with scratch() as folder:
        result = play(seed, folder)
    gc.collect()
    gc.unfreeze()
    gc.enable()
    return result


def brief(seed: int) -> Result:
    """Without its trace, which nobody reads of a run that went well."""
    return replace(run(seed), trace=())


def tell(seed: int) -> int:
    """Show one seed. Returns the exit status."""
    result = run(seed)
    print("\n".join(result.trace))
    print(f"\nseed {seed}: {result.broken or 'all held'}")
    print(
        f"{result.steps} turns, {result.lives} lives, {result.frames} frames ({result.copies} of them copies),"
        f" drained after {result.drained_s:.0f} s, digest {result.digest}"
    )
    return bool(result.broken)


def sweep(first: int, count: int) -> int:
    """Run them all on all cores. Returns the exit status."""
    console = Console(stderr=True)
    broken: list[Result] = []
    turns = frames = copies = lives = 0
    longest_s = 0.0
    columns = (
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[broken]}"),
    )
    with multiprocessing.Pool(os.cpu_count()) as pool, Progress(*columns, console=console) as progress:
        bar = progress.add_task("seeds", total=count, broken="")
        for result in pool.imap_unordered(brief, range(first, first + count), chunksize=4):
            turns, frames, copies = turns + result.steps, frames + result.frames, copies + result.copies
            lives, longest_s = lives + result.lives, max(longest_s, result.drained_s)
            if result.broken:
                broken.append(result)
                if len(broken) <= SHOWN_MAX:
                    progress.console.print(f"seed {result.seed}: {result.broken}\n    make dst SEED={result.seed}")
            progress.update(bar, advance=1, broken=f"{len(broken)} broken" if broken else "")
    print(
        f"{count} seeds from {first} on: {len(broken)} broken; {turns} turns, {lives} lives,"
        f" {frames} frames ({copies} copies), the slowest was drained {longest_s:.0f} s after the last fault"
    )
    return bool(broken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dst", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="show this one in full instead")
    wish = parser.parse_args()
    return tell(wish.seed) if wish.seed is not None else sweep(wish.first, wish.seeds)


if __name__ == "__main__":
    sys.exit(main())
