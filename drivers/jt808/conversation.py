"""The conversation with terminals on one line: who may speak, what is news, and answers that leave after the commit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from drivers.jt808.frame import Frame, parse, split
from drivers.jt808.location import ALARMS
from drivers.jt808.messages import (
    ANSWER,
    AUTHENTICATE,
    BATCH,
    DEREGISTER,
    FAILED,
    LOCATED,
    LOCATION,
    OK,
    REGISTER,
    WRONG,
    Settings,
    ask_again,
    code,
    general,
    registered,
    reports,
    result_of,
    shows_code,
)  # fmt: skip
from drivers.jt808.parts import Parts
from gateway.driver import FACTS, FrameError, Kind, LinkClosed, Observation, Qualifier, Receipt, Session, Stream

TERMINALS_MAX = 10_000
"""Terminals whose last word is remembered, some 5 MB; of one that is forgotten the stored word counts, as after a start."""
TERMINALS_A_LINE_MAX = 64
"""A terminal has a line of its own; a relay that carries more than this is a mistake."""

Latest = Mapping[tuple[Kind, int | None], Qualifier]


@dataclass(slots=True)
class Terminal:
    """What a terminal said last, so that an alarm is news once."""

    bits: set[int]
    """The alarm bits of its last word."""
    is_suspect: bool
    """Somebody has spoken in its name without its code, and it has not shown it since."""
    changed: dict[int, datetime] = field(default_factory=dict)
    """When, by its own time, a bit last changed."""

    @classmethod
    def stored(cls, latest: Latest) -> Terminal:
        """As the store has it."""
        bits = {bit for bit, alarm in ALARMS.items() if _stands(latest, alarm.kind, bit)}
        return cls(bits, is_suspect=_stands(latest, Kind.SECURITY, None))

    def news(self, report: Sequence[Observation]) -> Iterator[Observation]:
        """The position, alarms that were not there before, and the end of those that are gone."""
        position = report[0]
        yield position
        if len(report) == 1 and not self.bits:
            return
        gone = set(self.bits)
        for alarm in report[1:]:
            assert alarm.zone is not None
            gone.discard(alarm.zone)
            if alarm.zone not in self.bits and self._may_change(alarm.zone, position):
                self.bits.add(alarm.zone)
                yield alarm
        for bit in sorted(gone):
            if self._may_change(bit, position):
                self.bits.discard(bit)
                if not FACTS[ALARMS[bit].kind].momentary:
                    yield _ended(bit, position)

    def _may_change(self, bit: int, position: Observation) -> bool:
        """What is made up after a gap is older than what came meanwhile, and changes nothing that changed after it."""
        at, changed = position.at, self.changed.get(bit)
        if at is None:
            return True
        if changed is not None and at < changed and position.values.get("late"):
            return False
        self.changed[bit] = at
        return True


def _stands(latest: Latest, kind: Kind, zone: int | None) -> bool:
    return latest.get((kind, zone), Qualifier.RESTORE) is not Qualifier.RESTORE


def _ended(bit: int, position: Observation) -> Observation:
    key = position.repeat_key and position.repeat_key.removesuffix("position") + f"bit{bit}"
    alarm = ALARMS[bit]
    return replace(
        position,
        kind=alarm.kind,
        qualifier=Qualifier.RESTORE,
        zone=bit,
        code=f"bit{bit}",
        text=alarm.text,
        repeat_key=key,
    )


class Memory:
    """What the conversations of one connection share."""

    def __init__(self) -> None:
        self.speakers: dict[str, Conversation] = {}
        """Which conversation speaks for a terminal."""
        self._terminals: OrderedDict[str, Terminal] = OrderedDict()

    async def terminal(self, device: str, session: Session[Stream]) -> Terminal:
        found = self._terminals.get(device)
        if found is None:
            found = self._terminals.setdefault(device, Terminal.stored(await session.latest(device)))
            if len(self._terminals) > TERMINALS_MAX:
                self._terminals.popitem(last=False)
        self._terminals.move_to_end(device)
        return found

    def forget(self, device: str) -> None:
        """What was reported of it was not stored: the stored word counts again."""
        self._terminals.pop(device, None)


class Conversation:
    """One line."""

    def __init__(self, session: Session[Stream]) -> None:
        self._session = session
        self._settings: Settings = session.context.settings or Settings()
        self._memory: Memory = session.memory or Memory()
        self._admitted: set[str] = set()
        self._parts = Parts()
        self._life = asyncio.timeout(None)

    async def run(self) -> None:
        """Ends by LinkClosed."""
        try:
            async with self._life:
                await self._hear()
        except TimeoutError:
            raise LinkClosed("its terminal has dialled in again") from None
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
        if not is_known or not shows_code(frame, self._session.context) or not self._admit(frame.device):
            self._reply(general(frame, FAILED))
            await self._suspect(frame, f"{frame.device} does not show the code it was given", "鉴权码错误")
            return
        terminal = await self._memory.terminal(frame.device, self._session)
        seen = list(reports(frame)[0])
        if terminal.is_suspect:
            terminal.is_suspect = False
            seen.append(Observation(frame.device, Kind.SECURITY, Qualifier.RESTORE, text="终端已重新鉴权"))
        self._session.link.answer(general(frame, OK), after=await self._report(frame.device, seen))

    def _admit(self, device: str) -> bool:
        """The terminal speaks here from now on: the line it had before is dead."""
        if device not in self._admitted and len(self._admitted) >= TERMINALS_A_LINE_MAX:
            return False
        before = self._memory.speakers.get(device)
        if before is not None and before is not self:
            before.lose(device)
        self._memory.speakers[device] = self
        self._admitted.add(device)
        return True

    def lose(self, device: str) -> None:
        """The terminal speaks elsewhere. The line ends with its last one."""
        self._admitted.discard(device)
        if not self._admitted:
            self._life.reschedule(asyncio.get_running_loop().time())

    def _dismiss(self, device: str) -> None:
        self._admitted.discard(device)
        if self._memory.speakers.get(device) is self:
            del self._memory.speakers[device]

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
        """Report what is news, and answer once it is stored. Of a message in parts the last one waits for that."""
        try:
            whole = self._whole(frame)
            found = reports(whole)
        except FrameError as error:
            self._session.reject(frame.raw, error)
            self._reply(general(frame, WRONG))
            return
        seen = [news for report in found for news in await self._news(report)]
        if frame.device not in self._admitted:
            seen = [replace(one, values={**one.values, "authenticated": False}) for one in seen]
        receipt = await self._report(frame.device, seen)
        if frame.id != ANSWER:
            self._session.link.answer(general(frame, result_of(frame, self._session.context)), after=receipt)
        if frame.id == DEREGISTER:
            self._dismiss(frame.device)

    async def _news(self, report: Sequence[Observation]) -> Sequence[Observation]:
        if report[0].kind is not Kind.POSITION:
            return report
        return list((await self._memory.terminal(report[0].device, self._session)).news(report))

    def _whole(self, frame: Frame) -> Frame:
        """The message that this part completes, else the part alone, which says nothing yet. Raises FrameError."""
        if not frame.is_part or frame.id not in (LOCATION, LOCATED, BATCH):
            return frame
        return self._parts.add(frame, self._session.clock.monotonic()) or frame

    def _chase(self, frame: Frame) -> None:
        """Ask for parts that got lost, whenever the terminal is heard: a silent one could not answer."""
        try:
            for first_serial, missing in self._parts.overdue(frame.device, self._session.clock.monotonic()):
                self._reply(ask_again(frame, first_serial, missing))
        except FrameError as error:
            self._session.reject(frame.raw, error)

    async def _report(self, device: str, seen: Sequence[Observation]) -> Receipt:
        try:
            receipt = await self._session.report(seen)
        except BaseException:
            self._memory.forget(device)
            raise
        receipt.when_settled(lambda settled: self._memory.forget(device) if settled.error is not None else None)
        return receipt

    def _reply(self, data: bytes) -> None:
        """What needs no commit, behind the answers that wait for one."""
        self._session.link.answer(data, after=Receipt.settled())


async def run(session: Session[Stream]) -> None:
    """Ends by LinkClosed."""
    await Conversation(session).run()
