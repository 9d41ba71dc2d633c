"""Both ends of the road in one cheap process: the broker (with the sensors behind it) and the 110 centre, on one clock.

    python -m bench.peer --gateways 3 --devices 10000 --accounts 100

Says its ports, takes one command a line on stdin, answers with one line each. It is stamped when a sensor's event falls
due and when the acknowledgement of the frame that carries it is written; the word `e<number>` in the event's text, which
reaches the desk, ties the two together.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from time import perf_counter, process_time
from typing import Any, cast

import uvloop

from bench import wire
from bench.estate import Devices, Estate

WINDOW = 1000
"""Publishes without PUBACK: what the gateway asks of a broker (its receive maximum)."""
GIVE_UP_S = 30.0
"""Without a new acknowledgement for so long, what is still open counts as lost."""
BEHIND_MAX_S = 60.0
"""A gateway that is still busy so long after the last event fell due (and as many seconds as the load was to take) is
given up: it does not keep up, and its load says how much is open."""
SETTLE_S = 0.3
"""Waited after the last acknowledgement, for copies that nobody wanted."""
CHECK_EVERY = 64
"""One frame in so many has its CRC checked: all would cost the machine what is being measured."""

_FRAME = re.compile(
    rb'\n([0-9A-F]{4})0[0-9A-F]{3}("([A-Z-]+)"(\d{4})((?:R[0-9A-F]+)?L[0-9A-F]*#[0-9A-F]+)\[([^\r\n]*))\r'
)
_WORD = re.compile(rb" e(\d{9})")


@dataclass(slots=True)
class Load:
    """Events on their way. Times are seconds of the one clock; 0 = not yet."""

    first: int
    packets: Sequence[bytes]
    due: Sequence[float]
    """When each falls due, seconds after the start."""
    started: float = 0.0
    stamped: array[float] = field(init=False)
    acked: array[float] = field(init=False)
    due_count: int = 0
    sent: int = 0
    confirmed: int = 0
    acked_count: int = 0
    doubled: int = 0
    last_ack: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.stamped = array("d", bytes(8 * len(self.packets)))
        self.acked = array("d", bytes(8 * len(self.packets)))

    def look(self) -> None:
        if self.acked_count == self.confirmed == len(self.packets):
            self.done.set()

    def latencies_ms(self) -> list[float]:
        pairs = zip(self.stamped, self.acked, strict=True)
        return [round((acked - stamped) * 1000, 3) for stamped, acked in pairs if acked]


class Ends:
    """The two ends of one gateway."""

    def __init__(self, estate: Estate, seed: int) -> None:
        self.broker: Broker | None = None
        self.is_subscribed = asyncio.Event()
        self.is_called = asyncio.Event()
        """The gateway has called the centre."""
        self.load: Load | None = None
        self.loads = 0
        self.devices = Devices(estate, Random(seed))
        self.packet_id = 0
        self.misordered = self.damaged = self.receipts = self.others = 0

    def make(self, count: int, due: Sequence[float], session: str) -> Load:
        assert self.broker is not None
        first = self.loads * 1_000_000
        packets = list(
            self.devices.publishes(
                count, first=first, session=session, packet_id=self.packet_id + 1, is_5=self.broker.is_5
            )
        )
        self.loads += 1
        self.broker.expected_id = self.packet_id % 65535 + 1
        self.packet_id += count
        return Load(first, packets, due)

    def pump(self) -> None:
        """Write what is due and fits into the window; come again when more falls due."""
        load = self.load
        if load is None or self.broker is None:
            return
        now = perf_counter()
        elapsed, total = now - load.started, len(load.packets)
        while load.due_count < total and load.due[load.due_count] <= elapsed:
            load.stamped[load.due_count] = now
            load.due_count += 1
        upto = min(load.due_count, load.confirmed + WINDOW)
        if upto > load.sent:
            self.broker.transport.write(b"".join(load.packets[load.sent : upto]))
            load.sent = upto

    async def clockwork(self, load: Load) -> None:
        """Call `pump` whenever an event falls due."""
        while load.due_count < len(load.packets):
            await asyncio.sleep(max(0.0, load.started + load.due[load.due_count] - perf_counter()))
            self.pump()

    def confirmed(self, count: int) -> None:
        if self.load is not None:
            self.load.confirmed += count
            self.load.look()
            self.pump()

    def desk(self, numbers: list[int]) -> None:
        """The acknowledgements of these events were just written."""
        load, now = self.load, perf_counter()
        for number in numbers:
            index = number - load.first if load else -1
            if load is None or not 0 <= index < len(load.packets):
                self.others += 1
            elif load.acked[index]:
                load.doubled += 1
            else:
                load.acked[index] = load.last_ack = now
                load.acked_count += 1
        if load is not None:
            load.look()


class Broker(asyncio.Protocol):
    """What the gateway's MQTT client talks to."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._rest = b""
        self.is_5 = False
        self.expected_id = 1
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of another class
        self.transport.set_write_buffer_limits(high=1 << 26)

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        at, size, confirmed = 0, len(buffer), 0
        while at < size:
            try:
                length, body = wire.varint(buffer, at + 1)
            except IndexError:
                break
            end = body + length
            if end > size:
                break
            kind = buffer[at] >> 4
            if kind == wire.PUBACK:
                confirmed += 1
                self._ends.misordered += buffer[body] << 8 | buffer[body + 1] != self.expected_id
                self.expected_id = self.expected_id % 65535 + 1
            elif kind == wire.PUBLISH:
                self._published(buffer[at], buffer[body:end])
            else:
                self._said(kind, buffer[body:end])
            at = end
        self._rest = buffer[at:]
        if confirmed:
            self._ends.confirmed(confirmed)

    def _published(self, first: int, body: bytes) -> None:
        self._ends.receipts += 1
        if first & 0x06:
            at = 2 + int.from_bytes(body[:2], "big")
            self.transport.write(wire.pubacks([int.from_bytes(body[at : at + 2], "big")]))

    def _said(self, kind: int, body: bytes) -> None:
        if kind == wire.CONNECT:
            self.is_5 = body[6] == 5
            self._ends.broker = self
            self.transport.write(wire.packet(wire.CONNACK << 4, b"\0\0\0" if self.is_5 else b"\0\0"))
        elif kind == wire.SUBSCRIBE:
            self.transport.write(wire.packet(wire.SUBACK << 4, body[:2] + self._granted(body)))
            self._ends.is_subscribed.set()
        elif kind == wire.PINGREQ:
            self.transport.write(b"\xd0\x00")

    def _granted(self, body: bytes) -> bytes:
        at, count = 2, 0
        if self.is_5:
            length, at = wire.varint(body, at)
            at += length
        while at < len(body):
            at += 2 + int.from_bytes(body[at : at + 2], "big") + 1
            count += 1
        return (b"\0" if self.is_5 else b"") + b"\x01" * count


