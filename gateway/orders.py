"""From a command to the conversation that last heard its device. What waits here has not left, and moves with the device."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import ModuleType

from gateway.acts import Act, Command, CommandRecord, CommandState
from gateway.clock import Clock
from gateway.driver import Context
from gateway.rules.orders import after, lateness, patience_s
from gateway.untrusted import clean_text

ROUTES_MAX = 60_000
"""Devices whose conversation is remembered, more than the registry has; the one longest silent goes first, so that noise cannot
keep a device from its orders."""

DETAIL_MAX = 256
"""Of what a driver says of a command, which may be a device's own words."""

NOTHING: frozenset[Act] = frozenset()

Changed = Callable[["GivenOrder"], None]
Take = Callable[["GivenOrder"], Awaitable[bool]]


class GivenOrder:
    """A `driver.Order`. It keeps its record up to date and tells whoever keeps the records."""

    def __init__(self, record: CommandRecord, clock: Clock, *, begun_s: float, changed: Changed, take: Take) -> None:
        """`begun_s`: when it was asked for, by the monotonic clock."""
        self.record = record
        self._clock = clock
        self._changed = changed
        self.take = partial(take, self)
        """Write down that a conversation has it, before it has. False: it must not have it."""
        self._begun_s = begun_s
        self.patience_s = patience_s(record)

    @property
    def command(self) -> Command:
        return self.record.command

    @property
    def age_s(self) -> float:
        """Since it was given, by the monotonic clock."""
        return self._clock.monotonic() - self._begun_s

    @property
    def is_waiting(self) -> bool:
        """Nobody has it yet."""
        return self.record.state is CommandState.CREATED and not self.record.taken

    def is_late(self) -> bool:
        wall_elapsed_s = (self._clock.now() - self.record.created_at).total_seconds()
        why = lateness(self.command.valid_s, elapsed_s=self.age_s, wall_elapsed_s=wall_elapsed_s)
        if why is not None:
            self.step(CommandState.EXPIRED, why)
        return self.record.state is not CommandState.CREATED

    def sent(self) -> None:
        self.step(CommandState.SENT)

    def executed(self, evidence: str) -> None:
        self.step(CommandState.EXECUTED, evidence)

    def failed(self, reason: str) -> None:
        self.step(CommandState.FAILED, reason)

    def step(self, state: CommandState, detail: str = "") -> None:
        """Go on where that follows; else nothing happens."""
        self.put(after(self.record, state, self._clock.now(), clean_text(detail, DETAIL_MAX)))

    def put(self, record: CommandRecord | None) -> None:
        """Take over the next record, if there is one."""
        if record is not None:
            self.record = record
            self._changed(self)


class Inbox:
    """A `driver.Orders`: what waits for one conversation, or for a line that has one conversation at a time."""

    def __init__(
        self, connection: str, driver: ModuleType, context: Context, open_orders: Mapping[str, GivenOrder]
    ) -> None:
        self.connection = connection
        self._obeys: Callable[[str, Context], frozenset[Act]] | None = getattr(driver, "obeys", None)
        self._context = context
        self._open_orders = open_orders
        self.waiting: deque[GivenOrder] = deque()
        self._arrived = asyncio.Event()
        self.is_closed = False

    @property
    def takes_orders(self) -> bool:
        return self._obeys is not None

    def obeys(self, device: str) -> frozenset[Act]:
        """What its driver can make the device do."""
        return self._obeys(device, self._context) if self._obeys else NOTHING

    def put(self, order: GivenOrder) -> None:
        """Let it wait here, and forget what ended while the line was away."""
        self.waiting = deque(waiting for waiting in self.waiting if waiting.record.is_open)
        self.waiting.append(order)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[GivenOrder]:
        return self

    async def __anext__(self) -> GivenOrder:
        while True:
            while self.waiting:
                order = self.waiting[0]
                # While it is written down it stays here, so that it can move on with its device or outlive the conversation.
                is_ours = not order.is_late() and await order.take()
                if self.waiting and self.waiting[0] is order:
                    self.waiting.popleft()
                    if is_ours:
                        return order
            self._arrived.clear()
            await self._arrived.wait()

    def awaiting(self, command_id: str) -> GivenOrder | None:
        return self._open_orders.get(command_id)

    def give_up(self, device: str) -> list[GivenOrder]:
        """Hand over what waits for a device that is heard elsewhere."""
        leaving = [order for order in self.waiting if order.command.device == device]
        self.waiting = deque(order for order in self.waiting if order.command.device != device)
        return leaving


class Switchboard:
    """Knows the conversation of each device."""

    def __init__(self, last_connection: Callable[[str], str]) -> None:
        """`last_connection` names the line a device was last heard on, also before this start; "" when none."""
        self._last_connection = last_connection
        self._routes: dict[str, Inbox] = {}
        """In the order they were last heard."""
        self._lines: dict[str, Inbox] = {}
        self.open: dict[str, GivenOrder] = {}
        """Every command that has not ended, by its id."""

    def line(self, connection: str, driver: ModuleType, context: Context) -> Inbox:
        """The inbox of a line with one conversation at a time. It outlives each of them: a silent device stays its own."""
        self._lines[connection] = inbox = self.peer(connection, driver, context)
        return inbox

    def peer(self, connection: str, driver: ModuleType, context: Context) -> Inbox:
        """The inbox of one that dialled in."""
        return Inbox(connection, driver, context, self.open)

    def close(self, inbox: Inbox) -> None:
        """Its conversation is over, or its line is gone. What waits in it waits for the device to be heard elsewhere."""
        inbox.is_closed = True
        if self._lines.get(inbox.connection) is inbox:
            del self._lines[inbox.connection]

    def heard(self, device: str, inbox: Inbox) -> None:
        """The device spoke here."""
        before = self._routes.pop(device, None)
        self._routes[device] = inbox
        if len(self._routes) > ROUTES_MAX:
            del self._routes[next(iter(self._routes))]
        if before is not None and before is not inbox:
            for order in before.give_up(device):
                self._put(order, inbox)

    def where(self, device: str) -> Inbox | None:
        """Where its orders go; None for a device that was never heard on a line that is there."""
        inbox = self._routes.get(device)
        if inbox is None or inbox.is_closed:
            return self._lines.get(inbox.connection if inbox else self._last_connection(device), inbox)
        return inbox

    def give(self, order: GivenOrder, inbox: Inbox) -> None:
        """Let an order wait for the conversation that `where` named; the device may have moved on since."""
        self._put(order, self.where(order.command.device) or inbox)

    def _put(self, order: GivenOrder, inbox: Inbox) -> None:
        if order.command.act in inbox.obeys(order.command.device):
            inbox.put(order)
        else:
            order.failed(f"the device moved to {inbox.connection}, which cannot {order.command.act.value}")
