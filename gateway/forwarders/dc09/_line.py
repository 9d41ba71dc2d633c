"""The line to the receiver: connect, talk until it breaks, wait a little, connect again."""

from __future__ import annotations

import asyncio

from gateway.backoff import Backoff
from gateway.errors import LinkClosed, StoreError
from gateway.forwarders import Outlet
from gateway.forwarders._outbox import Outbox
from gateway.forwarders.dc09._conversation import ANSWERS, Conversation, NoAnswerInTime
from gateway.forwarders.dc09._receiver import Receiver, first_of
from gateway.forwarders.dc09._settings import Keys, Settings
from gateway.forwarders.dc09._window import Window
from gateway.kinds import Lane

LIFE_RETRY_MOST_S = 2.0  # a receiver that is back after an hour must not be found a minute later by somebody's panic


class Line:
    """One destination's line, over as many connections as it takes."""

    def __init__(self, outlet: Outlet, settings: Settings, keys: Keys, outbox: Outbox) -> None:
        self._outlet = outlet
        self._settings = settings
        self._keys = keys
        self._outbox = outbox
        self._receiver = Receiver(outlet, outbox.trouble, address=settings.connect)
        self._window = Window(settings.window)
        self._backoff = Backoff(outlet.random)
        self._begin_with_null = False
        for answer in ANSWERS:
            outlet.metrics.answers.labels(outlet.destination, answer)
        for lane in Lane:
            outlet.metrics.sent.labels(outlet.destination, lane.name.lower())

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receiver.report_outages(), name=f"{self._outlet.destination} outages")
            group.create_task(self._connect_for_ever(), name=f"{self._outlet.destination} connect")

    async def _connect_for_ever(self) -> None:
        await self._outbox.is_read.wait()
        while True:
            talk: Conversation | None = None
            try:
                talk = await self._connected()
                await talk.run(begin_with_null=self._begin_with_null)
            except (OSError, LinkClosed, StoreError) as reason:
                await self._pause(talk, reason)

    async def _connected(self) -> Conversation:
        host, _, port = self._settings.connect.rpartition(":")
        async with asyncio.timeout(self._settings.answer_within_s):
            reader, writer = await self._outlet.connect(host.strip("[]"), int(port))
        return Conversation(
            self._outlet,
            receiver=self._receiver,
            window=self._window,
            settings=self._settings,
            keys=self._keys,
            outbox=self._outbox,
            reader=reader,
            writer=writer,
        )

    async def _pause(self, talk: Conversation | None, reason: Exception) -> None:
        """Judge the conversation that has ended, and wait as long as it deserves."""
        is_proven = talk is not None and talk.is_proven
        is_idle = self._outbox.is_empty
        if not is_proven or isinstance(reason, NoAnswerInTime):
            self._receiver.went_down(str(reason) or type(reason).__name__)
        if isinstance(reason, StoreError):
            self._outlet.log.warning("no sequence number can be stored", error=str(reason))
            self._outbox.read_again()
        if (talk is not None and talk.decided) or (is_proven and is_idle):
            self._backoff.reset()
            self._begin_with_null = False
        else:
            # An event that stays unanswered by its own fault must not keep the line from being proven: next time a
            # NULL goes first, and after that an event again, for a receiver that answers no NULL.
            self._begin_with_null = not self._begin_with_null
        if is_proven and is_idle:
            # A receiver that hangs up after each answer is not called in a circle.
            self._outbox.changed.clear()
            await first_of(self._outlet.clock, self._settings.null_every_s, self._outbox.changed)
        await self._back_off()

    async def _back_off(self) -> None:
        """Wait as long as the failures so far ask for; less where a life event waits, or comes meanwhile."""
        left_s = self._backoff.next_s()
        while left_s > 0:
            step_s = min(left_s, LIFE_RETRY_MOST_S)
            await self._outlet.clock.sleep(step_s)
            left_s = 0 if self._outbox.holds(Lane.LIFE) else left_s - step_s
