"""A fleet on a real gateway process: what its terminals raise is at 110, once, whatever happens to line and gateway meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

import simulators
from gateway.kinds import Kind
from gateway.model import Device
from simulators import jt808
from simulators._world import Spec
from simulators.police_centre import PoliceCentre
from tests.stories.box import free_ports, until
from tests.stories.test_scenario import play
from tests.stories.town import town

SCENARIO = Path(simulators.__file__).parent / "scenarios" / "fleet_bad_moments.toml"
PHONES = [f"139000000{n:02}" for n in range(1, 5)]
LINE = """
[[connection]]
name = "vehicles"
driver = "jt808"
link = "tcp-listen://127.0.0.1:{port}"
"""
IN_TIME_S = 30.0


def enrolled() -> list[Device]:
    return [Device(phone, "yangsi", f"{n} 号车") for n, phone in enumerate(PHONES, 1)]


@pytest.mark.full
async def test_the_fleets_scenario_is_at_110(tmp_path: Path) -> None:
    record = tmp_path / "centre.jsonl"
    [port] = free_ports(1)
    async with (
        PoliceCentre(record=record) as centre,
        town(tmp_path, *enrolled(), centre=centre, receiver=LINE.format(port=port)) as place,
    ):
        await place.line_is_up("vehicles")

        code, output, complaints = await play(
            SCENARIO, "--seconds", "10", "--record", record, f"--set=vehicles=127.0.0.1:{port}"
        )
        assert (code, output, complaints) == (0, "raised 7, acknowledged 7\n", "")
        assert sum(row.code == "120" for row in place.accepted()) == 2
        place.assert_unhurt()


async def test_an_sos_in_a_killed_gateway_is_one_event_at_110(tmp_path: Path) -> None:
    """The terminal shows the code of before at the new process, and repeats what had no answer."""
    [port] = free_ports(1)
    async with town(tmp_path, *enrolled(), receiver=LINE.format(port=port)) as place:
        await place.line_is_up("vehicles")
        terminal = jt808.make(Spec(PHONES[0], f"tcp://127.0.0.1:{port}", {"report_s": 1, "repeat_s": 0.5}), place.world)
        place.tasks.start(terminal.run(), name=PHONES[0])
        await until(lambda: terminal.answered > 0, within_s=IN_TIME_S, what="a report is answered")

        await terminal.do("panic")
        await place.box.kill()
        await place.box.start()
        await until(lambda: place.world.ledger.acknowledged_count == 1, within_s=IN_TIME_S, what="the SOS is answered")
        answered = terminal.answered
        await until(lambda: terminal.answered > answered + 2, within_s=IN_TIME_S, what="it reports on")
        await place.centre.wait_for(lambda _: any(row.code == "120" for row in place.accepted()), timeout_s=IN_TIME_S)

        panics = [row for row in place.accepted() if row.code == "120"]
        assert [(row.account, row.zone, row.qualifier) for row in panics] == [("A101", "000", 1)]
        assert not [row for row in place.accepted() if row.code == "145"], f"{Kind.SECURITY}: it had to register anew"
        place.assert_unhurt()
