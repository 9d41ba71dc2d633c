"""The worked example that the formulas are explained by: ten jewellery shops, 62 mandatory points."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.coverage.count import counts, tree
from gateway.coverage.counts import rate
from gateway.coverage.history import History
from gateway.coverage.requirements import Networking, Requirement
from gateway.coverage.verdict import Rules
from tests.coverage.ledger import START, Ledger

MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
RULES = Rules()


def ten_shops() -> Ledger:
    """62 points: 20 panic buttons that must be networked, 42 detectors. Shop 0 lacks one, one elsewhere is waived."""
    ledger = Ledger()
    ledger.profile(
        "jewelry_store",
        Requirement("counter_panic", "panic", networking=Networking.MUST),
        Requirement("counter", "intrusion"),
    )
    number = 0
    for shop in range(10):
        ledger.area(f"C{shop % 2}", "community", "Z") if shop < 2 else None
        ledger.site(f"S{shop}", area=f"C{shop % 2}")
        for kind in ["counter_panic"] * 2 + ["counter"] * (5 if shop < 2 else 4):
            point, device = f"P{number}", f"D{number}"
            ledger.point(point, f"S{shop}", kind, device)
            ledger.device(device, f"S{shop}")
            if point not in {"P6", "P13"}:
                ledger.works(point, device)
            number += 1
        if shop != 9:
            ledger.proof(f"S{shop}", MAY - timedelta(days=1))
    ledger.area("Z", "control_zone")
    ledger.waive("P13", "intrusion", START, JUNE)
    for broken in ("P2", "P3", "P4"):
        ledger.health(broken.replace("P", "D"), "fault", START + timedelta(days=1))
    assert number == 62
    return ledger


def test_the_worked_example_comes_out_exactly() -> None:
    history = History(ten_shops().facts)
    found = counts(history, MAY, rules=RULES)
    assert (found.required, found.installed, found.working) == (61, 60, 57)
    assert (found.must_network, found.networked, found.waived) == (20, 18, 1)
    assert (found.units, found.units_installed) == (found.target_units, found.target_units_installed) == (10, 9)
    assert rate(found.installed, found.required) == "98.3 %"
    assert rate(found.working, found.installed) == "95.0 %"
    assert rate(found.working, found.required) == "93.4 %"
    assert rate(found.networked, found.must_network) == "90.0 %"
    assert rate(found.units_installed, found.units) == "90.0 %"


def test_the_waiver_ends_at_its_very_instant() -> None:
    history = History(ten_shops().facts)
    just_before = counts(history, JUNE - timedelta(milliseconds=1), rules=RULES)
    assert (just_before.required, just_before.waived) == (61, 1)
    then = counts(history, JUNE, rules=RULES)
    assert (then.required, then.waived, then.installed, then.units_installed) == (62, 0, 60, 8)


def test_a_node_is_the_sum_of_what_is_below_it() -> None:
    nodes = tree(History(ten_shops().facts), MAY, rules=RULES)
    assert nodes["area:Z"] == nodes["all"] == nodes["area:C0"] + nodes["area:C1"]
    sites = [found for node, found in nodes.items() if node.startswith("site:")]
    assert sum(found.required for found in sites) == 61
    assert nodes["site:S0"].required == 7
