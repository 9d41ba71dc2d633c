"""Vehicles over HTTP: shown a page at a time, put on and off duty."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.model import Device, FenceRule, Geofence, Site, Vehicle, VehicleKind
from tests.gateway.api_box import Box, closed_box

FENCES = [Geofence(f"f{n}", n, f"围栏{n}", FenceRule.STAY_IN, ((37.5, 121.4),), 100) for n in (2, 1)]
VAN = Vehicle("van-7", VehicleKind.CASH_TRANSPORT, limit_kmh=70, geofences=("f1", "f2"))
CAB = Vehicle("cab-1", VehicleKind.TAXI, on_duty=True)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with closed_box(tmp_path) as parts:
        devices = [Device("van-7", "s1", "押运 7"), Device("cab-1", "s1")]
        await parts.registry.add(Site("s1", "押运公司", "A10B"), *devices, *FENCES, VAN, CAB)
        async with parts.open():
            yield parts


async def test_vehicles_and_geofences_are_shown_a_page_at_a_time(box: Box) -> None:
    first = (await box.get("/api/v1/vehicles", limit=1)).json()
    rest = (await box.get("/api/v1/vehicles", after=first["next"])).json()

    assert ([v["id"] for v in first["items"]], rest["next"]) == (["cab-1"], None)
    assert rest["items"] == [
        {
            "id": "van-7", "name": "押运 7", "site": "s1", "kind": "cash_transport", "on_duty": False, "limit_kmh": 70.0,
            "geofences": ["f1", "f2"],
        }
    ]  # fmt: skip
    assert [v["id"] for v in (await box.get("/api/v1/vehicles", on_duty=True)).json()["items"]] == ["cab-1"]
    fences = (await box.get("/api/v1/geofences", limit=1)).json()
    assert (fences["items"][0]["number"], fences["items"][0]["corners"], fences["next"]) == (1, [[37.5, 121.4]], 1)


async def test_duty_is_switched_in_the_ledger(box: Box) -> None:
    answer = await box.client.post("/api/v1/vehicles/van-7/duty", json={"on_duty": True})

    assert (answer.status_code, answer.json()["on_duty"]) == (200, True)
    found = box.registry.vehicle("van-7")
    assert found is not None
    assert found.on_duty
    assert found.geofences == ("f1", "f2")
    assert (await box.client.post("/api/v1/vehicles/van-7/duty", json={"on_duty": False})).json()["on_duty"] is False


@pytest.mark.parametrize(
    ("vehicle", "wish", "status"),
    [("van-8", {"on_duty": True}, 404), ("van-7", {"duty": True}, 422), ("van-7", {"on_duty": "perhaps"}, 422)],
)
async def test_what_cannot_be_is_refused(box: Box, vehicle: str, wish: dict[str, object], status: int) -> None:
    answer = await box.client.post(f"/api/v1/vehicles/{vehicle}/duty", json=wish)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
