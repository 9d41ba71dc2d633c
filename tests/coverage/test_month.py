"""A month of a thousand devices is counted in seconds."""

from __future__ import annotations

import time
from datetime import timedelta

from gateway.coverage.count import over, tree
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules
from tests.coverage.ledger import START
from tests.coverage.month import DAYS, month

CPU_S_AT_MOST = 30.0
"""With its bulletin, as the project set itself; it takes some two seconds."""


def test_a_month_of_a_thousand_devices() -> None:
    began = time.thread_time()
    history, rules = History(month()), Rules()
    end = START + timedelta(days=DAYS)
    figures, last = over(history, START, end, rules=rules), tree(history, end, rules=rules)
    assert time.thread_time() - began < CPU_S_AT_MOST
    assert figures["all"].held.required == 1000 * DAYS * 86_400_000
    assert last["all"].required == 1000
    assert 0 < figures["all"].faults < 3000
    assert sum(found.faults for node, found in figures.items() if node.startswith("model:")) == figures["all"].faults
