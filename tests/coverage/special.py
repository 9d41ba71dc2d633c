"""Twelve sites beside the district, each with one story that people can count through. Days as in district.py.

Yards ask for one detector in each room, which must reach 110. Depots, stores and vans have profiles of their own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from gateway.coverage.facts import Fact, Sort
from gateway.coverage.requirements import Duty, Family, Networking, Requirement
from tests.coverage.district import BEFORE, DAY_0, SITES, day, district
from tests.coverage.ledger import MS, Ledger

MUST = Networking.MUST


def widened() -> list[Fact]:
    """The district and the twelve, as known at the end of the quarter."""
    ledger = Ledger()
    ledger.facts = district()
    ledger.area("E", "district", at=BEFORE)
    for number in (7, 8):
        ledger.area(f"Z{number}", "control_zone", "E", at=BEFORE)
        ledger.area(f"C{number}", "community", f"Z{number}", at=BEFORE)
    ledger.profile("yard", Requirement("room", "intrusion", networking=MUST), at=BEFORE)
    for story in (
        _quantity, _moves, _windows, _kind, _swap, _temporary, _waivers, _inspections, _van, _codes, _zones, _late,
    ):  # fmt: skip
        story(ledger)
    return ledger.facts


def twelve() -> list[Fact]:
    """Of the twelve alone, with all areas and profiles."""
    return [fact for fact in widened() if fact.sort in {Sort.AREA, Sort.PROFILE} or _number(fact) >= SITES]


def _number(fact: Fact) -> int:
    number = fact.subject[0].split("-")[0][1:]
    return int(number) if number.isdigit() else -1


def _yard(ledger: Ledger, site: str, rooms: int, **more: object) -> None:
    """A panel watches the rooms by its zones 1, 2 ...; all is accepted on day 0 and works."""
    panel = f"p{site[1:]}"
    ledger.site(site, "yard", BEFORE, **{"area": "C7", **more})
    ledger.device(panel, site, "panel", BEFORE, vendor="Acme", model="Y")
    ledger.health(panel, at=BEFORE)
    for room in range(rooms):
        ledger.point(f"{site}-{room}", site, "room", (panel, room + 1), at=BEFORE)
        ledger.accept(f"{site}-{room}", panel, str(room + 1), DAY_0)


def _quantity(ledger: Ledger) -> None:
    """S50: a gate asks for two panic zones, access control by any of them, a detector of its own; and for a vault."""
    lines = (
        Requirement("gate", "panic", quantity=2, networking=MUST),
        Requirement("gate", "access_control", shared=True),
        Requirement("gate", "intrusion"),
        Requirement("vault", "seismic", every_site=True),
    )
    ledger.profile("depot", *lines, at=BEFORE)
    ledger.profile("depot", replace(lines[0], quantity=3), lines[1], version="2", at=day(46))
    _yard(ledger, "S50", 0)
    ledger.site("S50", "depot", BEFORE, area="C7")
    ledger.point("S50-0", "S50", "gate", ("p50", 1), ("p50", 2), at=BEFORE)
    ledger.point("S50-0", "S50", "gate", ("p50", 1), ("p50", 2), ("p50", 3), at=day(10))
    for zone, accepted in (("1", 0), ("2", 0), ("3", 12)):
        ledger.accept("S50-0", "p50", zone, day(accepted))
    for zone, began in (("2", 20), ("1", 30)):
        ledger.health("p50", "fault", day(began), zone)
        ledger.health("p50", "working", day(began + 1), zone)
    ledger.point("S50-1", "S50", "vault", ("p50", 4), at=day(40))
    ledger.accept("S50-1", "p50", "4", day(42))


def _moves(ledger: Ledger) -> None:
    """S51: five rooms; it moves to another community, which later moves to another control zone."""
    _yard(ledger, "S51", 5, area="C8")
    ledger.site("S51", "yard", day(33), area="C7")
    ledger.area("C7", "community", "Z8", at=day(66))


def _windows(ledger: Ledger) -> None:
    """S52: three rooms, proved on day 5; a key unit from day 8 to 10. A proof of day 20 is recorded on day 25."""
    _yard(ledger, "S52", 3)
    ledger.proof("S52", day(5))
    ledger.site("S52", "yard", day(8), area="C7", is_key_unit=True)
    ledger.site("S52", "yard", day(10), area="C7")
    ledger.proof("S52", day(20), "alarm_accepted")
    ledger.recorded(len(ledger.facts) - 1, day(25))


def _kind(ledger: Ledger) -> None:
    """S53: a yard with a panic button and a window that nobody asks for, until it becomes a jeweller's on day 30."""
    _yard(ledger, "S53", 3)
    ledger.device("b53", "S53", "panic_button", BEFORE)
    ledger.health("b53", at=BEFORE)
    ledger.point("S53-3", "S53", "panic", "b53", at=BEFORE)
    ledger.accept("S53-3", "b53", at=DAY_0)
    ledger.live_test("b53", day(25))
    ledger.point("S53-4", "S53", "window", at=BEFORE)
    ledger.site("S53", "jewelry_store", day(30), area="C7")
    ledger.site("S53", "yard", day(80), area="C7")


