"""The receiving centre itself: listeners, connections, the record, and the doors for tests and control."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self, TextIO

from simulators._clock import Clock, RealClock
from simulators._control import CommandError, ControlSocket
from simulators._net import host_and_port, reset, stop_listening
from simulators._tasks import Tasks
from simulators.police_centre.audit import MEMORY_MAX_EVENTS, Audit
from simulators.police_centre.frames import Cutter, Rubbish
from simulators.police_centre.judge import Judge, Row, Verdict
from simulators.police_centre.misbehaviour import Misbehaviour, Plan, from_mapping

# One frame at most; flow control stops a sender that is faster than we are.
READ_BYTES = 4096
SLOW_READ_BYTES = 16
# Long enough that the kernel sends each byte of a split answer on its own.
SPLIT_PAUSE_S = 0.001
# A province of gateways with two paths each; more is a connection leak in the sender.
CONNECTIONS_MAX = 1000
# Datagrams whose answer is delayed on purpose; beyond it an answer is lost, as UDP answers are.
LATE_DATAGRAMS_MAX = 256
# What `received` keeps for tests and the wall; the record file keeps everything.
RECEIVED_MAX = 10_000


class PoliceCentre:
    """A simulated 110 receiving centre for DC-09 over TCP and UDP; ``async with`` opens and closes it.

    ``tcp`` and ``udp`` are HOST:PORT or None for not at all; port 0 takes a free one. ``accounts`` of None
    knows everybody. ``record`` gets one JSON line per frame, written before its answer leaves.
    """

    def __init__(
        self,
        *,
        tcp: str | None = "127.0.0.1:0",
        udp: str | None = None,
        record: Path | None = None,
        keys: Mapping[str, bytes] | None = None,
        key_for_all: bytes | None = None,
        accounts: Collection[str] | None = None,
        misbehave: Iterable[Misbehaviour] = (),
        control: str | None = None,
        clock: Clock | None = None,
        audit_memory: int = MEMORY_MAX_EVENTS,
    ) -> None:
        self._tcp_address = host_and_port(tcp) if tcp else None
        self._udp_address = host_and_port(udp) if udp else None
        self._record_path = record
        self._control_address = control
        self._clock = clock or RealClock()
        self.plan = Plan(list(misbehave))
        self.audit = Audit(audit_memory)
        self._judge = Judge(
            keys=keys or {},
            key_for_all=key_for_all,
            accounts=accounts,
            plan=self.plan,
            audit=self.audit,
            clock=self._clock,
        )
        self.received: deque[Row] = deque(maxlen=RECEIVED_MAX)
        self.answers: Counter[str] = Counter()
        self._record: TextIO | None = None
        self._server: asyncio.Server | None = None
        self._datagrams: asyncio.DatagramTransport | None = None
        self._connections = Tasks()
        self._writers: set[asyncio.StreamWriter] = set()
        self._late = Tasks()
        self._changed = asyncio.Event()
        self._behaved = asyncio.Event()
        self._stack = AsyncExitStack()
        self.control: int | str | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._record_path is not None:
                # Line-buffered: a reader sees a row as soon as it is written. Half a surrogate pair out of somebody's
                # JSON is written as the escape it came as.
                record = self._record_path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
                self._record = stack.enter_context(record)
            await stack.enter_async_context(self._connections)
            await stack.enter_async_context(self._late)
            stack.push_async_callback(self.off)
            await self.on()
            if self._control_address is not None:
                socket = await stack.enter_async_context(ControlSocket(self._control_address, self._obey))
                self.control = socket.address
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    @property
    def port(self) -> int:
        """The TCP port, 0 when not served; it stays the same through an outage."""
        return self._tcp_address[1] if self._tcp_address else 0

    @property
    def udp_port(self) -> int:
        """The UDP port, 0 when not served; it stays the same through an outage."""
        return self._udp_address[1] if self._udp_address else 0

    # -- what tests and the control socket may do ------------------------------------------------------------------

    def misbehave(self, kind: str, **settings: Any) -> None:
        """Put a misbehaviour in force: ``centre.misbehave("nak", count=3)``."""
        self.plan.add(Misbehaviour(kind, **settings))

    def behave(self) -> None:
        """End every misbehaviour; half-open connections are read again."""
        self.plan.clear()
        self._behaved.set()
        self._behaved = asyncio.Event()

    async def on(self) -> None:
        """Listen (again); nothing happens when we do already."""
        if self._tcp_address is not None and self._server is None:
            host, port = self._tcp_address
            self._server = await asyncio.start_server(self._connected, host, port, limit=READ_BYTES)
            self._tcp_address = host, self._server.sockets[0].getsockname()[1]
        if self._udp_address is not None and self._datagrams is None:
            loop = asyncio.get_running_loop()
            self._datagrams, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self._datagram), local_addr=self._udp_address
            )
            self._udp_address = self._udp_address[0], self._datagrams.get_extra_info("sockname")[1]

    async def off(self) -> None:
        """An outage: refuse connections, reset the open ones, forget answers that were to come late."""
        if self._server is not None:
            await stop_listening(self._server)
            self._server = None
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        for writer in self._writers:
            reset(writer)
        await self._connections.end()
        await self._late.end()

    def status(self) -> dict[str, Any]:
        """Counts and settings as the control socket reports them."""
        return {
            "listening": self._server is not None or self._datagrams is not None,
            "connections": len(self._connections),
            "answers": dict(self.answers),
            "audit": self.audit.summary(),
            "misbehaviours": [misbehaviour.described() for misbehaviour in self.plan.active],
        }

    async def changed(self) -> None:
        """Return after the next row."""
        await self._changed.wait()

    async def wait_for(self, condition: Callable[[Self], bool], *, timeout_s: float = 5.0) -> None:
        """Return as soon as the condition holds; TimeoutError tells what had arrived by then."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(self):
                    await self.changed()
        except TimeoutError:
            tail = "\n  ".join(row.line() for row in list(self.received)[-5:])
            raise TimeoutError(f"not within {timeout_s} s; {self.status()}; last rows:\n  {tail}") from None

    async def _obey(self, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        match dict(wish):
            case {"misbehave": _}:
                self.plan.add(from_mapping(wish))
            case {"behave": True}:
                self.behave()
            case {"off": True}:
                await self.off()
            case {"on": True}:
                await self.on()
            case {"status": True}:
                pass
            case _:
                raise CommandError('expected {"misbehave": KIND, ...} or one of behave, off, on, status set to true')
        return self.status()

    # -- TCP -------------------------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        overrun = self._server is None or len(self._connections) >= CONNECTIONS_MAX
        if overrun or self.plan.fire(("refuse",)):
            reset(writer)
            return
        self._writers.add(writer)
        task = self._connections.start(self._serve(reader, writer), name="centre connection")
        task.add_done_callback(lambda _: self._writers.discard(writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _address(writer.get_extra_info("peername"))
        cutter = Cutter()
        try:
            while chunk := await self._read(reader):
                if self.plan.fire(("half_open",)):
                    await self._behaved.wait()
                for piece in cutter.feed(chunk):
                    if not await self._deliver(self._judged(piece, "tcp", peer), writer):
                        return
            for rubbish in cutter.finish():
                self._judged(rubbish, "tcp", peer)
        except OSError:
            pass  # the sender hung up; it will come again
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        slow = self.plan.fire(("slow",))
        if slow is None:
            return await reader.read(READ_BYTES)
        await self._clock.sleep(slow.seconds)
        return await reader.read(SLOW_READ_BYTES)

    async def _deliver(self, verdict: Verdict, writer: asyncio.StreamWriter) -> bool:
        """Send the answer the way the misbehaviour wants it; false when the connection ends here."""
        kind = verdict.row.misbehaviour
        if kind == "drop_before_ack":
            reset(writer)
            return False
        if verdict.late_s:
            await self._clock.sleep(verdict.late_s)
        reply = b"".join(verdict.replies)
        step = 1 if kind == "split" else max(1, len(reply))
        for start in range(0, len(reply), step):
            if start:
                await self._clock.sleep(SPLIT_PAUSE_S)
            writer.write(reply[start : start + step])
            await writer.drain()
        return kind != "close_after_ack"

    # -- UDP -------------------------------------------------------------------------------------------------------

    def _datagram(self, datagram: bytes, sender: tuple[Any, ...]) -> None:
        if self.plan.fire(("half_open",)):
            return
        cutter = Cutter()
        for piece in [*cutter.feed(datagram), *cutter.finish()]:
            verdict = self._judged(piece, "udp", _address(sender))
            if not verdict.late_s:
                self._send(verdict, sender)
            elif len(self._late) < LATE_DATAGRAMS_MAX:
                self._late.start(self._send_late(verdict, sender), name="late datagram")

    async def _send_late(self, verdict: Verdict, sender: tuple[Any, ...]) -> None:
        await self._clock.sleep(verdict.late_s)
        self._send(verdict, sender)

    def _send(self, verdict: Verdict, sender: tuple[Any, ...]) -> None:
        for reply in verdict.replies:
            if self._datagrams is not None:
                self._datagrams.sendto(reply, sender)

    # -- both ------------------------------------------------------------------------------------------------------

    def _judged(self, piece: bytes | Rubbish, transport: str, peer: str) -> Verdict:
        """Judge, record and announce a piece of what came in; only then may its answer leave."""
        if isinstance(piece, Rubbish):
            verdict = self._judge.rubbish(piece, transport=transport, peer=peer)
        else:
            verdict = self._judge.frame(piece, transport=transport, peer=peer)
        if self._record is not None:
            self._record.write(verdict.row.line() + "\n")
        self.received.append(verdict.row)
        self.answers[verdict.row.answer] += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return verdict


def _address(sockname: tuple[Any, ...]) -> str:
    return f"{sockname[0]}:{sockname[1]}"


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[Any, ...]], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._received(data, addr)
