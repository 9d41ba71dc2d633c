"""Commissioning over HTTP: on one's own site only, and refused in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.access import GATEWAY, Role
from gateway.model import Device, Point, Site
from tests.gateway.api_box import Box, closed_box, event

WISH = {"reason": "handover", "who": "li"}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with closed_box(tmp_path) as parts:
        await parts.registry.add(
            Site("s1", "阳泗小区", "A10B"), Site("s2", "s2", "A10C"), Device("d1", "s1"), Point("p1", "s1", 1, "门", "d1"),
            Point("planned", "s1", 2, "后门"),
        )  # fmt: skip
        async with parts.open():
            yield parts


async def test_a_walk_test_is_begun_looked_at_and_ended(box: Box) -> None:
    begun = await box.client.post("/api/v1/sites/s1/walk-test", json={**WISH, "points": ["p1"], "minutes": 30})
    again = await box.client.post("/api/v1/sites/s1/walk-test", json=WISH)
    refused = await box.client.post("/api/v1/sites/s1/walk-test/accept", json={})
    ended = await box.client.post("/api/v1/sites/s1/walk-test/end", json={})
    looked = await box.get("/api/v1/sites/s1/walk-test")

    assert [begun.status_code, again.status_code, refused.status_code, ended.status_code] == [201, 409, 409, 200]
    assert begun.json()["running"] is True
    assert "p1 (d1: no alarm)" in refused.json()["detail"]
    sheet = looked.json()["sheet"]
    assert (looked.json()["running"], [row["lacks"] for row in sheet["rows"]]) == (False, ["alarm"])
    assert (await box.get(f"/api/v1/sites/s1/acceptances/{sheet['sha256']}")).json() == {"recorded": False}


async def test_another_site_is_answered_as_one_that_is_not_there(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "fitter", Role.MAINTENANCE, frozenset({"s2"}), days=1)
    headers = {"authorization": f"Bearer {token}"}
    for path, body in (("", WISH), ("/end", {}), ("/accept", {})):
        answer = await box.client.post(f"/api/v1/sites/s1/walk-test{path}", json=body, headers=headers)
        assert answer.status_code == 404
    for path in ("walk-test", "acceptances/0"):
        assert (await box.client.get(f"/api/v1/sites/s1/{path}", headers=headers)).status_code == 404


async def test_a_triggered_device_is_offered_and_bound(box: Box) -> None:
    begun = (await box.get("/api/v1/triggered")).json()["now"]
    await box.keep(event(device="new-1", place=None, zone=3, received_at=box.clock.now()))
    offered = (await box.get("/api/v1/triggered", since=begun)).json()["items"]
    bound = await box.client.post("/api/v1/points/planned/claim", json={"since": begun})

    assert [one["device"] for one in offered] == ["new-1"]
    assert (bound.status_code, bound.json()["device"]) == (200, "new-1")
    assert box.registry.snapshot.points["planned"].watchers == (("new-1", 3),)
    assert (await box.get("/api/v1/triggered", since="2020-01-01T00:00:00Z")).status_code == 422
