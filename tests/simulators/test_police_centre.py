"""The centre judged from outside: bytes proven by other decoders, an independent sender, plain sockets.

The frames below (clock 2027-01-15 08:30:00 UTC) are decoded by siadc09 1.0.1, and by pysiaalarm 3.2.2 where it knows
the kind; the first two tests repeat that check. NAK names its account `A0`, which neither decodes: its CRC is checked.
The `siadc09` package (DC-09-2026 by other hands) also dials in and reads the answers.
"""

import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysiaalarm import SIAAccount
from pysiaalarm.event import SIAEvent
from siadc09 import message as peer_message
from siadc09 import util as peer_util
from siadc09.account import Account
from siadc09.xdata import Data, parse_xdata

from simulators.police_centre import KINDS, Misbehaviour, PoliceCentre, Row
from simulators.police_centre import centre as centre_module
from simulators.police_centre import judge as judge_module
from simulators.police_centre.audit import EXAMPLES_MAX, Audit, Sighting
from simulators.police_centre.frames import FRAME_MAX_BYTES, Cutter, Rubbish, crc16, read_header, reply
from simulators.police_centre.judge import Judge
from simulators.police_centre.misbehaviour import ACTIVE_MAX, Plan, from_mapping, from_spec
from simulators.police_centre.wall import drawn, kind_text

EIGHT_THIRTY = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
KEYS = {128: b"GATEKEY-AES128-1", 192: b"GATEKEY-AES192-000000001", 256: b"GATEKEY-AES256-00000000000000001"[:32]}

BURGLARY = b'\nF193003B"ADM-CID"0001L0#A10B[#A10B|1130 02 017]_08:30:00,01-15-2027\r'
RESTORE = b'\n61B0003D"ADM-CID"0002R1L3#A10B[#A10B|3130 02 017]_08:30:00,01-15-2027\r'
DCS = b'\nD0CA0041"SIA-DCS"0003L0#A10B[#A10B|Nti16:29ri2/BA017]_08:30:00,01-15-2027\r'
PANIC = (
    b'\nABEC006A"ADM-CID"0004L0#A10B[#A10B|1120 01 001][H08:29:58,01-15-2027][X121E28.400][Y31N13.900]'
    b"_08:30:00,01-15-2027\r"
)
LINK_TEST = b'\nB05C0013"NULL"0000L0#A10B[]\r'
ENCRYPTED = {
    128: b'\n5B850096"*ADM-CID"0005L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD114B1347B5DB63FAEE6EF406FA623D6BE'
    b"12CB47DDA053D357D58CAA85FBB2C9F4F1EB545E813209EA67E955FD9F7638C5\r",
    192: b'\n95A70096"*ADM-CID"0005L0#A10B[2589DCA75669E7674026574C37420B8012168EF46502DC7A495B3F8C030C4CBA'
    b"823ED7C4872872DFCB413FCE0B5E406F1CE4FE7DFF2D9BAE84EC1261FA5962A4\r",
    256: b'\nFA810096"*ADM-CID"0005L0#A10B[0466BCE9CCC13C7CB949C5040757E17EE31C0E7DCE1BFE20714E745F28F08B7E'
    b"A876174381F0BD6AE355E1D8F5DE8BB1B40BC9E7CB3299FF57A83B3F58714FF7\r",
}
ENCRYPTED_LINK_TEST = (
    b'\nD2520073"*NULL"0006L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD13CF5F3F2F3E3A8C2589455913A3815DE'
    b"69046AD087D4FC07E8406F955F18B8B6\r"
)
ACK_1 = b'\nB56F0012"ACK"0001L0#A10B[]\r'
ENCRYPTED_ACK_5 = (
    b'\n46730072"*ACK"0005L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD13CF5F3F2F3E3A8C2589455913A3815DE'
    b"69046AD087D4FC07E8406F955F18B8B6\r"
)
NAK_830 = b'\n70F60025"NAK"0000R0L0A0[]_08:30:00,01-15-2027\r'
DUH_3 = b'\n41100012"DUH"0003L0#A10B[]\r'


class SetClock:
    """Stands at 08:30 until told otherwise; while `held`, sleepers wait for `release`."""

    def __init__(self) -> None:
        self.wall = EIGHT_THIRTY
        self.held = False
        self.slept: list[float] = []
        self._release = asyncio.Event()

    def now(self) -> float:
        return self.wall.timestamp()

    def monotonic(self) -> float:
        return self.wall.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.held:
            await self._release.wait()

    def release(self) -> None:
        self.held = False
        self._release.set()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def centre(clock: SetClock) -> AsyncIterator[PoliceCentre]:
    async with PoliceCentre(udp="127.0.0.1:0", clock=clock, keys={"A10B": KEYS[128]}) as running:
        yield running


