"""A 433 MHz receiver with its sensors on a serial line (docs/drivers/rf_serial.md), written from that page alone.

`connect`: `pty:/tmp/x/rf0` makes a pseudo terminal and a link to it under that name, a path is an existing port.
Options: `sensors` (count, 4), `first` (id of the first, hex "80650"), `queue` (lines kept, 64), `baud` (9600), and
as shares of writes from 0 to 1: `garbage` before, `half` lines, `glue` (held back until the next).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from simulators._serial import Wire
from simulators._world import Spec, World

OPTIONS = frozenset({"sensors", "first", "queue", "baud", "garbage", "half", "glue"})
REPEAT_S = 1.0
HEARTBEAT_S = 60.0
IN_FLIGHT_MAX = 8
"""Lines repeated each second: 8 x 77 bytes is what 9600 baud (960 bytes/s) carries beside the rest."""
SAME_CODE_S = 1.5
"""A sensor sends its code many times for one event: within this time it is the same event."""
INPUT_BYTES_MAX = 256
"""An answer has 37 bytes; more without an end is noise."""
KEYS = {
    ("burglary", False): "A",
    ("open", False): "E",
    ("burglary", True): "7",
    ("open", True): "7",
    ("tamper", False): "B",
    ("water", False): "5",
    ("rf_batt_low", False): "F",
    ("batt_low", False): "F",
}


def crc16(text: str) -> int:
    """CRC-16/CCITT-FALSE: polynomial 1021, start FFFF, not reflected."""
    value = 0xFFFF
    for byte in text.encode("ascii"):
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        value &= 0xFFFF
    return value


def checksum(text: str) -> int:
    """NMEA 0183: exclusive or of what stands between `$` and `*`."""
    value = 0
    for character in text:
        value ^= ord(character)
    return value


def line(*fields: str) -> bytes:
    """One sentence."""
    text = "PFKRF," + ",".join(fields)
    text = f"{text},{crc16(text):04X}"
    return f"${text}*{checksum(text):02X}\r\n".encode("ascii")


def acknowledged(text: str) -> tuple[str, str] | None:
    """Boot and sequence of an AK line without its line end; None for anything else."""
    if not text.isascii() or not text.startswith("$PFKRF,AK,") or text[-3:-2] != "*":
        return None
    body, stated = text[1:-3], text[-2:]
    if f"{checksum(body):02X}" != stated or f"{crc16(body[:-5]):04X}" != body[-4:]:
        return None
    fields = body.split(",")
    return (fields[2], fields[3]) if len(fields) == 5 else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line that the gateway has not acknowledged."""

    build: Callable[[int], bytes]
    """The line for an age in seconds."""
    since: float
    device: str
    what: str
    restore: bool


