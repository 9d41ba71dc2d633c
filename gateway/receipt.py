"""A receipt: the store's promise that an observation is on disk, or its word that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

from gateway.errors import StoreError

SETTLE_WITHIN_S = 1.0
"""Whoever closes a line in order waits this long for commits under way, which take milliseconds, and answers."""


@dataclass(slots=True)
class Series:
    """The reports of one conversation. They are stored in their order: after one that was not, none is any more, or its
    repeat would stand behind them (an alarm behind its own restore)."""

    is_broken: bool = False
    """Set and read where the commits are made; whoever sees it ends the conversation."""


class Receipt:
    """Settles once, on the event loop, after the commit it belongs to. Await it or give it to `answer(after=...)`."""

    __slots__ = ("_callbacks", "_error", "_settled", "repeats")

    def __init__(self) -> None:
        self._settled = False
        self._error: StoreError | None = None
        self._callbacks: list[Callable[[Receipt], None]] = []
        self.repeats: Collection[int] = ()
        """Positions, in what was handed over, of what was stored already; known once settled."""

    @classmethod
    def settled(cls) -> Receipt:
        """A receipt for something that needed no commit (a heartbeat, a refused frame)."""
        receipt = cls()
        receipt.settle()
        return receipt

    @classmethod
    def of_all(cls, receipts: Sequence[Receipt]) -> Receipt:
        """Settles with the last of `receipts`, and fails when one of them has."""
        if len(receipts) == 1:
            return receipts[0]
        whole = cls()

        def one_settled(_: Receipt) -> None:
            if not whole.is_settled and all(receipt.is_settled for receipt in receipts):
                whole.settle(next((receipt.error for receipt in receipts if receipt.error), None))

        if not receipts:
            whole.settle()
        for receipt in receipts:
            receipt.when_settled(one_settled)
        return whole

    @property
    def is_settled(self) -> bool:
        return self._settled

    @property
    def error(self) -> StoreError | None:
        """Why the commit failed; None while open and after success."""
        return self._error

    def settle(self, error: StoreError | None = None, repeats: Collection[int] = ()) -> None:
        """Called by the store, on the loop, exactly once."""
        assert not self._settled, "a receipt settles once"
        self._settled = True
        self.repeats = repeats
        self._error = error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception as fault:  # noqa: BLE001  # the boundary between those who wait: one fails, the rest are told
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "told of a settled receipt, a callback failed", "exception": fault}
                )

    def when_settled(self, callback: Callable[[Receipt], None]) -> None:
        """Call `callback` on settling; at once when already settled."""
        if self._settled:
            callback(self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[object, None, None]:
        """Return when the commit is on disk; raise StoreError when it is not."""
        if not self._settled:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_settled(lambda _: None if future.done() else future.set_result(None))
            yield from future
        if self._error is not None:
            raise self._error
