"""`fangkong replay`: a driver on what `fangkong capture` recorded, as often as one likes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.explain import add_driver_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli import Commands

DESCRIPTION = """\
Play a recording to a driver, in the recording's own time, and print what `fangkong try` prints. The same recording gives
the same observations. Nothing is stored and no line is opened.
Exit codes: 0 played, 2 the command, a profile or the recording is wrong."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "replay", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", type=Path, help="as fangkong capture writes it")
    parser.add_argument(
        "--driver", metavar="DRIVER", required=True, help="a driver, a profile, a dotted path or a FILE.py"
    )
    add_driver_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    from gateway import logs
    from gateway.cli._replay import read_recording, replay
    from gateway.cli.explain import prepare
    from gateway.errors import ConfigError

    logs.set_up("warning")
    try:
        driver, context = prepare(arguments.driver, arguments.profile, arguments.set, arguments.profiles_dir)
        recording = read_recording(arguments.file)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    replay(recording, driver, context, logs.logger(), _say)
    return 0


def _say(what: Mapping[str, Any]) -> None:
    print(json.dumps(what, ensure_ascii=False))
