"""Lines that break: serial, bus, broker and 110; and devices that fall silent."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

import pytest

from gateway.kinds import FACTS, Kind, Lane
from gateway.model import Device
from simulators.faults import Faults, TcpProxy
from simulators.police_centre import PoliceCentre
from tests.conftest import tool
from tests.stories.box import until
from tests.stories.town import RESTORE, Town, town

IN_TIME_S = 3.0
"""An alarm is at 110 within this time when its own road is free."""
FIRST_WITHIN_S = 10.0
"""From switching a device on to its first alarm at 110."""
BACK_WITHIN_S = 20.0
"""A line that is back is found and used again within this time."""
BROKER_BACK_WITHIN_S = 45.0
"""The broker and its clients are back within seconds; a device whose repeats met amqtt's worst moment needs two more."""
LANE_OF = {facts.contact_id: facts.lane for facts in FACTS.values() if facts.contact_id}


@pytest.mark.driver_story("rf_serial", "unplug")
async def test_a_serial_adapter_that_comes_back_under_another_name_is_used_again(tmp_path: Path) -> None:
    async with town(tmp_path, ports="ttyUSB*") as place:
        adapter = tmp_path / "adapter"
        radio = await place.radio(adapter)
        (tmp_path / "ttyUSB0").symlink_to(adapter.readlink())
        await radio.do("burglary", zone=1)
        await place.at_110(radio.device(1), Kind.BURGLARY, within_s=BACK_WITHIN_S)

        (tmp_path / "ttyUSB0").unlink()
        await radio.do("unplug")
        await radio.do("burglary", zone=2)
        await until(
            lambda: place.box.metric("fangkong_connection_up", connection="radio") == 0,
            within_s=IN_TIME_S,
            what="the line is seen to be gone",
        )
        await radio.do("replug")
        (tmp_path / "ttyUSB1").symlink_to(adapter.readlink())

        await place.at_110(radio.device(2), Kind.BURGLARY, within_s=BACK_WITHIN_S)
        assert place.audit().duplicates == 0
        place.assert_unhurt()


@pytest.mark.driver_story("modbus_points", "silence")
async def test_a_dead_unit_on_the_bus_does_not_delay_its_neighbours_alarm(tmp_path: Path) -> None:
    async with town(tmp_path) as place:
        dead, *neighbours = await place.fences()
        await neighbours[0].do("perimeter", zone=1)
        await place.at_110("fence-2", Kind.PERIMETER, zone=1, within_s=FIRST_WITHIN_S)

        await dead.do("silent")
        for number, neighbour in enumerate(neighbours, 2):
            await neighbour.do("perimeter", zone=number)
            await place.at_110(f"fence-{number}", Kind.PERIMETER, zone=number, within_s=IN_TIME_S)

        await place.centre.wait_for(
            lambda _: any(row.code == "350" and "1 号周界主机" in (row.text or "") for row in place.accepted()),
            timeout_s=BACK_WITHIN_S,
        )  # its death is an event of its own
        place.assert_unhurt()