def _swap(ledger: Ledger) -> None:
    """S54: one room. Device a is replaced by b on day 10, which is accepted on day 11; a is back on 20, accepted on 22."""
    _yard(ledger, "S54", 0)
    for device in ("a54", "b54"):
        ledger.device(device, "S54", "detector", BEFORE, vendor="Bell", model=device)
        ledger.health(device, at=BEFORE)
    for device, bound, accepted, off in (("a54", -30, 0, 10), ("b54", 10, 11, 20), ("a54", 20, 22, None)):
        ledger.point("S54-0", "S54", "room", device, at=day(bound))
        ledger.accept("S54-0", device, at=day(accepted))
        if off is not None:  # as the ledger writes it
            ledger.say(Sort.ACCEPTANCE, ("S54-0", device, ""), None, day(off))


def _temporary(ledger: Ledger) -> None:
    """S55: two rooms, from 10 to 12 November (days 40 to 42); on day 42 it is prolonged to the 20th (day 50)."""
    _yard(ledger, "S55", 2, opens="2026-11-10", closes="2026-11-12")
    ledger.site("S55", "yard", day(42), area="C7", opens="2026-11-10", closes="2026-11-20")


def _waivers(ledger: Ledger) -> None:
    """S56: four rooms waived from day 10: 0 until 20; 1 until 60, withdrawn as a mistake on day 15; 2 until 60, revoked
    from day 15; 3 until 20, but recorded on day 12."""
    _yard(ledger, "S56", 4)
    ledger.waive("S56-0", "intrusion", day(10), day(20))
    mistake = ledger.waive("S56-1", "intrusion", day(10), day(60))
    ledger.withdraw(mistake, day(15))
    ledger.waive("S56-2", "intrusion", day(10), day(60))
    ledger.say(Sort.WAIVER, ("S56-2", "intrusion"), None, day(15))
    ledger.waive("S56-3", "intrusion", day(10), day(20))
    ledger.recorded(len(ledger.facts) - 1, day(12))


def _inspections(ledger: Ledger) -> None:
    """S57: three windows with bars. 0 is well from day 0 to 30 and again from 40; 1 fails on day 50; 2 was inspected on
    day 20, but at another house, which is found on day 60."""
    bars = Requirement("window", "bars", family=Family.PHYSICAL)
    lighting = Requirement("window", "lighting", family=Family.PHYSICAL, duty=Duty.ADVISED)
    ledger.profile("store", bars, lighting, at=BEFORE)
    ledger.site("S57", "store", BEFORE, area="C7")
    for window in range(3):
        ledger.point(f"S57-{window}", "S57", "window", at=BEFORE)
    ledger.inspect("S57-0", "bars", True, day(0), day(30))
    ledger.inspect("S57-0", "bars", True, day(40), day(200))
    ledger.inspect("S57-1", "bars", True, day(0), day(90))
    ledger.inspect("S57-1", "bars", False, day(50), day(90))
    mistake = ledger.inspect("S57-2", "bars", True, day(20), day(200))
    ledger.withdraw(mistake, day(60))


