"""What asyncio of Python 3.11 gets wrong about ending tasks, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.errors import LinkClosed


async def apart(work: Callable[[], Awaitable[None]]) -> Exception:
    """The task boundary: do `work` in a task of its own and return what ended it, so that its faults stay its own.

    On Python 3.11 a TaskGroup that fails leaves its task marked as cancelled, or hides a stop that comes in the same
    moment; either ends with that task.
    """

    async def contained() -> Exception:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # handed to the caller
            return error
        return LinkClosed("ended")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(contained())
    return LinkClosed("given up from within") if task.cancelled() else task.result()


def leave_if_cancelled() -> None:
    """A library may swallow a cancellation that meets a result half way (wait_for of Python 3.11 does): it still counts."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
