"""`fangkong config diff|apply|rollback|history`: another configuration for a gateway that goes on running."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple  # a dataclass would cost every command 4 ms

from gateway.cli._daemon import ask, is_running
from gateway.cli._site_file import FAILED, OK, add_common, os_actor, person

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.cli import Commands
    from gateway.config import SiteFile
    from gateway.difference import Difference
    from gateway.errors import Problem
    from gateway.history import Kept
    from gateway.model import Scalar
    from gateway.plan import Plan

ANSWER_WITHIN_S = 60.0
"""A change ends lines (10 s at most each, side by side), opens ports (5 s) and lets a removed destination drain (2 s)."""

RESTART_HINT = "stop the gateway, fangkong config apply, start it 需要重启: 先停止服务再应用"


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("config")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    diff = verbs.add_parser("diff", help="what another configuration would change and restart")
    diff.add_argument("what", nargs="?", help="a file, or a number of the history; default: the site file as it stands")
    add_common(diff, _diff)

    apply = verbs.add_parser("apply", help="put a file in the site file's place and let the gateway take it")
    apply.add_argument("file", nargs="?", type=Path, help="default: the site file as it stands")
    add_common(apply, _apply)

    rollback = verbs.add_parser("rollback", help="apply an earlier configuration")
    rollback.add_argument("number", nargs="?", type=int, help="of the history; default: the one before")
    add_common(rollback, _rollback)

    add_common(verbs.add_parser("history", help="configurations that were in force, newest last"), _history)


class _Box(NamedTuple):
    """The site file, and what was in force."""

    path: Path
    data_dir: Path
    kept: Sequence[Kept]

    @property
    def base(self) -> Path:
        return self.path.resolve().parent

    def number(self, number: int | None) -> Kept:
        """A configuration of the history; None: the one before that in force. Raises ConfigError."""
        from gateway.errors import ConfigError, Problem

        found = self.kept[-2:-1] if number is None else [each for each in self.kept if each.number == number]
        if not found:
            there = ", ".join(str(each.number) for each in self.kept) or "none"
            wanted = "an earlier configuration" if number is None else f"configuration {number}"
            problem = Problem(
                str(self.data_dir / "config"), None, "history", f"{wanted} is not there", f"one of {there}"
            )
            raise ConfigError([problem])
        return found[0]


def _box(args: argparse.Namespace) -> _Box:
    """Found also when the site file has mistakes: going back must still be possible. Raises ConfigError."""
    from gateway.history import History

    data_dir = args.config.resolve().parent / _data_dir(args.config)
    return _Box(args.config, data_dir, History(data_dir).kept())


def _data_dir(path: Path) -> str:
    import re

    from gateway.config import parse_toml, read_text
    from gateway.errors import ConfigError

    text = read_text(path)
    try:
        gateway = parse_toml(text, path)[0].get("gateway", {})
    except ConfigError:
        found = re.search(r"""^\s*data_dir\s*=\s*["'](.+?)["']""", text, re.MULTILINE)
        return found[1] if found else "var"
    return str(gateway.get("data_dir", "var")) if isinstance(gateway, dict) else "var"


# -- looking -----------------------------------------------------------------------------------------------------------


async def _history(args: argparse.Namespace) -> int:
    from gateway.cli._site_file import show

    box = _box(args)
    rows = [
        {
            "number": kept.number,
            "at": kept.at.isoformat(),
            "who": kept.who,
            "sha256": kept.sha256 if args.json else kept.sha256[:12],
            "file": str(kept.path),
        }
        for kept in box.kept
    ]
    show(args, rows, empty="no configuration was in force yet: fangkong run 尚无历史配置")
    return OK


async def _diff(args: argparse.Namespace) -> int:
    import difflib

    from gateway.plan import prepare

    box = _box(args)
    is_number = args.what is not None and args.what.isdecimal()
    wanted = box.number(int(args.what)).path if is_number else Path(args.what) if args.what else box.path
    new = prepare(wanted, box.base)
    if not box.kept:
        print("no configuration was in force yet: fangkong run 尚无历史配置", file=sys.stderr)
        return FAILED
    in_force = box.kept[-1]
    old_text = in_force.text()
    change = _change(box, in_force, new)
    text = "".join(
        difflib.unified_diff(
            old_text.splitlines(keepends=True),
            new.text.splitlines(keepends=True),
            f"in force ({in_force.number})",
            str(wanted),
        )
    )
    if args.json:
        print(
            json.dumps({"ok": not (change and change.restart), "text": text, **_facts(box, change)}, ensure_ascii=False)
        )
    else:
        print(text, end="")
        print("\n".join(_words(_facts(box, change))))
    return FAILED if change and change.restart else OK


def _change(box: _Box, in_force: Kept, new: Plan) -> Difference | None:
    """None when what was in force cannot be read any more, because a driver or a secret of it is gone."""
    from gateway.difference import difference
    from gateway.errors import ConfigError
    from gateway.plan import prepare

    try:
        return difference(prepare(in_force.path, box.base), new)
    except ConfigError:
        return None


def _facts(box: _Box, change: Difference | None) -> dict[str, Any]:
    """A difference for machines, with the events that would be left behind."""
    import sqlite3
    from dataclasses import asdict

    from gateway.errors import ConfigError, Problem
    from gateway.store.beside import read_waiting

    if change is None:
        return {}
    path = box.data_dir / "events.db"
    try:
        waiting = read_waiting(path)
    except sqlite3.Error as error:
        raise ConfigError([Problem(str(path), None, "store", str(error), "an event log of this program")]) from error
    left = {name: waiting[name] for name in change.destinations.removed if waiting.get(name)}
    return {**asdict(change), "left_behind": left}


def _words(facts: Mapping[str, Any]) -> Iterable[str]:
    """The same for people, a line each."""
    if not facts:
        yield "what this stops and starts cannot be told: a part of the configuration in force is gone 无法比较"
        return
    verbs = {"added": "added 新增", "removed": "removed 移除", "replaced": "stopped and started anew 重新启动"}
    lines = [
        f"{part} {name}: {verbs[how]}"
        for part in ("connection", "destination")
        for how, names in facts[f"{part}s"].items()
        for name in names
    ]
    lines += [f"{key}: changes without a stop 立即生效" for key in facts["settings"]]
    lines += [
        f"destination {name}: {count} events wait for it; they stay, sent to nobody, until it is there again 仍有事件未送达"
        for name, count in facts.get("left_behind", {}).items()
    ]
    lines += [f"needs a restart: {problem['key']}: {problem['found']} 需要重启" for problem in facts.get("restart", ())]
    yield from lines or ["nothing to stop or start 无需变更"]


# -- changing ----------------------------------------------------------------------------------------------------------


async def _apply(args: argparse.Namespace) -> int:
    from gateway.plan import prepare

    box = _box(args)
    source = args.file or box.path
    return await _take(args, box, prepare(source, box.base), is_in_place=args.file is None)


async def _rollback(args: argparse.Namespace) -> int:
    from gateway.plan import prepare

    box = _box(args)
    kept = box.number(args.number)
    kept.text()  # is what it was
    return await _take(args, box, prepare(kept.path, box.base), is_in_place=False)


async def _take(args: argparse.Namespace, box: _Box, new: Plan, *, is_in_place: bool) -> int:
    """Put a checked configuration in the site file's place, unless it is there; the running daemon takes it, or all is as
    it was."""
    from gateway.audit import FILE, Audit, Deed
    from gateway.clock import RealClock

    if not is_running(box.data_dir):
        details: dict[str, Scalar] = {"who": person(), "running": False}
        await Audit(box.data_dir / FILE, RealClock()).record(
            os_actor(), Deed.CONFIGURATION, f"sha256:{new.sha256}", details
        )
        if not is_in_place:
            _write(box.path, new.text.encode())
        said = "no gateway runs: it counts from the next start 服务未运行,下次启动生效"
        print(json.dumps({"ok": True, "running": False}) if args.json else f"{box.path}: ok; {said}")
        return OK
    change = _change(box, box.kept[-1], new) if box.kept else None
    if change and change.restart:  # nothing was touched
        return _refused(args, change.restart, RESTART_HINT)
    before = box.path.read_bytes()
    if not is_in_place:
        _write(box.path, new.text.encode())
    problems = _ask(args, box, new)
    if problems is None:
        return OK
    if not is_in_place:
        _write(box.path, before)
        _reload(box)  # what is in force, so that the alert on a failed change ends
    return _refused(args, problems, "the gateway goes on as it was 配置未变更")


def _write(path: Path, content: bytes) -> None:
    """Raises ConfigError when this user may not."""
    from gateway.errors import ConfigError, Problem
    from gateway.history import write_whole

    try:
        write_whole(path, content)
    except OSError as error:
        hint = "run it as the owner of the site file 请使用有权限的用户"
        problem = Problem(
            str(path), None, "file", error.strerror or str(error), "a file and folder that may be written", hint
        )
        raise ConfigError([problem]) from error


def _ask(args: argparse.Namespace, box: _Box, new: Plan) -> Sequence[Problem] | None:
    """Let the daemon take the site file; why it does not."""
    from gateway.errors import Problem

    status, answer = _reload(box)
    if status == 409:
        return [Problem(**{**each, "line": int(each["line"]) if "line" in each else None}) for each in answer["errors"]]
    if status != 200:
        said, expected = f"{status}: {answer['detail']}", "the running gateway to answer"
        return [
            Problem(str(box.path), None, "gateway", said, expected, "fangkong doctor; or systemctl reload fangkong")
        ]
    if answer["sha256"] != new.sha256:
        found, expected = "another file was put in its place meanwhile", "one change at a time"
        return [Problem(str(box.path), None, "file", found, expected, "fangkong config diff 配置被他人修改")]
    if args.json:
        print(json.dumps({"ok": True, "running": True, **answer}, ensure_ascii=False))
    else:
        print("\n".join(_words(answer)))
        print(f"{box.path}: in force 已生效")
    return None


def _reload(box: _Box) -> tuple[int, Any]:
    """Status and body of the daemon's answer; 0 and a complaint when there is none."""
    import urllib.error

    from gateway.errors import ConfigError

    body = {"who": person()}
    try:
        with ask(_in_force(box), box.base, "config/reload", timeout_s=ANSWER_WITHIN_S, body=body) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except (urllib.error.URLError, ConnectionError, TimeoutError, ConfigError) as error:
        return 0, {"detail": str(error)}  # also a token that cannot be read: what was written must be taken back


def _in_force(box: _Box) -> SiteFile:
    """Where the daemon listens is in the configuration it has, not in the one it may get."""
    from gateway.config import load_site_file

    return load_site_file(box.kept[-1].path if box.kept else box.path)


def _refused(args: argparse.Namespace, problems: Sequence[Problem], hint: str) -> int:
    from dataclasses import asdict

    if args.json:
        print(json.dumps({"ok": False, "problems": [asdict(each) for each in problems]}, ensure_ascii=False))
    else:
        print(*problems, hint, sep="\n", file=sys.stderr)
    return FAILED
