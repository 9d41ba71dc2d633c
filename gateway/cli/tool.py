"""`fangkong tool`: what a driver offers for bringing its devices into service, without a daemon or a database."""

from __future__ import annotations

import argparse
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from gateway.cli import Commands
    from gateway.driver import Stream


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "tool",
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("driver", nargs="?", default="", help="a driver that offers tools")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import asyncio

    from gateway.clock import RealClock
    from gateway.config import read_secret
    from gateway.driver import Workbench
    from gateway.errors import ConfigError, LinkClosed

    try:
        module = _with_tools(arguments.driver)
        asked = _parser(arguments.driver, module).parse_args(arguments.arguments)
        bench = Workbench(open=_open, clock=RealClock(), say=lambda line: print(line, flush=True), secret=read_secret)
        return int(asyncio.run(asked.tool(asked, bench)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except LinkClosed as error:
        print(f"the line is gone: {error}", file=sys.stderr)
        return 1


def _with_tools(name: str) -> ModuleType:
    """Raises ConfigError naming those that have some."""
    from gateway.errors import ConfigError, Problem
    from gateway.loader import load_module, names_in

    module = load_module("drivers", name) if name else None
    if module is None or not hasattr(module, "tools"):
        loaded = ((one, load_module("drivers", one)) for one in names_in("drivers") if one != "profiles")
        able = [one for one, found in loaded if hasattr(found, "tools")]
        raise ConfigError([Problem("command line", None, "driver", f"found {name!r}", f"one of {', '.join(able)}")])
    return module


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"fangkong tool {name}", description=f"Tools of the driver {name}.")
    module.tools(parser.add_subparsers(title="tools", metavar="TOOL", required=True))
    return parser


@asynccontextmanager
async def _open(port: str, baud: int) -> AsyncIterator[Stream]:
    """A serial port by its path, or a line by its link."""
    from gateway.links.serial import open_serial
    from gateway.links.tcp import dial

    link = await (dial(port) if port.startswith("tcp:") else open_serial(f"serial://{port}?baud={baud}"))
    try:
        yield link
    finally:
        await link.close()
