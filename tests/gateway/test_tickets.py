"""Deficiencies: once for each cause, opened and closed by evidence alone, with all that became of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from gateway.coverage.causes import LONG_AGO, causes, open_gaps
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History, ms_of
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.tickets import (
    POINTS_MAX,
    RECHECK,
    Gone,
    Risk,
    Standing,
    Terms,
    Tickets,
    changes,
    next_change,
    rectified,
    told,
)
from gateway.coverage.verdict import Gap, Verdict

START = datetime(2027, 3, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
TERMS = Terms({"silent": 4.0}, {"high": 3, "medium": 14, "low": 30})
SILENT = Gone("device:d1:silent", "s1", "silent", "not heard", Risk.HIGH, START, "值班室", ("p1",))


class Record:
    """A record of facts that keeps what its keys let in, as the ledger's does."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, facts: list[Fact]) -> None:
        keys = {fact.key for fact in self.facts if fact.key}
        self.facts += [fact for fact in facts if fact.key not in keys]

    @property
    def tickets(self) -> Tickets:
        return Tickets(self.facts)

    def follow(self, gone: list[Gone], now: datetime) -> list[Fact]:
        found = changes(gone, self.tickets, now, TERMS)
        self.write(found)
        return found


def test_a_gap_becomes_a_ticket_when_its_grace_is_over_and_not_before() -> None:
    record = Record()

    assert record.follow([SILENT], START + 4 * HOUR - timedelta(seconds=1)) == []
    assert next_change([SILENT], record.tickets, START, TERMS) == START + 4 * HOUR
    assert len(record.follow([SILENT], START + 4 * HOUR)) == 1
    [ticket] = record.tickets.open()
    assert (ticket.id, ticket.due, ticket.times, ticket.responsible) == (SILENT.ticket, date(2027, 3, 4), 1, "值班室")
    assert next_change([SILENT], record.tickets, START + 5 * HOUR, TERMS) is None


def test_what_stands_in_the_record_is_not_written_twice_whatever_the_clock_says() -> None:
    record = Record()
    record.follow([SILENT], START + 4 * HOUR)

    assert record.follow([SILENT], START + 9 * HOUR) == []
    assert record.follow([SILENT], START - 9 * HOUR) == []  # the clock went back
    record.follow([], START - 9 * HOUR)
    assert record.tickets.open() == []
    assert record.follow([], START - 9 * HOUR) == []


def test_two_that_look_at_the_same_gap_open_one_ticket() -> None:
    """A crash between writing and reading: the same is derived again."""
    record = Record()
    nothing = record.tickets
    record.write(changes([SILENT], nothing, START + 5 * HOUR, TERMS))
    record.write(changes([SILENT], nothing, START + 6 * HOUR, TERMS))

    assert len(record.facts) == 1


def test_a_person_may_say_that_it_is_put_right_and_only_the_evidence_closes_it() -> None:
    record, opened = Record(), START + 4 * HOUR
    record.follow([SILENT], opened)
    record.write([told(SILENT.ticket, "物业经理", "li", opened + HOUR)])
    record.write([rectified(SILENT.ticket, "li", "换了电池", opened + 2 * HOUR)])
    [ticket] = record.tickets.open()

    assert ticket.standing(opened + 3 * HOUR) is Standing.RECTIFIED
    assert ticket.standing(opened + 2 * HOUR + RECHECK) is Standing.OPEN  # looked at again: it is still there
    assert record.follow([SILENT], opened + 3 * HOUR) == []
    record.follow([], opened + 5 * HOUR)
    closed = record.tickets.get(SILENT.ticket)
    assert closed is not None
    assert closed.standing(opened + 5 * HOUR) is Standing.CLOSED
    assert closed.age(opened + 50 * HOUR) == 5 * HOUR
    assert [(each.whom, each.by) for each in closed.told] == [("物业经理", "li")]


def test_what_comes_back_is_the_same_ticket_with_its_history() -> None:
    record, opened = Record(), START + 4 * HOUR
    record.follow([SILENT], opened)
    record.write([rectified(SILENT.ticket, "li", "", opened)])
    record.follow([], opened + HOUR)
    again = replace(SILENT, since=opened + 2 * HOUR)
    record.follow([again], opened + 3 * HOUR)  # within its grace
    assert record.tickets.open() == []
    record.follow([again], opened + 6 * HOUR)
    [ticket] = record.tickets.open()

    assert (ticket.times, ticket.opened) == (2, opened + 6 * HOUR)
    assert [what for _, what in ticket.history] == ["open", "closed", "open"]
    assert ticket.standing(opened + 7 * HOUR) is Standing.OPEN  # what was said of the first time counts no more


