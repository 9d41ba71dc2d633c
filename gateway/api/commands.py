"""Commands over HTTP: asked for by those whose role and sites allow it, and looked at by those who see the site."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Protocol

from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.acts import Command, CommandRecord, CommandState
from gateway.api.permits import Caller, declared_router, needs, person
from gateway.api.views import CommandView, CommandWish, Page, command_view
from gateway.commands import PERMISSIONS, Given
from gateway.errors import Busy, Refused
from gateway.model import Device
from gateway.store import Store


class Ledger(Protocol):
    """What is asked of the registry."""

    def device(self, device_id: str) -> Device | None: ...


class Commander(Protocol):
    """What is asked of `gateway.commands`."""

    def give(self, actor: Actor, command: Command, reason: str) -> Awaitable[Given]: ...
    def known(self, command_id: str) -> Awaitable[CommandRecord | None]: ...


def command_routes(commands: Commander, store: Store, registry: Ledger) -> APIRouter:
    """The routes under /commands."""
    router = declared_router(tags=["api"])

    @router.post("/commands", status_code=202)
    @needs(Permission.SERVICE)  # the least of all acts; what this one needs beyond it, is asked below
    async def give(caller: Caller, response: Response, wish: CommandWish) -> CommandView:
        """Have a device do something. 202: it is on disk and on its way; 200: the id was there before, this is how far it is."""
        device = registry.device(wish.device)
        if device is None or not caller.sees(device.site):
            raise HTTPException(404, f"there is no device {wish.device}")
        if not caller.may(PERMISSIONS[wish.act]):
            raise HTTPException(
                403, f"{caller.role.value} may not {wish.act.value}; that needs {PERMISSIONS[wish.act].value}"
            )
        try:
            given = await commands.give(person(caller, wish.who), wish.command(), wish.reason)
        except Refused as error:
            raise HTTPException(409, str(error)) from error
        except Busy as error:
            raise HTTPException(503, str(error)) from error
        response.status_code = 202 if given.is_new else 200
        return command_view(given.record)

    @router.get("/commands")
    @needs(Permission.WATCH)
    async def listed(
        caller: Caller,
        device: Annotated[str | None, Query(min_length=1, max_length=128)] = None,
        state: CommandState | None = None,
        after: Annotated[int, Query(ge=0, le=2**62, description="`next` of the page before; 0 from the newest")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="items on a page")] = 100,
    ) -> Page[CommandView]:
        """Commands, newest first."""
        states = None if state is None else {state}
        found = await store.commands(device=device, states=states, sites=caller.sites, before=after, limit=limit)
        following = found[-1].n if len(found) == limit else None
        return Page(items=[command_view(record) for record in found], next=following)

    @router.get("/commands/{command_id}")
    @needs(Permission.WATCH)
    async def one(caller: Caller, command_id: str) -> CommandView:
        """One command, as it stands."""
        found = await commands.known(command_id)
        if found is None or not caller.sees(found.site):
            raise HTTPException(404, f"there is no command {command_id[:80]}")
        return command_view(found)

    return router
