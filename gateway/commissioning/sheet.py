"""The acceptance sheet: what each point showed in a walk test, with a hash over every word of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gateway.commissioning.in_test import PROVES, WalkTest
from gateway.coverage.facts import ZONE_OF_ALL
from gateway.kinds import FACTS, Qualifier
from gateway.model import Device, Event, Point, Scalar, Site

FORM = "fangkong acceptance sheet 1"
MEASURED = (
    "rssi_dbm", "margin_db", "linkquality", "signal", "battery_pct", "battery_ok", "battery_low", "voltage_mv", "voltage",
)  # fmt: skip
"""What drivers say of signal and battery, as the sheet names it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One watcher of one point. A point without a watcher has one row without a device."""

    point: str
    number: int
    name: str
    kind: str
    device: str = ""
    device_kind: str = ""
    vendor: str = ""
    model: str = ""
    zone: str = ZONE_OF_ALL
    alarm: str = ""
    """The kind that it raised; "": it was not triggered."""
    alarm_zh: str = ""
    alarm_en: str = ""
    alarm_at: str = ""
    """UTC, as the gateway received it."""
    restore_at: str = ""
    is_press: bool = False
    """Its alarm is a press, which has no end: it passes by itself."""
    measured: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def lacks(self) -> str:
        """What it must still show; "": it has passed."""
        if not self.device:
            return "device"
        if not self.alarm:
            return "alarm"
        return "" if self.is_press or self.restore_at else "restore"


def rows(
    test: WalkTest, points: Mapping[str, Point], devices: Mapping[str, Device], events: Sequence[Event]
) -> list[Row]:
    """What the points of a test have shown, by the events of their present watchers, in the order of their numbers."""
    chosen = sorted((points[point] for point in test.points if point in points), key=lambda point: point.number)
    return [_row(point, watcher, devices, events) for point in chosen for watcher in (point.watchers or (("", None),))]


def content(site: Site, test: WalkTest, shown: Sequence[Row], *, is_over: bool) -> dict[str, Any]:
    """The sheet, with its hash."""
    made = {
        "form": FORM,
        "site": site.id,
        "site_name": site.name,
        "site_kind": site.kind,
        "address": site.address,
        "account": site.account,
        "begun": test.begins.isoformat(),
        "ended": test.ends.isoformat() if is_over else None,
        "tester": test.by,
        "reason": test.reason,
        "passed": sum(not row.lacks for row in shown),
        "rows": [asdict(row) | {"lacks": row.lacks} for row in shown],
    }
    return made | {"sha256": digest(made)}


def canonical(sheet: Mapping[str, Any]) -> str:
    """The one way to write it: keys in order, no blanks, no escapes."""
    return json.dumps(sheet, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(sheet: Mapping[str, Any]) -> str:
    """SHA-256 over all of it but the hash itself."""
    words = {name: value for name, value in sheet.items() if name != "sha256"}
    return hashlib.sha256(canonical(words).encode()).hexdigest()


def is_whole(sheet: Mapping[str, Any]) -> bool:
    """Whether nobody changed a word of it since its hash was made."""
    return sheet.get("form") == FORM and sheet.get("sha256") == digest(sheet)


def read(text: str) -> dict[str, Any] | None:
    """The sheet of a file; None for one that was changed. Raises ValueError for a file that is none."""
    sheet = json.loads(text)
    if not isinstance(sheet, dict) or sheet.get("form") != FORM:
        raise ValueError(f"no {FORM}")
    return sheet if is_whole(sheet) else None


def _row(point: Point, watcher: tuple[str, int | None], devices: Mapping[str, Device], events: Sequence[Event]) -> Row:
    name, zone = watcher
    row = Row(point.id, point.number, point.name, point.kind)
    device = devices.get(name)
    if device is None:
        return row
    own = list(_own(point, watcher, events))
    alarm, restore = _pair(own)
    row = replace(
        row, device=device.id, device_kind=device.kind, vendor=device.vendor, model=device.model,
        zone=ZONE_OF_ALL if zone is None else str(zone), measured=_measured(own),
    )  # fmt: skip
    if alarm is None:
        return row
    facts = FACTS[alarm.kind]
    return replace(
        row, alarm=alarm.kind.value, alarm_zh=facts.zh, alarm_en=facts.en, alarm_at=alarm.received_at.isoformat(),
        restore_at=restore.received_at.isoformat() if restore else "", is_press=facts.momentary,
    )  # fmt: skip


def _own(point: Point, watcher: tuple[str, int | None], events: Iterable[Event]) -> Iterator[Event]:
    device, zone = watcher
    for event in events:
        is_there = event.place is not None and event.place.point == point.id
        if is_there and event.device == device and zone in (None, event.zone):
            yield event


def _pair(events: Sequence[Event]) -> tuple[Event | None, Event | None]:
    """The first alarm that was followed by its restore; else the first alarm."""
    alarms = [event for event in events if event.test and event.kind in PROVES and event.qualifier is Qualifier.NEW]
    for alarm in alarms:
        for event in events:
            is_its_end = (event.kind, event.zone) == (alarm.kind, alarm.zone) and event.qualifier is Qualifier.RESTORE
            if is_its_end and event.seq > alarm.seq:
                return alarm, event
    return (alarms[0], None) if alarms else (None, None)


def _measured(events: Iterable[Event]) -> dict[str, Scalar]:
    """The newest of each quantity."""
    return {name: event.values[name] for event in events for name in MEASURED if name in event.values}
