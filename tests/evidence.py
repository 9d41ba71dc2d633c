"""Which test shows which row of the failure catalogue: python -m tests.evidence [--check]

A test names its rows by `@pytest.mark.row("A1")`. The table in docs/evidence.md is written from these marks, so that it
cannot promise a test that is not there.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- rows: written by python -m tests.evidence -->\n", "<!-- rows end -->"

ROWS: Mapping[str, tuple[str, str]] = {
    "A1": ("killed after receiving, before storing", "not acknowledged, so repeated; one event"),
    "A2": ("killed after storing, before the device's answer", "the repeat is recognised and answered"),
    "A3": ("killed after the device's answer, before forwarding", "forwarded after the restart"),
    "A4": ("killed after forwarding, before 110's answer", "sent again under the same key"),
    "A5": ("killed after 110's answer, before it is on disk", "sent again under the same key, counted"),
    "A6": ("killed in start-up, recovery, migration, checkpoint", "the next start completes it or rolls it back"),
    "A7": ("SIGTERM in flight, twice, during the start", "exit 0 within 10 s, nothing lost"),
    "A8": ("frozen for a minute, then continued", "timers do not fire all at once, links are looked at again"),
    "A9": ("out of memory", "bounded queues; when killed as A1 to A5"),
    "A10": ("two daemons on one data directory", "the second is refused, the first untouched"),
    "B1": ("power cut", "everything acknowledged is there"),
    "B2": ("disk full, later freed", "no acknowledgement meanwhile, a fault, recovery without a restart"),
    "B3": ("no inodes, too many open files", "as B2; accepting does not spin"),
    "B4": ("file system turns read-only", "as B2; readiness says so"),
    "B5": ("EIO on one sync", "reopened and verified, never retried and trusted"),
    "B6": ("slow sync", "throughput falls, nothing else; the loop is not blocked over 50 ms"),
    "B7": ("corrupt page, truncated log, empty file", "set aside, salvaged, told, work goes on"),
    "B8": ("logs without end", "own logs are bounded"),
    "C1": ("wall clock jumps by an hour, two back, ten years", "no timer fires or stalls, order kept, told once"),
    "C2": ("boot in 1970, time set minutes later", "accepted and kept, times corrected and the correction recorded"),
    "C3": ("drift for days, uptime beyond 49.7 days and 2^31 s", "nothing happens"),
    "C4": ("missing and repeated hour, :60, 29 February", "read, or refused with a reason"),
    "D1": ("broker restarts, with and without its state", "reconnected, session resumed or subscribed anew, no gap"),
    "D2": ("broker session expired meanwhile", "noticed and told as a possible gap"),
    "D3": ("50 000 retained messages on subscribing", "state, never news; memory bounded"),
    "D4": ("duplicates, DUP flag, packet id used again", "one event"),
    "D4b": ("consumer killed with messages in hand", "all delivered again, none lost"),
    "D5": ("broker drops because a queue is full", "noticed and told"),
    "D6": ("two clients under one client id", "detected, told, backed off"),
    "F1": ("110 away for 72 h with events arriving", "all kept within the budget, drained by lane, new panic overtakes"),
    "F2": ("NAK, DUH and nonsense from 110", "transient: again under the same key; permanent: seen by a person"),
    "F3": ("answer late, twice, for another key, in single bytes, glued", "matched by key only"),
    "F4": ("half-open line to 110", "found in 20 s, sent again"),
    "F5": ("110 accepted and lost its data", "a time range is sent again under the same keys"),
    "F6": ("110 flaps every 2 s", "no connection storm, progress all the same"),
    "G1": ("10 000 events in 10 s, 1 000 sources at once", "lanes hold, nothing acknowledged is lost"),
    "H5": ("flood of false alarms from one stolen device", "its forwarding is limited, with counts; nobody else's is"),
    "I1": ("a mistake in the site file", "refused with file, line and key, all mistakes at once"),
    "I2": ("1 000 reloads under traffic", "nothing lost, nothing leaked"),
}  # fmt: skip


def marked_tests() -> Mapping[str, Sequence[str]]:
    """Row -> the tests that show it, as links, in the order of the files."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_module = [mark for node in tree.body if ast.unparse(node).startswith("pytestmark") for mark in marks(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                said = [*of_module, *(mark for decorator in node.decorator_list for mark in marks(decorator))]
                where = path.relative_to(ROOT).as_posix()
                when = "" if not {"full", "soak"} & {name for name, _ in said} else " (full)"
                for row in (argument for name, arguments in said if name == "row" for argument in arguments):
                    found[row].append(f"[{node.name}](../{where}){when}")
    return found


def marks(tree: ast.AST) -> Iterator[tuple[str, Sequence[str]]]:
    """Every pytest mark in it, also those of parameters, with its texts."""
    for node in ast.walk(tree):
        name, arguments = (node.func, node.args) if isinstance(node, ast.Call) else (node, [])
        if isinstance(name, ast.Attribute) and ast.unparse(name.value) == "pytest.mark":
            yield name.attr, [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def table() -> str:
    """The rows as Markdown."""
    tests = marked_tests()
    if unknown := set(tests) - set(ROWS):
        raise SystemExit(f"tests name rows that the catalogue does not have: {', '.join(sorted(unknown))}")
    lines = ["| row | fault | what must happen | shown by |", "| --- | --- | --- | --- |"]
    for row, (fault, expected) in ROWS.items():
        shown = "<br>".join(dict.fromkeys(tests.get(row, ()))) or "**not shown**"
        lines.append(f"| {row} | {fault} | {expected} | {shown} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The evidence page with the table as it must be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or with --check say whether it is up to date (exit 1 when not)."""
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    wanted = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        print(f"{PAGE}: differs from the tests' marks; run python -m tests.evidence", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
