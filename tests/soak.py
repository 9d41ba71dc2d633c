"""`make soak`: the stories at full size, with a live line while they run and their figures in a table at the end.

    python -m tests.soak [-k EXPRESSION]

Figures are measured, not judged; what a story asserts (nothing lost, nothing doubled, order, memory) decides the exit code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).parents[1]
DONE = re.compile(r"^(\S+::.*?)\s+(PASSED|FAILED|ERROR|SKIPPED)")
FOUND = re.compile(r"collected (?:.* (\d+) selected|(\d+) items?$)")


def main(arguments: list[str]) -> int:
    """Run them, one at a time: they measure. Gives pytest's exit code."""
    with TemporaryDirectory() as folder:
        figures, log = Path(folder) / "figures", Path(folder) / "log"
        code = _run(arguments, figures, log)
        if figures.exists():
            Console().print(_table([json.loads(line) for line in figures.read_text().splitlines()]))
        if code:
            print(log.read_text())
    return code


def _run(arguments: list[str], figures: Path, log: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "soak", "-v", "--color=no", *arguments]
    environment = {**os.environ, "SOAK_FIGURES": str(figures), "PYTHONUNBUFFERED": "1"}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns) as bar,
        log.open("w") as kept,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as tests,
    ):
        stories = bar.add_task("stories", total=None)
        assert tests.stdout is not None
        for line in tests.stdout:
            kept.write(line)
            if found := FOUND.search(line.rstrip()):
                bar.update(stories, total=int(found[1] or found[2]))
            elif done := DONE.match(line):
                bar.update(stories, advance=1, description=f"{done[2].lower()}: {done[1].partition('::')[2]}")
    return tests.returncode


def _table(rows: list[list[str]]) -> Table:
    table = Table("story", "what", "figure")
    before = ""
    for story, what, figure in rows:
        table.add_row(story if story != before else "", what, figure)
        before = story
    return table


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
