"""MQTT packets: the examples of the standard, and whatever else bytes can be."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.mqtt_packets import Malformed, extent, puback, publish, publish_parts


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ("00", 0), ("7F", 127), ("80 01", 128), ("FF 7F", 16_383), ("80 80 01", 16_384), ("FF FF 7F", 2_097_151),
        ("80 80 80 01", 2_097_152), ("FF FF FF 7F", 268_435_455),
    ],
)  # fmt: skip
def test_lengths_are_those_of_the_standards_table(written: str, length: int) -> None:
    """MQTT 3.1.1, table 2.4."""
    head = b"\x30" + bytes.fromhex(written)

    assert extent(head, 0) == (len(head), len(head) + length)
    assert extent(b"other" + head, 5) == (len(head) + 5, len(head) + 5 + length)
    assert [extent(head[:size], 0) for size in range(1, len(head))] == [None] * (len(head) - 1)


def test_a_length_of_five_bytes_is_no_mqtt() -> None:
    with pytest.raises(Malformed):
        extent(bytes.fromhex("30 80 80 80 80 01"), 0)


@pytest.mark.parametrize(
    ("first", "body", "is_5", "parts"),
    [
        # MQTT 3.1.1, 3.3.2.3: topic a/b, packet identifier 10
        (0x32, "0003 612F62 000A", False, (b"a/b", 10, b"")),
        (0x30, "0003 612F62 6869", False, (b"a/b", 0, b"hi")),
        (0x3B, "0003 612F62 000A 6869", False, (b"a/b", 10, b"hi")),
        # MQTT 5, 3.3.2.3: properties between them; here payload format (3.3.2.3.2) and a user property (3.3.2.3.7)
        (0x32, "0003 612F62 000A 00", True, (b"a/b", 10, b"")),
        (0x32, "0003 612F62 000A 00 6869", True, (b"a/b", 10, b"hi")),
        (0x30, "0003 612F62 09 0101 26 0001 6B 0001 76 6869", True, (b"a/b", 0, b"hi")),
    ],
)
def test_a_publish_is_taken_apart(first: int, body: str, is_5: bool, parts: tuple[bytes, int, bytes]) -> None:
    assert publish_parts(first, bytes.fromhex(body), is_5=is_5) == parts


@pytest.mark.parametrize(
    ("first", "body", "is_5"),
    [
        (0x32, "", False),
        (0x32, "00", False),
        (0x32, "0004 612F62", False),
        (0x32, "0003 612F62 00", False),
        (0x32, "0003 612F62 000A", True),
        (0x32, "0003 612F62 000A 01", True),
        (0x32, "0003 612F62 000A 80", True),
        (0x34, "0003 612F62 000A", False),
        (0x36, "0003 612F62 000A", False),
    ],
)
def test_a_publish_that_ends_in_the_middle_or_was_not_asked_for_is_refused(first: int, body: str, is_5: bool) -> None:
    with pytest.raises(Malformed):
        publish_parts(first, bytes.fromhex(body), is_5=is_5)


@given(st.binary(max_size=40), st.integers(0, 255), st.booleans())
def test_only_malformed_leaves_on_bytes(body: bytes, first: int, is_5: bool) -> None:
    with suppress(Malformed):
        topic, packet_id, payload = publish_parts(first, body, is_5=is_5)

        assert len(topic) + len(payload) <= len(body) - 2
        assert 0 <= packet_id <= 0xFFFF
    with suppress(Malformed):
        extent(bytes([first]) + body, 0)


def test_what_we_send_is_the_standards() -> None:
    assert puback(10) == bytes.fromhex("40 02 000A")  # 3.4
    assert publish("a/b", b"hi", is_5=False) == bytes.fromhex("30 07 0003 612F62 6869")
    assert publish("a/b", b"hi", is_5=True) == bytes.fromhex("30 08 0003 612F62 00 6869")
    assert publish("a/b", bytes(200), is_5=False)[:3] == bytes.fromhex("30 CD 01")
