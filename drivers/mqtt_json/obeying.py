"""Telling locks and sirens what to do, and believing only what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drivers.mqtt_json.profile import Doing, Saying, base_of, profile_of, settings_of
from drivers.mqtt_json.reading import Reading, has
from gateway.driver import Act, Context, Order, Receipt, Session, Topics

LOOK_S = 0.5
"""How much later than asked for a door is locked again."""


@dataclass
class Memory:
    """Doors that are to be locked again, by monotonic time; it outlives a line that breaks meanwhile."""

    lock_again_at: dict[str, float] = field(default_factory=dict)


def obeys(device: str, context: Context) -> frozenset[Act]:
    """What the role of the device can do."""
    return frozenset(_doings(device, context))


def _doings(device: str, context: Context) -> Mapping[Act, Doing]:
    role = settings_of(context).roles.get(device)
    return profile_of(context).role.get(role, {}) if role else {}


class Obeying:
    """The orders of one conversation."""

    def __init__(self, session: Session[Topics]) -> None:
        self._session = session
        self._context = session.context
        self._memory: Memory = session.memory or Memory()
        self._awaited: dict[str, tuple[Order, Saying]] = {}
        """By device: a later order makes what an earlier one would show worthless."""

    async def obey(self) -> None:
        """Publish every order that is not late, for ever."""
        async for order in self._session.orders:
            device = order.command.device
            doing = _doings(device, self._context)[order.command.act]
            if order.is_late():
                continue
            saying = doing.silence if order.command.seconds == 0 and doing.silence else doing
            self._publish(device, doing.topic, saying, order.command.seconds)
            order.sent()
            self._awaited[device] = order, saying
            self._memory.lock_again_at.pop(device, None)
            if order.command.act is Act.OPEN:
                due = self._session.clock.monotonic() + (order.command.seconds or 0)
                self._memory.lock_again_at[device] = due

    async def lock_again(self) -> None:
        """Lock, for ever, what was opened for a moment. A lock that does so by itself is told twice."""
        while True:
            await self._session.clock.sleep(LOOK_S)
            now = self._session.clock.monotonic()
            for device in [device for device, due in self._memory.lock_again_at.items() if due <= now]:
                del self._memory.lock_again_at[device]
                doing = _doings(device, self._context)[Act.LOCK]
                self._publish(device, doing.topic, doing, None)

    def seen(self, reading: Reading) -> None:
        """A living device has said how it is."""
        awaited = self._awaited.get(reading.device)
        if awaited is not None and has(reading.content, awaited[1].shows):
            order, saying = self._awaited.pop(reading.device)
            order.executed(", ".join(f"{member} is {value}" for member, value in saying.shows.items()))

    def _publish(self, device: str, topic: str, saying: Saying, seconds: int | None) -> None:
        topic = topic.replace("{topic}", base_of(self._context)).replace("{device}", device)
        payload = saying.payload.replace("{seconds}", str(seconds or 0))
        self._session.link.publish(topic, payload.encode(), after=Receipt.settled())
