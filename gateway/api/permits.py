"""What a route needs, said beside it: a route that says nothing cannot be made, and would answer nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission, Role
from gateway.accounts import Accounts
from gateway.passwords import digest, is_same
from gateway.secret import Secret

BOX = Actor("box", Role.ADMINISTRATOR)
"""Who holds the token of the site file: it lies in a file beside the ledger, which its reader could change as well."""

OPEN = frozenset(
    {
        ("GET", "/healthz"), ("GET", "/readyz"),
        ("GET", "/"), ("GET", "/page.js"), ("GET", "/common.js"), ("GET", "/coverage.js"), ("GET", "/page.css"),
        ("GET", "/language"), ("GET", "/words.json"),
        ("POST", "/api/v1/session"), ("POST", "/api/v1/password"),
    }
)  # fmt: skip
"""All that answers a stranger: probes, a page that holds nothing by itself, and the way in."""

EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Permit:
    """What a route needs."""

    permission: Permission | None
    """None: nothing; the route must stand in `OPEN` too."""
    whole_box: bool
    """Only for those who see all sites. Else the route shows each caller what is theirs."""


def needs(permission: Permission | None, *, whole_box: bool = False) -> Callable[[EndpointT], EndpointT]:
    """Declare what the route below needs."""

    def declare(endpoint: EndpointT) -> EndpointT:
        endpoint.__dict__["permit"] = Permit(permission, whole_box)
        return endpoint

    return declare


class _DeclaredRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not isinstance(getattr(endpoint, "permit", None), Permit):
            raise TypeError(f"{path}: a route says what it needs: @needs(Permission...)")
        super().__init__(path, endpoint, **options)


def declared_router(**options: Any) -> APIRouter:
    """A router that takes no route without a permit."""
    return APIRouter(route_class=_DeclaredRoute, **options)


async def check_permit(request: Request) -> None:
    """For every route of the app: whether this caller may. Raises HTTPException."""
    permit: Permit | None = getattr(request.scope["route"].endpoint, "permit", None)
    if permit is None:
        raise HTTPException(403, "nobody may: the route does not say what it needs")
    if request.state.is_open:
        return
    actor: Actor = request.state.actor  # the guard lets strangers only to what is open
    if permit.permission is None or not actor.may(permit.permission):
        raise HTTPException(403, f"the role {actor.role} may not: {permit.permission}")
    if permit.whole_box and actor.sites is not None:
        raise HTTPException(403, "this concerns all sites, and you are limited to some")


def person(caller: Actor, who: str | None) -> Actor:
    """In whose name it is asked: the command line comes with the box's token and says which person it works for. Others are
    who they are."""
    return replace(caller, id=f"os:{who}") if who and caller == BOX else caller


async def _caller(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


Caller = Annotated[Actor, Depends(_caller)]


class Callers:
    """Who holds which secret. Asked at every request: the configuration and the accounts may change."""

    def __init__(self, accounts: Accounts, box_token: Callable[[], Secret | None]) -> None:
        self._accounts = accounts
        self._box_token = box_token

    def by_token(self, given: str) -> Actor | None:
        """Of a Bearer token."""
        token = self._box_token()
        if token is not None and is_same(given, digest(token.reveal())):
            return BOX
        return self._accounts.by_token(given)

    def by_session(self, given: str) -> Actor | None:
        """Of the page's cookie."""
        return self._accounts.by_session(given)
