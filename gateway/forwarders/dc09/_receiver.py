"""What is known of the receiver: whether it answers, and what time it thinks it is."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from gateway.clock import Clock
from gateway.forwarders import Outlet
from gateway.forwarders._trouble import DOWN, Trouble

REPORT_AFTER_S = 20.0  # a receiver that is back sooner is a hiccup, not a fault for the duty desk


class Receiver:
    """Says once when the receiver is lost and once when it is back."""

    def __init__(self, outlet: Outlet, trouble: Trouble, *, address: str) -> None:
        self._clock = outlet.clock
        self._destination = outlet.destination
        self._trouble = trouble
        self._log = outlet.log.bind(address=address)
        self._up_metric = outlet.metrics.destination_up.labels(outlet.destination)
        self._offset_metric = outlet.metrics.clock_offset.labels(outlet.destination)
        self._down_since = outlet.clock.monotonic()
        self._was_logged_down = False
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._up_metric.set(0)
        self._offset = timedelta()

    @property
    def offset(self) -> timedelta:
        """Its clock minus ours, as its last NAK said. Of this receiver only; events keep our own time."""
        return self._offset

    @offset.setter
    def offset(self, offset: timedelta) -> None:
        self._offset = offset
        self._offset_metric.set(offset.total_seconds())

    def went_up(self) -> None:
        """It answered."""
        if not self._up.is_set():
            self._log.info("the receiver answers", down_s=round(self._clock.monotonic() - self._down_since, 1))
            self._up_metric.set(1)
            self._was_logged_down = False
            self._down.clear()
            self._up.set()

    def went_down(self, reason: str) -> None:
        """It cannot be reached, or stays silent."""
        if self._up.is_set():
            self._down_since = self._clock.monotonic()
            self._up.clear()
            self._down.set()
            self._up_metric.set(0)
        if not self._was_logged_down:
            self._was_logged_down = True
            self._log.warning("the receiver does not answer", reason=reason)

    async def report_outages(self) -> None:
        """Raise a communication fault for every outage that lasts, until cancelled."""
        while True:
            remaining_s = self._down_since + REPORT_AFTER_S - self._clock.monotonic()
            if self._up.is_set():
                await self._trouble.end(DOWN)  # also one that an earlier run has left
                await self._down.wait()
            elif remaining_s > 0:
                await first_of(self._clock, remaining_s, self._up)
            else:
                await self._trouble.begin(DOWN, f"{self._destination} 通信中断超过{REPORT_AFTER_S:.0f}秒")
                await self._up.wait()


async def first_of(clock: Clock, delay_s: float, event: asyncio.Event) -> None:
    """Return when the event is set, or after `delay_s`."""
    async with asyncio.TaskGroup() as group:
        tasks = group.create_task(clock.sleep(delay_s)), group.create_task(event.wait())
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
