"""A hundred kills at random moments, under load and over bad lines on both sides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import tool
from tests.crash import kills

SEED = int(os.environ.get("STORY_SEED", "110"))
REPEATS_PER_KILL = 5.0
"""On the wire: one frame of each of the 12 accounts may be out, and acceptances wait some 5 ms for the next commit. A busy
machine has had 2."""


@pytest.mark.full
@pytest.mark.row("A1")
@pytest.mark.row("A3")
@pytest.mark.row("A4")
@pytest.mark.row("A5")
async def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    tool("mosquitto")
    report = await kills.run(tmp_path, kills=100, seed=SEED)
    print(report.table())

    assert report.is_good, report.audit.missing
    assert report.raised > 100 * 10
    assert report.repeats_by_kill < REPEATS_PER_KILL * report.kills
