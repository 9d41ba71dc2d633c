"""No dead metrics: each one that is offered is set somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

import gateway
from gateway.metrics import Metrics

SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted(Path(gateway.__file__).parent.rglob("*.py"))
    if path.name != "metrics.py"
)
OFFERED = sorted(name for name, metric in vars(Metrics()).items() if isinstance(metric, Counter | Gauge | Histogram))


def test_there_is_something_to_look_at() -> None:
    assert {"events", "accepted", "delivery_seconds", "devices"} <= set(OFFERED)


@pytest.mark.parametrize("name", OFFERED)
def test_a_metric_that_is_offered_is_set(name: str) -> None:
    """Its value, not only its zero: a call that moves it, perhaps after `labels(...)` over several lines."""
    used = rf"metrics\.{name}\b(?:\.labels\((?:[^()]|\([^()]*\))*\))?\.(?:inc|set|set_function|observe|clear)\b"
    kept = rf"[=:]\s*[\w.]*metrics\.{name}\.labels\("  # kept under a name of its own and set through that
    whole = rf"_set\(metrics\.{name}, "  # all its series at once
    assert re.search(f"{used}|{kept}|{whole}", SOURCES)
