"""Frames and secure channel against libosdp's bytes, and against the simulator, which was written apart."""

from __future__ import annotations

from random import Random

import pytest

from drivers.osdp.frame import FRAME_BYTES_MAX, Command, Reply, check_bytes, closed, head, parse, split
from drivers.osdp.meaning import KEYS_MAX, KEYS_WITHIN_S, Keys
from drivers.osdp.reader import Conversation, Trouble
from drivers.osdp.secure import DEFAULT_KEY, Channel, Handshake, padded, unpadded
from gateway.driver import FrameError
from simulators.osdp import frames as simulated

# libosdp 3.2.9, control panel and reader both its own; every value recomputed by separate code.
KEY = bytes(range(0x80, 0x90))
PDID = bytes.fromhex("53 81 14 00 04 45 ef cd ab 02 01 04 03 02 01 01 02 03 57 4c")
CHLNG = bytes.fromhex("53 01 13 00 0e 03 11 01 76 d7 64 c8 cc e9 32 55 c4 1f 4f")
CCRYPT = bytes.fromhex(
    "53 81 2b 00 0e 03 12 01 76 ef cd 02 00 04 03 02 01 47 8d 7a a0 5d 83 f3 ea"
    "21 b3 3a 80 20 ac 7f 53 e3 fa 33 7b a2 c6 81 6b c6 17"
)
SCRYPT = bytes.fromhex("53 01 1b 00 0f 03 13 01 77 49 58 91 fc f8 25 c9 0e a0 c6 78 b3 12 b4 6d 84 e9 41")
RMAC_I = bytes.fromhex("53 81 1b 00 0f 03 14 01 78 3f 64 6a 66 ad 5b 5e 04 65 ab 70 82 23 df 74 75 46 c0")
POLL = bytes.fromhex("53 01 0e 00 0d 02 15 60 3f f2 6d 06 03 b9")
ACK = bytes.fromhex("53 81 0e 00 0d 02 16 40 34 d8 8e d3 dc 77")
RAW = bytes.fromhex("53 81 1e 00 0f 02 18 50 8b991825 12393ab3 0ab9805a dc024c3b ee88ac0e a46b")
CAP = bytes.fromhex("0401010501010801000901010b0000")


def conversation(key: bytes | None = KEY) -> Conversation:
    return Conversation(1, key, random=lambda _: CHLNG[9:17])


def plain(code: int, data: bytes = b"", *, sequence: int, security: bytes = b"", has_crc: bool = True) -> bytes:
    """A reader's frame in plain text."""
    made = head(0x81, sequence, bytes([code]) + data, has_crc=has_crc, security=security)
    return closed(made)


def greeted(key: bytes | None = KEY) -> Conversation:
    """A conversation that knows who it speaks with."""
    talk = conversation(key)
    talk.request()
    talk.answered(parse(PDID))
    talk.request()
    talk.answered(parse(plain(Reply.PDCAP, CAP, sequence=1)))
    return talk


def test_the_handshake_is_libosdps_byte_for_byte() -> None:
    talk = greeted()

    assert talk.request() == b"\xff" + CHLNG
    talk.answered(parse(CCRYPT))
    assert talk.request() == b"\xff" + SCRYPT
    talk.answered(parse(RMAC_I))
    assert talk.is_secure


def test_what_follows_is_libosdps_byte_for_byte() -> None:
    handshake = Handshake(KEY, CHLNG[9:17])
    assert handshake.server_cryptogram(parse(CCRYPT).data) == SCRYPT[9:25]
    channel = handshake.channel(parse(RMAC_I).data)
    assert isinstance(channel, Channel)

    assert channel.sealed(1, 1, b"\x60", has_crc=True) == POLL
    assert channel.opened(parse(ACK)) == b""
    reader = simulated.Session(KEY, CHLNG[9:17], parse(CCRYPT).data[8:16])
    reader.reply_mac = reader.mac(parse(ACK).covered, reader.mac(parse(POLL).covered, reader.reply_mac))
    for sequence in (2, 3, 1, 2):  # polls with nothing to say, not recorded: the simulator answers as libosdp did
        command = parse(channel.sealed(1, sequence, b"\x60", has_crc=True))
        covered = bytes([0x53, 0x81, 0x0E, 0x00, 0x0C | sequence, 0x02, 0x16, 0x40])
        reader.reply_mac = reader.mac(covered, reader.mac(command.covered, reader.reply_mac))
        channel.opened(parse(simulated.finished(covered + reader.reply_mac[:4], crc=True)))
    channel.sealed(1, 3, b"\x60", has_crc=True)
    assert channel.opened(parse(RAW)) == bytes.fromhex("00 01 1a 00 94 d2 a7 80")


def test_an_answer_that_was_opened_once_is_not_opened_again() -> None:
    handshake = Handshake(KEY, CHLNG[9:17])
    handshake.server_cryptogram(parse(CCRYPT).data)
    channel = handshake.channel(parse(RMAC_I).data)
    assert channel is not None
    channel.sealed(1, 1, b"\x60", has_crc=True)
    channel.opened(parse(ACK))
    channel.sealed(1, 1, b"\x60", has_crc=True)

    with pytest.raises(FrameError, match="wrong MAC"):
        channel.opened(parse(ACK))


