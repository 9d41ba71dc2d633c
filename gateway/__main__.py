"""The `fangkong` command. Each family of sub-commands is a module of `gateway.cli`; heavy imports wait until one runs."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

FAMILIES = (
    "setup",
    "run",
    "doctor",
    "explain",
    "driver",
    "try_",
    "capture",
    "replay",
    "discover",
    "tool",
    "simulate",
    "demo",
    "inventory",
    "profile",
    "waiver",
    "inspection",
    "target",
    "area",
    "point",
    "site",
    "device",
    "vehicle",
    "walk_test",
    "self_test",
    "account",
    "audit",
    "tail",
    "command",
    "config",
    "migrate",
    "credential",
    "deficiency",
    "report",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 success, 1 a check failed, 2 usage or configuration."""
    # Until the daemon's own handler stands, an early SIGTERM is an orderly end too: nothing is open yet.
    signal.signal(signal.SIGTERM, _leave)
    parser = argparse.ArgumentParser(
        prog="fangkong",
        description="Fangkong 防控: devices raise alarms, they are on disk, 110 has them.",
        epilog="fangkong COMMAND --help tells more. Exit codes: 0 success, 1 a check failed, 2 usage or configuration.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for family in FAMILIES:
        importlib.import_module(f"gateway.cli.{family}").add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def _leave(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one, on the way out, must not make it a failure
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