def children(pid: int) -> list[int]:
    """proc(5); the kernel's own list."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def broker_of(place: Town) -> int:
    """The process of the broker that this gateway runs, behind the one that holds its leash."""
    assert place.box.process is not None
    [leash] = children(place.box.process.pid)
    [broker] = children(leash)
    return broker


@pytest.mark.driver_story("alarm_json", "unplug")
@pytest.mark.row("D1")
@pytest.mark.parametrize("broker", ["amqtt", pytest.param("mosquitto", marks=pytest.mark.full)])
async def test_a_killed_broker_comes_back_and_nothing_acknowledged_is_lost(
    tmp_path: Path, broker: Literal["amqtt", "mosquitto"]
) -> None:
    if broker == "mosquitto":
        tool("mosquitto")
    async with town(tmp_path, broker=broker) as place:
        # Three only: amqtt loses its way, for a keep-alive interval, when many clients come back in the same moment.
        alarms = [place.alarm(f"a{n:03}") for n in range(1, 4)]
        for alarm in alarms:
            await alarm.do("burglary")
        await until(lambda: place.audit().delivered > 0, within_s=FIRST_WITHIN_S, what="the first alarm is at 110")

        victim = broker_of(place)
        assert broker in Path(f"/proc/{victim}/cmdline").read_text(encoding="utf-8")
        os.kill(victim, signal.SIGKILL)
        for alarm in alarms:
            await alarm.do("panic")
            await alarm.do("burglary", restore=True)

        await until(
            lambda: place.world.ledger.acknowledged_count == place.world.ledger.raised_count == 3 * len(alarms),
            within_s=BROKER_BACK_WITHIN_S,
            what="every event is acknowledged",
        )
        await until(lambda: place.audit().delivered == 2 * len(alarms), within_s=IN_TIME_S, what="all are at 110")
        audit = place.audit()
        assert (audit.lost, audit.duplicates) == (0, 0)
        # The broker's fault is none of its devices: their wills, which it sends when it is back, are no outage of theirs.
        assert sum(place.count_at_110(f"a{n:03}", None, Kind.COMM_FAULT) for n in range(1, 4)) == 0
        place.assert_unhurt()


async def test_after_an_outage_of_110_life_goes_first_and_a_new_panic_overtakes_the_backlog(tmp_path: Path) -> None:
    kinds = (Kind.BURGLARY, Kind.TAMPER, Kind.RF_BATT_LOW, Kind.WATER, Kind.INTERIOR, Kind.PANIC)
    async with town(tmp_path) as place:
        alarms = [place.alarm(f"a{n:03}") for n in range(1, 21)]  # one site, so one account: its order is strict
        await place.centre.off()
        for kind in kinds:
            for alarm in alarms:
                await alarm.do(kind)
        await until(
            lambda: place.world.ledger.acknowledged_count == len(kinds) * len(alarms),
            within_s=BACK_WITHIN_S,
            what="everything is stored while 110 is away",
        )

        place.centre.misbehave("late", seconds=0.03)
        await place.centre.on()
        await place.centre.wait_for(lambda _: len(place.accepted()) >= len(alarms) + 10, timeout_s=BACK_WITHIN_S)
        sent_before = len(place.accepted())
        await alarms[0].do("panic")
        await place.at_110("a001", Kind.PANIC, count=2, within_s=IN_TIME_S)
        waiting = len(kinds) * len(alarms) + 1 - len(place.accepted())
        place.centre.behave()
        await place.centre.wait_for(
            lambda _: len(place.accepted()) == len(kinds) * len(alarms) + 1, timeout_s=BACK_WITHIN_S
        )

        lanes = [LANE_OF[row.code] for row in place.accepted() if row.code is not None]
        first, rest = lanes[: len(alarms)], lanes[sent_before:]
        assert first.count(Lane.LIFE) >= len(alarms) - 2  # a waiting fault has one place in twenty
        assert waiting > 30
        assert rest.index(Lane.LIFE) < 20
        faults = [place_in_row for place_in_row, lane in enumerate(lanes) if lane is Lane.FAULT]
        alarms_end = max(place_in_row for place_in_row, lane in enumerate(lanes) if lane is Lane.ALARM)
        assert sum(at < alarms_end for at in faults) <= alarms_end / 20 + 1
        assert place.audit().duplicates == 0
        place.assert_unhurt()


@pytest.mark.row("F4")
async def test_a_half_open_line_to_110_is_noticed_and_what_was_on_it_is_sent_again_under_the_same_key(
    tmp_path: Path,
) -> None:
    async with (
        PoliceCentre() as centre,
        TcpProxy(connect=f"127.0.0.1:{centre.port}") as line,
        town(tmp_path, centre=centre, port=line.port, receiver="answer_within_s = 1\n") as place,
    ):
        alarm = place.alarm("a001")
        await alarm.do("burglary")
        await place.at_110("a001", Kind.BURGLARY, within_s=FIRST_WITHIN_S)

        line.freeze()
        await alarm.do("panic")
        await until(
            lambda: place.box.metric("fangkong_destination_up") == 0, within_s=IN_TIME_S, what="the silence is noticed"
        )
        assert place.box.metric("fangkong_outbox_pending", lane="life") == 1
        line.thaw()

        await place.at_110("a001", Kind.PANIC, within_s=BACK_WITHIN_S)
        await centre.wait_for(lambda _: centre.audit.wire_repeats > 0, timeout_s=BACK_WITHIN_S)
        assert place.box.metric("fangkong_resent_total") >= 1
        assert len({row.key for row in centre.received if row.code == "120"}) == 1
        assert centre.audit.new_key_duplicates == 0
        place.assert_unhurt()


@pytest.mark.row("F3")
async def test_a_line_to_110_that_drops_and_flips_bits_loses_and_doubles_nothing(tmp_path: Path) -> None:
    bad = Faults(drop=0.05, flip_bit=0.1, cut_write=0.2, lose_answer=0.1, jitter_s=0.01)
    rounds = 4
    async with (
        PoliceCentre() as centre,
        TcpProxy(connect=f"127.0.0.1:{centre.port}", seed=110) as line,
        town(tmp_path, centre=centre, port=line.port, receiver="answer_within_s = 1\n") as place,
    ):
        alarms = [place.alarm(f"a{n:03}") for n in (1, 2, 29, 30, 35, 36)]  # three accounts
        line.faults = bad
        for count in range(1, rounds + 1):
            for alarm in alarms:
                await alarm.do("panic")
                await alarm.do("tamper", restore=count % 2 == 0)
            await until(
                lambda count=count: place.audit().delivered >= count * len(alarms) // 2,
                within_s=BACK_WITHIN_S,
                what="something gets through",
            )
        line.faults = Faults()

        await until(
            lambda: place.audit().delivered == len(alarms) * rounds * 3 // 2 and place.audit().lost == 0,
            within_s=BACK_WITHIN_S,
            what="everything is at 110",
        )
        assert place.audit().duplicates == 0
        assert centre.audit.new_key_duplicates == centre.audit.reused_keys == 0
        assert centre.audit.wire_repeats > 0
        place.assert_unhurt()


@pytest.mark.driver_story("alarm_json", "silence")
async def test_a_device_that_falls_silent_is_an_event_at_110_and_so_is_its_return(tmp_path: Path) -> None:
    async with town(tmp_path, Device("a001", "yangsi", "1 号无线报警器", 2.0)) as place:
        alarm = place.alarm("a001", heartbeat_s=0.5)
        await alarm.do("burglary")
        await place.at_110("a001", Kind.BURGLARY, within_s=FIRST_WITHIN_S)
        already = place.count_at_110("a001", None, Kind.SILENT)

        await alarm.do("silent")
        await place.at_110("a001", Kind.SILENT, count=already + 1, within_s=2.0 + IN_TIME_S)
        assert place.count_at_110("a001", None, Kind.SILENT, RESTORE) == already

        await alarm.do("back")
        await place.at_110("a001", Kind.SILENT, qualifier=RESTORE, count=already + 1, within_s=BACK_WITHIN_S)
        place.assert_unhurt()
