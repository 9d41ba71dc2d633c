"""uvicorn, without its own ideas about signals: the daemon decides when to end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from gateway.errors import ConfigError, Problem

CONNECTIONS_MAX = 200
"""Open requests at once; more get 503 at once instead of making everybody slow."""

KEEP_ALIVE_S = 15
GRACE_S = 2


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
        return socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        hint = "stop the other program, or choose another port 端口被占用"
        problem = Problem("site file", None, "api.listen", f"{listen}: {error.strerror}", "a free HOST:PORT", hint)
        raise ConfigError([problem]) from error


async def serve(app: FastAPI, sock: socket.socket) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        lifespan="off",
    )
    await _Server(config).serve(sockets=[sock])
