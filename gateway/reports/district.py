"""A district of many boxes: the roster of those that should report, and its figures from what they exported."""

from __future__ import annotations

import csv
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.coverage.counts import Counts, rate
from gateway.coverage.days import Month
from gateway.coverage.merge import BOXES_MAX, Expected, Merged, merge
from gateway.coverage.period import Period
from gateway.reports.boxes import NoExport, Place, Reported
from gateway.reports.lists import RATES, counted, pair
from gateway.reports.scope import ALL, NoSuchNode
from gateway.reports.tables import Cell, Column, Report, Show, Table, plain, word_of
from gateway.reports.words import AREA_KINDS, GAPS, MEASURES, NO_REQUIRED_POINTS, NOT_REPORTED, SITE_KINDS, Lang, Said

HOUR_MS = 3_600_000
HEADS = {
    "网关": "box",
    "名称": "name",
    "区域": "area",
    "应装点位": "required",
    "应联点位": "must_network",
    "目标单位": "target_units",
}
_KEYS = frozenset(HEADS.values())
_PLANNED = ("required", "must_network", "target_units")
UNHEARD = Said(
    "。其应装点位计入分母,不计已装。",
    ". What boxes that did not report must have is in the denominators, and nothing of it counts as installed.",
)
DEPTH_MAX = 8
"""Areas above each other: three kinds are known."""


@dataclass(frozen=True, slots=True)
class Post:
    """A box of the roster."""

    box: str
    planned: Counts
    """What must be there, as long as it has never reported: points, those of them that must reach 110, units of the target."""
    name: str = ""
    area: str = ""
    """The id of the area it serves; without, only the total knows of what is planned."""


