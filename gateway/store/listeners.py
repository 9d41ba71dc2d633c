"""Who is told of commits: those who empty a queue, row by row, and those who only want to look again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.store import Follower, Watch
from gateway.store.committer import Settlement


class Listeners:
    """Lives on the loop."""

    def __init__(self) -> None:
        self._watches: set[CommitWatch] = set()
        self._followers: dict[str, Follower] = {}

    def follow(self, destination: str, follower: Follower) -> Callable[[], None]:
        """Tell the follower, until what is returned is called."""
        assert destination not in self._followers, f"{destination} is followed already"
        self._followers[destination] = follower

        def leave() -> None:
            del self._followers[destination]

        return leave

    def watch(self) -> Watch:
        """Wake somebody after commits of events."""
        watch = CommitWatch(self._watches.discard)
        self._watches.add(watch)
        return watch

    def tell_committed(self, settlement: Settlement) -> None:
        """New rows go to those who follow their destination; whoever watches is woken."""
        for destination, rows in settlement.deliveries.items():
            if (follower := self._followers.get(destination)) is not None:
                follower.committed(rows)
        if settlement.stored:
            for watch in self._watches:
                watch.wake()

    def tell_requeued(self, destination: str | None = None) -> None:
        """Rows of this destination (None: of any) are queued that were not new."""
        for name, follower in self._followers.items():
            if destination in (None, name):
                follower.requeued()


class CommitWatch:
    """Woken after each commit of events."""

    def __init__(self, forget: Callable[[CommitWatch], None]) -> None:
        self._event = asyncio.Event()
        self._forget = forget

    def wake(self) -> None:
        """Something was committed."""
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        self._forget(self)
