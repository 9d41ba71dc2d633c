"""The receiving centre: written from the frame format (it shares no code with the gateway), moody as real ones are."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Protocol

from simulators.police_centre import frames
from simulators.police_centre.frames import Cutter, Header, Rubbish
from tests.dst.loop import SimulatedClock
from tests.dst.network import Connection
from tests.dst.weather import Weather

AHEAD_MAX_S, BEHIND_MAX_S = 20, 40
"""How far an encrypted frame may be from the receiver's clock (DC-09 5.5.1.9)."""
LATE_S = 12.0
NOBODY = "0FFF"
"""An account that no site has."""
PAD = bytes(range(65, 91)) * 4


@dataclass(frozen=True, slots=True)
class Frame:
    """What the wire says of one event or NULL."""

    token: str
    account: str
    number: int
    event_id: str | None
    data: str
    occurred: str | None
    """H: when it happened, never changed by a retry."""
    stamp_s: float | None
    is_encrypted: bool


def read(body: bytes, key: bytes | None) -> tuple[Header, Frame]:
    """Raises frames.Unreadable."""
    header = frames.read_header(body)
    content = frames.read_content(body, header, (key,) if key else ())
    extended = dict(content.extended)
    event_id = json.loads(extended["J"])["id"] if "J" in extended else None
    occurred = extended["H"].decode() if "H" in extended else None
    return header, Frame(
        header.token, header.account, int(header.seq), event_id, content.data.decode(), occurred, content.stamp_s,
        header.encrypted,
    )  # fmt: skip


class Witness(Protocol):
    """Who must know what the centre did."""

    def note(self, who: str, what: str) -> None: ...

    def fail(self, what: str) -> None: ...

    def at_centre(self, frame: Frame) -> None: ...

    def answered(self, frame: Frame, token: str) -> None:
        """A true answer of ours has reached the gateway."""


@dataclass(slots=True)
class Centre:
    """`network.FarSide`."""

    weather: Weather
    dice: Random
    clock: SimulatedClock
    witness: Witness
    key: bytes | None
    taken: dict[str, Frame] = field(default_factory=dict)
    """Events that were answered with ACK, whether or not the answer arrived, by id."""
    _cutters: dict[Connection, Cutter] = field(default_factory=dict)
    _poison: dict[str, str] = field(default_factory=dict)

    def connected(self, connection: Connection) -> None:
        self._cutters[connection] = Cutter()

    def lost(self, connection: Connection) -> None:
        self.witness.note("centre", f"connection {connection.number} is gone")

    def received(self, connection: Connection, data: bytes) -> None:
        for piece in self._cutters[connection].feed(data):
            if isinstance(piece, Rubbish):
                self.witness.fail(f"the centre got {piece.raw[:60]!r}, which is no frame: {piece.why}")
            else:
                self._judge(connection, piece)

    def _judge(self, connection: Connection, body: bytes) -> None:
        header, frame = read(body, self.key)
        self.witness.at_centre(frame)
        mood = self._mood(frame)
        self.witness.note("centre", f"{frame.token} {frame.account} {frame.number:04d} {frame.data}: {mood}")
        _Answers(self, connection, header, frame).give(mood)

    def _mood(self, frame: Frame) -> str:
        """What is done with this frame."""
        if self._is_out_of_time(frame):
            return "nak"
        weather, dice = self.weather, self.dice
        if frame.event_id is not None:
            if frame.event_id not in self._poison and dice.random() < weather.poison:
                self._poison[frame.event_id] = dice.choice(("duh", "silent"))
            if weather.poison and frame.event_id in self._poison:
                return self._poison[frame.event_id]
        moods = (
            ("silent", weather.silent), ("late", weather.answers_late), ("twice", weather.answers_twice),
            ("other", weather.answers_other), ("rubbish", weather.answers_rubbish), ("plain", weather.answers_plain),
            ("nak", weather.nak), ("duh", weather.duh), ("hang up before", weather.hangs_up / 2),
            ("hang up after", weather.hangs_up / 2),
        )  # fmt: skip
        for mood, chance in moods:
            if chance and dice.random() < chance:
                return mood
        return "ack"

    def _is_out_of_time(self, frame: Frame) -> bool:
        if not (frame.is_encrypted or self.weather.strict_clock > 0.5) or frame.stamp_s is None:
            return False
        ahead_s = frame.stamp_s - int(self.clock.true_now().timestamp())
        return not -BEHIND_MAX_S <= ahead_s <= AHEAD_MAX_S


@dataclass(slots=True)
class _Answers:
    """What goes back for one frame."""

    centre: Centre
    connection: Connection
    header: Header
    frame: Frame

    def give(self, mood: str) -> None:
        connection, dice = self.connection, self.centre.dice
        match mood:
            case "ack":
                self._accept()
            case "twice":
                self._accept()
                self._accept()
            case "late":
                delay_s = dice.uniform(0, LATE_S)
                self._take()
                asyncio.get_running_loop().call_later(delay_s, self._accept)
            case "silent":
                if dice.random() < 0.5:
                    self._take()
            case "plain":
                if self.frame.is_encrypted:
                    connection.answer(self._reply(key=None))
                else:
                    self._accept()
            case "other":
                number = (
                    int(self.header.seq) % 4999 + 5000
                )  # the next one may be out by now: a NAK has frames sent twice
                connection.answer(self._reply(number=number) if dice.random() < 0.5 else self._reply(account=NOBODY))
                if dice.random() < 0.5:
                    self._accept()
            case "rubbish":
                connection.answer(dice.choice((b"\nABCD0123", b"HELLO\r\n", b"\n00000000\r", dice.randbytes(40))))
                if dice.random() < 0.5:
                    self._accept()
            case "nak":
                off_s = dice.choice((0, 0, 3, 90, -3600)) if self.centre.weather.nak else 0
                nak = frames.nak(self.centre.clock.true_now().timestamp() + off_s)
                connection.answer(nak, lambda: self.centre.witness.answered(self.frame, "NAK"))
            case "duh":
                connection.answer(frames.duh(self.header), lambda: self.centre.witness.answered(self.frame, "DUH"))
            case "hang up before":
                connection.reset()
            case _:
                self._accept()
                connection.hang_up()

    def _take(self) -> None:
        if self.frame.event_id is not None:
            self.centre.taken.setdefault(self.frame.event_id, self.frame)

    def _accept(self) -> None:
        self._take()
        key = self.centre.key if self.frame.is_encrypted else None
        token = self.centre.dice.choice(("ACK", "ACK", "RSP"))
        reply = self._reply(token=token, key=key)
        self.connection.answer(reply, lambda: self.centre.witness.answered(self.frame, token))

    def _reply(
        self, *, token: str = "ACK", number: int | None = None, account: str | None = None, key: bytes | None = None
    ) -> bytes:
        header = self.header
        if account is not None:
            header = Header(header.encrypted, header.token, header.seq, header.receiver, header.prefix, account)
        sequence = header.seq if number is None else f"{number:04d}"
        now: datetime = self.centre.clock.true_now()
        return frames.reply(token, header, seq=sequence, key=key, now_s=now.timestamp(), pad=lambda n: PAD[:n])
