"""One TCP connection to the receiver, from its first frame to its last.

One frame is out per account, many accounts at once; an answer belongs to a frame by sequence number and account.
Whatever is not answered when the connection ends goes back to the outbox and is sent again under the same number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gateway.codecs import dc09
from gateway.codecs.dc09 import Message
from gateway.errors import FrameError, LinkClosed, StoreError
from gateway.forwarders import Outlet
from gateway.forwarders._lanes import LANES
from gateway.forwarders._outbox import Outbox
from gateway.forwarders.dc09._message import event_message, null_message
from gateway.forwarders.dc09._receiver import Receiver
from gateway.forwarders.dc09._settings import Keys, Settings, number_of
from gateway.forwarders.dc09._window import Window
from gateway.model import Delivery, Lane

READ_BYTES = 65_536  # a thousand answers
CORRECTIONS_MAX = 3  # NAKs in a row that each name another time: a receiver whose clock runs wild is called again later
SAME_TIME = timedelta(seconds=2)  # a NAK that names the offset in use is the echo of a frame from before the correction
UNANSWERED_MAX = (
    5  # answers missing for one event on a line that works: it steps aside, the others must not wait for it
)
STEP_ASIDE_S = 60.0

ANSWERS = ("ack", "rsp", "duh", "nak", "unreadable", "foreign", "unprotected", "missing")
"""What is counted: the receiver's words, those that are none, and the ones that did not come."""

_Key = tuple[int | None, int]


class NoAnswerInTime(LinkClosed):
    """The line is open and nobody answers: unlike a hang-up, a sign of a dead receiver."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame without its answer. `row` None: a NULL."""

    message: Message
    row: Delivery | None
    number: int
    deadline_s: float