class Line:
    """A plain TCP connection to the centre; every wait ends after five seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    async def answer(self) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.readuntil(b"\r")

    async def ask(self, frame: bytes) -> bytes:
        self.send(frame)
        return await self.answer()

    async def rest(self) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.read()

    def hang_up(self) -> None:
        self._writer.write_eof()


@contextlib.asynccontextmanager
async def dialled(centre: PoliceCentre) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", centre.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Mailbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.put_nowait(data)


@contextlib.asynccontextmanager
async def datagrams(centre: PoliceCentre) -> AsyncIterator[tuple[asyncio.DatagramTransport, asyncio.Queue[bytes]]]:
    loop = asyncio.get_running_loop()
    transport, mailbox = await loop.create_datagram_endpoint(Mailbox, remote_addr=("127.0.0.1", centre.udp_port))
    try:
        yield transport, mailbox.got
    finally:
        transport.close()


def by_peer(
    *,
    seq: int = 7,
    data: bytes = b"#A10B|1120 01 001",
    extended: tuple[bytes, ...] = (),
    key: bytes | None = None,
    at: datetime = EIGHT_THIRTY,
    token: str = "ADM-CID",
) -> bytes:
    """A frame as siadc09 encodes it."""
    made = peer_message.EventMessage(
        Account(acct=0xA10B, key=key),
        config={"idtoken": token, "data": Data(content=data), "xdata": [parse_xdata(field) for field in extended]},
    )
    frame: bytes = made.encode(seq=seq, timestamp=at)
    return frame


def with_crc(body: bytes) -> bytes:
    """A frame whose CRC siadc09 computed."""
    return b"\n%04X0%03X%b\r" % (peer_message.crc(body), len(body), body)


# -- frames and answers --------------------------------------------------------------------------------------------


@pytest.mark.peer("siadc09")
@pytest.mark.parametrize(
    ("frame", "key", "token", "seq"),
    [
        (BURGLARY, None, "ADM-CID", 1),
        (RESTORE, None, "ADM-CID", 2),
        (DCS, None, "SIA-DCS", 3),
        (PANIC, None, "ADM-CID", 4),
        (LINK_TEST, None, "NULL", 0),
        *((ENCRYPTED[bits], KEYS[bits], "ADM-CID", 5) for bits in KEYS),
        (ENCRYPTED_LINK_TEST, KEYS[128], "NULL", 6),
        (ENCRYPTED_ACK_5, KEYS[128], "ACK", 5),
        (ACK_1, None, "ACK", 1),
        (DUH_3, None, "DUH", 3),
    ],
)
def test_siadc09_decodes_the_frames_used_here(frame: bytes, key: bytes | None, token: str, seq: int) -> None:
    decoded = peer_message.parse_frame(frame, key)

    assert (decoded.idtoken, decoded.seq, decoded.account.acct) == (token, seq, 0xA10B)


@pytest.mark.peer("pysiaalarm")
def test_pysiaalarm_decodes_the_events_it_knows_and_the_nak_has_its_crc() -> None:
    for frame, key, code in [
        (BURGLARY, None, "BA"),
        (RESTORE, None, "BH"),
        *((ENCRYPTED[bits], key.decode(), "BA") for bits, key in KEYS.items()),
    ]:
        event = SIAEvent.from_line(frame[1:-1].decode(), {"A10B": SIAAccount("A10B", key)})
        assert (event.valid_message, event.code, event.ri) == (True, code, "017")
    assert with_crc(NAK_830[9:-1]) == NAK_830


@pytest.mark.parametrize(
    ("frame", "answer"), [(BURGLARY, ACK_1), (DCS, DUH_3)], ids=["ADM-CID is acknowledged", "SIA-DCS is not served"]
)
async def test_a_proven_frame_gets_the_proven_answer(centre: PoliceCentre, frame: bytes, answer: bytes) -> None:
    async with dialled(centre) as line:
        assert await line.ask(frame) == answer


async def test_the_row_of_a_panic_says_all_that_the_frame_says(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        await line.ask(PANIC)
    row = json.loads(centre.received[0].line())
    peer = row.pop("peer")

    assert peer.startswith("127.0.0.1:")
    assert row == {
        "id": None,
        "key": "A10B/0004/08:29:58,01-15-2027",
        "t": EIGHT_THIRTY.timestamp(),
        "account": "A10B",
        "seq": "0004",
        "token": "ADM-CID",
        "encrypted": False,
        "qualifier": 1,
        "code": "120",
        "group": "01",
        "zone": "001",
        "h": "08:29:58,01-15-2027",
        "x": "121E28.400",
        "y": "31N13.900",
        "text": None,
        "json": None,
        "test": False,
        "copy": False,
        "answer": "ACK",
        "why": None,
        "misbehaviour": None,
        "deviations": [],
        "transport": "tcp",
        "frame": PANIC[9:-1].decode(),
    }


async def test_receiver_and_prefix_are_echoed_as_received(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        answer = await line.ask(RESTORE)

    assert answer[9:] == b'"ACK"0002R1L3#A10B[]\r'
    assert str(peer_message.parse_frame(answer).account) == "Account #A10B prefix 3 receiver 1"
    assert centre.received[0].qualifier == 3


async def test_a_link_test_may_carry_sequence_0000_and_is_no_event(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        answer = await line.ask(LINK_TEST)

    assert answer[9:] == b'"ACK"0000L0#A10B[]\r'
    assert centre.received[0].key is None
    assert centre.audit.accepted == 0


@pytest.mark.parametrize("bits", [128, 192, 256])
async def test_each_key_size_opens_its_proven_frame_and_locks_the_answer(clock: SetClock, bits: int) -> None:
    async with PoliceCentre(clock=clock, key_for_all=KEYS[bits]) as centre, dialled(centre) as line:
        answer = peer_message.parse_frame(await line.ask(ENCRYPTED[bits]), KEYS[bits])

        assert (answer.idtoken, answer.seq, answer.encrypted) == ("ACK", 5, True)
        assert answer.timestamp == EIGHT_THIRTY
        row = centre.received[0]
        assert (row.encrypted, row.qualifier, row.code, row.group, row.zone) == (True, 1, "130", "02", "017")


async def test_an_encrypted_link_test_is_answered_encrypted(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        answer = peer_message.parse_frame(await line.ask(ENCRYPTED_LINK_TEST), KEYS[128])

    assert (answer.idtoken, answer.seq, answer.encrypted) == ("ACK", 6, True)


def test_an_encrypted_ack_is_the_proven_one_when_its_pad_is() -> None:
    pad = b"AbCdEfGhIjKlMnOpQrStUvWxYz012345"
    header = read_header(ENCRYPTED[128][9:-1])
    made = reply(
        "ACK", header, seq="0005", key=KEYS[128], now_s=EIGHT_THIRTY.timestamp(), pad=lambda count: pad[:count]
    )

    assert made == ENCRYPTED_ACK_5


def test_crc_has_its_published_check_value() -> None:
    assert crc16(b"123456789") == 0xBB3D  # CRC-16/ARC in the catalogue of parametrised CRC algorithms


@pytest.mark.parametrize(("seconds", "answer"), [(-41, "NAK"), (-40, "ACK"), (0, "ACK"), (20, "ACK"), (21, "NAK")])
async def test_an_encrypted_message_must_be_of_this_minute(centre: PoliceCentre, seconds: int, answer: str) -> None:
    """DC-09 5.5.1.9: at most 20 s ahead of and 40 s behind the receiver's clock."""
    async with dialled(centre) as line:
        got = await line.ask(by_peer(key=KEYS[128], at=EIGHT_THIRTY + timedelta(seconds=seconds)))

    assert centre.received[0].answer == answer
    assert (got == NAK_830) == (answer == "NAK")


