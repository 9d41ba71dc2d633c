"""One standing communication fault per destination, however many reasons it has at a time."""

from __future__ import annotations

from gateway.forwarders import Report
from gateway.model import Kind, Qualifier


class Trouble:
    """Reports a new fault for each reason that begins, and the restore when the last one has ended."""

    def __init__(self, report: Report, destination: str) -> None:
        self._report = report
        self._destination = destination
        self._standing: set[str] = set()

    def recall(self, reason: str) -> None:
        """The reason stood before this start and was reported then."""
        self._standing.add(reason)

    async def begin(self, reason: str, text: str) -> None:
        """Report unless this reason stands already."""
        if reason not in self._standing:
            self._standing.add(reason)
            await self._report(Kind.COMM_FAULT, Qualifier.NEW, text)

    async def end(self, reason: str) -> None:
        """Report the restore when nothing else stands."""
        if reason in self._standing:
            self._standing.discard(reason)
            if not self._standing:
                await self._report(Kind.COMM_FAULT, Qualifier.RESTORE, f"通信恢复 {self._destination}")
