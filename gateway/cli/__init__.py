"""The command line, one module per family of commands. Each offers `add_parser(commands)` for those that
`gateway.__main__` says are its own, and imports heavy things late."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option every command with a site file has."""
    parser.add_argument(
        "--config", "-c", type=Path, default=Path("site.toml"), help="the site file (default ./site.toml)"
    )