class Sensors(Broker):
    """The devices alone, behind a real broker: one client that publishes for all of them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(wire.connect(b"sensors"))

    def _said(self, kind: int, body: bytes) -> None:
        if kind == wire.CONNACK:
            self._ends.broker = self
            self._ends.is_subscribed.set()


class Centre(asyncio.Protocol):
    """What the gateway's DC-09 forwarder talks to: acknowledges whatever it can read."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._rest = b""
        self._frames = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class
        self._ends.is_called.set()

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        answers, numbers, end = [], [], 0
        for match in _FRAME.finditer(buffer):
            crc, body, _, sequence, route, content = match.groups()
            self._ends.damaged += match.start() != end
            end = match.end()
            self._frames += 1
            if self._frames % CHECK_EVERY == 1 and wire.crc16(body) != int(crc, 16):
                self._ends.damaged += 1
                continue
            answers.append(wire.frame(b'"ACK"%b%b[]' % (sequence, route)))
            if word := _WORD.search(content):
                numbers.append(int(word[1]))
            else:
                self._ends.others += 1
        self._rest = buffer[end:]
        if answers:
            self._transport.write(b"".join(answers))
            self._ends.desk(numbers)


# -- commands ------------------------------------------------------------------------------------------------------------


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """When events fall due: a Poisson process of `rate` a second, or all at once for rate 0."""
    random, at = Random(seed), 0.0
    if not rate:
        return [0.0] * count
    return [at := at + random.expovariate(rate) for _ in range(count)]


