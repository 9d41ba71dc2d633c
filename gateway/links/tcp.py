"""TCP, dialled or listened for: keep-alive on, silent peers and too many peers bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from gateway.errors import LinkClosed
from gateway.links.endpoint import Endpoint
from gateway.links.stream import READ_CHUNK_BYTES, StreamLink

IDLE_S = 900.0
"""A peer that says nothing for 15 minutes is gone: devices of the trade send heartbeats every 30 to 300 s."""
DIAL_WITHIN_S = 10.0
"""Three SYNs on Linux (0, 1, 3 s) and their answers; beyond that the host is not there."""
BACKLOG = 4096
"""Connections that wait to be taken: a street that has power again dials at once, and a handshake that finds no room is
tried again a second later. Linux itself allows no more by default (net.core.somaxconn)."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A cut cable shows after a minute, also while answers are under way (TCP_USER_TIMEOUT is in ms)."""

log = structlog.get_logger()


async def dial(url: str, *, idle_s: float | None = IDLE_S) -> StreamLink:
    """Connect out. Raises LinkClosed when nobody answers, ConfigError when the URL is wrong."""
    endpoint = Endpoint.parse(url)
    try:
        async with asyncio.timeout(DIAL_WITHIN_S):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=READ_CHUNK_BYTES)
    except TimeoutError as error:
        raise LinkClosed(f"{url}: no answer within {DIAL_WITHIN_S} s") from error
    except OSError as error:
        raise LinkClosed(f"{url}: {error}") from error
    return _link(reader, writer, idle_s)


class Listener:
    """An open port and its peers."""

    def __init__(self, peers_max: int) -> None:
        self.host = ""
        self.port = 0
        self.peers = 0
        self.refused = 0
        """Peers turned away because `peers_max` were there."""
        self._peers_max = peers_max
        self._is_full = False

    def admit(self) -> bool:
        """Count a new peer in; False when there is no room."""
        if self.peers >= self._peers_max:
            self.refused += 1
            if not self._is_full:
                log.warning("listener full, turning peers away", port=self.port, peers_max=self._peers_max)
            self._is_full = True
            return False
        self.peers += 1
        return True

    def leave(self) -> None:
        """Count a peer out."""
        self.peers -= 1
        if self._is_full:
            log.warning("listener has room again", port=self.port, refused=self.refused)
        self._is_full = False


@asynccontextmanager
async def listen(
    url: str,
    on_peer: Callable[[StreamLink], Awaitable[None]],
    *,
    idle_s: float | None = IDLE_S,
) -> AsyncIterator[Listener]:
    """Serve peers while the block lasts, one task each; leaving it ends them. `on_peer` is the task's boundary: what it
    raises besides LinkClosed ends the listener. Raises LinkClosed when the port cannot be had."""
    endpoint = Endpoint.parse(url)
    listener = Listener(endpoint.peers_max)

    async def serve(link: StreamLink) -> None:
        try:
            await on_peer(link)
        except LinkClosed as closed:
            log.debug("peer gone", peer=link.peer, reason=str(closed))
        finally:
            await link.close()

    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not listener.admit():
            writer.transport.abort()
            return
        link = _link(reader, writer, idle_s)
        task = tasks.create_task(serve(link), name=f"peer {link.peer}")
        serving.add(task)
        task.add_done_callback(lambda done: leave(done, writer))

    def leave(task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        """Also for a peer whose task was cancelled before its first step."""
        serving.discard(task)
        listener.leave()
        writer.transport.abort()

    try:
        server = await asyncio.start_server(
            accept, endpoint.host, endpoint.port, limit=READ_CHUNK_BYTES, backlog=BACKLOG, start_serving=False
        )
    except OSError as error:
        raise LinkClosed(f"{url}: {error}") from error
    listener.host, listener.port = server.sockets[0].getsockname()[:2]
    async with asyncio.TaskGroup() as tasks:
        await server.start_serving()
        try:
            yield listener
        finally:
            server.close()
            for task in serving:
                task.cancel()


def _link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_s: float | None) -> StreamLink:
    _keep_alive(writer.get_extra_info("socket"))
    host, port = (writer.get_extra_info("peername") or ("unknown", 0))[:2]
    return StreamLink(reader, writer, peer=f"{host}:{port}", abort=writer.transport.abort, idle_s=idle_s)


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if option := getattr(socket, name, None):  # not every system has all four
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
