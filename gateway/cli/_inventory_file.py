"""The whole inventory as one table file: a workbook with a sheet for each kind of thing, or one CSV. See docs/inventory.md.

What is exported can be imported again and changes nothing. A column that a file does not have leaves what is known as it is.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from gateway.cli._device_csv import FILE_MAX_BYTES, PROBLEMS_MAX, text_of
from gateway.cli._statements import Inspection, Statement, Waiver
from gateway.errors import ConfigError, Problem
from gateway.model import Area, AreaKind, Device, Management, Point, Site
from gateway.registry import Finding, Snapshot, Thing

if TYPE_CHECKING:
    from openpyxl import Workbook

ROWS_MAX = 250_000
"""Every point of the largest ledger with a second watcher, and all devices and sites."""
UNPACKED_MAX_BYTES = 1 << 30
"""A workbook is a zip archive: of the largest inventory some 200 MB, of a malicious one without end."""
WORKBOOK, CSV = ".xlsx", ".csv"
TABLE = "table"

Entry = Thing | Statement


def _flag(text: str) -> bool:
    words = {"yes": True, "true": True, "1": True, "是": True, "no": False, "false": False, "0": False, "否": False}
    return words[text.lower()] if text else False


def _whole(text: str) -> int:
    return int(text.removesuffix(".0"))  # spreadsheets make 5.0 of 5


_READERS: Mapping[str, tuple[Callable[[str], Any], str, str]] = {
    "text": (str, "a text", "应为文字"),
    "maybe": (lambda text: text or None, "a text or nothing", "应为文字"),
    "whole": (_whole, "a whole number", "应为整数"),
    "maybe_whole": (lambda text: _whole(text) if text else None, "a whole number or nothing", "应为整数"),
    "number": (lambda text: float(text) if text else None, "a number or nothing", "应为数字"),
    "flag": (_flag, "yes or no", "应填 是 或 否"),
    "area_kind": (AreaKind, "one of " + ", ".join(AreaKind), "区域类别不对"),
    "management": (
        lambda text: Management(text) if text else None,
        "one of " + ", ".join(Management) + ", or nothing",
        "管理方式不对",
    ),
    "day": (date.fromisoformat, "a day like 2026-10-01", "应为 2026-10-01 这样的日期"),
    "maybe_day": (
        lambda text: date.fromisoformat(text) if text else None,
        "a day like 2026-10-01, or nothing",
        "应为 2026-10-01 这样的日期",
    ),
    "result": (
        {"ok": "ok", "合格": "ok", "failed": "failed", "不合格": "failed"}.__getitem__,
        "ok or failed",
        "应填 合格 或 不合格",
    ),
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One kind of thing: its columns are its fields, with the Chinese heading that is understood as well."""

    name: str
    zh: str
    kind: type[Entry]
    columns: Mapping[str, tuple[str, str]]
    """Field: heading in Chinese, name of its reader."""
    needed: tuple[str, ...]
    """Of what is new; the first tells which it is."""


SHEETS = (
    Sheet("areas", "区域", Area, {
        "id": ("编号", "text"), "name": ("名称", "text"), "kind": ("类别", "area_kind"), "parent": ("上级", "maybe"),
        "dwellings": ("户数", "maybe_whole"), "management": ("管理", "management"),
    }, ("id", "name", "kind")),
    Sheet("sites", "场所", Site, {
        "id": ("编号", "text"), "name": ("名称", "text"), "account": ("账号", "text"), "kind": ("类别", "text"),
        "address": ("地址", "text"), "latitude": ("纬度", "number"), "longitude": ("经度", "number"), "contact": ("联系岗位", "text"),
        "area": ("区域", "maybe"), "is_key_unit": ("重点单位", "flag"), "responsible": ("责任岗位", "text"),
        "opens": ("开始", "maybe"), "closes": ("结束", "maybe"),
    }, ("id", "name", "account")),
    Sheet("devices", "设备", Device, {
        "id": ("编号", "text"), "site": ("场所", "text"), "name": ("名称", "text"), "heard_within_s": ("静默秒数", "number"),
        "kind": ("类别", "text"), "vendor": ("厂商", "text"), "model": ("型号", "text"), "parent": ("上级", "maybe"),
    }, ("id", "site")),
    Sheet("points", "点位", Point, {
        "id": ("编号", "text"), "site": ("场所", "text"), "number": ("序号", "whole"), "name": ("名称", "text"),
        "kind": ("类别", "text"), "device": ("设备", "maybe"), "zone": ("防区", "maybe_whole"),
    }, ("id", "site", "number")),
    Sheet("waivers", "豁免", Waiver, {
        "point": ("点位", "text"), "measure": ("措施", "text"), "reason": ("理由", "text"), "approver": ("批准部门", "text"),
        "from": ("起始日", "maybe_day"), "until": ("截止日", "day"),
    }, ("point", "measure", "reason", "approver", "until")),
    Sheet("inspections", "检查", Inspection, {
        "point": ("点位", "text"), "measure": ("措施", "text"), "date": ("日期", "day"), "result": ("结果", "result"),
        "by": ("检查岗位", "text"), "remark": ("备注", "text"),
    }, ("point", "measure", "date", "result", "by")),
)  # fmt: skip
_FIELDS = {"from": "since", "date": "day"}
"""Where a column is not named as its field: Python keeps the word for itself."""
_COLUMNS = tuple(dict.fromkeys(column for sheet in SHEETS for column in sheet.columns))
"""Of the one CSV: those that have a name in common share a column."""
_SHEET_OF = {name: sheet for sheet in SHEETS for name in (sheet.name, sheet.name.removesuffix("s"), sheet.zh)}

