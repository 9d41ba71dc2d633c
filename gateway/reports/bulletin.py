"""The monthly bulletin 治安防范设施月度通报 for the notice board: a page for each community, checked before it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.coverage.counts import rate
from gateway.coverage.days import Month
from gateway.coverage.facts import Sort
from gateway.kinds import FACTS, Kind
from gateway.reports import charts, privacy
from gateway.reports.editions import Edition
from gateway.reports.figures import EPOCH, MS, Known
from gateway.reports.pages import render
from gateway.reports.scope import Scope
from gateway.reports.tables import Cell, Column, Table, plain, word_of
from gateway.reports.words import COLOURS, DEVICE_KINDS, GAPS, MEASURES, NO_REQUIRED_POINTS, TIPS, Lang, Said

OTHERS = {
    "other_installation": Said("其他未装齐", "other, not installed"),
    "other_working": Said("其他不工作", "other, not working"),
    "other_technical": Said("其他技防缺口", "other, technical"),
    "other_physical": Said("物防缺口合计", "physical, all sorts"),
}
TOTALS = {
    "required": Said("应装", "required"),
    "installed": Said("已装", "installed"),
    "working": Said("有效", "working"),
    "must_network": Said("应联网", "must be networked"),
    "networked": Said("已联网", "networked"),
}
CURVE = ("required", "installed", "working")
CLASSES_SHOWN = 7
"""More lines do not fit on the page; the chart has the same."""
Progress = Callable[[int, int], None]
"""How many pages are made, of how many."""


def silent(done: int, of: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Bulletin:
    """One edition in all its forms."""

    document: Mapping[str, Any]
    page: str
    tables: Sequence[Table]


@dataclass(frozen=True, slots=True)
class Label:
    """Which edition it is, and what it corrects."""

    said: Said = field(default_factory=lambda: Said("草稿", "draft"))
    changed: Mapping[str, Any] = field(default_factory=dict)
    """By node, as in the edition (gateway/reports/editions.py)."""

    @classmethod
    def of(cls, edition: Edition) -> Label:
        """Of one that was published."""
        document, number, sha = edition.document, edition.number, edition.sha256[:12]
        corrects = document.get("corrects")
        if corrects is None:
            return cls(Said(f"正式版 第 {number} 版 (校验值 {sha})", f"published, no. {number} (sha256 {sha})"))
        was, its = corrects["number"], corrects["sha256"][:12]
        zh = f"第 {number} 版 (校验值 {sha}), 更正第 {was} 版 (校验值 {its})"
        return cls(Said(zh, f"no. {number} (sha256 {sha}), corrects no. {was} (sha256 {its})"), document["changed"])

    def counts(self, node: str) -> Mapping[str, Sequence[int]]:
        """The totals that a correction changes, before and after."""
        changed = self.changed.get(node, {}).get("counts", {})
        return {name: changed[name] for name in TOTALS if name in changed}


def corrections(label: Label, counts: Mapping[str, Sequence[int]], node: str, lang: Lang) -> str:
    """What a page says of it; nothing where nothing was corrected."""
    if node not in label.changed:
        return ""
    said = [f"{TOTALS[name][lang]} {before} → {after}" for name, (before, after) in counts.items()]
    return ", ".join(said) or Said("其他数据", "other figures")[lang]


def public(
    known: Known, figures: Mapping[str, Any], node: str | None, *, lang: Lang, label: Label, progress: Progress = silent
) -> Bulletin:
    """The figures and the pages of the communities at or below a node. Raises NotPublic, NoSuchNode."""
    at, k = EPOCH + figures["at_ms"] * MS, known.settings.cell_min
    scope = Scope(known.history, at)
    shown = {}
    for each in scope.areas_of(scope.node(node), "community"):
        found = privacy.public(figures["nodes"][each], k)
        found["changed"] = privacy.corrected(found, label.counts(each), k)
        privacy.check(found, k)
        shown[each] = found
    month = Month.parse(figures["month"])
    pages = []
    for number, (each, found) in enumerate(shown.items()):
        progress(number, len(shown))
        pages.append({**_sheet(found, each, lang, k), "corrected": corrections(label, found["changed"], each, lang)})
    page = render(
        "public.html", lang, pages=pages, month=month, label=label.said, faults_to=known.settings.faults_to, k=k
    )
    privacy.check_page(page, _ledger(scope, known), [str(area["name"]) for area in scope.areas.values()])
    tables = _tables(shown, k)
    return Bulletin(
        {"month": str(month), "edition": "public", "label": label.said.en, "communities": shown}, page, tables
    )


def _ledger(scope: Scope, known: Known) -> Iterable[str]:
    """Words that say who or where somebody is."""
    for site, value in scope.sites.items():
        yield from (site, *(str(value.get(key) or "") for key in ("name", "address", "contact", "responsible")))
    yield from (device for (device,) in known.history.subjects(Sort.DEVICE))


def number(value: int | None, k: int) -> str:
    """A count, or that it is a small one."""
    return "" if value is None else f"<{k}" if value == privacy.HIDDEN else str(value)


def of_class(code: str, lang: Lang) -> str:
    """A class of gaps, as people say it."""
    gap, _, measure = code.partition(".")
    if code in OTHERS:
        return OTHERS[code][lang]
    return (
        f"{MEASURES[measure][lang] if measure in MEASURES else measure}: {GAPS[gap][lang]}"
        if measure
        else GAPS[gap][lang]
    )


def of_kind(code: str, lang: Lang) -> str:
    """A kind of alarm."""
    return FACTS[Kind(code)].zh if lang == "zh" else FACTS[Kind(code)].en


def four(counts: Mapping[str, int], before: Mapping[str, int], lang: Lang, k: int) -> Sequence[Mapping[str, str]]:
    """The four large figures, each with its two counts and the change to last month."""

    def figure(part: str, whole: str | None) -> dict[str, str]:
        share, was, now = "", before.get(part, privacy.HIDDEN), counts[part]
        if whole and privacy.HIDDEN not in (now, counts[whole]):
            share = rate(now, counts[whole]) if counts[whole] else NO_REQUIRED_POINTS[lang]
        change = "-" if privacy.HIDDEN in (was, now) else f"{now - was:+d}" if now != was else "0"
        of = number(counts[whole], k) if whole else ""
        return {"name": TOTALS[part][lang], "count": number(now, k), "of": of, "rate": share, "change": change}

    pairs = (("required", None), ("installed", "required"), ("working", "required"), ("networked", "must_network"))
    return [figure(part, whole) for part, whole in pairs]


def trend(days: Sequence[str], curve: Sequence[Sequence[int]], node: str, lang: Lang) -> str:
    """Required, installed and working of the last weeks; nothing of a single one."""
    lines = {
        TOTALS[name][lang]: [row[place] for row in curve]
        for place, name in enumerate(("required", "installed", "working"))
    }
    return charts.trend(days, lines, f"trend-{node}") if len(days) > 1 else ""


def _sheet(found: Mapping[str, Any], node: str, lang: Lang, k: int) -> dict[str, Any]:
    """What the template prints of a community, in words."""
    classes = sorted(found["gaps"].items(), key=lambda each: -each[1])[:CLASSES_SHOWN]
    seen = {of_class(code, lang): count for code, count in classes if count != privacy.HIDDEN}
    return {
        **found,
        "figures": four(found["counts"], found["before"], lang, k),
        "waived": number(found["waived"], k),
        "trend": trend(found["days"], found["curve"], node, lang),
        "gap_chart": charts.bars(seen, f"gaps-{node}") if seen else "",
        "improve": [(of_class(code, lang), number(count, k)) for code, count in classes],
        "outage_rows": [
            (DEVICE_KINDS[kind][lang] if kind in DEVICE_KINDS else kind, hours(seconds, lang))
            for kind, seconds in sorted(found["outages"].items(), key=lambda each: -each[1])[:5]
        ],
        "alarm_rows": [
            (of_kind(kind, lang), number(what["alarm"], k), number(what["test"], k))
            for kind, what in sorted(found["alarms"].items(), key=lambda each: -each[1]["alarm"])[:6]
        ],
        "done": number(found["inspections"]["done"], k),
        # A class of the physical gaps: where it is put together with another, only the sum is shown.
        "overdue": number(found["gaps"].get("not_inspected"), k),
        "tips": [tip[lang] for tip in tips(found)],
    }  # fmt: skip


def _tables(shown: Mapping[str, Mapping[str, Any]], k: int) -> Sequence[Table]:
    """The same, for spreadsheets."""

    def count(cell: Cell, lang: Lang) -> str:
        return number(cell, k) if isinstance(cell, int) else plain(cell, lang)

    def numbers(words: Mapping[str, Said]) -> Sequence[Column]:
        return [Column(key, said, count, is_number=True) for key, said in words.items()]

    def classes(part: str) -> list[dict[str, Any]]:
        """A row for each class of each community."""
        found = [(each["name"], code, cells) for each in shown.values() for code, cells in each[part].items()]
        return [
            {"community": name, "class": code, **(cells if isinstance(cells, dict) else {"count": cells})}
            for name, code, cells in found
        ]

    community, class_of = Column("community", Said("社区", "community")), Said("类别", "class")
    totals = [
        {
            "community": each["name"],
            "colour": each["colour"]["level"],
            "waived": each["waived"],
            **each["inspections"],
            **each["counts"],
        }
        for each in shown.values()
    ]
    weeks = [
        {"community": each["name"], "day": day, **dict(zip(CURVE, row, strict=True))}
        for each in shown.values() for day, row in zip(each["days"], each["curve"], strict=True)
    ]  # fmt: skip
    waived = {"waived": Said("豁免", "waived"), "done": Said("本月检查(次)", "inspections done")}
    colour, day = Column("colour", Said("预警", "warning"), word_of(COLOURS)), Column("day", Said("日期", "day"))
    many, curve = {"count": Said("数量(处)", "number")}, {key: TOTALS[key] for key in CURVE}
    heard = {"alarm": Said("报警", "alarms"), "test": Said("测试", "tests")}
    longest = Column("count", Said("最长", "longest"), hours)
    return [
        Table("communities", Said("社区", "communities"), [community, colour, *numbers({**TOTALS, **waived})], totals),
        Table("gaps", Said("需改进", "to be improved"), [community, Column("class", class_of, of_class), *numbers(many)], classes("gaps")),
        Table("alarms", Said("警情", "alarms"), [community, Column("class", class_of, of_kind), *numbers(heard)], classes("alarms")),
        Table("outages", Said("最长停用", "longest outages"), [community, Column("class", class_of, word_of(DEVICE_KINDS)), longest],
              classes("outages")),
        Table("trend", Said("近13周", "last 13 weeks"), [community, day, *numbers(curve)], weeks),
    ]  # fmt: skip


def hours(seconds: int, lang: Lang) -> str:
    """As people say it: days, hours, minutes."""
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} 分钟" if lang == "zh" else f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} 小时" if lang == "zh" else f"{minutes // 60} h"
    return f"{minutes // 1440} 天" if lang == "zh" else f"{minutes // 1440} days"


def tips(found: Mapping[str, Any]) -> Sequence[Said]:
    """Three, for the largest classes of gaps as they are shown; then those that are always good advice."""
    shown = sorted(found["gaps"].items(), key=lambda each: -each[1])
    wanted = [code.partition(".")[0] for code, _ in shown] + ["inspect", "test", "battery", "report"]
    codes = list(dict.fromkeys(code for code in wanted if code in TIPS))
    return [TIPS[code] for code in codes[:3]]
