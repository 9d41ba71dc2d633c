"""`fangkong audit list|verify`: who did what, and whether somebody changed the record of it."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

from gateway.cli._site_file import FAILED, OK, add_common, data_dir, show

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli import Commands

LATEST = 50
"""A screen or two."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("audit")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = verbs.add_parser("list", help="the newest acts, oldest first")
    listing.add_argument("--limit", type=int, default=LATEST, help=f"how many (default {LATEST})")
    add_common(listing, _list)
    check = verbs.add_parser("verify", help="find the first row that was changed, removed, put in or put elsewhere")
    check.add_argument(
        "--noted", type=_noted, metavar="ROW:MARK",
        help="what was seen earlier of fangkong_audit_rows and fangkong_audit_head: finds an end that was cut off",
    )  # fmt: skip
    add_common(check, _verify)


def _noted(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d{1,18}:\d{1,18}", text):
        raise argparse.ArgumentTypeError("two numbers are expected, like 4711:123456789012345")
    row, mark = text.split(":")
    return int(row), int(mark)


def _file(args: argparse.Namespace) -> Path:
    from gateway.audit import FILE

    return data_dir(args)[1] / FILE


async def _list(args: argparse.Namespace) -> int:
    from gateway.audit import rows

    found = [
        {
            "row": row.seq,
            "at": row.at,
            "actor": row.actor,
            "deed": row.deed,
            "subject": row.subject,
            "details": row.details,
        }
        for row in rows(_file(args), limit=max(0, args.limit))
    ]
    show(args, found[::-1], empty="nothing was recorded yet 尚无审计记录")
    return OK


async def _verify(args: argparse.Namespace) -> int:
    from gateway.audit import verify

    path = _file(args)
    found = verify(path, noted=args.noted)
    facts = {"ok": not found.fault, "rows": found.rows, "row": found.head.seq, "mark": found.head.mark}
    if args.json:
        print(json.dumps({**facts, "fault": found.fault or None}, ensure_ascii=False))
    elif found.fault:
        print(f"{path}: {found.fault} 审计记录被改动")
    else:
        print(f"{path}: {found.rows} rows, none changed, removed or moved 审计记录完整")
        print(f"note the end and keep it elsewhere: --noted {found.head.seq}:{found.head.mark}")
    return FAILED if found.fault else OK
