"""Who may ask for what: every route, every role, with sites and without, against the one table of this file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from gateway.access import GATEWAY, Role
from gateway.acts import Act, Command, CommandRecord
from gateway.api.permits import OPEN, declared_router
from gateway.model import Device, Point, Site, Vehicle, VehicleKind
from gateway.store import EventFilter
from tests.gateway.api_box import AT, PLACE, TOKEN, UNCLAIMED, Box, closed_box, event

D, M, T, A, X = Role.DUTY_OFFICER, Role.MAINTENANCE, Role.TEST_ENGINEER, Role.AUDITOR, Role.ADMINISTRATOR
ALL = frozenset(Role)
Reach = Literal["open", "sites", "box", "self"]
"""open: strangers too; sites: each sees theirs; box: only who sees all sites; self: about the caller alone."""

TABLE: dict[str, tuple[frozenset[Role], Reach]] = {
    "GET /healthz": (ALL, "open"),
    "GET /readyz": (ALL, "open"),
    "GET /metrics": (ALL, "open"),
    "GET /": (ALL, "open"),
    "GET /page.js": (ALL, "open"),
    "GET /common.js": (ALL, "open"),
    "GET /coverage.js": (ALL, "open"),
    "GET /words.json": (ALL, "open"),
    "GET /page.css": (ALL, "open"),
    "GET /language": (ALL, "open"),
    "POST /api/v1/session": (ALL, "open"),
    "POST /api/v1/password": (ALL, "open"),
    "GET /api/v1/session": (ALL, "self"),
    "DELETE /api/v1/session": (ALL, "self"),
    "GET /openapi.json": (ALL, "self"),
    "GET /api/v1/events": (ALL, "sites"),
    "GET /api/v1/events/{event_id}": (ALL, "sites"),
    "GET /api/v1/stream": (ALL, "sites"),
    "GET /api/v1/devices": (ALL, "sites"),
    "GET /api/v1/sites": (ALL, "sites"),
    "GET /api/v1/points": (ALL, "sites"),
    "GET /api/v1/vehicles": (ALL, "sites"),
    "GET /api/v1/geofences": (ALL, "box"),
    "POST /api/v1/vehicles/{vehicle_id}/duty": (frozenset({D, T, X}), "sites"),
    "GET /api/v1/destinations": (frozenset({D, M, A, X}), "box"),
    "GET /api/v1/deliveries": (frozenset({D, M, A, X}), "box"),
    "GET /api/v1/rejected": (frozenset({D, M, A, X}), "box"),
    "POST /api/v1/deliveries/requeue": (frozenset({M, X}), "box"),
    "POST /api/v1/deliveries/resend": (frozenset({M, X}), "box"),
    "GET /metrics/devices": (frozenset({M, X}), "box"),
    "POST /api/v1/config/reload": (frozenset({X}), "box"),
    "GET /api/v1/commands": (ALL, "sites"),
    "GET /api/v1/commands/{command_id}": (ALL, "sites"),
    # Whose device it is, and what each act needs beyond this: tests/gateway/test_api_commands.py.
    "POST /api/v1/commands": (frozenset({D, M, T, X}), "self"),
    # On whose line they may listen: tests/gateway/test_recordings.py.
    "POST /api/v1/connections/{name}/capture": (frozenset({M, T, X}), "self"),
    # On whose site: tests/gateway/test_commissioning_api.py.
    "GET /api/v1/sites/{site}/walk-test": (ALL, "self"),
    "POST /api/v1/sites/{site}/walk-test": (frozenset({D, M, T, X}), "self"),
    "POST /api/v1/sites/{site}/walk-test/end": (frozenset({D, M, T, X}), "self"),
    "POST /api/v1/sites/{site}/walk-test/accept": (frozenset({D, M, T, X}), "self"),
    "GET /api/v1/sites/{site}/acceptances/{sha256}": (ALL, "self"),
    "GET /api/v1/triggered": (frozenset({D, M, X}), "box"),
    "POST /api/v1/points/{point}/claim": (frozenset({D, M, X}), "box"),
    "GET /api/v1/audit": (frozenset({A, X}), "box"),
    # Of whose sites the figures are: tests/gateway/test_api_coverage.py.
    "GET /api/v1/coverage": (ALL, "self"),
    "GET /api/v1/lists/{name}": (ALL, "self"),
    "GET /api/v1/coverage/points": (ALL, "self"),
    "GET /api/v1/coverage/gaps": (ALL, "self"),
    "GET /api/v1/deficiencies": (ALL, "self"),
    "GET /api/v1/deficiencies/{ticket:path}": (ALL, "self"),
    "POST /api/v1/deficiencies/told/{ticket:path}": (frozenset({D, M, T, X}), "self"),
    "POST /api/v1/deficiencies/rectified/{ticket:path}": (frozenset({D, M, T, X}), "self"),
    "GET /api/v1/areas": (ALL, "box"),
    "GET /api/v1/ledger": (ALL, "box"),
}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """Two sites with a device, a point and an event each, and a stranger's event between."""
    async with closed_box(tmp_path) as parts:
        for site, account in (("s1", "A10B"), ("s2", "A10C")):
            device = f"device-of-{site}"
            await parts.registry.add(
                Site(site, site, account), Device(device, site), Point(f"p-{site}", site, 1, "门", device),
                Vehicle(device, VehicleKind.TAXI),
            )  # fmt: skip
            parts.health.known.append(replace(UNCLAIMED, device=device, state="heard"))
            command = Command(f"for-{account}", device, Act.LOCK, valid_s=10)
            await parts.store.add_command(CommandRecord(command, "account:li", "closing time", site, AT))
        parts.health.known.append(UNCLAIMED)
        for site in ("s1", None, "s2"):
            place = replace(PLACE, site=site, site_name=f"place of {site}") if site else None
            await parts.keep(event(device=f"device-of-{site}", place=place))
        async with parts.open():
            yield parts


