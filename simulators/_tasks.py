"""Tasks with an owner: they end with its ``async with`` block, whatever ends the block."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Tasks:
    """A TaskGroup for servers: leaving cancels what still runs, and the block's own error is not wrapped in a group."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        if isinstance(error, asyncio.CancelledError):  # perhaps the group's own doing: one of its tasks broke
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run ``work`` beside the block; an exception it does not catch ends the block."""
        task = self._group.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Cancel all that run now."""
        for task in self._running:
            task.cancel()

    async def end(self) -> None:
        """Cancel all that run now and return when they have ended."""
        self.cancel()
        if self._running:
            await asyncio.wait(self._running)