async def test_the_time_in_a_plain_message_is_only_advice(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        await line.ask(by_peer(at=datetime(1970, 1, 1, tzinfo=UTC)))

    assert centre.received[0].answer == "ACK"


@pytest.mark.parametrize("key", [None, KEYS[128]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_an_independent_sender_delivers_every_extended_field(
    centre: PoliceCentre, transport: str, key: bytes | None
) -> None:
    frame = by_peer(
        key=key,
        extended=(
            b"H08:29:58,01-15-2027",
            "I三号楼东门".encode(),
            b'J{"id": "e-17", "test": true}',
            b"X121E28.400",
            b"Y31N13.900",
            b"QA letter nobody knows",
        ),
    )
    if transport == "tcp":
        async with dialled(centre) as line:
            got = await line.ask(frame)
    else:
        async with datagrams(centre) as (transport_, mailbox), asyncio.timeout(5):
            transport_.sendto(frame)
            got = await mailbox.get()
    answer, row = peer_message.parse_frame(got, KEYS[128]), centre.received[0]

    assert (answer.idtoken, answer.seq, answer.encrypted) == ("ACK", 7, key is not None)
    assert (row.id, row.key, row.transport) == ("e-17", "A10B/0007/08:29:58,01-15-2027", transport)
    assert (row.h, row.text, row.x, row.y) == ("08:29:58,01-15-2027", "三号楼东门", "121E28.400", "31N13.900")
    assert (row.json, row.test, row.deviations) == ({"id": "e-17", "test": True}, True, ())


async def test_a_new_key_is_answered_with_rsp_and_opens_the_next_frame(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        first = peer_message.parse_frame(
            await line.ask(by_peer(seq=1, key=KEYS[128], extended=(b"K" + KEYS[256].hex().encode(),))), KEYS[128]
        )
        second = peer_message.parse_frame(await line.ask(by_peer(seq=2, key=KEYS[256])), KEYS[256])
        old = peer_message.parse_frame(await line.ask(by_peer(seq=3, key=KEYS[128])), KEYS[128])

    assert [first.idtoken, second.idtoken, old.idtoken] == ["RSP", "ACK", "ACK"]


async def test_learnt_keys_have_a_bound(clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "ACCOUNTS_MAX", 0)
    async with PoliceCentre(clock=clock, key_for_all=KEYS[128]) as centre, dialled(centre) as line:
        new_key = (b"K" + KEYS[256].hex().encode(),)
        await line.ask(by_peer(seq=1, key=KEYS[128], extended=new_key))
        line.send(by_peer(seq=2, key=KEYS[256]), by_peer(seq=3, key=KEYS[128]))
        answer = peer_message.parse_frame(await line.answer(), KEYS[128])

    assert (answer.idtoken, answer.seq) == ("ACK", 3)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (by_peer(data=b"#A10B|9120 01 001"), "expected #acct|QXYZ GG CCC"),
        (by_peer(token="SIA-PUL"), "token SIA-PUL is not served"),
        (with_crc(b'"NULL"0000L0#BEEF[]'), "account BEEF is not known"),
    ],
)
async def test_what_cannot_be_processed_is_answered_duh(clock: SetClock, frame: bytes, why: str) -> None:
    async with PoliceCentre(clock=clock, accounts=["A10B"]) as centre, dialled(centre) as line:
        answer = await line.ask(frame)

        assert b'"DUH"' in answer
        assert why in str(centre.received[0].why)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\x00\xffhello", "no LF before it"),
        (b"\nZZZZ", "CRC and length"),
        (BURGLARY.replace(b"F193", b"F194"), "CRC F194 on the wire, F193 computed"),
        (BURGLARY.replace(b"003B", b"003A"), "no CR where the length field 58"),
        (BURGLARY.replace(b"003B", b"0FFF"), "no CR where the length field 4095"),
        (BURGLARY[:30], "no CR where the length field 59"),
        (with_crc(b'"ADM-CID"1L0#A10B[]'), 'expected "token" seq'),
        (with_crc(b'"NULL"0000L0#A10B[]]'), "expected data]"),
        (with_crc(b'"*NULL"0000L0#A10B[zz'), "not hex digits"),
        (with_crc(b'"*NULL"0000L0#A10B[00'), "not a multiple of 16"),
        (by_peer(key=KEYS[192]), "none of 1 keys of account A10B opens it"),
        (with_crc(b'"*NULL"0000L0#BEEF[00'), "no key is known for account BEEF"),
    ],
)
async def test_what_is_no_frame_meets_silence_and_the_next_frame_is_answered(
    centre: PoliceCentre, bad: bytes, why: str
) -> None:
    async with dialled(centre) as line:
        line.send(bad, BURGLARY)

        assert await line.answer() == ACK_1
    assert centre.received[0].answer == "silence"
    assert why in str(centre.received[0].why)