def test_a_ticket_follows_the_points_it_stands_for_and_keeps_its_age() -> None:
    record, opened = Record(), START + 4 * HOUR
    record.follow([SILENT], opened)
    record.follow([replace(SILENT, points=tuple(f"p{n:04}" for n in range(POINTS_MAX + 5)))], opened + HOUR)
    [ticket] = record.tickets.open()

    assert (len(ticket.points), ticket.opened, ticket.times) == (POINTS_MAX, opened, 1)
    assert len(ticket.history) == 1


def test_it_is_overdue_from_the_local_day_after() -> None:
    record = Record()
    record.follow([SILENT], START + 4 * HOUR)
    [ticket] = record.tickets.open()
    end = datetime(2027, 3, 4, 16, tzinfo=UTC)  # midnight in Shanghai

    assert not ticket.is_overdue(end - timedelta(seconds=1))
    assert ticket.is_overdue(end)


# -- causes ------------------------------------------------------------------------------------------------------------


FACTS: list[tuple[Sort, tuple[str, ...], dict[str, Any]]] = [
    (Sort.SITE, ("s1",), {"kind": "residential_estate", "responsible": "物业"}),
    (Sort.SITE, ("bank",), {"kind": "bank_branch", "responsible": "行长室"}),
    (Sort.HEALTH, ("d3", "3"), {"state": "fault"}),
    (Sort.HEALTH, ("d3", ""), {"state": "working"}),
    (Sort.HEALTH, ("d4", ""), {"state": "fault"}),
    (Sort.HEALTH, ("bus", ""), {"state": "silent"}),
    (Sort.HEALTH, ("panel", ""), {"state": "unreachable", "via": "bus"}),
]
HISTORY = History(Fact(sort, subject, value, START, id=n) for n, (sort, subject, value) in enumerate(FACTS, 1))
KINDS = {"s1": "residential_estate", "bank": "bank_branch"}


def gap(
    which: Gap | None = Gap.SILENT, site: str = "s1", point: str = "p1", since: datetime = START, **more: Any
) -> Verdict:
    """A requirement that is not met."""
    plain = Verdict(
        site, KINDS[site], point, "room", "intrusion", Family.TECHNICAL, Duty.MANDATORY, True, False, False, False, False,
        False, False, False, False, which, "d1", "", "", ms_of(since), None,
    )  # fmt: skip
    return plain._replace(**more)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([gap(), gap(point="p2", since=START - HOUR)], [("device:d1:silent", ("p1", "p2"), START - HOUR)]),
        (
            [gap(Gap.UNREACHABLE, via="bus"), gap(Gap.UNREACHABLE, point="p2", via="panel")],
            [("device:bus:silent", ("p1", "p2"), START)],
        ),
        ([gap(Gap.FAULT, device="d4", point="p3")], [("device:d4:fault", ("p3",), START)]),
        ([gap(Gap.FAULT, device="d3")], [("point:p1:fault", ("p1",), START)]),
        ([gap(Gap.NOT_NETWORKED), gap(Gap.NOT_NETWORKED, point="p2")], [("site:s1:not_networked", ("p1", "p2"), START)]),
        ([gap(Gap.NOT_PLANNED, point="", since=LONG_AGO)], [("site:s1:not_planned", (), LONG_AGO)]),
        ([gap(Gap.NOT_INSTALLED)], [("point:p1:not_installed", ("p1",), START)]),
        ([gap(Gap.NOT_INSTALLED, "bank"), gap(Gap.NOT_ACCEPTED, "bank", "p2")], [("site:bank:target", ("p1", "p2"), START)]),
        ([gap(Gap.NOT_INSPECTED, "bank", family=Family.PHYSICAL)], [("point:p1:not_inspected", ("p1",), START)]),
        ([gap(None), gap(duty=Duty.ADVISED)], []),
    ],
    ids=["a silent panel", "a lost bus", "a watcher", "a zone", "a proof", "unplanned", "missing", "target", "a door", "none"],
)  # fmt: skip
def test_each_cause_is_one_ticket(gaps: list[Verdict], expected: list[tuple[str, tuple[str, ...], datetime]]) -> None:
    found = causes(open_gaps(gaps, HISTORY, START, {"bank_branch"}))

    assert [(each.ticket, each.points, each.since) for each in found] == expected


@pytest.mark.parametrize(
    ("wrong", "risk"),
    [
        (gap(site="bank"), Risk.HIGH), (gap(measure="panic"), Risk.HIGH), (gap(), Risk.MEDIUM),
        (gap(Gap.INSPECTION_FAILED, "bank", family=Family.PHYSICAL), Risk.LOW),
    ],
)  # fmt: skip
def test_risk_follows_the_site_and_the_measure(wrong: Verdict, risk: Risk) -> None:
    [found] = causes(open_gaps([wrong], HISTORY, START, {"bank_branch"}))

    assert found.risk is risk
    assert found.responsible == ("行长室" if wrong.site == "bank" else "物业")
