"""What of the demo is counted: an invented district as a sample, and the community whose devices are played, by what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from gateway.cli._district import district
from gateway.cli._district_facts import KNOWN_DAYS, accepted, inspected, lived
from gateway.cli.demo_community import write
from gateway.clock import RealClock
from gateway.coverage.facts import Fact
from gateway.model import Area, AreaKind, Device, Point, Site
from gateway.registry import Thing

AREAS = (
    Area("demo", "演示区(仿真设备)", AreaKind.DISTRICT),
    Area("demo-jd", "演示街道", AreaKind.CONTROL_ZONE, "demo"),
    Area("demo-sq", "阳泗社区", AreaKind.COMMUNITY, "demo-jd", 1500),
)
SAMPLE = "示范区(示例数据)"
ACCEPTED_DAYS = 10
POINT_KINDS: Mapping[str, str] = {
    "p-a028": "duty_room", "p-a029": "entrance", "p-a030": "counter_panic", "p-a031": "counter_panic", "p-a032": "cashier",
    "p-a033": "storeroom", "p-a034": "finance_room", "p-a035": "duty_room", "p-reader-1": "entrance", "p-fence-4": "vent",
    "p-fence": "perimeter", "p-a0": "resident_panic", "p-zigbee": "unit_door", "p-rf-1-": "bicycle_shed",
}  # fmt: skip
"""What the points are, by how their ids begin; the first that fits."""
DEVICE_KINDS: Mapping[str, str] = {
    "a": "panic_button", "fence": "perimeter_controller", "ev1527": "radio_code", "dc09": "panel", "reader": "door_controller",
    "door": "door_controller", "zigbee-": "detector",
}  # fmt: skip
PLANNED = Point("p-xiwang-gate", "xiwang", 990, "校门", kind="entrance")
"""Nobody has installed it."""


class Entered(RealClock):
    """The clock of whoever entered the ledger, long ago."""

    def now(self) -> datetime:
        return super().now() - timedelta(days=KNOWN_DAYS)


async def enrol(data_dir: Path, things: Sequence[Thing]) -> None:
    """Write the ledger of the demo, and what is true of it now."""
    ledger, facts = planned(things, RealClock().now())
    await write(ledger, facts, data_dir, Entered())


def planned(things: Sequence[Thing], now: datetime) -> tuple[list[Thing], list[Fact]]:
    """The ledger of the demo with the district in it, and what is true of both beforehand. Of the community's devices that is
    their acceptance alone: how they are, and what 110 hears of them, they have to show."""
    community = [*AREAS, *(_placed(thing) for thing in things), PLANNED]
    sample = [
        replace(thing, name=SAMPLE) if isinstance(thing, Area) and not thing.parent else thing for thing in district()
    ]
    points = [thing for thing in community if isinstance(thing, Point)]
    sites = {thing.id: thing for thing in community if isinstance(thing, Site)}
    before = now - timedelta(days=ACCEPTED_DAYS)
    facts = [
        *lived(sample, now),
        *(fact for point in points for fact in accepted(point, before)),
        *inspected(Random(110), points, sites, now),  # noqa: S311  # invented data
    ]
    return [*community, *sample], [replace(fact, recorded_at=now) for fact in facts]


def _placed(thing: Thing) -> Thing:
    """In its area, with its kind."""
    match thing:
        case Site():
            return replace(thing, area="demo-sq", responsible=thing.contact)
        case Point():
            return replace(thing, kind=_first(POINT_KINDS, thing.id))
        case Device():
            return replace(thing, kind=_first(DEVICE_KINDS, thing.id))
        case _:
            return thing


def _first(kinds: Mapping[str, str], name: str) -> str:
    return next((kind for begin, kind in kinds.items() if name.startswith(begin)), "")
