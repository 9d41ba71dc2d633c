"""How far each driver is: python -m tests.ladder [--check]

Rungs: works, sturdy, supervised, proven. A test says which bad day of which driver it tells by
`@pytest.mark.driver_story("nmea", "unplug")`. The table in docs/drivers/README.md is written from these marks and from the
drivers themselves, so that it cannot promise what is not there.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.driver_cases import Driver, drivers
from tests.evidence import marks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "drivers" / "README.md"
BEGIN, END = "<!-- ladder: written by python -m tests.ladder -->\n", "<!-- ladder end -->"

STORIES = ("unplug", "silence", "garbage", "slow peer", "flood")


@dataclass(slots=True)
class Shown:
    """What the tests show of one driver."""

    stories: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Story -> links to the tests that tell it."""
    judges: set[str] = field(default_factory=set)
    """Peers (tests/peers.py) named in the modules that bear the driver's name or tell its stories."""


def shown_by_tests(names: Sequence[str]) -> Mapping[str, Shown]:
    """By driver. Raises SystemExit for a mark that names no driver or no story."""
    found = {name: Shown() for name in names}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        where = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about: set[str] = set()
        if "simulators" not in path.parts:  # a peer that judged the simulator has not judged the driver
            about = {name for name in names if path.stem == f"test_{name}" or path.stem.startswith(f"test_{name}_")}
        judges: set[str] = set()
        for node in ast.walk(tree):
            for mark, arguments in marks(node):
                if mark == "peer":
                    judges.update(arguments)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark, arguments in (each for decorator in node.decorator_list for each in marks(decorator)):
                    if mark == "driver_story" and arguments:  # the bare name is seen once more inside its call
                        name, story = _known(where, arguments, found)
                        found[name].stories[story].append(f"[{node.name}](../../{where})")
                        about.add(name)
        for name in about:
            found[name].judges |= judges
    return found


def _known(where: str, arguments: Sequence[str], names: Mapping[str, Shown]) -> tuple[str, str]:
    if len(arguments) == 2 and arguments[0] in names and arguments[1] in STORIES:
        return arguments[0], arguments[1]
    raise SystemExit(f"{where}: driver_story{tuple(arguments)}: expected a driver and one of {', '.join(STORIES)}")


def works(driver: Driver) -> bool:
    """Shape, simulator, vectors good and bad, and a page; tests/test_every_driver.py looks into each."""
    simulator = ROOT / "simulators" / driver.name
    return (
        driver.link in ("stream", "topics", "bus")
        and (simulator.with_suffix(".py").is_file() or simulator.is_dir())
        and {vector.is_error for vector in driver.vectors} == {True, False}
        and (ROOT / "docs" / "drivers" / f"{driver.name}.md").is_file()
    )


def supervised(driver: Driver) -> bool:
    """Whether its silence can be noticed, at least for the devices that say how often they speak."""
    return driver.module.HEARD_WITHIN_S is not None or hasattr(driver.module, "heard_within_s")


def tables() -> str:
    """Markdown: the ladder, and the stories behind its second rung."""
    known = drivers()
    tests = shown_by_tests([driver.name for driver in known])
    ladder = ["| driver | works | sturdy | supervised | proven by | tried on hardware |", "| --- " * 6 + "|"]
    stories = ["| driver | " + " | ".join(STORIES) + " |", "| --- " * (len(STORIES) + 1) + "|"]
    for driver in known:
        shown, page = tests[driver.name], f"[{driver.name}]({driver.name}.md)"
        told = [story for story in STORIES if shown.stories[story]]
        sturdy = "yes" if len(told) == len(STORIES) else f"{len(told)} of {len(STORIES)}"
        rungs = [_yes(works(driver)), sturdy, _yes(supervised(driver)), ", ".join(sorted(shown.judges)) or "nobody"]
        ladder.append(f"| {page} | {' | '.join(rungs)} | no |")
        cells = ["<br>".join(shown.stories[story]) or "**not shown**" for story in STORIES]
        stories.append(f"| {driver.name} | {' | '.join(cells)} |")
    return "\n".join([*ladder, "", *stories]) + "\n"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def page() -> str:
    """The page with the tables as they must be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{tables()}{END}{rest.partition(END)[2]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with --check say whether they are up to date (exit 1 when not)."""
    parser = argparse.ArgumentParser(prog="python -m tests.ladder", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    wanted = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        print(f"{PAGE}: differs from the tests' marks; run python -m tests.ladder", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
