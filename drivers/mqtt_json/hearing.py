"""The conversation with a broker: which of what is said is news, and who is away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import TypeVar

from drivers.mqtt_json.masking import mask
from drivers.mqtt_json.obeying import Obeying
from drivers.mqtt_json.profile import bridge_of, profile_of, settings_of
from drivers.mqtt_json.reading import Reading, Said, read
from gateway.driver import (
    FrameError,
    Kind,
    LatestKey,
    LinkClosed,
    Message,
    Observation,
    Qualifier,
    Receipt,
    Session,
    Topics,
)

REMEMBERED_MAX = 10_000
"""Devices whose stored state is kept at hand (the store is asked about others), states that are known without an alarm,
and words on the air: the most that hang on one gateway, some 5 MB each."""
OFFLINE_HOLD_S = 20.0
"""Longer than a restart of gateway and broker with everybody's reconnect: who is back by then was never away."""
LOOK_S = 1.0
"""How much longer than that it may take."""


K = TypeVar("K")
V = TypeVar("V")


async def run(session: Session[Topics]) -> None:
    """Ends by LinkClosed."""
    hearing = Hearing(session)
    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(work(), name=name) for name, work in hearing.others().items()]
            await hearing.hear()
            for task in others:
                task.cancel()
    except ExceptionGroup as ended:  # a lost line is to end this as plain LinkClosed, as with every other driver
        if len(ended.exceptions) > 1:
            raise
        raise ended.exceptions[0] from None


