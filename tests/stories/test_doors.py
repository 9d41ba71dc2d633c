"""A door on a Modbus board, from its contact to 110: opened by order, forced, and left open."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest

from gateway.model import Device, Point
from simulators import modbus_points
from simulators._world import Spec
from tests.stories.box import free_ports, until
from tests.stories.town import RESTORE, Town, town

IN_TIME_S = 30.0
HELD_OPEN_S = 2
ZONE = 960
SITE = """
[[connection]]
name = "doors"
driver = "modbus_points"
link = "modbus+tcp://127.0.0.1:{port}?timeout_ms=1000"
[connection.settings]
units = [{{ unit = 1, device = "board", profile = "door_io4", every_s = 0.1 }}]

[[door]]
name = "archive"
contact = {{ device = "board", zone = 11 }}
lock = {{ device = "board", zone = 13 }}
held_open_s = {held}
"""
LEDGER = [Device("board", "yangsi", "门禁板"), Point("p-archive", "yangsi", ZONE, "档案室门", "board", 11)]


def at_110(place: Town, code: str, qualifier: int = 1) -> int:
    """How many such events of the door the centre took."""
    return sum((row.code, row.zone, row.qualifier) == (code, f"{ZONE}", qualifier) for row in place.accepted())


def open_by_order(place: Town) -> None:
    """What an officer's screen sends."""
    body = {"id": "visit-1", "device": "board", "act": "open", "zone": 13, "seconds": 1, "reason": "visitor"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{place.box.api}/api/v1/commands",
        data=json.dumps(body).encode(),
        headers={"Authorization": "Bearer for-this-test-only", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


@pytest.mark.full
async def test_a_door_is_opened_by_order_then_forced_then_left_open(tmp_path: Path) -> None:
    [port] = free_ports(1)
    async with town(tmp_path, *LEDGER, receiver=SITE.format(port=port, held=HELD_OPEN_S)) as place:
        board = modbus_points.make(Spec("board", f"modbus+tcp://127.0.0.1:{port}", {"model": "door_io4"}), place.world)
        place.tasks.start(board.run(), name="board")
        await place.line_is_up("doors")

        await asyncio.to_thread(open_by_order, place)
        await until(lambda: (0, 1) in board.memory.switched, within_s=IN_TIME_S, what="the lock has released")
        await board.do("door_open", zone=11)
        await place.centre.wait_for(lambda _: at_110(place, "426") == 1, timeout_s=IN_TIME_S)
        await board.do("door_open", zone=11, restore=True)
        await place.centre.wait_for(lambda _: at_110(place, "426", RESTORE) == 1, timeout_s=IN_TIME_S)
        assert at_110(place, "423") == 0, "it was opened by order, and only left open"

        pause_s = 10.0  # what the order explained is over: 8 s, and 2 s for a lock that closed
        await place.world.clock.sleep(pause_s)
        await board.do("door_open", zone=11)
        await place.centre.wait_for(lambda _: at_110(place, "423") == 1, timeout_s=IN_TIME_S)
        await board.do("door_open", zone=11, restore=True)
        await place.centre.wait_for(lambda _: at_110(place, "423", RESTORE) == 1, timeout_s=IN_TIME_S)
        assert at_110(place, "426") == 1
        place.assert_unhurt()