async def test_glued_frames_are_answered_one_by_one(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        line.send(BURGLARY, RESTORE, LINK_TEST)
        answers = [await line.answer() for _ in range(3)]

    assert [answer[14:18] for answer in answers] == [b"0001", b"0002", b"0000"]


async def test_half_a_frame_at_the_end_of_a_stream_is_recorded(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        line.send(BURGLARY, PANIC[:40])
        line.hang_up()
        await line.rest()

    assert [row.answer for row in centre.received] == ["ACK", "silence"]
    assert centre.received[1].why == "the stream ended inside a frame"


def test_frames_come_out_the_same_however_the_stream_is_chopped() -> None:
    stream = b"\x00" + BURGLARY + PANIC + b"\x00" + ENCRYPTED[256]
    cutter = Cutter()
    bodies = [piece for byte in stream for piece in cutter.feed(bytes([byte])) if isinstance(piece, bytes)]

    assert bodies == [BURGLARY[9:-1], PANIC[9:-1], ENCRYPTED[256][9:-1]]


def test_no_single_flipped_bit_passes_for_a_frame() -> None:
    case_only = {1, 2, 3, 4, 5, 6, 7, 8}  # in CRC and length, F and f are the same digit
    for bit in range(8 * len(PANIC)):
        damaged = bytearray(PANIC)
        damaged[bit // 8] ^= 1 << bit % 8
        cutter = Cutter()
        pieces = [*cutter.feed(bytes(damaged)), *cutter.finish()]
        bodies = [piece for piece in pieces if isinstance(piece, bytes)]

        assert not bodies or (bit // 8 in case_only and bodies == [PANIC[9:-1]])


HOSTILE_FIELDS = [
    b"H99:99:99,99-99-9999",
    b"H23:59:59,12-31-9999",
    b"H00:00:00,01-01-0001",
    rb'J{"id": "e", "x": "\ud800"}',
    b'J{"x": NaN}',
    b"J" + b'{"":' * 900 + b"0" + b"}" * 900,
    b"J7",
    b"J",
    b"I\xff\xfe",
    b"Ka",
    b"\xff",
]


def judged(content: bytes, key: bytes | None) -> tuple[Row, str]:
    """The row, and what the wall makes of it; both must be readable whatever the frame held."""
    star, wire = b"", content
    if key is not None:
        star, clear = b"*", b"p" * 16 + b"|" + content
        wire = peer_util.encrypt(key, clear + b" " * (-len(clear) % 16)).hex().encode()
    audit = Audit()
    judge = Judge(keys={"A10B": KEYS[128]}, key_for_all=None, accounts=None, plan=Plan(), audit=audit, clock=SetClock())
    row = judge.frame(b'"%bADM-CID"0001L0#A10B[%b' % (star, wire), transport="tcp", peer="").row
    line = row.line().encode("utf-8", "backslashreplace")
    assert json.loads(line, parse_constant=pytest.fail)["answer"] == row.answer
    return row, drawn([row], {}, audit.summary(), "zh")


@pytest.mark.parametrize("field", HOSTILE_FIELDS, ids=lambda field: repr(field[:12]))
def test_a_hostile_field_is_recorded_and_the_event_acknowledged(field: bytes) -> None:
    row, wall = judged(b"#A10B|1130 02 017][%b]_08:30:00,01-15-2027" % field, None)

    assert row.answer == "ACK"
    assert "盗警" in wall


@given(
    data=st.one_of(st.just(b"#A10B|1130 02 017"), st.binary(max_size=30)),
    fields=st.lists(st.one_of(st.sampled_from(HOSTILE_FIELDS), st.binary(max_size=40)), max_size=4),
    end=st.one_of(st.sampled_from([b"", b"_08:30:00,01-15-2027", b"_99:99:99,99-99-2027"]), st.binary(max_size=10)),
    key=st.sampled_from([None, KEYS[128]]),
)
def test_nothing_that_a_frame_may_hold_upsets_the_centre(
    data: bytes, fields: list[bytes], end: bytes, key: bytes | None
) -> None:
    row, _ = judged(data + b"]" + b"".join(b"[%b]" % field for field in fields) + end, key)

    assert row.answer in {"ACK", "RSP", "NAK", "DUH", "silence"}


@pytest.mark.parametrize("filler", [b"\x00", b"\n", b"\nFFFF0FFF", b"\n12340FFFaaaaaaaa", BURGLARY[:-1]])
def test_a_stream_of_rubbish_is_not_hoarded(filler: bytes) -> None:
    cutter, chunk = Cutter(), (filler * 4096)[:4096]
    for _ in range(50):
        assert all(isinstance(piece, Rubbish) for piece in cutter.feed(chunk))
        assert cutter.held_bytes <= FRAME_MAX_BYTES


def test_the_largest_frame_fits_and_one_byte_more_is_no_frame() -> None:
    largest = b'"NULL"0000L0#A10B[' + b"x" * (0xFFF - 19) + b"]"

    assert list(Cutter().feed(with_crc(largest))) == [largest]
    assert not any(isinstance(piece, bytes) for piece in Cutter().feed(with_crc(largest + b"x")))


# -- misbehaviour --------------------------------------------------------------------------------------------------


async def test_nak_shows_our_time_plus_the_wished_offset(centre: PoliceCentre) -> None:
    centre.misbehave("nak", count=1)
    centre.misbehave("nak", count=1, seconds=90)
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == NAK_830
        assert (await line.ask(BURGLARY))[9:] == b'"NAK"0000R0L0A0[]_08:31:30,01-15-2027\r'
        assert await line.ask(BURGLARY) == ACK_1
    assert [(row.answer, row.copy) for row in centre.received] == [("NAK", False), ("NAK", True), ("ACK", True)]


async def test_a_centre_with_a_wrong_clock_accepts_who_follows_its_nak(centre: PoliceCentre) -> None:
    centre.misbehave("clock", seconds=90)
    async with dialled(centre) as line:
        refused = await line.ask(by_peer(key=KEYS[128]))
        await line.ask(by_peer(key=KEYS[128], at=EIGHT_THIRTY + timedelta(seconds=90)))

    assert refused.endswith(b"_08:31:30,01-15-2027\r")
    assert [row.answer for row in centre.received] == ["NAK", "ACK"]


async def test_duh(centre: PoliceCentre) -> None:
    centre.misbehave("duh", count=1)
    async with dialled(centre) as line:
        assert (await line.ask(BURGLARY))[9:] == b'"DUH"0001L0#A10B[]\r'
    assert centre.audit.accepted == 0


async def test_silence_keeps_the_frame_and_answers_nothing(centre: PoliceCentre) -> None:
    centre.misbehave("silence", count=1)
    async with dialled(centre) as line:
        line.send(PANIC, BURGLARY)

        assert await line.answer() == ACK_1
    assert [row.answer for row in centre.received] == ["silence", "ACK"]
    assert centre.audit.accepted == 2


async def test_drop_before_ack_resets_the_connection_and_a_repeat_is_a_copy(centre: PoliceCentre) -> None:
    centre.misbehave("drop_before_ack", count=1)
    async with dialled(centre) as line:
        line.send(BURGLARY)
        with pytest.raises(ConnectionResetError):
            await line.rest()
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1
    assert [(row.answer, row.copy) for row in centre.received] == [("drop", False), ("ACK", True)]
    assert (centre.audit.accepted, centre.audit.wire_repeats) == (1, 1)


async def test_a_late_answer_waits_its_time(centre: PoliceCentre, clock: SetClock) -> None:
    clock.held = True
    centre.misbehave("late", seconds=6, count=1)
    async with dialled(centre) as line:
        line.send(BURGLARY)
        await centre.wait_for(lambda c: len(c.received) == 1)
        assert clock.slept == [6]
        clock.release()
        assert await line.answer() == ACK_1


async def test_double_ack(centre: PoliceCentre) -> None:
    centre.misbehave("double_ack", count=1)
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1
        assert await line.answer() == ACK_1


async def test_wrong_sequence_acknowledges_the_following_number(centre: PoliceCentre) -> None:
    centre.misbehave("wrong_sequence", count=1)
    async with dialled(centre) as line:
        answer = peer_message.parse_frame(await line.ask(by_peer(seq=9999)))

    assert (answer.idtoken, answer.seq) == ("ACK", 1)
    assert centre.received[0].answer == "wrong_sequence"


async def test_split_sends_one_byte_at_a_time(centre: PoliceCentre, clock: SetClock) -> None:
    centre.misbehave("split", count=1)
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1
    assert clock.slept == [centre_module.SPLIT_PAUSE_S] * (len(ACK_1) - 1)


async def test_close_after_ack(centre: PoliceCentre) -> None:
    centre.misbehave("close_after_ack", count=1)
    async with dialled(centre) as line:
        line.send(BURGLARY)
        assert await line.rest() == ACK_1


async def test_slow_reads_a_few_bytes_and_waits(centre: PoliceCentre, clock: SetClock) -> None:
    centre.misbehave("slow", seconds=0.5)
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1
    assert clock.slept[:5] == [0.5] * 5  # 69 bytes, 16 at a time


async def test_refuse_resets_a_new_connection(centre: PoliceCentre) -> None:
    centre.misbehave("refuse", count=1)
    with pytest.raises(ConnectionResetError):
        async with dialled(centre) as line:
            await line.rest()
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1


async def test_half_open_reads_nothing_until_told_to_behave(centre: PoliceCentre) -> None:
    centre.misbehave("half_open", count=1)
    async with dialled(centre) as held, dialled(centre) as other:
        held.send(BURGLARY)
        # The spent misbehaviour leaves the list: the frame has reached the centre.
        async with asyncio.timeout(5):
            while centre.plan.active:
                await asyncio.sleep(0)  # noqa: TID251 - gives the loop a turn, waits for nothing
        await other.ask(RESTORE)
        assert [row.seq for row in centre.received] == ["0002"]
        centre.behave()
        assert await held.answer() == ACK_1


async def test_an_outage_refuses_connections_and_ends_on_the_same_port(centre: PoliceCentre) -> None:
    port = centre.port
    async with dialled(centre) as line:
        await line.ask(BURGLARY)
        await centre.off()
        with pytest.raises(ConnectionResetError):
            await line.rest()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await centre.on()
    async with dialled(centre) as line:
        assert await line.ask(BURGLARY) == ACK_1
    assert centre.port == port


@pytest.mark.parametrize("turns", range(5))
async def test_an_outage_leaves_no_caller_behind_however_far_he_has_come(centre: PoliceCentre, turns: int) -> None:
    """From the kernel's queue over the accepted socket to the running connection: one turn of the loop each."""
    with socket.create_connection(("127.0.0.1", centre.port), timeout=5) as caller:
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - gives the loop a turn, waits for nothing
        await centre.off()
        gc.collect()  # a socket nobody closed warns here, and warnings are errors
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(caller.recv, 1)


async def test_datagrams_can_be_answered_late_and_twice(centre: PoliceCentre, clock: SetClock) -> None:
    centre.misbehave("late", seconds=6, count=1)
    centre.misbehave("double_ack", count=1)
    clock.held = True
    async with datagrams(centre) as (transport, mailbox), asyncio.timeout(5):
        transport.sendto(RESTORE)
        transport.sendto(BURGLARY)
        assert [await mailbox.get(), await mailbox.get()] == [ACK_1, ACK_1]
        clock.release()
        assert (await mailbox.get())[9:] == b'"ACK"0002R1L3#A10B[]\r'


async def test_late_datagrams_have_a_bound(
    centre: PoliceCentre, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centre_module, "LATE_DATAGRAMS_MAX", 1)
    centre.misbehave("late", seconds=6, count=2)
    clock.held = True
    async with datagrams(centre) as (transport, mailbox), asyncio.timeout(5):
        for frame in (BURGLARY, RESTORE):
            transport.sendto(frame)
        await centre.wait_for(lambda c: len(c.received) == 2)
        clock.release()
        assert await mailbox.get() == ACK_1
        transport.sendto(LINK_TEST)
        assert b"0000" in await mailbox.get()


async def test_a_misbehaviour_may_spare_link_tests(centre: PoliceCentre) -> None:
    centre.misbehave("duh", count=1, frames="event")
    async with dialled(centre) as line:
        answers = [await line.ask(frame) for frame in (LINK_TEST, BURGLARY, BURGLARY)]

    assert [answer[9:14] for answer in answers] == [b'"ACK"', b'"DUH"', b'"ACK"']


def test_the_same_seed_hits_the_same_frames() -> None:
    def hits(seed: int) -> list[bool]:
        misbehaviour = Misbehaviour("silence", share=0.3, seed=seed)
        return [misbehaviour.fires() for _ in range(200)]

    assert hits(7) == hits(7)
    assert hits(7) != hits(8)
    assert 30 < sum(hits(7)) < 90


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nack", "misbehaviour 'nack': expected one of nak, duh"),
        ("nak:count=0", "count is 0, expected 1 or more"),
        ("nak:count=1.5", "count is 1.5, expected a whole number"),
        ("late:seconds=-1", r"seconds is -1, expected 0\.\.86400"),
        ("clock:seconds=-1e9", r"seconds is -1000000000.0, expected -86400\.\.86400"),
        ("late:share=2", "share is 2, expected 0.0..1.0"),
        ("late:share", "'share' is not name=value"),
        ("late:often=1", "unknown key 'often'"),
        ("refuse:frames=event", "refuse: it concerns no single frame"),
        ("clock:seconds=9,count=1", "clock: it holds until behave"),
        ("late:frames=both", "frames is 'both', expected all, event, null"),
    ],
)
def test_a_wrong_misbehaviour_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_spec(spec)


def test_command_line_and_control_mean_the_same() -> None:
    typed = from_spec("drop_before_ack:share=0.1,seed=7,count=4,frames=event")

    assert typed.described() == from_mapping(typed.described()).described()


def test_a_script_that_only_adds_is_stopped() -> None:
    plan = Plan([Misbehaviour("duh")] * ACTIVE_MAX)

    with pytest.raises(ValueError, match="32 misbehaviours are in force"):
        plan.add(Misbehaviour("duh"))


# -- the audit -----------------------------------------------------------------------------------------------------


def sighting(seq: str, *, event_id: str | None, zone: str = "001", h: str | None = "h", taken: bool = True) -> Sighting:
    content = ("A10B", 1, "120", "01", zone, h, event_id)
    return Sighting(f"A10B/{seq}/{h}", event_id, content, has_occurrence=h is not None, taken=taken)


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        ([sighting("1", event_id="a"), sighting("2", event_id="b")], (2, 0, 0, 0)),
        ([sighting("1", event_id="a"), sighting("1", event_id="a")], (1, 1, 0, 0)),
        ([sighting("1", event_id="a"), sighting("2", event_id="a")], (2, 0, 1, 0)),
        ([sighting("1", event_id="a"), sighting("2", event_id="a", zone="2")], (2, 0, 1, 0)),
        ([sighting("1", event_id=None), sighting("2", event_id=None)], (2, 0, 1, 0)),
        ([sighting("1", event_id=None, h=None), sighting("2", event_id=None, h=None)], (2, 0, 0, 0)),
        ([sighting("1", event_id="a"), sighting("1", event_id="b")], (1, 1, 0, 1)),
        ([sighting("1", event_id="a", taken=False), sighting("1", event_id="a")], (1, 1, 0, 0)),
        ([sighting("1", event_id="a", taken=False), sighting("2", event_id="a")], (1, 0, 0, 0)),
    ],
    ids=[
        "two events",
        "repeat on the wire",
        "same id, new key",
        "same id, new key and content",
        "same content, new key, no ids",
        "two presses without occurrence are two events",
        "one key for two events",
        "repeat after a refusal",
        "a refused event may come under a new key",
    ],
)
def test_the_audit_counts(seen: list[Sighting], counts: tuple[int, int, int, int]) -> None:
    audit = Audit()
    for one in seen:
        audit.see(one)

    assert (audit.accepted, audit.wire_repeats, audit.new_key_duplicates, audit.reused_keys) == counts


