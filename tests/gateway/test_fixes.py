"""Where a vehicle was: shown to the duty officer, of one vehicle, while its alarm is fresh, and to nobody else."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from gateway.access import GATEWAY, Role
from gateway.api.app import FIXES_AFTER_ALARM
from gateway.kinds import FACTS, Kind
from gateway.model import Event, Position, Site
from tests.gateway.api_box import PLACE, Box, closed_box, event

HERE = Position(31.230416, 121.473701)
RAW = b"$GNRMC,the place in its own words"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with closed_box(tmp_path) as parts:
        await parts.registry.add(Site(PLACE.site, PLACE.site_name, PLACE.account))
        async with parts.open():
            yield parts


def of_van(box: Box, kind: Kind, age: timedelta = timedelta()) -> Event:
    lane = FACTS[kind].lane
    at = box.clock.now() - age
    return replace(event(device="van-1"), kind=kind, lane=lane, received_at=at, position=HERE, raw=RAW)


async def ask(box: Box, path: str, role: Role = Role.DUTY_OFFICER) -> httpx.Response:
    label = f"{role.value.replace('_', '-')}-{secrets.token_hex(4)}"
    sites = frozenset({PLACE.site}) if role is Role.TEST_ENGINEER else None
    token = await box.accounts.add_token(GATEWAY, label, role, sites, days=1)
    return await box.client.get(path, headers={"authorization": f"Bearer {token}"})


async def fixes(box: Box, path: str = "/api/v1/events?device=van-1&kind=position", **who: Role) -> list[object]:
    items = (await ask(box, path, **who)).json()["items"]
    assert {bool(item["raw"]) for item in items} == {item["position"] is not None for item in items}
    assert {item["withheld"] for item in items} == {item["position"] is None for item in items}
    return [item["position"] for item in items]


@pytest.mark.parametrize("alarm", [Kind.PANIC, Kind.VEHICLE_MOVED])
async def test_the_duty_officer_sees_a_vehicle_that_raised_an_alarm(box: Box, alarm: Kind) -> None:
    fix = of_van(box, Kind.POSITION)
    await box.keep(fix, of_van(box, alarm))

    assert await fixes(box) == [{"latitude": HERE.latitude, "longitude": HERE.longitude, "speed_kmh": None}]
    assert (await ask(box, f"/api/v1/events/{fix.id}")).json()["position"] is not None


@pytest.mark.parametrize("said", [(), (Kind.OVERSPEED,), (Kind.RF_BATT_LOW,)])
async def test_without_an_alarm_nobody_is_followed(box: Box, said: tuple[Kind, ...]) -> None:
    fix = of_van(box, Kind.POSITION)
    await box.keep(fix, *(of_van(box, kind) for kind in said))

    assert await fixes(box) == [None]
    assert (await ask(box, f"/api/v1/events/{fix.id}")).json()["position"] is None


async def test_an_old_alarm_shows_nothing_any_more(box: Box) -> None:
    await box.keep(of_van(box, Kind.PANIC, FIXES_AFTER_ALARM + timedelta(seconds=1)), of_van(box, Kind.POSITION))

    assert await fixes(box) == [None]


async def test_fixes_of_all_vehicles_at_once_are_shown_to_nobody(box: Box) -> None:
    await box.keep(of_van(box, Kind.PANIC), of_van(box, Kind.POSITION))

    assert await fixes(box, "/api/v1/events?kind=position") == [None]


@pytest.mark.parametrize("role", [Role.MAINTENANCE, Role.TEST_ENGINEER, Role.AUDITOR])
async def test_other_roles_do_not_see_where_it_was_but_where_its_alarm_came_from(box: Box, role: Role) -> None:
    await box.keep(of_van(box, Kind.PANIC), of_van(box, Kind.POSITION))

    assert await fixes(box, role=role) == [None]
    assert None not in await fixes(box, "/api/v1/events?device=van-1&kind=panic", role=role)


async def test_the_live_stream_carries_no_fix(box: Box) -> None:
    await box.keep(of_van(box, Kind.PANIC), of_van(box, Kind.POSITION))
    token = await box.accounts.add_token(GATEWAY, "wall", Role.DUTY_OFFICER, None, days=1)
    path, headers = "/api/v1/stream?device=van-1&after=0", {"authorization": f"Bearer {token}"}
    async with box.client.stream("GET", path, headers=headers) as answer:
        seen = []
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            if len(seen) == 2:
                break

    assert [(one["kind"], one["position"] is None) for one in seen] == [("panic", False), ("position", True)]
