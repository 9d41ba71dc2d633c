"""The equipment ledger and its change feed: what was added, replaced, retired, since when and by whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.requirements import Requirement
from gateway.coverage.verdict import Rules
from gateway.reports.alarms import Alarms
from gateway.reports.figures import Known
from gateway.reports.office import Asked, report
from tests.coverage.ledger import START, Ledger

DAY = timedelta(days=1)


def a_replacement() -> list[Fact]:
    """On day 10 a button is put in the place of another, on day 11 the old one is retired; a waiver was a mistake."""
    ledger = Ledger()
    ledger.area("C")
    ledger.profile("jewelry_store", Requirement("counter", "panic"))
    ledger.site("S", area="C")
    ledger.device("old", "S", "panic_button", vendor="V", model="M1")
    ledger.point("P", "S", "counter", "old")
    ledger.works("P", "old")
    ledger.device("new", "S", "panic_button", START + 10 * DAY, vendor="V", model="M2")
    ledger.point("P", "S", "counter", "new", at=START + 10 * DAY)
    ledger.health("new", "silent", START + 10 * DAY, cause="silent")
    ledger.stage("old", "retired", START + 11 * DAY)
    mistake = ledger.waive("P", "panic", START + 12 * DAY, START + 20 * DAY)
    ledger.withdraw(mistake, START + 13 * DAY)
    return [replace(fact, actor="os:li") if fact.recorded_at != START else fact for fact in ledger.facts]


def asked(since: datetime) -> Asked:
    facts, section = a_replacement(), CoverageSection()
    known = Known(History(facts), facts, Alarms(), Rules.of(section), section, ReportsSection())
    return Asked(known, START + 14 * DAY, since=since, until=START + 14 * DAY)


def test_the_feed_tells_once_and_in_order_what_was_added_replaced_retired_and_by_whom() -> None:
    _, feed = report("ledger", asked(START + DAY)).tables
    texts = feed.texts("zh")
    place = feed.heads("zh").index("变更")

    assert [(row["sort"], row["subject"], row["what"], row["actor"]) for row in feed.rows] == [
        ("device", "new", "added", "os:li"),
        ("point", "P", "replaced", "os:li"),
        ("stage", "old", "retired", "os:li"),
        ("waiver", "P / panic", "added", "os:li"),
        ("waiver", "P / panic", "withdrawn", "os:li"),
    ]
    assert [row["change"] for row in feed.rows][1:3] == ["device: old → new", "stage: retired"]
    assert [text[place] for text in texts] == ["新增", "更换设备", "报废", "新增", "撤回"]
    assert [row["id"] for row in feed.rows] == sorted(row["id"] for row in feed.rows)


def test_the_feed_begins_where_it_is_asked_to() -> None:
    _, feed = report("ledger", asked(START + 11 * DAY)).tables

    assert [row["what"] for row in feed.rows] == ["retired", "added", "withdrawn"]
    assert [row["recorded"] for row in feed.rows][:1] == ["2026-01-12 08:00"]


def test_the_ledger_has_each_device_with_its_points_its_stage_and_how_it_is() -> None:
    equipment, _ = report("ledger", asked(START)).tables
    rows = {row["device"]: (row["points"], row["stage"], row["state"], row["cause"]) for row in equipment.rows}

    assert rows == {"new": ("P", None, "silent", "silent"), "old": ("", "retired", "working", "")}
    assert datetime(2026, 1, 1, tzinfo=UTC) == START
