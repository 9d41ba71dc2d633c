"""Forty boxes are one district."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.coverage.count import over, tree
from gateway.coverage.counts import Counts
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.merge import BOXES_MAX, DENOMINATORS, Expected, Export, merge
from gateway.coverage.verdict import Rules
from tests.coverage.district import SITES, day, district
from tests.coverage.ledger import MS
from tests.coverage.special import twelve

RULES = Rules()
FACTS = district()
TWELVE = twelve()
START, END = day(31), day(61)
BOXES = 40
NEVER_BEFORE = {f"box-{box}": Expected() for box in range(BOXES)}


def _site_of(fact: Fact) -> int | None:
    """Sites, points and devices of the district carry the number of their site."""
    if fact.sort in {Sort.AREA, Sort.PROFILE}:
        return None
    if fact.subject[0] == "spare":
        return 10
    return int("".join(letter for letter in fact.subject[0].split("-")[0] if letter.isdigit()))


@pytest.fixture(scope="module")
def exports() -> list[Export]:
    return [_export(box) for box in range(BOXES)]


def _export(box: int) -> Export:
    facts = [fact for fact in FACTS if (site := _site_of(fact)) is None or site % BOXES == box]
    return Export.of(f"box-{box}", History(facts), START, END, rules=RULES)


def test_forty_exports_are_one_recount_over_all_facts(exports: list[Export]) -> None:
    sent = [Export.read(json.loads(json.dumps(export.written()))) for export in exports]
    merged = merge(sent, NEVER_BEFORE)
    history = History(FACTS)
    assert merged.counts == tree(history, END - MS, rules=RULES)
    assert merged.periods == over(history, START, END, rules=RULES)
    whole = Export.of("whole", history, START, END, rules=RULES)
    assert (merged.classes, merged.gaps) == (whole.classes, whole.gaps)
    for node, classes in merged.classes.items():
        assert sum(found.required for found in classes.values()) == merged.counts[node].required
    assert merged.missing == {}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=12, max_size=12))
def test_whatever_sites_a_box_has_the_merged_figures_are_the_same(box_of: list[int]) -> None:
    facts, history = TWELVE, History(TWELVE)
    exports = [
        Export.of(
            str(box),
            History(fact for fact in facts if (site := _site_of(fact)) is None or box_of[site - SITES] == box),
            day(0), day(62), rules=RULES,
        )
        for box in sorted(set(box_of))
    ]  # fmt: skip
    merged = merge(exports, {export.box: Expected() for export in exports})
    assert merged.counts == tree(history, day(62) - MS, rules=RULES)
    assert merged.periods == over(history, day(0), day(62), rules=RULES)


def test_what_a_missing_box_must_have_stays_in_the_denominators(exports: list[Export]) -> None:
    last = {export.box: Expected(replace(export, start=day(0), end=day(31))) for export in exports}
    whole = merge(exports, last)
    merged = merge(exports[1:], last)
    assert merged.missing == {"box-0": day(31)}
    for name in DENOMINATORS:
        assert getattr(merged.counts["all"], name) == getattr(whole.counts["all"], name)
    gone = exports[0].counts["all"]
    assert merged.counts["all"].installed == whole.counts["all"].installed - gone.installed
    assert merged.periods["all"].held.required == whole.periods["all"].held.required
    assert merged.periods["all"].held.working < whole.periods["all"].held.working


def test_a_box_that_never_reported_is_named(exports: list[Export]) -> None:
    merged = merge(exports[1:], NEVER_BEFORE)
    assert merged.missing == {"box-0": None}
    assert "site:S0" not in merged.counts


def test_what_is_planned_at_a_box_that_never_reported_is_in_the_denominators(exports: list[Export]) -> None:
    planned = {"all": Counts(required=25, installed=25), "area:Z1": Counts(required=25)}
    merged = merge(exports[1:], NEVER_BEFORE | {"box-0": Expected(planned=planned)})
    without = merge(exports[1:], NEVER_BEFORE)
    for node in planned:
        assert merged.counts[node] - without.counts.get(node, Counts()) == Counts(required=25)


def test_what_does_not_fit_is_refused_by_name(exports: list[Export]) -> None:
    one, two = exports[:2]
    both = {"box-0": Expected(), "box-1": Expected()}
    for handed, expected, said in (
        ([one, one], both, "box box-0 has reported twice"),
        ([one, replace(two, end=day(62))], both, "the same period"),
        ([], both, "found: none"),
        ([one, two], {"box-0": Expected()}, "box box-1 is not among those expected: box-0"),
        ([one, replace(two, counts={"site:S0": Counts()})], both, "site:S0 is reported by two boxes, box-0 and box-1"),
        ([one], dict.fromkeys(map(str, range(BOXES_MAX + 1)), Expected()), "at most 1000"),
    ):
        with pytest.raises(ValueError, match=said):
            merge(handed, expected)
    with pytest.raises(ValueError, match="not an export of a box"):
        Export.read({"box": "1"})
    written = one.written()
    for changed, said in ((-1, "-1 is no count"), (0, "not the sum of its sites")):
        counts = written["counts"] | {"all": written["counts"]["all"] | {"working": changed}}
        with pytest.raises(ValueError, match=said):
            Export.read(written | {"counts": counts})
