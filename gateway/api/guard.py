"""In front of every route: who may ask, how much, and what a browser may do with the answer. Deny by default."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import Actor, Role
from gateway.api.problems import problem
from gateway.secret import Secret

BODY_MAX_BYTES = 64 * 1024
"""The largest body anybody needs is a list of 1000 numbers; what is longer is not for us."""
BODY_WITHIN_S = 10.0
"""A body of 64 KiB that takes longer is a slow-body attack."""
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


BOX = Actor("box", Role.ADMINISTRATOR)
"""Whoever holds the site file's token."""


class Guard:
    """ASGI middleware around the whole application. `open_paths` answer without a token; everything else wants it. Both are
    asked for at every request: the configuration may change."""

    def __init__(
        self, app: ASGIApp, *, token: Callable[[], Secret | None], open_paths: Callable[[], Collection[str]]
    ) -> None:
        self._app = app
        self._token = token
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["actor"] = BOX
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, _Bounded(receive), _hardened(send))
        else:
            await refusal(scope, receive, _hardened(send))

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        path = scope["path"]
        token = self._token()
        if path not in self._open_paths() and not _knows(token, headers.get("authorization", "")):
            closed = "no [api] token_file is set in the site file: the API is closed"
            wanted = "send Authorization: Bearer TOKEN; the token stands in [api] token_file"
            return problem(path, 401, wanted if token else closed)
        if len(scope["query_string"]) > QUERY_MAX_BYTES:
            return problem(path, 414, f"the query is longer than {QUERY_MAX_BYTES} bytes")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > BODY_MAX_BYTES:
            return problem(path, 413, f"the body is longer than {BODY_MAX_BYTES} bytes")
        return None


def _knows(token: Secret | None, authorization: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    # Digests of equal length: the comparison tells nothing about the token's length either.
    return hmac.compare_digest(_digest(given.strip()), _digest(token.reveal()))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


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
