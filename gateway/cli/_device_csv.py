"""The device list as CSV: one row a device, or a device with one of its points. See docs/inventory.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import ConfigError, Problem
from gateway.model import Device, Point
from gateway.registry import Finding, Thing

COLUMNS = {
    "site": "site id (needed)",
    "device": "the id the device gives itself; empty: a point that has no device yet",
    "device_name": "what people call it",
    "heard_within_s": "seconds of silence after which it counts as silent; empty: its driver's default",
    "point": "point id; empty: this row has no point",
    "number": "the point's zone number towards 110, 0 to 999",
    "point_name": "what people call the point",
    "zone": "the device's zone that watches the point; empty: the whole device",
}
NEEDED = ("site", "device")
FILE_MAX_BYTES = 32 << 20
"""100 000 rows of 300 bytes: the largest ledger there may be."""
PROBLEMS_MAX = 200
"""Mistakes named in one run; a person mends these first."""

_COLUMN_OF = {
    ("Device", "id"): "device", ("Device", "name"): "device_name",
    ("Point", "id"): "point", ("Point", "name"): "point_name",
}  # fmt: skip


@dataclass(slots=True)
class DeviceList:
    """What a file says, and where it says it."""

    file: str
    things: dict[tuple[type[Thing], str], Thing] = field(default_factory=dict)
    lines: dict[tuple[type[Thing], str], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def complain(self, line: int, column: str, found: str, expected: str, zh: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(self.file, line, f"column {column}", found, expected, zh))

    def report(self, thing: Thing, finding: Finding) -> Problem:
        """A finding of the ledger, told by row and column."""
        column = _COLUMN_OF.get((type(thing).__name__, finding.field), finding.field)
        line = self.lines[type(thing), thing.id]
        return Problem(self.file, line, f"column {column}", finding.found, finding.expected, finding.zh)

    def hold(self, line: int, column: str, thing: Thing) -> None:
        """Keep what a row says; a device may stand in many rows as long as they agree."""
        key = (type(thing), thing.id)
        if self.things.setdefault(key, thing) != thing:
            earlier = f"{thing.id!r} differs from row {self.lines[key]}"
            self.complain(line, column, earlier, "the same in every row", "同一编号在各行内容须一致")
        self.lines.setdefault(key, line)


def read_device_list(path: Path) -> DeviceList:
    """Read and check the shape. Raises ConfigError naming every row and column that is wrong."""
    found = DeviceList(str(path))
    for line, row in _rows(path, found):
        _take(found, line, row)
    if found.problems:
        raise ConfigError(found.problems)
    return found


def _rows(path: Path, found: DeviceList) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), restkey="", strict=True)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        for name in NEEDED:
            if name not in names:
                found.complain(1, name, "missing", "a header row with " + ",".join(COLUMNS), "缺少该列")
        for name in names:
            if name not in COLUMNS:
                found.complain(1, name or "(empty)", "unknown column", "one of " + ",".join(COLUMNS), "未知列名")
        if found.problems:
            return
        for row in reader:
            if "" in row or None in row.values():
                found.complain(
                    reader.line_num, names[-1], "too many or too few cells", f"{len(names)} cells", "列数不符"
                )
            elif any(cell.strip() for cell in row.values()):
                yield reader.line_num, {name: row.get(name, "").strip() for name in COLUMNS}
    except csv.Error as error:
        found.complain(reader.reader.line_num, "(row)", str(error), "comma-separated values", "不是有效的 CSV")


def text_of(path: Path) -> str:
    """UTF-8 with or without a mark; else what Chinese spreadsheet programs write."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), None, "file", str(error), "a readable CSV file")]) from error
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError([Problem(str(path), None, "file", "too long", f"at most {FILE_MAX_BYTES} bytes", "文件过大")])
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ConfigError(
        [Problem(str(path), None, "file", "neither UTF-8 nor GB 18030", "a CSV text file", "编码无法识别")]
    )


def _take(found: DeviceList, line: int, row: Mapping[str, str]) -> None:
    before = len(found.problems)
    if not row["site"]:
        found.complain(line, "site", "empty", "a site id", "不能为空")
    if not row["device"] and not row["point"]:
        found.complain(line, "device", "empty", "a device, a point or both", "设备和点位不能都为空")
    within = _number(found, line, "heard_within_s", row["heard_within_s"], float)
    number = _number(found, line, "number", row["number"], int)
    zone = _number(found, line, "zone", row["zone"], int)
    if row["point"] and not row["number"]:
        found.complain(line, "number", "empty", "0 to 999, for every point", "点位编号不能为空")
    for column in ("number", "point_name", "zone"):
        if row[column] and not row["point"]:
            found.complain(line, "point", "empty", f"a point id, as {column} is filled in", "缺少点位编号")
    if len(found.problems) > before:
        return
    if row["device"]:
        found.hold(line, "device", Device(row["device"], row["site"], row["device_name"], within))
    if row["point"]:
        place = int(number or 0)
        device = row["device"] or None
        watched = None if zone is None else int(zone)
        found.hold(line, "point", Point(row["point"], row["site"], place, row["point_name"], device, watched))


def _number(found: DeviceList, line: int, column: str, text: str, kind: type[int] | type[float]) -> float | None:
    try:
        return kind(text) if text else None
    except (ValueError, OverflowError):
        what, zh = ("a whole number", "应为整数") if kind is int else ("a number", "应为数字")
        found.complain(line, column, f"found {text!r}"[:80], what, zh)
        return None
