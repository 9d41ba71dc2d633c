"""The conversation with all readers of a line: ask, listen, report, obey."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from drivers.osdp.frame import Command, parse, split
from drivers.osdp.meaning import Level, credentials, known, levels
from drivers.osdp.obey import AMBER, GREEN, LOCATE_S, ORDERS_MAX, evidence, light, refusal, said
from drivers.osdp.panel import REPLY_WITHIN_S, Member, Panel
from drivers.osdp.reader import Answer, Conversation
from drivers.osdp.settings import Reader, Settings, reader_key
from gateway.driver import Act, FrameError, Kind, Observation, Order, Session, Stream

TURNAROUND_S = 0.002
"""Two characters at 9600 baud between an answer and the next command: the reader's line driver must have let go."""
GAP_S = 0.02
"""Within one answer; USB adapters hand on what they have every 16 ms."""
ANSWER_S_MAX = REPLY_WITHIN_S + 0.3
"""Begun and ended: the longest frame at 9600 baud. A line that never falls silent is not listened to for longer."""
HEARD_EVERY_S = 1.0
"""How often the gateway is told that a reader lives, which answers twenty times a second."""
ORDER_REPEATED_S = 1.0
"""An order that is not answered is said again for as long: a door must not open when nobody expects it any more."""
OUTPUT_EVERY_S = 1.0
"""How often a strike that is on is looked at: many readers do not say by themselves when its time has run out."""
HEARD_BYTES_MAX = 8192
"""More than any answer, read or not, between two turns: a line that babbles."""
HEAD_BYTES = 6
"""What is kept of a refused frame: behind its head may stand a card's number."""


async def run(session: Session[Stream]) -> None:
    """Poll for ever. Ends by LinkClosed, or by StoreError when an event could not be stored."""
    settings: Settings = session.context.settings
    line = Line(session, [await _member(session, reader) for reader in settings.readers])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(line.hear(), name="hear")
        tasks.create_task(line.talk(), name="talk")
        tasks.create_task(line.obey(), name="obey")


async def _member(session: Session[Stream], reader: Reader) -> Member:
    talk = Conversation(reader.address, reader_key(reader, session.context), has_crc=reader.check == "crc")
    now_s = session.clock.monotonic()
    stored = known(await session.latest(reader.device))
    return Member(reader, talk, stored, due_s=now_s, answered_s=now_s, served_s=now_s)


