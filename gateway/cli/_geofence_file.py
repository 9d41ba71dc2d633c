"""Geofences from a file: CSV with one row a fence, or the GeoJSON that map programs save. See docs/vehicles.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from gateway.config import Loc, check_model
from gateway.errors import ConfigError, Problem
from gateway.model import FenceRule, Geofence
from gateway.registry import Finding, Thing

COLUMNS = ("id", "number", "name", "rule", "radius_m", "corners")
FILE_MAX_BYTES = 8 << 20
"""As many fences as the ledger takes, with as many corners, written out in full."""
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Fence(BaseModel):
    """A row or feature; what a map program adds of its own (colours, line widths) is left out."""

    id: str
    number: int
    name: str
    rule: FenceRule
    corners: tuple[tuple[Number, Number], ...]
    radius_m: Number | None = None


@dataclass(slots=True)
class FenceFile:
    """What a file says, and where it says it."""

    file: str
    fences: list[Geofence] = field(default_factory=list)
    places: dict[str, Loc] = field(default_factory=dict)
    """Row or feature of each fence, by its id."""
    problems: list[Problem] = field(default_factory=list)

    def complain(self, at: Loc, found: str, expected: str, zh: str) -> None:
        self.problems.append(Problem(self.file, None, ".".join(map(str, at)), found[:120], expected, zh))

    def report(self, thing: Thing, finding: Finding) -> Problem:
        """A finding of the ledger, told by row or feature."""
        key = ".".join(map(str, (*self.places[thing.id], finding.field)))
        return Problem(self.file, None, key, finding.found, finding.expected, finding.zh)


def read_geofences(path: Path) -> FenceFile:
    """Read and check the shape. Raises ConfigError naming every row or feature that is wrong."""
    found = FenceFile(str(path))
    text = _text(path)
    for at, row in _features(found, text) if text.lstrip().startswith("{") else _rows(found, text):
        fence = _fence(found, at, row)
        if fence is None:
            continue
        if fence.id in found.places:
            earlier = ".".join(map(str, found.places[fence.id]))
            found.complain((*at, "id"), f"{fence.id!r} stands in {earlier} already", "each id once", "编号重复")
        found.places[fence.id] = at
        found.fences.append(fence)
    if found.problems:
        raise ConfigError(found.problems)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
        if len(content) > FILE_MAX_BYTES:
            raise ConfigError([Problem(str(path), None, "file", "too long", f"at most {FILE_MAX_BYTES} bytes")])
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), None, "file", str(error), "a readable text file in UTF-8")]) from error


def _rows(found: FenceFile, text: str) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """Corners are `latitude longitude; latitude longitude; ...`."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        if sorted(reader.fieldnames or ()) != sorted(COLUMNS):
            found.complain(("row", 1), f"found {','.join(reader.fieldnames or ())}", ",".join(COLUMNS), "表头不符")
            return
        for row in reader:
            at: Loc = ("row", reader.line_num)
            if "" in row or None in row.values():
                found.complain(at, "too many or too few cells", f"{len(COLUMNS)} cells", "列数不符")
                continue
            corners = [corner.split() for corner in row["corners"].split(";") if corner.strip()]
            yield at, {**row, "corners": corners, "radius_m": row["radius_m"] or None}
    except csv.Error as error:
        found.complain(("row", reader.line_num), str(error), "comma-separated values", "不是有效的 CSV")


def _features(found: FenceFile, text: str) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """RFC 7946: longitude comes first, and a ring ends where it began."""
    try:
        features = list(json.loads(text)["features"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found.complain(("file",), str(error), "a GeoJSON FeatureCollection", "应为 GeoJSON FeatureCollection")
        return
    for number, feature in enumerate(features, 1):
        at: Loc = ("feature", number)
        try:
            yield at, {**feature["properties"], "corners": _corners(feature["geometry"])}
        except (TypeError, KeyError, ValueError):
            expected = "properties, and a Point or a Polygon of one ring"
            found.complain((*at, "geometry"), "another", expected, "应为点或单环多边形")


def _corners(geometry: Mapping[str, Any]) -> list[list[Any]]:
    match geometry["type"], geometry["coordinates"]:
        case "Point", [longitude, latitude, *_]:
            return [[latitude, longitude]]
        case "Polygon", [[*ring]]:
            return [[latitude, longitude] for longitude, latitude, *_ in ring[:-1]]
    raise ValueError("another geometry")


def _fence(found: FenceFile, at: Loc, row: Mapping[str, Any]) -> Geofence | None:
    checked, problems = check_model(_Fence, row, file=found.file, lines={}, at=at)
    found.problems += problems
    return Geofence(**dict(checked)) if checked else None
