"""Deficiencies: once for each cause, opened and closed by evidence alone, with all that became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from gateway.coverage.causes import causes
from gateway.coverage.facts import Fact, Sort
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


@dataclass
class Gap:
    site: str = "s1"
    point: str = "p1"
    measure: str = "intrusion"
    family: str = "technical"
    gap: str | None = "silent"
    because: str = ""
    via: str = ""
    since: datetime = START


class Known:
    """A history of facts that hold for ever."""

    def __init__(self, facts: dict[tuple[Sort, str], dict[str, Any]]) -> None:
        self.facts = facts

    def at(self, sort: Sort, subject: tuple[str, ...], _t: datetime) -> Mapping[str, Any] | None:
        return self.facts.get((sort, subject[0]))


HISTORY = Known(
    {
        (Sort.SITE, "s1"): {"kind": "residential_estate", "responsible": "物业"},
        (Sort.SITE, "bank"): {"kind": "bank_branch", "responsible": "行长室"},
        (Sort.POINT, "p1"): {"device": "d1", "zone": None, "also": []},
        (Sort.POINT, "p2"): {"device": "d1", "zone": 7, "also": []},
        (Sort.POINT, "p3"): {"device": "d3", "zone": 3, "also": [["d4", None]]},
        (Sort.HEALTH, "d3"): {"state": "working"},
        (Sort.HEALTH, "d4"): {"state": "fault"},
        (Sort.HEALTH, "bus"): {"state": "silent"},
        (Sort.HEALTH, "panel"): {"state": "unreachable", "via": "bus"},
    }
)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([Gap(), Gap(point="p2", since=START - HOUR)], [("device:d1:silent", ("p1", "p2"), START - HOUR)]),
        (
            [Gap(gap="unreachable", via="bus"), Gap(point="p2", gap="unreachable", via="panel")],
            [("device:bus:silent", ("p1", "p2"), START)],
        ),
        ([Gap(point="p3", gap="fault")], [("device:d4:fault", ("p3",), START)]),
        ([Gap(point="p1", gap="fault")], [("point:p1:fault", ("p1",), START)]),
        ([Gap(gap="not_networked"), Gap(point="p2", gap="not_networked")], [("site:s1:not_networked", ("p1", "p2"), START)]),
        ([Gap(point="", gap="not_planned")], [("site:s1:not_planned", (), START)]),
        ([Gap(gap="not_installed")], [("point:p1:not_installed", ("p1",), START)]),
        ([Gap("bank", gap="not_installed"), Gap("bank", "p2", gap="not_accepted")], [("site:bank:target", ("p1", "p2"), START)]),
        ([Gap("bank", family="physical", gap="not_inspected")], [("point:p1:not_inspected", ("p1",), START)]),
        ([Gap(gap=None)], []),
    ],
    ids=["a silent panel", "a lost bus", "a second watcher", "a zone", "a proof", "unplanned", "missing", "the target", "a door", "none"],
)  # fmt: skip
def test_each_cause_is_one_ticket(gaps: list[Gap], expected: list[tuple[str, tuple[str, ...], datetime]]) -> None:
    found = causes(gaps, HISTORY, START, {"bank_branch"})

    assert [(each.ticket, each.points, each.since) for each in found] == expected


@pytest.mark.parametrize(
    ("gap", "risk"),
    [
        (Gap("bank"), Risk.HIGH), (Gap(measure="panic"), Risk.HIGH), (Gap(), Risk.MEDIUM),
        (Gap("bank", family="physical", gap="inspection_failed"), Risk.LOW),
    ],
)  # fmt: skip
def test_risk_follows_the_site_and_the_measure(gap: Gap, risk: Risk) -> None:
    [found] = causes([gap], HISTORY, START, {"bank_branch"})

    assert found.risk is risk
    assert found.responsible == ("行长室" if gap.site == "bank" else "物业")
