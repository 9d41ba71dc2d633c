"""`fangkong walk-test start|status|end|accept|sheet|verify`: try out the points of a site, through the running gateway."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli._daemon import asked
from gateway.cli._site_file import FAILED, OK, add_common, person, show

if TYPE_CHECKING:
    from gateway.cli import Commands

LOOK_S = 2.0
MARKS = {
    "": "passed 合格",
    "alarm": "no alarm yet 未触发",
    "restore": "no restore yet 未恢复",
    "device": "no device 未装",
}


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("walk-test")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    start = verbs.add_parser("start", help="have points be in test, for a time")
    start.add_argument("site")
    start.add_argument("--point", action="append", default=[], help="a point by its id, again for more; none: all")
    start.add_argument("--minutes", type=int, default=60, help="ends by itself after so long, at most 480")
    start.add_argument("--reason", required=True, help="why; it is kept in the audit record")
    add_common(start, _start)

    status = verbs.add_parser("status", help="what each point has shown")
    status.add_argument("site")
    status.add_argument("--follow", action="store_true", help="go on looking while the test runs")
    add_common(status, _status)

    for verb, text, command in (
        ("end", "every alarm is real again", _end),
        ("accept", "accept every point of the newest test, if all have passed", _accept),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("site")
        add_common(one, command)

    sheet = verbs.add_parser("sheet", help="write the acceptance sheet")
    sheet.add_argument("site")
    sheet.add_argument("--out", type=Path, required=True, help="a .json file, or .html to print")
    sheet.add_argument("--language", choices=("zh-CN", "en"), default="zh-CN")
    add_common(sheet, _sheet)

    verify = verbs.add_parser("verify", help="whether a sheet is as it was made, and was accepted on this box")
    verify.add_argument("file", type=Path)
    add_common(verify, _verify)


async def _start(args: argparse.Namespace) -> int:
    wish = {"points": args.point, "minutes": args.minutes, "reason": args.reason, "who": person()}
    return _told(args, asked(args, _path(args.site), wish))


async def _status(args: argparse.Namespace) -> int:
    from gateway.clock import RealClock

    found = asked(args, _path(args.site))
    code = _told(args, found)
    while found and args.follow and found["running"]:
        await RealClock().sleep(LOOK_S)
        before, found = found, asked(args, _path(args.site))
        if found and found["sheet"]["sha256"] != before["sheet"]["sha256"]:
            code = _told(args, found)
    return code


async def _end(args: argparse.Namespace) -> int:
    return _told(args, asked(args, f"{_path(args.site)}/end", {"who": person()}))


async def _accept(args: argparse.Namespace) -> int:
    return _told(args, asked(args, f"{_path(args.site)}/accept", {"who": person()}))


async def _sheet(args: argparse.Namespace) -> int:
    found = asked(args, _path(args.site))
    if found is None:
        return FAILED
    sheet = found["sheet"]
    if args.out.suffix == ".html":
        from gateway.commissioning.page import page

        args.out.write_text(page(sheet, args.language), encoding="utf-8")
    else:
        args.out.write_text(json.dumps(sheet, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    said = {"ok": True, "file": str(args.out), "sha256": sheet["sha256"], "ended": sheet["ended"]}
    print(json.dumps(said) if args.json else f"{args.out}  SHA-256 {sheet['sha256']}")
    return OK


async def _verify(args: argparse.Namespace) -> int:
    from gateway.commissioning.sheet import read
    from gateway.errors import ConfigError, Problem

    try:
        sheet = read(args.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError([Problem(str(args.file), None, "file", str(error), "an acceptance sheet as JSON")]) from error
    if sheet is None:
        print("changed: this is not what was written 已被改动")
        return FAILED
    found = asked(args, f"sites/{_quoted(sheet['site'])}/acceptances/{sheet['sha256']}")
    if found is None:
        return FAILED
    print(
        "whole, and accepted on this box 完整,已验收"
        if found["recorded"]
        else "whole, but never accepted on this box 完整,但本机无验收记录"
    )
    return OK if found["recorded"] else FAILED


def _path(site: str) -> str:
    return f"sites/{_quoted(site)}/walk-test"


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _told(args: argparse.Namespace, found: dict[str, Any] | None) -> int:
    if found is None:
        return FAILED
    sheet = found["sheet"]
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return OK
    show(args, [_line(row) for row in sheet["rows"]], empty="no points 没有点位")
    word = "until 至" if found["running"] else "ended 已于"
    print(
        f"{sheet['passed']} of {len(sheet['rows'])} passed 合格; {word} {_local(found['ends'], '%Y-%m-%d %H:%M:%S')} (UTC+8)"
    )
    return OK


def _line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "point": row["point"],
        "name": row["name"],
        "device": row["device"],
        "zone": row["zone"],
        "alarm": _local(row["alarm_at"], "%H:%M:%S"),
        "restore": _local(row["restore_at"], "%H:%M:%S"),
        "state": MARKS[row["lacks"]],
    }


def _local(moment: str, form: str) -> str:
    """As the clock on the wall shows it, and as the sheet has it; nothing for a moment that has not come."""
    from datetime import datetime

    from gateway.coverage.days import LOCAL

    return datetime.fromisoformat(moment).astimezone(LOCAL).strftime(form) if moment else ""
