"""A recording played to a driver: the line says what it said, when it said it, in an event loop whose time is the recording's."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from structlog.typing import FilteringBoundLogger as Logger

from gateway.cli._plain_mqtt import PlainMessage
from gateway.cli._trial import Say, Trial
from gateway.clock import Clock
from gateway.driver import Context, LatestKey, Message, Receipt, Table
from gateway.errors import BusRefused, ConfigError, LinkClosed, NoAnswer, Problem
from gateway.kinds import Kind, Qualifier
from gateway.recording import VERSION

TURN_S = 1e-6
"""What a turn of the loop takes: time that stands still would never pass the last fraction of a wait."""


@dataclass(slots=True)
class Conversation:
    """What was recorded of one, each fact with its time."""

    began_s: float
    peer: str
    facts: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    closed_s: float = 0.0
    why_closed: str = "the recording ends here"


@dataclass(slots=True)
class Recording:
    """A file of docs/capture.md."""

    conversations: dict[int, Conversation] = field(default_factory=dict)
    walls: list[tuple[float, datetime]] = field(default_factory=list)
    """What the wall clock showed, by the recording's own time."""


def read_recording(path: Path) -> Recording:
    """Raises ConfigError, with the line, for what is none; OSError."""
    recording, last_s = Recording(), 0.0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                last_s = _take(recording, json.loads(line), is_first=number == 1)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                found, wanted = f"{type(error).__name__}: {error}", "a line as fangkong capture writes it"
                raise ConfigError([Problem(str(path), number, "line", found, wanted)]) from error
    if not recording.walls:
        raise ConfigError([Problem(str(path), 1, "line", "nothing", "a recording")])
    for conversation in recording.conversations.values():
        conversation.closed_s = conversation.closed_s or last_s
    return recording


def _take(recording: Recording, fact: dict[str, Any], *, is_first: bool) -> float:
    at_s, wall = float(fact.pop("t")), datetime.fromisoformat(fact.pop("at"))
    recording.walls.append((at_s, wall))
    if is_first and fact["capture"] != VERSION:
        raise ValueError(f"capture {fact['capture']} (this program reads {VERSION})")
    number = fact.pop("conversation", None)
    if "begin" in fact:
        recording.conversations[number] = Conversation(at_s, str(fact["peer"]))
    elif "closed" in fact:
        recording.conversations[number].closed_s = at_s
        recording.conversations[number].why_closed = str(fact["closed"])
    elif number is not None:
        recording.conversations[number].facts.append((at_s, fact))
    return at_s


class ReplayLoop(asyncio.BaseEventLoop):
    """No sockets and no threads: when nothing is left to do, it is already the next timer's moment."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # asyncio asks its selector to wait; waiting is what we do not do
        self._clock_resolution = 1e-9
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """The selector's part."""
        assert timeout is not None, "every line ends, so nobody waits for ever"
        self._now_s += timeout + TURN_S
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass  # there is no other thread to be woken by


class ReplayClock:
    """`gateway.clock.Clock` of the recording, wall clock steps included."""

    def __init__(self, recording: Recording) -> None:
        self._walls = recording.walls

    def now(self) -> datetime:
        at_s = self.monotonic()
        index = max(0, bisect_right(self._walls, at_s, key=lambda wall: wall[0]) - 1)
        then_s, wall = self._walls[index]
        return wall + timedelta(seconds=at_s - then_s)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)  # noqa: TID251  # this is the clock

    async def until(self, at_s: float) -> None:
        """Return at that moment of the recording, at once when it has passed."""
        if (wait_s := at_s - self.monotonic()) > 0:
            await self.sleep(wait_s)


class Line:
    """The far side of one conversation, in whatever shape its driver wants it."""

    def __init__(self, conversation: Conversation, clock: ReplayClock) -> None:
        self.peer = conversation.peer
        self._conversation = conversation
        self._clock = clock
        facts = conversation.facts
        self._came = deque((at_s, fact) for at_s, fact in facts if fact.get("dir") == "in")
        self._asked: dict[str, deque[tuple[float, Mapping[str, Any]]]] = defaultdict(deque)
        for at_s, fact in facts:
            for what in ("read", "write"):
                if what in fact:
                    self._asked[_key(what, fact[what])].append((at_s, fact))

    async def _ended(self) -> LinkClosed:
        await self._clock.until(self._conversation.closed_s)
        return LinkClosed(self._conversation.why_closed)