def test_the_audit_forgets_the_oldest_and_says_so() -> None:
    audit = Audit(memory=10)
    for number in range(100):
        audit.see(sighting(str(number), event_id=f"e{number}", h=f"h{number}"))
        audit.see(sighting(f"again{number}", event_id=f"e{number}", h=f"h{number}"))
    summary = audit.summary()

    assert (summary["remembered"], summary["forgotten"], summary["new_key_duplicates"]) == (10, 190, 100)
    assert len(summary["examples"]) == EXAMPLES_MAX


def test_a_repeat_of_a_forgotten_key_is_not_called_a_duplicate() -> None:
    audit = Audit(memory=2)
    for one in (
        sighting("1", event_id="a"),
        sighting("2", event_id="b", taken=False),
        sighting("3", event_id="c", taken=False),
        sighting("1", event_id="a"),
    ):
        audit.see(one)

    assert (audit.accepted, audit.new_key_duplicates, audit.summary()["forgotten"]) == (2, 0, 2)


async def test_a_duplicate_under_a_new_key_is_found_on_the_wire(centre: PoliceCentre) -> None:
    fields = (b"H08:29:58,01-15-2027", b'J{"id": "e-17"}')
    async with dialled(centre) as line:
        for seq in (1, 1, 2):
            await line.ask(by_peer(seq=seq, extended=fields))

    assert [row.copy for row in centre.received] == [False, True, False]
    assert centre.audit.summary()["examples"] == [
        {
            "what": "one event under two keys",
            "id": "e-17",
            "key": "A10B/0002/08:29:58,01-15-2027",
            "earlier_key": "A10B/0001/08:29:58,01-15-2027",
        }
    ]


