"""The bulletin for the office: everything, with a page for each community and the lists behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from gateway.coverage.count import over, tree, verdicts
from gateway.coverage.counts import Counts
from gateway.coverage.days import Month, day_of
from gateway.coverage.facts import Sort
from gateway.reports import charts, gaps, lists
from gateway.reports.bulletin import Bulletin, Label, Progress, corrections, four, hours, of_kind, silent, trend
from gateway.reports.deficiencies import gaps_of, tickets_at
from gateway.reports.figures import EPOCH, MS, Known
from gateway.reports.pages import render
from gateway.reports.scope import ALL, Scope
from gateway.reports.tables import Column, Row, Table, word_of
from gateway.reports.words import (
    AREA_KINDS,
    COLOURS,
    DEVICE_KINDS,
    FORECASTS,
    GAPS,
    MEASURES,
    Lang,
    Said,
)

HOUR_MS = 3_600_000
SITES_SHOWN, GAPS_SHOWN, KINDS_SHOWN = 5, 5, 4
"""On a community's page; all of them are in the lists."""


def internal(
    known: Known, figures: Mapping[str, Any], node: str | None, *, lang: Lang, label: Label, progress: Progress = silent
) -> Bulletin:
    """Raises NoSuchNode."""
    at, month = EPOCH + figures["at_ms"] * MS, Month.parse(figures["month"])
    scope = Scope(known.history, at)
    top = scope.node(node)
    judged = verdicts(known.history, at, rules=known.rules)
    opened, counts = gaps_of(known, judged, at), tree(known.history, at, rules=known.rules)
    listed = gaps.rows(known, gaps.in_order(scope, opened, top), tickets_at(known, opened, at), at)
    inside = [each for each in scope.nodes() if top in scope.up(each)]
    tables = [
        _nodes(figures, [each for each in inside if each in figures["nodes"]]),
        lists.coverage(scope, counts, top),
        gaps.table(listed),
        _waivers(known, scope, top, at),
        _models(known, month, at),
    ]
    pages = []
    sheets = [
        top if top in figures["nodes"] else ALL,
        *(each for each in scope.areas_of(top, "community") if each != top),
    ]
    for number, each in enumerate(sheets):
        progress(number, len(sheets))
        rows = [row for row in listed if each in scope.chain(row["site"])]
        pages.append({**_sheet(figures["nodes"][each], each, rows, lang), "sites": _sites(scope, counts, each, lang),
                      "corrected": corrections(label, label.counts(each), each, lang)})  # fmt: skip
    page = render("internal.html", lang, pages=pages, tables=tables, month=month, label=label.said)
    curves = _curves(figures, sheets)
    lines = {table.key: [dict(row) for row in table.rows] for table in tables}
    return Bulletin(
        {"edition": "internal", "label": label.said.en, "figures": figures, **lines}, page, [*tables, curves]
    )


