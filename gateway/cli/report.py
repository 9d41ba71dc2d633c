"""`fangkong report`: what is required, installed, working and networked, as people and programs read it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli._site_file import FAILED, OK, add_common, audit_of, data_dir, os_actor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.cli import Commands
    from gateway.coverage.days import Month
    from gateway.reports.figures import Known

FORMATS = ("text", "json", "csv", "html", "pdf", "xlsx")
PAGE_FORMATS = ("html", "json", "pdf", "xlsx")
ENDINGS = {"text": ".txt"}
"""Of names of files, where it is not the format's own name."""


def add_parser(commands: Commands) -> None:
    from gateway.cli._report_boxes import add_verbs

    parser = commands.add_parser("report")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in (
        ("coverage", "required, installed, working and networked, node by node"),
        ("gaps", "what is not as it must be, the most urgent first"),
        ("deficiencies", "gaps that lasted: who has to put them right until when"),
        ("zones", "the assessment table of the control zones"),
        ("ledger", "the equipment ledger and its changes"),
        ("notice", "the rectification notice: a letter to each who has something to put right"),
        ("schedule", "what has to be inspected or live-tested when, overdue first"),
    ):
        verb = verbs.add_parser(name, help=text)
        _add_when(verb)
        verb.add_argument("--format", choices=FORMATS, help="default: as the name of --out ends, else text")
        add_common(verb, _tables)
        verb.set_defaults(report=name)
        if name == "ledger":
            verb.add_argument("--since", type=_moment, help="changes recorded from then on (default: of the month)")
        elif name == "notice":
            by = ("responsible", "site")
            verb.add_argument(
                "--by", choices=by, default=by[0], help="whom a letter is to (default the responsible party)"
            )
        elif name == "schedule":
            verb.add_argument("--months", type=_months, default=3, help="so many, the present one first (default 3)")
    bulletin = verbs.add_parser("bulletin", help="the monthly bulletin: a page for each community")
    _add_when(bulletin)
    bulletin.add_argument("--format", choices=PAGE_FORMATS, help="default: as the name of --out ends, else html")
    bulletin.add_argument("--edition", choices=("public", "internal"), default="public")
    add_common(bulletin, _bulletin)
    for name, text, run in (
        ("publish", "freeze a month; a second time, as a correction", _publish),
        ("verify", "derive published figures again from the facts of that time", _verify),
    ):
        verb = verbs.add_parser(name, help=text)
        is_needed = run is _publish
        verb.add_argument(
            "--month", type=_month, required=is_needed, help="like 2026-10" + ("" if is_needed else "; default all")
        )
        add_common(verb, run)
    add_verbs(verbs, _month, FORMATS)


def _add_when(parser: argparse.ArgumentParser) -> None:
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", type=_moment, help="an instant, like 2026-10-31T18:00+08:00 (default now)")
    when.add_argument("--month", type=_month, help="its end, like 2026-10")
    parser.add_argument("--node", help="an area or site, and what is below it (default all)")
    parser.add_argument("--lang", choices=("zh", "en"), default="zh")
    parser.add_argument("--out", type=Path, help="a file (default standard output)")


def _moment(text: str) -> datetime:
    from datetime import datetime

    from gateway.coverage.days import LOCAL

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time is expected, like 2026-10-31T18:00+08:00, not {text!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=LOCAL)


def _months(text: str) -> int:
    from gateway.reports.schedule import MONTHS_MAX

    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MONTHS_MAX:
        raise argparse.ArgumentTypeError(f"1 to {MONTHS_MAX} months are expected, not {text!r}")
    return int(text)


def _month(text: str) -> Month:
    from gateway.coverage.days import Month

    try:
        return Month.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def known_of(args: argparse.Namespace, month: Month) -> Known:
    """All that this box knows. Raises ConfigError, StoreError."""
    from gateway.reports.sources import known

    site_file, folder = data_dir(args)
    return await known(folder, month, site_file.coverage, site_file.reports)


def _when(args: argparse.Namespace) -> tuple[datetime, Month]:
    from gateway.clock import RealClock
    from gateway.coverage.days import LOCAL, Month
    from gateway.errors import ConfigError, Problem
    from gateway.reports.figures import instant_of

    now = RealClock().now()
    month = args.month or Month.of(args.at or now)
    if (args.at or month.start) > now:
        key, expected = (
            "--at" if args.at else "--month",
            f"not later than now, {now.astimezone(LOCAL):%Y-%m-%dT%H:%M%z}",
        )
        raise ConfigError([Problem("command line", None, key, "is in the future", expected, "时间尚未到来")])
    return args.at or instant_of(month, now), month