def _van(ledger: Ledger) -> None:
    """S58: a cash van asks for its position and a panic button, and for a door contact as advised. It is silent on day 30
    from 8 to 12 h; proved weekly until day 28."""
    ledger.profile(
        "vehicle_cash",
        Requirement("vehicle", "gps", networking=MUST),
        Requirement("vehicle", "panic", networking=MUST),
        Requirement("vehicle", "door", duty=Duty.ADVISED),
        at=BEFORE,
    )
    ledger.site("S58", "vehicle_cash", BEFORE, area="C7")
    ledger.device("v58", "S58", "vehicle_unit", BEFORE)
    ledger.health("v58", at=BEFORE)
    ledger.point("S58-0", "S58", "vehicle", "v58", ("v58", 1), at=BEFORE)
    ledger.accept("S58-0", "v58", at=DAY_0)
    ledger.accept("S58-0", "v58", "1", DAY_0)
    ledger.health("v58", "silent", day(30, 8))
    ledger.health("v58", "working", day(30, 12))
    for proved in range(0, 29, 7):
        ledger.proof("S58", day(proved))


def _codes(ledger: Ledger) -> None:
    """S59: two radio codes, of which nothing is ever heard but what is told here. The first is tested on day 20."""
    _yard(ledger, "S59", 0)
    for room in range(2):
        ledger.device(f"r59-{room}", "S59", "radio_code", BEFORE)
        ledger.point(f"S59-{room}", "S59", "room", f"r59-{room}", at=BEFORE)
        ledger.accept(f"S59-{room}", f"r59-{room}", at=DAY_0)
    ledger.live_test("r59-0", day(20))
    for at, state in ((10, "bypassed"), (11, "working"), (12, "unreachable"), (13, "working"), (15, "silent")):
        ledger.health("r59-1", state, day(at))


def _zones(ledger: Ledger) -> None:
    """S60: one panel watches two rooms. A zone fails on day 10, the panel on day 20, the zone again before it is back."""
    _yard(ledger, "S60", 2)
    ledger.health("p60", "fault", day(10), "1")
    ledger.health("p60", "working", day(11), "1")
    ledger.health("p60", "fault", day(20))
    ledger.health("p60", "fault", day(20, 12), "2")
    ledger.health("p60", "working", day(21))
    ledger.health("p60", "working", day(21, 12), "2")
    ledger.stage("p60", "out_of_service", day(30))
    ledger.stage("p60", "in_service", day(31))


def _late(ledger: Ledger) -> None:
    """S61: one room. On day 12 it is recorded that it failed on day 10; on day 14 that it was day 11. Well since 15."""
    _yard(ledger, "S61", 1)
    said = ledger.health("p61", "fault", day(10))
    ledger.recorded(len(ledger.facts) - 1, day(12))
    value = {"state": "fault", "cause": "", "via": ""}
    ledger.say(Sort.HEALTH, ("p61", ""), value, day(11), recorded=day(14), withdraws=said.id)
    ledger.health("p61", "working", day(15))


# -- by hand: node, moment, counts -------------------------------------------------------------------------------------

