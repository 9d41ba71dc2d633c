"""The DC-09 codec against frames and decoders that are not ours.

Origin of FRAMES: written by hand from ANSI/SIA DC-09-2026, each accepted by siadc09 1.0.1 and, where it knows the
message, by pysiaalarm 3.2.2 (the CRC of every frame also by my-dc09-spt 0.2.2).
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pysiaalarm import SIAAccount, SIAEvent
from siadc09.account import Account
from siadc09.message import AckMessage, DuhMessage, NakMessage, NullMessage, parse_frame

from gateway.codecs import dc09, dc09_fields
from gateway.codecs.dc09 import Message
from gateway.codecs.dc09_fields import ContactId, contact_id
from gateway.errors import FrameError

NOW = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PAD_TEXT = b"AbCdEfGhIjKlMnOpQrStUvWxYz012345"
KEY_128 = b"GATEKEY-AES128-1"
KEY_192 = b"GATEKEY-AES192-000000001"
KEY_256 = b"GATEKEY-AES256-00000000000000001"[:32]


def pad(size: int) -> bytes:
    return PAD_TEXT[:size]


@dataclass(frozen=True)
class Vector:
    name: str
    frame: bytes
    message: Message
    key: bytes | None = None

    def __str__(self) -> str:
        return self.name


def cid(account: str, text: str) -> str:
    return f"#{account}|{text}"


SEALED = Message("ADM-CID", 5, "A10B", None, "0", cid("A10B", "1130 02 017"), (), NOW, encrypted=True)

FRAMES = [
    Vector(
        "new",
        b'\nF193003B"ADM-CID"0001L0#A10B[#A10B|1130 02 017]_08:30:00,01-15-2027\r',
        Message("ADM-CID", 1, "A10B", None, "0", cid("A10B", "1130 02 017"), (), NOW),
    ),
    Vector(
        "restore with R and L",
        b'\n61B0003D"ADM-CID"0002R1L3#A10B[#A10B|3130 02 017]_08:30:00,01-15-2027\r',
        Message("ADM-CID", 2, "A10B", "1", "3", cid("A10B", "3130 02 017"), (), NOW),
    ),
    Vector(
        "SIA-DCS",
        b'\nD0CA0041"SIA-DCS"0003L0#A10B[#A10B|Nti16:29ri2/BA017]_08:30:00,01-15-2027\r',
        Message("SIA-DCS", 3, "A10B", None, "0", cid("A10B", "Nti16:29ri2/BA017"), (), NOW),
    ),
    Vector(
        "extended data",
        b'\nABEC006A"ADM-CID"0004L0#A10B[#A10B|1120 01 001][H08:29:58,01-15-2027][X121E28.400][Y31N13.900]'
        b"_08:30:00,01-15-2027\r",
        Message(
            "ADM-CID", 4, "A10B", None, "0", cid("A10B", "1120 01 001"),
            (("H", "08:29:58,01-15-2027"), ("X", "121E28.400"), ("Y", "31N13.900")), NOW,
        ),
    ),
    Vector("NULL", b'\nB05C0013"NULL"0000L0#A10B[]\r', Message("NULL", 0, "A10B")),
    Vector(
        "AES-128",
        b'\n5B850096"*ADM-CID"0005L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD114B1347B5DB63FAEE6EF406FA623D6BE12CB47DDA053'
        b"D357D58CAA85FBB2C9F4F1EB545E813209EA67E955FD9F7638C5\r",
        SEALED, KEY_128,
    ),
    Vector(
        "AES-192",
        b'\n95A70096"*ADM-CID"0005L0#A10B[2589DCA75669E7674026574C37420B8012168EF46502DC7A495B3F8C030C4CBA823ED7C48728'
        b"72DFCB413FCE0B5E406F1CE4FE7DFF2D9BAE84EC1261FA5962A4\r",
        SEALED, KEY_192,
    ),
    Vector(
        "AES-256",
        b'\nFA810096"*ADM-CID"0005L0#A10B[0466BCE9CCC13C7CB949C5040757E17EE31C0E7DCE1BFE20714E745F28F08B7EA876174381F0'
        b"BD6AE355E1D8F5DE8BB1B40BC9E7CB3299FF57A83B3F58714FF7\r",
        SEALED, KEY_256,
    ),
    Vector(
        "encrypted NULL",
        b'\nD2520073"*NULL"0006L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD13CF5F3F2F3E3A8C2589455913A3815DE69046AD087D4FC07'
        b"E8406F955F18B8B6\r",
        Message("NULL", 6, "A10B", timestamp=NOW, encrypted=True), KEY_128,
    ),
    Vector(
        "encrypted ACK",
        b'\n46730072"*ACK"0005L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD13CF5F3F2F3E3A8C2589455913A3815DE69046AD087D4FC07'
        b"E8406F955F18B8B6\r",
        Message("ACK", 5, "A10B", timestamp=NOW, encrypted=True), KEY_128,
    ),
    Vector("ACK", b'\nB56F0012"ACK"0001L0#A10B[]\r', Message("ACK", 1, "A10B")),
    Vector(
        "NAK names no account",
        b'\n70F60025"NAK"0000R0L0A0[]_08:30:00,01-15-2027\r',
        Message("NAK", 0, "", "0", "0", timestamp=NOW),
    ),
    Vector("DUH", b'\n41100012"DUH"0003L0#A10B[]\r', Message("DUH", 3, "A10B")),
]  # fmt: skip

ALL_PLAIN = b"".join(vector.frame for vector in FRAMES)


def keys(vector: Vector) -> dc09.KeyOf:
    return ({"A10B": vector.key} if vector.key else {}).get


def frames(stream: bytes) -> list[bytes]:
    return list(dc09.split(bytearray(stream)))


def readings(stream: bytes, known: dc09.KeyOf) -> Iterator[Message]:
    for frame in frames(stream):
        try:
            yield dc09.parse(frame, known)
        except FrameError:
            continue


@pytest.mark.parametrize("vector", FRAMES, ids=str)
class TestEveryVector:
    def test_reads(self, vector: Vector) -> None:
        assert dc09.parse(vector.frame, keys(vector)) == vector.message

    def test_writes(self, vector: Vector) -> None:
        assert dc09.build(vector.message, vector.key, pad) == vector.frame

    def test_no_single_bit_flip_passes(self, vector: Vector) -> None:
        """Except bit 5 of a letter in the CRC or length: the same number in the other case, which is accepted."""
        for index in range(len(vector.frame) * 8):
            flipped = bytearray(vector.frame)
            flipped[index // 8] ^= 1 << index % 8
            same = flipped[:9].upper() + flipped[9:] == vector.frame

            assert list(readings(bytes(flipped), keys(vector))) == ([vector.message] if same else [])

    def test_cut_at_every_byte(self, vector: Vector) -> None:
        for cut in range(len(vector.frame)):
            buffer = bytearray(vector.frame[:cut])
            assert list(dc09.split(buffer)) == []
            buffer += vector.frame[cut:]
            assert list(dc09.split(buffer)) == [vector.frame]
            assert not buffer

    @pytest.mark.parametrize(
        "junk", [b"", b"\r\n", b"\0", b"\n\n", b"\nABCD0", b'\nFFFF0FFF"', b"junk]\r", b"\xff" * 9000]
    )
    def test_junk_before_and_after(self, vector: Vector, junk: bytes) -> None:
        assert frames(junk + vector.frame + junk + vector.frame + junk) == [vector.frame] * 2


@given(st.lists(st.integers(0, len(ALL_PLAIN)), max_size=20))
def test_any_chopping_gives_the_same_frames(cuts: list[int]) -> None:
    buffer, seen, start = bytearray(), list[bytes](), 0
    for cut in [*sorted(cuts), len(ALL_PLAIN)]:
        buffer += ALL_PLAIN[start:cut]
        seen += dc09.split(buffer)
        start = cut

    assert seen == [vector.frame for vector in FRAMES]


@given(st.lists(st.binary(max_size=300) | st.sampled_from([v.frame for v in FRAMES] + [b"\n", b"\nFFFF0FFF"])))
def test_any_stream_gives_the_same_frames_however_it_arrives(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    buffer, seen = bytearray(), list[bytes]()
    for byte in whole:
        buffer.append(byte)
        seen += dc09.split(buffer)
        assert len(buffer) < dc09.FRAME_MAX

    assert seen == frames(whole)


def test_the_longest_frame_fits_and_the_buffer_stays_below_it() -> None:
    fill = "x" * (dc09.BODY_MAX - len('"NULL"0000L0#A10B[][I]'))
    frame = dc09.build(Message("NULL", 0, "A10B", xdata=(("I", fill),)))
    endless = bytearray(b"\nABCD0FFF" + b"x" * 100_000)

    assert len(frame) == dc09.FRAME_MAX
    assert frames(frame) == [frame]
    assert list(dc09.split(endless)) == []
    assert len(endless) < dc09.FRAME_MAX
    with pytest.raises(FrameError, match="at most 4095 fit"):
        dc09.build(Message("NULL", 0, "A10B", xdata=(("I", fill + "x"),)))


@given(st.binary(max_size=200))
@example(b"\n")
@example(b'\nB05C0013"NULL"0000L0#A10B[]')
def test_any_bytes_give_a_value_or_a_frame_error(junk: bytes) -> None:
    bodies = [
        junk,
        b'"NULL"0000L0#A10B[' + junk,
        b'"*NULL"0000L0#A10B[' + junk,
        b'"*NULL"0000L0#A10B[' + junk.hex().encode(),
    ]
    for frame in [junk, *(b"\n%04X0%03X%b\r" % (dc09.crc(body), len(body), body) for body in bodies)]:
        with suppress(FrameError):
            assert isinstance(dc09.parse(frame, {"A10B": KEY_128}.get), Message)


@given(st.text(max_size=60))
def test_any_text_gives_a_value_or_a_frame_error(text: str) -> None:
    for read in (contact_id, dc09_fields.moment, dc09_fields.degrees):
        with suppress(FrameError):
            read(text)


def test_a_stamp_that_is_none_does_not_cost_the_event() -> None:
    """Advisory on plain frames (DC-09 5.5.1.9): panels send local time, 1970, and worse."""
    body = b'"ADM-CID"0001L0#A10B[#A10B|1120 02 017]_99:99:99,13-32-0000'
    message = dc09.parse(b"\n%04X0%03X%b\r" % (dc09.crc(body), len(body), body))

    assert message.data == "#A10B|1120 02 017"
    assert message.timestamp is None


def test_lines_panels_really_send() -> None:
    """A bare L (several panels), a lower-case header, and the NAK of pysiaalarm with L before R."""
    for body, expected in {
        b'"NULL"0000L#a10b[]': Message("NULL", 0, "A10B", line=""),
        b'"NULL"0000#A10B[]': Message("NULL", 0, "A10B", line=None),
        b'"NAK"0000L0R0A0[]_08:30:00,01-15-2027': Message("NAK", 0, "", "0", "0", timestamp=NOW),
    }.items():
        assert dc09.parse(b"\n%04x0%03x%b\r" % (dc09.crc(body), len(body), body)) == expected


class TestJudges:
    """Two decoders written by others read what we write, and we read what they write."""

    EVENT = Message(
        "ADM-CID", 4, "A10B", "7", "3F", "#A10B|1130 02 017",
        (
            ("H", dc09_fields.stamp(NOW)), ("I", "3号楼东门 紧急报警"), ("X", dc09_fields.longitude(121.4733)),
            ("Y", dc09_fields.latitude(-31.2317)), ("J", dc09_fields.json_object({"id": "0190-[a|b]", "test": True})),
        ),
        NOW,
    )  # fmt: skip

    @pytest.mark.peer("siadc09")
    @pytest.mark.parametrize("key", [None, KEY_128, KEY_192, KEY_256])
    def test_siadc09_reads_our_event(self, key: bytes | None) -> None:
        frame = dc09.build(replace(self.EVENT, encrypted=key is not None), key, pad)
        read = parse_frame(frame, key)

        assert (read.idtoken, read.seq, read.timestamp) == ("ADM-CID", 4, NOW)
        assert (read.account.acct, read.account.rcvr, read.account.pref) == (0xA10B, 7, 0x3F)
        assert (read.data.event.qualifier, read.data.event.code) == ("1", "130")
        assert (read.data.event.group, read.data.event.addr) == (0x02, 0x017)
        assert {field.prefix: field.value for field in read.xdata} == {
            "H": NOW,
            "I": "3号楼东门 紧急报警",
            "X": "121E28.398",
            "Y": "31S13.902",
            "J": {"id": "0190-[a|b]", "test": True},
        }

    @pytest.mark.peer("pysiaalarm")
    @pytest.mark.parametrize("key", [None, KEY_128, KEY_192, KEY_256])
    def test_pysiaalarm_reads_our_event(self, key: bytes | None) -> None:
        """It knows at most one extended field in an ADM-CID frame, and ASCII only."""
        message = replace(self.EVENT, xdata=self.EVENT.xdata[:1], encrypted=key is not None)
        account = SIAAccount("A10B", key.decode() if key else None, allowed_timeband=None)
        read = SIAEvent.from_line(dc09.build(message, key, pad).decode().strip(), {"A10B": account})

        assert read.valid_message
        assert (read.event_qualifier, read.event_type, read.partition, read.ri) == ("1", "130", "02", "017")
        assert (read.sequence, read.receiver, read.line, read.account) == ("0004", "R7", "L3F", "A10B")
        assert read.timestamp == NOW
        assert read.x_data == "H08:30:00,01-15-2027"

    @pytest.mark.peer("pysiaalarm")
    @pytest.mark.parametrize("key", [None, KEY_128])
    def test_we_read_the_answers_of_pysiaalarm(self, key: bytes | None) -> None:
        message = replace(self.EVENT, xdata=(), encrypted=key is not None)
        account = SIAAccount("A10B", key.decode() if key else None, allowed_timeband=None)
        answer = SIAEvent.from_line(dc09.build(message, key, pad).decode().strip(), {"A10B": account}).create_response()
        read = dc09.parse(answer, {"A10B": KEY_128}.get)

        assert (read.token, read.sequence, read.account) == ("ACK", 4, "A10B")
        assert (read.receiver, read.line, read.encrypted) == ("7", "3F", key is not None)

    @pytest.mark.peer("siadc09")
    def test_we_read_what_siadc09_writes(self) -> None:
        plain, sealed = Account(acct=0xA10B, pref=3, rcvr=1), Account(acct=0xA10B, key=KEY_256)
        known = {"A10B": KEY_256}.get

        assert dc09.parse(AckMessage(plain, 9).encode()) == Message("ACK", 9, "A10B", "1", "3")
        assert dc09.parse(AckMessage(sealed, 9, NOW).encode(), known) == Message(
            "ACK", 9, "A10B", timestamp=NOW, encrypted=True
        )
        assert dc09.parse(NullMessage(sealed, NOW).encode(), known).token == "NULL"
        assert dc09.parse(NakMessage(Account(), NOW).encode()).timestamp == NOW
        assert dc09.parse(DuhMessage(plain, 9).encode()) == Message("DUH", 9, "A10B", "1", "3")


class TestAnswers:
    EVENT = Message("ADM-CID", 3, "A10B", None, "0", "#A10B|1130 02 017", timestamp=NOW)

    def test_plain_ack_has_no_stamp(self) -> None:
        assert dc09.build(dc09.ack(replace(self.EVENT, sequence=1), NOW)) == b'\nB56F0012"ACK"0001L0#A10B[]\r'

    def test_ack_of_an_encrypted_message_is_encrypted_and_stamped(self) -> None:
        vector = next(vector for vector in FRAMES if vector.name == "encrypted ACK")
        assert dc09.build(dc09.ack(SEALED, NOW), KEY_128, pad) == vector.frame

    def test_nak_and_duh(self) -> None:
        assert dc09.build(dc09.nak(NOW)) == b'\n70F60025"NAK"0000R0L0A0[]_08:30:00,01-15-2027\r'
        assert dc09.build(dc09.duh(replace(SEALED, sequence=3))) == b'\n41100012"DUH"0003L0#A10B[]\r'

    def test_rsp_echoes_and_carries_fields(self) -> None:
        answer = dc09.rsp(replace(SEALED, receiver="1"), NOW, xdata=(("K", "00" * 16),))
        read = parse_frame(dc09.build(answer, KEY_128, pad), KEY_128)

        assert (read.idtoken, read.seq, read.account.rcvr, read.timestamp) == ("RSP", 5, 1, NOW)
        assert [field.value for field in read.xdata] == [bytes(16)]


class TestEncryption:
    def test_wrong_missing_or_foreign_key_is_a_frame_error(self) -> None:
        frame = dc09.build(SEALED, KEY_128, pad)

        for known in ({}, {"A10B": KEY_256}, {"A10C": KEY_128}):
            with pytest.raises(FrameError, match="account A10B"):
                dc09.parse(frame, known.get)

    @given(st.binary(min_size=32, max_size=32), st.sampled_from([KEY_128, KEY_192, KEY_256]))
    def test_any_pad_is_read_again(self, noise: bytes, key: bytes) -> None:
        frame = dc09.build(SEALED, key, lambda size: noise[:size])

        assert dc09.parse(frame, {"A10B": key}.get) == SEALED

    def test_a_message_that_must_be_encrypted_needs_key_and_pad(self) -> None:
        for key, source in ((None, pad), (KEY_128, None)):
            with pytest.raises(FrameError, match="needs a key and a pad source"):
                dc09.build(SEALED, key, source)
        with pytest.raises(FrameError, match="pad source gave 0 bytes"):
            dc09.build(SEALED, KEY_128, lambda size: b"")

    def test_a_key_says_how_it_is_written(self) -> None:
        assert dc09_fields.key_bytes("text:GATEKEY-AES128-1") == KEY_128
        assert dc09_fields.key_bytes(f"hex:{KEY_256.hex()}") == KEY_256
        assert len(dc09_fields.key_bytes("text:" + "0" * 32)) == 32
        assert len(dc09_fields.key_bytes("hex:" + "0" * 32)) == 16

    @pytest.mark.parametrize("wrong", ["GATEKEY-AES128-1", "text:secret", "hex:" + "0" * 33, "hex:secret", ""])
    def test_a_wrong_key_is_refused_without_being_shown(self, wrong: str) -> None:
        with pytest.raises(ValueError, match="AES key") as refused:
            dc09_fields.key_bytes(wrong)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "message",
    [
        Message("ADM CID", 1, "A10B"),
        Message("NULL", 10_000, "A10B"),
        Message("NULL", -1, "A10B"),
        Message("NULL", 1, "G10B"),
        Message("NULL", 1, "A1"),
        Message("NULL", 1, ""),
        Message("NULL", 1, "A10B", receiver="1234567"),
        Message("NULL", 1, "A10B", line="x"),
        Message("NULL", 1, "A10B", data="]"),
        Message("NULL", 1, "A10B", data="a\rb"),
        Message("NULL", 1, "A10B", xdata=(("I", "[x"),)),
        Message("NULL", 1, "A10B", xdata=(("I", "a|b"),)),
        Message("NULL", 1, "A10B", xdata=(("II", "a"),)),
        Message("NULL", 1, "A10B", encrypted=True),
        Message("NAK", 0, ""),
        Message("DUH", 1, "A10B", timestamp=NOW, encrypted=True),
        Message("NULL", 1, "A10B", timestamp=NOW.replace(tzinfo=None)),
    ],
    ids=repr,
)
def test_what_would_not_be_a_frame_is_not_written(message: Message) -> None:
    with pytest.raises(FrameError):
        dc09.build(message, KEY_128, pad)


class TestFields:
    def test_contact_id(self) -> None:
        event = ContactId(1, "130", "02", "017")

        assert event.data("A10B") == "#A10B|1130 02 017"
        assert contact_id("#A10B|1130 02 017") == contact_id("1130 02 017") == event

    @pytest.mark.parametrize(
        "wrong", [ContactId(2, "130"), ContactId(1, "13"), ContactId(1, "130", "2", "1000")], ids=repr
    )
    def test_contact_id_refuses_what_the_field_cannot_hold(self, wrong: ContactId) -> None:
        with pytest.raises(FrameError, match="Contact ID"):
            wrong.data("A10B")

    @pytest.mark.row("C4")
    def test_times(self) -> None:
        shanghai = timezone(timedelta(hours=8))

        assert dc09_fields.stamp(datetime(2027, 1, 15, 16, 30, tzinfo=shanghai)) == "08:30:00,01-15-2027"
        assert dc09_fields.moment("08:30:00,01-15-2027") == NOW
        assert dc09_fields.moment("23:59:60,12-31-2016") == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert dc09_fields.moment("00:00:00,02-29-2028") == datetime(2028, 2, 29, tzinfo=UTC)

    @pytest.mark.row("C4")
    @pytest.mark.parametrize(
        "wrong", ["", "8:30:00,01-15-2027", "08:30:00,02-29-2027", "08:30:00,15-01-2027", "٠٨:30:00,01-15-2027"]
    )
    def test_times_that_are_none(self, wrong: str) -> None:
        with pytest.raises(FrameError, match="time"):
            dc09_fields.moment(wrong)

    def test_positions_carry_over_at_full_minutes(self) -> None:
        assert dc09_fields.longitude(93 + 23.456 / 60) == "093E23.456"
        assert dc09_fields.longitude(-93 - 23.456 / 60) == "093W23.456"  # the example of the standard's table
        assert dc09_fields.latitude(45 + 23.456 / 60) == "45N23.456"
        assert dc09_fields.latitude(30.9999999) == "31N00.000"
        assert dc09_fields.degrees("121E28.400") == pytest.approx(121 + 28.4 / 60)
        assert dc09_fields.degrees("31S13.900") == pytest.approx(-31 - 13.9 / 60)
        for wrong in (180.1, -181.0, float("nan"), float("inf")):
            with pytest.raises(FrameError, match="position"):
                dc09_fields.longitude(wrong)

    @given(st.text())
    def test_any_text_becomes_safe(self, text: str) -> None:
        safe = dc09_fields.plain_text(text)

        assert len(safe.encode()) <= dc09_fields.TEXT_MAX
        assert not set(safe) & set("[]|\r\n\0\u202e\u2028")
        assert dc09.parse(dc09.build(Message("NULL", 1, "A10B", xdata=(("I", safe),)))).extended("I") == safe

    def test_text_keeps_its_meaning_and_is_cut_between_characters(self) -> None:
        assert dc09_fields.plain_text(" 3号楼[东门]|\r\n紧急\t报警 ") == "3号楼(东门)/ 紧急 报警"
        assert dc09_fields.plain_text("警" * 100) == "警" * 85
        assert dc09_fields.plain_text("\ud800x") == "x"

    @given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
    def test_json_survives_without_structural_characters(self, members: dict[str, str | int | bool]) -> None:
        text = dc09_fields.json_object(members)

        assert not set(text) & set("[]|\r\n")
        assert json.loads(text) == members


@given(
    st.builds(
        Message,
        token=st.sampled_from(["ADM-CID", "SIA-DCS", "NULL", "ACK", "RSP"]),
        sequence=st.integers(0, 9999),
        account=st.from_regex("[0-9A-F]{3,16}", fullmatch=True),
        receiver=st.none() | st.from_regex("[0-9A-F]{1,6}", fullmatch=True),
        line=st.from_regex("[0-9A-F]{1,6}", fullmatch=True),
        data=st.text(st.characters(blacklist_characters="[]\r\n", blacklist_categories=["Cs"]), max_size=50),
        xdata=st.lists(st.tuples(st.sampled_from("HIXYJZ"), st.text().map(dc09_fields.plain_text)), max_size=4).map(
            tuple
        ),
        timestamp=st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
        encrypted=st.booleans(),
    )
)
def test_what_is_written_is_read_again(message: Message) -> None:
    frame = dc09.build(message, KEY_128, pad)

    assert frames(frame) == [frame]
    assert dc09.parse(frame, {message.account: KEY_128}.get) == message
