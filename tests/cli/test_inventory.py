"""The whole inventory as a file: what is exported comes in again and changes nothing; what is wrong is named."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from gateway.__main__ import main
from gateway.cli._district import district
from gateway.cli._inventory_file import SHEETS, read_inventory, write_inventory
from gateway.cli._statements import Waiver
from gateway.clock import RealClock
from gateway.coverage.days import LOCAL, day_of, start_of
from gateway.coverage.facts import Fact, Sort
from gateway.model import Area, AreaKind, Device, Management, Point, Site
from gateway.registry import Registry, Snapshot, Thing
from gateway.registry.checks import Checker, join
from gateway.registry.snapshot import EMPTY

Fangkong = Callable[..., tuple[int, str, str]]
BOTH = pytest.mark.parametrize("ending", ["csv", "xlsx"])


def nobody_looks(_rows: int) -> None:
    """Of a progress bar, none."""


@pytest.fixture
def fangkong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fangkong:
    """Runs a command on an empty box and returns its exit code and what it said."""
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words), "--config", str(tmp_path / "site.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def near(offset: int) -> date:
    """So many days from today."""
    return day_of(RealClock().now()) + timedelta(days=offset)


def day(offset: int) -> str:
    return near(offset).isoformat()


def ledger_of(tmp_path: Path) -> Snapshot:
    async def load() -> Snapshot:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        await registry.close()
        return registry.snapshot

    return asyncio.run(load())


@BOTH
def test_the_sample_district_comes_in_and_goes_out_and_nothing_changes(
    tmp_path: Path, fangkong: Fangkong, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    sample, again = tmp_path / f"sample.{ending}", tmp_path / f"again.{ending}"
    assert main(["inventory", "sample", str(sample)]) == 0
    capsys.readouterr()
    things = district()

    would = f"{len(things)} would be added, 0 would be updated, 0 unchanged\n"
    assert fangkong("inventory", "import", sample, "--dry-run") == (0, would, "")
    assert not ledger_of(tmp_path).sites
    assert fangkong("inventory", "import", sample) == (0, f"{len(things)} added, 0 updated, 0 unchanged\n", "")
    assert ledger_of(tmp_path).points == {thing.id: thing for thing in things if isinstance(thing, Point)}
    assert fangkong("inventory", "export", again)[0] == 0
    assert fangkong("inventory", "import", again) == (0, f"0 added, 0 updated, {len(things)} unchanged\n", "")


def test_the_sample_district_is_as_large_as_promised_and_the_same_from_the_same_seed() -> None:
    things = district()
    counts = Counter(thing.kind if isinstance(thing, Area) else type(thing) for thing in things)

    assert (counts[AreaKind.CONTROL_ZONE], counts[Site]) == (7, 63)
    assert 950 <= counts[Point] <= 1050
    assert things == district()
    assert things != district(8)


# -- any inventory there may be ------------------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(" =+-@#_,;\"'"), max_size=12
).map(str.strip).filter(str.isprintable)  # fmt: skip
DEVICE_ID = TEXT.filter(bool)
WORD = st.sampled_from(["", "panel", "panic_button", "x9"])


@st.composite
def inventories(draw: st.DrawFn) -> list[Thing]:
    area = Area(
        "a1", draw(TEXT.filter(bool)), draw(st.sampled_from(AreaKind)), None,
        draw(st.none() | st.integers(0, 100_000)), draw(st.none() | st.sampled_from(Management)),
    )  # fmt: skip
    degrees = draw(st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180))) or (None, None)
    account = draw(st.text(string.hexdigits.upper().replace("abcdef", ""), min_size=3, max_size=16)).upper()
    days = draw(st.sampled_from([(None, None), ("2026-01-31", None), ("2026-01-31", "2026-02-01")]))
    site = Site(
        "s-1", draw(TEXT.filter(bool)), account, "school", draw(TEXT), *degrees, "值班室 0535-1",
        area=draw(st.sampled_from([None, "a1"])), is_key_unit=draw(st.booleans()), opens=days[0], closes=days[1],
    )  # fmt: skip
    names = draw(st.lists(DEVICE_ID, min_size=1, max_size=4, unique=True))
    devices = [
        Device(
            name, "s-1", draw(TEXT), draw(st.none() | st.floats(0.001, 86_400)), draw(WORD), draw(TEXT), draw(TEXT),
            parent=names[index - 1] if index and draw(st.booleans()) else None,
        )
        for index, name in enumerate(names)
    ]  # fmt: skip
    watchers = draw(
        st.lists(
            st.tuples(st.sampled_from(names), st.none() | st.integers(0, 65_535)), unique=True, max_size=6
        )
    )  # fmt: skip
    first, *also = watchers or [(None, None)]
    points = [Point("p1", "s-1", draw(st.integers(0, 500)), draw(TEXT), *first, draw(WORD), tuple(also))]
    return [area, site, *devices, *points, Point("p2", "s-1", 999, "")]


@BOTH
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(things=inventories())
def test_whatever_is_exported_is_imported_as_it_was(tmp_path: Path, ending: str, things: list[Thing]) -> None:
    ledger = join(EMPTY, things)
    assert not [finding for thing in things for finding in Checker(ledger).findings(thing)]
    file = tmp_path / f"all.{ending}"
    write_inventory(file, ledger)

    assert join(EMPTY, read_inventory(file, EMPTY, nobody_looks).things) == ledger
    assert join(ledger, read_inventory(file, ledger, nobody_looks).things) == ledger


def test_no_cell_of_a_csv_runs_as_a_formula(tmp_path: Path) -> None:
    names = ["=1+1", "+cmd", "-x", "@SUM(A1)", "'=1", "''-x", "'quoted'", "-5"]
    ledger = join(
        EMPTY, [Site("s-1", "=HYPERLINK()", "1234"), *(Device(f"d{n}", "s-1", name) for n, name in enumerate(names))]
    )
    write_inventory(tmp_path / "a.csv", ledger)

    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        shown = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in shown if cell.startswith(("=", "+", "-", "@")) and cell != "-5"]
    assert join(EMPTY, read_inventory(tmp_path / "a.csv", EMPTY, nobody_looks).things) == ledger


# -- mistakes ----------------------------------------------------------------------------------------------------------

HEADER = "table,id,name,account,area,is_key_unit,site,number,device,zone,latitude,kind,parent,dwellings,management\n"
SITE = "site,s1,玉山三期,1A2B,,,,,,,,school,,,\n"


def csv_row(**cells: str) -> str:
    names = HEADER.strip().split(",")
    assert set(cells) <= set(names)
    return ",".join(cells.get(name, "") for name in names) + "\n"


@pytest.mark.parametrize(
    ("row", "where", "expected", "zh"),
    [
        (csv_row(table="house", id="x"), "3: column table", "one of area", "应为"),
        (csv_row(table="site", name="x", account="1234"), "3: column id", "a text", "不能为空"),
        (csv_row(table="site", id="s2", name="x", account="12"), "3: column account", "3 to 16 hex", "十六进制"),
        (csv_row(table="site", id="s2", name="x", account="1234", kind="school", area="q"), "3: column area", "an area", "区域"),
        (csv_row(table="site", id="s2", name="x", account="1234", is_key_unit="maybe"), "3: column is_key_unit", "yes or no", "是"),
        (csv_row(table="site", id="s2", name="x", account="1234", latitude="N"), "3: column latitude", "a number", "应为数字"),
        (csv_row(table="area", id="a", name="x", kind="town"), "3: column kind", "one of district", "类别"),
        (csv_row(table="area", id="a", name="x", kind="district", dwellings="many"), "3: column dwellings", "whole number", "整数"),
        (csv_row(table="area", id="a", name="x", kind="district", management="good"), "3: column management", "managed", "管理"),
        (csv_row(table="device", id="d", site="s9"), "3: column site", "a site", "场所不存在"),
        (csv_row(table="device", id="d", site="s1", parent="e"), "3: column parent", "a device of this site", "上级"),
        (csv_row(table="point", id="p", site="s1"), "3: column number", "a whole number", "不能为空"),
        (csv_row(table="point", id="p", site="s1", number="1.5"), "3: column number", "a whole number", "整数"),
        (csv_row(table="point", id="p", site="s1", number="1", device="no"), "3: column device", "a device of this", "设备"),
        (csv_row(table="point", id="p", site="s1", number="1", zone="1"), "3: column zone", "nothing", "没有设备"),
        (csv_row(table="point", id="p", site="s1", number="1") + csv_row(table="point", id="p", site="s1", number="2"),
         "4: column id", "the same in every row", "须一致"),
        ("site,s2\n", "3: column management", "15 cells", "列数不符"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_row_and_column_in_both_languages(
    tmp_path: Path, fangkong: Fangkong, *, row: str, where: str, expected: str, zh: str
) -> None:
    (tmp_path / "all.csv").write_text(HEADER + SITE + row, encoding="utf-8")
    code, said, complaint = fangkong("inventory", "import", tmp_path / "all.csv")

    assert (code, said) == (2, "")
    assert any(f"all.csv:{where}:" in line and expected in line and zh in line for line in complaint.splitlines()), (
        complaint
    )
    assert not ledger_of(tmp_path).sites


def test_a_workbooks_mistake_names_its_sheet_and_chinese_headings_are_understood(
    tmp_path: Path, fangkong: Fangkong
) -> None:
    book = Workbook()
    page = book.active
    assert page is not None
    page.title = "场所"
    page.append(["编号", "名称", "账号", "经度", "纬度"])
    page.append(["s1", "玉山三期", "1A2B", 121.5, "east"])
    book.create_sheet("my own notes").append(["anything"])
    book.save(tmp_path / "all.xlsx")
    code, _, complaint = fangkong("inventory", "import", tmp_path / "all.xlsx")

    assert code == 2
    assert (
        "all.xlsx:2: sheet sites, column latitude: found 'east'; expected a number or nothing (应为数字)" in complaint
    )
    page["E2"] = 37
    book.save(tmp_path / "all.xlsx")
    assert fangkong("inventory", "import", tmp_path / "all.xlsx")[1].startswith("1 added")
    assert ledger_of(tmp_path).sites["s1"].latitude == 37.0


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.xlsx", b"PK no archive", "a workbook (.xlsx)"),
        ("gone.xlsx", None, "No such file"),
        ("a.csv", b"id,name\n", "1: column table: missing"),
        ("a.csv", b"table,id,owner_phone\nsite,s1,1\n", "1: column owner_phone: unknown column"),
    ],
)
def test_a_file_that_is_no_inventory_is_refused(
    tmp_path: Path, fangkong: Fangkong, name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, said = fangkong("inventory", "import", tmp_path / name)

    assert code == 2
    assert complaint in said


def test_files_are_bounded(tmp_path: Path, fangkong: Fangkong, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["inventory", "sample", str(tmp_path / "a.xlsx")])
    for name, bound in (("FILE_MAX_BYTES", 100), ("UNPACKED_MAX_BYTES", 100), ("ROWS_MAX", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(f"gateway.cli._inventory_file.{name}", bound)
            assert f"at most {bound}" in fangkong("inventory", "import", tmp_path / "a.xlsx")[2]


def test_a_column_that_a_file_does_not_have_leaves_what_is_known(tmp_path: Path, fangkong: Fangkong) -> None:
    main(["inventory", "sample", str(tmp_path / "a.csv")])
    fangkong("inventory", "import", tmp_path / "a.csv")
    before = ledger_of(tmp_path)
    (tmp_path / "b.csv").write_text("table,id,name\nsite,cs-001,新名称\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text(
        "site,device,device_name,point,number\ncs-001,cs-001-d02,新,cs-001-p02,2\n", encoding="utf-8"
    )

    assert fangkong("inventory", "import", tmp_path / "b.csv")[1] == "0 added, 1 updated, 0 unchanged\n"
    assert fangkong("device", "import", tmp_path / "c.csv")[0] == 0
    after = ledger_of(tmp_path)
    assert after.sites["cs-001"].area == before.sites["cs-001"].area
    assert after.devices["cs-001-d02"].kind == before.devices["cs-001-d02"].kind
    assert after.points["cs-001-p02"].kind == before.points["cs-001-p02"].kind


@BOTH
def test_ten_thousand_rows_come_in_soon(tmp_path: Path, fangkong: Fangkong, ending: str) -> None:
    """CPU time, as the machine may be busy; on an idle one it is the same as on the clock."""
    things: list[Thing] = [Site(f"s{n}", "支行", f"{n:04}", "bank_branch") for n in range(10)]
    things += [Device(f"d{n}", f"s{n % 10}", "设备", 60.0, "panic_button") for n in range(4_000)]
    things += [Point(f"p{n}", f"s{n % 10}", n // 10, "点位", f"d{n}", None, "counter_panic") for n in range(3_000)]
    waived = [Waiver(f"p{n}", "panic", "改造施工", "区防控办", near(30)) for n in range(3_000)]
    write_inventory(tmp_path / f"a.{ending}", join(EMPTY, things), waived)
    start = time.process_time()

    assert fangkong("inventory", "import", tmp_path / f"a.{ending}")[1] == "10010 added, 0 updated, 0 unchanged\n"
    assert time.process_time() - start < 10


def test_a_terminal_sees_how_far_it_is_and_a_pipe_does_not(
    tmp_path: Path, fangkong: Fangkong, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["inventory", "sample", str(tmp_path / "a.csv")])
    assert fangkong("inventory", "import", tmp_path / "a.csv", "--dry-run")[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    assert "reading 读取 500 █" in fangkong("inventory", "import", tmp_path / "a.csv", "--dry-run")[2]


def test_other_endings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inventory", "sample", str(tmp_path / "a.pdf")])

    assert "expected a name that ends in .xlsx or .csv" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["of the sheets", "of the file"])
def test_a_full_disk_is_one_line_of_its_own(tmp_path: Path, place: str) -> None:
    blocks = "100" if place == "of the sheets" else "unlimited"
    if place == "of the file":
        (tmp_path / ".out.xlsx.new").symlink_to("/dev/full")
    command = f'ulimit -f {blocks}; exec "$0" -m gateway inventory sample "$1"'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(tmp_path / "out.xlsx")],
        capture_output=True, text=True, timeout=50, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert (
        f"out.xlsx: file: {'File too large' if blocks == '100' else 'No space left on device'}; expected" in done.stderr
    )
    assert f"room in {tmp_path} for its sheets" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_has_a_sheet_for_each_kind_of_thing(tmp_path: Path, fangkong: Fangkong) -> None:
    main(["inventory", "sample", str(tmp_path / "a.csv")])
    fangkong("inventory", "import", tmp_path / "a.csv")
    assert json.loads(fangkong("inventory", "export", tmp_path / "b.xlsx", "--json")[1])["ok"]

    book = load_workbook(tmp_path / "b.xlsx", read_only=True)
    assert book.sheetnames == [sheet.name for sheet in SHEETS]
    book.close()
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["table"] for row in csv.DictReader(file)} == {"area", "site", "device", "point"}


# -- waivers and inspections -------------------------------------------------------------------------------------------


def record(tmp_path: Path, *facts: Fact) -> None:
    async def write() -> None:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        await registry.record(facts)
        await registry.close()

    asyncio.run(write())


def waived(measure: str, reason: str, first: int, last: int) -> Fact:
    begins, ends = start_of(near(first)), start_of(near(last + 1))
    return Fact(Sort.WAIVER, ("cs-002-p05", measure), {"reason": reason, "approver": "区防控办"}, begins, ends)


@pytest.fixture
def district_box(tmp_path: Path, fangkong: Fangkong) -> Fangkong:
    """With the sample district, in which cs-002 is a bank: cs-002-p05 its counter, cs-002-p04 its entrance."""
    main(["inventory", "sample", str(tmp_path / "sample.csv")])
    fangkong("inventory", "import", tmp_path / "sample.csv")
    return fangkong


def said_on(box: Fangkong) -> tuple[list[object], list[object]]:
    return json.loads(box("waiver", "list", "--json")[1]), json.loads(box("inspection", "list", "--json")[1])


@BOTH
def test_waivers_and_inspections_in_force_go_out_and_come_in_on_any_box_and_nothing_changes(
    tmp_path: Path, district_box: Fangkong, ending: str
) -> None:
    file, rows = tmp_path / f"all.{ending}", len(district())
    record(tmp_path, waived("panic", "=改造施工 ", -10, 30), waived("intrusion", "过期", -10, -2))
    look = ("inspection", "add", "cs-002-p04", "security_door", "--by", "保卫科")
    district_box(*look, "--result", "ok", "--on", day(-20))
    district_box(*look, "--result", "failed", "--remark=-锁坏", "--on", day(-3))
    before = said_on(district_box)

    assert district_box("inventory", "export", file)[0] == 0
    assert district_box("inventory", "import", file)[1] == f"0 added, 0 updated, {rows + 2} unchanged\n"
    assert said_on(district_box) == before
    shutil.rmtree(tmp_path / "var")
    assert district_box("inventory", "import", file, "--dry-run")[1].startswith(f"{rows + 2} would be added")
    assert said_on(district_box) == ([], [])
    assert district_box("inventory", "import", file)[1] == f"{rows + 2} added, 0 updated, 0 unchanged\n"
    assert district_box("inventory", "import", file)[1] == f"0 added, 0 updated, {rows + 2} unchanged\n"
    [[waiver], looks] = said_on(district_box)
    assert waiver == {
        "point": "cs-002-p05", "measure": "panic", "until": day(30), "reason": "=改造施工", "approver": "区防控办",
    }  # fmt: skip
    assert looks == before[1]


WAIVER_HEADER = "table,point,measure,reason,approver,from,until,date,result,by,remark\n"


def test_a_mistake_in_a_waiver_or_inspection_is_named_and_nothing_of_the_file_is_taken(
    tmp_path: Path, district_box: Fangkong
) -> None:
    good = f"waiver,cs-002-p04,intrusion,改造施工,区防控办,,{day(30)},,,,\n"
    for row, where, expected, zh in (
        (f"waiver,gone,panic,r,a,,{day(1)},,,,", "column point", "a point of the ledger", "点位不存在"),
        (f"waiver,cs-002-p05,bars,r,a,,{day(1)},,,,", "column measure", "one of", "配置要求中没有"),
        (f"waiver,cs-002-p05,panic,,a,,{day(1)},,,,", "column reason", "a text", "不能为空"),
        (f"waiver,cs-002-p05,panic,r,,,{day(1)},,,,", "column approver", "a text", "不能为空"),
        (f"waiver,cs-002-p05,panic,{'长' * 129},a,,{day(1)},,,,", "column reason", "1 to 128", "文字过长"),
        ("waiver,cs-002-p05,panic,r,a,,,,,,", "column until", "a day like", "不能为空"),
        ("waiver,cs-002-p05,panic,r,a,,next week,,,,", "column until", "a day like", "这样的日期"),
        (f"waiver,cs-002-p05,panic,r,a,,{day(-1)},,,,", "column until", "from today on", "豁免期限"),
        (f"waiver,cs-002-p05,panic,r,a,,{day(366)},,,,", "column until", "at most 366 days", "豁免期限"),
        ("waiver,cs-002-p05,panic,r,a,,9999-12-31,,,,", "column until", "at most 366 days", "豁免期限"),
        (f"waiver,cs-002-p05,panic,r,a,{day(1)},{day(9)},,,,", "column from", "not after today", "起始日"),
        (f"waiver,cs-002-p05,panic,r,a,soon,{day(9)},,,,", "column from", "a day like", "这样的日期"),
        (f"inspection,gone,security_door,,,,,{day(0)},ok,b,", "column point", "a point of the ledger", "点位不存在"),
        (f"inspection,cs-002-p05,panic,,,,,{day(0)},ok,b,", "column measure", "a physical measure", "技防措施"),
        (f"inspection,cs-002-p04,bars,,,,,{day(0)},ok,b,", "column measure", "one of", "配置要求中没有"),
        (f"inspection,cs-002-p04,security_door,,,,,{day(0)},fine,b,", "column result", "ok or failed", "合格"),
        (f"inspection,cs-002-p04,security_door,,,,,{day(0)},ok,,", "column by", "a text", "不能为空"),
        (f"inspection,cs-002-p04,security_door,,,,,{day(0)},ok,b,{'长' * 129}", "column remark", "1 to 128", "文字过长"),
        ("inspection,cs-002-p04,security_door,,,,,,ok,b,", "column date", "a day like", "不能为空"),
        (f"inspection,cs-002-p04,security_door,,,,,{day(1)},ok,b,", "column date", "not after today", "检查日期"),
        ("inspection,cs-002-p04,security_door,,,,,0001-01-01,ok,b,", "column date", "not after today", "检查日期"),
    ):  # fmt: skip
        (tmp_path / "all.csv").write_text(WAIVER_HEADER + good + row, encoding="utf-8")
        code, said, complaint = district_box("inventory", "import", tmp_path / "all.csv")

        assert (code, said) == (2, "")
        assert f"all.csv:3: {where}: " in complaint
        assert expected in complaint
        assert zh in complaint
    assert said_on(district_box) == ([], [])


def test_mistakes_of_points_and_of_waivers_are_told_together(tmp_path: Path, fangkong: Fangkong) -> None:
    (tmp_path / "all.csv").write_text(
        "table,id,site,number,point,measure,reason,approver,until\n"
        f"point,p1,gone,1,,,,,\nwaiver,,,,p1,panic,r,a,{day(1)}\nwaiver,,,,p1,panic,other,a,{day(1)}\n"
    )
    assert ":4: column point: 'p1 panic' differs from row 3" in fangkong("inventory", "import", tmp_path / "all.csv")[2]
    text = (tmp_path / "all.csv").read_text().replace("other", "r")
    (tmp_path / "all.csv").write_text(text)
    complaint = fangkong("inventory", "import", tmp_path / "all.csv")[2]

    assert ":2: column site: 'gone' is not in the ledger" in complaint
    assert ":3: column measure: 'panic' is not asked" in complaint


def test_sheets_of_waivers_and_inspections_may_be_chinese_with_cells_that_are_dates(
    tmp_path: Path, district_box: Fangkong
) -> None:
    def midnight(offset: int) -> datetime:
        return datetime.fromisoformat(day(offset))

    book = Workbook()
    page = book.create_sheet("豁免")
    page.append(["点位", "措施", "理由", "批准部门", "起始日", "截止日"])
    page.append(["cs-002-p05", "panic", "改造施工", "区防控办", midnight(0), midnight(400)])
    looks = book.create_sheet("检查")
    looks.append(["点位", "措施", "日期", "结果", "检查岗位", "备注"])
    looks.append(["cs-002-p04", "security_door", midnight(-3), "不合格", "保卫科", "锁坏"])
    book.save(tmp_path / "all.xlsx")
    complaint = district_box("inventory", "import", tmp_path / "all.xlsx")[2]
    assert f"all.xlsx:2: sheet waivers, column until: found {day(400)}; expected a day" in complaint

    page["F2"] = midnight(40)
    book.save(tmp_path / "all.xlsx")
    assert district_box("inventory", "import", tmp_path / "all.xlsx")[1] == "2 added, 0 updated, 0 unchanged\n"
    [[waiver], [look]] = said_on(district_box)
    assert (waiver["until"], look["result"], look["remark"]) == (day(40), "failed", "锁坏")
    deeds = [(row["deed"], row["subject"]) for row in json.loads(district_box("audit", "list", "--json")[1])]
    assert deeds[-2:] == [
        ("waiver", "waiver cs-002-p05 panic"), ("registry", "inspection cs-002-p04 security_door")
    ]  # fmt: skip


def test_a_row_that_says_something_else_of_a_waiver_or_of_a_days_inspection_replaces_it_once(
    tmp_path: Path, district_box: Fangkong
) -> None:
    noon = datetime.fromisoformat(day(-3)).replace(hour=12, tzinfo=LOCAL)
    failed = {"ok": False, "by": "保卫科", "remark": ""}
    look = Fact(Sort.INSPECTION, ("cs-002-p04", "security_door"), failed, noon, noon + timedelta(days=100))
    record(tmp_path, waived("panic", "改造施工", -10, 30), look)
    (tmp_path / "all.csv").write_text(
        WAIVER_HEADER + f"waiver,cs-002-p05,panic,改造施工,区防控办,,{day(20)},,,,\n"
        f"inspection,cs-002-p04,security_door,,,,,{day(-3)},合格,保卫科,\n",
        encoding="utf-8",
    )  # fmt: skip

    assert district_box("inventory", "import", tmp_path / "all.csv")[1] == "0 added, 2 updated, 0 unchanged\n"
    assert district_box("inventory", "import", tmp_path / "all.csv")[1] == "0 added, 0 updated, 2 unchanged\n"
    [[waiver], [row]] = said_on(district_box)
    assert (waiver["until"], row["result"]) == (day(20), "ok")


def test_a_list_that_is_kept_may_hold_waivers_that_have_ended_by_themselves_but_no_new_ones(
    tmp_path: Path, district_box: Fangkong
) -> None:
    record(tmp_path, waived("panic", "改造施工", -10, -2))
    row = f"waiver,cs-002-p05,panic,改造施工,区防控办,{day(-10)},{day(-2)},,,,\n"
    (tmp_path / "all.csv").write_text(WAIVER_HEADER + row, encoding="utf-8")
    assert district_box("inventory", "import", tmp_path / "all.csv")[1] == "0 added, 0 updated, 1 unchanged\n"
    (tmp_path / "all.csv").write_text(WAIVER_HEADER + row.replace("改造", "装修"), encoding="utf-8")

    assert "豁免期限" in district_box("inventory", "import", tmp_path / "all.csv")[2]


def test_a_waiver_whose_point_is_gone_stays_on_the_box_and_one_no_longer_asked_is_no_mistake(
    tmp_path: Path, district_box: Fangkong
) -> None:
    record(tmp_path, waived("panic", "改造施工", -10, 30), waived("bars", "已不要求", -10, 30))
    assert district_box("inventory", "export", tmp_path / "all.csv")[0] == 0
    whole = f"0 added, 0 updated, {len(district()) + 2} unchanged\n"
    assert district_box("inventory", "import", tmp_path / "all.csv")[1] == whole
    assert district_box("point", "remove", "cs-002-p05")[0] == 0
    assert district_box("inventory", "export", tmp_path / "less.csv")[0] == 0

    assert "改造施工" in (tmp_path / "all.csv").read_text(encoding="utf-8-sig")
    assert "改造施工" not in (tmp_path / "less.csv").read_text(encoding="utf-8-sig")


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_a_profile_counts_from_its_day_and_the_former_stays_in_the_record(tmp_path: Path, fangkong: Fangkong) -> None:
    file = tmp_path / "school.toml"
    file.write_text(
        'site_kind = "school"\nversion = "2"\nsource = "local"\n[[requirement]]\npoint_kind = "gate"\nmeasure = "panic"\n'
    )
    assert fangkong("profile", "check", file)[0] == 0
    assert fangkong("profile", "load", file, "--from", "next week")[0] == 2
    assert fangkong("profile", "load", file, "--from", "2026-12-01")[0] == 0

    rows = json.loads(fangkong("profile", "list", "--json")[1])
    assert [(row["version"], row["from"]) for row in rows if row["site_kind"] == "school"] == [
        ("sample-1", "2000-01-01"),
        ("2", "2026-12-01"),
    ]


# -- waivers -----------------------------------------------------------------------------------------------------------


def test_a_waiver_has_a_reason_an_approver_and_an_end_and_can_be_revoked(tmp_path: Path, fangkong: Fangkong) -> None:
    main(["inventory", "sample", str(tmp_path / "a.csv")])
    fangkong("inventory", "import", tmp_path / "a.csv")
    until = (day_of(RealClock().now()) + timedelta(days=30)).isoformat()
    why = ("--reason", "改造施工", "--approver", "区防控办")

    assert fangkong("waiver", "add", "cs-001-p03", "panic", *why, "--until", until)[0] == 0
    assert json.loads(fangkong("waiver", "list", "--json")[1]) == [
        {"point": "cs-001-p03", "measure": "panic", "until": until, "reason": "改造施工", "approver": "区防控办"}
    ]
    assert "豁免期限" in fangkong("waiver", "add", "cs-001-p03", "panic", *why, "--until", "2126-01-01")[2]
    assert "豁免期限" in fangkong("waiver", "add", "cs-001-p03", "panic", *why, "--until", "2020-01-01")[2]
    assert "配置要求中没有" in fangkong("waiver", "add", "cs-001-p01", "bars", *why, "--until", until)[2]
    assert "点位不存在" in fangkong("waiver", "add", "nowhere", "panic", *why, "--until", until)[2]
    assert (
        "--reason" in fangkong("waiver", "add", "cs-001-p03", "panic", "--reason", " ", *why[2:], "--until", until)[2]
    )
    assert fangkong("waiver", "revoke", "cs-001-p03", "panic")[0] == 0
    assert json.loads(fangkong("waiver", "list", "--json")[1]) == []
    assert "没有有效的豁免" in fangkong("waiver", "revoke", "cs-001-p03", "panic")[2]
