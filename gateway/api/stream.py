"""The live stream (server-sent events): each reader pulls from the store at its own speed, and can resume where it was.

No buffer grows for a slow reader: it is behind by a cursor, not by memory. One that takes nothing at all is dropped.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.api.views import event_view
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.model import Event
from gateway.store import EventFilter, Store

CLIENTS_MAX = 50
"""Listeners at once: consoles and tools of one box, with room."""

PAGE = 200
"""Events read and sent at once."""

KEEPALIVE_S = 15.0
"""A comment this often, so that proxies keep the line open and a dead listener is found."""

STALL_S = 30.0
"""A listener that takes nothing for this long is dropped."""


class Listeners:
    """Counts who listens, for the bound and for the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self.count = 0
        self._metrics = metrics

    def joined(self) -> None:
        """One more."""
        self.count += 1
        self._metrics.stream_clients.set(self.count)

    def left(self) -> None:
        """One less."""
        self.count -= 1
        self._metrics.stream_clients.set(self.count)

    def dropped(self) -> None:
        """One took nothing for too long."""
        self._metrics.stream_dropped.inc()


class EventStream(Response):
    """An endless answer of events beyond `after_seq`."""

    media_type = "text/event-stream"

    def __init__(self, store: Store, listeners: Listeners, wanted: EventFilter, after_seq: int) -> None:
        super().__init__()
        self._store = store
        self._listeners = listeners
        self._wanted = wanted
        self._after_seq = after_seq

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._listeners.joined()
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send_for_ever(send))
                group.create_task(_end_with(receive, sending))
        except* TimeoutError:
            self._listeners.dropped()
        except* StoreError:
            pass  # the listener comes back with its cursor, and is told 503 while the log does not answer
        finally:
            self._listeners.left()

    async def _send_for_ever(self, send: Send) -> None:
        watch = self._store.watch()
        try:
            await self._write(send, b": fangkong\n\n")
            while True:
                events = await self._store.events(self._wanted, after_seq=self._after_seq, limit=PAGE)
                if events:
                    await self._write(send, b"".join(map(_encoded, events)))
                    self._after_seq = events[-1].seq
                    continue
                try:
                    async with asyncio.timeout(KEEPALIVE_S):
                        await watch.wait()
                except TimeoutError:
                    await self._write(send, b": still here\n\n")
        finally:
            watch.close()

    async def _write(self, send: Send, chunk: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": chunk, "more_body": True}
        async with asyncio.timeout(STALL_S):
            await send(message)


def _encoded(event: Event) -> bytes:
    """One event on the wire; its id is the cursor."""
    return f"id: {event.seq}\nevent: event\ndata: {event_view(event).model_dump_json()}\n\n".encode()


async def _end_with(receive: Receive, sending: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    sending.cancel()