def _sheet(node: Mapping[str, Any], name: str, open_gaps: Sequence[Row], lang: Lang) -> dict[str, Any]:
    """What the template prints of a node, in words; nothing is hidden."""
    period, curve = node["period"], node["curve"]
    classes = {gap: sum(of.values()) for family in node["gaps"].values() for gap, of in family.items()}
    largest = sorted(classes.items(), key=lambda each: -each[1])[:KINDS_SHOWN]
    columns = {column.key: column for column in gaps.COLUMNS}
    shown = ("risk", "site_name", "point_name", "measure", "gap", "since", "responsible", "due", "overdue_days")
    availability = lists.pair([period["working_ms"] // HOUR_MS, period["required_ms"] // HOUR_MS], lang)
    return {
        "name": node["name"], "kind": AREA_KINDS[node["kind"]][lang], "colour": node["colour"],
        "figures": four(node["counts"], node["before"], lang, 0), "waived": node["counts"]["waived"],
        "trend": trend([row[0] for row in curve], [row[1:4] for row in curve], name, lang),
        "gap_chart": charts.bars({GAPS[gap][lang]: n for gap, n in largest}, f"gaps-{name}") if largest else "",
        "target_chart": _towards(node, name, lang), "forecast": _forecast(node, lang),
        "gap_heads": [columns[key].head[lang] for key in shown],
        "gap_rows": [[columns[key].show(row[key], lang) for key in shown] for row in open_gaps[:GAPS_SHOWN]],
        "gaps_more": max(0, len(open_gaps) - GAPS_SHOWN),
        "alarms_known": node["alarms_known"],
        "alarm_rows": [(of_kind(kind, lang), what["alarm"], what["test"])
                       for kind, what in sorted(node["alarms"].items(), key=lambda each: -each[1]["alarm"])[:KINDS_SHOWN]],
        "outage_rows": [(DEVICE_KINDS[kind][lang] if kind in DEVICE_KINDS else kind, times, hours(longest, lang))
                        for kind, (times, longest) in sorted(node["outages"].items(), key=lambda each: -each[1][1])[:KINDS_SHOWN]],
        "inspections": node["inspections"], "availability": availability,
        "mttr": _hours(period["repair_ms"], period["faults"]), "mtbf": _hours(period["in_duty_ms"] - period["repair_ms"], period["faults"]),
        "faults": period["faults"],
    }  # fmt: skip


def _hours(ms: int, times: int) -> str:
    return f"{ms // times // HOUR_MS} h" if times else "-"


def _sites(scope: Scope, counts: Mapping[str, Counts], node: str, lang: Lang) -> Mapping[str, Any]:
    """The sites of a node, those that lack most first."""
    table = lists.coverage(scope, counts, node)
    rows = [row for row in table.rows if row["kind"] == "site"]
    rows.sort(key=lambda row: (row["working"] - row["required"], row["node"]))
    some = Table("sites", Said("场所", "sites"), [*table.columns[1:7]], rows[:SITES_SHOWN])
    return {"heads": some.heads(lang), "rows": some.texts(lang), "more": max(0, len(rows) - SITES_SHOWN)}


def _forecast(node: Mapping[str, Any], lang: Lang) -> str:
    found = node["forecast"]
    return str(found["day"] or FORECASTS[found["why"]][lang])


def _towards(node: Mapping[str, Any], name: str, lang: Lang) -> str:
    """What was promised against what is, and when it will be all of it."""
    actual = [(date.fromisoformat(row[0]), row[2] * 1000 // row[1]) for row in node["curve"] if row[1]]
    target = [(date.fromisoformat(due), share) for due, share in node["targets"]]
    day = node["forecast"]["day"] if node["forecast"]["why"] != "reached" else None
    until = date.fromisoformat(day) if day else None
    words = (
        Said("实际", "actual"),
        Said("目标", "target"),
        Said(f"预测 {day}" if day else "预测", f"forecast {day}" if day else "forecast"),
    )
    return (
        charts.towards(actual, target, until, [each[lang] for each in words], f"target-{name}")
        if len(actual) > 1
        else ""
    )


def _curves(figures: Mapping[str, Any], nodes: Sequence[str]) -> Table:
    keys = ("day", "required", "installed", "working", "networked")
    curves = [(figures["nodes"][node]["name"], row) for node in nodes for row in figures["nodes"][node]["curve"]]
    rows = [{"name": name, **dict(zip(keys, row, strict=True))} for name, row in curves]
    heads = {"required": Said("应装", "required"), "installed": Said("已装", "installed"), "working": Said("有效", "working"),
             "networked": Said("已联网", "networked")}  # fmt: skip
    columns = (
        Column("name", Said("名称", "name")),
        Column("day", Said("日期", "day")),
        *(Column(key, said, is_number=True) for key, said in heads.items()),
    )
    return Table("curve", Said("近13周", "last 13 weeks"), columns, rows)


def _nodes(figures: Mapping[str, Any], nodes: Sequence[str]) -> Table:
    """Colour and forecast, node by node."""
    rows = []
    for each in nodes:
        node, period = figures["nodes"][each], figures["nodes"][each]["period"]
        faults = period["faults"]
        rows.append({
            "node": each, "kind": node["kind"], "name": node["name"], **{f"by_{why}": level for why, level in node["colour"].items()},
            "forecast": node["forecast"]["day"] or node["forecast"]["why"],
            "availability": [period["working_ms"] // HOUR_MS, period["required_ms"] // HOUR_MS],
            "mttr_h": period["repair_ms"] // faults // HOUR_MS if faults else None,
            "mtbf_h": (period["in_duty_ms"] - period["repair_ms"]) // faults // HOUR_MS if faults else None,
        })  # fmt: skip
    colour = word_of(COLOURS)
    columns = (
        Column("kind", Said("层级", "level"), word_of(AREA_KINDS)),
        Column("name", Said("名称", "name")),
        Column("by_level", Said("预警", "warning"), colour),
        Column("by_coverage", Said("覆盖", "coverage"), colour),
        Column("by_alarms", Said("警情", "alarms"), colour),
        Column("by_critical", Said("重大缺口", "critical gap"), colour),
        Column("availability", Said("可用率(点位小时)", "availability (point hours)"), lists.pair),
        Column("mttr_h", Said("平均修复(时)", "MTTR (h)"), is_number=True),
        Column("mtbf_h", Said("平均无故障(时)", "MTBF (h)"), is_number=True),
        Column("forecast", Said("100%预测日", "100 % by"), word_of(FORECASTS)),
    )
    return Table("nodes", Said("预警与预测", "warning and forecast"), columns, rows)


def _waivers(known: Known, scope: Scope, top: str, at: datetime) -> Table:
    rows = []
    for verdict in verdicts(known.history, at, rules=known.rules):
        if verdict.waived and scope.is_in(top, verdict.site):
            (until,) = [said.valid_to for said in [_last(known, verdict.point, verdict.measure, at)] if said] or [None]
            point = known.history.at(Sort.POINT, (verdict.point,), at) or {}
            rows.append({
                "site_name": scope.sites[verdict.site]["name"], "point_name": point.get("name"), "measure": verdict.measure,
                "reason": verdict.because, "until": day_of(until).isoformat() if until else None,
            })  # fmt: skip
    columns = (
        Column("site_name", Said("场所", "site")),
        Column("point_name", Said("点位", "point")),
        Column("measure", Said("措施", "measure"), word_of(MEASURES)),
        Column("reason", Said("理由", "reason")),
        Column("until", Said("到期日", "until")),
    )
    return Table("waivers", Said("豁免", "waivers"), columns, rows)


def _last(known: Known, point: str, measure: str, at: datetime) -> Any:
    said = [f for f in known.facts if f.sort is Sort.WAIVER and f.subject == (point, measure) and f.valid_from <= at]
    return max(said, key=lambda fact: (fact.valid_from, fact.id), default=None)


def _models(known: Known, month: Month, at: datetime) -> Table:
    """The most often broken first."""
    rows = []
    for name, period in over(known.history, month.start, at, rules=known.rules).items():
        if name.startswith("model:"):
            rows.append({
                "model": name.removeprefix("model:"), "faults": period.faults, "duty_days": period.in_duty_ms // 86_400_000,
                "mttr_h": None if period.mttr_ms is None else period.mttr_ms // HOUR_MS,
                "mtbf_h": None if period.mtbf_ms is None else period.mtbf_ms // HOUR_MS,
            })  # fmt: skip
    rows.sort(key=lambda row: (row["mtbf_h"] is None, row["mtbf_h"] or 0, row["model"]))
    columns = (
        Column("model", Said("厂商/型号", "vendor/model")),
        Column("faults", Said("故障次数", "faults"), is_number=True),
        Column("duty_days", Said("在用台日", "device days"), is_number=True),
        Column("mttr_h", Said("平均修复(时)", "MTTR (h)"), is_number=True),
        Column("mtbf_h", Said("平均无故障(时)", "MTBF (h)"), is_number=True),
    )
    return Table("models", Said("型号排名", "models"), columns, rows)
