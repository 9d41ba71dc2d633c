"""What may stand in the ledger. Pure: things and the ledger they would join in, findings out."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from gateway.model import TERMINAL_AREAS, Area, AreaKind, Device, Geofence, Point, Site, Vehicle
from gateway.registry.snapshot import NUMBER_MAX, Snapshot

SITES_MAX = 5_000
"""DC-09 accounts of four digits give 10 000; one box at a street office serves far fewer."""
DEVICES_MAX = 50_000
"""The largest estate cluster planned for one box, five times over; bounds memory (about 1 KB each) and reload time."""
POINTS_MAX = 100_000
"""Two points a device on average."""
VEHICLES_MAX = 5_000
"""The taxis of a city of a million, twice over."""
GEOFENCES_MAX = NUMBER_MAX - len(TERMINAL_AREAS)
"""Each has a number of its own towards 110."""
CORNERS_MAX = 100
"""A border of a district, drawn by hand; each fix is held against every edge (some 0.1 ms)."""
FENCES_OF_VEHICLE_MAX = 8
RADIUS_M = (20.0, 200_000.0)
"""Less than a receiver is off says nothing, more than a province neither."""
LIMIT_KMH = (5.0, 250.0)
ZONE_MAX = 65_535
"""Zones are one or two bytes in every protocol served."""
HEARD_WITHIN_MAX_S = 90 * 86_400
"""A device that may be silent for longer than a season is not supervised at all."""

AREAS_MAX = 1_000
"""A city district has some dozens of communities; ten districts fit."""
DWELLINGS_MAX = 100_000
"""A community has some thousands."""
ALSO_MAX = 15
"""A point has some few watchers; a profile asks for two or three."""
DEPTH_MAX = 8
"""Gateway, bus, controller, panel, expander, detector: nothing is nested deeper."""
_ORDER = {AreaKind.DISTRICT: 0, AreaKind.CONTROL_ZONE: 1, AreaKind.COMMUNITY: 2}

Thing = Site | Point | Device | Vehicle | Geofence | Area
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in one field, in both languages of the people who type ledgers in."""

    field: str
    found: str
    expected: str
    zh: str