class Receiver:
    """The receiver. Verbs beside the kinds: open, rf_jamming, silent, back, unplug, replug, power_loss, garbage, half."""

    def __init__(self, spec: Spec, world: World) -> None:
        options = spec.options
        self._spec = spec
        self._world = world
        self._sensors = int(options.get("sensors") or 4)
        self._first = int(str(options.get("first") or "80650"), 16)
        self._queue_max = int(options.get("queue") or 64)
        self._shares = {name: float(options.get(name) or 0.0) for name in ("garbage", "half", "glue")}
        self._boot = self._new_boot()
        self._seq = 0
        self._noise_dbm = -102
        self._lost = 0
        self._waiting: dict[tuple[str, str], Waiting] = {}
        self._last_heard: dict[str, float] = {}
        self._wire: Wire | None = None
        self._is_silent = False
        self._input = bytearray()
        self._held = b""

    def device(self, zone: int) -> str:
        """The id that the gateway knows sensor number `zone` by, counted from 1."""
        return f"ev1527-{self._first + zone - 1:05X}"

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the receiver until cancelled."""
        self._plug_in()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repeat(), name="repeat")
                tasks.create_task(self._beat(), name="heartbeat")
        finally:
            self._unplug()

    async def _repeat(self) -> None:
        while True:
            await self._world.clock.sleep(REPEAT_S)
            for key in list(self._waiting)[:IN_FLIGHT_MAX]:
                waiting = self._waiting.pop(key)
                self._waiting[key] = (
                    waiting  # to the end: everybody gets a turn, also behind a line nobody acknowledges
                )
                self._send_waiting(waiting)

    async def _beat(self) -> None:
        while True:
            await self._world.clock.sleep(HEARTBEAT_S)
            self._send(line("HB", self._boot, str(self._noise_dbm), str(len(self._waiting)), str(self._lost)))

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.check."""
        if what in self._verbs or what == "rf_jamming":
            return
        if (what, restore) not in KEYS:
            can = sorted({known for known, of_restore in KEYS if of_restore == restore})
            raise ValueError(
                f'{self._spec.device} cannot do "{what}"{" restore" if restore else ""}; '
                f"it knows {', '.join([*can, 'rf_jamming', *self._verbs])}"
            )
        if zone is not None and not 1 <= zone <= self._sensors:
            raise ValueError(f"zone {zone} of {self._spec.device}: there are sensors 1 to {self._sensors}")

    @property
    def _verbs(self) -> dict[str, Callable[[], None]]:
        return {
            "silent": lambda: self._be_silent(True),
            "back": lambda: self._be_silent(False),
            "unplug": self._unplug,
            "replug": self._plug_in,
            "power_loss": self._lose_power,
            "garbage": lambda: self._put(self._garbage()),
            "half": self._send_half,
        }

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Act now. Returns once raised."""
        self.check(what, restore=restore, zone=zone)
        if what in self._verbs:
            self._verbs[what]()
        elif what == "rf_jamming":
            self._jam(restore)
        else:
            self._hear(1 if zone is None else zone, what, restore)

    # -- the air -------------------------------------------------------------------------------------------------------

    def _hear(self, zone: int, what: str, restore: bool) -> None:
        code = self.device(zone).removeprefix("ev1527-") + KEYS[what, restore]
        now = self._world.clock.monotonic()
        last = self._last_heard.get(code)
        self._last_heard[code] = now
        if last is not None and now - last < SAME_CODE_S:
            return
        rssi = str(self._world.random.randint(-90, -40))
        name = "burglary" if what == "open" else "rf_batt_low" if what == "batt_low" else what
        boot, seq = self._boot, self._next_seq()
        self._raise(
            (boot, seq), self.device(zone), name, restore,
            lambda age: line("RX", boot, seq, "EV1527", code, rssi, str(age)),
        )  # fmt: skip

    def _jam(self, restore: bool) -> None:
        self._noise_dbm = -102 if restore else -48
        boot, seq, noise, flag = self._boot, self._next_seq(), str(self._noise_dbm), "0" if restore else "1"
        self._raise(
            (boot, seq),
            self._spec.device,
            "rf_jamming",
            restore,
            lambda age: line("JM", boot, seq, noise, flag, str(age)),
        )

    def _raise(
        self, key: tuple[str, str], device: str, what: str, restore: bool, build: Callable[[int], bytes]
    ) -> None:
        if len(self._waiting) >= self._queue_max:
            self._waiting.pop(next(iter(self._waiting)))
            self._lost += 1
        waiting = Waiting(build, self._world.clock.monotonic(), device, what, restore)
        self._waiting[key] = waiting
        self._world.ledger.raised("rf_serial", device, what, restore=restore, zone=None, ref="/".join(key))
        if len(self._waiting) <= IN_FLIGHT_MAX:
            self._send_waiting(waiting)

    def _next_seq(self) -> str:
        self._seq += 1
        return f"{self._seq:08X}"

    def _new_boot(self) -> str:
        return f"{self._world.boot():08X}"

    # -- the line ------------------------------------------------------------------------------------------------------

    def _plug_in(self) -> None:
        if self._wire is None:
            baud = int(self._spec.options.get("baud") or 9600)
            self._wire = Wire(self._spec.connect, baud, self._arrived)
            self._send(line("HI", self._boot, "FK-RF433 simulated", "1.0"))

    def _unplug(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._input.clear()
        self._held = b""

    def _lose_power(self) -> None:
        """A new boot; what waits is in flash and keeps the boot and sequence it was first sent with."""
        self._boot, self._seq, self._lost = self._new_boot(), 0, 0
        self._last_heard.clear()
        self._send(line("HI", self._boot, "FK-RF433 simulated", "1.0"))

    def _be_silent(self, is_silent: bool) -> None:
        self._is_silent = is_silent

    def _send_waiting(self, waiting: Waiting) -> None:
        self._send(waiting.build(int(self._world.clock.monotonic() - waiting.since)))

    def _send_half(self) -> None:
        data = line("HB", self._boot, str(self._noise_dbm), str(len(self._waiting)), str(self._lost))
        self._put(data[: self._world.random.randrange(1, len(data))])

    def _send(self, data: bytes) -> None:
        """One line, as this receiver's faults let it through."""
        if self._is_silent:
            return
        if self._happens("half"):
            data = data[: self._world.random.randrange(1, len(data))]
        if self._happens("garbage"):
            data = self._garbage() + data
        if self._happens("glue"):
            self._held += data
            return
        self._put(self._held + data)
        self._held = b""

    def _happens(self, fault: str) -> bool:
        share = self._shares[fault]
        return share > 0 and self._world.random.random() < share

    def _garbage(self) -> bytes:
        return self._world.random.randbytes(self._world.random.randint(1, 200))

    def _put(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.write(data)

    def _arrived(self, data: bytes) -> None:
        self._input += data
        *lines, rest = bytes(self._input).split(b"\r\n")
        self._input = bytearray(rest[-INPUT_BYTES_MAX:])
        for raw in lines:
            start = raw.rfind(b"$")
            key = acknowledged(raw[start:].decode("ascii", "replace")) if start >= 0 else None
            waiting = self._waiting.pop(key, None) if key else None
            if key and waiting:
                self._world.ledger.acknowledged(
                    "rf_serial", waiting.device, waiting.what, restore=waiting.restore, zone=None, ref="/".join(key)
                )


def make(spec: Spec, world: World) -> Receiver:
    """The simulated receiver."""
    return Receiver(spec, world)
