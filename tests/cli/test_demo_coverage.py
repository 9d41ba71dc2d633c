"""The demo's figures: a sample that says so, with a few gaps of every sort, and a community that has to show how it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.cli import demo_community, demo_families
from gateway.cli._district_facts import ACTOR
from gateway.cli.demo_coverage import enrol, planned
from gateway.cli.demo_view import in_words
from gateway.clock import RealClock
from gateway.coverage.counts import Counts
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.live import Live
from gateway.coverage.verdict import Gap, Rules
from gateway.model import Site
from gateway.registry import Registry

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
THINGS = [*demo_community.things(), *demo_families.things()]


async def test_every_sort_of_gap_is_there_and_most_is_in_order(tmp_path: Path) -> None:
    await enrol(tmp_path, THINGS)
    registry = await Registry.open(tmp_path / "registry.db")
    record = await registry.facts()
    await registry.close()
    live = Live(History(record), RealClock().now() + timedelta(seconds=60), rules=Rules())
    gaps = Counter(each.gap for each in live.verdicts() if each.site.startswith("cs-"))
    counts = live.counts("area:qu")

    assert min(fact.valid_from for fact in record if fact.sort is Sort.POINT) < RealClock().now() - timedelta(days=100)
    assert set(Gap) - set(gaps) == set()
    assert 0.9 < counts.installed / counts.required < 1
    assert 0.9 < counts.working / counts.installed < 1
    assert 0.6 < counts.networked / counts.must_network < 1
    assert min(counts.waived, counts.overdue, counts.unsupervised, counts.degraded) > 0
    of_played = live.counts("area:demo")
    assert of_played.installed == of_played.required - 1  # the school's gate
    assert of_played.working == of_played.networked == 0  # nothing was heard of them yet


def test_all_of_it_is_said_to_be_a_sample_and_of_played_devices_nothing_but_their_acceptance() -> None:
    ledger, facts = planned(THINGS, NOW)
    played = {thing.id for thing in THINGS}

    assert {fact.actor for fact in facts} == {ACTOR}
    of_played = {fact.sort for fact in facts if not played.isdisjoint(fact.subject)}
    assert of_played == {Sort.ACCEPTANCE, Sort.INSPECTION}
    assert {thing.id for thing in ledger if isinstance(thing, Site) and thing.area == "demo-sq"} == {
        "yangsi",
        "zhouji",
        "xiwang",
    }


def test_the_same_moment_gives_the_same_sample() -> None:
    def told(facts: list[Fact]) -> list[str]:
        return [repr(fact) for fact in facts]

    assert told(planned(THINGS, NOW)[1]) == told(planned(THINGS, NOW)[1])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            Counts(required=61, installed=60, working=57, must_network=20, networked=18, waived=1),
            "示范区: required 61, installed 98.3 % (60/61), working 95.0 % (57/60), networked 90.0 % (18/20), "
            "waived 1, overdue 0, unsupervised 0",
        ),
        (
            Counts(),
            "示范区: required 0, installed n/a (nothing required), working n/a (nothing installed), "
            "networked n/a (nothing required), waived 0, overdue 0, unsupervised 0",
        ),
    ],
)
def test_a_rate_stands_beside_its_counts(counts: Counts, expected: str) -> None:
    assert list(in_words([{"name": "示范区", "counts": asdict(counts)}])) == [expected]
