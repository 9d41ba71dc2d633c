"""Deficiencies: a gap that lasts is somebody's task, once for each cause, until the evidence says that it is closed. Pure.

A ticket is "<kind>:<id>:<gap>", so that at most one is open for each subject and gap, and what became of it before is its own
history. People say whom they told and that something was put right; only evidence closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.coverage.days import day_of
from gateway.coverage.facts import Fact, Sort

TARGET = "target"
"""The gap of a unit that must have everything installed and has not."""
INSTALLATION = frozenset({"not_planned", "not_installed", "not_accepted", "out_of_service"})
"""Gaps that break the target of 100 %."""
RECHECK = timedelta(hours=24)
"""So long after somebody said that it is put right the evidence may take to agree; then the ticket is open as before."""
POINTS_MAX = 200
"""Points named in one ticket: a lost gateway has thousands behind it, and a ticket is a page somebody reads."""


class Risk(StrEnum):
    """What is done about it first."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Standing(StrEnum):
    """How far a deficiency is."""

    OPEN = "open"
    RECTIFIED = "rectified"
    """A person says so; the evidence does not yet."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Gone:
    """What is wrong with one cause, as it is now."""

    ticket: str
    site: str
    gap: str
    because: str
    risk: Risk
    since: datetime
    responsible: str = ""
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """Who was told, when and by whom."""

    at: datetime
    whom: str
    by: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A deficiency and all that became of it."""

    id: str
    site: str
    gap: str
    because: str
    risk: Risk
    responsible: str
    points: tuple[str, ...]
    opened: datetime
    due: date
    times: int
    """How often it was opened."""
    closed: datetime | None = None
    told: tuple[Told, ...] = ()
    rectified: datetime | None = None
    rectified_by: str = ""
    history: tuple[tuple[datetime, str], ...] = field(default=())
    """When it was opened and closed, since the first time."""

    def standing(self, now: datetime) -> Standing:
        """As it is at a moment."""
        if self.closed is not None:
            return Standing.CLOSED
        said = self.rectified is not None and self.opened <= self.rectified and now < self.rectified + RECHECK
        return Standing.RECTIFIED if said else Standing.OPEN

    def age(self, now: datetime) -> timedelta:
        """For how long it is, or was, open."""
        return max((self.closed or now) - self.opened, timedelta())

    def is_overdue(self, now: datetime) -> bool:
        return self.closed is None and day_of(now) > self.due


class Tickets:
    """All deficiencies that the record tells of, in its own order: what was written last counts, whatever the clock said."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._known: dict[str, Ticket] = {}
        self.add(facts)

    def add(self, facts: Iterable[Fact]) -> None:
        """Take up what was recorded; facts of another sort are passed over."""
        for fact in facts:
            if fact.sort is not Sort.TICKET or fact.value is None:
                continue
            known, (ticket, *said) = self._known.get(fact.subject[0]), fact.subject
            if not said:
                self._known[ticket] = _evident(ticket, fact.value, fact.valid_from, known)
            elif known is not None:
                self._known[ticket] = _said(known, said[0], fact)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._known.values())

    def get(self, ticket: str) -> Ticket | None:
        return self._known.get(ticket)

    def open(self) -> list[Ticket]:
        """Those that the evidence has not closed, the oldest first."""
        return sorted((each for each in self if each.closed is None), key=lambda each: (each.opened, each.id))


def _evident(ticket: str, value: Mapping[str, Any], at: datetime, known: Ticket | None) -> Ticket:
    is_closed, opened = value["state"] == "closed", datetime.fromisoformat(value["opened"])
    was_open = known is not None and known.closed is None
    turns = is_closed == was_open  # else it was only brought up to date
    return Ticket(
        id=ticket,
        site=value["site"],
        gap=value["gap"],
        because=value["because"],
        risk=Risk(value["risk"]),
        responsible=value["responsible"],
        points=tuple(value["points"]),
        opened=opened,
        due=date.fromisoformat(value["due"]),
        times=value["times"],
        closed=at if is_closed else None,
        told=known.told if known else (),
        rectified=known.rectified if known else None,
        rectified_by=known.rectified_by if known else "",
        history=(known.history if known else ()) + (((at, value["state"]),) if turns else ()),
    )


def _said(known: Ticket, what: str, fact: Fact) -> Ticket:
    value = fact.value or {}
    if what == "told":
        return replace(known, told=(*known.told, Told(fact.valid_from, value["whom"], value["by"])))
    return replace(known, rectified=fact.valid_from, rectified_by=value["by"])


def told(ticket: str, whom: str, by: str, now: datetime) -> Fact:
    """Somebody was told of a deficiency."""
    return Fact(Sort.TICKET, (ticket, "told"), {"whom": whom, "by": by}, now, actor=by)


def rectified(ticket: str, by: str, remark: str, now: datetime) -> Fact:
    """Somebody says that a deficiency was put right; the evidence will show."""
    return Fact(Sort.TICKET, (ticket, "rectified"), {"by": by, "remark": remark}, now, actor=by)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the site file says of deficiencies."""

    grace_h: Mapping[str, float]
    """Hours that a gap may last; a gap that is not named: none."""
    due_days: Mapping[str, int]
    """Days to put it right, by its risk."""


