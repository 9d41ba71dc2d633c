"""Commands over HTTP: who may ask for what, and how each wish is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import audit
from gateway.access import GRANTS, Actor, Permission, Role
from gateway.acts import Act, CommandState
from gateway.api.commands import command_routes
from gateway.api.permits import BOX
from gateway.api.problems import install
from gateway.commands import OPEN_PER_DEVICE, PERMISSIONS
from gateway.driver import Context
from gateway.model import Device, Site
from tests.gateway.api_box import Box, closed_box

WISH = {"id": "c1", "device": "door-1", "act": "open", "seconds": 5, "reason": "visitor at the gate"}


class As:
    """Who asks, in place of whatever recognises people."""

    def __init__(self, app: ASGIApp, actor: Actor) -> None:
        self.app, self.actor = app, actor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": {"actor": self.actor}}, receive, send)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with closed_box(tmp_path) as box:
        module = ModuleType("drivers.testing")
        module.obeys = lambda device, context: frozenset(Act)  # type: ignore[attr-defined]  # what a driver may declare
        line = box.switchboard.line("line1", module, Context())
        await box.registry.add(
            Site("s1", "near", "A10B"), Site("s2", "far", "A10C"), Device("door-1", "s1"), Device("door-2", "s2")
        )
        for device in ("door-1", "door-2"):
            box.switchboard.heard(device, line)
        yield box


def client(
    box: Box, role: Role = Role.DUTY_OFFICER, sites: frozenset[str] | None = None, actor: Actor | None = None
) -> httpx.AsyncClient:
    app = FastAPI()
    install(app)
    app.include_router(command_routes(box.commands, box.store, box.registry))
    actor = actor or Actor(f"account:{role.value}", role, sites)
    return httpx.AsyncClient(transport=httpx.ASGITransport(As(app, actor)), base_url="http://box")


def wish(act: Act, **changes: Any) -> dict[str, Any]:
    needed = {Act.BYPASS: {"zone": 3}, Act.UNLOCK: {"until": "2099-01-01T00:00:00Z"}}.get(act, {})
    return {
        "id": f"for {act}".replace(" ", "-"),
        "device": "door-1",
        "act": act,
        "reason": "a test",
        **needed,
        **changes,
    }


def audited(folder: Path) -> list[tuple[str, str]]:
    """Who asked for what, newest first."""
    return [(row.actor, row.subject) for row in audit.rows(folder / audit.FILE) if row.deed == audit.Deed.COMMAND]


async def test_every_role_may_do_exactly_what_it_grants(box: Box) -> None:
    """Deny by default: written out, so that a new act or role must be thought about."""
    operate, service = {"open", "lock", "unlock", "siren", "arm", "disarm"}, {"bypass", "self-test", "locate"}
    may = {
        "duty_officer": operate | service,
        "maintenance": service,
        "test_engineer": operate | service,
        "auditor": set(),
        "administrator": operate | service,
    }
    found = {}
    for role in Role:
        async with client(box, role) as asking:
            answers = {act: await asking.post("/commands", json=wish(act)) for act in Act}
        found[role.value] = {act.value for act, answer in answers.items() if answer.status_code != 403}

    assert found == may
    assert set(PERMISSIONS) == set(Act)
    assert set(GRANTS) == set(Role)
    assert Permission.WATCH not in PERMISSIONS.values()


async def test_the_command_line_says_which_person_it_works_for_and_nobody_else_can(box: Box, tmp_path: Path) -> None:
    for actor, number in ((BOX, 1), (Actor("account:li", Role.ADMINISTRATOR), 2)):
        async with client(box, actor=actor) as asking:
            given = await asking.post("/commands", json={**WISH, "id": f"c{number}", "who": "zhao"})
        assert given.status_code == 202
    assert [actor for actor, _ in audited(tmp_path)] == ["account:li", "os:zhao"]


async def test_a_wish_is_on_disk_and_audited_when_it_is_answered(box: Box, tmp_path: Path) -> None:
    async with client(box) as asking:
        answer = await asking.post("/commands", json=WISH)
        again = await asking.post("/commands", json=WISH)
        one = await asking.get("/commands/c1")

    assert (answer.status_code, again.status_code, one.status_code) == (202, 200, 200)
    assert answer.json() == again.json() == one.json()
    expected = {
        **WISH,
        "site": "s1",
        "state": "created",
        "issuer": "account:duty_officer",
        "valid_s": 10.0,
        "until": None,
    }
    assert expected.items() <= answer.json().items()
    assert audited(tmp_path) == [("account:duty_officer", "door-1")]
    kept = await box.store.command("c1")
    assert kept is not None
    assert kept.state is CommandState.CREATED


async def test_another_sites_doors_are_not_there(box: Box, tmp_path: Path) -> None:
    async with client(box) as everywhere:
        await everywhere.post("/commands", json={**WISH, "id": "far", "device": "door-2"})
    async with client(box, sites=frozenset({"s1"})) as asking:
        far = await asking.post("/commands", json={**WISH, "device": "door-2"})
        nowhere = await asking.post("/commands", json={**WISH, "device": "door-9"})
        near = await asking.post("/commands", json=WISH)
        shown = await asking.get("/commands/far")
        listed = await asking.get("/commands")

    assert (far.status_code, nowhere.status_code, near.status_code, shown.status_code) == (404, 404, 202, 404)
    assert [item["id"] for item in listed.json()["items"]] == ["c1"]
    assert audited(tmp_path) == [("account:duty_officer", "door-1"), ("account:duty_officer", "door-2")]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"reason": None}, 422, "reason"),
        ({"reason": ""}, 422, "reason"),
        ({"reason": "a\nb"}, 422, "printable"),
        ({"id": "a b"}, 422, "id"),
        ({"id": "x" * 65}, 422, "id"),
        ({"act": "explode"}, 422, "act"),
        ({"until": "2026-03-01T00:00:00"}, 422, "until"),
        ({"valid_s": "NaN"}, 422, "valid_s"),
        ({"more": 1}, 422, "more"),
        ({"seconds": 61}, 409, "expected 1 to 60"),
        ({"act": "bypass", "seconds": None}, 409, "zone is missing"),
    ],
)
async def test_a_wrong_wish_is_told_what_was_expected(
    box: Box, tmp_path: Path, change: dict[str, Any], status: int, says: str
) -> None:
    async with client(box) as asking:
        answer = await asking.post("/commands", json={**WISH, **change})

    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert not audited(tmp_path)


async def test_an_id_of_another_command_is_a_conflict(box: Box) -> None:
    async with client(box) as asking:
        await asking.post("/commands", json=WISH)
        answer = await asking.post("/commands", json={**WISH, "seconds": 6})

    assert answer.status_code == 409
    assert "the id c1 is another command's" in answer.json()["detail"]


async def test_too_many_at_once_are_told_to_come_back(box: Box) -> None:
    async with client(box) as asking:
        answers = [await asking.post("/commands", json={**WISH, "id": f"c{n}"}) for n in range(OPEN_PER_DEVICE + 1)]

    assert [answer.status_code for answer in answers] == [202] * OPEN_PER_DEVICE + [503]
    assert answers[-1].headers["retry-after"]


async def test_pages_of_commands(box: Box) -> None:
    async with client(box) as asking:
        for number in range(3):
            await asking.post("/commands", json={**WISH, "id": f"c{number}"})
        first = (await asking.get("/commands", params={"limit": 2})).json()
        rest = (await asking.get("/commands", params={"limit": 2, "after": first["next"]})).json()
        none = (await asking.get("/commands", params={"state": "executed", "device": "door-1"})).json()

    assert [item["id"] for page in (first, rest) for item in page["items"]] == ["c2", "c1", "c0"]
    assert (rest["next"], none["items"]) == (None, [])