class StreamLine(Line):
    """A `driver.Stream`. What is said to it is not looked at: it answers what it answered."""

    async def read(self) -> bytes:
        if not self._came:
            raise await self._ended()
        await self._clock.until(self._came[0][0])
        return bytes.fromhex(self._came.popleft()[1]["bytes"])

    async def write(self, data: bytes) -> None:
        """Nobody is there."""

    def answer(self, data: bytes, *, after: Receipt) -> None:
        """Nobody is there."""


class TopicsLine(Line):
    """A `driver.Topics`, in the batches of then."""

    async def batches(self) -> AsyncIterator[Sequence[Message]]:
        while self._came:
            await self._clock.until(self._came[0][0])
            yield list(self._batch())
        raise await self._ended()

    def _batch(self) -> Iterator[Message]:
        while self._came:
            fact = self._came.popleft()[1]
            payload = bytes.fromhex(fact["payload_hex"]) if "payload_hex" in fact else fact["payload"].encode()
            yield PlainMessage(fact["topic"], payload, fact["retained"])
            if not fact.get("more"):
                return


class BusLine(Line):
    """A `driver.Bus`. A request gets the next answer that was recorded to the same request, at the time of then."""

    async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        answer: Sequence[int] = await self._ask("read", [unit, table, address, count])
        return answer

    async def write(
        self, unit: int, table: Table, address: int, values: Sequence[int], *, unless: Callable[[], bool] | None = None
    ) -> bool:
        was_sent: bool = await self._ask("write", [unit, table, address, list(values)])
        return was_sent

    async def _ask(self, what: str, request: Sequence[Any]) -> Any:
        answers = self._asked[_key(what, request)]
        if not answers:
            raise await self._ended()
        at_s, fact = answers[0]
        await self._clock.until(at_s)
        answers.popleft()
        match fact.get("error"):
            case None:
                return fact["answer"]
            case "refused":
                raise BusRefused(fact["code"])
            case "no_answer":
                raise NoAnswer(fact["why"])
            case _:
                raise LinkClosed(fact["why"])


def _key(what: str, request: Sequence[Any]) -> str:
    return f"{what} {json.dumps(request)}"


LINES = {"stream": StreamLine, "topics": TopicsLine, "bus": BusLine}


class Replay(Trial):
    """A trial on recorded lines: what the register and the log said then, they say again."""

    def __init__(
        self, recording: Recording, *, driver: ModuleType, context: Context, clock: Clock, log: Logger, say: Say
    ) -> None:
        super().__init__(driver, context, clock, log, say, answers=False)
        self._told: dict[str, deque[dict[LatestKey, Qualifier]]] = defaultdict(deque)
        self._enrolled: dict[str, bool] = {}
        for conversation in recording.conversations.values():
            for _, fact in conversation.facts:
                if "latest" in fact:
                    known = {(Kind(kind), zone): Qualifier(qualifier) for kind, zone, qualifier in fact["is"]}
                    self._told[fact["latest"]].append(known)
                elif "enrolled" in fact:
                    self._enrolled[fact["enrolled"]] = fact["is"]

    def _is_enrolled(self, device: str) -> bool:
        return self._enrolled.get(device, True)

    async def _last(self, device: str) -> Mapping[LatestKey, Qualifier]:
        told = self._told[device]
        return told.popleft() if told else await super()._last(device)


def replay(recording: Recording, driver: ModuleType, context: Context, log: Logger, say: Say) -> None:
    """Play it to the driver and say what `fangkong try` says."""
    clock = ReplayClock(recording)
    trial = Replay(recording, driver=driver, context=context, clock=clock, log=log, say=say)

    async def converse(conversation: Conversation) -> None:
        await clock.until(conversation.began_s)
        say({"peer": conversation.peer})
        with suppress(LinkClosed):
            await trial.converse(LINES[driver.LINK](conversation, clock))

    async def everybody() -> None:
        async with asyncio.TaskGroup() as group:
            for conversation in recording.conversations.values():
                group.create_task(converse(conversation))

    with asyncio.Runner(loop_factory=ReplayLoop) as runner:
        runner.run(everybody())