BY_HAND: list[tuple[str, datetime, dict[str, int]]] = [
    # Panic (zones 1, 2), access (any: zone 1), a detector (none is left), the vault nobody has planned: 4, 2 of them there.
    (
        "site:S50",
        day(5),
        {"required": 4, "installed": 2, "working": 2, "must_network": 1, "units": 1, "units_installed": 0},
    ),
    ("site:S50", day(10), {"installed": 2}),  # zone 3 is bound, but not accepted
    ("site:S50", day(12), {"installed": 3, "entrances": 1, "entrances_controlled": 1}),  # it is the detector
    ("site:S50", day(20), {"installed": 3, "working": 2}),  # zone 2 fails: 3 - 1, the panic button
    ("site:S50", day(30), {"working": 1, "entrances_controlled": 0}),  # zone 1 fails: 3 - 1 - 1, panic and access
    ("site:S50", day(40), {"required": 4, "installed": 3}),  # the vault is planned: its place is taken, 3 + 1
    ("site:S50", day(42), {"installed": 4, "units_installed": 1}),
    ("site:S50", day(46) - MS, {"required": 4, "working": 4}),
    ("site:S50", day(46), {"required": 2, "installed": 2, "working": 2}),  # three panic zones, access; no more is asked
    ("area:C8", day(33) - MS, {"required": 5}),
    ("area:Z8", day(33) - MS, {"required": 5}),
    ("area:C8", day(33), {"required": 0}),
    ("area:Z8", day(33), {"required": 0}),
    # S50 2, S51 5, S52 3, S53 3 + 1, S54 1, S56 4, S58 2, S59 2, S60 2, S61 1
    ("area:Z7", day(66) - MS, {"required": 26, "units": 10}),
    ("area:Z7", day(66), {"required": 0}),
    ("area:Z8", day(66), {"required": 26}),
    ("area:E", day(66), {"required": 26}),
    ("all", day(66), {"required": 850}),  # 824 + 26
    ("site:S52", day(5) - MS, {"working": 3, "networked": 0, "must_network": 3}),
    ("site:S52", day(7), {"networked": 3}),
    ("site:S52", day(8), {"networked": 0}),  # a key unit: 24 h ended on day 6
    ("site:S52", day(10), {"networked": 3}),  # as others again: 7 days
    ("site:S52", day(12) - MS, {"networked": 3}),
    ("site:S52", day(12), {"networked": 0}),
    ("site:S52", day(21), {"networked": 3}),
    ("site:S53", day(30) - MS, {"required": 3, "must_network": 3, "target_units": 0, "physical": 0}),
    ("site:S53", day(30), {"required": 4, "must_network": 1, "target_units": 1, "physical": 1, "physical_ok": 0}),
    ("site:S53", day(55) - MS, {"overdue": 0}),
    ("site:S53", day(55), {"overdue": 1, "degraded": 1, "working": 4}),  # tested on day 25: 25 + 30
    ("site:S53", day(62), {"overdue": 0, "working": 3}),  # 25 + 30 + 7
    ("site:S53", day(80), {"required": 3, "target_units": 0, "units": 1}),
    ("site:S54", day(10) - MS, {"installed": 1}),
    ("site:S54", day(10), {"required": 1, "installed": 0}),
    ("site:S54", day(11), {"installed": 1, "working": 1}),
    ("site:S54", day(20), {"installed": 0}),  # a is back, and nobody has tried it out since
    ("site:S54", day(22), {"installed": 1}),
    ("all", day(40) - MS, {"units": 60}),  # 50 and S50 to S61 without S55, which is not there, and S57, all physical
    ("site:S55", day(40), {"required": 2}),
    ("site:S55", day(43), {"required": 2}),
    ("site:S55", day(51) - MS, {"required": 2}),
    ("area:E", day(51), {"required": 26}),  # as on day 66: S55 is closed
    ("site:S56", day(10) - MS, {"required": 4, "waived": 0}),
    ("site:S56", day(11), {"required": 1, "waived": 3}),  # 0, 2, 3
    ("site:S56", day(15), {"required": 2, "waived": 2}),  # 0, 3
    ("site:S56", day(20) - MS, {"required": 2, "waived": 2}),
    ("site:S56", day(20), {"required": 4, "waived": 0}),
    ("site:S57", day(5), {"physical": 3, "physical_ok": 2, "advised": 0, "required": 0, "units": 0}),  # 0, 1
    ("site:S57", day(20), {"physical_ok": 2}),
    ("site:S57", day(30), {"physical_ok": 1}),  # 1
    ("site:S57", day(40), {"physical_ok": 2}),  # 0, 1
    ("site:S57", day(50), {"physical_ok": 1}),  # 0
    ("site:S58", day(5), {"required": 2, "installed": 2, "networked": 2, "advised": 1, "advised_installed": 0}),
    ("site:S58", day(30, 8), {"installed": 2, "working": 0, "networked": 0}),
    ("site:S58", day(30, 12), {"working": 2, "networked": 2}),
    ("site:S58", day(35) - MS, {"networked": 2}),
    ("site:S58", day(35), {"working": 2, "networked": 0}),  # 28 + 7
    ("site:S59", day(9), {"working": 2, "unsupervised": 2}),  # never heard: that says nothing
    ("site:S59", day(10), {"working": 1, "unsupervised": 1}),  # bypassed
    ("site:S59", day(12), {"working": 1}),  # unreachable
    ("site:S59", day(15), {"working": 2, "unsupervised": 2}),  # silent: that says nothing either
    ("site:S59", day(30), {"working": 2, "overdue": 1, "degraded": 1}),  # the second, accepted on day 0
    ("site:S59", day(37), {"installed": 2, "working": 1, "unsupervised": 1, "overdue": 0}),
    ("site:S59", day(50), {"working": 1, "overdue": 1}),  # the first: 20 + 30
    ("site:S59", day(57), {"installed": 2, "working": 0, "unsupervised": 0}),
    ("site:S60", day(10), {"working": 1}),
    ("site:S60", day(11), {"working": 2}),
    ("site:S60", day(20), {"working": 0}),
    ("site:S60", day(21), {"working": 1}),  # zone 2 is not yet back
    ("site:S60", day(21, 12), {"working": 2}),
    ("site:S60", day(30), {"required": 2, "installed": 0}),
    ("site:S61", day(10, 12), {"working": 1}),
    ("site:S61", day(11, 12), {"working": 0}),
    ("site:S61", day(15), {"working": 1}),
]

