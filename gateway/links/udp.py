"""UDP, listened on: each source address is one peer, each datagram one read, each answer one datagram back to its source.

A peer is nothing but the datagrams that wait to be read: one that has to make room begins anew with its next datagram.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import structlog

from gateway.errors import LinkClosed
from gateway.links.endpoint import Endpoint
from gateway.links.stream import StreamLink

IDLE_S = 60.0
"""A source that has said nothing for a minute is forgotten: repeats come after seconds, and nothing is lost with it."""
WAITING_MAX = 32
"""Datagrams of one source that wait to be read; further ones are dropped, and their sender repeats them."""
RECEIVE_BUFFER_BYTES = 4 << 20
"""A thousand panels that report the same mains failure at once: some 800 kB as the kernel counts them. The default has
room for about two hundred. The system may allow less (net.core.rmem_max)."""

log = structlog.get_logger()

Address = tuple[str | int, ...]


class Peer:
    """The datagrams of one source, as the reader and writer that a `StreamLink` needs."""

    def __init__(self, transport: asyncio.DatagramTransport, address: Address) -> None:
        self._transport = transport
        self.address = address
        self._waiting: deque[bytes] = deque()
        self._has_some = asyncio.Event()
        self._is_over = False

    def arrived(self, datagram: bytes) -> bool:
        """Queue it; False when there is no room."""
        if len(self._waiting) >= WAITING_MAX or self._is_over:
            return False
        if datagram:  # an empty one would read as the end of the stream
            self._waiting.append(datagram)
            self._has_some.set()
        return True

    def end(self) -> None:
        """Let the reader read what waits, then the end."""
        self._is_over = True
        self._has_some.set()

    async def read(self, n: int = -1, /) -> bytes:
        """One whole datagram, however long: half of one is no use to anybody."""
        await self._has_some.wait()
        if not self._waiting:
            return b""
        datagram = self._waiting.popleft()
        if not self._waiting and not self._is_over:
            self._has_some.clear()
        return datagram

    def write(self, data: bytes, /) -> None:
        if not self._transport.is_closing():
            self._transport.sendto(data, self.address)

    async def drain(self) -> None:
        """The kernel takes a datagram or drops it."""

    def close(self) -> None:
        self.end()

    async def wait_closed(self) -> None:
        """Nothing is kept back."""


class Listener(asyncio.DatagramProtocol):
    """An open port and its peers."""

    def __init__(self, begin: Callable[[Peer, str], None], peers_max: int) -> None:
        self.host = ""
        self.port = 0
        self.dropped = 0
        """Datagrams for which their source had no room left."""
        self.displaced = 0
        """Peers that had to make room for another."""
        self.is_closing = False
        self.closed = asyncio.Event()
        self._begin = begin
        self._peers_max = peers_max
        self._peers: OrderedDict[Address, Peer] = OrderedDict()
        self._transport: asyncio.DatagramTransport

    @property
    def peers(self) -> int:
        return len(self._peers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # by duty, not by class: uvloop has one of its own
        self.host, self.port = transport.get_extra_info("sockname")[:2]

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if self.is_closing:
            return
        peer = self._peers.get(addr)
        if peer is None:
            self._make_room()
            peer = self._peers[addr] = Peer(self._transport, addr)
            self._begin(peer, f"{addr[0]}:{addr[1]}")
        self._peers.move_to_end(addr)
        if not peer.arrived(data):
            self.dropped += 1

    def error_received(self, exc: Exception) -> None:
        """An answer that could not be delivered: whoever misses it repeats."""

    def leave(self, peer: Peer) -> None:
        """Forget it, unless its address belongs to another by now."""
        if self._peers.get(peer.address) is peer:
            del self._peers[peer.address]

    def _make_room(self) -> None:
        """The longest silent one goes. Sources can be made up: a crowd of them must not lock the true ones out."""
        if len(self._peers) >= self._peers_max:
            _, oldest = self._peers.popitem(last=False)
            oldest.end()
            if not self.displaced:
                log.warning("more sources than a UDP port may hold", port=self.port, peers_max=self._peers_max)
            self.displaced += 1


@asynccontextmanager
async def listen(
    url: str, on_peer: Callable[[StreamLink], Awaitable[None]], *, idle_s: float | None = IDLE_S
) -> AsyncIterator[Listener]:
    """Serve peers while the block lasts, one task each; leaving it ends them. `on_peer` is the task's boundary, as for TCP.
    Raises LinkClosed when the port cannot be had."""
    endpoint = Endpoint.parse(url)
    serving: set[asyncio.Task[None]] = set()

    async def serve(peer: Peer, name: str) -> None:
        link = StreamLink(peer, peer, peer=name, abort=peer.end, idle_s=idle_s)
        try:
            await on_peer(link)
        except LinkClosed as closed:
            log.debug("peer gone", peer=name, reason=str(closed))
        finally:
            listener.leave(peer)  # first: what its source sends from now on begins anew
            await link.close()

    def begin(peer: Peer, name: str) -> None:
        task = tasks.create_task(serve(peer, name), name=f"peer {name}")
        serving.add(task)
        task.add_done_callback(serving.discard)

    listener = Listener(begin, endpoint.peers_max)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: listener, (endpoint.host, endpoint.port)
        )
    except OSError as error:
        raise LinkClosed(f"{url}: {error}") from error
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                yield listener
            finally:
                listener.is_closing = True
                for task in serving:
                    task.cancel()
    finally:
        transport.close()  # last: answers whose commit was under way have left
        await listener.closed.wait()  # or the next to listen here would find the port taken