_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ACCOUNT = re.compile(r"[0-9A-F]{3,16}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CONTACT = re.compile(r"\S.{0,40} \+?[0-9][0-9 -]{2,19}")


def join(ledger: Snapshot, things: Sequence[Thing]) -> Snapshot:
    """The ledger as it would be with `things` added or replacing those of the same id."""
    sites, points, devices = dict(ledger.sites), dict(ledger.points), dict(ledger.devices)
    vehicles, geofences, areas = dict(ledger.vehicles), dict(ledger.geofences), dict(ledger.areas)
    for thing in things:
        match thing:
            case Site():
                sites[thing.id] = thing
            case Point():
                points[thing.id] = thing
            case Device():
                devices[thing.id] = thing
            case Vehicle():
                vehicles[thing.id] = thing
            case Geofence():
                geofences[thing.id] = thing
            case Area():
                areas[thing.id] = thing
    return Snapshot.of(
        ledger.revision, sites.values(), points.values(), devices.values(),
        vehicles=vehicles.values(), geofences=geofences.values(), areas=areas.values(),
    )  # fmt: skip


class Checker:
    """Checks things against the ledger they are already part of (see `join`)."""

    def __init__(self, ledger: Snapshot) -> None:
        self._ledger = ledger
        self._accounts = _groups(ledger.sites, lambda site: site.account)
        self._numbers = _groups(ledger.points, lambda point: (point.site, point.number))
        self._watched: defaultdict[tuple[str, int | None], list[str]] = defaultdict(list)
        self._points_of: defaultdict[str, list[str]] = defaultdict(list)
        for point in ledger.points.values():
            for watcher in point.watchers:
                self._watched[watcher].append(point.id)
                self._points_of[watcher[0]].append(point.id)
        self._areas_in = _groups(ledger.areas, lambda area: area.parent)
        self._children = _groups(ledger.devices, lambda device: device.parent)
        self._fence_numbers = _groups(ledger.geofences, lambda fence: fence.number)

    def findings(self, thing: Thing) -> Iterator[Finding]:
        """Every mistake in `thing`."""
        match thing:
            case Site():
                yield from self._site(thing)
            case Point():
                yield from self._point(thing)
            case Device():
                yield from self._device(thing)
            case Vehicle():
                yield from self._vehicle(thing)
            case Geofence():
                yield from self._geofence(thing)
            case Area():
                yield from self._area(thing)

    def _site(self, site: Site) -> Iterator[Finding]:
        yield from _slug("id", site.id)
        yield from _text("name", site.name, longest=128, needed=True)
        if not _ACCOUNT.fullmatch(site.account):
            yield Finding("account", f"found {site.account!r}", "3 to 16 hex digits", "账号应为3至16位十六进制数")
        elif others := [other for other in self._accounts[site.account] if other != site.id]:
            yield _taken("account", site.account, f"site {others[0]}")
        if not _KIND.fullmatch(site.kind):
            yield Finding("kind", f"found {site.kind!r}", "a word like residential_estate", "类别应为小写英文单词")
        yield from _text("address", site.address, longest=256)
        yield from _degrees("latitude", site.latitude, 90.0)
        yield from _degrees("longitude", site.longitude, 180.0)
        if (site.latitude is None) != (site.longitude is None):
            yield Finding("longitude", "one of two", "latitude and longitude, or neither", "经纬度须同时填写")
        yield from _role("contact", site.contact)
        yield from _role("responsible", site.responsible)
        if site.area is not None and site.area not in self._ledger.areas:
            yield Finding("area", f"{site.area!r} is not in the ledger", "an area (fangkong area list)", "区域不存在")
        yield from _days(site.opens, site.closes)
        yield from _within("site", len(self._ledger.sites), SITES_MAX)

    def _point(self, point: Point) -> Iterator[Finding]:
        yield from _slug("id", point.id)
        yield from self._site_exists(point.site)
        yield from _text("name", point.name, longest=128)
        yield from _within("point", len(self._ledger.points), POINTS_MAX)
        if not 0 <= point.number <= NUMBER_MAX:
            yield Finding("number", f"found {point.number}", f"0 to {NUMBER_MAX}", f"点位编号应为0至{NUMBER_MAX}")
        elif others := [other for other in self._numbers[point.site, point.number] if other != point.id]:
            yield _taken("number", str(point.number), f"point {others[0]} of site {point.site}")
        yield from _word("kind", point.kind)
        yield from self._watchers(point)

    def _watchers(self, point: Point) -> Iterator[Finding]:
        if point.device is None and point.zone is not None:
            yield Finding("zone", f"found {point.zone}", "nothing: the point has no device", "没有设备就没有防区")
        if point.device is None and point.also:
            yield Finding("device", "missing", "a first watcher before further ones", "缺少主设备")
        if len(point.also) > ALSO_MAX:
            yield Finding("also", f"{len(point.also)} further watchers", f"at most {ALSO_MAX}", "设备数量过多")
        if len(set(point.watchers)) < len(point.watchers):
            yield Finding("also", "a watcher is there twice", "each device and zone once", "设备与防区重复")
        for name, zone in point.watchers:
            is_first = (name, zone) == (point.device, point.zone)
            device_field, zone_field = ("device", "zone") if is_first else ("also", "also")
            if zone is not None and not 0 <= zone <= ZONE_MAX:
                yield Finding(zone_field, f"found {zone}", f"0 to {ZONE_MAX}, or nothing", "防区号超出范围")
            device = self._ledger.devices.get(name)
            if device is None:
                yield Finding(device_field, f"{name!r} is not in the ledger", "a device of this site", "设备不存在")
            elif device.site != point.site:
                found, expected = f"{name!r} belongs to site {device.site}", f"a device of site {point.site}"
                yield Finding(device_field, found, expected, "设备属于其他场所")
            if others := [other for other in self._watched[name, zone] if other != point.id]:
                yield _taken(zone_field, "all" if zone is None else str(zone), f"point {others[0]}")

    def _device(self, device: Device) -> Iterator[Finding]:
        # Devices name themselves, in the words of their protocol: any printable text is an id.
        yield from _text("id", device.id, longest=128, needed=True)
        yield from self._site_exists(device.site)
        yield from _text("name", device.name, longest=128)
        within = device.heard_within_s
        if within is not None and not (math.isfinite(within) and 0 < within <= HEARD_WITHIN_MAX_S):
            expected = f"seconds, more than 0 and at most {HEARD_WITHIN_MAX_S}"
            yield Finding("heard_within_s", f"found {within!r}", expected, "秒数超出范围")
        for point in self._points_of[device.id]:
            if self._ledger.points[point].site != device.site:
                yield Finding(
                    "site", f"found {device.site!r}", f"the site of its point {point}", "与其点位所属场所不一致"
                )
        yield from _word("kind", device.kind)
        yield from _text("vendor", device.vendor, longest=64)
        yield from _text("model", device.model, longest=64)
        yield from self._parents(device)
        for child in self._children[device.id]:
            if self._ledger.devices[child].site != device.site:
                expected = f"the site of {child}, which is heard through it"
                yield Finding("site", f"found {device.site!r}", expected, "与其下级设备所属场所不一致")
        yield from _within("device", len(self._ledger.devices), DEVICES_MAX)

    def _parents(self, device: Device) -> Iterator[Finding]:
        if device.parent is None:
            return
        parent = self._ledger.devices.get(device.parent)
        if parent is None:
            expected = "a device of this site, or nothing"
            yield Finding("parent", f"{device.parent!r} is not in the ledger", expected, "上级设备不存在")
        elif parent.site != device.site:
            found = f"{device.parent!r} belongs to site {parent.site}"
            yield Finding("parent", found, f"a device of site {device.site}", "上级设备属于其他场所")
        depth = 1
        while parent is not None and parent.id != device.id and depth <= DEPTH_MAX:
            parent, depth = self._ledger.devices.get(parent.parent or ""), depth + 1
        if parent is not None:
            what = "is heard through itself" if parent.id == device.id else f"more than {DEPTH_MAX} above it"
            expected = f"at most {DEPTH_MAX} devices above it, in no circle"
            yield Finding("parent", what, expected, "上级设备成环或层级过深")

    def _vehicle(self, vehicle: Vehicle) -> Iterator[Finding]:
        if vehicle.id not in self._ledger.devices:
            yield Finding("id", f"{vehicle.id!r} is not in the ledger", "a device (fangkong device list)", "设备不存在")
        yield from _between("limit_kmh", vehicle.limit_kmh, LIMIT_KMH, "km/h")
        for fence in vehicle.geofences:
            if fence not in self._ledger.geofences:
                expected = "a geofence (fangkong vehicle geofence list)"
                yield Finding("geofences", f"{fence!r} is not in the ledger", expected, "电子围栏不存在")
        if len(vehicle.geofences) > min(FENCES_OF_VEHICLE_MAX, len(set(vehicle.geofences))):
            found = f"found {len(vehicle.geofences)}"
            yield Finding("geofences", found, f"at most {FENCES_OF_VEHICLE_MAX}, each once", "围栏数量过多或重复")
        yield from _within("vehicle", len(self._ledger.vehicles), VEHICLES_MAX)

    def _geofence(self, fence: Geofence) -> Iterator[Finding]:
        yield from _slug("id", fence.id)
        yield from _text("name", fence.name, longest=128, needed=True)
        yield from _within("geofence", len(self._ledger.geofences), GEOFENCES_MAX)
        if not 1 <= fence.number <= NUMBER_MAX or fence.number in TERMINAL_AREAS:
            expected = f"1 to {NUMBER_MAX}, but not 20 or 21, the zones of terminals' own areas"
            yield Finding("number", f"found {fence.number}", expected, f"围栏编号应为1至{NUMBER_MAX},20和21除外")
        elif others := [other for other in self._fence_numbers[fence.number] if other != fence.id]:
            yield _taken("number", str(fence.number), f"geofence {others[0]}")
        fewest, most = (1, 1) if fence.radius_m is not None else (3, CORNERS_MAX)
        if not fewest <= len(set(fence.corners)) <= len(fence.corners) <= most:
            expected = (
                f"a circle of one corner and a radius, or 3 to {CORNERS_MAX} corners, each once, without a radius"
            )
            yield Finding("corners", f"found {len(fence.corners)}", expected, "应为圆心加半径,或至少三个顶点")
        yield from _between("radius_m", fence.radius_m, RADIUS_M, "metres")
        for latitude, longitude in fence.corners:
            yield from _degrees("corners", latitude, 90.0)
            yield from _degrees("corners", longitude, 180.0)

    def _area(self, area: Area) -> Iterator[Finding]:
        yield from _slug("id", area.id)
        yield from _text("name", area.name, longest=128, needed=True)
        parent = self._ledger.areas.get(area.parent) if area.parent else None
        if area.parent and parent is None:
            yield Finding(
                "parent", f"{area.parent!r} is not in the ledger", "an area (fangkong area list)", "上级区域不存在"
            )
        elif parent is not None and _ORDER[parent.kind] >= _ORDER[area.kind]:
            expected = "district > control_zone > community"
            yield Finding("parent", f"a {area.kind} inside a {parent.kind}", expected, "上级区域的层级不对")
        for child in self._areas_in[area.id]:
            if _ORDER[self._ledger.areas[child].kind] <= _ORDER[area.kind]:
                expected = f"one above that of {child}, which is in it"
                yield Finding("kind", f"found {area.kind}", expected, "与下级区域的层级不符")
        if area.dwellings is not None and not 0 <= area.dwellings <= DWELLINGS_MAX:
            yield Finding("dwellings", f"found {area.dwellings}", f"0 to {DWELLINGS_MAX}", "户数超出范围")
        yield from _within("area", len(self._ledger.areas), AREAS_MAX)

    def _site_exists(self, site: str) -> Iterator[Finding]:
        if site not in self._ledger.sites:
            yield Finding("site", f"{site!r} is not in the ledger", "a site (fangkong site list)", "场所不存在")


def _groups(things: Mapping[str, T], key: Callable[[T], Hashable]) -> defaultdict[Hashable, list[str]]:
    groups: defaultdict[Hashable, list[str]] = defaultdict(list)
    for name, thing in things.items():
        groups[key(thing)].append(name)
    return groups


def _degrees(field: str, value: float | None, limit: float) -> Iterator[Finding]:
    if value is not None and not -limit <= value <= limit:
        yield Finding(field, f"found {value!r}", f"degrees between -{limit:g} and {limit:g}", "坐标超出范围")


def _between(field: str, value: float | None, limits: tuple[float, float], unit: str) -> Iterator[Finding]:
    if value is not None and not limits[0] <= value <= limits[1]:
        yield Finding(field, f"found {value!r}", f"{limits[0]:g} to {limits[1]:g} {unit}, or nothing", "数值超出范围")


def _slug(field: str, value: str) -> Iterator[Finding]:
    if not _SLUG.fullmatch(value):
        expected = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        yield Finding(field, f"found {value!r}"[:120], expected, "编号应为1至64位字母、数字、点、下划线或连字符")


def _text(field: str, value: str, *, longest: int, needed: bool = False) -> Iterator[Finding]:
    if needed and not value.strip():
        yield Finding(field, "empty", "a text", "不能为空")
    elif len(value) > longest or not value.isprintable() or value != value.strip():
        expected = f"printable text of at most {longest} characters, no blank at its ends"
        yield Finding(field, f"found {value!r}"[:120], expected, f"应为不超过{longest}个字符的可见文字")


def _word(field: str, value: str) -> Iterator[Finding]:
    if value and not _KIND.fullmatch(value):
        expected = "a word of small letters, digits and _, like panic_button; or nothing"
        yield Finding(field, f"found {value!r}"[:120], expected, "类别应为小写英文单词")


def _role(field: str, value: str) -> Iterator[Finding]:
    if value and not _CONTACT.fullmatch(value):
        expected = "a role and its phone, like 'duty room 0535-1234567'; never a person's name"
        yield Finding(field, f"found {value!r}"[:120], expected, "应为岗位和电话,如“值班室 0535-1234567”,不得填写姓名")


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _days(opens: str | None, closes: str | None) -> Iterator[Finding]:
    for field, text in (("opens", opens), ("closes", closes)):
        if text is not None and not _is_day(text):
            yield Finding(field, f"found {text!r}"[:120], "a day like 2026-10-01", "日期应为 2026-10-01 这样的格式")
    if opens is not None and closes is not None and closes < opens:  # as texts: a year has four digits
        yield Finding("closes", f"found {closes}", f"{opens} or later", "结束日期早于开始日期")


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _taken(field: str, value: str, owner: str) -> Finding:
    return Finding(field, f"{value} belongs to {owner}", "one of its own", "已被占用")


def _within(what: str, count: int, limit: int) -> Iterator[Finding]:
    if count > limit:
        yield Finding("id", f"{count} {what}s", f"at most {limit} {what}s in one ledger", f"数量超过上限{limit}")
