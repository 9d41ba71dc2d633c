"""A fleet on a real gateway process: what its terminals raise is at 110, once, whatever happens to line and gateway meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

import simulators
from gateway.kinds import Kind
from gateway.model import Device, FenceRule, Geofence, Vehicle, VehicleKind
from gateway.rules.vehicles import FIXES_MIN, USUAL
from simulators import jt808
from simulators._world import Spec
from simulators.jt808.wire import Fix, Word, batch, framed, heard
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


# -- what the rule of vehicles makes of a terminal's words -----------------------------------------------------------------

VAN = "13900000009"
HOME = (37.5, 121.4)
TOWN = Geofence("town", 7, "城区", FenceRule.STAY_IN, (HOME,), 1000)
METRES_PER_DEGREE = 111_195
SOS_AND_NO_SUPPLY = 0x101


@dataclass
class Van:
    """A terminal of 2013 whose every word is ours: a fix a second by its own time, sent as fast as it is answered."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    at: float
    serial: int = 0

    async def say(self, message: int, body: bytes) -> Word:
        """Returns the answer: by then it is on disk."""
        self.serial += 1
        self.writer.write(framed(message, VAN, self.serial, body, year=2013))
        buffer = bytearray()
        async with asyncio.timeout(IN_TIME_S):
            while True:
                buffer += await self.reader.read(4096)
                for word in heard(buffer, year=2013):
                    if word.body[:2] == self.serial.to_bytes(2, "big"):
                        return word

    async def present_itself(self) -> None:
        plate = "沪A12345".encode("gbk")
        given = await self.say(0x0100, b"\x00\x1f\x00\x73" + b"SIM".ljust(32, b"\0") + b"\x01" + plate)
        assert given.body[2] == 0
        assert (await self.say(0x0102, given.body[3:])).body[4] == 0

    def fix(self, metres: float, kmh: float, *, ignition: bool, locked: bool = False, bits: int = 0) -> bytes:
        self.at += 1
        spot = HOME[0] + metres / METRES_PER_DEGREE, HOME[1]
        return Fix(self.at, *spot, kmh, 0, 0, ignition, bits, locked).report()

    async def is_parked(self, metres: float, count: int = 1) -> None:
        for _ in range(count):
            await self.say(0x0200, self.fix(metres, 5, ignition=False, locked=True))

    async def drives(self, metres: float, kmh: float, count: int = 1, bits: int = 0) -> None:
        for _ in range(count):
            await self.say(0x0200, self.fix(metres, kmh, ignition=True, bits=bits))


@pytest.mark.full  # overspeed must last 10 s
async def test_what_a_terminal_reports_becomes_theft_border_and_speed_and_its_history_nothing(tmp_path: Path) -> None:
    [port] = free_ports(1)
    things = (
        Device(VAN, "yangsi", "押运 9"),
        TOWN,
        Vehicle(VAN, VehicleKind.CASH_TRANSPORT, on_duty=True, geofences=("town",)),
    )
    async with town(tmp_path, *things, receiver=LINE.format(port=port)) as place:
        await place.line_is_up("vehicles")

        def at_110(code: str) -> list[tuple[str, int]]:
            return [(row.zone, row.qualifier) for row in place.accepted() if row.code == code]

        async def arrives(code: str, *said: tuple[str, int]) -> None:
            await place.centre.wait_for(lambda _: len(at_110(code)) >= len(said), timeout_s=IN_TIME_S)
            assert at_110(code) == list(said)

        clock = place.world.clock
        van = Van(*await asyncio.open_connection("127.0.0.1", port), at=clock.now() - 60)
        await van.present_itself()

        # Towed away while parked and locked, until somebody has the key.
        await van.is_parked(0)
        await van.is_parked(200, FIXES_MIN)
        await arrives("750", ("000", 1))
        await van.drives(200, 30)
        await arrives("750", ("000", 1), ("000", 3))

        # What was made up after a gap is history, however far and fast; so is one reflection, though SOS and supply cut come with it.
        gap = [van.fix(5000, 150, ignition=False, locked=True) for _ in range(2 * FIXES_MIN)]
        assert (await van.say(0x0704, batch(gap))).body[4] == 0
        assert place.box.metric("fangkong_events_total", kind="geofence") == 0
        await van.drives(0, 30)
        await van.drives(5000, 30, bits=SOS_AND_NO_SUPPLY)
        assert place.box.metric("fangkong_events_total", kind="geofence") == 0
        await van.drives(0, 30)
        await arrives("120", ("000", 1))
        await arrives("337", ("008", 1), ("008", 3))

        # Out of its area in haste, and back.
        hurry = clock.monotonic()
        await van.drives(1100, 95, FIXES_MIN)
        await arrives("751", ("007", 1))
        await van.drives(900, 95, FIXES_MIN)
        await arrives("751", ("007", 1), ("007", 3))
        assert place.box.metric("fangkong_events_total", kind="overspeed") == 0
        await until(
            lambda: clock.monotonic() - hurry > USUAL[VehicleKind.CASH_TRANSPORT].over_s, within_s=20, what="10 s pass"
        )
        await van.drives(900, 95)
        assert place.box.metric("fangkong_events_total", kind="overspeed") == 1
        await van.drives(900, 60)
        assert place.box.metric("fangkong_events_total", kind="overspeed") == 2

        assert (at_110("750"), at_110("754")) == ([("000", 1), ("000", 3)], [])
        van.writer.close()
        place.assert_unhurt()
