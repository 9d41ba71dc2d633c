"""OSDP readers on a serial line (docs/drivers/osdp.md), written from IEC 60839-11-5 and that page; `make` is for scenarios.

`connect`: `pty:/tmp/x/line0` makes a pseudo terminal and a link to it under that name, a path is an existing port.
Options: `readers` (count, 1), `address` (of the first, 1), `baud` (9600), `key` (32 hex digits for the first reader, the
others count up from it; none: the readers have no key yet), `corrupt` (share of answers with a spoiled byte, 0 to 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from simulators._serial import Wire
from simulators._world import Spec, World
from simulators.osdp.frames import Ear
from simulators.osdp.reader import ISTATR, KEYPAD, LSTATR, RAW, Reader

OPTIONS = frozenset({"readers", "address", "baud", "key", "corrupt"})
LAG_S = 0.005
"""A reader begins to answer after as long."""
INPUTS = {"door_open": 0, "exit_request": 1}
CARD = "card"
VERBS = ("silent", "back", "unplug", "replug", "power_loss", "garbage")


class Line:
    """The readers of one line, by number from 1: `zone` says which. Verbs: see VERBS, of all of them."""

    def __init__(self, spec: Spec, world: World) -> None:
        options = spec.options
        self._spec = spec
        self._world = world
        self._baud = int(options.get("baud") or 9600)
        self._corrupt = float(options.get("corrupt") or 0.0)
        first = int(options.get("address") or 1)
        key = options.get("key")
        self.readers = [
            Reader(first + index, _key(key, index), world.random.randbytes, serial=first + index)
            for index in range(int(options.get("readers") or 1))
        ]
        self._ear = Ear()
        self._wire: Wire | None = None
        self._is_silent = False
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._count = 0

    def device(self, zone: int) -> str:
        """The id the gateway knows reader number `zone` by."""
        return f"{self._spec.device}-{zone}"

    async def run(self) -> None:
        """Be the readers until cancelled."""
        self._plug_in()
        try:
            while True:
                answer = await self._answers.get()
                await self._world.clock.sleep(LAG_S + len(answer) * 10 / self._baud)
                if self._wire is not None and not self._is_silent:
                    self._wire.write(self._spoiled(answer))
        finally:
            self._unplug()

    def _spoiled(self, answer: bytes) -> bytes:
        if self._world.random.random() >= self._corrupt:
            return answer
        at = self._world.random.randrange(len(answer))
        return answer[:at] + bytes([answer[at] ^ 1 << self._world.random.randrange(8)]) + answer[at + 1 :]

    def _arrived(self, data: bytes) -> None:
        now_s = self._world.clock.monotonic()
        for frame in self._ear.hear(data, now_s):
            for reader in self.readers:
                if answer := reader.receive(frame, now_s):
                    self._answers.put_nowait(answer)

    # -- acts ------------------------------------------------------------------------------------------------------------

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.check."""
        known = [CARD, "code", "tamper", "ac_loss", *INPUTS, *VERBS]
        if what not in known:
            raise ValueError(f'{self._spec.device} cannot do "{what}"; it knows {", ".join(known)}')
        if zone is not None and not 1 <= zone <= len(self.readers):
            raise ValueError(f"zone {zone} of {self._spec.device}: there are readers 1 to {len(self.readers)}")

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Act now. Returns once raised."""
        self.check(what, restore=restore, zone=zone)
        verbs: dict[str, Callable[[], None]] = {
            "silent": partial(setattr, self, "_is_silent", True),
            "back": partial(setattr, self, "_is_silent", False),
            "unplug": self._unplug,
            "replug": self._plug_in,
            "power_loss": self._lose_power,
            "garbage": lambda: self._put(self._world.random.randbytes(self._world.random.randint(1, 200))),
        }
        if what in verbs:
            verbs[what]()
        else:
            self._raise(1 if zone is None else zone, what, restore)

    def _raise(self, zone: int, what: str, restore: bool) -> None:
        reader = self.readers[zone - 1]
        level = int(not restore)
        if what == CARD:
            code, data = RAW, b"\x00\x01\x1a\x00" + self._world.random.randbytes(3) + b"\x80"
        elif what == "code":
            code, data = KEYPAD, b"\x00\x051234#"
        elif what in INPUTS:
            reader.inputs[INPUTS[what]] = level
            code, data = ISTATR, bytes(reader.inputs)
        else:
            reader.tamper = level if what == "tamper" else reader.tamper
            reader.power = level if what == "ac_loss" else reader.power
            code, data = LSTATR, bytes([reader.tamper, reader.power])
        self._count += 1
        name = "credential" if what in {CARD, "code"} else what
        facts = ("osdp", self.device(zone), name)
        ledger, ref = self._world.ledger, f"{self._spec.device}/{self._count}"
        ledger.raised(*facts, restore=restore, zone=None, ref=ref)
        reader.say(code, data, partial(ledger.acknowledged, *facts, restore=restore, zone=None, ref=ref))

    def _lose_power(self) -> None:
        for reader in self.readers:
            reader.lose_power()

    def _put(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.write(data)

    def _plug_in(self) -> None:
        if self._wire is None:
            self._wire = Wire(self._spec.connect, self._baud, self._arrived)

    def _unplug(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _key(first: object, index: int) -> bytes | None:
    return None if first is None else (int(str(first), 16) + index).to_bytes(16, "big")


def make(spec: Spec, world: World) -> Line:
    """The simulated readers."""
    return Line(spec, world)