def roster(path: Path) -> Mapping[str, Post]:
    """From CSV or TOML. Raises NoExport with the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = tomllib.loads(text).get("box", []) if path.suffix == ".toml" else _lines(text)
    except OSError as error:
        raise NoExport(f"--roster {path}: {error.strerror}; a CSV or TOML file of the boxes is expected") from error
    except ValueError as error:  # no UTF-8, no TOML
        raise NoExport(f"--roster {path}: {error}; CSV or TOML in UTF-8 is expected 名册无法读取") from error
    found: dict[str, Post] = {}
    for number, row in enumerate(rows, 1):
        where = f"--roster {path}: box no. {number}"
        post = _post(where, row)
        if post.box in found:
            raise NoExport(f"{where}: {post.box} is there twice; every box once is expected 名册重复")
        found[post.box] = post
    if not 1 <= len(found) <= BOXES_MAX:
        raise NoExport(f"--roster {path}: {len(found)} boxes; 1 to {BOXES_MAX} are expected 名册为空或过长")
    return found


def _lines(text: str) -> Iterable[Mapping[str, Any]]:
    lines = csv.DictReader(text.splitlines())
    for line in lines:
        yield {HEADS.get(str(key).strip(), str(key).strip()): cell for key, cell in line.items() if cell}


def _post(where: str, row: Mapping[str, Any]) -> Post:
    if unknown := row.keys() - _KEYS:
        raise NoExport(f"{where}: {', '.join(sorted(unknown))}: {', '.join(HEADS.values())} are expected 未知列")
    box = str(row.get("box", "")).strip()
    if not box:
        raise NoExport(f"{where}: box: the name in the site file of the box is expected 缺少网关名")
    planned = Counts(**{key: _number(f"{where}: {key}", row.get(key, "")) for key in _PLANNED})
    return Post(box, planned, str(row.get("name", "")).strip(), str(row.get("area", "")).strip())


def _number(where: str, cell: object) -> int:
    text = str(cell).strip()
    if not (text.isascii() and text.isdigit()):
        raise NoExport(f"{where}: how many are planned there is expected, 0 if none, not {text!r} 应为数量")
    return int(text)


# -- merging -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class District:
    """All that is known of a month."""

    month: Month
    posts: Mapping[str, Post]
    reported: Mapping[str, Reported]
    places: Mapping[str, Place]
    merged: Merged


def district(
    month: Month, reports: Sequence[Reported], earlier: Sequence[Reported], posts: Mapping[str, Post]
) -> District:
    """Raises NoExport for a report that does not fit, by its name."""
    here: dict[str, Reported] = {}
    for each in reports:
        _check(each, month, posts, here)
        here[each.export.box] = each
    last = {
        each.export.box: each
        for each in sorted(earlier, key=lambda each: (each.month, each.edition))
        if each.month < month
    }
    places = _places([*(each for box, each in last.items() if box in posts and box not in here), *here.values()])
    for post in posts.values():
        if post.area:
            places.setdefault(f"area:{post.area}", Place(post.area, "", ALL))
    expected = {
        box: Expected(last[box].export if box in last else None, _planned(post, places)) for box, post in posts.items()
    }
    try:
        merged = merge([each.export for each in here.values()], expected)
    except ValueError as error:
        raise NoExport(f"{error} 上报文件不一致") from error
    return District(month, posts, here, places, merged)


def _check(each: Reported, month: Month, posts: Mapping[str, Post], here: Mapping[str, Reported]) -> None:
    box = each.export.box
    if each.month != month:
        raise NoExport(
            f"{each.path}: is of {each.month}, not of {month}: leave it out, or give it with --last, for what box {box}"
            " must have if it does not report 月份不符"
        )
    if box not in posts:
        raise NoExport(
            f"{each.path}: box {box} is not on the roster: enter it there, or export with --box and the name it has there"
            " 不在名册"
        )
    if box in here:
        raise NoExport(
            f"{each.path}: box {box} has reported twice, also in {here[box].path}: leave the older edition out (editions"
            f" {each.edition} and {here[box].edition}), or give the boxes names of their own with --box 重复上报"
        )
    first = next(iter(here.values()), each)
    if each.rules != first.rules:
        raise NoExport(
            f"{each.path}: box {box} counts by other rules ([coverage] of its site file) than {first.export.box} in"
            f" {first.path}: set both alike, publish a correction and export again 计算规则不一致"
        )


def _places(reports: Iterable[Reported]) -> dict[str, Place]:
    """All nodes; of two boxes that name one differently the later counts."""
    found: dict[str, Place] = {}
    owner: dict[str, Reported] = {}
    for each in reports:
        for node, place in each.places.items():
            if node in found and found[node].parent != place.parent:
                raise NoExport(
                    f"{each.path}: {node} lies in {place.parent}, in {owner[node].path} in {found[node].parent}: bring the"
                    " areas of both boxes in line, publish a correction and export again 区域层级不一致"
                )
            found[node], owner[node] = place, each
    return found


def _planned(post: Post, places: Mapping[str, Place]) -> Mapping[str, Counts]:
    start = f"area:{post.area}" if post.area else ALL
    return dict.fromkeys(up(places, start), post.planned)


def up(places: Mapping[str, Place], node: str) -> Sequence[str]:
    """A node and those it is counted in, the whole last."""
    found = [node]
    while found[-1] != ALL and len(found) <= DEPTH_MAX:
        place = places.get(found[-1])
        found.append(ALL if place is None or place.parent is None else place.parent)
    return found


# -- printing ----------------------------------------------------------------------------------------------------------


def report(found: District, wanted: str | None) -> Report:
    """Boxes, nodes, classes, gaps. Raises NoSuchNode."""
    node = _node(found.places, wanted)
    missing = [box for box in found.posts if box in found.merged.missing]
    reported = len(found.posts) - len(missing)
    names = f": {'、'.join(missing)}" if missing else ""
    rule = UNHEARD if missing else Said("", "")
    subtitle = Said(
        f"{found.month} · 网关 {len(found.posts)} 台, 已上报 {reported}, 未上报 {len(missing)}{names}{rule.zh}",
        f"{found.month} · {len(found.posts)} boxes, {reported} reported, {len(missing)} not reported{names}{rule.en}",
    )
    facts: dict[str, Cell] = {
        "month": str(found.month),
        "node": node,
        "expected": len(found.posts),
        "not_reported": len(missing),
    }
    return Report(
        "merge", Said("全区覆盖情况汇总表", "coverage of the district"), subtitle,
        [_coverage(found, node), _classes(found, node), _gaps(found, node), _boxes(found)], facts,
    )  # fmt: skip


def _node(places: Mapping[str, Place], wanted: str | None) -> str:
    if wanted is None:
        return ALL
    for node in (wanted, f"area:{wanted}", f"site:{wanted}"):
        if node in places:
            return node
    areas = ", ".join(sorted(node[5:] for node in places if node.startswith("area:")))
    raise NoSuchNode(f"--node {wanted}: no such area or site in these reports; areas: {areas or 'none'} 无此区域或场所")


def _ordered(places: Mapping[str, Place], node: str) -> Iterable[str]:
    yield node
    for below in sorted(each for each, place in places.items() if each != ALL and (place.parent or ALL) == node):
        yield from _ordered(places, below)


def _hours(cell: Sequence[int], lang: Lang) -> str:
    part, whole = cell
    return f"{rate(part, whole)} ({part // HOUR_MS}/{whole // HOUR_MS} h)" if whole else NO_REQUIRED_POINTS[lang]


def _coverage(found: District, node: str) -> Table:
    rows = [
        {
            "node": each,
            "kind": place.kind,
            "name": place.name,
            "site_kind": place.site_kind,
            **counted(found.merged.counts.get(each, Counts())),
            "availability": list(found.merged.periods.get(each, Period()).availability),
        }
        for each in _ordered(found.places, node)
        for place in [found.places[each]]
    ]
    columns = (
        Column("kind", Said("层级", "level"), word_of(AREA_KINDS)),
        Column("name", Said("名称", "name")),
        Column("site_kind", Said("类别", "kind"), word_of(SITE_KINDS)),
        *RATES,
        Column("target", Said("目标单位(装齐/全部)", "target units (complete/all)"), pair),
        Column("availability", Said("可用率(有效/应有)", "availability (worked/required)"), _hours),
    )
    return Table("coverage", Said("覆盖情况", "coverage"), columns, rows)


def _classes(found: District, node: str) -> Table:
    rows = [{"measure": measure, **counted(of)} for measure, of in sorted(found.merged.classes.get(node, {}).items())]
    physical = Column("physical", Said("物防合格率", "physical compliance"), pair)
    columns = (Column("measure", Said("措施", "measure"), word_of(MEASURES)), *RATES, physical)
    return Table("classes", Said("按设施类别", "by class"), columns, rows)


def _gaps(found: District, node: str) -> Table:
    sorts = Counter(found.merged.gaps.get(node, {}))
    columns = (
        Column("gap", Said("缺口", "gap"), word_of(GAPS)),
        Column("number", Said("数量", "number"), is_number=True),
    )
    return Table("gaps", Said("缺口", "gaps"), columns, [{"gap": gap, "number": n} for gap, n in sorted(sorts.items())])


def _unless_not_reported(show: Show) -> Show:
    return lambda cell, lang: NOT_REPORTED[lang] if cell is None else show(cell, lang)


def _boxes(found: District) -> Table:
    rows = []
    for box, post in found.posts.items():
        here, counts = found.reported.get(box), found.merged.boxes[box].counts.get(ALL, Counts())
        last = found.merged.missing.get(box)
        rates = {column.key: counted(counts)[column.key] if here else None for column in RATES[:4]}
        rows.append(
            {
                "box": box,
                "name": post.name,
                "state": "reported" if here else "not_reported",
                "required": counts.required,
                "basis": str(found.month) if here else str(Month.of(last).plus(-1)) if last else "roster",
                **rates,
                "edition": here.edition if here else None,
                "sha256": here.sha256 if here else None,
            }
        )
    columns = (
        Column("box", Said("网关", "box")),
        Column("name", Said("名称", "name")),
        Column(
            "state",
            Said("上报", "report"),
            word_of({"reported": Said("已上报", "reported"), "not_reported": NOT_REPORTED}),
        ),
        Column("required", Said("应装", "required"), is_number=True),
        Column("basis", Said("应装依据", "required as of"), word_of({"roster": Said("名册", "the roster")})),
        *(Column(column.key, column.head, _unless_not_reported(column.show)) for column in RATES[:4]),
        Column("edition", Said("版次", "edition"), is_number=True),
        Column("sha256", Said("校验值", "SHA-256"), lambda cell, lang: plain(cell and cell[:12], lang)),
    )
    return Table("boxes", Said("各网关上报情况", "the boxes"), columns, rows)
