"""The live stream (server-sent events): each reader pulls from the store at its own speed, and can resume where it was.

No buffer grows for a slow reader: it is behind by a cursor, not by memory. One that takes nothing at all is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.api.views import event_view
from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.model import Event
from gateway.store import EventFilter, Store

CLIENTS_MAX = 50
"""Listeners at once: consoles and tools of one box, with room."""

PAGE = 200
"""Events read and sent at once."""

BEAT_S = 0.05
"""While events come thick, a page of them this often: a screen shows no more, and a page costs little more than an event.
All listeners keep the same beat, so that they are at the same place and one page does for all."""

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


class Pages:
    """Events as they go over the wire, read and encoded once for all listeners that are at the same place."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._turn = asyncio.Lock()
        self._place: tuple[EventFilter, int] | None = None
        self._commits = 0
        self._page: tuple[bytes, int, bool] = b"", 0, False

    async def after(self, wanted: EventFilter, seq: int) -> tuple[bytes, int, bool]:
        """The next events beyond `seq`, the last one's seq, and whether there may be more. Raises StoreError."""
        told_of = self.store.state.commits
        async with self._turn:
            if self._place != (wanted, seq) or self._commits < told_of:
                self._place = None
                self._commits = self.store.state.commits
                events = await self.store.events(wanted, after_seq=seq, limit=PAGE)
                last = events[-1].seq if events else seq
                self._page = b"".join(map(_encoded, events)), last, len(events) == PAGE
                self._place = wanted, seq
            return self._page


class EventStream(Response):
    """An endless answer of events beyond `after_seq`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        pages: Pages,
        clock: Clock,
        listeners: Listeners,
        wanted: EventFilter,
        after_seq: int,
        *,
        may_listen: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._pages = pages
        self._clock = clock
        self._listeners = listeners
        self._wanted = wanted
        self._after_seq = after_seq
        self._may_listen = may_listen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._listeners.joined()
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send_for_ever(send))
                ending = group.create_task(_end_with(receive, sending))
                sending.add_done_callback(lambda _: ending.cancel())
        except* TimeoutError:
            self._listeners.dropped()
        except* StoreError:
            pass  # the listener comes back with its cursor, and is told 503 while the log does not answer
        finally:
            self._listeners.left()

    async def _send_for_ever(self, send: Send) -> None:
        watch = self._pages.store.watch()
        try:
            await self._write(send, b": fangkong\n\n")
            while self._may_listen():  # a session ends, a token is revoked
                chunk, self._after_seq, is_more = await self._pages.after(self._wanted, self._after_seq)
                if chunk:
                    await self._write(send, chunk)
                    if not is_more:
                        await self._clock.sleep(BEAT_S - self._clock.monotonic() % BEAT_S)
                    continue
                try:
                    async with asyncio.timeout(KEEPALIVE_S):
                        await watch.wait()
                except TimeoutError:
                    await self._write(send, b": still here\n\n")
            await send({"type": "http.response.body", "body": b""})
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
