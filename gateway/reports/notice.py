"""The rectification notice 整改通知书: to whoever has to close them, the deficiencies that are open, why, and until when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from gateway.coverage.causes import Open
from gateway.coverage.days import LOCAL, day_of
from gateway.coverage.facts import Sort
from gateway.coverage.ranking import ticket_order
from gateway.coverage.tickets import RECHECK, Standing, Ticket
from gateway.coverage.verdict import Verdict
from gateway.reports.deficiencies import tickets_at
from gateway.reports.figures import Known
from gateway.reports.scope import Scope
from gateway.reports.tables import Cell, Column, Row, Table, word_of
from gateway.reports.words import GAPS, MEASURES, RISKS, Lang, Said, cause
from gateway.store.rows import moment

By = Literal["responsible", "site"]
POINTS_NAMED = 12
"""Points named in one line of the letter; a lost panel has hundreds behind it."""
STANDINGS = {
    "open": Said("待整改", "open"),
    "rectified": Said("已报整改, 待复查", "said to be put right, to be re-checked"),
}


def rows(known: Known, scope: Scope, gaps: Sequence[Open], node: str, at: datetime) -> Sequence[Row]:
    """A row for each deficiency that is open at or below a node, the most urgent first."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    for each in gaps:
        found[each.ticket].append(each.verdict)
    tickets = [each for each in tickets_at(known, gaps, at).open() if scope.is_in(node, each.site)]
    tickets.sort(key=lambda each: ticket_order(each, scope.sites[each.site]))
    return [_row(known, scope, each, found[each.id], at) for each in tickets]


def _row(known: Known, scope: Scope, ticket: Ticket, gaps: Sequence[Verdict], at: datetime) -> Row:
    site, today = scope.sites[ticket.site], day_of(at)
    began = min((each.since for each in gaps if each.since is not None), default=None)
    names = [(known.history.at(Sort.POINT, (point,), at) or {}).get("name", point) for point in ticket.points]
    profile = known.history.at(Sort.PROFILE, (site.get("kind", ""),), at) or {}
    standing = ticket.standing(at)
    is_said = standing is Standing.RECTIFIED and ticket.rectified is not None
    return {
        "ticket": ticket.id,
        "site": ticket.site,
        "site_name": site["name"],
        "address": site.get("address") or None,
        "responsible": ticket.responsible or site.get("responsible") or None,
        "risk": str(ticket.risk),
        "gap": ticket.gap,
        "measures": sorted({each.measure for each in gaps}),
        "gaps": sorted({str(each.gap) for each in gaps}),
        "points": list(names),
        "because": ticket.because or None,
        "source": f"{profile['source']}, {profile['version']}" if profile else None,
        "since": day_of(moment(began)).isoformat() if began is not None else None,
        "opened": day_of(ticket.opened).isoformat(),
        "times": ticket.times,
        "due": ticket.due.isoformat(),
        "overdue_days": max(0, (today - ticket.due).days),
        "told": [{"at": _local(told.at), "whom": told.whom, "by": told.by} for told in ticket.told],
        "standing": str(standing),
        "recheck": _local(ticket.rectified + RECHECK) if is_said and ticket.rectified else None,
    }


def _local(at: datetime) -> str:
    return at.astimezone(LOCAL).strftime("%Y-%m-%d %H:%M")


def letters(rows: Iterable[Row], by: By) -> Sequence[Mapping[str, Any]]:
    """One for each addressee, the most urgent first; who answers for a site that names nobody is the site."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        to = row["site_name"] if by == "site" else row["responsible"] or row["site_name"]
        found.setdefault(str(to), []).append(row)
    return [
        {
            "to": to,
            "sites": list(dict.fromkeys(row["site_name"] for row in items)),
            "due": min(row["due"] for row in items),
            "overdue": sum(row["overdue_days"] > 0 for row in items),
            "rows": items,
        }
        for to, items in found.items()
    ]


def _each(words: Mapping[str, Said]) -> Any:
    def show(codes: Sequence[str], lang: Lang) -> str:
        return (", " if lang == "en" else "、").join(words[code][lang] if code in words else code for code in codes)

    return show


def named(points: Sequence[str], lang: Lang) -> str:
    """The first of them, and how many there are."""
    shown = (", " if lang == "en" else "、").join(points[:POINTS_NAMED])
    if len(points) <= POINTS_NAMED:
        return shown
    return shown + (f" 等共{len(points)}处" if lang == "zh" else f" and others, {len(points)} in all")


def told(said: Sequence[Mapping[str, str]], lang: Lang) -> str:
    """Who was told when."""
    if not said:
        return "尚未告知" if lang == "zh" else "nobody yet"
    return "; ".join(f"{each['at']} {each['whom']}" for each in said)


def recheck(cell: Cell, lang: Lang) -> str:
    if cell is None:
        return "整改后复查" if lang == "zh" else "when put right"
    return f"{cell} 前" if lang == "zh" else f"before {cell}"


COLUMNS = (
    Column("risk", Said("风险", "risk"), word_of(RISKS)),
    Column("site_name", Said("场所", "site")),
    Column("measures", Said("缺少的措施", "what is missing"), _each(MEASURES)),
    Column("gaps", Said("缺口", "gap"), _each(GAPS)),
    Column("points", Said("点位", "points"), named),
    Column("because", Said("原因", "because"), cause),
    Column("source", Said("依据", "required by")),
    Column("since", Said("缺口起始日", "since")),
    Column("due", Said("整改期限", "due")),
    Column("overdue_days", Said("超期天数", "days overdue"), is_number=True),
    Column("told", Said("告知记录", "who was told when"), told),
    Column("standing", Said("整改情况", "state"), word_of(STANDINGS)),
    Column("recheck", Said("复查", "re-check"), recheck),
)
TITLE = Said("整改通知书", "Rectification notice")


def table(rows: Sequence[Row]) -> Table:
    """All of it in one, for spreadsheets; `responsible` is what a letter is addressed to."""
    columns = (Column("responsible", Said("责任方", "responsible")), *COLUMNS)
    return Table("notice", TITLE, columns, rows)