def changes(gone: Sequence[Gone], tickets: Tickets, now: datetime, terms: Terms) -> list[Fact]:
    """What the record must learn so that it says what the evidence says: nothing, when it does already."""
    wrong = {each.ticket: each for each in gone}
    facts = [fact for each in gone if (fact := _opened(each, tickets.get(each.ticket), now, terms)) is not None]
    return facts + [_closed(each, now) for each in tickets.open() if each.id not in wrong]


def next_change(gone: Sequence[Gone], tickets: Tickets, now: datetime, terms: Terms) -> datetime | None:
    """When the next gap has lasted long enough, if nothing else changes."""
    waiting = (_ripe(each, terms) for each in gone if not _is_open(tickets.get(each.ticket)))
    return min((at for at in waiting if at > now), default=None)


def _ripe(each: Gone, terms: Terms) -> datetime:
    return each.since + timedelta(hours=terms.grace_h.get(each.gap, 0.0))


def _is_open(known: Ticket | None) -> bool:
    return known is not None and known.closed is None


def _opened(each: Gone, known: Ticket | None, now: datetime, terms: Terms) -> Fact | None:
    """A ticket that has to be opened, or one that stands for other points than before; None: nothing to say."""
    points = each.points[:POINTS_MAX]
    if known is not None and known.closed is None:
        if (known.points, known.risk, known.responsible) == (points, each.risk, each.responsible):
            return None
        changed = replace(
            known, points=points, risk=each.risk, responsible=each.responsible, because=each.because
        )  # fmt: skip
        return _fact(changed, "open", now, key=None)
    if _ripe(each, terms) > now:
        return None
    ticket = Ticket(
        each.ticket, each.site, each.gap, each.because, each.risk, each.responsible, points, opened=now,
        due=day_of(now) + timedelta(days=terms.due_days[each.risk]), times=known.times + 1 if known else 1,
    )  # fmt: skip
    return _fact(ticket, "open", now, key=f"ticket/{ticket.id}/{ticket.times}/open")


def _closed(known: Ticket, now: datetime) -> Fact:
    return _fact(known, "closed", now, key=f"ticket/{known.id}/{known.times}/closed")


def _fact(ticket: Ticket, state: str, now: datetime, *, key: str | None) -> Fact:
    value = {
        "state": state, "site": ticket.site, "gap": ticket.gap, "points": list(ticket.points), "because": ticket.because,
        "risk": ticket.risk.value, "opened": ticket.opened.isoformat(), "due": ticket.due.isoformat(),
        "responsible": ticket.responsible, "times": ticket.times,
    }  # fmt: skip
    return Fact(Sort.TICKET, (ticket.id,), value, now, key=key)
