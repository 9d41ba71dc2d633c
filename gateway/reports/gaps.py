"""What is not as it must be, the most urgent first, with who has to close it and by when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.coverage.causes import Open
from gateway.coverage.days import day_of
from gateway.coverage.facts import Sort
from gateway.coverage.ranking import order
from gateway.coverage.tickets import Tickets
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


def in_order(asked: Scope, gaps: Iterable[Open], node: str) -> Sequence[Open]:
    """Those at or below a node, the most urgent first."""
    inside = [each for each in gaps if asked.is_in(node, each.verdict.site)]
    return sorted(inside, key=lambda each: order(each.verdict, each.site, each.risk))


def rows(known: Known, gaps: Sequence[Open], tickets: Tickets, at: datetime) -> Sequence[Row]:
    """A row for each gap; the due date is its deficiency's, else reckoned from the day it began."""
    return [_row(known, gap, tickets, at) | {"rank": rank} for rank, gap in enumerate(gaps, 1)]


def _row(known: Known, gap: Open, tickets: Tickets, at: datetime) -> dict[str, Any]:
    verdict, site = gap.verdict, gap.site
    point = known.history.at(Sort.POINT, (verdict.point,), at) if verdict.point else None
    ticket = tickets.get(gap.ticket)
    is_open = ticket is not None and ticket.closed is None
    since = None if verdict.since is None else day_of(moment(verdict.since))
    reckoned = since + timedelta(days=getattr(known.coverage.due_days, gap.risk)) if since else None
    due, today = ticket.due if ticket is not None and is_open else reckoned, day_of(at)
    return {
        "rank": 0,
        "risk": str(gap.risk),
        "site": verdict.site,
        "site_name": site["name"],
        "site_kind": site.get("kind"),
        "point": verdict.point,
        "point_name": point["name"] if point else None,
        "point_kind": verdict.point_kind,
        "device": verdict.device,
        "measure": verdict.measure,
        "family": str(verdict.family),
        "duty": str(verdict.duty),
        "gap": str(verdict.gap),
        "because": verdict.because,
        "via": verdict.via,
        "since": since.isoformat() if since else None,
        "age_days": (today - since).days if since else None,
        "ticket": gap.ticket if is_open else None,
        "responsible": site.get("responsible") or None,
        "due": due.isoformat() if due else None,
        "overdue_days": max(0, (today - due).days) if due else None,
    }


def table(rows: Sequence[Row]) -> Table:
    return Table("gaps", Said("缺口清单(按风险排序)", "gaps, by risk"), COLUMNS, rows)