async def carry(ends: Ends, count: int, rate: float, seed: int, give_up_s: float = GIVE_UP_S) -> dict[str, Any]:
    """One load from the first event to the last acknowledgement."""
    load = ends.make(count, arrivals(count, rate, seed), session=f"{seed:08x}.{ends.loads}")
    before = (ends.receipts, ends.others, ends.misordered, ends.damaged)
    gc.collect()
    cpu, load.started = process_time(), perf_counter()
    ends.load = load
    ends.pump()
    async with asyncio.TaskGroup() as group:
        clockwork = group.create_task(ends.clockwork(load))
        await _finished(load, give_up_s)
        clockwork.cancel()
    took = max(load.last_ack, load.started) - load.started
    cpu = process_time() - cpu
    await asyncio.sleep(SETTLE_S)
    ends.load = None
    names = ("receipts", "others", "misordered", "damaged")
    after = (ends.receipts, ends.others, ends.misordered, ends.damaged)
    return {
        "sent": count,
        "confirmed": load.confirmed,
        "acked": load.acked_count,
        "doubled": load.doubled,
        **{name: now - then for name, now, then in zip(names, after, before, strict=True)},
        "seconds": took,
        "peer_cpu_s": cpu,
        "latencies_ms": load.latencies_ms(),
    }


async def _finished(load: Load, give_up_s: float) -> None:
    """Until everything is acknowledged, nothing more comes, or it takes too long."""
    latest = load.started + 2 * load.due[-1] + BEHIND_MAX_S
    while not load.done.is_set() and perf_counter() < latest:
        before = load.acked_count + load.confirmed + load.due_count
        try:
            async with asyncio.timeout(give_up_s):
                await load.done.wait()
        except TimeoutError:
            if load.acked_count + load.confirmed + load.due_count == before:
                return


async def serve(arguments: argparse.Namespace) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(wire.give_up)
    estate = Estate(arguments.devices, arguments.accounts)
    all_ends = [Ends(estate, arguments.seed) for _ in range(arguments.gateways)]
    ports = []
    for ends, port in zip(all_ends, arguments.brokers or [0] * arguments.gateways, strict=True):
        if port:
            await loop.create_connection(lambda ends=ends: Sensors(ends), "127.0.0.1", port)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        broker = await loop.create_server(lambda ends=ends: Broker(ends), "127.0.0.1", 0)  # type: ignore[misc]  # likewise
        centre = await loop.create_server(lambda ends=ends: Centre(ends), "127.0.0.1", 0)  # type: ignore[misc]  # likewise
        ports.append({"mqtt": port or broker.sockets[0].getsockname()[1], "centre": centre.sockets[0].getsockname()[1]})
    _say({"ports": ports})
    stdin = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin, loop=loop), sys.stdin)
    gc.freeze()
    gc.disable()  # its pauses would be taken for the gateway's; what a load leaves is collected before the next
    while line := await stdin.readline():
        command = json.loads(line)
        ends = all_ends[command["gateway"]]
        if command["do"] == "wait":
            await ends.is_subscribed.wait()
            await ends.is_called.wait()
            _say({"ready": True})
        else:
            _say(await carry(ends, command["count"], command["rate"], command["seed"]))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--brokers", type=int, nargs="*", help="ports of real brokers, one a gateway, to publish to")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
