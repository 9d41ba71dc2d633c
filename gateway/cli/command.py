"""`fangkong command open|lock|...|list|show`: have a device do something, through the running gateway, and see what became of it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gateway.cli._daemon import asked
from gateway.cli._site_file import FAILED, OK, add_common, person, show

if TYPE_CHECKING:
    from gateway.cli import Commands

ACTS = {
    "open": "release a lock for a moment",
    "lock": "lock",
    "unlock": "release a lock until a moment",
    "siren": "sound a siren; --for 0 silences it",
    "arm": "arm",
    "disarm": "disarm",
    "bypass": "leave a zone out",
    "self-test": "have a device test itself",
    "locate": "ask a vehicle where it is",
}
"""As `gateway.acts.Act` has them, which the command line imports only when it is needed."""
LOOK_S = 0.3
WAIT_MAX_S = 1200.0
"""Longer than the longest validity and the longest wait for evidence together."""
COLUMNS = ("id", "created_at", "state", "act", "device", "zone", "issuer", "reason", "detail")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("command")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for act, text in ACTS.items():
        verb = verbs.add_parser(act, help=text)
        verb.add_argument("device")
        verb.add_argument("--reason", required=True, help="why; it is kept in the audit record")
        if act in ("open", "siren"):
            verb.add_argument("--for", dest="seconds", type=int, metavar="SECONDS")
        if act == "unlock":
            verb.add_argument("--until", required=True, help="a time with its offset, like 2026-03-01T18:00:00+08:00")
        verb.add_argument("--zone", type=int, required=act == "bypass")
        verb.add_argument(
            "--valid", type=float, metavar="SECONDS", help="dropped when it has not left within this time"
        )
        verb.add_argument("--id", help="sent again with the same id it is still one command")
        verb.add_argument("--no-wait", action="store_true", help="do not wait for what becomes of it")
        verb.set_defaults(act=act)
        add_common(verb, _give)

    listed = verbs.add_parser("list", help="the newest commands")
    listed.add_argument("--device")
    listed.add_argument("--limit", type=int, default=20)
    add_common(listed, _list)

    one = verbs.add_parser("show", help="one command")
    one.add_argument("id")
    add_common(one, _show)


async def _give(args: argparse.Namespace) -> int:
    import uuid

    from gateway.clock import RealClock

    command_id = args.id or str(uuid.uuid4())
    wish = {
        "id": command_id,
        "device": args.device,
        "act": args.act,
        "reason": args.reason,
        "zone": args.zone,
        "seconds": getattr(args, "seconds", None),
        "until": getattr(args, "until", None),
        "valid_s": args.valid,
        "who": person(),
    }
    found = asked(args, "commands", wish, doubt=f"ask again with --id {command_id}: it is done once at most")
    clock = RealClock()
    until = clock.monotonic() + WAIT_MAX_S
    while found and not args.no_wait and found["ended_at"] is None and clock.monotonic() < until:
        await clock.sleep(LOOK_S)
        found = asked(args, f"commands/{command_id}")
    if found is None:
        return FAILED
    _print(args, found)
    return OK if args.no_wait or found["state"] == "executed" else FAILED


async def _list(args: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    query = {"limit": args.limit, **({"device": args.device} if args.device else {})}
    found = asked(args, f"commands?{urlencode(query)}")
    if found is None:
        return FAILED
    rows = found["items"] if args.json else [{name: row[name] for name in COLUMNS} for row in found["items"]]
    show(args, rows, empty="no commands yet 尚无指令")
    return OK


async def _show(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    found = asked(args, f"commands/{quote(args.id, safe='')}")
    if found is None:
        return FAILED
    _print(args, found)
    return OK


def _print(args: argparse.Namespace, found: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print("\n".join(f"{name:<10} {value}" for name, value in found.items() if value not in (None, "")))
