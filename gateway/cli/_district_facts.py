"""What has become of the invented district: a sample, and every fact of it says so. The same from the same seed.

Most of it was installed and accepted and works; of each sort of gap there are a few, so that every figure says something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import chain
from random import Random

from gateway.coverage.facts import Fact, Sort
from gateway.coverage.profile_file import shipped
from gateway.coverage.requirements import Family, Networking, Requirement
from gateway.model import Device, Point, Site
from gateway.registry import Thing

ACTOR = "sample"
"""Who says all this: nobody."""
BY = "示例数据"
DAY = timedelta(days=1)
KNOWN_DAYS = 200
"""How long ago the ledger was entered, and its devices began to report."""
ACCEPTED_DAYS = (40, 190)
PROOF_DAYS = 10
"""For so long each site has proved its way to 110, as often as its window asks."""
UNPROVED_SITES = 3
SILENT_PANELS = 1
"""What is behind one is unreachable."""
WAIVER_REASON = "装修停业(示例)"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with some devices."""

    share: float
    state: str
    cause: str


TROUBLES = (
    Trouble(0.010, "silent", "silent"), Trouble(0.006, "fault", "device_fault"), Trouble(0.004, "fault", "tamper"),
    Trouble(0.003, "bypassed", "bypass"), Trouble(0.012, "degraded", "rf_batt_low"), Trouble(0.004, "degraded", "ac_loss"),
)  # fmt: skip
UNACCEPTED_SHARE, WAIVED_SHARE, OUT_SHARE = 0.012, 0.008, 0.003
INSPECTIONS = (("expired", 0.05), ("failed", 0.03), ("never", 0.02))
TESTED_DAYS = ((0.03, 33), (0.02, 45))
"""Shares of the panic buttons whose last live test is so old: overdue within the grace, and beyond it."""


def lived(things: Sequence[Thing], now: datetime, seed: int = 7) -> list[Fact]:
    """The facts of a district that has been there for a while."""
    dice = Random(seed)  # noqa: S311  # invented data
    sites = {thing.id: thing for thing in things if isinstance(thing, Site)}
    devices = {thing.id: thing for thing in things if isinstance(thing, Device)}
    points = [thing for thing in things if isinstance(thing, Point)]
    of_points = (_of_point(dice, each, sites[each.site], devices, now) for each in points)
    return [
        *_of_devices(dice, devices, now), *chain.from_iterable(of_points),
        *inspected(dice, points, sites, now), *_proved(dice, points, sites, now),
    ]  # fmt: skip


def _of_devices(dice: Random, devices: Mapping[str, Device], now: datetime) -> Iterator[Fact]:
    """Stages and states; what hangs behind a silent panel is unreachable."""
    panels = sorted(device.id for device in devices.values() if device.kind == "panel")
    lost = set(dice.sample(panels, SILENT_PANELS))
    for device in devices.values():
        stage = "out_of_service" if device.kind != "panel" and dice.random() < OUT_SHARE else "in_service"
        yield _fact(Sort.STAGE, (device.id,), {"stage": stage}, now - ACCEPTED_DAYS[0] * DAY)
        yield _health(device.id, now - KNOWN_DAYS * DAY, "working")
        begun = now - dice.uniform(0.2, 12) * DAY
        if device.id in lost:
            yield _health(device.id, now - 2 * DAY, "silent", "silent")
        elif device.parent in lost:
            yield _health(device.id, now - 2 * DAY, "unreachable", "silent", str(device.parent))
        elif device.kind != "panel" and (trouble := _drawn(dice)) is not None:
            yield _health(device.id, begun, trouble.state, trouble.cause)
            if trouble.cause == "rf_batt_low":
                yield from _emptying(device.id, dice.uniform(0.6, 1.4), now)


def _drawn(dice: Random) -> Trouble | None:
    left = dice.random()
    for trouble in TROUBLES:
        left -= trouble.share
        if left < 0:
            return trouble
    return None


def _emptying(device: str, pct_a_day: float, now: datetime) -> Iterator[Fact]:
    """A battery that goes down evenly."""
    for day in range(24, -1, -2):
        value = round(20 + pct_a_day * day, 1)
        yield _fact(Sort.SAMPLE, (device, "battery_pct"), {"value": value}, now - day * DAY - timedelta(hours=1))


