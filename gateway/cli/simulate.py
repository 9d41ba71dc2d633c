"""`fangkong simulate`: the simulators as a child process; the gateway itself never imports them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    # No option is ours: with a prefix nobody types, argparse hands on everything, --help too.
    parser = commands.add_parser(
        "simulate",
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import os

    # The simulators take over this process: signals and exit code are theirs.
    os.execv(sys.executable, [sys.executable, "-m", "simulators", *arguments.arguments])  # noqa: S606  # our own interpreter
