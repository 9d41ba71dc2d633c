"""In front of every route: who may ask, how much, and what a browser may do with the answer. Deny by default."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import Actor
from gateway.api.permits import Callers
from gateway.api.problems import problem

BODY_MAX_BYTES = 64 * 1024
"""The largest body anybody needs is a list of 1000 numbers; what is longer is not for us."""
BODY_WITHIN_S = 10.0
"""A body of 64 KiB that takes longer is a slow-body attack."""
COOKIE = "fangkong_session"
READING = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing (RFC 9110, section 9.2.1)."""
QUERY_MAX_BYTES = 4096
"""All filters at their longest, URL-encoded, stay below."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around the whole application: says who asks. What is not open wants somebody who is known; what they may,
    the route says."""

    def __init__(self, app: ASGIApp, *, callers: Callers, is_open: Callable[[str, str], bool]) -> None:
        self._app = app
        self._callers = callers
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, _Bounded(receive), _hardened(send))
        else:
            await refusal(scope, receive, _hardened(send))

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        path = scope["path"]
        identify = self._identity(scope, headers)
        actor = identify()
        is_open = self._is_open(scope["method"], path)
        scope.setdefault("state", {}).update(actor=actor, is_open=is_open, is_still=lambda: identify() == actor)
        if actor is None and not is_open:
            return problem(path, 401, "send Authorization: Bearer TOKEN, or log in at /")
        by_cookie = actor is not None and "authorization" not in headers
        if scope["method"] not in READING and not _is_meant(headers, by_cookie=by_cookie):
            return problem(path, 403, "this came from a page of another origin, or from one that does not say which")
        if len(scope["query_string"]) > QUERY_MAX_BYTES:
            return problem(path, 414, f"the query is longer than {QUERY_MAX_BYTES} bytes")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > BODY_MAX_BYTES:
            return problem(path, 413, f"the body is longer than {BODY_MAX_BYTES} bytes")
        return None

    def _identity(self, scope: Scope, headers: Headers) -> Callable[[], Actor | None]:
        """Who asks, as often as it is asked: a token may be revoked while a stream runs."""
        if "authorization" in headers:
            scheme, _, given = headers["authorization"].partition(" ")
            return lambda: self._callers.by_token(given.strip()) if scheme.lower() == "bearer" else None
        session = HTTPConnection(scope).cookies.get(COOKIE, "")
        return lambda: self._callers.by_session(session)


def _is_meant(headers: Headers, *, by_cookie: bool) -> bool:
    """Whether a change is asked for by our own page, or by a program. A browser sends the cookie for any page that asks; it
    names the page's origin whenever something is to be changed (Fetch standard, "append a request Origin header")."""
    origin = headers.get("origin")
    if origin is None:
        return not by_cookie
    return urlsplit(origin).netloc == headers.get("host")


class _Bounded:
    """Reads a body of bounded length within a bounded time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = BODY_MAX_BYTES
        self._is_whole = False

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._is_whole:
            return await self._receive()  # waits for the disconnect, for as long as it takes
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {BODY_WITHIN_S:g} s") from None
        self._left -= len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._left < 0:
            raise HTTPException(413, f"the body is longer than {BODY_MAX_BYTES} bytes")
        return message


def _hardened(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
