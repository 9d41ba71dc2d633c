"""The conversation with terminals on one line: who may speak, what is news, and answers that leave after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from drivers.jt808.frame import Frame, parse, split
from drivers.jt808.messages import (
    ANSWER,
    AUTHENTICATE,
    DEREGISTER,
    FAILED,
    LOCATED,
    LOCATIONS,
    OK,
    REGISTER,
    WRONG,
    Settings,
    answered,
    ask_again,
    code,
    general,
    locate,
    refused,
    registered,
    reports,
    result_of,
    shows_code,
)  # fmt: skip
from drivers.jt808.parts import Parts
from drivers.jt808.terminals import Memory
from gateway.driver import FrameError, Kind, LinkClosed, Observation, Qualifier, Receipt, Session, Stream

LIVE_MAX, LATE_MAX = timedelta(days=1), timedelta(days=366)
"""How old a report, and one made up after a gap, may be for its time to count. Clocks that were never set begin with the date
of the firmware or earlier."""
ASKED_MAX = 64
"""Commands on one line that wait for an answer; a person asks for one."""
TERMINALS_A_LINE_MAX = 64
"""A terminal has a line of its own; a relay that carries more than this is a mistake."""


class Conversation:
    """One line."""

    def __init__(self, session: Session[Stream]) -> None:
        self._session = session
        self._settings: Settings = session.context.settings or Settings()
        self._memory: Memory = session.memory or Memory()
        self._admitted: dict[str, Frame] = {}
        """Terminals that have shown their code here, with a frame of each to answer in its form."""
        self._parts = Parts()
        self._asked: dict[int, str] = {}
        """Commands without an answer, by the serial number they left under."""
        self._serial = 0
        self._life = asyncio.timeout(None)

    async def run(self) -> None:
        """Ends by LinkClosed."""
        try:
            async with self._life, asyncio.TaskGroup() as group:
                group.create_task(self._obey(), name="orders")
                await self._hear()
        except TimeoutError:
            raise LinkClosed("its terminal has dialled in again") from None
        except ExceptionGroup as ended:  # a lost line is to end this as plain LinkClosed, as with every other driver
            lost, others = ended.split(LinkClosed)
            if lost is None or others is not None:
                raise
            raise LinkClosed(str(lost.exceptions[0])) from None
        finally:
            for device in list(self._admitted):
                self._dismiss(device)

    async def _hear(self) -> None:
        buffer = bytearray()
        while True:
            buffer += await self._session.link.read()
            for raw in split(buffer):
                try:
                    frame = parse(raw)
                except FrameError as error:
                    self._session.reject(raw, error)
                    continue
                await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        if frame.id == REGISTER:
            self._register(frame)
        elif frame.id == AUTHENTICATE:
            await self._authenticate(frame)
        elif frame.device in self._admitted or self._settings.unauthenticated == "record":
            await self._keep(frame)
            self._chase(frame)
        else:
            await self._suspect(frame, f"{frame.device} has not authenticated on this line", "未鉴权即上报")

    # -- who may speak ---------------------------------------------------------------------------------------------------

    def _register(self, frame: Frame) -> None:
        is_known = self._settings.accept == "open" or self._session.is_enrolled(frame.device)
        if not is_known:
            self._session.reject(frame.raw, FrameError(f"{frame.device} is not enrolled", "unknown_device"))
        self._reply(registered(frame, code(frame.device, self._session.context) if is_known else None))

    async def _authenticate(self, frame: Frame) -> None:
        is_known = self._settings.accept == "open" or self._session.is_enrolled(frame.device)
        if not is_known or not shows_code(frame, self._session.context) or not self._admit(frame):
            self._reply(general(frame, FAILED))
            await self._disbelieve(frame)
            return
        terminal = await self._memory.terminal(frame.device, self._session)
        terminal.showed_another = False
        seen = list(reports(frame)[0])
        if terminal.is_suspect:
            terminal.is_suspect = False
            seen.append(Observation(frame.device, Kind.SECURITY, Qualifier.RESTORE, text="终端已重新鉴权"))
        self._session.link.answer(general(frame, OK), after=await self._report(frame.device, seen))

    def _admit(self, frame: Frame) -> bool:
        """The terminal speaks here from now on: the line it had before is dead."""
        device = frame.device
        if device not in self._admitted and len(self._admitted) >= TERMINALS_A_LINE_MAX:
            return False
        before = self._memory.speakers.get(device)
        if before is not None and before is not self:
            before.lose(device)
        self._memory.speakers[device] = self
        self._admitted[device] = frame
        return True

    def lose(self, device: str) -> None:
        """The terminal speaks elsewhere. The line ends with its last one."""
        self._admitted.pop(device, None)
        if not self._admitted:
            self._life.reschedule(asyncio.get_running_loop().time())

    def _dismiss(self, device: str) -> None:
        self._admitted.pop(device, None)
        if self._memory.speakers.get(device) is self:
            del self._memory.speakers[device]

    async def _disbelieve(self, frame: Frame) -> None:
        """Refuse a code. Whoever shows another one again has not registered anew, as terminals do after a rotation."""
        reason = f"{frame.device} does not show the code it was given"
        if self._session.is_enrolled(frame.device):
            terminal = await self._memory.terminal(frame.device, self._session)
            if not terminal.showed_another:
                terminal.showed_another = True
                self._session.reject(frame.raw, FrameError(reason, "spoofed"))
                return
        await self._suspect(frame, reason, "鉴权码错误")

    async def _suspect(self, frame: Frame, reason: str, text: str) -> None:
        """Refuse. Of an enrolled terminal it is told too, once until it shows its code; strangers are only counted, or
        anybody could fill the store with them."""
        self._session.reject(frame.raw, FrameError(reason, "spoofed"))
        if not self._session.is_enrolled(frame.device):
            return
        terminal = await self._memory.terminal(frame.device, self._session)
        if not terminal.is_suspect:
            terminal.is_suspect = True
            await self._report(frame.device, [Observation(frame.device, Kind.SECURITY, text=text, raw=frame.raw)])

    # -- what it says ----------------------------------------------------------------------------------------------------

    async def _keep(self, frame: Frame) -> None:
        """Report what is news, and answer once it is stored."""
        try:
            whole = self._whole(frame)
            found = reports(whole)
        except FrameError as error:
            self._session.reject(frame.raw, error)
            self._reply(general(frame, WRONG))
            return
        seen = [news for report in found for news in await self._news(report, whole.serial)]
        if frame.device in self._admitted:
            self._settle_order(whole)
        else:
            seen = [replace(one, values={**one.values, "authenticated": False}) for one in seen]
        receipt = await self._report(frame.device, seen)
        for one in _answerable(frame, whole):
            self._session.link.answer(general(one, result_of(one, self._session.context)), after=receipt)
        if frame.id == DEREGISTER:
            self._dismiss(frame.device)

    async def _news(self, report: Sequence[Observation], serial: int) -> Sequence[Observation]:
        if report[0].kind is not Kind.POSITION:
            return report
        if not self._has_true_time(report[0]):
            report = [replace(one, repeat_key=None) for one in report]
        terminal = await self._memory.terminal(report[0].device, self._session)
        return list(terminal.news(report, serial, self._session.clock.monotonic(), self._session.clock.now()))

    def _has_true_time(self, position: Observation) -> bool:
        """A clock that starts at the same moment whenever the terminal does would give old keys to new alarms."""
        limit = LATE_MAX if position.values.get("late") else LIVE_MAX
        return position.at is not None and position.at > self._session.clock.now() - limit

    def _whole(self, frame: Frame) -> Frame:
        """The message that this part completes, else the part alone, which says nothing yet. Raises FrameError."""
        if not frame.is_part or frame.id not in LOCATIONS:
            return frame
        return self._parts.add(frame, self._session.clock.monotonic()) or frame

    def _chase(self, frame: Frame) -> None:
        """Ask for parts that got lost, whenever the terminal is heard: a silent one could not answer."""
        try:
            for first_serial, missing in self._parts.overdue(frame.device, self._session.clock.monotonic()):
                self._reply(ask_again(frame, first_serial, missing))
        except FrameError as error:
            self._session.reject(frame.raw, error)

    # -- what it is asked --------------------------------------------------------------------------------------------------

    async def _obey(self) -> None:
        """Ask terminals where they are, for ever."""
        async for order in self._session.orders:
            to = self._admitted.get(order.command.device)
            if to is None:
                order.failed("the terminal has not authenticated on this line")
                continue
            if order.is_late():
                continue
            self._serial = (self._serial + 1) & 0xFFFF
            self._asked[self._serial] = order.command.id
            if len(self._asked) > ASKED_MAX:
                del self._asked[next(iter(self._asked))]
            await self._session.link.write(locate(to, self._serial))
            order.sent()

    def _settle_order(self, frame: Frame) -> None:
        """A position that was asked for is the evidence; so is a refusal."""
        if frame.id not in (LOCATED, ANSWER) or frame.is_part or len(frame.body) < 2:
            return
        command_id = self._asked.get(int.from_bytes(frame.body[:2], "big"))
        order = self._session.orders.awaiting(command_id) if command_id else None
        if order is None or order.command.device != frame.device:
            return
        if frame.id == LOCATED:
            order.executed(answered(frame.body[2:]))
        elif (refusal := refused(frame.body)) is not None:
            order.failed(refusal)

    async def _report(self, device: str, seen: Sequence[Observation]) -> Receipt:
        try:
            receipt = await self._session.report(seen)
        except BaseException:
            self._memory.forget(device)
            raise
        if all(one.kind is Kind.HEARTBEAT for one in seen):
            return receipt
        receipt = (await self._memory.terminal(device, self._session)).reported(receipt, self)
        receipt.when_settled(lambda settled: self._settled(device, settled))
        return receipt

    def _settled(self, device: str, receipt: Receipt) -> None:
        if receipt.error is not None:
            self._memory.forget(device)
        else:
            self._memory.answered(device, self._session.clock.monotonic())

    def _reply(self, data: bytes) -> None:
        """What needs no commit, behind the answers that wait for one."""
        self._session.link.answer(data, after=Receipt.settled())


def _answerable(frame: Frame, whole: Frame) -> Sequence[Frame]:
    """What gets an answer now: all but the terminal's own answers. Of a message in parts the last one waits for all others, so that
    the terminal holds on to it; a terminal that sends one part at a time may go on meanwhile."""
    is_last = frame.index == frame.total
    if frame.id == ANSWER or (frame.is_part and frame.id in LOCATIONS and whole.is_part and is_last):
        return []
    if whole.is_part or is_last:
        return [frame]
    return [frame, replace(frame, index=frame.total, serial=(whole.serial + frame.total - 1) & 0xFFFF)]


async def run(session: Session[Stream]) -> None:
    """Ends by LinkClosed."""
    await Conversation(session).run()
