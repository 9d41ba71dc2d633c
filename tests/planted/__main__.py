"""Plants each known defect in a copy of the sources and shows which test catches it: python -m tests.planted [NAME ...]

A test suite that has never been seen to fail proves nothing. The list stands in defects.toml beside this file.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("defects.toml")

SIDE_BY_SIDE = 2
"""Copies tested at once: the tests mostly wait, and CI has two cores."""
HANGS_AFTER_S = 60
"""A defect may also be caught by a hang: longer than any one test named in the list takes."""
TESTS_TIMEOUT_S = 300
"""The same for a process that pytest itself cannot end."""

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
"""A line of pytest's summary."""

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "dist", "var", "node_modules")

TESTS_FAILED = 1
"""pytest's exit status when tests ran and some failed. Others mean that nothing was tried: that proves nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """One replacement. `before` stands in the file exactly once."""

    file: str
    before: str
    after: str

    def problem(self, root: Path) -> str | None:
        """Why it cannot be made, None when it can."""
        path = root / self.file
        found = path.read_text().count(self.before) if path.exists() else 0
        return None if found == 1 else f"{self.file}: expected once, found {found} times: {self.before!r}"

    def make(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text().replace(self.before, self.after))


@dataclass(frozen=True, slots=True)
class Defect:
    """A mistake somebody could make, and the tests that are there to notice."""

    name: str
    breaks: str
    changes: Sequence[Change]
    tests: Sequence[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one defect. `caught_by` empty: it survived, or could not be tried (`problem`)."""

    defect: Defect
    caught_by: Sequence[str]
    problem: str = ""


def defects() -> Sequence[Defect]:
    rows = tomllib.loads(LIST.read_text())["defect"]
    return [
        Defect(row["name"], row["breaks"], [Change(**change) for change in row["change"]], row["tests"]) for row in rows
    ]


@contextmanager
def copy_of_sources() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        root = Path(folder) / "fangkong"
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        yield root


def run_tests(root: Path, tests: Sequence[str], *, stop_at_first: bool) -> tuple[int, Sequence[str], str]:
    """Exit status, the failed tests, and the end of what pytest printed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=line",
        f"--timeout={HANGS_AFTER_S}",
        *tests,
    ]
    try:
        done = subprocess.run(
            [*command, "-x"] if stop_at_first else command,
            cwd=root, capture_output=True, text=True, timeout=TESTS_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return TESTS_FAILED, [f"{' '.join(tests)} (hangs)"], ""
    return done.returncode, FAILED.findall(done.stdout), done.stdout[-2000:]


def tried(defect: Defect) -> Verdict:
    """Plant the defect in a copy and ask its tests."""
    with copy_of_sources() as root:
        if problems := [problem for change in defect.changes if (problem := change.problem(root))]:
            return Verdict(defect, (), "; ".join(problems))
        for change in defect.changes:
            change.make(root)
        status, failed, printed = run_tests(root, defect.tests, stop_at_first=True)
    if status == TESTS_FAILED and failed:
        return Verdict(defect, failed)
    return Verdict(defect, (), "SURVIVED" if status == 0 else f"not tried, pytest exit {status}: {printed}")


def sound(chosen: Sequence[Defect]) -> str:
    """Empty when every named test passes on an unharmed copy; else what pytest said."""
    tests = sorted({test for defect in chosen for test in defect.tests})
    with copy_of_sources() as root:
        status, failed, printed = run_tests(root, tests, stop_at_first=False)
    return "" if status == 0 else f"exit {status}, failed {failed}: {printed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0 when every defect was caught, 1 when one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("name", nargs="*", help="only these defects (default: all)")
    wanted = set(parser.parse_args(arguments).name)
    chosen = [defect for defect in defects() if not wanted or defect.name in wanted]
    if unknown := wanted - {defect.name for defect in chosen}:
        parser.error(f"no such defect: {', '.join(sorted(unknown))}; see {LIST}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    with Progress(console=console) as progress, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        bar = progress.add_task("planted defects", total=len(chosen) + 1)
        if problem := sound(chosen):
            console.print(f"the tests fail without any defect: {problem}")
            return 1
        progress.advance(bar)
        verdicts = []
        for verdict in pool.map(tried, chosen):
            verdicts.append(verdict)
            progress.advance(bar)
    table = Table("defect", "what it breaks", "caught by")
    for verdict in verdicts:
        table.add_row(
            verdict.defect.name, verdict.defect.breaks, "\n".join(verdict.caught_by) or f"[red]{verdict.problem}[/red]"
        )
    console.print(table)
    caught = sum(bool(verdict.caught_by) for verdict in verdicts)
    console.print(f"{caught} of {len(verdicts)} planted defects caught")
    return 0 if caught == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