def test_no_two_sessions_share_a_challenge() -> None:
    talk = Conversation(1, KEY)
    challenges = set()
    for _ in range(50):
        talk.restart()
        talk.request()
        talk.answered(parse(PDID))
        if not talk.capabilities:
            talk.request()
            talk.answered(parse(plain(Reply.PDCAP, CAP, sequence=1)))
        challenges.add(talk.request())

    assert len(challenges) == 50


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (plain(Reply.NAK, b"\x05", sequence=2), Trouble.NO_CHANNEL),
        (plain(Reply.NAK, b"\x03", sequence=2), Trouble.NO_CHANNEL),
        (plain(Reply.ACK, sequence=2), Trouble.NO_CHANNEL),
        (plain(Reply.CCRYPT, bytes(32), sequence=2, security=b"\x12\x00"), Trouble.DEFAULT_KEY),
        (plain(Reply.CCRYPT, bytes(32), sequence=2, security=b"\x12\x01"), Trouble.WRONG_KEY),
    ],
)
def test_a_handshake_that_fails_twice_is_told_with_its_reason(answer: bytes, trouble: Trouble) -> None:
    talk = greeted()
    talk.request()
    talk.answered(parse(answer))
    assert talk.trouble is None
    talk.request()
    talk.answered(parse(PDID))
    talk.request()
    spoken = parse(answer)
    talk.answered(parse(closed(answer[:4] + bytes([answer[4] & 0xFC | 1]) + spoken.covered[5:])))

    assert talk.trouble is trouble
    assert not talk.in_service


def test_a_reader_that_asks_for_a_channel_we_have_no_key_for_is_told() -> None:
    talk = greeted(None)
    talk.request()
    talk.answered(parse(plain(Reply.NAK, b"\x06", sequence=2)))
    talk.request()
    talk.answered(parse(PDID))
    talk.request()
    talk.answered(parse(plain(Reply.NAK, b"\x06", sequence=1)))

    assert talk.trouble is Trouble.NO_KEY


def test_padding_is_taken_off_as_it_was_put_on() -> None:
    for size in range(40):
        assert unpadded(padded(bytes(size) + b"\x01")) == bytes(size) + b"\x01"
    for wrong in (b"", bytes(16), b"\x80" + bytes(16), b"\x01" * 16):
        with pytest.raises(FrameError):
            unpadded(wrong)


# -- frames --------------------------------------------------------------------------------------------------------------


def test_our_check_and_the_simulators_agree() -> None:
    dice = Random(5)
    for _ in range(200):
        message = dice.randbytes(dice.randint(1, 60))
        assert simulated.finished(message, crc=True) == message + check_bytes(message, has_crc=True)
        assert simulated.finished(message, crc=False) == message + check_bytes(message, has_crc=False)


def test_a_length_that_is_noise_hides_no_frame_behind_it() -> None:
    unfinished = b"\x53\x81" + (FRAME_BYTES_MAX - 1).to_bytes(2, "little") + b"\x04"
    buffer = bytearray(unfinished + PDID)

    assert list(split(buffer)) == [unfinished, PDID]
    assert buffer == b""


def test_a_frame_that_was_taken_is_gone_also_when_nobody_listens_further() -> None:
    frame = bytes.fromhex("5381080006406a60")
    buffer = bytearray(b"\x00" + frame + frame)
    pieces = split(buffer)
    assert [next(pieces), next(pieces)] == [b"\x00", frame]
    pieces.close()
    assert buffer == frame


def test_a_frame_that_states_more_than_any_has_is_no_frame() -> None:
    buffer = bytearray(b"\x53\x81" + (FRAME_BYTES_MAX + 1).to_bytes(2, "little") + bytes(FRAME_BYTES_MAX))

    assert b"".join(split(buffer))
    assert not buffer


def test_random_bytes_are_refused_in_order() -> None:
    dice = Random(11)
    for _ in range(3000):
        frame = bytearray(dice.choice([PDID, CCRYPT, POLL, RAW]))
        for _ in range(dice.randint(1, 4)):
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        body = bytes(frame[:-2])
        for made in (bytes(frame), body + check_bytes(body, has_crc=bool(body[4] & 4))):
            try:
                parse(made)
            except FrameError:
                continue


# -- codes -----------------------------------------------------------------------------------------------------------------


def test_a_code_is_what_was_typed_between_two_ends_within_the_time() -> None:
    keys = Keys()

    assert list(keys.press(b"12", 0.0)) == []
    assert list(keys.press(b"34#", 1.0)) == [b"1234"]
    assert list(keys.press(b"99*12\r", 2.0)) == [b"12"]
    assert list(keys.press(b"55", 3.0)) == []
    assert list(keys.press(b"6#", 3.0 + KEYS_WITHIN_S + 1)) == [b"6"]
    assert list(keys.press(b"1" * (KEYS_MAX + 1) + b"#", 20.0)) == [b"1"]
    assert list(keys.press(b"##", 21.0)) == []


def test_the_default_key_is_the_standards() -> None:
    assert DEFAULT_KEY.hex() == "303132333435363738393a3b3c3d3e3f"
    assert Command.KEYSET == 0x75
