"""`fangkong report export` and `report merge`: the figures of one box for its district, and the district's from many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli._site_file import OK, add_common, data_dir

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from gateway.reports.boxes import Reported

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


def add_verbs(verbs: Verbs, month: Callable[[str], object], formats: Sequence[str]) -> None:
    export = verbs.add_parser("export", help="a published month of this box, for the figures of the district")
    export.add_argument("--box", help="as the roster of the district knows this box (default [gateway] name)")
    merge = verbs.add_parser("merge", help="the figures of the district from what its boxes exported")
    merge.add_argument("files", type=Path, nargs="+", metavar="FILE|DIR", help="exports of the month")
    merge.add_argument("--roster", type=Path, required=True, help="CSV or TOML: the boxes that should report")
    merge.add_argument(
        "--last", type=Path, nargs="+", default=[], metavar="FILE|DIR",
        help="exports of earlier months: what a box that does not report must have",
    )  # fmt: skip
    merge.add_argument("--node", help="an area or site, and what is below it (default all)")
    merge.add_argument("--format", choices=formats, help="default: as the name of --out ends, else text")
    merge.add_argument("--lang", choices=("zh", "en"), default="zh")
    for verb, run in ((export, _export), (merge, _merge)):
        verb.add_argument("--month", type=month, required=True, help="like 2026-10")
        verb.add_argument("--out", type=Path, help="a file (default standard output)")
        add_common(verb, run)


async def _export(args: argparse.Namespace) -> int:
    from gateway.cli.report import known_of, write
    from gateway.reports.boxes import exported

    site_file, folder = data_dir(args)
    known = await known_of(args, args.month)
    write(args, exported(known, folder, args.month, box=args.box or site_file.gateway.name))
    return OK


async def _merge(args: argparse.Namespace) -> int:
    from gateway.cli.report import FORMATS, format_of, write
    from gateway.reports.district import district, report, roster
    from gateway.reports.formats import written

    form = format_of(args, FORMATS)
    found = district(args.month, _read(args.files), _read(args.last), roster(args.roster))
    write(args, written(report(found, args.node), form, args.lang))
    return OK


def _read(paths: Iterable[Path]) -> Sequence[Reported]:
    """The exports that are meant, each folder's in the order of their names. Raises NoExport."""
    from gateway.reports.boxes import read

    return [read(each) for path in paths for each in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
