"""Modbus TCP and RTU: one wire, one request at a time, and never somebody else's answer.

An answer counts only when unit, function and size are those of the request (and on TCP the transaction number). What
RTU cannot tell apart, time must: after a miss the same unit is left alone until a late answer has passed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.framer import FramerBase, FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse

from gateway.clock import Clock
from gateway.driver import Logger, Table
from gateway.errors import BusRefused, ConfigError, FrameError, LinkClosed, NoAnswer, Problem, Reason
from gateway.metrics import Metrics
from gateway.recording import Tap, transaction
from gateway.tasks import leave_if_cancelled
from gateway.untrusted import clean_text

CONNECT_S = 5.0
"""A TCP handshake over a poor radio link takes up to two repeated SYNs (1 s + 2 s); beyond that it is down."""
SILENT_REQUESTS_MAX = 20
"""TCP: cheap serial servers hang a socket for ever; after so many requests without any answer we open a new one."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
"""A pulled cable sends no FIN: the kernel notices within 25 s (idle) or 20 s (unacknowledged request)."""
REGISTERS_MAX = 125
BITS_MAX = 2000
"""Modbus Application Protocol V1.1b3, clauses 6.1 to 6.4."""
WRITE_REGISTERS_MAX = 123
WRITE_BITS_MAX = 1968
"""The same, clauses 6.11 and 6.12."""
IDENTITY_MAX = 64
"""Characters of one text by which a unit names itself; longer ones are no names."""
LATE_ANSWER_S = 1.0
"""RTU: no answer carries the number of its request, so a unit that missed one is not asked again before this has passed."""
GAP_CHARACTERS = 3.5
CHARACTER_BITS = 11
FAST_BAUD = 19_200
FAST_GAP_S = 0.00175
"""RTU: so much silence ends a frame, by which a slave knows where the next one begins; above 19 200 baud it is fixed. Modbus over
Serial Line V1.02, clause 2.5.1.1."""
TARGET_SILENT = 0x0B
"""Exception of a gateway whose serial unit did not answer: the unit is dead, not the link."""
HEARD_MAX_BYTES = 260
"""Kept of what came instead of an answer: the longest frame there is (Modbus Messaging on TCP/IP V1.0b, clause 4.1)."""

BIT_TABLES = frozenset({"coil", "discrete_input"})
READ_FUNCTION: dict[Table, int] = {"coil": 1, "discrete_input": 2, "holding_register": 3, "input_register": 4}

Client = AsyncModbusTcpClient | AsyncModbusSerialClient
Send = Callable[[], Awaitable[ModbusPDU]]
Reject = Callable[[bytes, FrameError], None]


@dataclass(frozen=True, slots=True)
class Line:
    """What a `modbus+...` URL says. `host` is the path of the port on RTU."""

    kind: Literal["tcp", "rtu"]
    host: str
    port: int
    timeout_s: float
    baud: int = 9600
    parity: str = "N"
    stop: int = 1

    @property
    def gap_s(self) -> float:
        """The silence between an answer and the next request."""
        if self.kind == "tcp":
            return 0.0
        return FAST_GAP_S if self.baud > FAST_BAUD else GAP_CHARACTERS * CHARACTER_BITS / self.baud


def line(url: str) -> Line:
    """The line a URL names. Raises ValueError saying what was expected."""
    parts = urlsplit(url)
    is_tcp = parts.scheme == "modbus+tcp"
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"timeout_ms"} if is_tcp else {"timeout_ms", "baud", "parity", "stop"}
    if strange := sorted(set(options) - known):
        raise ValueError(f"unknown option {strange[0]!r}; expected " + ", ".join(sorted(known)))
    timeout_s = _number(options, "timeout_ms", 300 if is_tcp else 200, 10, 10_000) / 1000
    if is_tcp:
        if not parts.hostname:
            raise ValueError("no host; expected modbus+tcp://HOST:PORT")
        return Line("tcp", parts.hostname, 502 if parts.port is None else parts.port, timeout_s)
    if parts.scheme != "modbus+rtu" or parts.netloc or len(parts.path) < 2:
        raise ValueError("expected modbus+tcp://HOST:PORT or modbus+rtu:///dev/ttyS1?baud=9600&parity=N&stop=1")
    parity = options.get("parity", "N").upper()
    if parity not in {"N", "E", "O"}:
        raise ValueError(f"parity={parity}; expected N, E or O")
    baud, stop = _number(options, "baud", 9600, 300, 1_000_000), _number(options, "stop", 1, 1, 2)
    return Line("rtu", parts.path, 0, timeout_s, baud, parity, stop)


