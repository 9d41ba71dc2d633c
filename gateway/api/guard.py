"""What stands before every route: the bearer token, a bound on bodies, headers that keep browsers careful."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config import Secret

BODY_MAX_BYTES = 64 * 1024
"""The largest request we understand is a list of row numbers; more is an attack or a mistake."""

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:",
    ),
]


def bearer(token: Secret | None) -> Callable[[Request], None]:
    """A dependency that lets only the holder of the token in; without a token nobody."""
    wanted = hashlib.sha256(token.reveal().encode()).digest() if token else None

    def check(request: Request) -> None:
        if wanted is None:
            raise HTTPException(401, "no [api] token_file is set in the site file: the API is closed")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Digests are compared, so that neither length nor content shows in the time it takes.
        fits = hmac.compare_digest(hashlib.sha256(given.strip().encode()).digest(), wanted)
        if scheme.lower() != "bearer" or not fits:
            raise HTTPException(401, "send Authorization: Bearer TOKEN; the token stands in [api] token_file")

    return check


class BodyTooLargeError(HTTPException):
    """413, from inside the reading of a body."""

    def __init__(self) -> None:
        super().__init__(413, f"a body may have {BODY_MAX_BYTES} bytes")


class Guard:
    """ASGI middleware: counts body bytes, adds headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_MAX_BYTES:
                raise BodyTooLargeError
            return message

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self._app(scope, bounded, headed)
