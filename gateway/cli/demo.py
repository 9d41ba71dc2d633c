"""`fangkong demo`: a gateway, a broker, a community of simulated devices and a simulated 110 centre, on this machine alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.cli import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("demo")
    parser.add_argument(
        "--seconds",
        type=float,
        default=os.environ.get("DEMO_SECONDS") or None,  # argparse reads it as it reads the option
        help="end by itself after this time, kill the gateway once on the way, print a summary (or set DEMO_SECONDS)",
    )
    parser.add_argument("--dir", type=Path, help="keep site file, logs and records here (default: a temporary folder)")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    from gateway.cli.demo_stage import Stage, StageError

    if arguments.seconds is None and not sys.stdin.isatty():
        print("no terminal: set DEMO_SECONDS=20 (or --seconds 20) 无终端时请设置 DEMO_SECONDS", file=sys.stderr)
        return 2
    try:
        return asyncio.run(Stage(arguments.dir, arguments.seconds).play())
    except StageError as error:
        print(error, file=sys.stderr)
        return 1
