"""What one box exports of a month: the figures of its published edition, node by node and class by class, with a hash.

The hash says that nothing was changed on the way by accident or by hand. It does not say who wrote the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.coverage.days import Month
from gateway.coverage.merge import Export
from gateway.errors import GatewayError
from gateway.reports.editions import Edition, as_published, canonical, changed, editions
from gateway.reports.figures import Known
from gateway.reports.scope import Scope

SCHEMA = 1
EXPORT_BYTES_MAX = 64 * 2**20
"""A box of ten thousand points in a thousand sites writes a tenth of it; more is no export."""


class NoExport(GatewayError):
    """There is nothing to export, or a file that cannot be taken; says which and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node as people know it."""

    name: str
    kind: str
    parent: str | None
    site_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """One export, read and found sound."""

    path: Path
    sha256: str
    month: Month
    edition: int
    rules: Mapping[str, Any]
    places: Mapping[str, Place]
    export: Export


def exported(known: Known, folder: Path, month: Month, *, box: str) -> bytes:
    """What follows from the month's last published edition: the same bytes each time. Raises NoExport."""
    published = editions(folder, month)
    if not published:
        raise NoExport(f"{month}: nothing is published; first run  fangkong report publish --month {month}  尚未发布")
    edition = published[-1]
    if why := changed(edition, known, month):
        raise NoExport(f"{edition.path}: {why}; publish the month again, as a correction")
    document = _document(as_published(edition, known, month, folder), edition, month, box)
    return canonical({"sha256": hashlib.sha256(canonical(document)).hexdigest(), "document": document}) + b"\n"


def _document(known: Known, edition: Edition, month: Month, box: str) -> dict[str, Any]:
    export = Export.of(box, known.history, month.start, month.end, rules=known.rules)
    scope = Scope(known.history, month.last_moment)
    places = {
        node: Place(
            scope.name(node),
            scope.kind(node),
            scope.parent(node),
            scope.sites[node[5:]].get("kind") if node.startswith("site:") else None,
        )
        for node in scope.nodes()
    }
    return {
        "schema": SCHEMA,
        "month": str(month),
        "edition": edition.number,
        "edition_sha256": edition.sha256,
        "rules": edition.document["rules"],
        "places": {node: asdict(place) for node, place in places.items()},
        "figures": export.written(),
    }


def read(path: Path) -> Reported:
    """Raises NoExport for what is none, was changed, or was written by a program with another schema."""
    document = _sound(path)
    try:
        month = Month.parse(document["month"])
        found = Reported(
            path,
            hashlib.sha256(canonical(document)).hexdigest(),
            month,
            document["edition"],
            document["rules"],
            {node: Place(**place) for node, place in document["places"].items()},
            Export.read(document["figures"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoExport(f"{path}: is no export of a box ({error}) 不是网关上报文件") from error
    if (found.export.start, found.export.end) != (month.start, month.end):
        raise NoExport(f"{path}: says it is of {month}, its figures are of another time 月份不符")
    # The periods of vendors and models are no nodes of the tree.
    if strays := found.export.counts.keys() - found.places.keys():
        raise NoExport(f"{path}: names no place for {', '.join(sorted(strays)[:5])} 缺少节点名称")
    return found


def _sound(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > EXPORT_BYTES_MAX:
            raise NoExport(f"{path}: is larger than {EXPORT_BYTES_MAX} bytes: no export of a box 文件过大")
        whole = json.loads(path.read_bytes())
        said, document = whole["sha256"], whole["document"]
        version, box = document["schema"], document["figures"]["box"]
        if version != SCHEMA:
            raise NoExport(
                f"{path}: is written in schema {version}, this program reads {SCHEMA}: bring box {box} and this program"
                " to the same release and export again 上报文件版本不符"
            )
        found = hashlib.sha256(canonical(document)).hexdigest()
    except OSError as error:
        raise NoExport(f"{path}: {error.strerror}; a file written by  fangkong report export  is expected") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NoExport(f"{path}: is no export of a box ({error}) 不是网关上报文件") from error
    if found != said:
        raise NoExport(
            f"{path}: was changed since box {box} wrote it (sha256 {found[:12]}, it says {str(said)[:12]}):"
            f" ask for it again there with  fangkong report export --month {document.get('month')}  文件被改动"
        )
    sound: dict[str, Any] = document
    return sound
