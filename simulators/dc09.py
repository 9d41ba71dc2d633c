"""An alarm panel that reports by SIA DC-09 (ANSI/SIA DC-09-2026), written from the standard and docs/drivers/dc09.md.

`connect`: `tcp://HOST:PORT` or `udp://HOST:PORT`. Options: `account` (hex; else what stands behind the last dash of the id),
`protocol` (`cid` or `sia`), `key` (`text:...` or `hex:...`), `null_s` (60), `retry_s` (5), `hang_up` (after each answer),
`stamp` (`utc`, `local`, `none`), `route` (what stands between number and account, `L0`), and `departs`: one of
`crc_over_cr`, `crc_raw`, `nul`, as some makers do.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from simulators._net import host_and_port
from simulators._world import Spec, World

OPTIONS = frozenset({"account", "protocol", "key", "null_s", "retry_s", "hang_up", "stamp", "route", "departs"})
WAITING_MAX = 1000
"""Events a panel keeps while nobody answers; then the oldest goes, as in a real one."""
REDIAL_S = 1.0
ANSWER_BYTES_MAX = 4200
LOCAL = timedelta(hours=8)

CODES = {
    "panic": ("120", "PA", "PH"), "duress": ("121", "HA", "HH"), "medical": ("100", "MA", "MH"), "fire": ("110", "FA", "FH"),
    "smoke": ("111", "FA", "FH"), "gas": ("151", "GA", "GH"), "burglary": ("130", "BA", "BH"), "tamper": ("144", "TA", "TR"),
    "perimeter": ("131", "BA", "BH"), "water": ("154", "WA", "WH"), "ac_loss": ("301", "AT", "AR"),
    "batt_low": ("302", "YT", "YR"), "rf_batt_low": ("384", "XT", "XR"), "open_close": ("401", "OP", "CL"),
    "test_periodic": ("602", "RP", "RP"),
}  # fmt: skip
"""Contact ID code, SIA code, SIA code of its end."""


def crc16(data: bytes) -> int:
    """CRC-16/ARC, bit by bit: 8005 reflected, start 0; 123456789 gives BB3D."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return value


def framed(body: bytes, departs: str = "") -> bytes:
    """LF, CRC, length, body, CR, as this maker does it."""
    if departs == "crc_over_cr":
        return b"\n%04X0%03X%b\r" % (crc16(body + b"\r"), len(body) + 1, body)
    if departs == "crc_raw":
        return b"\n" + crc16(body).to_bytes(2, "big") + b"0%03X%b\r" % (len(body), body)
    return b"\n%04X0%03X%b\r" % (crc16(body), len(body), body) + (b"\0" if departs == "nul" else b"")


def key_from(text: str) -> bytes:
    kind, _, value = text.partition(":")
    key = bytes.fromhex(value) if kind == "hex" else value.encode()
    if kind not in ("hex", "text") or len(key) not in (16, 24, 32):
        raise ValueError("key: expected text:<16, 24 or 32 characters> or hex:<twice as many digits>")
    return key


_ANSWER = re.compile(rb'\n([0-9A-F]{4})0([0-9A-F]{3})("\*?([A-Z]+)"(\d{4})[^\[]*\[(.*))\r', re.DOTALL)
_STAMP = re.compile(rb"_(\d\d:\d\d:\d\d,\d\d-\d\d-\d{4})")


