"""The tables for the office: coverage of a tree, assessment of control zones, the equipment ledger and its changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.coverage.counts import Counts, rate
from gateway.coverage.days import LOCAL, day_of
from gateway.coverage.facts import ZONE_OF_ALL, Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.tickets import Tickets
from gateway.reports.scope import Scope
from gateway.reports.tables import Column, Row, Table, word_of
from gateway.reports.words import (
    AREA_KINDS,
    DEVICE_KINDS,
    FACTS,
    GAPS,
    NO_INSTALLED_POINTS,
    NO_REQUIRED_POINTS,
    RISKS,
    SITE_KINDS,
    STAGES,
    STANDINGS,
    STATES,
    Lang,
    Said,
    cause,
)

LEDGER_FACTS = (
    Sort.AREA, Sort.SITE, Sort.POINT, Sort.DEVICE, Sort.PROFILE, Sort.STAGE, Sort.ACCEPTANCE, Sort.WAIVER, Sort.INSPECTION, Sort.TARGET,
)  # fmt: skip
"""What people change; how equipment feels from hour to hour is no change of the ledger."""


def pair(cell: Sequence[int], lang: Lang) -> str:
    part, whole = cell
    return f"{rate(part, whole)} ({part}/{whole})" if whole else NO_REQUIRED_POINTS[lang]


def of_installed(cell: Sequence[int], lang: Lang) -> str:
    """Where points are required and none is installed, that is what is missing."""
    return pair(cell, lang) if cell[1] else NO_INSTALLED_POINTS[lang]


def counted(counts: Counts) -> dict[str, Any]:
    """The cells of a row: the counts, and each rate as its two."""
    return {
        "required": counts.required,
        "installed": counts.installed,
        "working": counts.working,
        "networked": counts.networked,
        "must_network": counts.must_network,
        "waived": counts.waived,
        "degraded": counts.degraded,
        "unsupervised": counts.unsupervised,
        "overdue": counts.overdue,
        "installation": [counts.installed, counts.required],
        "serviceable": [counts.working, counts.installed],
        "effective": [counts.working, counts.required],
        "network": [counts.networked, counts.must_network],
        "target": [counts.target_units_installed, counts.target_units],
        "physical": [counts.physical_ok, counts.physical],
        "closed": [counts.entrances_controlled, counts.entrances],
    }


RATES = (
    Column("installation", Said("安装率(已装/应装)", "installation (installed/required)"), pair),
    Column("serviceable", Said("完好率(有效/已装)", "serviceable (working/installed)"), of_installed),
    Column("effective", Said("有效率(有效/应装)", "effective (working/required)"), pair),
    Column("network", Said("联网率(已联/应联)", "networked (proved/required)"), pair),
    Column("waived", Said("豁免", "waived"), is_number=True),
    Column("overdue", Said("测试超期", "test overdue"), is_number=True),
    Column("unsupervised", Said("无监测", "unsupervised"), is_number=True),
)


def coverage(scope: Scope, tree: Mapping[str, Counts], node: str) -> Table:
    """A node and all below it."""
    inside = [each for each in scope.nodes() if node in scope.up(each)]
    rows = [
        {
            "node": each,
            "kind": scope.kind(each),
            "name": scope.name(each),
            "site_kind": scope.sites[each[5:]].get("kind") if each.startswith("site:") else None,
            **counted(tree.get(each, Counts())),
        }
        for each in inside
    ]
    columns = (
        Column("kind", Said("层级", "level"), word_of(AREA_KINDS)),
        Column("name", Said("名称", "name")),
        Column("site_kind", Said("类别", "kind"), word_of(SITE_KINDS)),
        *RATES,
    )
    return Table("coverage", Said("覆盖情况", "coverage"), columns, rows)


def zones(scope: Scope, tree: Mapping[str, Counts], node: str, open_gaps: Mapping[str, int]) -> Table:
    """A row for each control zone."""
    rows = [
        {
            "node": each,
            "name": scope.name(each),
            "sites": len(scope.sites_of(each)),
            "gaps": open_gaps.get(each, 0),
            **counted(tree.get(each, Counts())),
        }
        for each in scope.areas_of(node, "control_zone")
    ]
    columns = (
        Column("name", Said("防控区", "control zone")),
        Column("sites", Said("场所数", "sites"), is_number=True),
        Column("target", Said("目标单位(装齐/全部)", "target units (complete/all)"), pair),
        *RATES[:5],
        Column("physical", Said("物防合格率", "physical compliance"), pair),
        Column("closed", Said("封闭管理(受控/出入口)", "closed management"), pair),
        Column("gaps", Said("未整改缺口", "open gaps"), is_number=True),
    )
    return Table("zones", Said("防控区考核表", "assessment of control zones"), columns, rows)


def ledger(history: History, scope: Scope, node: str, at: datetime) -> Table:
    """A row for each device at or below a node."""
    rows = []
    points: dict[str, list[str]] = {}
    for subject in sorted(history.subjects(Sort.POINT)):
        if (point := history.at(Sort.POINT, subject, at)) is not None:
            for device in {point.get("device"), *(also[0] for also in point.get("also") or ())}:
                points.setdefault(str(device), []).append(point["name"])
    for (device,) in sorted(history.subjects(Sort.DEVICE)):
        found = history.at(Sort.DEVICE, (device,), at)
        if found is not None and scope.is_in(node, found["site"]):
            stage = history.at(Sort.STAGE, (device,), at) or {}
            health = history.at(Sort.HEALTH, (device, ZONE_OF_ALL), at) or {}
            rows.append(
                {
                    "device": device,
                    "name": found["name"],
                    "kind": found.get("kind") or "other",
                    "vendor": found.get("vendor"),
                    "model": found.get("model"),
                    "site": found["site"],
                    "site_name": scope.sites[found["site"]]["name"],
                    "points": ", ".join(points.get(device, ())),
                    "stage": stage.get("stage"),
                    "state": health.get("state"),
                    "cause": health.get("cause"),
                }
            )
    columns = (
        Column("device", Said("编号", "id")),
        Column("name", Said("名称", "name")),
        Column("kind", Said("类别", "kind"), word_of(DEVICE_KINDS)),
        Column("vendor", Said("厂商", "vendor")),
        Column("model", Said("型号", "model")),
        Column("site_name", Said("场所", "site")),
        Column("points", Said("防护点", "points")),
        Column("stage", Said("阶段", "stage"), word_of(STAGES)),
        Column("state", Said("状态", "state"), word_of(STATES)),
        Column("cause", Said("原因", "cause"), cause),
    )
    return Table("devices", Said("设备台账", "equipment"), columns, rows)


def deficiencies(tickets: Tickets, scope: Scope, node: str, at: datetime) -> Table:
    """A row for each deficiency that was not closed at a moment, the oldest first."""
    rows = [
        {
            "id": each.id,
            "state": str(each.standing(at)),
            "site": each.site,
            "site_name": scope.sites[each.site]["name"],
            "site_kind": scope.sites[each.site].get("kind"),
            "gap": each.gap,
            "because": each.because,
            "risk": str(each.risk),
            "points": len(each.points),
            "responsible": each.responsible,
            "opened": day_of(each.opened).isoformat(),
            "due": each.due.isoformat(),
            "overdue_days": max(0, (day_of(at) - each.due).days),
            "told": each.told[-1].whom if each.told else None,
        }
        for each in tickets.open()
        if scope.is_in(node, each.site)
    ]
    columns = (
        Column("id", Said("编号", "id")),
        Column("state", Said("进度", "state"), word_of(STANDINGS)),
        Column("risk", Said("风险", "risk"), word_of(RISKS)),
        Column("site_name", Said("场所", "site")),
        Column("site_kind", Said("类别", "kind"), word_of(SITE_KINDS)),
        Column("gap", Said("缺口", "gap"), word_of(GAPS)),
        Column("because", Said("原因", "because")),
        Column("points", Said("点位数", "points"), is_number=True),
        Column("responsible", Said("责任方", "responsible")),
        Column("opened", Said("开单日", "opened")),
        Column("due", Said("整改期限", "due")),
        Column("overdue_days", Said("超期天数", "days overdue"), is_number=True),
        Column("told", Said("已通知", "told")),
    )
    return Table("deficiencies", Said("整改清单", "deficiencies"), columns, rows)


def changes(facts: Sequence[Fact], start: datetime, end: datetime) -> Table:
    """Every change of the ledger recorded in a time, once, in the order of the record."""
    rows: list[Row] = []
    before: dict[tuple[Sort, tuple[str, ...]], Mapping[str, Any] | None] = {}
    for fact in facts:
        if fact.sort not in LEDGER_FACTS:
            continue
        key = (fact.sort, fact.subject)
        if fact.recorded_at is not None and start <= fact.recorded_at < end:
            rows.append(
                {
                    "id": fact.id,
                    "recorded": _local(fact.recorded_at),
                    "valid_from": _local(fact.valid_from),
                    "valid_to": None if fact.valid_to is None else _local(fact.valid_to),
                    "sort": str(fact.sort),
                    "subject": " / ".join(fact.subject),
                    "what": _what(before.get(key), fact),
                    "change": _change(before.get(key), fact),
                    "actor": fact.actor,
                }
            )
        before[key] = fact.value
    columns = (
        Column("id", Said("序号", "no."), is_number=True),
        Column("recorded", Said("记录时间", "recorded")),
        Column("valid_from", Said("生效时间", "valid from")),
        Column("valid_to", Said("失效时间", "valid to")),
        Column("sort", Said("事项", "about"), word_of(FACTS)),
        Column("subject", Said("对象", "subject")),
        Column("what", Said("变更", "what"), word_of(CHANGES)),
        Column("change", Said("内容", "details")),
        Column("actor", Said("操作人", "by")),
    )
    return Table("changes", Said("变更记录", "changes"), columns, rows)


CHANGES = {
    "added": Said("新增", "added"),
    "changed": Said("变更", "changed"),
    "replaced": Said("更换设备", "replaced"),
    "retired": Said("报废", "retired"),
    "removed": Said("移除", "removed"),
    "withdrawn": Said("撤回", "withdrawn"),
}


def _what(before: Mapping[str, Any] | None, fact: Fact) -> str:
    """One of CHANGES."""
    if fact.value is None:
        return "withdrawn" if fact.withdraws else "removed"
    if fact.sort is Sort.STAGE and fact.value.get("stage") == "retired":
        return "retired"
    if before is None:
        return "added"
    was, now = before.get("device"), fact.value.get("device")
    return "replaced" if fact.sort is Sort.POINT and was and now and was != now else "changed"


def _change(before: Mapping[str, Any] | None, fact: Fact) -> str:
    """What of the value is another one than before; of a thing that was replaced, by what."""
    if fact.value is None:
        return f"no. {fact.withdraws}" if fact.withdraws else ""
    old = before or {}
    changed = {name: value for name, value in fact.value.items() if value and old.get(name) != value}
    return "; ".join(
        f"{name}: {f'{_said(old[name])} → ' if old.get(name) else ''}{_said(value)}" for name, value in changed.items()
    )


def _said(value: Any) -> str:
    """A list by its length: a profile has two hundred lines."""
    return str(len(value)) if isinstance(value, list | tuple) else str(value)


def _local(moment: datetime) -> str:
    return moment.astimezone(LOCAL).strftime("%Y-%m-%d %H:%M")
