"""What is not as it must be, the most urgent first, with who has to close it and by when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.coverage.causes import cause_of
from gateway.coverage.days import day_of
from gateway.coverage.facts import Sort
from gateway.coverage.ranking import order, place_of, risk_of
from gateway.coverage.requirements import Duty
from gateway.coverage.tickets import Risk, Tickets
from gateway.coverage.verdict import Verdict
from gateway.reports.figures import Known
from gateway.reports.scope import Scope
from gateway.reports.tables import Column, Row, Table, word_of
from gateway.reports.words import DUTIES, GAPS, MEASURES, RISKS, SITE_KINDS, Said, cause
from gateway.store.rows import moment

COLUMNS = (
    Column("rank", Said("序号", "no."), is_number=True),
    Column("risk", Said("风险", "risk"), word_of(RISKS)),
    Column("site_name", Said("场所", "site")),
    Column("site_kind", Said("类别", "kind"), word_of(SITE_KINDS)),
    Column("point_name", Said("点位", "point")),
    Column("measure", Said("措施", "measure"), word_of(MEASURES)),
    Column("duty", Said("要求", "duty"), word_of(DUTIES)),
    Column("gap", Said("缺口", "gap"), word_of(GAPS)),
    Column("because", Said("原因", "because"), cause),
    Column("since", Said("起始日", "since")),
    Column("age_days", Said("天数", "days"), is_number=True),
    Column("responsible", Said("责任方", "responsible")),
    Column("due", Said("整改期限", "due")),
    Column("overdue_days", Said("超期天数", "days overdue"), is_number=True),
)


def open_gaps(known: Known, scope: Scope, verdicts: Sequence[Verdict], node: str) -> Sequence[Verdict]:
    """Those at or below a node, the most urgent first."""

    def place(each: Verdict) -> tuple[object, ...]:
        site = scope.sites[each.site]
        place = place_of(site.get("kind", ""), is_key_unit=bool(site.get("is_key_unit")))
        return order(each, _risk(known, scope, each), place)

    return sorted((each for each in verdicts if each.gap is not None and scope.is_in(node, each.site)), key=place)


def rows(known: Known, scope: Scope, gaps: Sequence[Verdict], tickets: Tickets, at: datetime) -> Sequence[Row]:
    """A row for each gap; the due date is its deficiency's, else reckoned from the day it began."""
    return [_row(known, scope, gap, tickets, at) | {"rank": rank} for rank, gap in enumerate(gaps, 1)]


def _risk(known: Known, scope: Scope, gap: Verdict) -> Risk:
    is_key_unit = bool(scope.sites[gap.site].get("is_key_unit"))
    return risk_of(gap, known.rules.target_kinds, is_key_unit=is_key_unit)


def _row(known: Known, scope: Scope, gap: Verdict, tickets: Tickets, at: datetime) -> dict[str, Any]:
    site, risk = scope.sites[gap.site], _risk(known, scope, gap)
    point = known.history.at(Sort.POINT, (gap.point,), at) if gap.point else None
    ticket = tickets.get(":".join(cause_of(gap, known.history, at, known.rules.target_kinds)))
    if ticket is not None and (ticket.closed is not None or gap.duty is Duty.ADVISED):
        ticket = None
    since = None if gap.since is None else day_of(moment(gap.since))
    reckoned = since + timedelta(days=getattr(known.coverage.due_days, risk)) if since else None
    due, today = ticket.due if ticket else reckoned, day_of(at)
    return {
        "rank": 0,
        "risk": str(risk),
        "site": gap.site,
        "site_name": site["name"],
        "site_kind": site.get("kind"),
        "point": gap.point,
        "point_name": point["name"] if point else None,
        "measure": gap.measure,
        "family": str(gap.family),
        "duty": str(gap.duty),
        "gap": str(gap.gap),
        "because": gap.because,
        "via": gap.via,
        "since": since.isoformat() if since else None,
        "age_days": (today - since).days if since else None,
        "ticket": ticket.id if ticket else None,
        "responsible": site.get("responsible") or None,
        "due": due.isoformat() if due else None,
        "overdue_days": max(0, (today - due).days) if due else None,
    }


def table(rows: Sequence[Row]) -> Table:
    return Table("gaps", Said("缺口清单(按风险排序)", "gaps, by risk"), COLUMNS, rows)
