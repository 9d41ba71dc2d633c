"""The traffic of one connection over HTTP, as it passes: docs/capture.md has the format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Annotated, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.access import Actor, Permission
from gateway.api.permits import Caller, declared_router, needs
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.errors import Busy
from gateway.health import DeviceHealth
from gateway.model import Device, Vehicle
from gateway.recording import SECONDS_MAX, Recorder

UNTAKEN_MAX_BYTES = 4 << 20
"""What a slow reader may leave with us: some seconds of the busiest line. Beyond it the recording ends."""
LOOK_S = 5.0
"""Between two looks at whether the caller's token is still good."""


class Lines(Protocol):
    """What can be recorded."""

    def is_recorded(self, name: str) -> bool | None:
        """None: there is no such connection."""

    def recorded(self, name: str, write: Callable[[str], object]) -> AbstractContextManager[Recorder]:
        """Raises KeyError, Busy."""


class Lives(Protocol):
    """Who was last heard where."""

    def states(self) -> Iterable[DeviceHealth]: ...
    def last_connection(self, device: str) -> str: ...


class Ledger(Protocol):
    """Whose a device is."""

    def device(self, device_id: str) -> Device | None: ...
    def vehicle(self, device_id: str) -> Vehicle | None: ...


class Span(BaseModel):
    """How long to record."""

    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(gt=0, le=SECONDS_MAX)]


def recording_routes(lines: Lines, lives: Lives, ledger: Ledger, audit: Audit, clock: Clock) -> APIRouter:
    """The one route."""
    router = declared_router(tags=["connections"])

    def may_hear(caller: Actor, name: str) -> bool:
        """Who is limited to sites hears lines on which only devices of these sites speak, and where vehicles tell their
        places only who may see these."""
        heard = [life.device for life in lives.states() if lives.last_connection(life.device) == name]
        if not caller.may(Permission.LOCATE) and any(ledger.vehicle(device) for device in heard):
            return False
        known = [ledger.device(device) for device in heard]
        return caller.sites is None or (
            bool(known) and all(caller.sees(device.site if device else None) for device in known)
        )

    @router.post("/connections/{name}/capture", response_class=StreamingResponse)
    @needs(Permission.CAPTURE)
    async def capture(request: Request, caller: Caller, name: str, span: Span) -> StreamingResponse:
        """Record what passes from now on, one JSON object a line, until the time is up or the caller hangs up."""
        is_recorded = lines.is_recorded(name)
        if is_recorded is None or not may_hear(caller, name):
            raise HTTPException(
                404, f"there is no connection {name[:60]!r}, or not all who speak on it are for you to hear"
            )
        if is_recorded:
            raise HTTPException(409, f"{name} is being recorded already")
        await audit.record(caller, Deed.CAPTURE, f"connection {name}", {"seconds": span.seconds})
        recorded = _record(lines, name, clock, span.seconds, request.state.is_still)
        return StreamingResponse(recorded, media_type="application/x-ndjson")

    return router


class _Untaken:
    """Lines on their way to the reader."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size_bytes = 0
        self.arrived = asyncio.Event()
        self.is_full = False

    def write(self, line: str) -> None:
        if self._size_bytes >= UNTAKEN_MAX_BYTES:
            self.is_full = True
            return
        self._lines.append(line)
        self._size_bytes += len(line)
        self.arrived.set()

    def take(self) -> str:
        lines, self._lines, self._size_bytes = self._lines, [], 0
        self.arrived.clear()
        return "".join(lines)


async def _record(
    lines: Lines, name: str, clock: Clock, seconds: float, may_still: Callable[[], bool]
) -> AsyncIterator[str]:
    untaken = _Untaken()
    until = clock.monotonic() + seconds
    try:
        with lines.recorded(name, untaken.write) as recorder:
            while recorder.ended is None:
                left_s = until - clock.monotonic()
                is_over = left_s <= 0
                try:
                    async with asyncio.timeout(max(0.0, min(left_s, LOOK_S))):
                        await untaken.arrived.wait()
                except TimeoutError:
                    is_over = left_s <= LOOK_S
                yield untaken.take()
                if untaken.is_full:
                    recorder.end("the reader is too slow")
                elif not may_still():
                    recorder.end("the caller may no longer")
                elif is_over:
                    recorder.end("the time is up")
            yield untaken.take()
    except (Busy, KeyError):
        return  # another was quicker, or the line was removed meanwhile: a recording without an end
