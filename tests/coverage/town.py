"""A small town in which everything happens that facts can tell, drawn from a seed."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from gateway.coverage.facts import STATES, Fact, Sort
from gateway.coverage.requirements import Duty, Family, Networking, Requirement
from tests.coverage.ledger import MS, START, Ledger

KINDS = ("panel", "panic_button", "radio_code", "detector")
POINT_KINDS = ("counter", "counter_panic", "entrance")


LINES = (
    Requirement("counter_panic", "panic", networking=Networking.MUST, every_site=True),
    Requirement("counter", "intrusion", quantity=2),
    Requirement("counter", "seismic", shared=True),
    Requirement("entrance", "access_control", duty=Duty.ADVISED),
    Requirement("entrance", "security_door", family=Family.PHYSICAL),
)


def _profiles(ledger: Ledger) -> None:
    ledger.profile("jewelry_store", *LINES)
    ledger.profile("school", Requirement("entrance", "access_control"), Requirement("counter_panic", "panic"))


def town(seed: int, happenings: int, *, is_reorganised: bool = False) -> list[Fact]:
    """Five sites, twenty points, sixteen devices; then so many happenings within sixty days, and, where it is reorganised,
    a tenth as many changes of its areas and profiles, things taken from the ledger among them."""
    random, ledger = Random(seed), Ledger()
    _profiles(ledger)
    ledger.area("Z", "control_zone")
    for name in ("C0", "C1"):
        ledger.area(name, "community", "Z")
    for number in range(5):
        ledger.site(
            f"S{number}",
            "school" if number == 3 else "jewelry_store",
            area=f"C{number % 2}",
            is_key_unit=number == 1,
            opens="2026-01-05" if number == 2 else None,
            closes="2026-02-10" if number == 2 else None,
        )
    for number in range(16):
        ledger.device(f"D{number}", f"S{number % 5}", KINDS[number % 4], vendor="V", model=f"M{number % 3}")
        ledger.health(f"D{number}")
    for number in range(20):
        watchers = [(f"D{(number + more) % 16}", None if number % 3 else more + 1) for more in range(number % 3 + 1)]
        ledger.point(f"P{number}", f"S{number % 5}", POINT_KINDS[number % 3], *watchers)
        for device, zone in watchers:
            ledger.accept(f"P{number}", device, "" if zone is None else str(zone))
    for _ in range(happenings):
        _happen(ledger, random)
    for _ in range(happenings // 10 if is_reorganised else 0):
        _reorganise(ledger, random)
    return ledger.facts


def _happen(ledger: Ledger, random: Random) -> None:
    at = START + timedelta(days=random.randrange(60), milliseconds=random.randrange(86_400_000))
    late = at + random.choice((0, 1, 25)) * timedelta(days=1)
    site, point, device = f"S{random.randrange(5)}", f"P{random.randrange(20)}", f"D{random.randrange(16)}"
    zone = random.choice(("", "1", "2"))
    before = len(ledger.facts)
    match random.randrange(14):
        case 0 | 1 | 2:
            ledger.health(device, random.choice(STATES), at, zone)
        case 3:
            ledger.live_test(device, at, zone)
        case 4 | 5:
            ledger.proof(site, at)
        case 6:
            measure = random.choice(("panic", "intrusion", "access_control"))
            ledger.waive(point, measure, at, at + timedelta(days=random.randrange(20)))
        case 7:
            ledger.inspect(point, "security_door", random.random() < 0.7, at, at + timedelta(days=30))
        case 8:
            ledger.stage(device, random.choice(("in_service", "out_of_service", "retired", "planned")), at)
        case 9:
            ledger.point(point, site, random.choice(POINT_KINDS), device, at=at)
        case 10:
            ledger.accept(point, device, zone, at)
        case 11:
            ledger.site(site, random.choice(("school", "jewelry_store")), at, area=random.choice(("C0", "C1", None)))
        case 12:
            ledger.area("C1", "community", random.choice(("Z", None)), at)
        case _:
            ledger.withdraw(random.choice(ledger.facts[-40:]), late)
    ledger.recorded(before, max(late, at + MS))


def _reorganise(ledger: Ledger, random: Random) -> None:
    at = START + timedelta(days=random.randrange(60), milliseconds=random.randrange(86_400_000))
    before = len(ledger.facts)
    match random.randrange(4):
        case 0:
            area = random.choice(("Y", "Z", "C0", "C1"))
            ledger.area(area, "control_zone", random.choice(("Y", "Z", "C1", "nowhere", None)), at)
        case 1:
            ledger.profile(random.choice(("jewelry_store", "school")), *random.sample(LINES, 4), version="2", at=at)
        case 2:
            ledger.say(Sort.AREA, (random.choice(("C0", "C1", "Z")),), None, at)
        case _:
            sort, name = random.choice(((Sort.SITE, "S"), (Sort.POINT, "P"), (Sort.DEVICE, "D")))
            ledger.say(sort, (f"{name}{random.randrange(5)}",), None, at)
    ledger.recorded(before, at + random.choice((1, 25)) * timedelta(days=1))
