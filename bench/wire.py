"""The bytes that bench's own programs speak: MQTT packets, SIA DC-09 frames. Shared with nothing that is measured."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from struct import unpack_from
from typing import Any

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 14
"""MQTT control packet types, upper half of the first byte (MQTT 3.1.1, 2.2.1)."""


def varint(buffer: bytes, at: int) -> tuple[int, int]:
    """A length as MQTT writes it, and where the next byte stands. Raises IndexError when it is not whole yet."""
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def packet(first: int, body: bytes) -> bytes:
    """One MQTT packet."""
    length, size = bytearray(), len(body)
    while True:
        size, byte = size >> 7, size & 0x7F
        length.append(byte | 0x80 if size else byte)
        if not size:
            return bytes((first,)) + bytes(length) + body


def publish(topic: bytes, payload: bytes, packet_id: int, *, is_5: bool) -> bytes:
    """PUBLISH at QoS 1; in MQTT 5 without properties."""
    properties = b"\0" if is_5 else b""
    return packet(
        PUBLISH << 4 | 0x02,
        len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + properties + payload,
    )


def pubacks(packet_ids: list[int]) -> bytes:
    """PUBACK for each (a success without more words has this form in both versions)."""
    return b"".join([b"\x40\x02" + each.to_bytes(2, "big") for each in packet_ids])


def subscribe(topic: bytes) -> bytes:
    """SUBSCRIBE to one filter at QoS 1 (3.1.1)."""
    return packet(SUBSCRIBE << 4 | 0x02, b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\x01")


def connect(client_id: bytes) -> bytes:
    """CONNECT of a 3.1.1 client that keeps its session."""
    return packet(CONNECT << 4, b"\x00\x04MQTT\x04\x00\x00\x00" + len(client_id).to_bytes(2, "big") + client_id)


def _crc_of_two(value: int) -> int:
    for _ in range(16):
        value = (value >> 1) ^ (0xA001 if value & 1 else 0)
    return value


_TWO_BYTES = tuple(map(_crc_of_two, range(65536)))


def crc16(body: bytes) -> int:
    """CRC-16/ARC, two bytes a step: as fast as plain Python gets."""
    value, table, words = 0, _TWO_BYTES, len(body) // 2
    for word in unpack_from(f"<{words}H", body):
        value = table[value ^ word]
    if len(body) & 1:
        value ^= body[-1]
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)
    return value


def frame(body: bytes) -> bytes:
    """A DC-09 body with LF, CRC and length before it and CR behind."""
    return b"\n%04X0%03X%b\r" % (crc16(body), len(body), body)


def give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A loop's exception handler: a program that is half dead must not be measured."""
    if isinstance(error := context.get("exception"), BaseException):
        traceback.print_exception(error)
    print(context["message"], file=sys.stderr, flush=True)
    os._exit(1)
