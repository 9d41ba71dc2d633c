"""One reader as the standard describes it: it answers, remembers its last answer, and keeps what it has to say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from simulators.osdp.frames import Random, Session, finished, inverted

DEFAULT_KEY = b"0123456789:;<=>?"
SILENT_S = 8.0
"""Unheard of the panel for as long, the secure session is over."""
QUEUE_MAX = 64

POLL, ID, CAP, LSTAT, ISTAT, OSTAT, RSTAT = 0x60, 0x61, 0x62, 0x64, 0x65, 0x66, 0x67
OUT, LED, BUZ, COMSET, KEYSET, CHLNG, SCRYPT = 0x68, 0x69, 0x6A, 0x6E, 0x75, 0x76, 0x77
ACK, NAK, PDID, PDCAP, LSTATR, ISTATR, OSTATR, RSTATR = 0x40, 0x41, 0x45, 0x46, 0x48, 0x49, 0x4A, 0x4B
RAW, KEYPAD, COM, CCRYPT, RMAC_I, BUSY = 0x50, 0x53, 0x54, 0x76, 0x78, 0x79
OPEN_WITHOUT_CHANNEL = {ID, CAP, CHLNG, SCRYPT, COMSET}
"""What a reader that insists on the secure channel still answers in plain text."""


@dataclass(slots=True)
class Said:
    """Something the reader has to say of its own: `delivered` once the panel has shown that it heard."""

    code: int
    data: bytes
    delivered: Callable[[], None] = lambda: None


@dataclass
class Reader:
    """The reader at one address. `receive` takes one whole frame and gives the answer; empty: not for it."""

    address: int
    key: bytes | None
    random: Random
    insists: bool = True
    """Answers nothing of substance outside the secure channel."""
    has_channel: bool = True
    serial: int = 1
    inputs: list[int] = field(default_factory=lambda: [0, 0])
    outputs: list[int] = field(default_factory=lambda: [0])
    tamper: int = 0
    power: int = 0
    busy: int = 0
    """How many commands from now on it has no time for."""
    baud: int = 9600
    said: deque[Said] = field(default_factory=deque)
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    """Commands that do something, with their data."""
    asked: int = 0
    """How often the panel has spoken to it."""
    _sequence: int = -1
    _last_command: bytes = b""
    _last_answer: bytes = b""
    _told: Said | None = None
    """What the last answer said; kept until the panel goes on."""
    _session: Session | None = None
    _heard_s: float = float("-inf")
    _off_at: dict[int, float] = field(default_factory=dict)
    _next_key: bytes | None = None
    _moves_to: tuple[int, int] | None = None

    def say(self, code: int, data: bytes, delivered: Callable[[], None] = lambda: None) -> None:
        """Put it behind what is still to be said; without room the oldest is lost."""
        if len(self.said) >= QUEUE_MAX:
            self.said.popleft()
        self.said.append(Said(code, data, delivered))

    def lose_power(self) -> None:
        """Come up anew: no session, no count, what was to be said is gone."""
        self._session = self._told = None
        self._sequence, self._last_command = -1, b""
        self.said.clear()

    @property
    def is_secure(self) -> bool:
        return self._session is not None and self._session.is_open

    # -- one command -----------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now_s: float) -> bytes:
        """The answer to a frame that was heard on the line."""
        if frame[1] & 0x80 or frame[1] not in {self.address, 0x7F}:
            return b""
        if now_s - self._heard_s > SILENT_S:
            self._session = None
        self._heard_s = now_s
        self.asked += 1
        self._let_go(now_s)
        sequence = frame[4] & 3
        if sequence and sequence == self._sequence and frame == self._last_command:
            return self._last_answer
        if self.busy:
            self.busy -= 1
            return self._framed(frame, 0, BUSY, b"")
        if sequence == 0:
            self._session, self._told = None, None
        elif sequence != self._sequence % 3 + 1:
            return self._framed(frame, sequence, NAK, b"\x04")
        answer = self._answer(frame, sequence, now_s)
        if answer:
            self._sequence, self._last_command, self._last_answer = sequence, frame, answer
            self._move()
        return answer

    def _let_go(self, now_s: float) -> None:
        for number in [number for number, at in self._off_at.items() if at <= now_s]:
            del self._off_at[number]
            self.outputs[number] = 0

    def _answer(self, frame: bytes, sequence: int, now_s: float) -> bytes:
        body = frame[: -2 if frame[4] & 4 else -1]
        block, at = b"", 5
        if frame[4] & 8:
            block, at = body[6 : 5 + body[5]], 5 + body[5]
        if block and block[0] in {0x15, 0x17}:
            return self._secured(frame, body[:-4], body[-4:], now_s)
        self._session = self._session if self._session and not self._session.is_open else None
        code, data = body[at], body[at + 1 :]
        if code == CHLNG and block[:1] == b"\x11":
            return self._challenged(frame, sequence, block, data)
        if code == SCRYPT and block[:1] == b"\x13":
            return self._finished(frame, sequence, block, data)
        if self.insists and code not in OPEN_WITHOUT_CHANNEL:
            return self._framed(frame, sequence, NAK, b"\x06")
        return self._framed(frame, sequence, *self._does(code, data, now_s))

    def _secured(self, frame: bytes, covered: bytes, mac: bytes, now_s: float) -> bytes:
        session, sequence = self._session, frame[4] & 3
        if session is None or not session.is_open:
            return self._framed(frame, sequence, NAK, b"\x06")
        full = session.mac(covered, session.reply_mac)
        if full[:4] != mac:
            self._session = None
            return self._framed(frame, sequence, NAK, b"\x06")
        at = 5 + covered[5]
        code, data = covered[at], covered[at + 1 :]
        if covered[6] == 0x17:
            data = session.decrypted(data, inverted(session.reply_mac))
        session.command_mac = full
        answer = self._sealed(frame, session, *self._does(code, data, now_s))
        if self._next_key is not None:
            self.key, self._next_key, self._session = self._next_key, None, None
        return answer

    def _sealed(self, frame: bytes, session: Session, code: int, content: bytes) -> bytes:
        crc, sequence = bool(frame[4] & 4), frame[4] & 3
        data = session.encrypted(content, inverted(session.command_mac)) if content else b""
        size = 5 + 2 + 1 + len(data) + 4 + (2 if crc else 1)
        head = bytes([0x53, frame[1] | 0x80, size & 0xFF, size >> 8, sequence | 8 | (4 if crc else 0)])
        message = head + bytes([2, 0x18 if content else 0x16, code]) + data
        session.reply_mac = session.mac(message, session.command_mac)
        return finished(message + session.reply_mac[:4], crc=crc)

    def _framed(self, frame: bytes, sequence: int, code: int, content: bytes, block: bytes = b"") -> bytes:
        crc = bool(frame[4] & 4)
        size = 5 + len(block) + 1 + len(content) + (2 if crc else 1)
        control = sequence | (4 if crc else 0) | (8 if block else 0)
        head = bytes([0x53, frame[1] | 0x80, size & 0xFF, size >> 8, control])
        return finished(head + block + bytes([code]) + content, crc=crc)

    # -- the secure channel ----------------------------------------------------------------------------------------------

    def _challenged(self, frame: bytes, sequence: int, block: bytes, rnd_a: bytes) -> bytes:
        if not self.has_channel:
            return self._framed(frame, sequence, NAK, b"\x05")
        wants_default = block[1] == 0
        if wants_default == (self.key is not None):  # its own key once it has one, the default one before
            return self._framed(frame, sequence, NAK, b"\x06")
        rnd_b = self.random(8)
        session = self._session = Session(self.key or DEFAULT_KEY, rnd_a, rnd_b)
        identity = b"\xef\xcd\xab\x02" + self.serial.to_bytes(4, "little")
        content = identity + rnd_b + session.client_cryptogram
        return self._framed(frame, sequence, CCRYPT, content, bytes([3, 0x12, block[1]]))

    def _finished(self, frame: bytes, sequence: int, block: bytes, cryptogram: bytes) -> bytes:
        session = self._session
        if session is None:
            return self._framed(frame, sequence, NAK, b"\x06")
        session.is_open = cryptogram == session.server_cryptogram
        if not session.is_open:
            self._session = None
            return self._framed(frame, sequence, RMAC_I, bytes(16), bytes([3, 0x14, 0xFF]))
        return self._framed(frame, sequence, RMAC_I, session.reply_mac, bytes([3, 0x14, 1]))

    # -- what it does ----------------------------------------------------------------------------------------------------

    def _does(self, code: int, data: bytes, now_s: float) -> tuple[int, bytes]:
        told, self._told = self._told, None
        if told is not None:
            told.delivered()  # the panel has gone on: it has heard
        if code == POLL:
            self._told = self.said.popleft() if self.said else None
            return (self._told.code, self._told.data) if self._told else (ACK, b"")
        if code in {OUT, LED, BUZ, COMSET, KEYSET}:
            return self._obeys(code, data, now_s)
        states = {
            ID: (PDID, b"\xef\xcd\xab\x02\x01" + self.serial.to_bytes(4, "little") + b"\x01\x02\x03"),
            CAP: (
                PDCAP,
                bytes(
                    [
                        1,
                        1,
                        len(self.inputs),
                        2,
                        1,
                        len(self.outputs),
                        4,
                        1,
                        1,
                        5,
                        1,
                        1,
                        8,
                        1,
                        0,
                        9,
                        int(self.has_channel),
                        0,
                    ]
                ),
            ),
            LSTAT: (LSTATR, bytes([self.tamper, self.power])),
            ISTAT: (ISTATR, bytes(self.inputs)),
            OSTAT: (OSTATR, bytes(self.outputs)),
            RSTAT: (RSTATR, b"\x00"),
        }
        return states.get(code, (NAK, b"\x03"))

    def _obeys(self, code: int, data: bytes, now_s: float) -> tuple[int, bytes]:
        self.heard.append((code, data))
        if code == OUT:
            number, control, tenths = data[0], data[1], int.from_bytes(data[2:4], "little")
            if number >= len(self.outputs) or control not in {1, 2, 5}:
                return NAK, b"\x09"
            self._off_at.pop(number, None)
            self.outputs[number] = int(control != 1)
            if control == 5:
                self._off_at[number] = now_s + tenths / 10
        elif code == COMSET:
            self._moves_to = data[0], int.from_bytes(data[1:5], "little")
            return COM, data
        elif code == KEYSET:
            if not self.is_secure or data[:2] != b"\x01\x10" or len(data) != 18:
                return NAK, b"\x06"
            self._next_key = data[2:]
        return ACK, b""

    def _move(self) -> None:
        if self._moves_to is not None:
            (self.address, self.baud), self._moves_to = self._moves_to, None
