"""A vehicle terminal that speaks JT/T 808-2013 or -2019: registers, shows its code, reports, and insists on answers.

`id` is its number in the SIM's digits, `connect` tcp://HOST:PORT. Options: `year` (2013, 2019; default: odd numbers 2013,
even ones 2019), `heartbeat_s` (30), `report_s` (10; 0: only when something happens), `repeat_s` (5), `repeats` (3),
`latitude`, `longitude`, `speed_kmh` (36), `authenticate` (true).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from simulators._net import host_and_port, reset
from simulators._world import Spec, World
from simulators.jt808.wire import PART_BYTES_MAX, Fix, Word, batch, framed, heard

OPTIONS = frozenset(
    {"year", "heartbeat_s", "report_s", "repeat_s", "repeats", "latitude", "longitude", "speed_kmh", "authenticate"}
)
BITS = {
    "panic": 0, "overspeed": 1, "device_fault": 4, "antenna_cut": 5, "batt_low": 7, "power_cut": 8, "geofence": 20,
    "vehicle_moved": 28, "collision": 29,
}  # fmt: skip
UNTIL_ANSWERED = {"panic", "geofence", "vehicle_moved"}
"""Their bits stay set until the platform's answer; the others until what they tell of is over."""
GAP_MAX = 600
"""Positions kept while there is no line; the oldest make room."""
PENDING_MAX = 200
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.2, 10.0
READ_BYTES = 4096


@dataclass(frozen=True)
class Said:
    """An alarm as the ledger knows it."""

    what: str
    restore: bool
    zone: int | None
    ref: str


@dataclass
class Pending:
    """A message without its answer."""

    frames: list[bytes]
    serial: int
    """Of its last frame, whose answer counts for the whole."""
    fix: Fix | None
    said: Sequence[Said] = ()
    due: float = 0.0
    tries: int = 0


