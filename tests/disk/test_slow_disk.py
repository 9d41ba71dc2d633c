"""Each sync takes its time: fewer events a second, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.model import Device
from simulators._clock import RealClock
from tests.conftest import tool
from tests.stories.box import until
from tests.stories.town import Town, town

SYNC_S = 0.3
"""An SD card that is cleaning up. Far above what a busy machine makes a loop wait by itself."""
BLOCKED_S = 0.25
"""Bucket of the metric: a loop that waits for its syncs itself is above it at nearly every look."""
GOAL_S = 0.05
LATE_SHARE_MOST, BLOCKED_SHARE_MOST = 0.1, 0.02
"""Of the looks, on a machine that runs other tests beside this one."""
DEVICES, ROUNDS = 20, 15
SLOW_SYNC = [
    "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
    "-e", f"inject=fdatasync,fsync:delay_exit={SYNC_S * 1e6:.0f}",
]  # fmt: skip


def looks(place: Town, at_most_s: float | None = None) -> float:
    """How often the loop was looked at, and found no later than that."""
    if at_most_s is None:
        return place.box.metric("fangkong_loop_lag_seconds_count")
    return place.box.metric("fangkong_loop_lag_seconds_bucket", le=str(at_most_s))


@pytest.mark.full
@pytest.mark.row("B6")
async def test_a_slow_sync_slows_the_answers_and_nothing_else(tmp_path: Path) -> None:
    async with town(tmp_path, under=[tool("strace"), *SLOW_SYNC]) as place:
        alarms = [place.alarm(f"a{n:03}") for n in range(1, DEVICES + 1)]
        ledger = place.world.ledger
        commits = place.box.metric("fangkong_commit_seconds_count")
        for number in range(ROUNDS):
            for alarm in alarms:
                await alarm.do("burglary", restore=number % 2 == 1)
            place.box.text("api/v1/events?limit=100")  # people look, too
            place.box.text("api/v1/destinations")
            place.box.text("readyz")
            await place.box.register(Device(f"new-{number}", "yangsi"))
            await RealClock().sleep(SYNC_S)
        await until(
            lambda: ledger.acknowledged_count == ledger.raised_count, within_s=60, what="every event is acknowledged"
        )
        await until(lambda: place.audit().lost == 0, within_s=60, what="every event is at 110")

        took_s = place.box.metric("fangkong_commit_seconds_sum")
        assert took_s >= SYNC_S * (place.box.metric("fangkong_commit_seconds_count") - commits) / 2, (
            "the syncs were slow"
        )
        audit = place.audit()
        assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())
        assert looks(place) > 20
        assert looks(place, BLOCKED_S) >= looks(place) * (1 - BLOCKED_SHARE_MOST), "the loop itself waited for the disk"
        assert looks(place, GOAL_S) >= looks(place) * (1 - LATE_SHARE_MOST)
        place.assert_unhurt()