async def _tables(args: argparse.Namespace) -> int:
    from gateway.reports.figures import MS
    from gateway.reports.formats import written
    from gateway.reports.office import Asked, report

    form = format_of(args, FORMATS)
    at, month = _when(args)
    since = getattr(args, "since", None)
    asked = Asked(
        await known_of(args, month), at, args.node, since=since or month.start, until=at + MS if since else month.end,
        months=getattr(args, "months", 1), by=getattr(args, "by", "site"),
    )  # fmt: skip
    write(args, written(report(args.report, asked), form, args.lang))
    return OK


def format_of(args: argparse.Namespace, formats: Sequence[str]) -> str:
    """As was asked for, as --json or the name of the file says; on standard output the first. Raises ConfigError."""
    from gateway.errors import ConfigError, Problem

    if args.format or args.json or not args.out:
        return str(args.format or ("json" if args.json else formats[0]))
    known = {ENDINGS.get(form, f".{form}"): form for form in formats}
    ending = args.out.suffix.lower()
    if ending not in known:
        found = f"{args.out.name!r} ends in {ending}" if ending else f"{args.out.name!r} has no ending"
        expected = f"a name that ends in {', '.join(known)}, or --format"
        raise ConfigError([Problem("command line", None, "--out", found[:160], expected, "文件类型不明")])
    return known[ending]


async def _bulletin(args: argparse.Namespace) -> int:
    from gateway.errors import GatewayError
    from gateway.reports.bulletin import Label, public
    from gateway.reports.editions import as_published, changed, editions
    from gateway.reports.figures import month_figures
    from gateway.reports.formats import json_bytes, pdf, xlsx
    from gateway.reports.internal import internal

    form = format_of(args, PAGE_FORMATS)
    at, month = _when(args)
    known = await known_of(args, month)
    site_file, folder = data_dir(args)
    published = [] if args.at else editions(folder, month)
    if published:
        last = published[-1]
        if why := changed(last, known, month):
            raise GatewayError(f"{last.path}: {why}; see  fangkong report verify --month {month}")
        known, figures, label = as_published(last, known, month, folder), last.document["figures"], Label.of(last)
    else:
        figures, label = month_figures(known, month, at, box=site_file.gateway.name), Label()
    make = public if args.edition == "public" else internal
    made = make(known, figures, args.node, lang=args.lang, label=label, progress=_progress)
    if form == "xlsx":
        write(args, xlsx(made.tables, args.lang))
    else:
        write(
            args,
            json_bytes(made.document) if form == "json" else pdf(made.page) if form == "pdf" else made.page.encode(),
        )
    return OK


def _progress(done: int, of: int) -> None:
    """A bar for who looks at it: on a terminal, and not in a file."""
    import sys

    if sys.stderr.isatty():
        end = "\r\033[K" if done + 1 >= of else ""
        print(f"\r{'#' * (done * 30 // of):30} {done}/{of}{end}", end="", file=sys.stderr, flush=True)


async def _publish(args: argparse.Namespace) -> int:
    from gateway.clock import RealClock
    from gateway.registry import Registry
    from gateway.reports.publishing import publish

    known = await known_of(args, args.month)
    site_file, folder = data_dir(args)
    registry = await Registry.open(folder / "registry.db")
    try:
        made = await publish(
            folder, known, args.month, box=site_file.gateway.name, now=RealClock().now(), record=registry.record,
            audit=audit_of(args), actor=os_actor(),
        )  # fmt: skip
    finally:
        await registry.close()
    if args.json:
        print(json.dumps({"edition": str(made.path), "state": made.state, "sha256": made.sha256}))
    else:
        print(f"{made.path}: {made.state}, sha256 {made.sha256} 已发布")
    return OK


async def _verify(args: argparse.Namespace) -> int:
    from gateway.clock import RealClock
    from gateway.coverage.days import Month
    from gateway.reports.editions import editions, faults, missing, months

    folder = data_dir(args)[1]
    known = await known_of(args, args.month or Month.of(RealClock().now()))
    found: dict[str, Sequence[str]] = {}
    for month in [args.month] if args.month else months(folder, known):
        known = await known_of(args, month)
        found |= {
            str(path): ["published, and is not there any more 文件缺失"] for path in missing(folder, known, month)
        }
        found |= {f"{each.path} {each.sha256}": faults(each, known, month, folder) for each in editions(folder, month)}
    if args.json:
        print(json.dumps([{"edition": name, "faults": list(why)} for name, why in found.items()], ensure_ascii=False))
    elif not found:
        print(f"{args.month or folder}: nothing is published 尚未发布")
    else:
        for name, why in found.items():
            print(f"{name}: {'; '.join(why) or 'derived again byte for byte 一致'}")
    return FAILED if any(found.values()) or (args.month and not found) else OK


def write(args: argparse.Namespace, content: bytes) -> None:
    """To --out or standard output. Raises GatewayError."""
    import sys

    from gateway.errors import GatewayError

    if args.out is None:
        sys.stdout.buffer.write(content)
        return
    try:
        args.out.write_bytes(content)
    except OSError as error:
        raise GatewayError(f"--out {args.out}: {error.strerror}; a file that can be written is expected") from error
