"""A GNSS receiver in a vehicle: bursts of NMEA 0183 over a serial line or TCP, written from the standard alone.

`connect`: `pty:/tmp/x/gnss0` makes a pseudo terminal and a link to it under that name, a path is an existing port,
`HOST:PORT` is dialled again and again. Options: `talker` ("GN"), `latitude`, `longitude`, `course` (90) and `speed_kmh` (50)
of its drive, `rate_hz` (1), `weeks` (0: how many weeks its calendar is late), and as shares of bursts from 0 to 1: `garbage`
before, `half` bursts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from simulators._net import host_and_port
from simulators._serial import Wire
from simulators._world import Option, Spec, World

OPTIONS = frozenset(
    {"talker", "latitude", "longitude", "course", "speed_kmh", "rate_hz", "weeks", "baud", "garbage", "half"}
)
METRES_PER_DEGREE = 111_195.0
"""Of a great circle on a sphere of 6371 km."""
KMH_PER_KNOT = 1.852
OVERSPEED = 1.8
"""Times the speed of the drive."""
DIAL_AGAIN_S = 0.5
ANTENNA = {False: "OPEN", True: "OK"}


def sentence(address: str, *fields: str) -> bytes:
    """`$address,fields*HH`, HH the exclusive or of what stands between `$` and `*`."""
    text = ",".join((address, *fields))
    total = 0
    for character in text:
        total ^= ord(character)
    return f"${text}*{total:02X}\r\n".encode("ascii")


def angle(degrees: float, positive: str, negative: str, width: int) -> tuple[str, str]:
    """Degrees and decimal minutes with `width` digits of degrees, and the hemisphere."""
    hundred_thousandths = round(abs(degrees) * 60 * 100_000)
    whole, minutes = divmod(hundred_thousandths, 60 * 100_000)
    return f"{whole:0{width}d}{minutes // 100_000:02d}.{minutes % 100_000:05d}", positive if degrees >= 0 else negative


@dataclass(frozen=True, slots=True)
class State:
    """How the vehicle and its receiver are now."""

    speed_kmh: float = 0.0
    course: float = 90.0
    has_fix: bool = True
    is_silent: bool = False


class Receiver:
    """The receiver. Kinds: overspeed, antenna_cut, each with its restore. Verbs: drive, park, turn (back), lose_fix, find_fix,
    silent, back, unplug, replug, garbage, half."""

    def __init__(self, spec: Spec, world: World) -> None:
        options: Mapping[str, Option] = spec.options
        self._spec = spec
        self._world = world
        self._talker = str(options.get("talker") or "GN")
        self._latitude = float(options.get("latitude") or 37.5)
        self._longitude = float(options.get("longitude") or 121.4)
        course = options.get("course")
        self._state = State(course=90.0 if course is None else float(course))
        self._cruise_kmh = float(options.get("speed_kmh") or 50.0)
        self._period_s = 1 / float(options.get("rate_hz") or 1.0)
        self._late = timedelta(weeks=int(options.get("weeks") or 0))
        self._shares = {name: float(options.get(name) or 0.0) for name in ("garbage", "half")}
        if not connects_by_wire(spec.connect):
            host_and_port(spec.connect)
        self._antenna = ""
        self._is_plugged = True
        self._moved_s = world.clock.monotonic()
        self._raised = 0
        self._wire: Wire | None = None
        self._writer: asyncio.StreamWriter | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the receiver until cancelled."""
        if connects_by_wire(self._spec.connect):
            self._plug_in()
        try:
            while True:
                if self._is_plugged and self._wire is None and self._writer is None:
                    await self._dial()
                await self._world.clock.sleep(self._period_s)
                self._move()
                if not self._state.is_silent:
                    self._send(self._burst())
        finally:
            self._unplug()

    async def _dial(self) -> None:
        host, port = host_and_port(self._spec.connect)
        with suppress(OSError):
            _, self._writer = await asyncio.open_connection(host, port)
            return
        await self._world.clock.sleep(DIAL_AGAIN_S)

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.check."""
        if zone is not None:
            raise ValueError(f"zone {zone} of {self._spec.device}: a receiver has no zones")
        if what not in ("overspeed", "antenna_cut") and (restore or what not in self._verbs):
            known = ", ".join(["overspeed", "antenna_cut", *self._verbs])
            raise ValueError(f'{self._spec.device} cannot do "{what}"{" restore" if restore else ""}; it knows {known}')

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Act now. Returns once raised."""
        self.check(what, restore=restore, zone=zone)
        self._move()
        if what == "overspeed":
            self._become(speed_kmh=self._cruise_kmh * (1 if restore else OVERSPEED))
        elif what == "antenna_cut":
            self._antenna = ANTENNA[restore]
        else:
            self._verbs[what]()
            return
        self._raised += 1
        ref = f"{what}/{self._raised}"
        self._world.ledger.raised("nmea", self._spec.device, what, restore=restore, zone=None, ref=ref)

    @property
    def _verbs(self) -> dict[str, Callable[[], None]]:
        return {
            "drive": partial(self._become, speed_kmh=self._cruise_kmh),
            "park": partial(self._become, speed_kmh=0.0),
            "turn": partial(self._become, course=(self._state.course + 180) % 360),
            "lose_fix": partial(self._become, has_fix=False),
            "find_fix": partial(self._become, has_fix=True),
            "silent": partial(self._become, is_silent=True),
            "back": partial(self._become, is_silent=False),
            "unplug": self._unplug,
            "replug": self._plug_in,
            "garbage": lambda: self._put(self._garbage()),
            "half": lambda: self._put(self._half(self._burst())),
        }

    def _become(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)

    # -- the road ------------------------------------------------------------------------------------------------------

    def _move(self) -> None:
        now_s = self._world.clock.monotonic()
        metres = self._state.speed_kmh / 3.6 * (now_s - self._moved_s)
        self._moved_s = now_s
        north = metres * math.cos(math.radians(self._state.course))
        east = metres * math.sin(math.radians(self._state.course))
        self._longitude += east / METRES_PER_DEGREE / math.cos(math.radians(self._latitude))
        self._latitude += north / METRES_PER_DEGREE

    # -- the line ------------------------------------------------------------------------------------------------------

    def _burst(self) -> bytes:
        now = datetime.fromtimestamp(self._world.clock.now(), UTC) - self._late
        clock, day = f"{now:%H%M%S}.{now.microsecond // 1000:03d}", f"{now:%d%m%y}"
        knots, course = f"{self._state.speed_kmh / KMH_PER_KNOT:.3f}", f"{self._state.course:.2f}"
        system = self._talker
        if self._state.has_fix:
            north, side = angle(self._latitude, "N", "S", 2)
            east, half = angle(self._longitude, "E", "W", 3)
            lines = [
                sentence(f"{system}RMC", clock, "A", north, side, east, half, knots, course, day, "", "", "A", "V"),
                sentence(f"{system}VTG", course, "T", "", "M", knots, "N", f"{self._state.speed_kmh:.3f}", "K", "A"),
                sentence(f"{system}GGA", clock, north, side, east, half, "1", "09", "0.9", "21.3", "M", "8.1", "M", "", ""),
                sentence(f"{system}GSA", "A", "3", *("05", "12", "19"), *[""] * 9, "1.7", "0.9", "1.4", "1"),
            ]  # fmt: skip
        else:
            lines = [
                sentence(f"{system}RMC", clock, "V", *[""] * 6, day, "", "", "N", "V"),
                sentence(f"{system}GGA", clock, *[""] * 4, "0", "00", "99.9", *[""] * 6),
                sentence(f"{system}GSA", "A", "1", *[""] * 12, "99.9", "99.9", "99.9", "1"),
            ]
        lines.append(sentence(f"{system}ZDA", clock, f"{now:%d}", f"{now:%m}", f"{now:%Y}", "00", "00"))
        if self._antenna:
            lines.append(sentence("GPTXT", "01", "01", "02", f"ANTSTATUS={self._antenna}"))
        return b"".join(lines)

    def _send(self, burst: bytes) -> None:
        """One burst, as this receiver's faults let it through."""
        if self._happens("half"):
            burst = self._half(burst)
        self._put(self._garbage() + burst if self._happens("garbage") else burst)

    def _happens(self, fault: str) -> bool:
        return self._shares[fault] > 0 and self._world.random.random() < self._shares[fault]

    def _garbage(self) -> bytes:
        return self._world.random.randbytes(self._world.random.randint(1, 200))

    def _half(self, burst: bytes) -> bytes:
        return burst[: self._world.random.randrange(1, len(burst))]

    def _put(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.write(data)
        if self._writer is not None:
            if self._writer.is_closing():
                self._writer = None
            else:
                self._writer.write(data)

    def _plug_in(self) -> None:
        self._is_plugged = True
        if self._wire is None and connects_by_wire(self._spec.connect):
            self._wire = Wire(self._spec.connect, int(self._spec.options.get("baud") or 9600), lambda _: None)

    def _unplug(self) -> None:
        self._is_plugged = False
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def connects_by_wire(connect: str) -> bool:
    """True for a pseudo terminal or a port, False for HOST:PORT."""
    return connect.startswith(("pty:", "/"))


def make(spec: Spec, world: World) -> Receiver:
    """The simulated receiver."""
    return Receiver(spec, world)
