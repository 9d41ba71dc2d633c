"""A van that leaves its area and loses its antenna, from the receiver's sentences to the 110 centre; and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import simulators
from gateway.model import Device, FenceRule, Geofence, Vehicle, VehicleKind
from simulators.police_centre import PoliceCentre
from tests.stories.box import free_ports, until
from tests.stories.test_scenario import play
from tests.stories.town import town

SCENARIO = Path(simulators.__file__).parent / "scenarios" / "van_leaves_its_area.toml"
LINE = """
[[connection]]
name = "van-7"
driver = "nmea"
link = "tcp-listen://127.0.0.1:{port}"
[connection.settings]
device = "van-7"
every_s = 1
"""
YARD = Geofence("yard", 7, "金库院", FenceRule.STAY_IN, ((37.5, 121.4),), 60)
VAN = Vehicle("van-7", VehicleKind.CASH_TRANSPORT, on_duty=True, geofences=("yard",))
COUNTED_WITHIN_S = 20.0


@pytest.mark.full  # 20 s on the road
async def test_a_van_that_leaves_its_area_is_known_at_110_and_off_duty_nothing_is_kept(tmp_path: Path) -> None:
    record = tmp_path / "centre.jsonl"
    (port,) = free_ports(1)
    things = (Device("van-7", "yangsi", "押运 7"), YARD, VAN)
    async with (
        PoliceCentre(record=record) as centre,
        town(tmp_path, *things, centre=centre, receiver=LINE.format(port=port)) as place,
    ):
        settings = ("--record", record, f"--set=gnss=127.0.0.1:{port}")
        code, _, complaints = await play(SCENARIO, "--seconds", "17", *settings, within_s=60)

        assert (code, complaints) == (0, "")
        kept = place.box.metric("fangkong_events_total", kind="position")
        assert kept >= 10
        await place.box.register(replace(VAN, on_duty=False))
        await until(
            lambda: "ledger loaded" in place.box.log.split("fangkong is running")[-1],
            within_s=COUNTED_WITHIN_S,
            what="the ledger is loaded",
        )
        await play(SCENARIO, "--seconds", "3", *settings)

        assert place.box.metric("fangkong_not_kept_total") > 0
        assert place.box.metric("fangkong_events_total", kind="position") <= kept + 1  # one was on its way
        place.assert_unhurt()
