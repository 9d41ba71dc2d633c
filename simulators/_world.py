"""What every simulated device is given: time, chance, and a ledger of what it raised and what was acknowledged to it.

The ledger is the outside evidence: it is compared with the record of the 110 centre, never with the gateway's own files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from simulators._clock import Clock

Option = str | int | float | bool | None


class Ledger:
    """One JSON object a line, flushed at once, so that a killed run keeps its evidence."""

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self._clock = clock
        self._file = path.open("a", encoding="utf-8", buffering=1) if path else None
        self.raised_count = 0
        self.acknowledged_count = 0
        self.listeners: list[Callable[[Mapping[str, Option]], None]] = []

    def raised(self, simulator: str, device: str, what: str, *, restore: bool, zone: int | None, ref: str) -> None:
        """The device has something to say. `ref` is unique within the run and names this very message."""
        self.raised_count += 1
        self._write("raised", simulator, device, what, restore=restore, zone=zone, ref=ref)

    def acknowledged(
        self, simulator: str, device: str, what: str, *, restore: bool, zone: int | None, ref: str
    ) -> None:
        """The gateway told the device that it has the message: from now on it must not be lost."""
        self.acknowledged_count += 1
        self._write("acknowledged", simulator, device, what, restore=restore, zone=zone, ref=ref)

    def _write(
        self, state: str, simulator: str, device: str, what: str, *, restore: bool, zone: int | None, ref: str
    ) -> None:
        row: dict[str, Option] = {
            "t": self._clock.now(),
            "state": state,
            "simulator": simulator,
            "device": device,
            "what": what,
            "restore": restore,
            "zone": zone,
            "ref": ref,
        }
        if self._file:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for listener in self.listeners:
            listener(row)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


@dataclass(frozen=True, slots=True)
class World:
    """Time, chance, evidence: handed to each simulated device."""

    clock: Clock
    random: Random
    ledger: Ledger
    run: int = 0
    """32 bits that no earlier run had. The same seed would else start the same sessions, and a gateway that remembers
    the last run would rightly take the new one for repeats."""

    def boot(self) -> int:
        """32 bits that name one start of one device."""
        return self.random.getrandbits(32) ^ self.run


@dataclass(frozen=True, slots=True)
class Spec:
    """One simulated device of a scenario. `connect` is where it finds the gateway (or, for a serving device, where it listens)."""

    device: str
    connect: str
    options: Mapping[str, Option] = field(default_factory=dict)


class Simulated(Protocol):
    """A simulated device. A simulator module offers `def make(spec: Spec, world: World) -> Simulated` and, in `OPTIONS`,
    the names of the options it knows."""

    async def run(self) -> None:
        """Be the device: connect, reconnect for ever, send heartbeats, repeat what is not acknowledged. Ends by cancellation."""

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Raises ValueError for what this device cannot do, with what it can."""

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Act now: `what` is a kind ("panic", "burglary", "tamper", "batt_low" ...) or a verb of this simulator ("silent", "back").

        Returns once raised; the ledger says when it was acknowledged. Raises ValueError as `check` does.
        """
