"""The `fangkong` command. Each family of sub-commands is a module of `gateway.cli`, imported when one of them is typed."""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "init": ("setup", "write a commented site file for a new box"),
    "check": ("run", "check a site file and everything it names; or all of this box"),
    "run": ("run", "run the gateway until SIGTERM"),
    "doctor": ("doctor", "look at this box: files, ports, broker, disk, clock, 110 line"),
    "explain": ("explain", "what a driver makes of a frame"),
    "driver": ("driver", "begin a new driver"),
    "try": ("try_", "a driver on a real line, live, without site file and database"),
    "capture": ("capture", "record what passes over one connection"),
    "replay": ("replay", "a driver on recorded traffic"),
    "discover": ("discover", "propose devices: a Modbus scan, what an MQTT broker has, serial ports"),
    "tool": ("tool", "bring devices into service: fangkong tool osdp scan /dev/ttyUSB0"),
    "simulate": ("simulate", "be the devices of a scenario file (docs/simulators.md)"),
    "demo": ("demo", "try everything on this machine: no hardware, no root"),
    "inventory": ("inventory", "areas, sites, devices and points as one workbook or CSV file"),
    "profile": ("profile", "what sites of a kind must have (docs/inventory.md)"),
    "waiver": ("waiver", "what is not asked of a point for a time"),
    "inspection": ("inspection", "inspections of physical measures"),
    "target": ("target", "what has to be reached by when"),
    "area": ("area", "districts, control zones and communities in the ledger"),
    "point": ("point", "protection points in the ledger, with and without a device"),
    "site": ("site", "sites in the ledger"),
    "device": ("device", "devices in the ledger, and unclaimed ones"),
    "vehicle": ("vehicle", "vehicles in the ledger, and the areas they belong in"),
    "walk-test": ("walk_test", "try out the points of a site without alarming 110"),
    "self-test": ("self_test", "what self-tests found, and which live tests are due"),
    "account": ("account", "people who may log in"),
    "token": ("account", "programs that may ask"),
    "audit": ("audit", "who did what"),
    "tail": ("tail", "follow events as they come"),
    "command": ("command", "have a device do something"),
    "config": ("config", "change the site file of a running gateway"),
    "migrate": ("migrate", "bring the ledger and the event log up to date (stop the daemon first)"),
    "credential": ("credential", "the key of card hashes"),
    "deficiency": ("deficiency", "gaps in coverage that somebody has to close"),
    "report": ("report", "coverage, gaps, ledger, monthly bulletin"),
}
"""The module of each command, and what it does in a few words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 success, 1 a check failed, 2 usage or configuration."""
    # Until the daemon's own handler stands, an early SIGTERM is an orderly end too: nothing is open yet.
    signal.signal(signal.SIGTERM, _leave)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Chinese shows question marks, no traceback
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(
        prog="fangkong",
        description="Fangkong 防控: devices raise alarms, they are on disk, 110 has them.",
        epilog="fangkong COMMAND --help tells more. Exit codes: 0 success, 1 a check failed, 2 usage or configuration.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    typed = sys.argv[1:] if argv is None else argv
    if typed and typed[0] in COMMANDS:
        module, _ = COMMANDS[typed[0]]
        importlib.import_module(f"gateway.cli.{module}").add_parser(commands)
    else:  # help, or a mistake: their names are enough
        for name, (_, text) in COMMANDS.items():
            commands.add_parser(name, help=text, add_help=False)
    arguments = parser.parse_args(typed)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a folder that cannot be written, a full disk
        sys.stderr.write(f"{error.filename or typed[0]}: {error.strerror or error} 文件无法读写\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _leave(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one, on the way out, must not make it a failure
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
