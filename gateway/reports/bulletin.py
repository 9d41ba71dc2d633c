"""The monthly bulletin 治安防范设施月度通报: for the notice board a page for each community, for the office everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.coverage.count import over, tree, verdicts
from gateway.coverage.counts import rate
from gateway.coverage.days import Month, day_of
from gateway.coverage.facts import Sort
from gateway.kinds import FACTS, Kind
from gateway.reports import charts, gaps, lists, privacy
from gateway.reports.deficiencies import gaps_of, tickets_at
from gateway.reports.figures import EPOCH, MS, Known
from gateway.reports.pages import render
from gateway.reports.scope import Scope
from gateway.reports.tables import Column, Table
from gateway.reports.words import DEVICE_KINDS, GAPS, MEASURES, NO_REQUIRED_POINTS, TIPS, Lang, Said

OTHER = Said("其他", "other")


def public(
    known: Known, figures: Mapping[str, Any], node: str | None, lang: Lang, label: str
) -> tuple[dict[str, Any], str]:
    """The figures and the pages of the communities at or below a node. Raises NotPublic, NoSuchNode."""
    at, k = EPOCH + figures["at_ms"] * MS, known.settings.cell_min
    scope = Scope(known.history, at)
    communities = scope.areas_of(scope.node(node), "community")
    shown = {each: privacy.public(figures["nodes"][each], k) for each in communities}
    for found in shown.values():
        privacy.check(found, k)
    month = Month.parse(figures["month"])
    pages = [_sheet(found, each, lang, k) for each, found in shown.items()]
    page = render("public.html", lang, pages=pages, month=month, label=label, faults_to=known.settings.faults_to, k=k)
    privacy.check_page(page, _ledger(scope, known), [str(area["name"]) for area in scope.areas.values()])
    return {"month": str(month), "edition": "public", "communities": shown}, page


def _ledger(scope: Scope, known: Known) -> Iterable[str]:
    """Words that say who or where somebody is."""
    for site, value in scope.sites.items():
        yield from (site, *(str(value.get(key) or "") for key in ("name", "address", "contact", "responsible")))
    yield from (device for (device,) in known.history.subjects(Sort.DEVICE))


def _sheet(found: Mapping[str, Any], node: str, lang: Lang, k: int) -> dict[str, Any]:
    """What the template prints of a community, in words."""
    counts, before = found["counts"], found["before"]
    less = f"<{k}"

    def number(value: int) -> str:
        return less if value == privacy.HIDDEN else str(value)

    def figure(name: Said, part: str, whole: str | None) -> dict[str, str]:
        share = ""
        if whole and privacy.HIDDEN not in (counts[part], counts[whole]):
            share = rate(counts[part], counts[whole]) if counts[whole] else NO_REQUIRED_POINTS[lang]
        was, now = before.get(part, privacy.HIDDEN), counts[part]
        change = "-" if privacy.HIDDEN in (was, now) else f"{now - was:+d}" if now != was else "0"
        return {
            "name": name[lang],
            "count": number(now),
            "of": number(counts[whole]) if whole else "",
            "rate": share,
            "change": change,
        }

    def of_class(code: str) -> str:
        if code == privacy.OTHER:
            return OTHER[lang]
        gap, _, measure = code.partition(".")
        return f"{MEASURES[measure][lang] if measure in MEASURES else measure}: {GAPS[gap][lang]}"

    lines = {
        Said("应装", "required")[lang]: [row[0] for row in found["curve"]],
        Said("已装", "installed")[lang]: [row[1] for row in found["curve"]],
        Said("有效", "working")[lang]: [row[2] for row in found["curve"]],
    }
    seen = {of_class(code): count for code, count in found["gaps"].items() if count != privacy.HIDDEN}
    return {
        **found,
        "figures": [
            figure(Said("应装", "required"), "required", None),
            figure(Said("已装", "installed"), "installed", "required"),
            figure(Said("有效", "working"), "working", "required"),
            figure(Said("已联网", "networked"), "networked", "must_network"),
        ],
        "waived": number(counts["waived"]),
        "trend": charts.trend(found["days"], lines, f"trend-{node}") if len(found["days"]) > 1 else "",
        "gap_chart": charts.bars(dict(list(seen.items())[:6]), f"gaps-{node}") if seen else "",
        "improve": [(of_class(code), number(count)) for code, count in list(found["gaps"].items())[:6]],
        "outage_rows": [
            (DEVICE_KINDS[kind][lang] if kind in DEVICE_KINDS else kind, hours(seconds, lang))
            for kind, seconds in sorted(found["outages"].items(), key=lambda each: -each[1])[:5]
        ],
        "alarm_rows": [
            (FACTS[Kind(kind)].zh if lang == "zh" else FACTS[Kind(kind)].en, number(what["alarm"]), number(what["test"]))
            for kind, what in sorted(found["alarms"].items(), key=lambda each: -each[1]["alarm"])[:6]
        ],
        "done": number(found["inspections"]["done"]),
        "overdue": number(found["inspections"]["overdue"]),
        "tips": [tip[lang] for tip in tips(found)],
    }  # fmt: skip


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


def internal(
    known: Known, figures: Mapping[str, Any], node: str | None, lang: Lang, label: str
) -> tuple[dict[str, Any], str]:
    """Everything, for the office. Raises NoSuchNode."""
    at = EPOCH + figures["at_ms"] * MS
    month = Month.parse(figures["month"])
    scope = Scope(known.history, at)
    top = scope.node(node)
    judged = verdicts(known.history, at, rules=known.rules)
    opened = gaps_of(known, judged, at)
    tables = [
        _communities(figures, [each for each in scope.nodes() if top in scope.up(each) and each in figures["nodes"]]),
        lists.coverage(scope, tree(known.history, at, rules=known.rules), top),
        gaps.table(gaps.rows(known, gaps.in_order(scope, opened, top), tickets_at(known, opened, at), at)),
        _waivers(known, scope, top, at),
        _models(known, month, at),
    ]
    area = figures["nodes"].get(top) or figures["nodes"]["all"]
    days, curve = [row[0] for row in area["curve"]], area["curve"]
    lines = {Said("应装", "required")[lang]: [row[1] for row in curve], Said("已装", "installed")[lang]: [row[2] for row in curve],
             Said("有效", "working")[lang]: [row[3] for row in curve]}  # fmt: skip
    by_gap = {GAPS[gap][lang]: sum(of.values()) for gap, of in area["gaps"].items()}
    page = render(
        "internal.html", lang, tables=tables, month=month, label=label, name=scope.name(top),
        trend=charts.trend(days, lines, "trend"), gap_chart=charts.bars(by_gap, "gaps") if by_gap else "",
    )  # fmt: skip
    rows = {table.key: [dict(row) for row in table.rows] for table in tables}
    return {"edition": "internal", "figures": figures, **rows}, page


def _communities(figures: Mapping[str, Any], nodes: Sequence[str]) -> Table:
    """Colour and forecast, node by node."""
    from gateway.reports.tables import word_of
    from gateway.reports.words import AREA_KINDS, COLOURS, FORECASTS

    rows = []
    for each in nodes:
        node, period = figures["nodes"][each], figures["nodes"][each]["period"]
        faults = period["faults"]
        rows.append({
            "node": each, "kind": node["kind"], "name": node["name"], **{f"by_{why}": level for why, level in node["colour"].items()},
            "forecast": node["forecast"]["day"] or node["forecast"]["why"],
            "availability": [period["working_ms"] // 1000, period["required_ms"] // 1000],
            "mttr_h": period["repair_ms"] // faults // 3_600_000 if faults else None,
            "mtbf_h": (period["in_duty_ms"] - period["repair_ms"]) // faults // 3_600_000 if faults else None,
        })  # fmt: skip
    colour = word_of(COLOURS)
    columns = (
        Column("kind", Said("层级", "level"), word_of(AREA_KINDS)),
        Column("name", Said("名称", "name")),
        Column("by_level", Said("预警", "warning"), colour),
        Column("by_coverage", Said("覆盖", "coverage"), colour),
        Column("by_alarms", Said("警情", "alarms"), colour),
        Column("by_critical", Said("重大缺口", "critical gap"), colour),
        Column("availability", Said("可用率(秒)", "availability (seconds)"), lists.pair),
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
    from gateway.reports.tables import word_of

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
                "mttr_h": None if period.mttr_ms is None else period.mttr_ms // 3_600_000,
                "mtbf_h": None if period.mtbf_ms is None else period.mtbf_ms // 3_600_000,
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
