"""`fangkong capture`: what passes over one connection of the running gateway, into a file for `fangkong replay`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gateway.cli._daemon import ask
from gateway.cli._site_file import FAILED, OK, USAGE, add_common, data_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.cli import Commands

SILENCE_MAX_S = 30.0
"""Beyond the span asked for: the daemon is gone."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "capture",
        description="Record what passes over one connection of the running gateway; devices and driver notice nothing. "
        "The record of who did what names it. fangkong replay plays it to a driver again.",
    )
    parser.add_argument("connection", metavar="CONNECTION", help="its name in the site file")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="how long (default 60, at most 3600)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a new file, for its owner only"
    )
    add_common(parser, _capture)


async def _capture(args: argparse.Namespace) -> int:
    import urllib.error
    from urllib.parse import quote

    site_file, _ = data_dir(args)
    path = f"connections/{quote(args.connection, safe='')}/capture"
    wait_s = args.seconds + SILENCE_MAX_S
    try:
        answer = ask(site_file, args.config.resolve().parent, path, timeout_s=wait_s, body={"seconds": args.seconds})
        with answer, new_file(args.output) as file:
            end = _copy(answer, file)
    except urllib.error.HTTPError as error:
        print(f"the daemon refuses: {json.load(error).get('detail', error.reason)} 服务拒绝", file=sys.stderr)
        return FAILED
    except FileExistsError:
        print(f"{args.output}: is there already; nothing was written (文件已存在)", file=sys.stderr)
        return USAGE
    except OSError as error:  # URLError too
        print(f"no daemon answers: {error} 服务未运行", file=sys.stderr)
        return FAILED
    if end is None:
        print("the daemon broke off; the file ends early 录制中断", file=sys.stderr)
        return FAILED
    print(json.dumps({"ok": True, "end": end}) if args.json else f"{args.output}: {end}")
    return OK


def new_file(path: Path) -> TextIO:
    """For a recording, which only its owner may read. Raises OSError, also when it is there already."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", buffering=1)


def _copy(lines: Iterable[bytes], file: TextIO) -> str | None:
    """Why it ended; None when it just broke off."""
    end = None
    for line in lines:
        text = line.decode()
        file.write(text)
        if text.endswith("}\n"):
            end = json.loads(text).get("end")
    return end
