"""`fangkong check` and `fangkong run`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from gateway.cli import add_config

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from gateway.cli import Commands
    from gateway.errors import ConfigError
    from gateway.plan import Plan


def add_parser(commands: Commands) -> None:
    check = commands.add_parser("check")
    check.add_argument(
        "what", nargs="?", choices=("health",), help="box, lines, backlog, devices and sites as they are now"
    )
    add_config(check)
    check.add_argument("--json", action="store_true", help="machine-readable result")
    check.set_defaults(run=_check)
    run = commands.add_parser("run")
    add_config(run)
    run.set_defaults(run=_run)


def _check(arguments: argparse.Namespace) -> int:
    plan, error = prepared(arguments)
    if arguments.what == "health":
        from gateway.cli._finding import mistakes, told
        from gateway.cli._health import everything

        if error is not None:
            told(mistakes(error), as_json=arguments.json)
            return 2
        assert plan is not None
        return told(everything(plan), as_json=arguments.json)
    if arguments.json:
        from dataclasses import asdict

        problems = [asdict(problem) for problem in error.problems] if error else []
        print(json.dumps({"ok": error is None, "problems": problems}, ensure_ascii=False))
    elif error:
        print(error)
        print(f"{len(error.problems)} to mend 共 {len(error.problems)} 处需要修改")
    else:
        assert plan is not None
        print(f"{arguments.config}: ok; {len(plan.connections)} connections, {len(plan.destinations)} destinations")
        if not plan.destinations:
            print("note: no [[destination]]: events are kept, nobody is told 未配置转发目的地")
    return 2 if error else 0


def prepared(arguments: argparse.Namespace) -> tuple[Plan | None, ConfigError | None]:
    """The plan of the site file, or every mistake in it."""
    from gateway.errors import ConfigError
    from gateway.plan import prepare

    try:
        return prepare(arguments.config), None
    except ConfigError as error:
        return None, error


def _run(arguments: argparse.Namespace) -> int:
    # Nothing is open until the daemon's own handler stands. An exception instead is lost in an import that catches all.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    plan, error = prepared(arguments)
    if plan is None:
        print(error, file=sys.stderr)
        return 2
    import asyncio
    from random import SystemRandom

    from gateway import logs
    from gateway.clock import RealClock
    from gateway.daemon import run_until_signalled
    from gateway.errors import GatewayError, leaves

    logs.set_up(plan.site.gateway.log_level)
    log = logs.logger(box=plan.site.gateway.name)
    causes: list[BaseException] = []
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run_until_signalled(plan, clock=RealClock(), random=SystemRandom(), log=log))
    except* GatewayError as group:
        causes = leaves(group)
    for cause in causes:
        print(cause, file=sys.stderr)
    return 2 if causes else 0


def _loop_factory() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # 32-bit ARM has no wheel; the standard loop does the same, a little slower
        return None
    return uvloop.new_event_loop
