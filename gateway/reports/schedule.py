"""The inspection schedule 检查计划: what a person has to look at or to trigger, overdue first, then month by month."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from gateway.coverage.days import Month, day_of
from gateway.coverage.facts import Sort
from gateway.coverage.history import DAY_MS, NEVER, ms_of
from gateway.coverage.requirements import Family
from gateway.coverage.verdict import Gap, Verdict
from gateway.coverage.view import View
from gateway.reports.figures import Known
from gateway.reports.scope import Scope
from gateway.reports.tables import Cell, Column, Row, Table, word_of
from gateway.reports.words import DUTIES, MEASURES, Lang, Said
from gateway.store.rows import moment

MONTHS_MAX = 24
"""Further ahead every inspection is due at least once, and nobody plans."""
WORK = {"inspect": Said("检查", "inspect"), "live_test": Said("触发测试", "live test")}
RESULTS = {"ok": Said("合格", "passed"), "failed": Said("不合格", "failed"), "never": Said("从未", "never done")}


def rows(known: Known, scope: Scope, verdicts: Sequence[Verdict], node: str, at: datetime) -> Sequence[Row]:
    """All that ever falls due at or below a node, the oldest first; what was never done, or failed, is due at once."""
    view = View(known.history, ms_of(at), known.rules)
    inside = [each for each in verdicts if each.required and each.point and scope.is_in(node, each.site)]
    found = [_inspection(view, each) for each in inside if each.family is Family.PHYSICAL]
    watched = {each.point: each for each in inside if each.family is Family.TECHNICAL}
    found += [line for each in watched.values() for line in _live_tests(view, each)]
    today = day_of(at).isoformat()
    for row in found:
        site, point = scope.sites[row["site"]], known.history.at(Sort.POINT, (row["point"],), at)
        row["site_name"], row["point_name"] = site["name"], point["name"] if point else row["point"]
        row["responsible"] = site.get("responsible") or None
        row["overdue_days"] = (
            max(0, (date.fromisoformat(today) - date.fromisoformat(row["due"])).days) if row["due"] else None
        )
    return sorted(
        found, key=lambda row: (row["due"] or "", row["site"], row["point"], row["measure"], row["device"] or "")
    )


def _inspection(view: View, each: Verdict) -> dict[str, Any]:
    """R15: it counts until its end, and what has ended is still known."""
    last = view.look(Sort.INSPECTION, (each.point, each.measure))
    value, ends = (last.value, last.stop) if last.value is not None else (last.expired, last.start)
    began = max((line.start for line in _lines(view, each) if line.start <= view.at), default=None)
    is_due = value is not None and each.gap is not Gap.INSPECTION_FAILED and ends < NEVER
    return {
        "work": "inspect", "site": each.site, "point": each.point, "measure": each.measure, "duty": str(each.duty), "device": None,
        "due": day_of(moment(ends - 1)).isoformat() if is_due else None,
        "last": day_of(moment(began)).isoformat() if value is not None and began is not None else None,
        "result": "never" if value is None else "ok" if value.get("ok") else "failed",
    }  # fmt: skip


def _lines(view: View, each: Verdict) -> Sequence[Any]:
    track = view.history.tracks[Sort.INSPECTION].get((each.point, each.measure))
    return track.lines if track else ()


def _live_tests(view: View, each: Verdict) -> Iterator[dict[str, Any]]:
    """R11, of each accepted watcher that is in service."""
    for device, zone, accepted in view.accepted(each.point, view.look(Sort.POINT, (each.point,)).read):
        unit = view.unit(device)
        if unit.is_out or unit.contract.live_test_days is None:
            continue
        last = view.last_test(device, zone, accepted)
        yield {
            "work": "live_test", "site": each.site, "point": each.point, "measure": each.measure, "duty": str(each.duty), "device": device,
            "due": day_of(moment(last + round(unit.contract.live_test_days * DAY_MS))).isoformat(),
            "last": day_of(moment(last)).isoformat(), "result": "ok",
        }  # fmt: skip


def due(cell: Cell, lang: Lang) -> str:
    return str(cell) if cell else "立即" if lang == "zh" else "at once"


COLUMNS = (
    Column("due", Said("到期日", "due"), due),
    Column("overdue_days", Said("超期天数", "days overdue"), is_number=True),
    Column("work", Said("工作", "work"), word_of(WORK)),
    Column("site_name", Said("场所", "site")),
    Column("point_name", Said("点位", "point")),
    Column("measure", Said("措施", "measure"), word_of(MEASURES)),
    Column("duty", Said("要求", "duty"), word_of(DUTIES)),
    Column("device", Said("设备", "device")),
    Column("last", Said("上次", "last done")),
    Column("result", Said("上次结果", "last result"), word_of(RESULTS)),
    Column("responsible", Said("责任方", "responsible")),
)
TITLE = Said("检查计划", "Inspection schedule")


def tables(rows: Sequence[Row], at: datetime, months: int) -> Sequence[Table]:
    """What is overdue or due at once, and so many months, the present one first."""
    today = day_of(at).isoformat()
    late = [row for row in rows if (row["due"] or "") < today]
    found = [Table("overdue", Said("已超期或须立即办理", "overdue, or due at once"), COLUMNS, late)]
    for month in (Month.of(at).plus(number) for number in range(months)):
        of_month = [row for row in rows if row["due"] and row["due"] >= today and row["due"][:7] == str(month)]
        title = Said(f"{month.year}年{month.month}月到期", f"due in {month}")
        found.append(Table(str(month), title, COLUMNS, of_month))
    return found
