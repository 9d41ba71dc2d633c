"""The tables of the reports, from a box's own files."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from openpyxl import load_workbook

from gateway.__main__ import main
from gateway.config import ReportsSection
from gateway.coverage.counts import Counts
from gateway.coverage.profile_file import shipped
from gateway.coverage.ranking import order, place_of, risk_of
from gateway.coverage.view import TARGET_KINDS
from gateway.registry import Registry
from gateway.reports.charts import towards
from gateway.reports.colour import LEVELS, of_alarms, of_coverage, of_critical
from gateway.reports.forecast import Forecast, forecast
from gateway.reports.lists import RATES, counted
from gateway.reports.words import MEASURES, SITE_KINDS, Lang
from tests.coverage.town import town

DAY = date(2026, 10, 4)


@pytest.fixture
async def box(tmp_path: Path) -> Path:
    """A box with the small town in its record."""
    (tmp_path / "site.toml").write_text("", encoding="utf-8")
    registry = await Registry.open(tmp_path / "var" / "registry.db")
    await registry.record(town(7, 200))
    await registry.close()
    return tmp_path


def made(box: Path, what: str, form: str) -> bytes:
    out = box / f"out.{form}"
    when = ["--at", "2026-02-20T12:00"]
    assert main(["report", what, "--config", str(box / "site.toml"), *when, "--format", form, "--out", str(out)]) == 0
    return out.read_bytes()


@pytest.mark.parametrize("what", ["coverage", "gaps", "zones", "ledger"])
def test_a_report_says_the_same_in_every_format(box: Path, what: str) -> None:
    document = json.loads(made(box, what, "json"))
    tables = [value for value in document.values() if isinstance(value, list)]
    lines = sum(len(table) + 1 for table in tables) + len(tables) - 1

    assert tables[0]
    assert len(list(csv.reader(io.StringIO(made(box, what, "csv").decode("utf-8-sig"))))) == lines
    book = load_workbook(io.BytesIO(made(box, what, "xlsx")))
    assert [sheet.max_row - 1 for sheet in book] == [len(table) for table in tables]
    page = made(box, what, "html").decode()
    assert page.count("<tr>") == sum(len(table) + 1 for table in tables if table)
    assert "<script" not in page
    assert "http" not in page.replace('http-equiv="Content', "")


def test_a_rate_stands_beside_its_counts(box: Path) -> None:
    page = made(box, "coverage", "html").decode()

    total = json.loads(made(box, "coverage", "json"))["coverage"][0]
    assert f"({total['installed']}/{total['required']})" in page
    assert "无应装点位" in page


@pytest.mark.parametrize(("lang", "said"), [("zh", "n/a (无已装点位)"), ("en", "n/a (nothing installed)")])
def test_where_points_are_required_and_none_is_installed_that_is_said(lang: Lang, said: str) -> None:
    shown = {column.key: column.show(counted(Counts(required=2))[column.key], lang) for column in RATES}

    assert (shown["installation"], shown["serviceable"], shown["effective"]) == ("0.0 % (0/2)", said, "0.0 % (0/2)")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["bulletin", "--out", "b.txt"],
            "'b.txt' ends in .txt; expected a name that ends in .html, .json, .pdf, .xlsx,",
        ),
        (
            ["coverage", "--out", "c.doc"],
            "'c.doc' ends in .doc; expected a name that ends in .txt, .json, .csv, .html,",
        ),
        (["gaps", "--out", "gaps"], "'gaps' has no ending; expected a name that ends in .txt, .json, .csv, .html,"),
    ],
)
def test_an_ending_that_says_no_format_is_refused(
    box: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(box)

    assert main(["report", *words]) == 2
    assert f"--out: {complaint}" in capsys.readouterr().err
    assert not Path(words[-1]).exists()
    assert main(["report", *words, "--format", "json"]) == 0
    assert json.loads(Path(words[-1]).read_text(encoding="utf-8"))


def test_on_a_terminal_a_report_is_a_table_to_read(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "coverage", "--config", str(box / "site.toml"), "--at", "2026-02-20T12:00"]) == 0
    title, _, heads, whole, *_ = capsys.readouterr().out.splitlines()
    total = json.loads(made(box, "coverage", "json"))["coverage"][0]

    assert title == "覆盖情况表  截至 2026-02-20 12:00"
    assert f"({total['installed']}/{total['required']})" in whole
    assert heads.startswith("层级    名称  类别        安装率(已装/应装)  完好率")


@pytest.mark.parametrize(
    ("wish", "first"),
    [
        (["--json"], "{"),
        (["--format", "csv"], "\ufeff层级"),
        (["--out", "a.html"], "<!DOCTYPE"),
        (["--out", "a.txt"], "覆盖"),
    ],
)
def test_the_format_is_as_asked_or_as_the_file_is_called(
    box: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wish: list[str], first: str
) -> None:
    monkeypatch.chdir(box)
    assert main(["report", "coverage", "--at", "2026-02-20T12:00", *wish]) == 0
    content = Path(wish[1]).read_text("utf-8") if "--out" in wish else capsys.readouterr().out

    assert content.startswith(first)


def test_a_node_that_is_not_there_is_named(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["report", "gaps", "--config", str(box / "site.toml"), "--node", "nowhere"])

    assert code == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_missing_extra_says_what_to_install(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError):
        code = main(["report", "gaps", "--config", str(box / "site.toml"), "--format", "pdf"])

        assert code == 1
        assert "fangkong[pdf]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(10, 10 - max(0, 5 - week)) for week in range(5)], Forecast(DAY + timedelta(weeks=1))),
        ([(20, 20 - (16 - 2 * week)) for week in range(5)], Forecast(DAY + timedelta(weeks=4))),
        ([(20, 20)] * 5, Forecast(DAY, "reached")),
        ([(0, 0)] * 5, Forecast(None, "nothing_required")),
        ([(20, 10), (20, 12)], Forecast(None, "too_short")),
        ([(20, 12), (20, 11), (20, 10), (20, 9)], Forecast(None, "not_falling")),
        ([(20, 12), (20, 2), (20, 18), (20, 3), (20, 17), (20, 5), (20, 14)], Forecast(None, "not_a_line")),
    ],
)  # fmt: skip
def test_the_day_of_100_percent_is_forecast_from_a_line_or_not_at_all(
    curve: list[tuple[int, int]], expected: Forecast
) -> None:
    weeks = [(DAY - timedelta(weeks=len(curve) - 1 - n), *counts) for n, counts in enumerate(curve)]

    assert forecast(weeks) == expected


SETTINGS = ReportsSection()


@pytest.mark.parametrize(
    ("working", "required", "expected"),
    [(0, 0, None), (1000, 1000, "grey"), (9999, 10_000, "blue"), (951, 1000, "blue"), (950, 1000, "yellow"), (900, 1000, "orange"),
     (800, 1000, "red"), (0, 5, "red")],
)  # fmt: skip
def test_the_colour_of_coverage(working: int, required: int, expected: str | None) -> None:
    assert of_coverage(working, required, SETTINGS) == expected


@pytest.mark.parametrize(
    ("last", "before", "expected"),
    [(40, [10] * 14, None), (9, [1] * 15, "grey"), (11, [10] * 15, "grey"), (12, [10] * 15, "blue"), (15, [10] * 15, "yellow"),
     (20, [10] * 15, "orange"), (30, [10] * 15, "red"), (10, [0] * 15, "red")],
)  # fmt: skip
def test_the_colour_of_alarms(last: int, before: list[int], expected: str | None) -> None:
    assert of_alarms(last, before, SETTINGS) == expected


def test_the_colour_of_a_critical_deficiency() -> None:
    found = [of_critical(age, SETTINGS) for age in (None, 1, 3, 7, 30)]

    assert found == list(LEVELS)


def test_order_is_by_risk_then_site_then_duty_then_gap_then_age() -> None:
    """Ten gaps, written in the order that docs/reports.md specifies, come out so from any order."""
    from gateway.coverage.requirements import Duty, Family
    from gateway.coverage.verdict import Gap, Verdict

    technical, physical = Family.TECHNICAL, Family.PHYSICAL
    wanted = [
        ("bank_branch", "intrusion", technical, Duty.MANDATORY, Gap.NOT_INSTALLED, 5),
        ("bank_branch", "intrusion", technical, Duty.MANDATORY, Gap.SILENT, 1),
        ("bank_branch", "intrusion", technical, Duty.MANDATORY, Gap.SILENT, 2),
        ("jewelry_store", "intrusion", technical, Duty.MANDATORY, Gap.FAULT, 9),
        ("residential_estate", "panic", technical, Duty.MANDATORY, Gap.UNTESTED, 9),
        ("school", "intrusion", technical, Duty.MANDATORY, Gap.UNREACHABLE, 3),
        ("mall", "intrusion", technical, Duty.MANDATORY, Gap.UNTESTED, 3),
        ("no_known_kind", "intrusion", technical, Duty.MANDATORY, Gap.NOT_PLANNED, 1),
        ("bank_branch", "bars", physical, Duty.MANDATORY, Gap.NOT_INSPECTED, 3),
        ("bank_branch", "intrusion", technical, Duty.ADVISED, Gap.NOT_INSTALLED, 1),
    ]
    made = [
        Verdict("S", kind, "P", "", measure, family, duty, True, False, False, False, False, False, False, False, False, gap, "", "", "",
                since, None)
        for kind, measure, family, duty, gap, since in wanted
    ]  # fmt: skip

    def rank(each: Verdict) -> tuple[object, ...]:
        site = {"kind": each.site_kind}
        return order(each, site, risk_of(each, site, TARGET_KINDS))

    backwards = made[::-1]
    assert sorted(backwards, key=rank) == made
    assert place_of({"kind": "mall", "is_key_unit": True}) == place_of({"kind": "key_unit_other"})
    assert risk_of(made[6], {"is_key_unit": True}, TARGET_KINDS) == "high"


def test_deficiencies_are_ordered_by_risk_then_site_then_gap_then_age() -> None:
    from datetime import UTC, datetime

    from gateway.coverage.ranking import ticket_order
    from gateway.coverage.tickets import Risk, Ticket

    old, new = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 2, tzinfo=UTC)
    wanted = [
        ("bank_branch", Risk.HIGH, "target", new),
        ("bank_branch", Risk.HIGH, "silent", old),
        ("bank_branch", Risk.HIGH, "silent", new),
        ("residential_estate", Risk.HIGH, "untested", old),
        ("school", Risk.MEDIUM, "fault", old),
        ("bank_branch", Risk.LOW, "not_inspected", old),
    ]
    made = [
        (Ticket(f"t{number}", "S", gap, "", risk, "", (), opened, DAY, 1), {"kind": kind})
        for number, (kind, risk, gap, opened) in enumerate(wanted)
    ]
    backwards = made[::-1]

    assert sorted(backwards, key=lambda each: ticket_order(*each)) == made


def test_where_all_is_installed_and_stays_so_the_way_to_the_target_has_its_chart() -> None:
    weeks = [(DAY + timedelta(weeks=week), 1000) for week in range(13)]

    assert "<svg" in towards(weeks, [(DAY, 1000)], None, ("a", "b", "c"), "n")


def test_every_shipped_profile_asks_in_words_that_people_know() -> None:
    profiles = shipped()

    assert {profile.site_kind for profile in profiles} <= set(SITE_KINDS)
    assert {each.measure for profile in profiles for each in profile.requirements} <= set(MEASURES)