class Line:
    """One line in use."""

    def __init__(self, session: Session[Stream], members: list[Member]) -> None:
        self._session = session
        self._clock = session.clock
        self._members = members
        self._panel = Panel(members)
        self._buffer = bytearray()
        self._changed = asyncio.Event()
        """Bytes, a receipt or an order have come."""

    async def hear(self) -> None:
        """Take what comes."""
        while True:
            self._buffer += await self._session.link.read()
            if len(self._buffer) > HEARD_BYTES_MAX:
                self._buffer.clear()
            self._changed.set()

    def _overhear(self) -> None:
        """What came while nobody waited for it: the answer of a reader that is slow, or noise. Half a frame stays: its
        other half is on the way."""
        for frame in split(self._buffer):
            with suppress(FrameError):
                parsed = parse(frame)
                if parsed.is_reply:
                    self._panel.overheard(parsed.address, self._clock.monotonic())

    async def obey(self) -> None:
        """Put each order to the reader it is for."""
        members = {member.reader.device: member for member in self._members}
        async for order in self._session.orders:
            member = members.get(order.command.device)
            if member is None or len(member.orders) >= ORDERS_MAX:
                order.failed("no such reader on this line" if member is None else f"{ORDERS_MAX} orders wait already")
                continue
            member.orders.append(order)
            self._changed.set()

    async def talk(self) -> None:
        """Give each reader its turn."""
        while True:
            self._collect_receipts()
            now_s = self._clock.monotonic()
            member = self._panel.next(now_s)
            if member is None:
                await self._wait(self._panel.wait_s(now_s))
            else:
                await self._turn(member)
                await self._clock.sleep(TURNAROUND_S)

    def _collect_receipts(self) -> None:
        for member in self._members:
            if member.receipt is not None and member.receipt.is_settled:
                if member.receipt.error is not None:
                    raise member.receipt.error
                member.receipt = None

    async def _wait(self, seconds: float) -> None:
        """Until something comes, or so long."""
        self._changed.clear()
        async with asyncio.TaskGroup() as tasks:
            either = {tasks.create_task(self._changed.wait()), tasks.create_task(self._clock.sleep(seconds))}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()

    # -- one turn --------------------------------------------------------------------------------------------------------

    async def _turn(self, member: Member) -> None:
        """Ask once, and report what that shows."""
        order = self._prepare(member)
        asked_s = self._clock.monotonic()
        request = member.talk.request()
        self._overhear()
        await self._session.link.write(request)
        if order is not None:
            order.sent()
        patience_s = self._panel.patience_s(member, len(request), asked_s)
        began_s, answer = await self._listen(member, asked_s, patience_s)
        now_s = self._clock.monotonic()
        if began_s is None:
            self._panel.missed(member, now_s=now_s)
        else:
            self._panel.answered(member, size=len(request), lag_s=began_s - asked_s, asked_s=asked_s, now_s=now_s)
        await self._tell(member, answer, now_s)

    def _prepare(self, member: Member) -> Order | None:
        """Let the next request be one of ours, if there is one; the order that it carries."""
        now_s = self._clock.monotonic()
        if member.talk.is_asked and now_s - member.order_s > ORDER_REPEATED_S:
            member.talk.restart()
        if not member.is_wanted:
            return None
        member.order_s = now_s
        if member.asks:
            member.talk.ask(*member.asks.popleft())
            return None
        order = member.orders.popleft()
        content = said(member.reader, order.command, self._clock.now())
        if isinstance(content, str):
            order.failed(content)
        elif not order.is_late():
            member.talk.ask(content, partial(self._obeyed, member, order))
            return order
        return None

    async def _listen(self, member: Member, asked_s: float, patience_s: float) -> tuple[float | None, Answer | None]:
        """When the answer began, None without one that can be believed; and what it says once in service."""
        began_s: float | None = None
        until_s = asked_s + patience_s
        while (left_s := until_s - self._clock.monotonic()) > 0:
            await self._wait(left_s)
            if not self._buffer:
                continue
            now_s = self._clock.monotonic()
            began_s = now_s if began_s is None else began_s
            until_s = min(asked_s + ANSWER_S_MAX, max(until_s, now_s + GAP_S))
            for frame in split(self._buffer):
                try:
                    parsed = parse(frame)
                    if not parsed.is_reply:
                        continue  # an adapter that hears itself
                    if parsed.address != member.reader.address:
                        self._panel.overheard(parsed.address, now_s)
                    return began_s, member.talk.answered(parsed)
                except FrameError as error:
                    self._session.reject(frame[:HEAD_BYTES], error)
        return None, None

    # -- what it shows ---------------------------------------------------------------------------------------------------

    async def _tell(self, member: Member, answer: Answer | None, now_s: float) -> None:
        """Report what is news. The reader is asked again only once that is on disk."""
        news = self._state(member, answer, now_s)
        if answer is not None:
            if now_s - member.told_s >= HEARD_EVERY_S:
                member.told_s = now_s
                self._session.heard(member.reader.device)
            news += self._substance(member, answer, now_s)
        if news:
            member.receipt = await self._session.report(news)
            member.receipt.when_settled(lambda _: self._changed.set())

    def _state(self, member: Member, answer: Answer | None, now_s: float) -> list[Observation]:
        """Whether it is there, and whether it can be trusted."""
        reader, trouble = member.reader, member.talk.trouble
        seen = []
        if trouble is not None or answer is not None:
            seen.append(Level(Kind.SECURITY, None, trouble is not None))
        if answer is not None or member.is_lost(now_s):
            seen.append(Level(Kind.COMM_FAULT, None, answer is None))
        news = member.known.edges(reader, seen, text=trouble)
        for edge in news:
            self._session.log.warning(
                "a reader changed", device=reader.device, kind=edge.kind, qualifier=edge.qualifier, trouble=trouble
            )
        return news

    def _substance(self, member: Member, answer: Answer, now_s: float) -> list[Observation]:
        reader = member.reader
        try:
            seen = levels(reader, answer.code, answer.data)
            cards = credentials(reader, answer.code, answer.data, member.keys, self._session.context, now_s=now_s)
        except FrameError as error:
            self._session.reject(bytes([answer.code]), error)
            return []
        news = member.known.edges(reader, seen, bytes([answer.code]) + answer.data)
        is_on = member.known.active.get((Kind.UNLOCKED, reader.strike), False)
        if is_on and now_s >= member.output_s and not member.asks:
            member.output_s = now_s + OUTPUT_EVERY_S
            member.asks.append((bytes([Command.OSTAT]), lambda _: None))
        return [*news, *cards]

    # -- orders ----------------------------------------------------------------------------------------------------------

    def _obeyed(self, member: Member, order: Order, answer: Answer | None) -> None:
        """The reader has answered an order, or never will."""
        act = order.command.act
        if (why := refusal(answer)) is not None:
            order.failed(why)
        elif act is Act.LOCATE:
            order.executed("ACK of the reader")
            member.asks.append((light(AMBER, LOCATE_S), lambda _: None))
        else:
            member.asks.append((bytes([Command.OSTAT]), partial(self._shown, member, order)))

    def _shown(self, member: Member, order: Order, output: Answer | None) -> None:
        """Its own report of its outputs, where it gives one."""
        act = order.command.act
        is_so, words = evidence(member.reader, act, output)
        if not is_so:
            order.failed(words)
            return
        order.executed(words)
        if act is Act.OPEN:
            member.asks.append((light(GREEN, order.command.seconds or member.reader.open_s, off=GREEN), lambda _: None))