AS_KNOWN: list[tuple[str, datetime, datetime, dict[str, int]]] = [
    ("site:S52", day(21), day(25) - MS, {"networked": 0}),
    ("site:S52", day(21), day(25), {"networked": 3}),
    ("site:S55", day(43), day(41), {"required": 0}),  # nobody knew yet that it would be prolonged
    ("site:S56", day(11), day(11), {"required": 1, "waived": 3}),  # 0, 1, 2
    ("site:S56", day(11), day(14), {"required": 0, "waived": 4, "units": 0}),
    ("site:S56", day(16), day(14), {"required": 0, "waived": 4}),
    ("site:S57", day(20), day(59), {"physical_ok": 3}),
    ("site:S57", day(50), day(59), {"physical_ok": 2}),  # 0, 2
    ("site:S61", day(10, 12), day(11), {"working": 1}),
    ("site:S61", day(10, 12), day(13), {"working": 0}),
    ("site:S61", day(11, 12), day(13), {"working": 0}),
]

HOUR = 3_600_000
DAY = 24 * HOUR
OVER_THE_QUARTER: list[tuple[str, dict[str, int]]] = [
    # Two rooms from day 40 to 50.
    ("site:S55", {"required": 2 * 11 * DAY, "units": 11 * DAY}),
    # Room 0 is down on days 10, 20, 30; room 1 on day 20 and half of 21, and on 30: 184 - 3 - 2.5.
    # The panel is in duty but on day 30; zone 1 fails once, the panel and zone 2 together once: 24 h and 36 h.
    (
        "site:S60",
        {"required": 184 * DAY, "working": 4284 * HOUR, "in_duty_ms": 91 * DAY, "faults": 2, "repair_ms": 60 * HOUR},
    ),
    ("site:S58", {"in_duty_ms": 92 * DAY, "faults": 1, "repair_ms": 4 * HOUR}),
    ("site:S59", {"in_duty_ms": 184 * DAY, "faults": 0, "repair_ms": 0}),
    ("site:S61", {"working": 88 * DAY, "faults": 1, "repair_ms": 4 * DAY}),  # days 11 to 14
    ("site:S54", {"required": 92 * DAY, "installed": 89 * DAY}),  # without day 10, 20, 21
    ("model:Bell/a54", {"in_duty_ms": 80 * DAY}),  # 0 to 9, 22 to 91
    ("model:Bell/b54", {"in_duty_ms": 9 * DAY}),  # 11 to 19
]
