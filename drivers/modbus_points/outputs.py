"""Outputs: a lock or a siren switched for a person, read back, and switched off again by whoever the profile says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drivers.modbus_points.capture import exception_text
from drivers.modbus_points.profile import Output, Proof, Settings, Timer
from gateway.driver import Bus, BusRefused, Clock, Command, LinkClosed, Logger, NoAnswer, Order, Session

PROOF_WITHIN_S = 2.0
"""A motor lock needs so long until its contact shows it."""
LOOK_S = 0.1
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 30.0
"""Between attempts to switch off at a unit that does not answer: a dead one costs its neighbours no pace."""


@dataclass(frozen=True, slots=True)
class Place:
    """One output of one unit."""

    unit: int
    output: Output


@dataclass(slots=True)
class Due:
    """When an output is to be switched off, and how long to wait if that fails."""

    at_s: float
    retry_s: float = RETRY_FIRST_S


class Outputs:
    """All outputs of a bus, for the length of one conversation."""

    def __init__(self, session: Session[Bus]) -> None:
        self._bus: Bus = session.link
        self._clock: Clock = session.clock
        self._log: Logger = session.log
        self._orders = session.orders
        settings: Settings = session.context.settings
        self._of_device: Mapping[str, Sequence[Place]] = {
            unit.device: [Place(unit.unit, output) for output in settings.profile_of(unit, session.context).output]
            for unit in settings.units
        }
        self._due: dict[tuple[int, str, int], tuple[Place, Due]] = {}
        self._is_due = asyncio.Event()

    @property
    def are_there(self) -> bool:
        return any(self._of_device.values())

    async def run(self) -> None:
        """Obey, for ever. Begins by ending what an earlier conversation may have left on."""
        for place in [place for places in self._of_device.values() for place in places]:
            if place.output.ends == "gateway":
                self._end_after(place, 0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_what_is_due(), name="ends of pulses")
            async for order in self._orders:
                await self._obey(order)

    async def _obey(self, order: Order) -> None:
        place = self._meant(order.command)
        if place is None:
            order.failed(_no_such(order.command, self._of_device.get(order.command.device, ())))
            return
        try:
            if await self._switch(place, order):
                order.sent()
                await self._judge(place, order)
        except BusRefused as error:
            order.failed(f"unit {place.unit} refuses: {exception_text(error.code)}")
        except NoAnswer as error:
            order.failed(f"unknown outcome: {error}")
        except LinkClosed as error:
            order.failed(f"unknown outcome: {error}")
            raise

    def _meant(self, command: Command) -> Place | None:
        places = self._of_device.get(command.device, ())
        return next((p for p in places if command.act in p.output.acts and p.output.zone == command.zone), None)

    # -- switching -------------------------------------------------------------------------------------------------------

    async def _switch(self, place: Place, order: Order) -> bool:
        """Write. False: too late, nothing has left."""
        output, length_s = place.output, self._length_s(order.command)
        if output.timer is not None and length_s:
            counts = [_counts(output.timer, length_s)]
            if not await self._bus.write(
                place.unit, "holding_register", output.timer.address, counts, unless=order.is_late
            ):
                return False
        value, has_left = output.on if length_s else output.off, True
        try:
            has_left = await self._bus.write(
                place.unit, output.write.table, output.write.address, [value], unless=order.is_late
            )
        finally:  # also when it was not answered: it may have been heard
            if has_left and output.ends == "gateway":
                self._end_after(place, length_s)
        return has_left

    def _length_s(self, command: Command) -> float:
        """For how long it is to be on; 0: off."""
        if command.until is not None:
            return max(0.0, (command.until - self._clock.now()).total_seconds())
        return float(command.seconds or 0)

    async def _judge(self, place: Place, order: Order) -> None:
        """The device's own word: what the output, or the contact of the lock, reads after the write."""
        shown, is_on = place.output.shown, self._length_s(order.command) > 0
        wanted = shown.on if is_on else shown.off
        until = self._clock.monotonic() + PROOF_WITHIN_S
        while (value := await self._read(place.unit, shown)) != wanted:
            if self._clock.monotonic() >= until:
                order.failed(
                    f"{_name(shown)} of unit {place.unit} reads {value} {PROOF_WITHIN_S:g} s after it was switched"
                )
                return
            await self._clock.sleep(LOOK_S)
        order.executed(f"{_name(shown)} of unit {place.unit} reads {value}")

    async def _read(self, unit: int, shown: Proof) -> int:
        return (await self._bus.read(unit, shown.table, shown.address, 1))[0]

    # -- ending ----------------------------------------------------------------------------------------------------------

    def _end_after(self, place: Place, length_s: float) -> None:
        key = place.unit, place.output.write.table, place.output.write.address
        self._due[key] = place, Due(self._clock.monotonic() + length_s)
        self._is_due.set()

    async def _end_what_is_due(self) -> None:
        """Switch off whatever is due, for ever. What fails is tried again, ever more slowly."""
        while True:
            now_s = self._clock.monotonic()
            for key, (place, due) in list(self._due.items()):
                if due.at_s <= now_s:
                    await self._end(key, place, due)
            next_s = min((due.at_s for _, due in self._due.values()), default=math.inf)
            if next_s == math.inf:
                self._is_due.clear()
                await self._is_due.wait()
            else:
                await self._clock.sleep(min(LOOK_S, max(0.0, next_s - self._clock.monotonic())))

    async def _end(self, key: tuple[int, str, int], place: Place, due: Due) -> None:
        output = place.output

        def is_prolonged() -> bool:
            """A newer command has come meanwhile."""
            return self._due[key][1] is not due

        try:
            await self._bus.write(
                place.unit, output.write.table, output.write.address, [output.off], unless=is_prolonged
            )
        except (NoAnswer, BusRefused) as error:
            self._log.warning(
                "an output could not be switched off yet", unit=place.unit, output=output.name, error=str(error)
            )
            due.at_s, due.retry_s = self._clock.monotonic() + due.retry_s, min(2 * due.retry_s, RETRY_MOST_S)
            return
        if not is_prolonged():
            del self._due[key]


def _counts(timer: Timer, length_s: float) -> int:
    return min(65535, max(1, round(length_s * timer.per_s)))


def _name(shown: Proof) -> str:
    return f"{shown.table.replace('_', ' ')} {shown.address}"


def _no_such(command: Command, places: Sequence[Place]) -> str:
    zones = ", ".join(
        "no zone" if place.output.zone is None else f"zone {place.output.zone}"
        for place in places
        if command.act in place.output.acts
    )
    asked = "without a zone" if command.zone is None else f"in zone {command.zone}"
    return f"nothing to {command.act.value} {asked}; there is one with {zones}"