class Hearing:
    """One conversation. It ends with the first report that is not stored, so what it has reported it knows."""

    def __init__(self, session: Session[Topics]) -> None:
        self._session = session
        self._repeated_within_s = profile_of(session.context).repeated_within_s
        self._bridge = bridge_of(session.context)
        self._known: OrderedDict[str, dict[LatestKey, Qualifier]] = OrderedDict()
        self._quiet: OrderedDict[tuple[str, LatestKey], None] = OrderedDict()
        """Conditions that were found to be on, without an alarm: their next word is no news, nor is their end."""
        self._on_air: OrderedDict[Hashable, float] = OrderedDict()
        self._held: dict[str, tuple[float, Observation]] = {}
        """Who is said to be away and since when not long enough."""
        self._obeying = Obeying(session)
        self._turn = asyncio.Lock()
        """Between asking what is stored and reporting, nobody else may report."""

    def others(self) -> Mapping[str, Callable[[], Coroutine[None, None, None]]]:
        """What is done beside hearing, by name."""
        work = {"availability": self.watch}
        if settings_of(self._session.context).roles:
            work |= {"orders": self._obeying.obey, "doors": self._obeying.lock_again}
        return work

    async def hear(self) -> None:
        """Report together what was read together: one commit, and every PUBACK after it. Raises LinkClosed."""
        async for batch in self._session.link.batches():
            async with self._turn:
                news: list[Observation] = []
                for message in batch:
                    news += await self._news(message)
                receipt = await self._session.report(news) if news else Receipt.settled()
            for message in batch:
                message.accept(after=receipt)

    async def _news(self, message: Message) -> list[Observation]:
        """What is to be reported of a message. One that is none is refused, and acknowledged all the same: sent again it
        would be no better."""
        try:
            reading = read(message.topic, message.payload, self._session.context)
        except FrameError as error:
            self._session.reject(mask(message.payload), error)
            return []
        for problem in reading.not_understood:
            self._session.reject(mask(message.payload), FrameError(problem))
        is_live = not message.retained
        if is_live:
            self._obeying.seen(reading)
        news = [said.seen for said in reading.said if await self._is_news(said, reading, is_live=is_live)]
        if is_live and self._bridge is not None and any(not _is_loss(said.seen) for said in reading.said):
            self._session.heard(self._bridge)  # whatever comes, comes through it
        return news

    async def _is_news(self, said: Said, reading: Reading, *, is_live: bool) -> bool:
        seen = said.seen
        if seen.kind is Kind.COMM_FAULT:
            # A device that speaks is there; what a broker remembers of its words proves nothing.
            return (is_live or reading.is_availability) and await self._is_reachability_news(seen, is_live=is_live)
        if seen.kind is Kind.HEARTBEAT:
            return is_live
        if not is_live or reading.repeats_state:
            return said.is_edge and await self._note(seen, may_end=is_live)
        return await self._is_edge(seen) if said.is_edge else not self._is_repeated(seen, reading.moment_s)

    # -- conditions ------------------------------------------------------------------------------------------------------

    async def _is_edge(self, seen: Observation) -> bool:
        """Whether it differs from what is stored. It is taken as reported then."""
        known = await self._stored(seen.device)
        key = seen.kind, seen.zone
        is_on = known.get(key, Qualifier.RESTORE) is not Qualifier.RESTORE
        becomes_on = seen.qualifier is not Qualifier.RESTORE
        was_quiet = (seen.device, key) in self._quiet
        if becomes_on and was_quiet:
            return False
        self._quiet.pop((seen.device, key), None)
        if is_on == becomes_on:
            return False
        known[key] = seen.qualifier
        return True

    async def _note(self, seen: Observation, *, may_end: bool) -> bool:
        """State, not news: what is on is remembered to be on. Only a living sender's word ends what is stored as on."""
        if seen.qualifier is Qualifier.RESTORE:
            return may_end and await self._is_edge(seen)
        key = seen.kind, seen.zone
        if (await self._stored(seen.device)).get(key, Qualifier.RESTORE) is Qualifier.RESTORE:
            _remember(self._quiet, (seen.device, key), None)
        return False

    async def _stored(self, device: str) -> dict[LatestKey, Qualifier]:
        """The last reported qualifier of each condition of a device, also from before this conversation."""
        if device not in self._known:
            _remember(self._known, device, dict(await self._session.latest(device)))
        self._known.move_to_end(device)
        return self._known[device]

    def _is_repeated(self, seen: Observation, moment_s: float | None) -> bool:
        """The same, on the air again: by the bridge's own time where it has one, as what waited in a broker comes at once."""
        if not self._repeated_within_s:
            return False
        now = self._session.clock.monotonic() if moment_s is None else moment_s
        key = (seen.device, seen.kind, seen.qualifier, seen.zone, seen.code, moment_s is None)
        last = self._on_air.get(key)
        _remember(self._on_air, key, now)
        return last is not None and 0 <= now - last <= self._repeated_within_s

    # -- who is away -----------------------------------------------------------------------------------------------------

    async def _is_reachability_news(self, seen: Observation, *, is_live: bool) -> bool:
        """A broker repeats it at every subscription: reported once, when it differs from what is stored. "offline" is
        held for a moment, and lost by no crash meanwhile: the broker keeps the word."""
        if seen.qualifier is Qualifier.RESTORE:
            self._held.pop(seen.device, None)
            if is_live:
                self._session.heard(seen.device)
            return await self._is_edge(seen)
        if seen.device not in self._held and len(self._held) >= REMEMBERED_MAX:
            return await self._is_edge(seen)
        self._held.setdefault(seen.device, (self._session.clock.monotonic() + OFFLINE_HOLD_S, seen))
        return False

    async def watch(self) -> None:
        """Report, for ever, those who stayed away. Raises LinkClosed when that is not stored: they are told anew."""
        told = Receipt.settled()
        while True:
            await self._session.clock.sleep(LOOK_S)
            if told.error is not None:
                raise LinkClosed(f"an availability could not be stored: {told.error}")
            async with self._turn:
                news = [seen for seen in await self._overdue() if await self._is_edge(seen)]
                if news:
                    told = await self._session.report(news)

    async def _overdue(self) -> Sequence[Observation]:
        """Those who have been away for long enough. Behind a bridge that is away itself nobody knows: held on."""
        now = self._session.clock.monotonic()
        due = [device for device, (until, _) in self._held.items() if until <= now]
        if due and self._bridge is not None and await self._bridge_is_away():
            for device in due:
                if device != self._bridge:
                    self._held[device] = now + OFFLINE_HOLD_S, self._held[device][1]
            due = [device for device in due if device == self._bridge]
        return [self._held.pop(device)[1] for device in due]

    async def _bridge_is_away(self) -> bool:
        assert self._bridge is not None
        stored = await self._stored(self._bridge)
        is_told = stored.get((Kind.COMM_FAULT, None), Qualifier.RESTORE) is not Qualifier.RESTORE
        return is_told or self._bridge in self._held


def _is_loss(seen: Observation) -> bool:
    return seen.kind is Kind.COMM_FAULT and seen.qualifier is not Qualifier.RESTORE


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    """As the newest; the oldest makes room."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