class Conversation:
    """`run` ends by LinkClosed, OSError or StoreError."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        receiver: Receiver,
        window: Window,
        settings: Settings,
        keys: Keys,
        outbox: Outbox,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._receiver = receiver
        self._window = window
        self._outlet = outlet
        self._settings = settings
        self._keys = keys
        self._outbox = outbox
        self._reader = reader
        self._writer = writer
        self._clock = outlet.clock
        name, metrics = outlet.destination, outlet.metrics
        self._sent_metric = {lane: metrics.sent.labels(name, lane.name.lower()) for lane in Lane}
        self._answer_metric = {answer: metrics.answers.labels(name, answer) for answer in ANSWERS}
        self._out: dict[_Key, _Sent] = {}  # oldest first, all with the same deadline
        self._anything_out = asyncio.Event()
        self._heard_s = outlet.clock.monotonic()
        self._corrections = 0
        self.is_proven = False
        """The receiver has answered; before that only one frame is risked."""
        self.decided = 0
        """Events that are done with, accepted or not: what a connection is good for."""

    async def run(self, *, begin_with_null: bool) -> None:
        """Until the connection ends."""
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        async def until_ended(part: Coroutine[Any, Any, None]) -> None:
            # A child that fails inside a TaskGroup would, on Python 3.11, hide a stop that comes in the same moment.
            try:
                await part
            except (OSError, LinkClosed, StoreError) as error:
                if not ended.done():
                    ended.set_result(error)

        parts = self._hear(), self._send(begin_with_null=begin_with_null), self._watch_deadlines(), self._supervise()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(until_ended(part)) for part in parts]
                reason = await ended
                for task in tasks:
                    task.cancel()
        finally:
            self._writer.transport.abort()  # at once: what is still unsent goes out again elsewhere
            for sent in self._out.values():
                self._let_go(sent)
        raise reason

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _send(self, *, begin_with_null: bool) -> None:
        if begin_with_null or self._outbox.is_empty:
            self._send_null()
        while True:
            self._outbox.changed.clear()
            rows = self._choose()
            if not rows:
                await self._outbox.changed.wait()
                continue
            try:
                numbers = await self._outbox.numbers(rows)
            except BaseException:  # whatever it was, also a stop: the rows go on from where they came
                for row in rows:
                    self._outbox.put_back(row)
                raise
            self._send_events(zip(rows, numbers, strict=True))
            await self._writer.drain()

    def _choose(self) -> Sequence[Delivery]:
        """As many rows as the window takes; its last place is for the life lane."""
        rows: list[Delivery] = []
        window = self._window.size if self.is_proven else 1
        while (room := window - len(self._out) - len(rows)) > 0:
            row = self._outbox.take(LANES if room > 1 or window == 1 else (Lane.LIFE,))
            if row is None:
                break
            rows.append(row)
        return rows

    def _send_events(self, numbered: Iterable[tuple[Delivery, int]]) -> None:
        """All in one piece."""
        at = self._clock.now() + self._receiver.offset
        frames: list[bytes] = []
        for row, number in numbered:
            assert row.event.account is not None
            key = self._keys.of(row.event.account)
            try:
                message = event_message(row.event, number, self._settings, at=at, encrypted=key is not None)
                frames.append(dc09.build(message, key, self._outlet.random.randbytes))
            except FrameError as error:  # the event cannot be said, now or later
                self._outbox.refused(row, str(error), retry_s=None)
                continue
            self._expect(message, row, number)
            self._sent_metric[row.event.lane].inc()
            if self._outbox.is_repeat(row):
                self._outlet.metrics.resent.labels(self._outlet.destination).inc()
        self._writer.write(b"".join(frames))

    def _send_null(self) -> None:
        account = self._outlet.account.upper()
        if not self._outbox.reserve(account):
            return
        key = self._keys.of(account)
        at = self._clock.now() + self._receiver.offset
        message = null_message(account, self._settings, at=at, encrypted=key is not None)
        frame = dc09.build(message, key, self._outlet.random.randbytes)
        self._expect(message, None, 0)
        self._writer.write(frame)

    def _expect(self, message: Message, row: Delivery | None, number: int) -> None:
        deadline_s = self._clock.monotonic() + self._settings.answer_within_s
        self._out[_key(message)] = _Sent(message, row, number, deadline_s)
        self._anything_out.set()

    # -- hearing -------------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        buffer = bytearray()
        while data := await self._reader.read(READ_BYTES):
            buffer += data
            accepted: list[Delivery] = []
            try:
                for frame in dc09.split(buffer):
                    answer = self._read(frame)
                    accepted += self._answered(answer) if answer else ()
            finally:  # an answer that ends the connection takes nothing back from those before it
                if accepted:
                    self.decided += len(accepted)
                    self._outbox.accepted(accepted)
        raise LinkClosed("the receiver hung up")

    def _read(self, frame: bytes) -> Message | None:
        try:
            return dc09.parse(frame, self._keys.of)
        except FrameError as error:
            self._count("unreadable")
            self._outlet.log.debug("an answer cannot be read", error=str(error))
            return None

    def _answered(self, answer: Message) -> Sequence[Delivery]:
        """What this answer accepts. An answer that fits no open frame is counted and changes nothing."""
        if answer.token == dc09.NAK:
            self._correct(answer)
            return ()
        sent = self._out.get(_key(answer))
        if sent is None or answer.token not in (dc09.ACK, dc09.RSP, dc09.DUH):
            self._count("foreign")
            return ()
        if answer.token != dc09.DUH and sent.message.encrypted and not answer.encrypted:
            self._count("unprotected")  # anybody on the way could have said it
            return ()
        self._count(answer.token.lower())
        del self._out[_key(answer)]
        self._is_alive()
        self._window.answered()
        if sent.row is None:
            self._let_go(sent)
        elif answer.token == dc09.DUH:
            self.decided += 1
            is_alarm = sent.row.event.lane <= Lane.ALARM
            self._outbox.refused(sent.row, "DUH", retry_s=self._settings.retry_refused_s if is_alarm else None)
        else:
            return (sent.row,)
        return ()

    def _is_alive(self) -> None:
        self._heard_s = self._clock.monotonic()
        self._corrections = 0
        if not self.is_proven:
            self.is_proven = True
            self._receiver.went_up()
            self._outbox.changed.set()

    def _correct(self, nak: Message) -> None:
        """Take over the receiver's time. A NAK names no account, so everything open on this line goes again."""
        self._count("nak")
        if nak.timestamp is None:
            return
        offset = nak.timestamp - self._clock.now()
        if abs(offset - self._receiver.offset) <= SAME_TIME:
            return
        self._corrections += 1
        if self._corrections > CORRECTIONS_MAX:
            raise LinkClosed(f"the receiver named {self._corrections} different times in a row")
        self._receiver.offset = offset
        self._outlet.metrics.clock_offset.labels(self._outlet.destination).set(offset.total_seconds())
        open_frames = list(self._out.values())
        self._out.clear()
        for sent in open_frames:
            if sent.row is None:
                self._outbox.release(sent.message.account)
                self._send_null()
        self._send_events((sent.row, sent.number) for sent in open_frames if sent.row is not None)

    def _count(self, answer: str) -> None:
        self._answer_metric[answer].inc()

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch_deadlines(self) -> None:
        while True:
            if not self._out:
                self._anything_out.clear()
                await self._anything_out.wait()
                continue
            oldest = next(iter(self._out.values()))
            remaining_s = oldest.deadline_s - self._clock.monotonic()
            if remaining_s > 0:
                await self._clock.sleep(remaining_s)
            else:
                self._miss(oldest)

    def _miss(self, sent: _Sent) -> None:
        self._count("missing")
        if sent.row is not None and self.is_proven and self._outbox.missed(sent.row) >= UNANSWERED_MAX:
            self.decided += 1
            del self._out[_key(sent.message)]
            retry_s = STEP_ASIDE_S if sent.row.event.lane <= Lane.FAULT else None
            self._outbox.refused(sent.row, f"{UNANSWERED_MAX} times no answer", retry_s=retry_s)
        raise NoAnswerInTime(
            f"no answer to {sent.message.token} {sent.number:04d} of account {sent.message.account}"
            f" within {self._settings.answer_within_s:g} s"
        )

    async def _supervise(self) -> None:
        """On a quiet line ask now and then: silence must not look like peace."""
        while True:
            quiet_s = self._clock.monotonic() - self._heard_s
            if quiet_s < self._settings.null_every_s:
                await self._clock.sleep(self._settings.null_every_s - quiet_s)
                continue
            if not self._out:
                self._send_null()
            await self._clock.sleep(self._settings.answer_within_s)  # then it is answered, or the deadline has struck

    def _let_go(self, sent: _Sent) -> None:
        if sent.row is None:
            self._outbox.release(sent.message.account)
        else:
            self._outbox.put_back(sent.row)


def _key(message: Message) -> _Key:
    return number_of(message.account), message.sequence
