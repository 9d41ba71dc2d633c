"""The least that any program with our promise must do, to hold the gateway against.

    python -m bench.floors bare|paho --mqtt PORT --centre PORT --data DIR

Each takes alarm_json events at QoS 1, commits event and outbox row with one sync for whatever waits (WAL,
synchronous=FULL), only then answers with PUBACK and sends the event to the centre as a DC-09 frame; the centre's ACK
takes the row out of the outbox in the next event's commit, or without a sync when none comes soon. Repeats are
recognised. Nothing else: no register of devices that can change, no lanes, no retries, no receipts to devices, no storms,
no health, no API, no metrics, no logs, nothing checked beyond what is used. `bare` reads MQTT by itself; `paho` lets paho
do it, with whole socket buffers read and written at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import socket
import sqlite3
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import paho.mqtt.client as paho
import uvloop
from paho.mqtt.enums import CallbackAPIVersion

from bench import wire
from bench.estate import Estate

TOPIC = b"fangkong/v1/+/event"

CODES = {
    "panic": "120", "smoke": "111", "gas": "151", "burglary": "130", "perimeter": "131", "interior": "132",
    "zone_24h": "133", "tamper": "144", "water": "154", "door_forced": "423", "ac_loss": "301", "rf_batt_low": "384",
    "open_close": "401",
}  # fmt: skip
QUALIFIERS = {"new": 1, "restore": 3, "update": 6}

TABLES = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000;
CREATE TABLE events (seq INTEGER PRIMARY KEY, repeat_key TEXT NOT NULL UNIQUE, device TEXT, kind TEXT, raw BLOB);
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, account TEXT, number INTEGER);
"""
INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT (repeat_key) DO NOTHING"
INSERT_OUTBOX = "INSERT INTO outbox VALUES (?, ?, ?)"
ACCEPT_WITHIN_S = 0.005
"""That the centre has an event is written with the next event, at the latest after this time: lost, it costs a repeat."""
DELETE_OUTBOX = "DELETE FROM outbox WHERE seq = ?"


class Event(NamedTuple):
    seq: int
    repeat_key: str
    device: str
    kind: str
    raw: bytes
    packet_id: int
    account: str
    number: int
    """The frame's, 1 to 9999."""
    point: int
    qualifier: int
    at: str
    text: str

    @property
    def row(self) -> tuple[object, ...]:
        return self[:5]


