"""`fangkong check health` against a real gateway, running and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from gateway.model import Point
from tests.stories.box import ROOT, Box, until
from tests.stories.town import town

PATIENCE_S = 30


async def health(box: Box, *options: str) -> tuple[int, str]:
    """Exit code of the command, and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "check", "health", "--config", str(box.folder / "site.toml"), *options,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def findings(box: Box) -> tuple[int, dict[str, dict[str, str]]]:
    code, said = await health(box, "--json")
    return code, {each["what"]: each for each in json.loads(said)}


async def test_every_check_of_a_box_that_runs_and_of_one_that_does_not(tmp_path: Path) -> None:
    async with town(tmp_path) as place:
        box = place.box
        await place.fences()
        await place.radio()
        await until(
            lambda: box.metric("fangkong_destination_up", destination="centre-110") == 1,
            within_s=20,
            what="110 answers",
        )
        await until(
            lambda: box.metric("fangkong_facts_total", sort="stage") >= 4, within_s=20, what="the fences are in use"
        )

        code, found = await findings(box)
        assert [each for each in found.values() if each["state"] == "failed"] == []
        assert code == 0
        assert {
            "site file", "gateway", "data directory", "clock", "api token", "MQTT broker", "110 line centre-110",
            "event log", "audit record", "recorder of states", "recorder lag", "room for events", "line alarms",
            "line perimeter", "line radio", "destination centre-110", "backlog centre-110", "devices", "networked sites",
        } <= found.keys()  # fmt: skip
        assert found["devices"]["found"].endswith("working")
        assert found["networked sites"]["found"] == "0 of 0 that must be networked are proven"

        # The jeweller's panic button must reach 110, and nothing has proven that it does.
        await box.register(Point("p-panic", "zhouji", 950, "柜台紧急按钮", kind="counter_panic"))
        code, said = await health(box)
        assert code == 1
        assert "failed   network zhouji           never proven" in said
        assert "未联网" in said

        await box.end()
        code, found = await findings(box)
        assert code == 1
        assert {what for what, each in found.items() if each["state"] == "failed"} == {
            "gateway", "networked sites", "network zhouji",
        }  # fmt: skip
        assert "未运行" in found["gateway"]["hint"]
        assert {"backlog centre-110", "devices", "data directory"} <= found.keys()
        assert "line alarms" not in found
