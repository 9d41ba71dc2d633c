"""A district of 1000 points and one quarter of its life, by a script that people can count through.

Fifty sites of twenty points: banks 0 to 9 (key units), jewellery shops 10 to 29, estates 30 to 49. Each has

    4 panic points   (0 to 3)    one panic button each                       mandatory, must reach 110
    12 detectors     (4 to 15)   zones 4 to 15 of the site's one panel       mandatory
    2 entrances      (16, 17)    zones 1 and 2 of its door controller        advised (shops: mandatory from day 61)
    2 windows        (18, 19)    bars, inspected                             mandatory, physical

Day 0 is 1 October 2026, local; day 31 is 1 November, day 61 is 1 December.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.coverage.facts import Fact
from gateway.coverage.requirements import Duty, Family, Networking, Requirement
from tests.coverage.ledger import Ledger

DAY_0 = datetime(2026, 9, 30, 16, tzinfo=UTC)
BEFORE = DAY_0 - timedelta(days=30)
QUARTER = 92
SITES = 50


def day(number: float, hours: float = 0) -> datetime:
    return DAY_0 + timedelta(days=number, hours=hours)


def _profile(access: Duty) -> tuple[Requirement, ...]:
    return (
        Requirement("panic", "panic", networking=Networking.MUST),
        Requirement("room", "intrusion"),
        Requirement("entrance", "access_control", duty=access),
        Requirement("window", "bars", family=Family.PHYSICAL),
    )


def kind_of(site: int) -> str:
    return "bank_branch" if site < 10 else "jewelry_store" if site < 30 else "residential_estate"


def district() -> list[Fact]:
    """All facts of the quarter, as known at its end."""
    ledger = Ledger()
    ledger.area("D", "district", at=BEFORE)
    for zone in range(7):
        ledger.area(f"Z{zone}", "control_zone", "D", at=BEFORE)
    for kind in ("bank_branch", "jewelry_store", "residential_estate"):
        ledger.profile(kind, *_profile(Duty.ADVISED), at=BEFORE)
    for site in range(SITES):
        _site(ledger, site)
    _quarter(ledger)
    return ledger.facts


def _site(ledger: Ledger, number: int) -> None:
    site, panel, doors = f"S{number}", f"panel{number}", f"doors{number}"
    ledger.site(
        site,
        kind_of(number),
        BEFORE,
        area=f"Z{number % 7}",
        is_key_unit=number < 10,
        opens="2026-11-01" if number == 49 else None,
        closes="2026-11-30" if number == 49 else None,
    )
    for device, kind in ((panel, "panel"), (doors, "door_controller")):
        ledger.device(device, site, kind, BEFORE, vendor="Acme", model=kind)
        ledger.health(device, at=BEFORE)
    for one in range(20):
        point = f"S{number}-{one}"
        if one < 4:
            button = f"button{number}-{one}"
            ledger.device(
                button, site, "radio_code" if number == 31 else "panic_button", BEFORE, vendor="Bell", model="B1"
            )
            ledger.health(button, at=BEFORE)
            ledger.point(point, site, "panic", button, at=BEFORE)
            ledger.accept(point, button, at=DAY_0)
        elif one < 16:
            is_missing = one == 15 and 40 <= number < 45
            watchers = () if is_missing else ((panel, one),)
            ledger.point(point, site, "room", *watchers, at=BEFORE)
            if not is_missing:
                ledger.accept(point, panel, str(one), DAY_0)
        elif one < 18:
            ledger.point(point, site, "entrance", (doors, one - 15), at=BEFORE)
            ledger.accept(point, doors, str(one - 15), DAY_0)
        else:
            ledger.point(point, site, "window", at=BEFORE)
            ledger.inspect(point, "bars", True, DAY_0, day(60 if number < 25 else 180))


def _quarter(ledger: Ledger) -> None:
    for today in range(QUARTER):
        for site in range(SITES):
            is_cut = (site in (0, 1) and 10 <= today < 13) or (site == 20 and 10 <= today < 30)
            if not is_cut:
                ledger.proof(f"S{site}", day(today))
    for site in range(SITES):
        began = 20 + site % 10
        ledger.health(f"panel{site}", "fault", day(began, 8), cause="ac_loss")
        ledger.health(f"panel{site}", "working", day(began, 14))
        for today in (25, 50, 75):
            if site not in (5, 31):
                for button in range(4):
                    ledger.live_test(f"button{site}-{button}", day(today))
    for button in range(4):
        ledger.live_test(f"button5-{button}", day(60))
    for one in range(4, 16):
        ledger.waive(f"S30-{one}", "intrusion", day(35), day(45))
    ledger.point("S10-0", "S10", "panic", "spare", at=day(40))
    ledger.device("spare", "S10", "panic_button", day(40), vendor="Bell", model="B2")
    ledger.health("spare", at=day(40))
    ledger.stage("button10-0", "retired", day(40))
    ledger.accept("S10-0", "spare", at=day(41, 12))
    ledger.profile("jewelry_store", *_profile(Duty.MANDATORY), version="2", at=day(61))
    ledger.stage("panel11", "out_of_service", day(70))
    ledger.stage("panel11", "in_service", day(72))
    mistake = ledger.health("panel12", "fault", day(15))
    ledger.withdraw(mistake, day(16))
    for window in (18, 19):
        ledger.inspect(f"S26-{window}", "bars", False, day(50), day(180))
    ledger.health("panel13", "bypassed", day(80), "4")
    ledger.health("panel13", "degraded", day(80), "5")
    ledger.health("panel14", "silent", day(80))
    ledger.health("panel15", "unreachable", day(80), via="bus")
