"""What it costs to count a whole district: CPU of one thread, as it runs beside the daemon's loop."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

from bench.aims import OURS
from bench.samples import Sample
from gateway.coverage.count import tree
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules

POINTS = 10_000
PER_SITE = 16
"""Zones of one panel, a site each."""
_START = datetime(2026, 1, 1, tzinfo=UTC)


def counting(rounds: int) -> Iterator[Sample]:
    """A full recount of 10 000 points, all accepted and well, which is when most is looked at; and what a fact takes of
    memory, as it is read from the record and kept in the history."""
    tracemalloc.start()
    history, rules = History(_facts()), Rules()
    fact_bytes = tracemalloc.get_traced_memory()[0] / len(history.facts)
    tracemalloc.stop()
    tree(history, _START, rules=rules)
    for nth in range(rounds):
        began = time.thread_time()
        found = tree(history, _START, rules=rules)["all"]
        spent = time.thread_time() - began
        assert found.working == POINTS
        yield Sample("coverage", OURS, nth, {"recount_ms": spent * 1000, "fact_bytes": fact_bytes})


def _facts() -> Iterator[Fact]:
    lines = [
        {"point_kind": "counter_panic", "measure": "panic", "networking": "must"},
        {"point_kind": "counter", "measure": "intrusion"},
    ]
    yield _fact(Sort.AREA, ("Z",), {"kind": "control_zone", "parent": None})
    yield _fact(Sort.PROFILE, ("jewelry_store",), {"requirements": lines})
    for site in range(POINTS // PER_SITE):
        yield _fact(Sort.SITE, (f"s{site}",), {"kind": "jewelry_store", "area": "Z"})
        yield _fact(Sort.PROOF, (f"s{site}",), {"rung": "test_accepted"})
        yield _fact(Sort.DEVICE, (f"d{site}",), {"site": f"s{site}", "kind": "panel"})
        yield _fact(Sort.STAGE, (f"d{site}",), {"stage": "in_service"})
        yield _fact(Sort.HEALTH, (f"d{site}", ""), {"state": "working"})
        for zone in range(PER_SITE):
            kind = "counter" if zone % 4 else "counter_panic"
            value = {"site": f"s{site}", "kind": kind, "device": f"d{site}", "zone": zone}
            yield _fact(Sort.POINT, (f"s{site}-{zone}",), value)
            yield _fact(Sort.ACCEPTANCE, (f"s{site}-{zone}", f"d{site}", str(zone)), {"sheet": ""})


def _fact(sort: Sort, subject: tuple[str, ...], value: dict[str, object]) -> Fact:
    return Fact(sort, subject, json.loads(json.dumps(value)), _START)
