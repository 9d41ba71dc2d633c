"""What is not as it must be, the most urgent first, with who has to close it and by when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.config import CoverageSection
from gateway.coverage.days import day_of
from gateway.coverage.facts import Sort
from gateway.coverage.history import NEVER, History
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.verdict import Gap, Verdict
from gateway.reports.scope import Scope
from gateway.reports.tables import Column, Row, Table, word_of
from gateway.reports.words import DUTIES, GAPS, MEASURES, RISKS, SITE_KINDS, Said
from gateway.store.rows import moment

SITE_ORDER = (
    "bank_vault", "bank_branch", "self_service_bank", "vehicle_cash", "jewelry_store", "cash_heavy_unit", "hazardous_store",
    "key_unit_other", "school", "kindergarten", "mall", "supermarket", "street_shop", "residential_estate", "house_block",
    "construction_site", "vehicle_taxi",
)  # fmt: skip
"""What is worth most to a robber, then where most people are."""
GAP_ORDER = (
    Gap.NOT_PLANNED, Gap.NOT_INSTALLED, Gap.OUT_OF_SERVICE, Gap.BYPASSED, Gap.SILENT, Gap.FAULT, Gap.UNREACHABLE, Gap.UNTESTED,
    Gap.NOT_ACCEPTED, Gap.INSPECTION_FAILED, Gap.NOT_INSPECTED, Gap.NOT_NETWORKED,
)  # fmt: skip
"""Nothing is there; it is switched off; it is dumb; nobody knows whether it works; it works, and 110 cannot hear it."""
PANIC = ("panic", "hold_up", "panic_silent")
_SITE_RANK = {kind: rank for rank, kind in enumerate(SITE_ORDER)}
_GAP_RANK = {gap: rank for rank, gap in enumerate(GAP_ORDER)}

COLUMNS = (
    Column("rank", Said("序号", "no."), is_number=True),
    Column("risk", Said("风险", "risk"), word_of(RISKS)),
    Column("site_name", Said("场所", "site")),
    Column("site_kind", Said("类别", "kind"), word_of(SITE_KINDS)),
    Column("point_name", Said("点位", "point")),
    Column("measure", Said("措施", "measure"), word_of(MEASURES)),
    Column("duty", Said("要求", "duty"), word_of(DUTIES)),
    Column("gap", Said("缺口", "gap"), word_of(GAPS)),
    Column("because", Said("原因", "because")),
    Column("since", Said("起始日", "since")),
    Column("age_days", Said("天数", "days"), is_number=True),
    Column("responsible", Said("责任方", "responsible")),
    Column("due", Said("整改期限", "due")),
    Column("overdue_days", Said("超期天数", "days overdue"), is_number=True),
)


def risk_of(verdict: Verdict, site: Mapping[str, Any], rules: CoverageSection) -> str:
    """high, medium or low, as docs/coverage.md has it for deficiencies."""
    if verdict.family is Family.PHYSICAL:
        return "low"
    if site.get("is_key_unit") or site.get("kind") in rules.target_kinds or verdict.measure in PANIC:
        return "high"
    return "medium"


def order(verdict: Verdict, site: Mapping[str, Any]) -> tuple[object, ...]:
    """Kind of site, duty, gap, age; at last the names, so that the same facts give the same list."""
    kind = _SITE_RANK.get(str(site.get("kind")), len(SITE_ORDER))
    if site.get("is_key_unit"):
        kind = min(kind, _SITE_RANK["key_unit_other"])
    gap = _GAP_RANK[verdict.gap] if verdict.gap else len(GAP_ORDER)
    since = NEVER if verdict.since is None else verdict.since
    return kind, verdict.duty is not Duty.MANDATORY, gap, since, verdict.site, verdict.point, verdict.measure


def open_gaps(scope: Scope, verdicts: Sequence[Verdict], node: str) -> Sequence[Verdict]:
    """Those at or below a node, in order."""
    found = [each for each in verdicts if each.gap is not None and scope.is_in(node, each.site)]
    return sorted(found, key=lambda each: order(each, scope.sites[each.site]))


def rows(
    history: History, scope: Scope, gaps: Sequence[Verdict], at: datetime, rules: CoverageSection
) -> Sequence[Row]:
    """A row for each gap; the due date is its ticket's, else reckoned from the day it began."""
    return [_row(history, scope, gap, at, rules) | {"rank": rank} for rank, gap in enumerate(gaps, 1)]


def _row(history: History, scope: Scope, gap: Verdict, at: datetime, rules: CoverageSection) -> dict[str, Any]:
    site = scope.sites[gap.site]
    point = history.at(Sort.POINT, (gap.point,), at) if gap.point else None
    ticket = history.at(Sort.TICKET, (f"point:{gap.point}:{gap.gap}",), at) or {}
    risk = risk_of(gap, site, rules)
    since = None if gap.since is None else day_of(moment(gap.since))
    reckoned = since + timedelta(days=getattr(rules.due_days, risk)) if since else None
    due = ticket.get("due") or (reckoned.isoformat() if reckoned else None)
    today = day_of(at)
    return {
        "rank": 0,
        "risk": ticket.get("risk", risk),
        "site": gap.site,
        "site_name": site["name"],
        "site_kind": site.get("kind"),
        "point": gap.point,
        "point_name": point["name"] if point else None,
        "point_kind": gap.point_kind,
        "device": gap.device,
        "measure": gap.measure,
        "family": str(gap.family),
        "duty": str(gap.duty),
        "gap": str(gap.gap),
        "because": gap.because,
        "via": gap.via,
        "since": since.isoformat() if since else None,
        "age_days": (today - since).days if since else None,
        "responsible": ticket.get("responsible") or site.get("responsible") or None,
        "due": due,
        "overdue_days": max(0, (today - today.fromisoformat(due)).days) if due else None,
    }


def table(rows: Sequence[Row]) -> Table:
    return Table("gaps", Said("缺口清单(按风险排序)", "gaps, by risk"), COLUMNS, rows)