class Log:
    """Group commit on a thread: everything that waits, one transaction, one sync."""

    def __init__(self, path: Path, committed: Callable[[Sequence[Event], Sequence[Event]], None]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(TABLES)
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._events: list[Event] = []
        self._accepted: list[tuple[int]] = []
        self.syncs = 0
        threading.Thread(target=self._run, daemon=True).start()

    def store(self, events: list[Event]) -> None:
        with self._wake:
            self._events += events
            self._wake.notify()

    def accept(self, seqs: list[tuple[int]]) -> None:
        with self._wake:
            if not self._accepted:
                self._wake.notify()
            self._accepted += seqs

    def _run(self) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        while True:
            with self._wake:
                while not self._events:
                    if not self._wake.wait(ACCEPT_WITHIN_S if self._accepted else None):
                        break
                events, self._events = self._events, []
                accepted, self._accepted = self._accepted, []
            # A row that comes back after a power cut is sent again under its number: leaving needs no sync of its own.
            execute(f"PRAGMA synchronous={'FULL' if events else 'NORMAL'}")
            execute("BEGIN IMMEDIATE")
            fresh = events
            if events and many(INSERT_EVENT, [event.row for event in events]).rowcount != len(events):
                execute("ROLLBACK")
                execute("BEGIN IMMEDIATE")
                fresh = [event for event in events if execute(INSERT_EVENT, event.row).rowcount]
            many(INSERT_OUTBOX, [(event.seq, event.account, event.number) for event in fresh])
            many(DELETE_OUTBOX, accepted)
            execute("COMMIT")
            if events:
                self.syncs += 1
                self._loop.call_soon_threadsafe(self._committed, events, fresh)


class Centre(asyncio.Protocol):
    """The line to the 110 centre."""

    _ACK = re.compile(rb'\n([0-9A-F]{4})0[0-9A-F]{3}("ACK"(\d{4})L0#([0-9A-F]+)\[\])\r')

    def __init__(self, log: Callable[[], Log]) -> None:
        self._log = log
        self._rest = b""
        self._out: dict[tuple[bytes, bytes], int] = {}
        self._stamped = (0, "")
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of another class

    def send(self, events: Sequence[Event]) -> None:
        now = f"{datetime.now(UTC):%H:%M:%S,%m-%d-%Y}"
        frames = []
        for event in events:
            sequence, account, at = b"%04d" % event.number, event.account, event.at
            self._out[sequence, account.encode()] = event.seq
            body = (
                f'"ADM-CID"{event.number:04d}L0#{account}[#{account}|{event.qualifier}{CODES[event.kind]} 00 {event.point:03d}]'
                f"[H{at[11:19]},{at[5:10]}-{at[:4]}][I{event.kind} {event.text}]"
                f'[J{{"id":"{event.seq:032x}"}}]_{now}'
            )
            frames.append(wire.frame(body.encode()))
        self.transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        seqs, end = [], 0
        for match in self._ACK.finditer(buffer):
            end = match.end()
            crc, body, sequence, account = match.groups()
            if wire.crc16(body) == int(crc, 16) and (seq := self._out.pop((sequence, account), None)) is not None:
                seqs.append((seq,))
        self._rest = buffer[end:]
        if seqs:
            self._log().accept(seqs)


class Gateway:
    """What both floors share: reading an event, and what happens after its commit."""

    def __init__(self, estate: Estate, centre: Centre) -> None:
        self.confirm: Callable[[Sequence[Event]], None]
        self._centre = centre
        self._seq = 0
        self._numbers: Counter[str] = Counter()
        self._places = {
            estate.device(index): (estate.account(index), estate.number(index)) for index in range(estate.devices)
        }

    def event(self, topic: bytes, payload: bytes, packet_id: int) -> Event:
        body, _, crc = payload.rpartition(b',"crc":"')
        assert zlib.crc32(body) == int(crc[:8], 16), "a damaged message"
        message: dict[str, Any] = json.loads(payload)
        device = message["device"]
        assert topic == b"fangkong/v1/%b/event" % device.encode(), "a device that speaks for another"
        account, point = self._places[device]
        self._seq += 1
        self._numbers[account] = number = self._numbers[account] % 9999 + 1
        return Event(
            self._seq, f"{device}|{message['session']}/{message['seq']}", device, message["kind"], payload, packet_id,
            account, number, point, QUALIFIERS[message["qualifier"]], message["at"], message["text"],
        )  # fmt: skip

    def committed(self, events: Sequence[Event], fresh: Sequence[Event]) -> None:
        """The device's answer and the frame leave after the commit, never before."""
        self._centre.send(fresh)
        self.confirm(events)


class BareMqtt(asyncio.Protocol):
    """Floor (a): the few packets that are needed, read from whole socket buffers."""

    def __init__(self, gateway: Gateway, log: Callable[[], Log]) -> None:
        self._gateway = gateway
        self._log = log
        self._rest = b""
        self._transport: asyncio.Transport
        gateway.confirm = self._confirm

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of another class
        self._transport.write(wire.connect(b"floor"))

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        at, size, events = 0, len(buffer), []
        while at < size:
            try:
                length, body = wire.varint(buffer, at + 1)
            except IndexError:
                break
            end = body + length
            if end > size:
                break
            kind = buffer[at] >> 4
            if kind == wire.PUBLISH:
                topic_end = body + 2 + (buffer[body] << 8 | buffer[body + 1])
                packet_id = buffer[topic_end] << 8 | buffer[topic_end + 1]
                events.append(self._gateway.event(buffer[body + 2 : topic_end], buffer[topic_end + 2 : end], packet_id))
            elif kind == wire.CONNACK:
                self._transport.write(wire.subscribe(TOPIC))
            at = end
        self._rest = buffer[at:]
        if events:
            self._log().store(events)

    def _confirm(self, events: Sequence[Event]) -> None:
        self._transport.write(wire.pubacks([event.packet_id for event in events]))


class _BufferedPaho(paho.Client):
    """paho reads byte by byte and writes packet by packet; this hands it whole buffers.

    `_sock_recv` and `_sock_send` are private names of paho 2.2, there for its own subclasses of the transport.
    """

    def __init__(self) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, "floor", clean_session=False)
        self.arrived = b""
        self.at = 0
        self.leaving = bytearray()

    def _sock_recv(self, bufsize: int) -> bytes:
        data = self.arrived[self.at : self.at + bufsize]
        if not data:
            raise BlockingIOError
        self.at += len(data)
        return data

    def _sock_send(self, buf: Any) -> int:
        self.leaving += buf
        return len(buf)