def routes(router: Any, prefix: str = "") -> Iterator[tuple[str, APIRoute]]:
    """Every route of the application, whatever it was included with."""
    for each in router.routes:
        if isinstance(each, APIRoute):
            for method in each.methods:
                yield f"{method} {prefix}{each.path}", each
        else:  # a router in a router; any other thing that answers would fail here
            yield from routes(each.original_router, prefix + each.include_context.prefix)


def test_the_table_names_every_route_and_no_other(box: Box) -> None:
    assert {name for name, _ in routes(box.app)} == set(TABLE)
    opened = {f"{method} {path}" for method, path in OPEN}
    assert {name for name, (_, reach) in TABLE.items() if reach == "open"} == opened | {"GET /metrics"}


async def ask(client: httpx.AsyncClient, box: Box, route: str, token: str | None) -> tuple[int, str]:
    """Status and text; of the stream, the first event."""
    method, _, path = route.partition(" ")
    [seen, *_] = await box.store.events(EventFilter(), limit=1)
    path = path.replace("{event_id}", seen.id).replace("{command_id}", "for-A10B")
    path = path.replace("{vehicle_id}", "device-of-s1")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if path.endswith("/stream"):
        async with asyncio.timeout(20), client.stream(method, path, params={"after": 0}, headers=headers) as answer:
            if answer.status_code != 200:
                return answer.status_code, (await answer.aread()).decode()
            return 200, await anext(line async for line in answer.aiter_lines() if line.startswith("data: "))
    body = {"on_duty": True} if path.endswith("/duty") else None
    answer = await client.request(method, path, headers=headers, json=body)
    return answer.status_code, answer.text


@pytest.mark.parametrize("role", [None, *Role])
async def test_every_route_answers_those_of_the_table_and_nobody_else(box: Box, role: Role | None) -> None:
    tokens: dict[str, str | None] = {"nobody": None}
    if role is not None:
        tokens = {
            site: await box.accounts.add_token(GATEWAY, site, role, frozenset({site}), days=1) for site in ("s1", "s2")
        }
        if role is not Role.TEST_ENGINEER:
            tokens["all"] = await box.accounts.add_token(GATEWAY, "all", role, None, days=1)
    async with httpx.AsyncClient(base_url=str(box.client.base_url)) as client:
        for route, (roles, reach) in TABLE.items():
            for scope, token in tokens.items():
                status, text = await ask(client, box, route, token)
                where = f"{route} as {role} of {scope}: {status} {text[:200]}"
                if role is None:
                    assert (status == 401) == (reach != "open"), where
                    continue
                is_allowed = reach == "open" or (role in roles and (reach != "box" or scope == "all"))
                assert (status == 403) == (not is_allowed), where
                assert status != 401, where
                if reach == "sites" and role in roles:
                    shows_first, shown = (
                        scope != "s2",
                        text if status == 200 else "",
                    )  # an error repeats what was asked for
                    assert ("s1" in shown) == shows_first, where
                    assert ("s2" in shown and scope == "s1") is False, where
                    assert status == (200 if shows_first or "{" not in route else 404), where
                    assert (UNCLAIMED.device in shown) == (scope == "all" and "devices" in route), where
    # FastAPI calls a plain function in a thread, one for each request of the same moment: here all are coroutines.
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("AnyIO")] == []


async def test_a_filter_on_a_site_that_is_not_theirs_is_refused_and_not_empty(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "duty", D, frozenset({"s1"}), days=1)
    headers = {"authorization": f"Bearer {token}"}
    for path in ("events", "stream", "points"):
        answer = await box.client.get(f"/api/v1/{path}", params={"site": "s2"}, headers=headers)
        assert (answer.status_code, "s2" in answer.text) == (403, True)
    assert (await box.client.get("/api/v1/events", params={"site": "s1"}, headers=headers)).status_code == 200


async def test_what_is_not_there_and_what_is_no_bearer_is_refused_to_a_stranger(box: Box) -> None:
    async with httpx.AsyncClient(base_url=str(box.client.base_url)) as stranger:
        for method, path in (("GET", "/nowhere"), ("GET", "/docs"), ("PUT", "/api/v1/events"), ("POST", "/healthz")):
            assert (await stranger.request(method, path)).status_code == 401
        for wrong in (f"Basic {TOKEN}", "Bearer wrong", "Bearer", TOKEN):
            answer = await stranger.get("/api/v1/sites", headers={"authorization": wrong})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_without_a_token_in_the_site_file_its_empty_place_opens_nothing(tmp_path: Path) -> None:
    async with closed_box(tmp_path) as parts, parts.open(token=None) as box:
        for given in ("-", "None", "Secret(***)"):
            assert (
                await box.client.get("/api/v1/sites", headers={"authorization": f"Bearer {given}"})
            ).status_code == 401
        assert (await box.get("/")).status_code == 200


def test_a_route_that_does_not_say_what_it_needs_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="/forgotten: a route says what it needs"):
        declared_router().add_api_route("/forgotten", lambda: None)


async def test_a_route_that_came_in_by_another_way_answers_nobody(tmp_path: Path) -> None:
    """Not even the administrator: deny by default."""
    async with closed_box(tmp_path) as parts, parts.open() as box:
        forgotten = APIRouter()
        forgotten.add_api_route("/api/v1/forgotten", lambda: "secret")
        box.app.include_router(forgotten)

        assert (await box.get("/api/v1/forgotten")).status_code == 403
