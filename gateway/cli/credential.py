"""`fangkong credential rotate`: another key for the hashes that stand for cards and codes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, data_dir

if TYPE_CHECKING:
    from gateway.cli import Commands

DESCRIPTION = """\
Draw another key for the hashes that stand for cards and codes in door events.

From then on the same card has another hash: events from before and after cannot be linked, by anybody, and the old key
is gone. A running gateway takes the new one with the next card."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("credential")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    rotate = verbs.add_parser(
        "rotate", help="draw another key", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(rotate, _rotate)


async def _rotate(args: argparse.Namespace) -> int:
    from gateway.credentials import FILE_NAME, KeyFile
    from gateway.errors import ConfigError, Problem

    path = data_dir(args)[1] / FILE_NAME
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        KeyFile(path).rotate()
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(path), None, "credential key", found, "a folder we can write")]) from error
    print(
        json.dumps({"ok": True, "file": str(path)})
        if args.json
        else f"{path}: a new key; hashes from before cannot be linked with those from now on 密钥已更换"
    )
    return OK