_RUNS = ("=", "+", "-", "@")
"""A spreadsheet program takes a CSV cell that begins so for a formula, and runs it."""

Row = tuple[Sheet, int, Mapping[str, str]]
Seen = Callable[[int], None]


@dataclass(slots=True)
class Inventory:
    """What a file says, and where it says it."""

    file: str
    entries: dict[tuple[type[Entry], str], Entry] = field(default_factory=dict)
    places: dict[tuple[type[Entry], str], tuple[Sheet, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def things(self) -> Sequence[Thing]:
        return [entry for entry in self.entries.values() if not isinstance(entry, Statement)]

    @property
    def statements(self) -> Sequence[Statement]:
        return [entry for entry in self.entries.values() if isinstance(entry, Statement)]

    def complain(self, at: tuple[Sheet | None, int], column: str, found: str, expected: str, zh: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            sheet, line = at
            self.problems.append(Problem(self.file, line, _place(self.file, sheet, column), found, expected, zh))

    def report(self, entry: Entry, finding: Finding) -> Problem:
        """A finding of the ledger, told by sheet, row and column."""
        sheet, line = self.places[type(entry), entry.id]
        column = "device" if finding.field == "also" else finding.field
        place = _place(self.file, sheet, column)
        return Problem(self.file, line, place, finding.found, finding.expected, finding.zh)


def _place(file: str, sheet: Sheet | None, column: str) -> str:
    return f"sheet {sheet.name}, column {column}" if sheet and file.endswith(WORKBOOK) else f"column {column}"


# -- in ----------------------------------------------------------------------------------------------------------------


def read_inventory(path: Path, ledger: Snapshot, seen: Seen) -> Inventory:
    """Read and check the shape; `seen` is told the rows so far. Raises ConfigError naming every wrong row and column."""
    found = Inventory(str(path))
    rows = _workbook_rows(path, found) if path.suffix.lower() == WORKBOOK else _csv_rows(path, found)
    for count, (sheet, line, row) in enumerate(rows, 1):
        if count > ROWS_MAX:
            found.complain((sheet, line), "id", "too many rows", f"at most {ROWS_MAX}", "行数过多")
            break
        _take(found, ledger, sheet, line, row)
        seen(count)
    if found.problems:
        raise ConfigError(found.problems)
    return found


def _take(found: Inventory, ledger: Snapshot, sheet: Sheet, line: int, row: Mapping[str, str]) -> None:
    said = {}
    before = len(found.problems)
    for column, text in row.items():
        read, expected, zh = _READERS[sheet.columns[column][1]]
        if column in sheet.needed and not text:
            found.complain((sheet, line), column, "empty", expected, "不能为空")
            continue
        try:
            said[column] = read(text)
        except (ValueError, KeyError, OverflowError):
            found.complain((sheet, line), column, f"found {text!r}"[:120], expected, zh)
    known = _shelf(ledger, sheet).get(row.get("id", ""))
    for column in sheet.needed:
        if column not in row and (known is None or column == sheet.needed[0]):
            found.complain((sheet, line), column, "missing", "this column, for what is new", "缺少该列")
    if len(found.problems) > before:
        return
    entry: Entry = replace(known, **said) if known is not None else _new(sheet, said)
    if isinstance(entry, Point) and "device" in said:
        entry = replace(entry, zone=said.get("zone"), also=())
    key = (sheet.kind, entry.id)
    earlier = found.entries.get(key)
    if earlier is not None:
        entry = _watched_too(found, earlier, entry, sheet, line)
    found.entries[key] = entry
    found.places.setdefault(key, (sheet, line))


def _new(sheet: Sheet, said: Mapping[str, Any]) -> Entry:
    nameless = {"name": ""} if "name" in sheet.columns else {}
    return sheet.kind(**nameless | {_FIELDS.get(column, column): value for column, value in said.items()})


def _watched_too(found: Inventory, earlier: Entry, entry: Entry, sheet: Sheet, line: int) -> Entry:
    """A point in several rows has several watchers; everything else stands in one row, or in rows that agree."""
    if isinstance(earlier, Point) and isinstance(entry, Point):
        bare = replace(entry, device=earlier.device, zone=earlier.zone, also=earlier.also)
        if bare == earlier and earlier.device is not None and entry.device is not None:
            watcher = (entry.device, entry.zone)
            return earlier if watcher in earlier.watchers else replace(earlier, also=(*earlier.also, watcher))
    if earlier != entry:
        differs = f"{entry.id!r} differs from row {found.places[sheet.kind, entry.id][1]}"
        found.complain((sheet, line), sheet.needed[0], differs, "the same in every row", "同一编号在各行内容须一致")
    return earlier


def _shelf(ledger: Snapshot, sheet: Sheet) -> Mapping[str, Any]:
    """What the ledger has of it: of statements nothing, they are facts."""
    shelves = {"areas": ledger.areas, "sites": ledger.sites, "devices": ledger.devices, "points": ledger.points}
    return shelves.get(sheet.name, {})


def _csv_rows(path: Path, found: Inventory) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    heads: dict[str, list[str | None]] = {}
    header: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num
            if not header:
                header = [cell.strip() for cell in cells]
                if TABLE not in header:
                    found.complain((None, line), TABLE, "missing", "a header row with table,id,name,...", "缺少该列")
                    return
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                wanted = f"{len(header)} cells"
                found.complain((None, line), header[-1], "too many or too few cells", wanted, "列数不符")
                continue
            name = cells[header.index(TABLE)].strip()
            sheet = _SHEET_OF.get(name)
            if sheet is None:
                expected = "one of " + ", ".join(each.name.removesuffix("s") for each in SHEETS)
                zh = "应为 " + "、".join(each.zh for each in SHEETS)
                found.complain((None, line), TABLE, f"found {name!r}"[:120], expected, zh)
                continue
            if sheet.name not in heads:
                shared = [column for column in header if column in _COLUMNS or column == TABLE]
                alien = sorted({*header} - {*shared} - {zh for each in SHEETS for zh, _ in each.columns.values()})
                for column in alien:
                    found.complain((None, 1), column or "(empty)", "unknown column", _known_columns(), "未知列名")
                if alien:
                    return
                heads[sheet.name] = [_column_of(sheet, column) for column in header]
            yield sheet, line, {
                column: _unguarded(cell.strip()) for column, cell in zip(heads[sheet.name], cells, strict=True) if column
            }  # fmt: skip
    except csv.Error as error:
        found.complain((None, reader.line_num), "(row)", str(error), "comma-separated values", "不是有效的 CSV")


def _known_columns() -> str:
    return "one of table," + ",".join(_COLUMNS)


def _column_of(sheet: Sheet, heading: str) -> str | None:
    if heading in sheet.columns:
        return heading
    return next((column for column, (zh, _) in sheet.columns.items() if zh == heading), None)


def _workbook_rows(path: Path, found: Inventory) -> Iterator[Row]:
    from zipfile import BadZipFile, ZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            raise ConfigError([_unusable(path, "too long", f"at most {FILE_MAX_BYTES} bytes", "文件过大")])
        with ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > UNPACKED_MAX_BYTES:
                expected = f"at most {UNPACKED_MAX_BYTES} bytes unpacked"
                raise ConfigError([_unusable(path, "too long", expected, "文件过大")])
        book = load_workbook(path, read_only=True, data_only=True)
    except (OSError, BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise ConfigError([_unusable(path, str(error), "a workbook (.xlsx)", "不是有效的 XLSX 文件")]) from error
    try:
        titles = {sheet.title: _SHEET_OF.get(sheet.title.strip().lower()) for sheet in book.worksheets}
        if not any(titles.values()):
            expected = "sheets named " + ", ".join(each.name for each in SHEETS)
            raise ConfigError([_unusable(path, f"sheets {', '.join(titles)}"[:120], expected, "缺少工作表")])
        for title, sheet in titles.items():
            if sheet is not None:  # any other sheet is the author's own
                yield from _sheet_rows(book[title].iter_rows(values_only=True), sheet, found)
    finally:
        book.close()


def _sheet_rows(rows: Iterable[Sequence[object]], sheet: Sheet, found: Inventory) -> Iterator[Row]:
    header: list[str] = []
    for line, cells in enumerate(rows, 1):
        texts = [_cell(cell) for cell in cells]
        if not header:
            header = [_column_of(sheet, text) or text for text in texts]
            for name in header:
                if name not in sheet.columns:
                    expected = "one of " + ",".join(sheet.columns)
                    found.complain((sheet, line), name or "(empty)", "unknown column", expected, "未知列名")
            if found.problems:
                return
        elif any(texts):
            texts += [""] * (len(header) - len(texts))  # a row ends with its last filled cell
            if any(texts[len(header) :]):
                found.complain((sheet, line), header[-1], "too many cells", f"{len(header)} cells", "列数不符")
            yield sheet, line, dict(zip(header, texts, strict=False))


def _cell(value: object) -> str:
    """What a person sees in a cell."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _unusable(path: Path, found: str, expected: str, zh: str) -> Problem:
    return Problem(str(path), None, "file", found, expected, zh)


# -- out ---------------------------------------------------------------------------------------------------------------


def write_inventory(path: Path, ledger: Snapshot, statements: Sequence[Statement] = ()) -> int:
    """Write all of it, beside the file and then in its place; the number of rows. Raises ConfigError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        write = _write_workbook if path.suffix.lower() == WORKBOOK else _write_csv
        rows = write(beside, ledger, statements)
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        found = error.strerror or str(error)
        room = f", and room in {gettempdir()} for its sheets" if path.suffix.lower() == WORKBOOK else ""
        raise ConfigError([_unusable(path, found, f"a file that can be written{room}", "文件无法写入")]) from error
    return rows


def _rows_of(sheet: Sheet, ledger: Snapshot, statements: Sequence[Statement]) -> Iterator[list[str]]:
    """Every row of a sheet, in the order of ids."""
    said = (entry for entry in statements if isinstance(entry, sheet.kind))
    for entry in (*(thing for _, thing in sorted(_shelf(ledger, sheet).items())), *said):
        for watcher in (entry.watchers or ((None, None),)) if isinstance(entry, Point) else (None,):
            values = {column: getattr(entry, _FIELDS.get(column, column)) for column in sheet.columns}
            if watcher is not None:
                values["device"], values["zone"] = watcher
            yield [_shown(value) for value in values.values()]


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return repr(value) if isinstance(value, float) else str(value)


def _guarded(text: str) -> str:
    """With an apostrophe before what would run; and before such an apostrophe, so that it comes back as it was."""
    risky = text.lstrip("'").startswith(_RUNS) and not _is_number(text)
    return f"'{text}" if risky else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_RUNS) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _write_csv(path: Path, ledger: Snapshot, statements: Sequence[Statement]) -> int:
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # the mark is for Chinese spreadsheet programs
        writer = csv.writer(file)
        writer.writerow((TABLE, *_COLUMNS))
        for sheet in SHEETS:
            at = [_COLUMNS.index(column) for column in sheet.columns]
            for row in _rows_of(sheet, ledger, statements):
                cells = [""] * len(_COLUMNS)
                for index, text in zip(at, row, strict=True):
                    cells[index] = _guarded(text)
                writer.writerow((sheet.name.removesuffix("s"), *cells))
                count += 1
    return count


def _write_workbook(path: Path, ledger: Snapshot, statements: Sequence[Statement]) -> int:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    try:
        count = sum(_write_sheet(book, sheet, _rows_of(sheet, ledger, statements)) for sheet in SHEETS)
        book.save(content := io.BytesIO())  # a zip archive on a full disk would complain as well
    except OSError:
        _abandon(book)
        raise
    path.write_bytes(content.getvalue())
    return count


def _write_sheet(book: Workbook, sheet: Sheet, rows: Iterable[Sequence[str]]) -> int:
    from openpyxl.cell import WriteOnlyCell

    page = book.create_sheet(sheet.name)
    page.append(list(sheet.columns))
    count = 0
    for row in rows:
        cells = []
        for text in row:
            cell = WriteOnlyCell(page, value=text or None)
            if text:
                cell.data_type = "s"  # "=1" and "#N/A" are texts here, never a formula or an error
            cells.append(cell)
        page.append(cells)
        count += 1
    return count


def _abandon(book: Workbook) -> None:
    """Close its sheets, which lie on a full disk: left to the garbage collector, each would complain on the terminal."""
    from openpyxl.utils.exceptions import WorkbookAlreadySaved

    for page in book.worksheets:
        with suppress(OSError, WorkbookAlreadySaved):
            page.close()
