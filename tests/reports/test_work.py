"""What has to be done: one order of risk wherever it is listed, the letters that ask for it, and the plan of what is due."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from gateway.__main__ import main
from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.requirements import Duty, Family, Requirement
from gateway.coverage.tickets import rectified, told
from gateway.coverage.verdict import Rules
from gateway.reports import notice, schedule
from gateway.reports.alarms import Alarms
from gateway.reports.figures import Known
from gateway.reports.office import Asked, report
from gateway.reports.pages import report_page
from tests.coverage.ledger import Ledger
from tests.coverage.town import town
from tests.gateway.api_box import Box, closed_box
from tests.reports.sample import MONTH, box

AT = datetime(2026, 3, 10, 4, tzinfo=UTC)
DAY = timedelta(days=1)


def known(facts: Sequence[Fact]) -> Known:
    section = CoverageSection()
    return Known(History(facts), facts, Alarms(), Rules.of(section), section, ReportsSection())


async def all_of(api: Box, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := (await api.get(path, after=len(found))).json()["items"]:
        found += page
    return found


async def test_the_interface_and_the_reports_tell_the_same_gaps_and_deficiencies_in_the_same_order(
    tmp_path: Path,
) -> None:
    async with closed_box(tmp_path) as parts:
        await parts.registry.record(town(7, 200))
        async with parts.open():
            await parts.assurance.look()
            parts.clock.shift_s = 40 * 86_400.0
            await parts.assurance.look()
            gaps, deficiencies = (
                await all_of(parts, "/api/v1/coverage/gaps"),
                await all_of(parts, "/api/v1/deficiencies"),
            )
        facts, at = await parts.registry.facts(limit=10_000), parts.clock.now()
    asked = Asked(known(facts), at)
    rows = notice.rows(asked.known, asked.scope, asked.gaps, asked.node, at)

    assert len(gaps) > 10
    assert len(deficiencies) > 5
    assert [(each["site"], each["point"], each["measure"]) for each in gaps] == [
        (row["site"], row["point"], row["measure"]) for row in report("gaps", asked).tables[0].rows
    ]
    assert [each["id"] for each in deficiencies] == [row["ticket"] for row in rows]
    of_gaps = [row["risk"] for row in report("gaps", asked).tables[0].rows]
    assert of_gaps == sorted(of_gaps, key=["high", "medium", "low"].index)


def a_shop() -> Ledger:
    """A button and a window at a jeweller's, both well on 1 January; the button's test and the inspection grow old."""
    ledger = Ledger()
    ledger.profile(
        "jewelry_store",
        Requirement("counter", "panic"),
        Requirement("window", "bars", family=Family.PHYSICAL),
        Requirement("window", "lighting", family=Family.PHYSICAL, duty=Duty.ADVISED),
    )
    ledger.site("S", responsible="店长 0535-1234567")
    ledger.device("B", "S", "panic_button")
    ledger.point("P", "S", "counter", "B")
    ledger.works("P", "B")
    ledger.live_test("B", AT - 20 * DAY)
    ledger.point("W", "S", "window")
    ledger.inspect("W", "bars", True, AT - 300 * DAY, AT - 5 * DAY)
    return ledger


def test_the_schedule_has_what_is_overdue_first_then_month_by_month() -> None:
    asked = Asked(known(a_shop().facts), AT, months=2)

    tables = {table.key: table.rows for table in report("schedule", asked).tables}
    keys = ("work", "measure", "due", "overdue_days", "result")
    shown = {key: [tuple(row[each] for each in keys) for row in rows] for key, rows in tables.items()}
    assert shown == {
        "overdue": [("inspect", "lighting", None, None, "never"), ("inspect", "bars", "2026-03-05", 5, "ok")],
        "2026-03": [("live_test", "panic", "2026-03-20", 0, "ok")],
        "2026-04": [],
    }


def test_a_live_test_and_an_inspection_move_what_is_due() -> None:
    ledger = a_shop()
    ledger.live_test("B", AT - DAY)
    ledger.inspect("W", "bars", False, AT - DAY, AT + 300 * DAY)
    asked = Asked(known(ledger.facts), AT)

    rows = schedule.rows(asked.known, asked.scope, asked.verdicts, asked.node, AT)
    assert [(row["measure"], row["due"], row["last"], row["result"]) for row in rows] == [
        ("bars", None, "2026-03-09", "failed"),
        ("lighting", None, None, "never"),
        ("panic", "2026-04-08", "2026-03-09", "ok"),
    ]


def test_a_notice_says_what_why_since_when_until_when_and_who_was_told() -> None:
    ledger = a_shop()
    ledger.health("B", "fault", AT - 2 * DAY, cause="tamper")
    before = Asked(known(ledger.facts), AT - DAY)
    ticket = notice.rows(before.known, before.scope, before.gaps, before.node, AT - DAY)[0]["ticket"]
    first = known(ledger.facts)
    opened = Asked(first, AT - DAY)
    facts = [
        *ledger.facts,
        *_opened(opened),
        told(ticket, "店长", "os:li", AT - 5 * HOUR),
        rectified(ticket, "os:li", "", AT - HOUR),
    ]

    made = report("notice", Asked(known(facts), AT))
    [row, other] = made.tables[0].rows
    expected = {
        "ticket": "device:B:fault", "measures": ["panic"], "gaps": ["fault"], "points": ["P"], "because": "tamper", "source": "test, 1",
        "since": "2026-03-08", "opened": "2026-03-09", "due": "2026-03-12", "overdue_days": 0,
        "told": [{"at": "2026-03-10 07:00", "whom": "店长", "by": "os:li"}], "standing": "rectified", "recheck": "2026-03-11 11:00",
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert other["ticket"] == "point:W:not_inspected"
    page = report_page(made, "zh")
    assert "致: <b>店长 0535-1234567</b>" in page
    assert "2026-03-10 07:00 店长" in page
    assert "防拆报警" in page


HOUR = timedelta(hours=1)


def _opened(asked: Asked) -> list[Fact]:
    """What a running gateway would have recorded at that moment."""
    from gateway.coverage.causes import causes
    from gateway.coverage.tickets import Terms, Tickets, changes

    section = CoverageSection()
    return changes(
        causes(asked.gaps), Tickets(), asked.at, Terms(section.grace_h.model_dump(), section.due_days.model_dump())
    )


@pytest.fixture(scope="module")
def site_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return box(tmp_path_factory.mktemp("sample"))


def made(site_file: Path, what: str, form: str, *more: str) -> bytes:
    out = site_file.parent / f"out.{form}"
    words = [
        "report",
        what,
        "--config",
        str(site_file),
        "--at",
        "2026-10-31T23:00",
        "--format",
        form,
        "--out",
        str(out),
        *more,
    ]
    assert main(words) == 0
    return out.read_bytes()


def test_a_letter_goes_to_each_who_has_something_to_do_and_the_table_has_all_of_them(site_file: Path) -> None:
    rows = json.loads(made(site_file, "notice", "json"))["notice"]

    page = made(site_file, "notice", "html").decode()
    assert page.count("<section>") == len({row["responsible"] for row in rows}) > 10
    assert made(site_file, "notice", "html", "--by", "site").decode().count("<section>") == len(
        {row["site"] for row in rows}
    )
    sheet = load_workbook(io.BytesIO(made(site_file, "notice", "xlsx"))).active
    assert sheet.max_row == len(rows) + 1
    assert "支行办公室" in page
    assert MONTH.start.isoformat() not in page


def test_the_schedule_of_the_district_is_told_in_every_format(site_file: Path) -> None:
    document = json.loads(made(site_file, "schedule", "json", "--months", "2"))
    page = made(site_file, "schedule", "html", "--months", "2", "--lang", "en").decode()

    assert list(document) == ["report", "at", "node", "overdue", "2026-10", "2026-11"]
    assert page.count("<tr>") == sum(len(rows) + 1 for rows in document.values() if isinstance(rows, list) and rows)
    assert (
        main(
            [
                "report",
                "schedule",
                "--config",
                str(site_file),
                "--format",
                "csv",
                "--out",
                str(site_file.parent / "s.csv"),
            ]
        )
        == 0
    )


def test_more_months_than_anybody_plans_are_refused(site_file: Path) -> None:
    with pytest.raises(SystemExit):
        main(["report", "schedule", "--config", str(site_file), "--months", str(schedule.MONTHS_MAX + 1)])
