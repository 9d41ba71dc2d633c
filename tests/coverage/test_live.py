"""Three ways to the same figures: counted at a moment, kept up to date, added up over time. In whatever order facts come."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.coverage.count import add_up, by_site, over, tree
from gateway.coverage.counts import Counts
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History, ms_of
from gateway.coverage.live import Live
from gateway.coverage.period import Period
from gateway.coverage.verdict import judge_all
from gateway.coverage.view import Rules, View
from tests.coverage import recount
from tests.coverage.ledger import MS, START, Ledger
from tests.coverage.town import town

RULES = Rules()
DAYS = 60


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_in_which_facts_arrive_does_not_matter(seed: int, shuffle: Random) -> None:
    facts = town(seed, 80, is_reorganised=True)
    at = START + timedelta(days=shuffle.uniform(0, DAYS))
    first = tree(History(facts), at, rules=RULES)
    mixed = list(facts)
    shuffle.shuffle(mixed)
    assert tree(History(mixed + mixed[:5]), at, rules=RULES) == first


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0, DAYS), min_size=1, max_size=4))
def test_the_parts_of_a_period_add_up_to_the_whole(seed: int, cuts: list[float]) -> None:
    history = History(town(seed, 80, is_reorganised=True))
    moments = sorted({START, *(START + timedelta(days=cut) // MS * MS for cut in cuts), START + timedelta(days=DAYS)})
    whole = over(history, moments[0], moments[-1], rules=RULES)
    parts = [over(history, one, two, rules=RULES) for one, two in pairwise(moments)]
    for node, figures in whole.items():
        assert sum((part.get(node, Period()) for part in parts), Period()) == figures, node


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_a_period_is_its_instants_added_up(seed: int) -> None:
    """Everything of this town happens on full hours, so that one look an hour sees all of it."""
    history = History([_on_the_hour(fact) for fact in town(seed, 60, is_reorganised=True)])
    hours = 24 * 6
    summed: dict[str, Counts] = {}
    for hour in range(hours):
        for node, found in tree(history, START + timedelta(hours=hour), rules=RULES).items():
            summed[node] = summed.get(node, Counts()) + found
    figures = over(history, START, START + timedelta(hours=hours), rules=RULES)
    for node, found in summed.items():
        assert [ms / 3_600_000 for ms in astuple(figures[node].held)] == list(astuple(found)), node


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_live_figures_are_those_of_a_full_recount(seed: int) -> None:
    """After every single fact, in any order."""
    facts, random = town(seed, 60, is_reorganised=True), Random(seed)
    random.shuffle(facts)
    now = START + timedelta(days=1)
    live = Live(History(facts[:40]), now, rules=RULES)
    history = History(facts[:40])
    for fact in facts[40:]:
        now += timedelta(hours=random.choice((0, 0, 1, 30)))
        live.apply([fact], now)
        history.add([fact])
        view = View(history, ms_of(now), RULES)
        found = Counter(judge_all(view))
        assert Counter(live.verdicts()) == found
        assert dict(live.tree) == dict(add_up(view, by_site(found.elements())))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, DAYS))
def test_a_second_hand_counts_the_same(seed: int, days: float) -> None:
    facts, at = town(seed, 100, is_reorganised=True), START + timedelta(days=days) // MS * MS
    history = History(facts)
    assert recount.figures(tree(history, at, rules=RULES)) == recount.nodes(facts, at)
    then = recount.figures(tree(history.as_known(at), at, rules=RULES))
    assert then == recount.nodes(facts, at, known_at=at)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_a_second_hand_adds_up_the_same(seed: int) -> None:
    facts, end = town(seed, 60, is_reorganised=True), START + timedelta(days=30)
    by_engine = recount.figures(over(History(facts), START, end, rules=RULES))
    assert {node: found for node, found in by_engine.items() if found} == recount.over(facts, START, end)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_between_two_changes_that_it_announces_nothing_changes(seed: int) -> None:
    history = History(town(seed, 80, is_reorganised=True))
    live = Live(history, START, rules=RULES)
    while (due := live.next_change()) is not None and due < START + timedelta(days=DAYS):
        assert tree(history, due - MS, rules=RULES) == dict(live.tree)
        live.advance(due)
        assert tree(history, due, rules=RULES) == dict(live.tree)


def test_a_fact_costs_what_it_changes_and_no_more() -> None:
    facts = town(3, 0)
    live = Live(History(facts), START + timedelta(days=1), rules=RULES)
    begun = live.judged
    touched = live.apply([_health(facts, "D1")], START + timedelta(days=1))
    assert {verdict.point for verdict in touched} == {"P1", "P16"}
    assert live.judged - begun == len(live.history.points_of_device["D1"]) == 3


def test_an_area_that_is_gone_is_no_node() -> None:
    ledger = Ledger()
    ledger.area("C")
    ledger.site("S", area="C")
    live = Live(History(ledger.facts), START, rules=RULES)
    assert "area:C" in live.tree
    live.apply([ledger.say(Sort.AREA, ("C",), None, START + MS)], START + MS)
    assert live.tree.keys() == {"site:S", "all"}


def test_a_profile_costs_the_sites_of_its_kind_and_an_area_the_sites_in_it() -> None:
    """Five sites of four points each. One is a school; two are in C1. All are in Z."""
    facts = town(3, 0)
    live = Live(History(facts), START + timedelta(days=1), rules=RULES)
    for sort, name, cost in (
        (Sort.PROFILE, "school", 5),  # the site and its 4 points
        (Sort.PROFILE, "jewelry_store", 4 * 5),
        (Sort.PROFILE, "mall", 0),
        (Sort.AREA, "C1", 3),  # itself and 2 sites: no point is judged again
        (Sort.AREA, "Z", 6),
        (Sort.AREA, "elsewhere", 1),
        (Sort.PROOF, "S0", 5),
        (Sort.WAIVER, "P0", 1),
    ):
        begun = live.judged
        live.apply([_again(facts, sort, name)], START + timedelta(days=1))
        assert live.judged - begun == cost, (sort, name)


def _again(facts: list[Fact], sort: Sort, name: str) -> Fact:
    """The same said again, or for the first time."""
    value = next((fact.value for fact in facts if fact.sort is sort and fact.subject == (name,)), None)
    subject = (name, "panic") if sort is Sort.WAIVER else (name,)
    return Fact(sort, subject, value, START + timedelta(days=1), recorded_at=START + timedelta(days=1))


def _health(facts: list[Fact], device: str) -> Fact:
    like = next(fact for fact in facts if fact.sort == "health" and fact.subject[0] == device)
    return replace(
        like, id=10_000, valid_from=START + timedelta(days=1), value={**(like.value or {}), "state": "fault"}
    )


def _on_the_hour(fact: Fact) -> Fact:
    def cut(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.replace(minute=0, second=0, microsecond=0)

    return replace(fact, valid_from=cut(fact.valid_from) or START, valid_to=cut(fact.valid_to))


@pytest.mark.parametrize("seed", range(3))
def test_what_was_known_then_can_be_had_again(seed: int) -> None:
    facts = town(seed, 150)
    known_at = START + timedelta(days=30)
    at = START + timedelta(days=20)
    then = [fact for fact in facts if (fact.recorded_at or START) <= known_at]
    history = History(facts)
    assert tree(history.as_known(known_at), at, rules=RULES) == tree(History(then), at, rules=RULES)
    assert tree(history.as_known(known_at), at, rules=RULES) != tree(history, at, rules=RULES)