def answer_of(frame: bytes) -> tuple[str, int, bytes] | None:
    """Token, number and content of an answer whose CRC and length are right."""
    found = _ANSWER.search(frame)
    if found is None or crc16(found[3]) != int(found[1], 16) or len(found[3]) != int(found[2], 16):
        return None
    return found[4].decode(), int(found[5]), found[6]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that nobody has acknowledged."""

    sequence: int
    what: str
    restore: bool
    zone: int | None
    data: str
    happened: str
    ref: str


class Wire(Protocol):
    """A way to the receiver."""

    def send(self, frame: bytes) -> None: ...

    async def answer(self) -> bytes:
        """What came back. Raises OSError when the line is gone."""

    def close(self) -> None: ...


class TcpWire:
    """A connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, frame: bytes) -> None:
        self._writer.write(frame)

    async def answer(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        self._writer.close()


class UdpWire(asyncio.DatagramProtocol):
    """A socket whose address stays."""

    def __init__(self) -> None:
        self._answers: deque[bytes] = deque(maxlen=16)
        self._has_some = asyncio.Event()
        self.transport: asyncio.DatagramTransport | None = None

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        self._answers.append(data)
        self._has_some.set()

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there; the repeat finds out when somebody does."""

    def send(self, frame: bytes) -> None:
        assert self.transport is not None
        self.transport.sendto(frame)

    async def answer(self) -> bytes:
        await self._has_some.wait()
        answer = self._answers.popleft()
        if not self._answers:
            self._has_some.clear()
        return answer

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


class Panel:
    """The panel. Verbs beside the kinds: silent, back, unplug, replug, power_loss, garbage, half, in_clear, slow_clock."""

    def __init__(self, spec: Spec, world: World) -> None:
        options = spec.options
        self._spec = spec
        self._world = world
        self.account = str(options.get("account") or spec.device.rpartition("-")[2]).upper()
        if not re.fullmatch(r"[0-9A-Z]{3,16}", self.account):
            raise ValueError(f"account {self.account!r}: expected 3 to 16 hex digits")
        self._protocol = str(options.get("protocol") or "cid")
        if self._protocol not in ("cid", "sia"):
            raise ValueError(f"protocol {self._protocol!r}: expected cid or sia")
        self._scheme, _, address = spec.connect.partition("://")
        if self._scheme not in ("tcp", "udp"):
            raise ValueError(f"connect {spec.connect!r}: expected tcp://HOST:PORT or udp://HOST:PORT")
        self._host, self._port = host_and_port(address)
        self._key = key_from(str(options["key"])) if options.get("key") else None
        self._null_s = float(options.get("null_s") or 60.0)
        self._retry_s = float(options.get("retry_s") or 5.0)
        self._hangs_up = bool(options.get("hang_up"))
        self._stamp = str(options.get("stamp") or "utc")
        self._route = str(options.get("route") or "L0")
        self._departs = str(options.get("departs") or "")
        self._sequence = world.boot() % 9999
        self._offset = timedelta()
        self._waiting: deque[Waiting] = deque()
        self._news = asyncio.Event()
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._wire: Wire | None = None

    # -- what a person does to it ----------------------------------------------------------------------------------------

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.check."""
        if what not in CODES and what not in self._verbs:
            can = ", ".join([*sorted(CODES), *self._verbs])
            raise ValueError(f'{self._spec.device} cannot do "{what}"; it knows {can}')
        if zone is not None and not 0 <= zone <= 999:
            raise ValueError(f"zone {zone}: expected 0 to 999")

    @property
    def _verbs(self) -> dict[str, Callable[[], None]]:
        return {
            "silent": self._may_speak.clear,
            "back": self._may_speak.set,
            "unplug": self._unplug,
            "replug": self._may_speak.set,
            "power_loss": self._lose_power,
            "garbage": lambda: self._put(self._world.random.randbytes(self._world.random.randint(1, 200))),
            "half": lambda: self._put(self._frame("NULL", 0, "", "")[:11]),
            "in_clear": self._speak_in_the_clear,
            "slow_clock": lambda: self._set_clock(timedelta(minutes=-5)),
        }

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """Act now. Returns once raised."""
        self.check(what, restore=restore, zone=zone)
        if verb := self._verbs.get(what):
            verb()
            return
        self._sequence = self._sequence % 9999 + 1
        happened = self._now().strftime("%H:%M:%S,%m-%d-%Y")
        ref = f"{self.account}/{self._sequence:04d}/{happened}"
        data = self._data(what, restore=restore, zone=zone or 0)
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
        self._waiting.append(Waiting(self._sequence, what, restore, zone, data, happened, ref))
        self._world.ledger.raised("dc09", self._spec.device, what, restore=restore, zone=zone, ref=ref)
        self._news.set()

    def _data(self, what: str, *, restore: bool, zone: int) -> str:
        contact_id, begins, ends = CODES[what]
        if self._protocol == "cid":
            return f"#{self.account}|{3 if restore else 1}{contact_id} 01 {zone:03d}"
        return f"#{self.account}|Nri1/{ends if restore else begins}{zone:03d}"

    def _unplug(self) -> None:
        self._may_speak.clear()
        if self._wire is not None:
            self._wire.close()

    def _lose_power(self) -> None:
        """Numbers begin anew; what waits is kept with its own."""
        self._sequence = 0
        if self._wire is not None:
            self._wire.close()

    def _speak_in_the_clear(self) -> None:
        self._key = None

    def _set_clock(self, offset: timedelta) -> None:
        self._offset = offset

    def _put(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.send(data)

    # -- life ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be the panel until cancelled."""
        while True:
            await self._may_speak.wait()
            with suppress(OSError):
                await self._talk(await self._dialled())
            await self._world.clock.sleep(REDIAL_S * self._world.random.uniform(0.5, 1.5))

    async def _dialled(self) -> Wire:
        if self._scheme == "tcp":
            return TcpWire(*await asyncio.open_connection(self._host, self._port, limit=ANSWER_BYTES_MAX))
        loop = asyncio.get_running_loop()
        transport, wire = await loop.create_datagram_endpoint(UdpWire, remote_addr=(self._host, self._port))
        wire.transport = transport
        return wire

    async def _talk(self, wire: Wire) -> None:
        """Until the line is lost, or the panel hangs up. Raises OSError."""
        self._wire = wire
        try:
            await self._say_null(wire)
            while True:
                await self._may_speak.wait()
                if self._waiting:
                    await self._say(wire, self._waiting[0])
                    if self._hangs_up:
                        return
                    continue
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._null_s):
                        await self._news.wait()
                if not self._waiting:
                    await self._say_null(wire)
        finally:
            self._wire = None
            wire.close()

    async def _say_null(self, wire: Wire) -> None:
        if self._may_speak.is_set():
            wire.send(self._frame("NULL", 0, "", ""))
            await self._answered(wire, 0)

    async def _say(self, wire: Wire, event: Waiting) -> None:
        """Send once. Not acknowledged, it stays first in the queue."""
        token = "ADM-CID" if self._protocol == "cid" else "SIA-DCS"
        wire.send(self._frame(token, event.sequence, event.data, f"[H{event.happened}]"))
        answer = await self._answered(wire, event.sequence)
        if answer in ("ACK", "DUH") and self._waiting and self._waiting[0] is event:
            self._waiting.popleft()
        if answer == "ACK":
            self._world.ledger.acknowledged(
                "dc09", self._spec.device, event.what, restore=event.restore, zone=event.zone, ref=event.ref
            )

    async def _answered(self, wire: Wire, sequence: int) -> str:
        """The token of the answer to this number; empty when there was none in time. NAK sets the clock."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s):
                while True:
                    answer = answer_of(await wire.answer())
                    if answer is None:
                        continue
                    kind, number, content = answer
                    if kind == "NAK" and (found := _STAMP.search(content)):
                        self._offset += _moment(found[1].decode()) - self._now()
                        return kind
                    if number == sequence:
                        return kind
        return ""

    # -- frames ----------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._world.clock.now(), UTC) + self._offset

    def _frame(self, token: str, sequence: int, data: str, extended: str) -> bytes:
        time = self._now() + (LOCAL if self._stamp == "local" else timedelta())
        stamp = "" if self._stamp == "none" and self._key is None else f"_{time:%H:%M:%S,%m-%d-%Y}"
        content = f"{data}]{extended}{stamp}"
        star = ""
        if self._key is not None:
            star, content = "*", self._sealed(content, has_data=bool(data))
        body = f'"{star}{token}"{sequence:04d}{self._route}#{self.account}[{content}'
        return framed(body.encode(), self._departs)

    def _sealed(self, content: str, *, has_data: bool) -> str:
        clear = (("|" if has_data else "") + content).encode()
        size = 16 + -len(clear) % 16
        pad = bytes(self._world.random.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(size))
        assert self._key is not None
        cipher = Cipher(algorithms.AES(self._key), modes.CBC(bytes(16))).encryptor()
        return (cipher.update(pad + clear) + cipher.finalize()).hex().upper()


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%H:%M:%S,%m-%d-%Y").replace(tzinfo=UTC)


def make(spec: Spec, world: World) -> Panel:
    """The simulated panel."""
    return Panel(spec, world)