def _number(options: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = options.get(name, str(default))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{name}={text}; expected a whole number from {low} to {high}")
    return int(text)


@asynccontextmanager
async def open_bus(
    url: str, *, clock: Clock, log: Logger, metrics: Metrics, connection: str, reject: Reject
) -> AsyncIterator[ModbusBus]:
    """The bus behind `url`, closed at the end. Raises LinkClosed when it cannot be opened, ConfigError for a bad URL.

    `reject` is told the bytes that came where an answer was due: the driver only ever sees answers.
    There is one attempt: opening again, with back-off, is the caller's.
    """
    try:
        wire = line(url)
    except ValueError as error:
        raise ConfigError([Problem("site file", None, f"connection.{connection}.link", url, str(error))]) from error
    framer = _TolerantSocket(DecodePDU(False)) if wire.kind == "tcp" else _TolerantRTU(DecodePDU(False))
    client = _client(wire, connection, framer)
    try:
        if not await client.connect():
            raise LinkClosed(f"cannot open {url}")
        client.ctx.comm_params.timeout_connect = wire.timeout_s  # from here on it bounds the wait for an answer
        if wire.kind == "tcp":
            _keep_alive(client.ctx.transport)
        log.debug("bus open", url=url)
        yield ModbusBus(client, wire, clock, metrics=metrics, connection=connection, framer=framer, reject=reject)
    finally:
        client.close()


def _client(wire: Line, name: str, framer: FramerBase) -> Client:
    """No retries (the driver's business) and no reconnect of its own (the supervisor's)."""
    client: Client
    if wire.kind == "tcp":
        client = AsyncModbusTcpClient(
            wire.host, port=wire.port, name=name, timeout=CONNECT_S, retries=0, reconnect_delay=0
        )
    else:
        client = AsyncModbusSerialClient(
            wire.host, baudrate=wire.baud, parity=wire.parity, stopbits=wire.stop,
            name=name, timeout=CONNECT_S, retries=0, reconnect_delay=0,
        )  # fmt: skip
    client.ctx.framer = framer
    client.set_max_no_responses(SILENT_REQUESTS_MAX)
    client.ctx.count_until_disconnect = SILENT_REQUESTS_MAX
    return client


class _Tolerant(FramerBase):
    """Rubbish inside a frame is dropped; pymodbus raises it into the event loop, which would close the connection. What came
    since the last request is remembered, so that what was no answer can be shown."""

    taken = unfinished = b""

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:  # noqa: N802  # pymodbus' name
        try:
            used, pdu = super().handleFrame(data, exp_devid, exp_tid)
        except (ModbusException, ValueError, IndexError):
            used, pdu = len(data), None
        self.taken = (self.taken + data[:used])[:HEARD_MAX_BYTES]
        self.unfinished = data[used:]
        return used, pdu

    @property
    def heard(self) -> bytes:
        """All since the last request, the first HEARD_MAX_BYTES of it."""
        return (self.taken + self.unfinished)[:HEARD_MAX_BYTES]

    def forget(self) -> None:
        """A request goes out."""
        self.taken = self.unfinished = b""


class _TolerantSocket(_Tolerant, FramerSocket):
    pass


class _TolerantRTU(_Tolerant, FramerRTU):
    pass


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # all four on Linux, fewer elsewhere
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class ModbusBus:
    """`gateway.driver.Bus` over one pymodbus client."""

    def __init__(
        self,
        client: Client,
        wire: Line,
        clock: Clock,
        *,
        metrics: Metrics,
        connection: str,
        framer: _Tolerant,
        reject: Reject,
    ) -> None:
        self.tap: Tap | None = None
        self.peer = wire.host
        self._client = client
        self._framer = framer
        self._reject = reject
        self._refusals: set[tuple[int, int, int]] = set()
        """Unit, function and code of the exceptions that were shown: a unit that refuses part of its map does so at every poll."""
        self._wire = wire
        self._clock = clock
        self._outcomes = {
            name: metrics.bus_requests.labels(connection, name) for name in ("answered", "no_answer", "refused", "lost")
        }
        self._lock = asyncio.Lock()
        self._gap_s = wire.gap_s
        self._silent_since = clock.monotonic() - self._gap_s
        self._late_until: dict[int, float] = {}
        """RTU: per unit that missed, when an answer to the missed request can no longer be taken for a new one."""

    async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        """See Bus.read."""
        request = {"read": [unit, table, address, count]}
        values: Sequence[int] = await transaction(self.tap, request, self._read(unit, table, address, count))
        return values

    async def _read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        is_bits = table in BIT_TABLES
        assert 1 <= count <= (BITS_MAX if is_bits else REGISTERS_MAX), f"{count} of {table} do not fit one request"
        request = {
            "coil": self._client.read_coils,
            "discrete_input": self._client.read_discrete_inputs,
            "holding_register": self._client.read_holding_registers,
            "input_register": self._client.read_input_registers,
        }[table]
        answer = await self._ask(unit, READ_FUNCTION[table], lambda: request(address, count=count, device_id=unit))
        values = [int(bit) for bit in answer.bits] if is_bits else list(answer.registers)
        if len(values) != (-(-count // 8) * 8 if is_bits else count):
            self._outcomes["no_answer"].inc()
            self._show(unit, f"{len(values)} values where {count} were asked for")
            raise NoAnswer(f"unit {unit} answered {len(values)} values where {count} of {table} were asked for")
        self._outcomes["answered"].inc()
        return values[:count]

    async def identify(self, unit: int) -> Sequence[str]:
        """Vendor, product code and revision, as the unit says them (43/14 basic, V1.1b3 clause 6.21). Raises as `read`."""
        answer = await self._ask(
            unit, 43, lambda: self._client.read_device_information(read_code=1, object_id=0, device_id=unit)
        )
        self._outcomes["answered"].inc()
        assert isinstance(answer, ReadDeviceInformationResponse)
        texts = (value for _, value in sorted(answer.information.items()) if isinstance(value, bytes))
        return [clean_text(text.decode("utf-8", "replace"), IDENTITY_MAX) for text in texts]

    async def write(
        self, unit: int, table: Table, address: int, values: Sequence[int], *, unless: Callable[[], bool] | None = None
    ) -> bool:
        """See Bus.write."""
        request = {"write": [unit, table, address, list(values)]}
        was_sent: bool = await transaction(self.tap, request, self._write(unit, table, address, values, unless))
        return was_sent

    async def _write(
        self, unit: int, table: Table, address: int, values: Sequence[int], unless: Callable[[], bool] | None
    ) -> bool:
        assert table in {"coil", "holding_register"}, f"{table} cannot be written"
        assert 1 <= len(values) <= (WRITE_BITS_MAX if table in BIT_TABLES else WRITE_REGISTERS_MAX)
        client, is_coil = self._client, table == "coil"
        bits, words = [bool(value) for value in values], list(values)

        def send() -> Awaitable[ModbusPDU]:
            if is_coil:
                return client.write_coils(address, bits, device_id=unit)
            return client.write_registers(address, words, device_id=unit)

        async with self._wire_for(unit):
            if unless is not None and unless():
                return False
            await self._exchange(unit, 15 if is_coil else 16, send)
        self._outcomes["answered"].inc()
        return True

    async def _ask(self, unit: int, function: int, send: Send) -> ModbusPDU:
        async with self._wire_for(unit):
            return await self._exchange(unit, function, send)

    @asynccontextmanager
    async def _wire_for(self, unit: int) -> AsyncIterator[None]:
        """The wire to ourselves, once nothing late can come from the unit any more."""
        await self._let_late_answer_pass(unit)
        async with self._lock:
            yield

    async def _exchange(self, unit: int, function: int, send: Send) -> ModbusPDU:
        """The answer to one request. Counts every outcome but the good one."""
        if (gap_s := self._silent_since + self._gap_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(gap_s)
        self._framer.forget()
        try:
            answer = await send()
        except ConnectionException as error:
            raise self._lost() from error
        except ModbusException as error:
            self._show(unit, f"no answer to function {function}")
            raise self._missed(unit) from error
        finally:
            self._silent_since = self._clock.monotonic()
            leave_if_cancelled()  # else a line told to stop just as an answer comes would go on for ever
        if answer.isError() and answer.function_code == function | 0x80:
            if (refusal := (unit, function, answer.exception_code)) not in self._refusals:
                self._refusals.add(refusal)
                self._show(unit, f"exception {answer.exception_code} to function {function}")
            if answer.exception_code == TARGET_SILENT:
                self._outcomes["no_answer"].inc()
                raise NoAnswer(f"unit {unit} did not answer the gateway it hangs on")
            self._outcomes["refused"].inc()
            raise BusRefused(answer.exception_code)
        if answer.function_code != function:
            self._outcomes["no_answer"].inc()
            self._show(unit, f"no answer to function {function}")
            raise NoAnswer(f"unit {unit} answered function {answer.function_code} where {function} was asked for")
        return answer

    def _show(self, unit: int, what: str) -> None:
        """The bytes that came, if any did, go where those of refused frames are kept."""
        heard = self._framer.heard
        reason: Reason = "malformed"
        if not heard:
            return
        if self._wire.kind == "rtu" and not FramerRTU.check_CRC(heard[:-2], int.from_bytes(heard[-2:], "big")):
            what, reason = f"{what}, the CRC does not fit", "checksum"
        elif self._framer.unfinished:
            what += ", not whole"
        self._reject(heard, FrameError(f"unit {unit} was asked: {what}", reason))

    async def _let_late_answer_pass(self, unit: int) -> None:
        until = self._late_until.pop(unit, None)
        if until is not None and (wait_s := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait_s)

    def _missed(self, unit: int) -> LinkClosed | NoAnswer:
        if not self._client.connected:
            return self._lost()
        if self._wire.kind == "rtu":
            self._late_until[unit] = self._clock.monotonic() + max(LATE_ANSWER_S, self._wire.timeout_s)
        elif self._client.ctx.recv_buffer:
            # Half an answer: the rest would be read as the head of the next one. A byte stream cannot be resynchronised.
            self._client.close()
            return self._lost()
        self._outcomes["no_answer"].inc()
        return NoAnswer(f"unit {unit} did not answer within {self._wire.timeout_s * 1000:.0f} ms")

    def _lost(self) -> LinkClosed:
        self._outcomes["lost"].inc()
        return LinkClosed(f"the line to {self._wire.host} is gone")
