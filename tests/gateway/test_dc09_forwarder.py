"""The DC-09 forwarder against receivers that are not ours: pysiaalarm's server, and a desk that reads with siadc09.

Real sockets, the real store; only time is made by hand.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import siadc09.message as sia
from pydantic import ValidationError
from pysiaalarm import SIAAccount, SIAEvent
from pysiaalarm.aio import SIAClient

from gateway.errors import ConfigError
from gateway.forwarders import _outbox, dc09
from gateway.forwarders.dc09 import Settings
from gateway.forwarders.dc09._conversation import Conversation
from gateway.forwarders.dc09._line import LIFE_RETRY_MOST_S
from gateway.forwarders.dc09._window import ANSWERS_A_PLACE, FIRST
from gateway.model import DeliveryState, Kind, Lane, Position, Qualifier, TimeQuality
from gateway.store.sqlite import FILE_NAME, SqliteStore
from tests.conftest import JumpingClock
from tests.forwarding import Rig, open_rig

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
KEY = b"GATEKEY-AES128-1"
HANG_UP = b""

Answer = bytes | None
Script = Callable[[Any], Answer]


# -- the desk ------------------------------------------------------------------------------------------------------


def ack(message: Any) -> bytes:
    return sia.AckMessage(message.account, message.seq, AT, message.encrypted).encode()


def duh(message: Any) -> bytes:
    return sia.DuhMessage(message.account, message.seq).encode()


def rsp(message: Any) -> bytes:
    return sia.RspMessage(message.account, {"idtoken": "RSP", "seqno": message.seq}).encode()


def nak(at: datetime) -> Script:
    """DC-09's own form, whose account field is A0 without #: the frame of the standard's clause on NAK."""

    def answer(_: Any) -> bytes:
        body = f'"NAK"0000R0L0A0[]_{at:%H:%M:%S,%m-%d-%Y}'.encode()
        return b"\n%04X0%03X%b\r" % (sia.crc(body), len(body), body)

    return answer


def silence(_: Any) -> None:
    return None


def hang_up(_: Any) -> bytes:
    return HANG_UP


@dataclass
class Desk:
    """A receiver that reads with siadc09 and answers events by script, then with ACK."""

    key: bytes | None = None
    script: deque[Script] = field(default_factory=deque)
    otherwise: Script = ack
    to_null: Script = ack
    one_byte_at_a_time: bool = False
    hangs_up_after_each: bool = False
    frames: list[Any] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def events(self) -> list[Any]:
        return [frame for frame in self.frames if frame.idtoken != "NULL"]

    @property
    def numbers(self) -> list[int]:
        return [frame.seq for frame in self.events]

    @property
    def zones(self) -> list[int]:
        return [zone(frame) for frame in self.events]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._writers: set[asyncio.StreamWriter] = set()
        try:
            yield self
        finally:
            server.close()
            self.drop_all()
            await server.wait_closed()

    def drop_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                frame = await reader.readuntil(b"\r")
                message = sia.parse_frame(frame, self.key)
                self.frames.append(message)
                answer = self._answer(message)
                if answer == HANG_UP:
                    return
                for piece in [answer[i : i + 1] for i in range(len(answer))] if self.one_byte_at_a_time else [answer]:
                    writer.write(piece)
                    await writer.drain()
                if self.hangs_up_after_each:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, message: Any) -> bytes:
        script = self.to_null if message.idtoken == "NULL" else self.script.popleft() if self.script else self.otherwise
        answer = script(message)
        if answer is None:
            return b"\xff"  # noise that is no answer, so that HANG_UP stays distinct
        return answer


def zone(frame: Any) -> int:
    """CCC in decimal; siadc09 reads its digits as hex."""
    return int(f"{frame.data.event.addr:X}")


def fields(frame: Any) -> dict[str, Any]:
    return {each.prefix: each.value for each in frame.xdata}


# -- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def rig(tmp_path: Path, jumping_clock: JumpingClock) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, jumping_clock) as opened:
        yield opened


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk().open() as opened:
        yield opened


def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"text:{KEY.decode()}\n")
    path.chmod(0o600)
    return path


# -- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
async def test_every_field_of_an_alarm(rig: Rig, tmp_path: Path, encrypted: bool) -> None:
    happened = rig.clock.now() - timedelta(hours=3)
    alarm = rig.event(
        kind=Kind.PANIC, lane=Lane.LIFE, device_time=happened, time_quality=TimeQuality.OK, text="[二楼]",
        position=Position(31.2317, 121.4733),
    )  # fmt: skip
    settings: dict[str, Any] = {"receiver": "7", "line": "3F"} | ({"key_file": key_file(tmp_path)} if encrypted else {})
    async with Desk(key=KEY).open() as desk, rig.forwarding(desk.port, **settings):
        await rig.append(alarm)
        await rig.until_states(accepted=1)
    (frame,) = desk.events

    assert (frame.idtoken, frame.seq, frame.encrypted, frame.timestamp) == ("ADM-CID", 1, encrypted, rig.clock.now())
    assert (frame.account.acct, frame.account.rcvr, frame.account.pref) == (0xA10B, 7, 0x3F)
    assert frame.data.content == b"#A10B|1120 00 017"
    assert (frame.data.event.qualifier, frame.data.event.code, frame.data.event.group) == ("1", "120", 0)
    assert zone(frame) == 17
    assert fields(frame) == {
        "H": happened,
        "I": "紧急报警 3号楼东门 阳泗小区 (二楼)",
        "X": "121E28.398",
        "Y": "31N13.902",
        "J": {"id": alarm.id},
    }


@pytest.mark.parametrize(
    ("changes", "cid", "words"),
    [
        ({"qualifier": Qualifier.RESTORE}, "3130", "盗警恢复"),
        ({"qualifier": Qualifier.UPDATE}, "6130", "盗警"),
        ({"kind": Kind.UNKNOWN, "code": "7a5"}, "17A5", "未知"),
        ({"kind": Kind.UNKNOWN, "code": "0x9001"}, "1000", "未知报警代码 0x9001"),
        ({"kind": Kind.UNKNOWN}, "1000", "未知"),
        ({"kind": Kind.OPEN_CLOSE, "lane": Lane.STATUS}, "1401", "撤防/布防"),
        ({"test": True}, "1130", "【测试】盗警"),
    ],
)
async def test_kinds_and_qualifiers(rig: Rig, desk: Desk, changes: dict[str, Any], cid: str, words: str) -> None:
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(**changes))
        await rig.until(lambda: len(desk.events) == 1)
    (frame,) = desk.events

    assert frame.data.event.qualifier + frame.data.event.code == cid
    assert words in fields(frame)["I"]
    assert fields(frame)["J"].get("test", False) == changes.get("test", False)


async def test_arrival_is_the_time_of_an_event_whose_clock_is_not_trusted(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port, extended=""):
        await rig.append(rig.event(device_time=datetime(1970, 1, 1, tzinfo=UTC)))
        await rig.until(lambda: len(desk.events) == 1)

    assert fields(desk.events[0]) == {"H": AT}


async def test_nothing_of_an_unclaimed_device_is_sent(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(place=None), rig.event(18))
        await rig.until_states(dead=1, accepted=1)
    (dead,) = await rig.store.deliveries(state=DeliveryState.DEAD)

    assert desk.zones == [18]
    assert dead.reason == "the device is not claimed"
    assert not dc09.wants(rig.event(place=None))


async def test_what_contact_id_has_no_words_for_is_not_wanted_and_set_aside(rig: Rig, desk: Desk) -> None:
    position = rig.event(kind=Kind.POSITION, lane=Lane.BULK)
    async with rig.forwarding(desk.port):
        await rig.append(position)
        await rig.until_states(dead=1)

    assert not dc09.wants(position)
    assert desk.events == []
    assert rig.reports == []


# -- pysiaalarm ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pysiaalarm_server(*accounts: SIAAccount) -> AsyncIterator[tuple[list[SIAEvent], int]]:
    seen: list[SIAEvent] = []

    async def take(event: SIAEvent) -> None:
        seen.append(event)

    client = SIAClient("127.0.0.1", 0, list(accounts), take)
    await client.async_start()
    try:
        yield seen, client.server.sockets[0].getsockname()[1]
    finally:
        await client.async_stop()


@pytest.mark.row("F2")
@pytest.mark.peer("pysiaalarm")
@pytest.mark.parametrize("encrypted", [False, True])
async def test_pysiaalarm_accepts_and_its_nak_sets_our_clock(rig: Rig, tmp_path: Path, encrypted: bool) -> None:
    """Our clock says 2027, its own says today: it answers NAK with its time, and takes the second try.

    It needs an R, and reads one extended field in an ADM-CID frame, ASCII only: so `extended` is empty.
    """
    accounts = [SIAAccount(account, KEY.decode() if encrypted else None) for account in ("A10B", "0B0C")]
    settings: dict[str, Any] = {"receiver": "1", "extended": ""} | (
        {"key_file": key_file(tmp_path)} if encrypted else {}
    )
    async with pysiaalarm_server(*accounts) as (seen, port), rig.forwarding(port, **settings):
        await rig.append(rig.event(17), rig.event(17, qualifier=Qualifier.RESTORE))
        await rig.until_states(accepted=2)
    offset_s = rig.count("destination_clock_offset_seconds")

    events = [event for event in seen if event.event_qualifier]  # without the NULL of a quiet line
    assert [(e.account, e.event_qualifier, e.event_type, e.ri, e.sequence) for e in events] == [
        ("A10B", "1", "130", "017", "0001"),
        ("A10B", "3", "130", "017", "0002"),
    ]
    assert rig.count("answers_total", answer="nak") >= 1
    assert abs(offset_s - (datetime.now(UTC) - AT).total_seconds()) < 60  # noqa: TID251  # its clock is the machine's
    assert events[0].x_data == "H08:30:00,01-15-2027"


# -- misbehaviour ----------------------------------------------------------------------------------------------------


@pytest.mark.row("F4")
async def test_silence_ends_the_connection_and_the_same_number_goes_again(rig: Rig, desk: Desk) -> None:
    desk.script.extend([ack, silence, silence])
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(1))
        await rig.until_states(accepted=1)
        await rig.append(rig.event(2))
        await rig.until(lambda: len(desk.events) == 2)
        assert desk.connections == 1
        await rig.until(lambda: len(desk.events) == 4, pace_s=0.1)
        await rig.until_states(accepted=2)

    assert desk.numbers == [1, 2, 2, 2]
    assert desk.connections >= 3
    assert rig.count("answers_total", answer="missing") >= 2
    assert rig.count("resent_total") == 2


async def test_a_hang_up_before_the_answer_sends_the_same_again(rig: Rig, desk: Desk) -> None:
    desk.script.extend([hang_up, hang_up])
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: len(desk.events) == 3, pace_s=0.05)
        await rig.until_states(accepted=1)

    assert desk.numbers == [1, 1, 1]


def wrong_sequence(message: Any) -> bytes:
    return sia.AckMessage(message.account, message.seq % 9999 + 1).encode()


def wrong_account(message: Any) -> bytes:
    other = sia.Account(message.account, acct=0xBEEF)
    return sia.AckMessage(other, message.seq).encode()


def bare_text(_: Any) -> bytes:
    return b'"ACK"'


def broken_crc(message: Any) -> bytes:
    frame = ack(message)
    return frame[:1] + b"0000" + frame[5:]


@pytest.mark.row("F2")
@pytest.mark.row("F3")
@pytest.mark.parametrize(
    "false_answer", [wrong_sequence, wrong_account, bare_text, broken_crc], ids=lambda f: f.__name__
)
async def test_what_is_not_this_frames_ack_changes_nothing(rig: Rig, desk: Desk, false_answer: Script) -> None:
    desk.script.append(false_answer)
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: len(desk.events) == 1)
        await rig.clock.advance(1)
        assert await rig.states() == {"queued": 1}
        await rig.until(lambda: len(desk.events) == 2, pace_s=0.1)
        await rig.until_states(accepted=1)

    assert desk.numbers == [1, 1]


async def test_a_plain_ack_does_not_accept_an_encrypted_event(rig: Rig, tmp_path: Path) -> None:
    def plain_ack(message: Any) -> bytes:
        return sia.AckMessage(sia.Account(acct=message.account.acct), message.seq).encode()

    desk = Desk(key=KEY, script=deque([plain_ack]))
    async with desk.open(), rig.forwarding(desk.port, key_file=key_file(tmp_path)):
        await rig.append(rig.event())
        await rig.until(lambda: rig.count("answers_total", answer="unprotected") == 1)
        assert await rig.states() == {"queued": 1}
        await rig.until(lambda: len(desk.events) == 2, pace_s=0.1)
        await rig.until_states(accepted=1)


@pytest.mark.row("F3")
async def test_a_second_and_a_late_ack_are_counted_and_ignored(rig: Rig, desk: Desk) -> None:
    """The late one names the event before; the one that is out stays out until its own answer."""
    late = list[bytes]()

    def twice(message: Any) -> bytes:
        late.append(ack(message))
        return ack(message) * 2

    desk.script.extend([twice, lambda _: late[0], ack])
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(1))
        await rig.until_states(accepted=1)
        await rig.append(rig.event(2))
        await rig.until(lambda: rig.count("answers_total", answer="foreign") == 2)
        assert await rig.states() == {"accepted": 1, "queued": 1}
        await rig.until(lambda: len(desk.events) == 3, pace_s=0.1)
        await rig.until_states(accepted=2)

    assert desk.numbers == [1, 2, 2]


@pytest.mark.row("F3")
async def test_answers_in_pieces_and_glued_together(rig: Rig) -> None:
    held: list[bytes] = []

    def hold(message: Any) -> Answer:
        held.append(ack(message))
        return b"\x00junk" + b"".join(held) if len(held) == 3 else None

    desk = Desk(one_byte_at_a_time=True, script=deque([ack, hold, hold, hold]))
    async with desk.open(), rig.forwarding(desk.port):
        await rig.append(rig.event(1))
        await rig.until_states(accepted=1)
        await rig.append(*(rig.event(n, account=f"A10{n}") for n in (2, 3, 4)))
        await rig.until_states(accepted=4)

    assert len(desk.events) == 4


async def test_rsp_accepts(rig: Rig, desk: Desk) -> None:
    desk.script.append(rsp)
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until_states(accepted=1)

    assert len(desk.events) == 1


@pytest.mark.row("F2")
async def test_a_nak_sets_the_clock_and_all_that_is_open_goes_again(rig: Rig, desk: Desk) -> None:
    """It names no account, so none of the three may be left behind; occurrence times are not touched."""
    receivers_time = AT + timedelta(hours=1)
    desk.script.extend([ack, silence, silence, nak(receivers_time)])
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(1))
        await rig.until_states(accepted=1)
        await rig.append(*(rig.event(n, account=f"A10{n}") for n in (2, 3, 4)))
        await rig.until_states(accepted=4)
    before, after = desk.events[1:4], desk.events[4:7]

    assert desk.connections == 1
    assert [(f.account.acct, f.seq) for f in before] == [(f.account.acct, f.seq) for f in after]
    assert {f.timestamp for f in before} == {AT}
    assert {f.timestamp for f in after} == {receivers_time}
    assert {fields(f)["H"] for f in after} == {AT}


@pytest.mark.row("F2")
async def test_naks_that_tell_nothing_new_make_no_storm(rig: Rig, desk: Desk) -> None:
    desk.otherwise = nak(AT + timedelta(hours=1))
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: rig.count("answers_total", answer="nak") == 2)
        await rig.clock.settle()
        assert len(desk.events) == 2


@pytest.mark.row("F2")
async def test_a_receiver_whose_clock_runs_wild_is_called_again_later(rig: Rig, desk: Desk) -> None:
    hours = count(1)

    def wild(message: Any) -> Answer:
        return nak(AT + timedelta(hours=next(hours)))(message)

    desk.otherwise = wild
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: len(desk.events) == 8)
        await rig.clock.settle()
        assert (desk.connections, len(desk.events)) == (2, 8)  # the third call waits its turn


async def test_an_ack_ahead_of_what_ends_the_connection_counts(rig: Rig, desk: Desk) -> None:
    desk.otherwise = lambda message: (
        ack(message) + b"".join(nak(AT + timedelta(hours=hour))(message) or b"" for hour in range(1, 6))
    )
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until_states(accepted=1)

    assert len(desk.events) == 1


@pytest.mark.row("F4")
async def test_a_half_open_line_is_found_within_twenty_seconds(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port):
        await rig.until(lambda: rig.count("destination_up") == 1)
        desk.to_null = silence
        await rig.clock.advance(20)
        await rig.until(lambda: rig.count("destination_up") == 0)

    assert rig.said("the receiver does not answer") == 1


async def test_a_quiet_line_is_asked_now_and_then(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port, null_every_s=30):
        await rig.until(lambda: len(desk.frames) == 1)
        for nulls in (2, 3, 4):
            await rig.until(lambda: len(desk.frames) == nulls, pace_s=0.5)  # noqa: B023  # used before the next turn

    assert {frame.idtoken for frame in desk.frames} == {"NULL"}
    assert {(frame.seq, frame.account.acct) for frame in desk.frames} == {(0, 0x0B0C)}
    assert desk.connections == 1
    assert rig.clock.monotonic() - 1000 < 100


@pytest.mark.row("F6")
async def test_a_receiver_that_hangs_up_after_each_answer_gets_everything_without_a_storm(rig: Rig) -> None:
    async with Desk(hangs_up_after_each=True).open() as desk, rig.forwarding(desk.port):
        await rig.append(*(rig.event(n) for n in range(1, 6)))
        await rig.until(lambda: len(desk.events) >= 5, pace_s=0.05)
        await rig.until_states(accepted=5)
        connections = desk.connections
        await rig.clock.advance(60)
        await rig.until(lambda: desk.connections > connections)
        assert desk.connections < connections + 10

    assert sorted(set(desk.numbers)) == [1, 2, 3, 4, 5]
    assert rig.reports == []


@pytest.mark.row("F6")
async def test_a_receiver_that_flaps_every_two_seconds_is_not_stormed_and_gets_everything(rig: Rig) -> None:
    flaps = 15
    calls: list[float] = []

    async def counting(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        calls.append(rig.clock.monotonic())
        return await asyncio.open_connection(host, port)

    async def two_seconds() -> None:
        until_s = rig.clock.monotonic() + 2
        await rig.until(lambda: rig.clock.monotonic() >= until_s, pace_s=0.05)

    desk = Desk()
    async with desk.open():
        pass
    async with rig.forwarding(desk.port, connect=counting):
        for number in range(flaps):
            await rig.append(rig.event(number), rig.event(number, account="B20C"))
            async with desk.open():
                await two_seconds()
            await two_seconds()
        through_the_flaps = rig.count("accepted_total", lane="alarm")
        async with desk.open():
            await rig.until_states(accepted=2 * flaps, pace_s=0.1)

    assert through_the_flaps > flaps
    assert len(calls) < 4 * flaps
    assert desk.connections <= len(calls)


async def test_a_receiver_that_answers_no_null_is_served(rig: Rig, desk: Desk) -> None:
    desk.to_null = silence
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: bool(desk.events), pace_s=0.1)
        await rig.until_states(accepted=1)


async def test_an_event_that_is_never_answered_steps_aside_and_is_offered_again(rig: Rig, desk: Desk) -> None:
    desk.otherwise = lambda message: None if zone(message) == 13 else ack(message)
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(13), rig.event(14), rig.event(15, account="B20C"))
        await rig.until(lambda: {14, 15} <= set(desk.zones), pace_s=0.2)
        await rig.until_states(dead=1, accepted=2, pace_s=0.1)
        assert [kind for kind, _, _ in rig.reports].count(Kind.COMM_FAULT) >= 1
        desk.otherwise = ack
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 3, pace_s=0.5)

    assert len({f.seq for f in desk.events if zone(f) == 13}) == 1


# -- DUH -------------------------------------------------------------------------------------------------------------


@pytest.mark.row("F2")
async def test_a_refused_alarm_is_seen_at_once_offered_again_and_its_restore_waits(rig: Rig, desk: Desk) -> None:
    desk.script.append(duh)
    alarm = rig.event(17)
    restore = replace(rig.event(17), qualifier=Qualifier.RESTORE)
    async with rig.forwarding(desk.port, retry_refused_s=600):
        await rig.append(alarm, restore, rig.event(18))
        await rig.until_states(dead=2, accepted=1)
        dead = await rig.store.deliveries(state=DeliveryState.DEAD)
        assert [row.reason for row in dead] == ["refused: DUH", "waits for the alarm it ends"]
        assert [(kind, qualifier) for kind, qualifier, _ in rig.reports] == [(Kind.COMM_FAULT, Qualifier.NEW)]
        assert alarm.id in rig.reports[0][2]
        await rig.clock.advance(590)
        assert desk.zones == [17, 18]
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 3, pace_s=1)

    assert [(zone(f), f.data.event.qualifier) for f in desk.events] == [(17, "1"), (18, "1"), (17, "1"), (17, "3")]
    assert desk.events[0].seq == desk.events[2].seq
    assert [(kind, qualifier) for kind, qualifier, _ in rig.reports][1:] == [(Kind.COMM_FAULT, Qualifier.RESTORE)]


async def test_a_refused_alarm_is_remembered_over_a_restart(rig: Rig, desk: Desk) -> None:
    desk.script.append(duh)
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(17), replace(rig.event(17), qualifier=Qualifier.RESTORE))
        await rig.until_states(dead=2)
    async with rig.forwarding(desk.port):
        await rig.until_states(accepted=2)

    assert [f.data.event.qualifier for f in desk.events] == ["1", "1", "3"]


@pytest.mark.row("F2")
async def test_in_other_lanes_duh_is_final(rig: Rig, desk: Desk) -> None:
    desk.otherwise = duh
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(kind=Kind.AC_LOSS, lane=Lane.FAULT))
        await rig.until_states(dead=1)
        desk.otherwise = ack
        await rig.clock.advance(3600)

    assert len(desk.events) == 1
    assert rig.reports == []


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("A4")
async def test_a_number_is_on_disk_before_its_bytes_leave_and_survives_a_restart(rig: Rig, desk: Desk) -> None:
    on_disk: list[int] = []

    def look(message: Any) -> None:
        with sqlite3.connect(rig.data_dir / FILE_NAME) as db:
            on_disk.append(db.execute("SELECT number FROM outbox ORDER BY seq LIMIT 1").fetchone()[0])
        db.close()

    desk.otherwise = look
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(1), rig.event(2))
        await rig.until(lambda: len(desk.events) == 1)
    await rig.store.close()
    rig.store = await SqliteStore.open(rig.data_dir, rig.clock)
    desk.otherwise = ack
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(3))
        await rig.until_states(accepted=3)

    assert on_disk == [1]
    assert list(zip(desk.zones, desk.numbers, strict=True)) == [(1, 1), (1, 1), (2, 2), (3, 3)]


async def test_numbers_wrap_and_pass_over_open_ones(rig: Rig, desk: Desk) -> None:
    desk.script.append(duh)
    async with rig.forwarding(desk.port, retry_refused_s=86_400):
        await rig.append(rig.event(1))
        await rig.until_states(dead=1)
        with sqlite3.connect(rig.data_dir / FILE_NAME) as db:
            db.execute("UPDATE numbers SET last = 9999")
        db.close()
        await rig.append(rig.event(2))
        await rig.until_states(dead=1, accepted=1)

    assert desk.numbers == [1, 2]


# -- order -----------------------------------------------------------------------------------------------------------


async def test_one_frame_is_out_per_account_and_many_accounts_at_once(rig: Rig, desk: Desk) -> None:
    answers = (8 - FIRST) * ANSWERS_A_PLACE  # answers that open the whole window
    desk.script += [ack] * answers
    desk.otherwise = silence
    async with rig.forwarding(desk.port, window=8, answer_within_s=60, null_every_s=600):
        await rig.append(*(rig.event(n, account=f"A{n % 20:02d}") for n in range(1, answers + 1)))
        await rig.until_states(accepted=answers)
        await rig.append(*(rig.event(n, account=f"A{n % 20:02d}") for n in range(300, 400)))
        await rig.until(lambda: len(desk.events) == answers + 7)
        life = rig.event(999, account="FFF", kind=Kind.PANIC, lane=Lane.LIFE)
        await rig.append(life)
        await rig.until(lambda: len(desk.events) == answers + 8)

    accounts = [frame.account.acct for frame in desk.events[answers:]]
    assert len(set(accounts)) == 8
    assert desk.zones[-1] == 999  # the last place of the window is kept for the life lane


async def test_before_the_line_is_proven_one_frame_is_risked(rig: Rig, desk: Desk) -> None:
    desk.otherwise = silence
    await rig.append(*(rig.event(n, account=f"A{n:02d}") for n in range(20)))
    async with rig.forwarding(desk.port):
        await rig.until(lambda: len(desk.frames) == 1)
        await rig.clock.settle()
        assert len(desk.frames) == 1


async def test_a_backlog_leaves_by_lane_and_a_new_panic_overtakes_it(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port):
        await rig.until(lambda: len(desk.frames) == 1)
        desk.otherwise = silence
        await rig.append(rig.event(1, lane=Lane.STATUS, kind=Kind.BYPASS))
        await rig.until(lambda: len(desk.events) == 1)
        backlog = [(2, Lane.STATUS), (3, Lane.ALARM), (4, Lane.STATUS), (5, Lane.FAULT), (6, Lane.ALARM)]
        await rig.append(*(rig.event(n, lane=lane) for n, lane in backlog))
        await rig.append(rig.event(7, lane=Lane.LIFE, kind=Kind.PANIC))
        await rig.until(lambda: sum(rig.store.state.stored.values()) == 7)
        await rig.clock.settle()
        desk.otherwise = ack
        await rig.until(lambda: rig.count("accepted_total", lane="status") == 3, pace_s=0.1)

    assert desk.zones == [1, 7, 3, 6, 5, 1, 2, 4]


async def test_faults_get_their_share_of_a_busy_line(rig: Rig, desk: Desk) -> None:
    await rig.append(*(rig.event(n) for n in range(1, 101)))
    await rig.append(*(rig.event(n, lane=Lane.FAULT, kind=Kind.AC_LOSS) for n in range(901, 906)))
    async with rig.forwarding(desk.port):
        await rig.until_states(accepted=105)
    positions = [index for index, number in enumerate(desk.zones) if number > 900]

    assert [number for number in desk.zones if number > 900] == [901, 902, 903, 904, 905]
    assert positions == [19, 39, 59, 79, 99]


async def test_an_alarm_leaves_before_its_restore_through_every_mishap(rig: Rig, desk: Desk) -> None:
    dice = Random(11)

    def moody(message: Any) -> Answer:
        return dice.choice([ack, ack, hang_up, silence])(message)

    desk.otherwise = moody
    pairs = [
        rig.event(n, qualifier=qualifier, account=f"A0{n % 3}")
        for n in range(1, 13)
        for qualifier in (Qualifier.NEW, Qualifier.RESTORE)
    ]
    await rig.append(*pairs)
    async with rig.forwarding(desk.port, retry_refused_s=600):
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 24, pace_s=0.5)
    first_seen = list(dict.fromkeys((zone(f), f.data.event.qualifier) for f in desk.events))

    for n in range(1, 13):
        assert first_seen.index((n, "1")) < first_seen.index((n, "3"))


# -- the store's side ------------------------------------------------------------------------------------------------


async def test_a_long_backlog_is_read_in_portions(rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outbox, "HELD_MAX", 512)
    total = _outbox.HELD_MAX * 2 + 100
    await rig.append(*(rig.event(n % 1000, account=f"A{n % 40:02d}") for n in range(total)))
    async with rig.forwarding(desk.port):
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == total)

    assert await rig.states() == {"accepted": total}
    assert len(desk.events) == total


async def test_an_acceptance_counts_only_once_it_is_on_disk(rig: Rig, desk: Desk) -> None:
    def execute(statement: str) -> None:
        with sqlite3.connect(rig.data_dir / FILE_NAME) as db:
            db.execute(statement)
        db.close()

    execute("CREATE TRIGGER broken BEFORE UPDATE OF state ON outbox BEGIN SELECT RAISE(ABORT, 'the test says no'); END")
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: rig.said("an outcome cannot be stored") == 1)
        assert rig.count("accepted_total", lane="alarm") == 0
        execute("DROP TRIGGER broken")
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 1, pace_s=0.5)

    assert len(desk.events) == 1


async def test_without_a_number_on_disk_nothing_leaves(rig: Rig, desk: Desk) -> None:
    with sqlite3.connect(rig.data_dir / FILE_NAME) as db:
        db.execute("CREATE TRIGGER broken BEFORE UPDATE OF number ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END")
        db.commit()
        async with rig.forwarding(desk.port):
            await rig.append(rig.event())
            await rig.until(lambda: rig.said("no sequence number can be stored") >= 1)
            assert desk.events == []
            db.execute("DROP TRIGGER broken")
            db.commit()
            await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 1, pace_s=0.5)
    db.close()


async def test_a_dead_row_queued_again_by_a_person_is_sent(rig: Rig, desk: Desk) -> None:
    desk.script.append(duh)
    async with rig.forwarding(desk.port):
        await rig.append(rig.event(kind=Kind.AC_LOSS, lane=Lane.FAULT))
        await rig.until_states(dead=1)
        (dead,) = await rig.store.deliveries(state=DeliveryState.DEAD)
        await rig.store.requeue("110", [dead.event.seq])
        await rig.until_states(accepted=1)

    assert desk.numbers == [1, 1]


@pytest.mark.row("F5")
async def test_what_a_receiver_has_lost_is_sent_once_more_under_the_same_keys(rig: Rig, desk: Desk) -> None:
    async with rig.forwarding(desk.port):
        await rig.append(*(rig.event(n, account=account) for n in (1, 2, 3) for account in ("A10B", "B20C")))
        await rig.until_states(accepted=6)
        first = [(f.account.acct, f.seq, zone(f), fields(f)) for f in desk.events]
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 6)
        timed = rig.count("delivery_seconds_count", lane="alarm")
        desk.frames.clear()

        await rig.store.resend("110", AT - timedelta(hours=1), AT + timedelta(hours=1))
        await rig.until(lambda: len(desk.events) == 6)
        await rig.until(lambda: rig.count("accepted_total", lane="alarm") == 12)

    assert sorted((f.account.acct, f.seq, zone(f)) for f in desk.events) == sorted(each[:3] for each in first)
    assert sorted(fields(f)["J"]["id"] for f in desk.events) == sorted(each[3]["J"]["id"] for each in first)
    assert rig.count("delivery_seconds_count", lane="alarm") == timed  # hours after the event it says nothing


async def test_a_row_queued_again_behind_the_cursor_is_found_and_its_neighbours_are_not_doubled(
    rig: Rig, desk: Desk
) -> None:
    desk.script.append(duh)
    fault: dict[str, Any] = {"kind": Kind.AC_LOSS, "lane": Lane.FAULT}
    async with rig.forwarding(desk.port, answer_within_s=60, null_every_s=600):
        await rig.append(rig.event(1, **fault))
        await rig.until_states(dead=1)
        (dead,) = await rig.store.deliveries(state=DeliveryState.DEAD)
        desk.otherwise = lambda message: ack(message) if zone(message) == 1 else None
        await rig.append(*(rig.event(n, account="B20C", **fault) for n in (2, 3, 4)))
        await rig.until(lambda: len(desk.events) == 2)
        await rig.store.requeue("110", [dead.event.seq])
        await rig.until(lambda: len(desk.events) == 3)
        desk.otherwise = ack
        desk.drop_all()
        await rig.until_states(accepted=4)
        await rig.clock.advance(1)

    assert desk.zones == [1, 2, 1, 2, 3, 4]


# -- the line's own state --------------------------------------------------------------------------------------------


async def test_an_outage_is_logged_once_measured_at_once_and_reported_after_twenty_seconds(rig: Rig) -> None:
    desk = Desk()
    async with desk.open(), rig.forwarding(desk.port, null_every_s=10):
        await rig.until(lambda: rig.count("destination_up") == 1)
    async with desk.open():
        port = desk.port
    async with rig.forwarding(port):
        await rig.until(lambda: rig.count("destination_up") == 0)
        await rig.clock.advance(19)
        await rig.until(lambda: rig.said("the receiver does not answer") == 1)
        assert rig.reports == []
        await rig.until(lambda: len(rig.reports) == 1, pace_s=0.5)
        async with desk.open():
            await rig.until(lambda: rig.count("destination_up") == 1, pace_s=0.5)
            await rig.until(lambda: len(rig.reports) == 2)

    assert [(kind, qualifier) for kind, qualifier, _ in rig.reports] == [
        (Kind.COMM_FAULT, Qualifier.NEW),
        (Kind.COMM_FAULT, Qualifier.RESTORE),
    ]
    assert rig.said("the receiver does not answer") == 1
    assert rig.said("the receiver answers") == 2


@pytest.mark.row("F1")
@pytest.mark.parametrize("kind", [Kind.PANIC, Kind.BURGLARY])
async def test_a_panic_does_not_wait_out_the_pause_of_a_long_outage(rig: Rig, kind: Kind) -> None:
    """Of an alarm's pauses, up to a minute, some are longer than a panic's two seconds."""
    calls: list[float] = []

    async def connect(_: str, __: int) -> Any:
        calls.append(rig.clock.monotonic())
        raise ConnectionRefusedError

    async with rig.forwarding(9, connect=connect):
        await rig.until(lambda: rig.count("destination_up") == 0 and len(calls) > 40, pace_s=5)  # the pauses have grown
        await rig.append(rig.event(kind=kind, lane=Lane.LIFE if kind is Kind.PANIC else Lane.ALARM))
        began = rig.clock.monotonic()
        calls.clear()
        await rig.until(lambda: rig.clock.monotonic() - began > 300, pace_s=0.5)
    pauses = [later - earlier for earlier, later in pairwise([began, *calls])]

    assert (max(pauses) <= LIFE_RETRY_MOST_S + 0.5) is (kind is Kind.PANIC)


async def test_a_stop_in_the_moment_a_connection_fails_is_a_stop(
    rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[asyncio.Task[Any]] = []
    miss = Conversation._miss

    def stop_and_miss(self: Conversation, sent: Any) -> None:
        stopped.extend(task for task in asyncio.all_tasks() if task.get_name() == "110 connect")
        stopped[0].cancel()
        miss(self, sent)

    monkeypatch.setattr(Conversation, "_miss", stop_and_miss)
    desk.otherwise = silence
    async with rig.forwarding(desk.port):
        await rig.append(rig.event())
        await rig.until(lambda: bool(stopped), pace_s=0.1)
        await rig.until(stopped[0].done)

    assert stopped[0].cancelled()


async def test_a_key_that_cannot_be_used_is_named_without_being_shown(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("text:tooshort")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="key: an AES key has 16, 24 or 32 bytes") as refused:
        dc09.check(Settings(connect="127.0.0.1:1", key_file=Path("key")), tmp_path)

    assert "tooshort" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:70000", "a..b:4110", ":4110"])
def test_an_address_that_cannot_be_called_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        Settings(connect=address)