def accepted(point: Point, at: datetime) -> Iterator[Fact]:
    """All its watchers passed their walk test."""
    for device, zone in point.watchers:
        subject = (point.id, device, "" if zone is None else str(zone))
        yield _fact(Sort.ACCEPTANCE, subject, {"sheet": ACTOR, "by": BY}, at)


def _of_point(dice: Random, point: Point, site: Site, devices: Mapping[str, Device], now: datetime) -> Iterator[Fact]:
    """Acceptance, waiver and live tests."""
    if dice.random() >= UNACCEPTED_SHARE:
        yield from accepted(point, now - dice.randint(*ACCEPTED_DAYS) * DAY)
        for device, _ in point.watchers:
            if devices[device].kind in {"panic_button", "radio_code"}:
                yield _fact(Sort.LIVE_TEST, (device, ""), {"event": ACTOR}, now - _tested_days(dice) * DAY)
    if dice.random() < WAIVED_SHARE:
        value = {"reason": WAIVER_REASON, "approver": BY}
        for line in _lines(Family.TECHNICAL).get((site.kind, point.kind), ()):
            yield _fact(Sort.WAIVER, (point.id, line.measure), value, now - 10 * DAY, now + 50 * DAY)


def _tested_days(dice: Random) -> float:
    left = dice.random()
    for share, days in TESTED_DAYS:
        left -= share
        if left < 0:
            return days
    return dice.uniform(1, 25)


def inspected(dice: Random, points: Sequence[Point], sites: Mapping[str, Site], now: datetime) -> Iterator[Fact]:
    """Physical measures: most are in order."""
    lines = _lines(Family.PHYSICAL)
    for point in points:
        for line in lines.get((sites[point.site].kind, point.kind), ()):
            found, at = _result(dice), now - dice.uniform(0.05, 0.9) * line.inspect_days * DAY
            if found == "never":
                continue
            if found == "expired":
                at = now - (line.inspect_days + 9) * DAY
            value = {"ok": found != "failed", "by": BY, "remark": "锈蚀(示例)" if found == "failed" else ""}
            yield _fact(Sort.INSPECTION, (point.id, line.measure), value, at, at + line.inspect_days * DAY)


def _result(dice: Random) -> str:
    left = dice.random()
    for name, share in INSPECTIONS:
        left -= share
        if left < 0:
            return name
    return "ok"


def _proved(dice: Random, points: Sequence[Point], sites: Mapping[str, Site], now: datetime) -> Iterator[Fact]:
    """A test event of each site that has to be networked was accepted in every window but, of some, the last."""
    lines = _lines(Family.TECHNICAL)
    networked = sorted(
        {
            point.site
            for point in points
            for line in lines.get((sites[point.site].kind, point.kind), ())
            if line.networking is Networking.MUST
        }
    )
    unproved = set(dice.sample(networked, UNPROVED_SITES))
    for site in networked:
        every = 20 / 24 if sites[site].is_key_unit else 6
        age = dice.uniform(0.05, 0.7) * every + (every * 1.5 if site in unproved else 0)
        while age < PROOF_DAYS:
            yield _fact(Sort.PROOF, (site,), {"rung": "test_accepted", "event": ACTOR}, now - age * DAY)
            age += every


@cache
def _lines(family: Family) -> Mapping[tuple[str, str], Sequence[Requirement]]:
    """What shipped profiles ask, by kind of site and of point."""
    found: dict[tuple[str, str], list[Requirement]] = {}
    for profile in shipped():
        for line in profile.requirements:
            if line.family is family:
                found.setdefault((profile.site_kind, line.point_kind), []).append(line)
    return found


def _health(device: str, at: datetime, state: str, cause: str = "", via: str = "") -> Fact:
    value = {"state": state, "cause": cause, "via": via, "open": [cause] if cause and not via else []}
    return _fact(Sort.HEALTH, (device, ""), value, at)


def _fact(
    sort: Sort, subject: tuple[str, ...], value: Mapping[str, object], at: datetime, until: datetime | None = None
) -> Fact:
    return Fact(sort, subject, value, _whole_ms(at), None if until is None else _whole_ms(until), actor=ACTOR)


def _whole_ms(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
