"""`fangkong tail`: events as they come, from a running daemon; without one, the last of the log."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.cli._daemon import ask
from gateway.cli._site_file import FAILED, OK, add_common, data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.cli import Commands
    from gateway.config import SiteFile

LANES = ("life", "alarm", "fault", "status", "bulk")
"""As `gateway.kinds.Lane` has them, which the command line imports only when it is needed."""
LATEST = 20
"""Events shown from the log when no daemon answers: one screen."""
SILENCE_MAX_S = 60.0
"""The stream beats every 15 s; four beats missed mean that the daemon is gone."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("tail")
    parser.add_argument("--lane", choices=LANES, help="only this urgency")
    add_common(parser, _tail)


async def _tail(args: argparse.Namespace) -> int:
    import urllib.error

    site_file, folder = data_dir(args)
    try:
        for event in _live(args, site_file):
            if args.lane in (None, event["lane"]):
                _print(args, event)
    except urllib.error.HTTPError as error:
        print(f"the daemon refuses: {error.code} {error.reason} 服务拒绝访问", file=sys.stderr)
        return FAILED
    except (urllib.error.URLError, ConnectionError):
        pass
    except TimeoutError:
        print("the daemon has gone silent 服务无响应", file=sys.stderr)
        return FAILED
    else:
        print("the daemon has stopped 服务已停止", file=sys.stderr)
        return OK
    print("no daemon answers; the last events of the log 服务未运行,显示最近事件", file=sys.stderr)
    return _latest(args, folder / "events.db")


def _live(args: argparse.Namespace, site_file: SiteFile) -> Iterator[dict[str, Any]]:
    """The daemon's stream (docs/api.md). Raises URLError when none answers."""
    base = args.config.resolve().parent
    with ask(site_file, base, "stream", timeout_s=SILENCE_MAX_S) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def _latest(args: argparse.Namespace, path: Any) -> int:
    import sqlite3

    from gateway.api.views import event_view
    from gateway.errors import ConfigError, Problem
    from gateway.kinds import Lane
    from gateway.store.beside import read_newest

    try:
        events = read_newest(path, LATEST, Lane[args.lane.upper()] if args.lane else None)
    except sqlite3.Error as error:
        raise ConfigError([Problem(str(path), None, "store", str(error), "an event log of this program")]) from error
    for event in events:
        _print(args, json.loads(event_view(event).model_dump_json()))
    return OK


def _print(args: argparse.Namespace, event: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    where = f"{event['site']} {event['point_name'] or ''}" if event["claimed"] else "unclaimed 未登记"
    what = f"{event['kind']} {event['qualifier']}"
    print(f"{event['received_at']}  {event['lane']:<6}  {what:<24}  {event['device']}  {where}".rstrip(), flush=True)
