"""What the gateway writes about itself grows with what happens to it, not with what is said to it."""

from __future__ import annotations

import asyncio
import urllib.error
from pathlib import Path

import pytest

from simulators._clock import RealClock
from simulators.police_centre import PoliceCentre
from tests.conftest import tool
from tests.stories.box import Box, until
from tests.stories.town import town

LINES_MOST = 60
"""A start, its lines, two changes of level: some thirty."""
FLOOD = 1000
OWN_FILES = {"api.token", "demo.password", "gateway.log", "site.toml", "var"}
VAR = {
    "alive",
    "audit.db",
    "audit.db-journal",
    "broker",
    "config",
    "credential.key",
    "events.db",
    "events.db-shm",
    "events.db-wal",
    "lock",
    "registry.db",
    "registry.db-shm",
    "registry.db-wal",
}


@pytest.mark.full
@pytest.mark.row("B8")
async def test_a_flood_at_level_debug_is_counted_and_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("mosquitto")
    write = Path.write_text

    def at_debug(self: Path, text: str, **how: str) -> int:
        return write(self, text.replace('account = "A100"', 'account = "A100"\nlog_level = "debug"'), **how)

    monkeypatch.setattr(Path, "write_text", at_debug)
    async with PoliceCentre() as centre, town(tmp_path, centre=centre) as place:
        assert 'log_level = "debug"' in (tmp_path / "site.toml").read_text()
        alarm = place.alarm("a001")
        for number in range(100):
            await alarm.do("burglary", restore=number % 2 == 1)
        async with place.stranger() as stranger:
            for number in range(FLOOD):
                await stranger.publish("fangkong/v1/a002/event", f"rubbish {number}".encode(), qos=1)
        for _ in range(FLOOD // 10):
            assert await asyncio.to_thread(refused, place.box)
            async with place.stranger():
                pass  # in and out again
        await until(
            lambda: place.box.metric("fangkong_rejected_frames_total") >= FLOOD,
            within_s=30,
            what="the rubbish is counted",
        )
        await until(
            lambda: place.world.ledger.acknowledged_count == 100, within_s=30, what="the alarms are acknowledged"
        )
        await RealClock().sleep(1)

        lines = place.box.log.splitlines()
        assert len(lines) <= LINES_MOST, "\n".join(lines[-20:])
        assert {path.name for path in tmp_path.iterdir()} == OWN_FILES
        assert {path.name for path in (tmp_path / "var").iterdir()} <= VAR
        assert not list((tmp_path / "var" / "broker").glob("*.log"))


def refused(box: Box) -> bool:
    """A request with a wrong address."""
    try:
        box.text("api/v1/nowhere")
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False