# -- record, control, command line, wall ---------------------------------------------------------------------------


async def test_the_row_is_in_the_record_before_the_ack_arrives(clock: SetClock, tmp_path: Path) -> None:
    record = tmp_path / "centre.jsonl"
    async with PoliceCentre(clock=clock, record=record) as centre, dialled(centre) as line:
        for expected in (1, 2, 3):
            await line.ask(BURGLARY)
            rows = [json.loads(text) for text in record.read_text(encoding="utf-8").splitlines()]
            assert len(rows) == expected
    assert [row["copy"] for row in rows] == [False, True, True]


async def test_received_and_connections_have_bounds(clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centre_module, "RECEIVED_MAX", 5)
    monkeypatch.setattr(centre_module, "CONNECTIONS_MAX", 1)
    async with PoliceCentre(clock=clock) as centre, dialled(centre) as line:
        for _ in range(8):
            await line.ask(BURGLARY)
        assert len(centre.received) == 5
        with pytest.raises(ConnectionResetError):
            async with dialled(centre) as second:
                await second.rest()


async def test_waiting_in_vain_tells_what_had_arrived(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        await line.ask(BURGLARY)
    with pytest.raises(TimeoutError, match='"code": "130"'):
        await centre.wait_for(lambda c: len(c.received) == 2, timeout_s=0.01)


async def test_the_control_socket_obeys_and_explains(clock: SetClock) -> None:
    async with PoliceCentre(clock=clock, control="0") as centre:
        reader, writer = await asyncio.open_connection("127.0.0.1", centre.control)

        async def told(command: str) -> dict[str, Any]:
            writer.write(command.encode() + b"\n")
            async with asyncio.timeout(5):
                answer: dict[str, Any] = json.loads(await reader.readline())
            return answer

        status = await told('{"misbehave": "nak", "count": 3}')
        assert (status["ok"], status["misbehaviours"][0]["count"]) == (True, 3)
        assert (await told('{"behave": true}'))["misbehaviours"] == []
        assert (await told('{"off": true}'))["listening"] is False
        assert (await told('{"on": true}'))["listening"] is True
        assert (await told('{"status": true}'))["audit"]["accepted"] == 0
        assert "expected one of nak" in (await told('{"misbehave": "nack"}'))["error"]
        assert "behave, off, on, status" in (await told('{"stop": true}'))["error"]
        assert "expected a JSON object" in (await told("[1]"))["error"]
        assert "recursion" in (await told("[" * 4000))["error"]
        assert "line longer than 4096" in (await told("x" * 5000))["error"]
        writer.close()
        await writer.wait_closed()


async def test_leaving_ends_every_open_connection(clock: SetClock) -> None:
    clock.held = True
    async with PoliceCentre(clock=clock, control="0", udp="127.0.0.1:0") as centre:
        centre.misbehave("late", seconds=60)
        reader, writer = await asyncio.open_connection("127.0.0.1", centre.control)
        writer.write(b'{"status": true}\n')
        await reader.readline()
        async with dialled(centre) as line, datagrams(centre) as (transport, _):
            line.send(BURGLARY)
            transport.sendto(RESTORE)
            await centre.wait_for(lambda c: len(c.received) == 2)
            async with asyncio.timeout(5):
                await centre.__aexit__(None, None, None)
                assert await reader.read() == b""
            with pytest.raises(ConnectionResetError):
                await line.rest()
        writer.close()
        await writer.wait_closed()


async def test_the_control_socket_is_not_for_the_network() -> None:
    with pytest.raises(ValueError, match="only loopback is served"):
        async with PoliceCentre(control="0.0.0.0:0"):
            pass


async def test_the_command_line_serves_until_sigterm_and_sums_up(tmp_path: Path) -> None:
    record, control = tmp_path / "centre.jsonl", tmp_path / "control.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.police_centre", "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0",
        "--record", str(record), "--key", f"A10B=hex:{KEYS[128].hex()}", "--misbehave", "duh:count=1",
        "--control", str(control), "--wall", "--lang", "zh",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(20):
        ready = json.loads(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", ready["tcp"])
        for _ in range(2):
            writer.write(BURGLARY)
            last = await reader.readuntil(b"\r")
        writer.close()
        await writer.wait_closed()
        process.send_signal(signal.SIGTERM)
        out, wall = await process.communicate()

    assert (ready["ready"], ready["control"]) == (True, str(control))
    assert last == ACK_1
    assert json.loads(out)["summary"]["answers"] == {"DUH": 1, "ACK": 1}
    assert [json.loads(row)["answer"] for row in record.read_text(encoding="utf-8").splitlines()] == ["DUH", "ACK"]
    assert "110 接警中心" in wall.decode()
    assert process.returncode == 0
    assert not control.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --tcp or --udp"),
        (["--tcp", "4000"], "address '4000': expected HOST:PORT"),
        (["--tcp", "127.0.0.1:0", "--key", "A10B=hex:00"], "key of A10B: 1 bytes, expected 16, 24 or 32"),
        (["--tcp", "127.0.0.1:0", "--key", "A10B"], "expected ACCOUNT=hex:"),
        (["--tcp", "127.0.0.1:0", "--misbehave", "nack"], "misbehaviour 'nack'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from simulators.police_centre.__main__ import main

    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 2
    assert message in capsys.readouterr().err


async def test_the_wall_shows_alarms_in_the_language_of_the_desk(centre: PoliceCentre) -> None:
    async with dialled(centre) as line:
        await line.ask(PANIC)
        await line.ask(by_peer(data=b"#A10B|3799 00 002", extended=("I东门\x1bcX".encode(), b'J{"test": true}')))
    wall = drawn(list(reversed(centre.received)), centre.answers, centre.audit.summary(), "zh")

    assert "01-15 16:29:58  A10B" in wall  # Beijing time of the occurrence
    assert "紧急报警" in wall
    assert "恢复 未知(799)" in wall
    assert "【测试】东门·cX" in wall  # an escape sequence off the wire stays text
    assert kind_text(centre.received[0], "en") == "panic"
    assert "审计: 接收 2" in wall


def test_every_misbehaviour_has_a_test_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")

    assert [kind for kind in KINDS if f'misbehave("{kind}"' not in source] == []
