"""`fangkong driver`: the files of a new driver, ready to run."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli import Commands

PLACEHOLDER = "__NAME__"

IN_TREE = {
    "driver.py": "drivers/{name}.py",
    "simulator.py": "simulators/{name}.py",
    "vectors.toml": "tests/vectors/{name}.toml",
    "page.md": "docs/drivers/{name}.md",
}
OUTSIDE = {"driver.py": "{name}.py", "vectors.toml": "{name}.toml", "page.md": "{name}.md"}
"""In a package of its own: `driver = "<package>.<name>"` in a site file. Simulators are known by their place in the tree."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("driver")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="write the files of a new driver from a template that works",
        description="Write driver, simulator, vectors and page of a made-up panel under a new name; they pass the tests of every "
        "driver at once. In a clone of the project (the working directory) they go into its tree.",
    )
    new.add_argument("name", metavar="NAME", help="lower case letters, digits and _: it is what a site file writes")
    new.add_argument(
        "--into", metavar="FOLDER", type=Path, help="a package of your own instead: driver, vectors and page"
    )
    new.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> int:
    name: str = arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        return _refuse(f"found {name!r}, expected lower case letters, digits and _ (驱动名应为小写字母、数字和下划线)")
    into: Path | None = arguments.into
    if into is None and not (Path("drivers/__init__.py").is_file() and Path("tests/vectors").is_dir()):
        return _refuse(
            "this is no clone of the project: go there, or name a folder with --into (请在源码目录运行或用 --into 指定)"
        )
    if into is not None and not into.name.isidentifier():
        return _refuse(f"--into {into}: a package's name has letters, digits and _ (目录名须可作包名)")
    places = {
        part: (into or Path()) / place.format(name=name) for part, place in (OUTSIDE if into else IN_TREE).items()
    }
    if there := [str(path) for path in places.values() if path.exists()]:
        return _refuse(f"there already: {', '.join(there)}; nothing was written (文件已存在,未写入)")
    _write(places, name)
    if into is not None:
        (into / "__init__.py").touch()
    for path in places.values():
        print(path)
    dotted = f"{into.name}.{name}" if into else name
    print(f"ask it the questions of every driver: pytest tests/test_every_driver.py --driver {dotted}")
    return 0


def _write(places: Mapping[str, Path], name: str) -> None:
    from importlib.resources import files

    template = files("gateway.cli") / "template"
    for part, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (template / f"{part}.txt").read_text(encoding="utf-8")
        path.write_text(text.replace(PLACEHOLDER, name), encoding="utf-8")


def _refuse(problem: str) -> int:
    print(f"fangkong driver new: {problem}", file=sys.stderr)
    return 2