@dataclass
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Terminal:
    """One vehicle."""

    def __init__(self, spec: Spec, world: World) -> None:
        if not (spec.device.isascii() and spec.device.isdecimal()):
            raise ValueError(f"id {spec.device!r}: expected the digits of a phone number")
        if not spec.connect.startswith("tcp://"):
            raise ValueError(f"connect = {spec.connect!r}: expected tcp://HOST:PORT")
        self._address = host_and_port(spec.connect.removeprefix("tcp://"))
        self._world, self._phone, self._options = world, spec.device, spec.options
        self.year = int(self._number("year", 2013 + 6 * (int(spec.device) % 2 == 0)))
        if self.year not in (2013, 2019):
            raise ValueError(f"year {self.year}: expected 2013 or 2019")
        self._boot = world.boot()
        self._serial = self._boot & 0xFFFF
        self._raised = 0
        self._code: bytes | None = None
        self._line: Line | None = None
        self._bits: dict[int, Said | None] = {}
        """Alarm bits that are set."""
        self._pending: dict[int, Pending] = {}
        self._gap: list[Fix] = []
        self._started = world.clock.monotonic()
        self._is_moving = True
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self.answered = 0
        """Reports that got their answer."""

    def _number(self, name: str, default: float) -> float:
        value = self._options.get(name)
        return default if value is None else float(value)

    # -- what happens to the vehicle -------------------------------------------------------------------------------------

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Alarms, "drive", "park", "garbage", "silent" (no word, the line stays), "unplug" (no line), "back"."""
        verbs = {*BITS, "drive", "park", "garbage", "silent", "unplug", "back"}
        if what not in verbs:
            raise ValueError(f"cannot do {what!r}; expected one of {', '.join(sorted(verbs))}")

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        self.check(what, restore=restore, zone=zone)
        match what:
            case "drive" | "park":
                self._is_moving = what == "drive"
                self._report([])
            case "silent" | "unplug":
                self._may_speak.clear()
                if what == "unplug" and self._line is not None:
                    reset(self._line.writer)
            case "back":
                self._may_speak.set()
            case "garbage":
                if self._line is not None:
                    self._line.writer.write(
                        self._world.random.randbytes(300) + framed(2, self._phone, 1, b"", year=2013)[:9]
                    )
            case _:
                self._alarm(what, restore=restore, zone=zone)

    def _alarm(self, what: str, *, restore: bool, zone: int | None) -> None:
        if restore and what in UNTIL_ANSWERED:
            return  # its bit goes with the answer
        self._raised += 1
        zone = BITS[what] if zone is None else zone
        said = Said(what, restore, zone, f"{self._phone}/{self._boot:08x}/{self._raised}")
        if restore:
            self._bits.pop(BITS[what], None)
        else:
            self._bits[BITS[what]] = said
        self._world.ledger.raised("jt808", self._phone, what, restore=restore, zone=zone, ref=said.ref)
        self._report([said])

    def _fix(self) -> Fix:
        """A circle of a kilometre across, or a place on it."""
        now = self._world.clock.now()
        speed = self._number("speed_kmh", 36.0) if self._is_moving else 0.0
        metres = (self._world.clock.monotonic() - self._started) * speed / 3.6
        angle = metres / 500
        latitude = self._number("latitude", 31.230416) + 0.0045 * math.sin(angle)
        longitude = self._number("longitude", 121.473701) + 0.0052 * math.cos(angle)
        bits = sum(1 << bit for bit in self._bits)
        return Fix(now, latitude, longitude, speed, int(math.degrees(angle)) % 360, metres, self._is_moving, bits)

    # -- the line --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the terminal, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._travel())
            delay_s = RECONNECT_MIN_S
            while True:
                await self._may_speak.wait()
                with suppress(OSError, TimeoutError):
                    if await self._converse():
                        delay_s = RECONNECT_MIN_S
                await self._world.clock.sleep(delay_s * self._world.random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    async def _converse(self) -> bool:
        """Until the line breaks. Returns whether it got as far as reporting. Raises OSError."""
        line = Line(*await asyncio.open_connection(*self._address))
        self._line = line
        try:
            async with asyncio.TaskGroup() as group:
                talking = [group.create_task(self._insist(line)), group.create_task(self._beat(line))]
                await self._hear(line)
                for task in talking:
                    task.cancel()
        except* OSError:
            pass
        finally:
            self._line = None
            reset(line.writer)
        return line.is_admitted.is_set()

    async def _hear(self, line: Line) -> None:
        """Present itself, then take the platform's words until the line ends."""
        self._present(line)
        buffer = bytearray()
        while data := await line.reader.read(READ_BYTES):
            buffer += data
            for word in heard(buffer, year=self.year):
                self._understand(line, word)

    def _present(self, line: Line) -> None:
        if self._options.get("authenticate") is False:
            self._admitted(line)
        elif self._code is None:
            plate = "沪A12345".encode("gbk")
            widths = (11, 30, 30) if self.year == 2019 else (5, 20, 7)
            names = b"".join(
                text.ljust(width, b"\0") for text, width in zip((b"SIM", b"SIM-808", b"1"), widths, strict=True)
            )
            self._send(line, 0x0100, b"\x00\x1f\x00\x73" + names + b"\x01" + plate)
        elif self.year == 2019:
            length = bytes([len(self._code)])
            self._send(line, 0x0102, length + self._code + b"123456789012345" + b"1.0".ljust(20, b"\0"))
        else:
            self._send(line, 0x0102, self._code)

    def _understand(self, line: Line, word: Word) -> None:
        match word.id:
            case 0x8100 if word.body[2:3] == b"\x00":
                self._code = word.body[3:]
                self._present(line)
            case 0x8001 if len(word.body) == 5:
                self._answered(
                    line, int.from_bytes(word.body[:2], "big"), int.from_bytes(word.body[2:4], "big"), word.body[4]
                )
            case 0x8201:
                self._queue(0x0201, word.serial.to_bytes(2, "big") + self._fix().report(), None)
            case 0x8003:
                self._resend(line, word.body)
            case 0x8100:
                raise ConnectionError("not in the platform's books: another try with another line")
            case _:
                self._send(line, 0x0001, word.serial.to_bytes(2, "big") + word.id.to_bytes(2, "big") + b"\x03")

    def _answered(self, line: Line, serial: int, message: int, result: int) -> None:
        if message == 0x0102:
            if result == 0:
                self._admitted(line)
            else:
                self._code = None
                self._present(line)
            return
        pending = self._pending.pop(serial, None)
        if pending is None or result not in (0, 4):
            return
        self.answered += 1
        for said in pending.said:
            self._world.ledger.acknowledged(
                "jt808", self._phone, said.what, restore=said.restore, zone=said.zone, ref=said.ref
            )
            if said.what in UNTIL_ANSWERED and self._bits.get(BITS[said.what]) is said:
                del self._bits[BITS[said.what]]

    def _admitted(self, line: Line) -> None:
        """Everything that is unanswered goes out at once, alarms first; what was seen meanwhile as a batch."""
        line.is_admitted.set()
        for pending in self._pending.values():
            pending.due, pending.tries = 0.0, 0
        gap, self._gap = self._gap, []
        while gap:
            some, gap = gap[:200], gap[200:]
            self._queue(0x0704, batch([fix.report() for fix in some]), None)

    # -- what it says ----------------------------------------------------------------------------------------------------

    async def _travel(self) -> None:
        """Report at its interval; without a line, remember."""
        every_s = self._number("report_s", 10.0)
        await self._world.clock.sleep((every_s or 1) * self._world.random.random())
        while every_s:
            if self._line is not None and self._line.is_admitted.is_set():
                self._report([])
            else:
                self._gap = [*self._gap, self._fix()][-GAP_MAX:]
            await self._world.clock.sleep(every_s)

    async def _beat(self, line: Line) -> None:
        while True:
            await self._world.clock.sleep(self._number("heartbeat_s", 30.0))
            if line.is_admitted.is_set() and self._may_speak.is_set():
                self._send(line, 0x0002, b"")

    def _report(self, said: Sequence[Said]) -> None:
        fix = self._fix()
        self._queue(0x0200, fix.report(), fix, said)

    def _queue(self, message: int, body: bytes, fix: Fix | None, said: Sequence[Said] = ()) -> None:
        pieces = [body[at : at + PART_BYTES_MAX] for at in range(0, len(body), PART_BYTES_MAX)]
        frames = [
            framed(message, self._phone, self._next(), piece, year=self.year, part=number, parts=len(pieces))
            for number, piece in enumerate(pieces, 1)
        ]
        while len(self._pending) >= PENDING_MAX:
            mute = next((serial for serial, old in self._pending.items() if not old.said), next(iter(self._pending)))
            del self._pending[mute]
        self._pending[self._serial] = Pending(frames, self._serial, fix, said)
        if self._line is not None and self._line.is_admitted.is_set() and self._may_speak.is_set():
            self._try(self._line, self._pending[self._serial])

    async def _insist(self, line: Line) -> None:
        """Send again what is unanswered, later each time; after the last time, a new line. Raises ConnectionError."""
        repeat_s = self._number("repeat_s", 5.0)
        await line.is_admitted.wait()
        while True:
            now = self._world.clock.monotonic()
            for pending in sorted(self._pending.values(), key=lambda one: not one.said):
                if pending.due <= now and self._may_speak.is_set():
                    if pending.tries > self._number("repeats", 3):
                        raise ConnectionError("the platform does not answer")
                    self._try(line, pending)
            await line.writer.drain()
            await self._world.clock.sleep(repeat_s / 5)

    def _try(self, line: Line, pending: Pending) -> None:
        pending.tries += 1
        pending.due = self._world.clock.monotonic() + self._number("repeat_s", 5.0) * pending.tries
        for frame in pending.frames:
            line.writer.write(frame)

    def _resend(self, line: Line, body: bytes) -> None:
        """Parts that the platform misses: by the serial number of the first."""
        first = int.from_bytes(body[:2], "big")
        numbers = body[4:] if self.year == 2019 else body[3:]
        for pending in self._pending.values():
            if (pending.serial - len(pending.frames) + 1) & 0xFFFF == first:
                for at in range(0, len(numbers), 2):
                    index = int.from_bytes(numbers[at : at + 2], "big")
                    if 1 <= index <= len(pending.frames):
                        line.writer.write(pending.frames[index - 1])

    def _send(self, line: Line, message: int, body: bytes) -> None:
        line.writer.write(framed(message, self._phone, self._next(), body, year=self.year))

    def _next(self) -> int:
        self._serial = (self._serial + 1) & 0xFFFF
        return self._serial


def make(spec: Spec, world: World) -> Terminal:
    """One simulated terminal."""
    return Terminal(spec, world)