class PahoMqtt:
    """Floor (b): the MQTT client the gateway uses, acknowledging by hand."""

    READ_BYTES = 1 << 18

    def __init__(self, gateway: Gateway, log: Callable[[], Log], port: int) -> None:
        self._gateway = gateway
        self._log = log
        self._events: list[Event] = []
        self._loop = asyncio.get_running_loop()
        self._client = client = _BufferedPaho()
        client.manual_ack_set(True)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        gateway.confirm = self._confirm
        client.connect("127.0.0.1", port)
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        sock.setblocking(False)
        self._sock = sock
        self._unsent: deque[bytes] = deque()
        self._flush()
        self._loop.add_reader(sock, self._read)

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe(TOPIC.decode(), 1)

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        self._events.append(self._gateway.event(message.topic.encode(), bytes(message.payload), message.mid))

    def _read(self) -> None:
        data = self._sock.recv(self.READ_BYTES)
        if not data:
            sys.exit("the broker hung up")
        client = self._client
        client.arrived, client.at = client.arrived[client.at :] + data, 0
        while client.at < len(client.arrived):
            client.loop_read()
        self._flush()
        if self._events:
            self._log().store(self._events)
            self._events = []

    def _confirm(self, events: Sequence[Event]) -> None:
        for event in events:
            self._client.ack(event.packet_id, 1)
        self._flush()

    def _flush(self) -> None:
        if self._client.want_write():  # what callbacks of paho have queued
            self._client.loop_write()
        leaving = self._client.leaving
        if leaving:
            sent = self._sock.send(leaving)
            del leaving[:sent]
        if leaving:
            self._loop.add_writer(self._sock, self._flush)
        else:
            self._loop.remove_writer(self._sock)


async def run(arguments: argparse.Namespace) -> None:
    """Until stdin ends; each line on it is answered with how often was synced."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(wire.give_up)
    log: Log
    _, centre = await loop.create_connection(lambda: Centre(lambda: log), "127.0.0.1", arguments.centre)
    gateway = Gateway(Estate(arguments.devices, arguments.accounts), centre)
    log = Log(arguments.data / "floor.db", gateway.committed)
    gc.freeze()
    if arguments.floor == "bare":
        await loop.create_connection(lambda: BareMqtt(gateway, lambda: log), "127.0.0.1", arguments.mqtt)
    else:
        PahoMqtt(gateway, lambda: log, arguments.mqtt)
    stdin = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin, loop=loop), sys.stdin)
    while await stdin.readline():
        print(json.dumps({"syncs": log.syncs}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("floor", choices=("bare", "paho"))
    parser.add_argument("--mqtt", type=int, required=True)
    parser.add_argument("--centre", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--accounts", type=int, default=100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
