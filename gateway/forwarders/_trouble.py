"""One standing communication fault per destination, however many reasons it has at a time."""

from __future__ import annotations

from gateway.errors import StoreError
from gateway.forwarders import Outlet, device_of
from gateway.model import Kind, Qualifier

STORE_RETRY_S = 1.0  # while the disk fails; a second is what the store itself waits between its own tries
DOWN = "down"
"""The reason that ends when the receiver answers."""


class Trouble:
    """Reports a new fault for each reason that begins, and the restore when the last one has ended."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._standing: set[str] = set()

    async def recall(self) -> None:
        """Take up the fault that the last run reported and did not see the end of, as an outage. Raises StoreError."""
        latest = await self._outlet.store.latest(device_of(self._outlet.destination))
        if latest.get((Kind.COMM_FAULT, None), Qualifier.RESTORE) is not Qualifier.RESTORE:
            self._standing.add(DOWN)

    async def still(self, reason: str, text: str) -> None:
        """The reason is older than this start. It is reported now when no fault stands from then."""
        if self._standing:
            self._standing.add(reason)
        else:
            await self.begin(reason, text)

    async def begin(self, reason: str, text: str) -> None:
        """Report unless this reason stands already."""
        if reason not in self._standing:
            self._standing.add(reason)
            await self._report(Qualifier.NEW, text)

    async def end(self, reason: str) -> None:
        """Report the restore when nothing else stands."""
        if reason in self._standing:
            self._standing.discard(reason)
            if not self._standing:
                await self._report(Qualifier.RESTORE, f"{self._outlet.destination} 通信恢复")

    async def _report(self, qualifier: Qualifier, text: str) -> None:
        while True:
            try:
                return await self._outlet.report(Kind.COMM_FAULT, qualifier, text)
            except StoreError:  # the store's own fault is reported by its owner
                await self._outlet.clock.sleep(STORE_RETRY_S)
