"""A lost bus and a lost panel, over real lines: one ticket at what was lost, and everything behind it unreachable via it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli.demo_community import FENCE_ZONES, things
from gateway.clock import RealClock
from gateway.coverage.facts import Fact, Sort
from gateway.kinds import Kind
from gateway.model import Device, Point
from gateway.registry import Registry
from simulators import alarm_json, modbus_points
from simulators._tasks import Tasks
from simulators._world import Spec
from tests.stories.box import LOOK_S, until
from tests.stories.town import Town, town

FENCES = ("fence-1", "fence-2")
PANEL_S, BUTTON_S = 3.0, 6.0
"""A panel is missed before what is behind it: a button that falls due first is silent on its own account until then."""
AT_ONCE = "\n[coverage.grace_h]\nsilent = 0\nfault = 0\nunreachable = 0\n"
PERIMETER = [replace(each, kind="perimeter") for each in things() if isinstance(each, Point) and each.device in FENCES]
PANIC = [
    Device("panel", "yangsi", "值班室主机", PANEL_S),
    *(Device(f"button-{n}", "yangsi", f"{n} 号按钮", BUTTON_S, parent="panel") for n in (1, 2)),
    *(Point(f"p-button-{n}", "yangsi", 950 + n, f"{n} 号按钮", f"button-{n}", kind="duty_room") for n in (1, 2)),
    Point("p-panel", "yangsi", 950, "值班室主机", "panel", kind="duty_room"),
]
ALL = (*FENCES, "panel", "button-1", "button-2")
WITHIN_S = 60.0


async def states(place: Town) -> dict[str, tuple[str, str]]:
    """The newest state of each device, and through what it cannot be heard."""
    return {
        fact.subject[0]: (fact.value["state"], fact.value["via"])
        for fact in await place.box.facts()
        if fact.sort is Sort.HEALTH and fact.value and not fact.subject[1]
    }


def tickets(place: Town) -> dict[str, int]:
    """Open deficiencies of devices, and how many points each concerns."""
    open_ = place.box.get("api/v1/deficiencies?limit=1000&site=yangsi")["items"]
    return {each["id"]: len(each["points"]) for each in open_ if each["id"].startswith("device:")}


@pytest.mark.full
async def test_what_is_behind_a_lost_bus_or_panel_is_one_ticket(tmp_path: Path) -> None:
    async with town(tmp_path, *PERIMETER, *PANIC, receiver=AT_ONCE) as place:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        watched = [each for each in (*PERIMETER, *PANIC) if isinstance(each, Point) and each.device]
        await registry.record([
            Fact(Sort.ACCEPTANCE, (each.id, device, "" if zone is None else str(zone)), {"sheet": "0" * 64, "by": "x"}, RealClock().now())
            for each in watched for device, zone in each.watchers
        ])  # fmt: skip
        await registry.close()
        connect = f"modbus+tcp://127.0.0.1:{place.box.modbus}"
        async with Tasks() as bus, Tasks() as room:
            for fence in ("fence-1", "fence-2", "fence-3", "fence-4"):
                device = modbus_points.make(Spec(fence, connect, {"model": "fence8"}), place.world)
                bus.start(device.run(), name=fence)
            for name in ("panel", "button-1", "button-2"):
                alarm = alarm_json.make(Spec(name, place.box.broker_url, {"heartbeat_s": 1}), place.world)
                room.start(alarm.run(), name=name)
            async with asyncio.timeout(WITHIN_S):
                while {(await states(place)).get(name) for name in ALL} != {("working", "")}:
                    await asyncio.sleep(LOOK_S)  # noqa: TID251  # between two looks at another process
            await until(lambda: tickets(place) == {}, within_s=WITHIN_S, what="nothing is to be done")
        # Both are switched off.
        expected = {"device:connection/perimeter:fault": 2 * FENCE_ZONES, "device:panel:silent": 3}
        await until(
            lambda: tickets(place) == expected, within_s=WITHIN_S, what="two causes", tell=lambda: str(tickets(place))
        )
        now = await states(place)
        assert {now[fence] for fence in FENCES} == {("unreachable", "connection/perimeter")}
        assert {now[f"button-{n}"] for n in (1, 2)} == {("unreachable", "panel")}
        said = place.box.get(f"api/v1/events?limit=1000&kind={Kind.SILENT.value}")["items"]
        assert {each["device"] for each in said} & {"panel", "button-1", "button-2", *FENCES} == {"panel"}
