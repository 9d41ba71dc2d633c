"""The simulated terminal's frames against those of others, and what it may be asked to be."""

from __future__ import annotations

from random import Random

import pytest

from simulators._clock import RealClock
from simulators._world import Ledger, Spec, World
from simulators.jt808 import make
from simulators.jt808.wire import Word, batch, framed, heard

LOCATION = bytes.fromhex("000000010000000200BA7F0E07E4F11C0028003C000018071510101001040000006402020037")


def test_its_frames_are_those_of_others() -> None:
    """Test data of SmallChi/JT808 (0x0002, 0x0200, 0x0102) and yezhihao/jt808-server (0x0800 of 2019)."""
    assert framed(0x0002, "12345678900", 10, b"", year=2013).hex() == "7e00020000012345678900000a817e"
    location = framed(0x0200, "112233445566", 8888, LOCATION, year=2013)
    assert location.hex() == f"7e0200002611223344556622b8{LOCATION.hex()}577e"
    assert framed(0x0102, "12345678900", 12345, b"456121111", year=2013).hex() == (
        "7e010200090123456789003039343536313231313131be7e"
    )
    event = framed(0x0800, "17299841738", 0xFFFF, bytes.fromhex("0000007b00000701"), year=2019)
    assert event.hex() == "7e080040080100000000017299841738ffff0000007b000007017d017e"


def test_its_batch_is_that_of_others_but_for_the_kind() -> None:
    """SmallChi/JT808, JT808_0x0704Test: a normal batch; the terminal only ever makes up for gaps."""
    second = bytes.fromhex("000000020000000100CB735507E6A32300290036007818071510103001040000006002020042")

    assert batch([LOCATION, second]).hex() == f"0002010026{LOCATION.hex()}0026{second.hex()}"


def test_it_reads_the_platforms_words_in_pieces_and_leaves_out_spoilt_ones() -> None:
    good = bytes.fromhex("7E80010005012345678900000A0064020000617E")  # SmallChi/JT808, JT808_0x8001Test
    spoilt = good[:-2] + b"\x62\x7e"
    buffer = bytearray()
    words = []
    for byte in good + spoilt + good:
        buffer.append(byte)
        words += heard(buffer, year=2013)

    assert words == [Word(0x8001, 10, bytes.fromhex("0064020000"))] * 2


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (Spec("a001", "tcp://127.0.0.1:1"), "digits of a phone number"),
        (Spec("1", "mqtt://127.0.0.1:1"), "expected tcp://HOST:PORT"),
        (Spec("1", "tcp://127.0.0.1"), "expected HOST:PORT"),
        (Spec("1", "tcp://127.0.0.1:1", {"year": 2011}), "expected 2013 or 2019"),
    ],
)
def test_what_it_cannot_be_is_said(spec: Spec, complaint: str) -> None:
    clock = RealClock()
    with pytest.raises(ValueError, match=complaint):
        make(spec, World(clock, Random(1), Ledger(clock)))


def test_what_it_cannot_do_is_said() -> None:
    clock = RealClock()
    terminal = make(Spec("1", "tcp://127.0.0.1:1"), World(clock, Random(1), Ledger(clock)))

    with pytest.raises(ValueError, match="cannot do 'fly'"):
        terminal.check("fly")
