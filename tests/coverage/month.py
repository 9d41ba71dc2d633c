"""A simulated month of a district of 1000 devices: each fails and is repaired, is tested, and its site is proved daily."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from gateway.coverage.facts import Fact
from gateway.coverage.requirements import Networking, Requirement
from tests.coverage.ledger import START, Ledger

DAYS = 31
PER_SITE = 20


def month(devices: int = 1000, seed: int = 1, faults_each: int = 3) -> list[Fact]:
    """All facts from START on; a device fails so often, for minutes to a day."""
    random, ledger = Random(seed), Ledger()
    ledger.area("D", "district")
    for number in range(7):
        ledger.area(f"Z{number}", "control_zone", "D")
        ledger.area(f"C{number}", "community", f"Z{number}")
    lines = Requirement("panic", "panic", networking=Networking.MUST), Requirement("room", "intrusion")
    for kind in ("jewelry_store", "residential_estate"):
        ledger.profile(kind, *lines)
    for number in range(devices):
        site, device, is_panic = f"S{number // PER_SITE}", f"D{number}", number % 4 == 0
        if number % PER_SITE == 0:
            kind = "residential_estate" if number % 3 else "jewelry_store"
            ledger.site(site, kind, area=f"C{number // PER_SITE % 7}", is_key_unit=number % 5 == 0)
            for day in range(DAYS):
                ledger.proof(site, START + timedelta(days=day, minutes=random.randrange(60)))
        ledger.device(device, site, "panic_button" if is_panic else "detector", vendor="V", model=f"M{number % 4}")
        ledger.point(f"P{number}", site, "panic" if is_panic else "room", device)
        ledger.works(f"P{number}", device)
        for _ in range(faults_each):
            began = START + timedelta(days=DAYS) * random.random()
            ledger.health(device, random.choice(("fault", "silent", "degraded")), began)
            ledger.health(device, "working", began + timedelta(days=1) * random.random())
        if is_panic:
            ledger.live_test(device, START + timedelta(days=random.randrange(28)))
    return ledger.facts
