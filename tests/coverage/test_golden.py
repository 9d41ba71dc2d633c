"""The golden district: 1000 points and twelve sites beside them, a scripted quarter; by a second hand, and by hand."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta

import pytest

from gateway.coverage.count import counts, over, tree
from gateway.coverage.counts import rate
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules
from tests.coverage import recount, special
from tests.coverage.district import QUARTER, day

RULES = Rules()
FACTS = special.widened()
TWELVE = special.twelve()
HISTORY = History(FACTS)
QUARTERLY = over(HISTORY, day(0), day(QUARTER), rules=RULES)
MS = timedelta(milliseconds=1)

# What changes is looked at on its very edge; the rest of the fifty moments is spread over the quarter.
EDGES = (0, 10, 13, 16, 30, 31, 35, 37, 40, 41.5, 45, 50, 57, 60, 61, 70, 72, 80)
MOMENTS = [
    *(day(edge) for edge in EDGES),
    *(day(edge) - MS for edge in EDGES[1:]),
    *(day(number * QUARTER / 15, 1) for number in range(15)),
]


def test_a_second_hand_counts_the_same_at_fifty_moments() -> None:
    assert len(MOMENTS) == 50
    for at in MOMENTS:
        assert recount.figures(tree(HISTORY, at, rules=RULES)) == recount.nodes(FACTS, at), at


def test_a_second_hand_counts_the_twelve_the_same_at_every_edge() -> None:
    """At each moment at which any of them changes, a millisecond before, and as it was known then."""
    history = History(TWELVE)
    for at in sorted({edge for fact in TWELVE for edge in recount.changes([fact]) if day(0) <= edge < day(QUARTER)}):
        for moment, known_at in ((at - MS, None), (at, None), (at, at)):
            seen = history if known_at is None else history.as_known(known_at)
            by_engine = recount.figures(tree(seen, moment, rules=RULES))
            assert by_engine == recount.nodes(TWELVE, moment, known_at), (moment, known_at)


@pytest.mark.parametrize(("facts", "start", "end"), [(TWELVE, 0, QUARTER), (FACTS, 28, 38)], ids=["twelve", "all"])
def test_a_second_hand_adds_up_the_same(facts: list[Fact], start: int, end: int) -> None:
    by_engine = recount.figures(over(History(facts), day(start), day(end), rules=RULES))
    by_hand = recount.over(facts, day(start), day(end))
    assert {node: found for node, found in by_engine.items() if found} == by_hand


@pytest.mark.parametrize(("node", "at", "counted"), special.BY_HAND)
def test_the_twelve_by_hand(node: str, at: datetime, counted: dict[str, int]) -> None:
    found = asdict(counts(HISTORY, at, rules=RULES, node=node))
    assert {word: found[word] for word in counted} == counted


@pytest.mark.parametrize(("node", "at", "known_at", "counted"), special.AS_KNOWN)
def test_the_twelve_by_hand_as_they_were_known(
    node: str, at: datetime, known_at: datetime, counted: dict[str, int]
) -> None:
    found = asdict(counts(History(TWELVE).as_known(known_at), at, rules=RULES, node=node))
    assert {word: found[word] for word in counted} == counted


@pytest.mark.parametrize(("node", "summed"), special.OVER_THE_QUARTER)
def test_the_quarter_of_the_twelve_by_hand(node: str, summed: dict[str, int]) -> None:
    found = recount.figures(QUARTERLY)[node]
    assert {word: found[word] for word in summed} == summed


# -- by hand -----------------------------------------------------------------------------------------------------------
# A site has 4 + 12 = 16 mandatory technical requirements; 49 sites are there (site 49 from day 31 to 60 only):
# 49 x 16 = 784, with site 49 50 x 16 = 800. From day 61 each of 20 shops has 2 more: 784 + 40 = 824.
BY_HAND = [
    (day(0), "required", 784),  # 49 x 16
    (day(0), "installed", 779),  # 784 - 5: point 15 of sites 40 to 44 has no watcher
    (day(0), "working", 779),
    (day(0), "must_network", 196),  # 49 x 4
    (day(0), "networked", 196),
    (day(0), "advised", 98),  # 49 x 2
    (day(0), "physical", 98),  # 49 x 2
    (day(0), "units", 49),
    (day(0), "units_installed", 44),  # 49 - 5
    (day(0), "target_units", 30),  # 10 banks and 20 shops
    (day(0), "unsupervised", 4),  # the four radio codes of site 31
    (day(0) - MS, "installed", 0),  # nothing was accepted before
    (day(10) - MS, "networked", 196),
    (day(10), "networked", 188),  # banks 0 and 1, last proved on day 9, leave after 24 h: 196 - 2 x 4
    (day(13), "networked", 196),  # proved again
    (day(16) - MS, "networked", 196),
    (day(16), "networked", 192),  # shop 20, last proved on day 9, leaves after 7 days: 196 - 4
    (day(15, 1), "working", 779),  # the fault of panel 12 was a mistake
    (day(20, 8), "working", 720),  # panels 0, 10, 20, 30, 40 fail: 779 - 5 x 12 + 1, for 40-15 was not installed
    (day(20, 14), "working", 779),
    (day(30), "overdue", 8),  # four buttons of bank 5 and four of site 31, last tested when accepted on day 0
    (day(30), "working", 779),  # within the grace they count
    (day(31), "required", 800),  # site 49 opens: 784 + 16
    (day(31), "networked", 200),  # 50 x 4
    (day(35), "required", 788),  # 800 - 12 waived
    (day(35), "waived", 12),
    (day(37), "working", 775),  # 800 - 12 waived - 5 missing - 8 untested
    (day(37), "overdue", 0),
    (day(40), "installed", 782),  # 788 - 5 - 1: the new button of point 10-0 is not accepted
    (day(41, 12), "installed", 783),
    (day(45), "required", 800),  # the waiver ends at its very moment
    (day(50), "physical_ok", 98),  # 50 x 2 - 2 windows of site 26
    (day(60), "physical_ok", 48),  # those of sites 0 to 24 have expired: 98 - 25 x 2
    (day(60), "working", 791),  # 800 - 5 missing - 4 untested radio codes: bank 5 was tested
    (day(61), "required", 824),  # site 49 has closed, the shops need access control: 49 x 16 + 20 x 2
    (day(61), "advised", 58),  # (49 - 20) x 2
    (day(61), "units", 49),
    (day(70), "installed", 807),  # 824 - 5 - 12 detectors of panel 11
    (day(70), "target_units_installed", 29),  # shop 11
    (day(72), "installed", 819),
    (day(75), "overdue", 1),  # the spare button of 10-0, accepted on day 41.5: due on 71.5
    (day(80), "working", 789),  # 819 - 4 radio codes - the spare, since 78.5 - 1 bypassed - 12 silent - 12 unreachable
    (day(80), "degraded", 1),  # zone 5 of panel 13
]


@pytest.mark.parametrize(("at", "word", "number"), BY_HAND)
def test_worked_by_hand(at: datetime, word: str, number: int) -> None:
    assert asdict(counts(HISTORY, at, rules=RULES, node="area:D"))[word] == number


def test_what_was_thought_on_day_15() -> None:
    """The mistake about panel 12 was withdrawn on day 16: 779 - 12 as known before."""
    known_at, at = day(16) - MS, day(15, 12)
    found = counts(HISTORY.as_known(known_at), at, rules=RULES, node="area:D")
    assert found.working == 767
    assert counts(HISTORY.as_known(day(16)), at, rules=RULES, node="area:D").working == 779
    assert asdict(found)["working"] == recount.nodes(FACTS, at, known_at)["area:D"]["working"]


def test_the_quarter_by_hand() -> None:
    """Figures over time, in hours."""
    hour = 3_600_000
    figures = QUARTERLY
    bank = figures["site:S5"]
    # 16 requirements x 92 days x 24 h
    assert bank.held.required == 16 * 92 * 24 * hour == 35_328 * hour
    # Less 12 detectors x 6 h of the panel's fault, and 4 buttons untested from day 37 to 60: 4 x 23 x 24 h.
    assert bank.held.working == (35_328 - 72 - 2_208) * hour == 33_048 * hour
    assert rate(*bank.availability) == "93.5 %"  # 33 048 / 35 328 = 0.93546
    # Panel, door controller and four buttons, all the time; one fault of 6 h.
    assert (bank.in_duty_ms, bank.repair_ms, bank.faults) == (6 * 92 * 24 * hour, 6 * hour, 1)
    assert (bank.mttr_ms, bank.mtbf_ms) == (6 * hour, (13_248 - 6) * hour)
    estate = figures["site:S49"]
    assert estate.held.required == 16 * 30 * 24 * hour  # there from day 31 to 60
    assert estate.held.units_installed == 30 * 24 * hour
    panels = figures["model:Acme/panel"]
    # 49 panels failed for 6 h while their site was there (49's failed before it opened); 14 is silent from day 80.
    assert (panels.faults, panels.repair_ms) == (50, (49 * 6 + 12 * 24) * hour)
    # 49 x 92 days and 30 of site 49, less two days of panel 11.
    assert panels.in_duty_ms == (49 * 92 + 30 - 2) * 24 * hour
    assert figures["all"].held.required == sum(
        found.held.required for node, found in figures.items() if node.startswith("site:")
    )
