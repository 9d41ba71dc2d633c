"""The way in and out, and the record of who did what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access import GRANTS, Permission
from gateway.accounts import SESSION_S
from gateway.api.guard import COOKIE
from gateway.api.permits import Caller, declared_router, needs
from gateway.api.views import Page
from gateway.audit import Audit, rows
from gateway.errors import Busy, Denied, TooOften
from gateway.login import LogIn
from gateway.metrics import Metrics
from gateway.passwords import PASSWORD_MAX

Name = Annotated[str, Field(max_length=32)]
Password = Annotated[str, Field(max_length=PASSWORD_MAX)]


class LogInView(BaseModel):
    """Who logs in."""

    model_config = ConfigDict(extra="forbid")

    account: Name
    password: Password


class Choice(BaseModel):
    """A password instead of the one-time secret, or of the password so far."""

    model_config = ConfigDict(extra="forbid")

    account: Name
    secret: Password
    new: Password


class CallerView(BaseModel):
    actor: str
    role: str
    sites: list[str] | None
    """None: all."""
    permissions: list[str]


class AuditView(BaseModel):
    seq: int
    at: str
    actor: str
    role: str
    deed: str
    subject: str
    details: dict[str, Any]
    hash: str


class Parts(Protocol):
    """What these routes look at."""

    @property
    def log_in(self) -> LogIn: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def audit(self) -> Audit: ...


def access_routes(looks: Parts) -> APIRouter:
    """All under /api/v1."""
    router = declared_router(tags=["api"])

    @router.post("/session", status_code=204)
    @needs(None)
    async def log_in(request: Request, who: LogInView) -> Response:
        """Begin a session; it stays in a cookie that no script can read and no other site can use."""
        with _counted(looks.metrics):
            secret = await looks.log_in.begin(who.account, who.password, _peer(request))
        answer = Response(status_code=204)
        is_encrypted = request.headers.get("origin", "").startswith(
            "https://"
        )  # only the browser knows, behind a proxy
        answer.set_cookie(COOKIE, secret, max_age=SESSION_S, httponly=True, samesite="strict", secure=is_encrypted)
        return answer

    @router.get("/session")
    @needs(Permission.WATCH)
    async def session(caller: Caller) -> CallerView:
        """Who the caller is, and what they may."""
        sites = None if caller.sites is None else sorted(caller.sites)
        return CallerView(actor=caller.id, role=caller.role, sites=sites, permissions=sorted(GRANTS[caller.role]))

    @router.delete("/session", status_code=204)
    @needs(Permission.WATCH)
    async def log_out(request: Request) -> Response:
        """End the session."""
        await looks.log_in.end(request.cookies.get(COOKIE, ""))
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    @router.post("/password", status_code=204)
    @needs(None)
    async def choose(request: Request, choice: Choice) -> Response:
        """Exchange the one-time secret, or the password so far, for a new password. Ends all sessions of the account."""
        with _counted(looks.metrics):
            await looks.log_in.choose(choice.account, choice.secret, choice.new, _peer(request))
        return Response(status_code=204)

    @router.get("/audit")
    @needs(Permission.AUDIT, whole_box=True)
    async def audit(
        after: Annotated[
            int, Query(ge=0, le=2**62, description="cursor: `next` of the page before; 0 from the newest")
        ] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="items on a page")] = 100,
    ) -> Page[AuditView]:
        """Who did what, newest first."""
        found = await asyncio.to_thread(
            lambda: list(islice(rows(looks.audit.path, before=after or None, limit=limit), limit))
        )
        items = [
            AuditView(
                seq=row.seq, at=row.at, actor=row.actor, role=row.role, deed=row.deed, subject=row.subject,
                details=_details(row.details), hash=row.hash,
            )
            for row in found
        ]  # fmt: skip
        return Page(items=items, next=found[-1].seq if len(found) == limit else None)

    return router


def _details(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"changed by hand": text}


def _peer(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@contextmanager
def _counted(metrics: Metrics) -> Iterator[None]:
    try:
        yield
    except Denied:
        metrics.log_ins.labels("refused").inc()
        raise
    except (TooOften, Busy):
        metrics.log_ins.labels("limited").inc()
        raise
    metrics.log_ins.labels("ok").inc()
