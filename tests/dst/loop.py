"""An event loop whose time is made up: when nothing is left to do, it is already the next timer's moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

START_S = 1000.0
TRUE_START = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
TURN_S = 1e-6
"""What a turn of the loop takes: time that stands still would never pass the last fraction of a wait."""


class SimulatedTask(asyncio.Task):  # type: ignore[type-arg]  # the C class takes no parameter at run time
    """A task whose place in a set does not depend on its address, so that every run takes the same turns."""

    def __init__(self, *arguments: Any, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """No sockets, no threads, no signals: tasks and timers only. `after_step` is called after every turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # asyncio asks its selector to wait; waiting is what we do not do
        self._clock_resolution = 1e-9
        self._now_s = START_S
        self._numbers = count()
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.set_task_factory(self._task)

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """The selector's part. Raises when nothing will ever happen again."""
        if timeout is None:
            raise RuntimeError("nothing is left to do and no timer runs: everybody waits for somebody else")
        self._now_s += timeout
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass  # there is no other thread to be woken by

    def _task(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> SimulatedTask:
        return SimulatedTask(work, loop=loop, number=next(self._numbers), **options)

    def _run_once(self) -> None:
        super()._run_once()
        self._now_s += TURN_S
        self.steps += 1
        self.after_step()


class SimulatedClock:
    """`gateway.clock.Clock` on the loop's time. The wall clock may be wrong by any amount; durations are true."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.error = timedelta()
        """How far the wall clock is off at present."""

    def true_now(self) -> datetime:
        """What a right clock shows, the receiver's for one."""
        return TRUE_START + timedelta(seconds=self._loop.time() - START_S)

    def now(self) -> datetime:
        return self.true_now() + self.error

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)  # noqa: TID251  # this is the clock
