"""An invented district: 7 control zones, 21 communities, 63 sites, about 1 000 points. The same from the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from random import Random

from gateway.coverage.profile_file import shipped
from gateway.coverage.requirements import Family
from gateway.model import Area, AreaKind, Device, Management, Point, Site
from gateway.registry import Thing

ZONES = ("东关街道", "西关街道", "南湖街道", "北山街道", "文化路街道", "开发区", "柳河镇")
COMMUNITIES_OF_ZONE = 3
PLAN = (
    ("residential_estate", "小区", {"perimeter": 12, "unit_door": 16, "resident_panic": 12, "bicycle_shed": 2}),
    ("bank_branch", "支行", {"counter_panic": 6}),
    ("house_block", "居民楼", {"unit_door": 8, "shed": 2}),
    ("jewelry_store", "金店", {"counter_panic": 8, "vent": 2}),
    ("school", "小学", {"perimeter": 6, "entrance": 2}),
    ("cash_heavy_unit", "财务中心", {"safe": 2, "finance_room": 2}),
    ("mall", "商场", {"entrance": 6, "cash_desk": 12, "valuables_counter": 3}),
    ("hazardous_store", "危化品库", {"perimeter": 8, "store": 2}),
    ("construction_site", "工地", {"material_store": 3, "entrance": 2}),
    ("street_shop", "便利店", {"entrance": 2}),
    ("supermarket", "超市", {"cash_desk": 6}),
    ("vehicle_cash", "押运车队", {"vehicle": 20}),
    ("vehicle_taxi", "出租车队", {"vehicle": 40}),
)
"""Kinds of sites with their names, and how many points of a kind where there are more than one."""
KEY_UNITS = frozenset({"bank_branch", "jewelry_store", "cash_heavy_unit", "hazardous_store", "vehicle_cash"})
DEVICE_KINDS = {"panic": "panic_button", "access_control": "door_controller", "gps": "vehicle_unit"}
RADIO = {"shed": "radio_code", "bicycle_shed": "radio_code", "material_store": "radio_code"}
"""Points with plain radio detectors that anybody can copy, and that never check in."""
MODELS = (("Lanhai 蓝海", "LH-200"), ("Anda 安达", "AD-8"), ("Shouwang 守望", "SW-3"))
HEARD_WITHIN_S = 86_400.0
"""Nobody plays these devices: a day passes before anybody misses one."""
UNWATCHED_SHARE = 0.03
"""Points that are planned and have no device yet."""


def district(seed: int = 7) -> list[Thing]:
    """Areas, sites, devices and points, parents first. No name or number in it is anybody's."""
    dice = Random(seed)  # noqa: S311  # invented data
    found: list[Thing] = [Area("qu", "示范区", AreaKind.DISTRICT)]
    number = 0
    for zone_index, zone_name in enumerate(ZONES, 1):
        zone = f"fkq-{zone_index}"
        found.append(Area(zone, zone_name, AreaKind.CONTROL_ZONE, "qu"))
        for community_index in range(1, COMMUNITIES_OF_ZONE + 1):
            community = f"{zone}-{community_index}"
            name = f"{zone_name}第{'一二三'[community_index - 1]}社区"
            management = dice.choice(tuple(Management))
            found.append(Area(community, name, AreaKind.COMMUNITY, zone, dice.randrange(800, 4000), management))
            for _ in range(3):
                number += 1
                found += _site(dice, number, community)
    return found


def _site(dice: Random, number: int, area: str) -> list[Thing]:
    kind, word, counts = PLAN[(number - 1) % len(PLAN)]
    measures = _measures(kind)
    site_id = f"cs-{number:03}"
    is_temporary = kind == "construction_site"
    site = Site(
        site_id, f"{number} 号{word}", f"B{number:03}", kind, f"示范路 {number} 号", round(37.4 + dice.random() / 10, 5),
        round(121.3 + dice.random() / 10, 5), f"值班室 0535-555-{number:04}", area=area, is_key_unit=kind in KEY_UNITS,
        responsible=f"安保负责岗 0535-556-{number:04}",
        opens="2026-03-01" if is_temporary else None, closes="2027-12-31" if is_temporary else None,
    )  # fmt: skip
    panel = f"{site_id}-zj"
    vendor, model = dice.choice(MODELS)
    devices = [Device(panel, site_id, "报警主机", HEARD_WITHIN_S, "panel", vendor, model)]
    points: list[Point] = []
    for point_kind, (measure, quantity) in measures.items():
        for _ in range(counts.get(point_kind, 1)):
            n = len(points) + 1
            watchers: tuple[tuple[str, int | None], ...] = ()
            if dice.random() >= UNWATCHED_SHARE:
                for which in range(quantity):
                    device = f"{site_id}-d{n:02}{'b' if which else ''}"
                    device_kind = RADIO.get(point_kind) or DEVICE_KINDS.get(measure, "detector")
                    vendor, model = dice.choice(MODELS)
                    devices.append(
                        Device(device, site_id, f"{n} 号设备", HEARD_WITHIN_S, device_kind, vendor, model, parent=panel)
                    )  # fmt: skip
                    watchers += ((device, None),)
            first, also = (watchers[0][0], watchers[1:]) if watchers else (None, ())
            point = Point(f"{site_id}-p{n:02}", site_id, n, f"{n} 号点位", first, None, point_kind, also)
            points.append(point)
    return [site, *devices, *points]


@cache
def _measures(kind: str) -> Mapping[str, tuple[str, int]]:
    """The points of a site of this kind, each with the first technical measure that its profile asks for, and how many times."""
    profile = next(profile for profile in shipped() if profile.site_kind == kind)
    lines = [line for line in profile.requirements if line.family is Family.TECHNICAL]
    return {line.point_kind: (line.measure, line.quantity) for line in reversed(lines)}
