"""One test for each row of the table in docs/coverage.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.coverage.count import counts, over, verdicts
from gateway.coverage.counts import NOTHING_INSTALLED, Counts, rate, stated
from gateway.coverage.facts import Sort
from gateway.coverage.history import History, moment_of
from gateway.coverage.period import Period
from gateway.coverage.requirements import Duty, Family, Networking, Requirement
from gateway.coverage.verdict import Gap, Rules, Verdict
from tests.coverage.ledger import MS, START, Ledger

RULES = Rules()
DAY = timedelta(days=1)
PANIC = Requirement("counter", "panic", networking=Networking.MUST)
Rule = Callable[[], None]
TESTS: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    def keep(test: Rule) -> Rule:
        TESTS[name] = test
        return test

    return keep


class Shop(Ledger):
    """Site S with one point P, watched by a device D that works; nothing is wrong with it."""

    def __init__(self, *requirements: Requirement, kind: str = "panel", **site: object) -> None:
        super().__init__()
        self.profile("jewelry_store", *(requirements or (PANIC,)))
        self.site("S", **site)
        self.device("D", kind=kind, vendor="V", model="M")
        self.point("P", "S", "counter", "D")
        self.works("P", "D")
        self.proof("S", START)

    def counts(self, at: datetime = START) -> Counts:
        return counts(History(self.facts), at, rules=RULES)

    def verdicts(self, at: datetime = START) -> list[Verdict]:
        return list(verdicts(History(self.facts), at, rules=RULES))

    def gap(self, at: datetime = START) -> Gap | None:
        [verdict] = self.verdicts(at)
        return verdict.gap

    def over(self, days: float) -> Period:
        return over(History(self.facts), START, START + days * DAY, rules=RULES)["site:S"]


@rule("R1")
def _profile_in_force() -> None:
    shop = Shop()
    shop.profile("jewelry_store", PANIC, Requirement("counter", "intrusion"), version="2", at=START + DAY)
    assert shop.counts(START + DAY - MS).required == 1
    assert shop.counts(START + DAY).required == 2


@rule("R2")
def _temporary_site() -> None:
    shop = Shop(opens="2026-02-01", closes="2026-02-02")
    opens, closes = datetime(2026, 1, 31, 16, tzinfo=UTC), datetime(2026, 2, 2, 16, tzinfo=UTC)
    found = [shop.counts(at).required for at in (opens - MS, opens, closes - MS, closes)]
    assert found == [0, 1, 1, 0]


@rule("R3")
def _nothing_required() -> None:
    shop = Shop()
    shop.site("T", "tea_house")
    shop.point("Q", "T", "counter", "D")
    shop.point("Z", "S", "broom_cupboard", "D")
    assert shop.counts() == Counts(1, 1, 1, 1, 1, units=1, units_installed=1, target_units=1, target_units_installed=1)


@rule("R4")
def _not_planned() -> None:
    shop = Shop(PANIC, Requirement("vault", "seismic", every_site=True))
    assert (shop.counts().required, shop.counts().installed) == (2, 1)
    assert [verdict.gap for verdict in shop.verdicts()] == [None, Gap.NOT_PLANNED]
    shop.point("V", "S", "vault", at=START + DAY)
    assert [verdict.gap for verdict in shop.verdicts(START + DAY)] == [None, Gap.NOT_INSTALLED]


@rule("R5")
def _waiver() -> None:
    shop = Shop()
    shop.waive("P", "panic", START + DAY, START + 2 * DAY)
    seen = [shop.counts(START + DAY - MS), shop.counts(START + DAY), shop.counts(START + 2 * DAY - MS)]
    assert [(found.required, found.installed, found.waived) for found in seen] == [(1, 1, 0), (0, 0, 1), (0, 0, 1)]
    assert (shop.counts(START + 2 * DAY).required, shop.counts(START + 2 * DAY).waived) == (1, 0)


@rule("R6")
def _replaced_device() -> None:
    shop = Shop()
    shop.device("E", at=START + DAY)
    shop.health("E", at=START + DAY)
    shop.point("P", "S", "counter", "E", at=START + DAY)
    shop.accept("P", "E", at=START + 2 * DAY)
    assert [shop.gap(START + DAY - MS), shop.gap(START + DAY), shop.gap(START + 2 * DAY)] == [
        None,
        Gap.NOT_ACCEPTED,
        None,
    ]
    shop.say(Sort.ACCEPTANCE, ("P", "D", ""), None, START + DAY)  # as the ledger writes when it is taken off
    shop.point("P", "S", "counter", "D", at=START + 3 * DAY)
    shop.accept("P", "D", at=START + 4 * DAY)
    assert [shop.gap(START + 3 * DAY), shop.gap(START + 4 * DAY)] == [Gap.NOT_ACCEPTED, None]
    two = Shop(Requirement("counter", "panic", quantity=2))
    assert two.gap() is Gap.NOT_INSTALLED


@rule("R7")
def _out_of_service() -> None:
    shop = Shop()
    for number, stage in enumerate(("out_of_service", "in_service", "retired"), 1):
        shop.stage("D", stage, START + number * DAY)
    assert [shop.gap(START + number * DAY) for number in range(4)] == [
        None,
        Gap.OUT_OF_SERVICE,
        None,
        Gap.OUT_OF_SERVICE,
    ]
    shop.point("P", "S", "counter", "stranger")
    shop.works("P", "stranger")
    assert (shop.counts().installed, shop.gap()) == (0, Gap.OUT_OF_SERVICE)
    shop.device("stranger")
    assert shop.gap() is None


@rule("R8")
def _watchers_of_their_own() -> None:
    own, shared = Requirement("counter", "intrusion"), Requirement("counter", "intrusion", shared=True)
    assert (Shop(PANIC, own).counts().installed, Shop(PANIC, shared).counts().installed) == (1, 2)
    shop = Shop()
    shop.device("E")
    shop.point("P", "S", "counter", "D", "E", at=START)
    shop.works("P", "E")
    shop.health("D", "fault", START + DAY)
    assert shop.gap(START + DAY) is Gap.FAULT


@rule("R9")
def _states() -> None:
    for zone in ("", "1"):
        shop = Shop()
        shop.point("P", "S", "counter", ("D", 1))
        shop.accept("P", "D", "1")
        states = ("working", "degraded", "fault", "silent", "unreachable", "bypassed")
        for number, state in enumerate(states):
            shop.health("D", state, START + number * DAY, zone)
        gaps = [shop.gap(START + number * DAY) for number in range(len(states))]
        assert [gap and gap.value for gap in gaps] == [None, None, *states[2:]]
        assert (shop.counts(START + DAY).degraded, shop.counts(START + DAY).working) == (1, 1)


@rule("R10")
def _never_heard() -> None:
    shop = Shop()
    shop.device("E")
    shop.point("P", "S", "counter", ("E", 3))
    shop.accept("P", "E", "3")
    assert shop.gap() is Gap.SILENT
    shop.health("E")
    assert shop.gap() is None


@rule("R11")
def _live_test() -> None:
    shop = Shop(kind="panic_button")
    shop.live_test("D", START + 10 * DAY, "7")
    shop.proof("S", START + 40 * DAY)
    due, end = START + 40 * DAY, START + 47 * DAY
    assert (shop.counts(due - MS).degraded, shop.counts(due).degraded, shop.counts(due).overdue) == (0, 1, 1)
    assert (shop.counts(end - MS).working, shop.counts(end).working, shop.gap(end)) == (1, 0, Gap.UNTESTED)


@rule("R12")
def _radio_code() -> None:
    shop = Shop(kind="radio_code")
    shop.health("D", "silent", START + DAY)
    assert (shop.counts(START + 2 * DAY).working, shop.counts(START + 2 * DAY).unsupervised) == (1, 1)
    assert shop.gap(START + 37 * DAY) is Gap.UNTESTED
    shop.health("D", "fault", START + 3 * DAY)
    assert shop.gap(START + 3 * DAY) is Gap.FAULT
    of_zone = Shop(kind="radio_code")
    of_zone.point("P", "S", "counter", ("D", 4))
    of_zone.accept("P", "D", "4")
    of_zone.health("D", "silent", START, "4")
    assert of_zone.gap() is None


@rule("R13")
def _networked() -> None:
    shop = Shop()
    shop.facts.pop()
    [never] = shop.verdicts(START + DAY)
    assert (never.gap, moment_of(never.since or 0)) == (Gap.NOT_NETWORKED, START)  # since it was accepted
    shop.proof("S", START, "link_up")
    assert shop.counts(START + DAY).networked == 0
    shop.health("D", "degraded", START, cause="battery")
    [warned] = shop.verdicts(START + DAY)
    assert (warned.degraded, warned.gap, warned.device, warned.because) == (True, Gap.NOT_NETWORKED, "", "")
    shop.proof("S", START + 2 * DAY, "alarm_accepted")
    shop.health("D", "fault", START + 3 * DAY)
    assert (shop.counts(START + 2 * DAY).networked, shop.counts(START + 3 * DAY).networked) == (1, 0)
    should = Shop(Requirement("counter", "panic", networking=Networking.SHOULD)).counts()
    assert (should.must_network, should.networked) == (0, 0)


@rule("R14")
def _proof_window() -> None:
    for is_key, end in ((True, START + DAY), (False, START + 7 * DAY)):
        shop = Shop(is_key_unit=is_key)
        assert (shop.gap(end - MS), shop.gap(end)) == (None, Gap.NOT_NETWORKED)
        assert shop.counts(end).working == 1


@rule("R15")
def _inspection() -> None:
    shop = Shop(Requirement("counter", "bars", family=Family.PHYSICAL))
    shop.inspect("P", "bars", True, START + DAY, START + 3 * DAY)
    seen = [shop.gap(START + number * DAY) for number in range(4)]
    assert seen == [Gap.NOT_INSPECTED, None, None, Gap.NOT_INSPECTED]
    shop.inspect("P", "bars", False, START + 4 * DAY, START + 9 * DAY)
    assert shop.gap(START + 4 * DAY) is Gap.INSPECTION_FAILED
    assert shop.counts(START + DAY) == Counts(physical=1, physical_ok=1)


@rule("R16")
def _advised() -> None:
    found = Shop(PANIC, Requirement("counter", "intrusion", duty=Duty.ADVISED)).counts()
    assert (found.required, found.installed, found.advised, found.advised_installed) == (1, 1, 1, 0)


@rule("R17")
def _units() -> None:
    shop = Shop()
    shop.site("T", "school")
    shop.profile("school", PANIC)
    shop.point("Q", "T", "counter")
    found = shop.counts()
    assert (found.units, found.units_installed, found.target_units, found.target_units_installed) == (2, 1, 1, 1)
    shop.waive("Q", "panic", START, START + DAY)
    assert shop.counts().units == 1


@rule("R18")
def _facts() -> None:
    shop = Shop()
    shop.health("D", "fault", START + DAY)
    mistake = shop.health("D", "silent", START + DAY)
    assert (shop.gap(START + DAY - MS), shop.gap(START + DAY)) == (None, Gap.SILENT)
    shop.withdraw(mistake, START + 2 * DAY)
    assert shop.gap(START + DAY) is Gap.FAULT


@rule("R19")
def _entrances() -> None:
    shop = Shop(Requirement("counter", "access_control", duty=Duty.ADVISED))
    shop.health("D", "fault", START + DAY)
    seen = [shop.counts(START), shop.counts(START + DAY)]
    assert [(found.entrances, found.entrances_controlled) for found in seen] == [(1, 1), (1, 0)]


@rule("R20")
def _in_test() -> None:
    shop = Shop(kind="panic_button")
    begins, ends = START + 25 * DAY, START + 25 * DAY + timedelta(hours=8)
    shop.say(
        Sort.WALK_TEST,
        ("S",),
        {"points": ["P"], "by": "maintenance", "reason": "x", "standing": []},
        begins,
        until=ends,
    )
    assert [shop.counts(at).working for at in (begins - MS, begins, ends - MS, ends)] == [1, 1, 1, 1]
    shop.live_test("D", begins)
    assert shop.counts(START + 31 * DAY).overdue == 0


@rule("P1")
def _time_weighted() -> None:
    shop = Shop()
    shop.health("D", "fault", START + DAY)
    shop.health("D", "working", START + DAY + MS)
    assert shop.over(2).availability == (2 * 86_400_000 - 1, 2 * 86_400_000)
    assert rate(*shop.over(2).availability) == "99.9 %"


@rule("P2")
def _faults() -> None:
    shop = Shop()
    shop.health("D", "fault", START + DAY)
    shop.health("D", "silent", START + 2 * DAY)
    shop.health("D", "working", START + 3 * DAY)
    found, first = shop.over(10), shop.over(1)
    assert (found.faults, found.repair_ms, found.mttr_ms, found.mtbf_ms) == (
        1,
        2 * 86_400_000,
        2 * 86_400_000,
        8 * 86_400_000,
    )
    assert (first.faults, first.mttr_ms, first.mtbf_ms) == (0, None, None)
    history, end = History(shop.facts), START + 10 * DAY
    begun = [over(history, START + DAY + late, end, rules=RULES)["site:S"].faults for late in (-MS, 0 * MS, MS)]
    assert begun == [1, 1, 0]


@rule("P3")
def _in_duty() -> None:
    shop = Shop()
    shop.stage("D", "out_of_service", START + DAY)
    shop.stage("D", "in_service", START + 2 * DAY)
    shop.point("P", "S", "counter", at=START + 4 * DAY)
    assert shop.over(10).in_duty_ms == 3 * 86_400_000


@rule("P4")
def _no_fault_of_its_own() -> None:
    shop = Shop(kind="panic_button")
    shop.health("D", "unreachable", START + DAY)
    shop.health("D", "bypassed", START + 2 * DAY)
    assert shop.over(60).faults == 0


TABLE = re.findall(
    r"^\| ([RP]\d+) \|", (Path(__file__).parents[2] / "docs/coverage.md").read_text("utf-8"), re.MULTILINE
)


def test_every_row_has_its_test() -> None:
    assert list(TESTS) == TABLE


@pytest.mark.parametrize("name", TABLE)
def test_rule(name: str) -> None:
    TESTS[name]()


def test_a_rate_is_stated_with_its_two_counts_and_never_flatters() -> None:
    assert stated(60, 61) == "98.3 % (60/61)"
    assert stated(9_999, 10_000) == "99.9 % (9999/10000)"
    assert stated(10_000, 10_000, "en") == "100.0 % (10000/10000)"
    assert (stated(0, 0), stated(0, 0, "en")) == ("n/a (无应装点位)", "n/a (nothing required)")
    assert stated(0, 0, empty=NOTHING_INSTALLED) == "n/a (无已装点位)"
