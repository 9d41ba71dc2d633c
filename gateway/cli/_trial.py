"""A driver in conversation with a real device and nothing behind it: no site file, no store, no database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger as Logger

from gateway.cli.explain import as_json
from gateway.clock import Clock
from gateway.driver import Context, FrameError, LatestKey, Message, Observation, Order, Qualifier, Session, Stream
from gateway.errors import GatewayError, LinkClosed, leaves
from gateway.receipt import Receipt
from gateway.recording import Recorder

HEARD_MAX = 10_000
"""Devices told of once; beyond it they are told of again."""

Say = Callable[[Mapping[str, Any]], None]
"""Takes what is to be printed, one object a line."""


class Batches(Protocol):
    """The hearing half of a `driver.Topics`."""

    def batches(self) -> AsyncIterator[Sequence[Message]]:
        """As there."""


class Trial:
    """What a driver is given instead of the gateway. What it reports is said and counts as stored."""

    def __init__(
        self,
        driver: ModuleType,
        context: Context,
        clock: Clock,
        log: Logger,
        say: Say,
        *,
        answers: bool,
        recorder: Recorder | None = None,
    ) -> None:
        """`answers`: whether the device gets them. It then believes that what it said is kept, and it is not. `recorder`
        takes what passes."""
        self._driver = driver
        self._context = context
        self._clock = clock
        self._log = log
        self._say = say
        self._answers = answers
        self._recorder = recorder
        self._latest: dict[str, dict[LatestKey, Qualifier]] = {}
        self._heard: set[str] = set()
        self._memory = driver.Memory() if hasattr(driver, "Memory") else None

    async def converse(self, link: Any) -> None:
        """Run the driver on this link. Raises LinkClosed, as it does."""
        if self._recorder is not None:
            link.tap = self._recorder.conversation(link.peer)
        held: Any = link
        if self._driver.LINK == "stream":
            held = HeldStream(link, self._say, answers=self._answers)
        elif self._driver.LINK == "topics":
            held = HeldTopics(link, self._say)
        session: Session[Any] = Session(
            link=held, report=self._report, reject=self.reject, heard=self._hear, latest=self._last,
            orders=NoOrders(), context=self._context, clock=self._clock, log=self._log, is_enrolled=self._is_enrolled,
            memory=self._memory,
        )  # fmt: skip
        try:
            await self._driver.run(session)
        except ExceptionGroup as group:  # of a driver with tasks of its own
            if group.split((GatewayError, OSError))[1] is not None:
                raise
            raise LinkClosed("; ".join(sorted({str(leaf) for leaf in leaves(group)}))) from group

    def _is_enrolled(self, _device: str) -> bool:
        return True

    async def _report(self, observations: Sequence[Observation]) -> Receipt:
        for one in observations:
            self._latest.setdefault(one.device, {})[one.kind, one.zone] = one.qualifier
            self._say({"seen": as_json(one), "raw": one.raw.hex()})
        return Receipt.settled()

    def reject(self, raw: bytes, error: FrameError) -> None:
        self._say({"refused": str(error), "reason": error.reason, "bytes": raw.hex()})

    def _hear(self, device: str) -> None:
        if device not in self._heard:
            if len(self._heard) >= HEARD_MAX:
                self._heard.clear()
            self._heard.add(device)
            self._say({"heard": device})

    async def _last(self, device: str) -> Mapping[LatestKey, Qualifier]:
        return self._latest.get(device, {})


class HeldStream:
    """A `driver.Stream` whose answers are told, and sent only when they may be."""

    def __init__(self, link: Stream, say: Say, *, answers: bool) -> None:
        self.peer = link.peer
        self._link = link
        self._say = say
        self._answers = answers

    async def read(self) -> bytes:
        return await self._link.read()

    async def write(self, data: bytes) -> None:
        await self._link.write(data)

    def answer(self, data: bytes, *, after: Receipt) -> None:
        self._say({"answer": data.hex(), "sent": self._answers})
        if self._answers:
            self._link.answer(data, after=after)


class HeldTopics:
    """A `driver.Topics` whose answers are told and never sent: a gateway may be listening there in earnest."""

    def __init__(self, link: Batches, say: Say) -> None:
        self._link = link
        self._say = say

    def batches(self) -> AsyncIterator[Sequence[Message]]:
        return self._link.batches()

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        self._say({"answer": payload.decode("utf-8", "backslashreplace"), "topic": topic, "sent": False})


class NoOrders:
    """A `driver.Orders` that brings none."""

    def __aiter__(self) -> AsyncIterator[Order]:
        return self

    async def __anext__(self) -> Order:
        never: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        return await never

    def awaiting(self, command_id: str) -> Order | None:
        return None
