"""uvicorn, without its own ideas about signals: the daemon decides when to end. Impatient with peers that hold a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from gateway.errors import ConfigError, Problem

CONNECTIONS_MAX = 256
"""Sockets and requests at once; more get 503 at once instead of making everybody slow."""
HEADERS_WITHIN_S = 10.0
"""From connect to the end of the first request's headers; slower is a slow-header attack."""
UNTAKEN_MAX_MS = 30_000
"""Bytes the far side does not take for so long: the kernel ends the connection, whatever waits in its buffer."""
KEEP_ALIVE_S = 15
GRACE_S = 2


class _ImpatientProtocol(H11Protocol):
    """HTTP/1.1, for peers that say what they want."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed as uvicorn does
        super().connection_made(transport)
        self.loop.call_later(HEADERS_WITHIN_S, self._hang_up_when_mute)

    def _hang_up_when_mute(self) -> None:
        # A cycle exists as soon as the first headers are whole; uvicorn declares it as always there.
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if cycle is None and not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(listen: str) -> socket.socket:
    """The listening socket. Raises ConfigError when the address is taken."""
    host, port = listen.rsplit(":", 1)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        hint = "stop the other program, or choose another port 端口被占用"
        problem = Problem("site file", None, "api.listen", f"{listen}: {error.strerror}", "a free HOST:PORT", hint)
        raise ConfigError([problem]) from error
    # Accepted sockets inherit it. Without it a peer that never reads holds its connection for ever.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MAX_MS)
    # So is this. The standard loop sets it only on sockets that name their protocol, and an answer's body then waits 40 ms for
    # the far side's acknowledgement of its head.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def serve(app: FastAPI, sock: socket.socket) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
    )
    server = _Server(config)
    try:
        await server.serve(sockets=[sock])
    finally:
        # uvicorn leaves them to the loop's end, which cancels them with a traceback each. A listener on the live stream
        # never ends by itself: it is hung up on, and comes back with its cursor.
        for listening in getattr(server, "servers", ()):  # none yet when the end comes during the start
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=GRACE_S)
