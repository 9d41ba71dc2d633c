"""MQTT packets as values (MQTT 3.1.1 and 5, chapters 2 and 3): the few of which there are thousands a second.

The rare ones are paho's. Pure.
"""

from __future__ import annotations

PUBLISH = 0x30
PUBACK_HEAD = b"\x40\x02"
LENGTH_BYTES_MAX = 4


class Malformed(Exception):
    """Bytes that are no MQTT: the connection cannot be followed any further."""


def extent(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet that begins `at` starts and ends, perhaps beyond the buffer; None: not yet known.

    Raises Malformed.
    """
    length = 0
    for shift in range(LENGTH_BYTES_MAX):
        at += 1
        if at >= len(buffer):
            return None
        byte = buffer[at]
        length |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return at + 1, at + 1 + length
    raise Malformed("the broker sent a packet with a length of more than 4 bytes (MQTT, 2.2.3)")


def publish_parts(first: int, body: bytes, *, is_5: bool) -> tuple[bytes, int, bytes]:
    """Topic, packet identifier (0: none, QoS 0) and payload of a PUBLISH. Raises Malformed."""
    qos = first >> 1 & 3
    if qos > 1:
        raise Malformed(f"the broker sent a message at QoS {qos}; we subscribe at QoS 1 (MQTT, 3.3.1.2)")
    topic_end = 2 + int.from_bytes(body[:2])
    at = topic_end + 2 * qos
    if is_5 and at < len(body):
        # Properties: none of those that may come without our asking changes what the message says.
        properties = extent(body, at - 1)
        at = properties[1] if properties else len(body) + 1
    elif is_5:
        at = len(body) + 1
    if at > len(body):
        raise Malformed("the broker sent a PUBLISH that ends in the middle (MQTT, 3.3)")
    return body[2:topic_end], int.from_bytes(body[topic_end : topic_end + 2]) if qos else 0, body[at:]


def publish(topic: str, payload: bytes, *, is_5: bool) -> bytes:
    """PUBLISH at QoS 0."""
    name = topic.encode()
    body = b"%b%b%b%b" % (len(name).to_bytes(2), name, b"\0" if is_5 else b"", payload)
    return b"%c%b%b" % (PUBLISH, _length(len(body)), body)


MESSAGE_EXPIRY = 0x02


def publish_once(topic: str, payload: bytes, *, packet_id: int, expiry_s: int, is_5: bool) -> bytes:
    """PUBLISH at QoS 1. A broker of MQTT 5 drops it after `expiry_s` (3.3.2.3.3); before that there was no such property."""
    name = topic.encode()
    properties = b"%c%c%b" % (5, MESSAGE_EXPIRY, expiry_s.to_bytes(4)) if is_5 else b""
    body = b"%b%b%b%b%b" % (len(name).to_bytes(2), name, packet_id.to_bytes(2), properties, payload)
    return b"%c%b%b" % (PUBLISH | 1 << 1, _length(len(body)), body)


def puback(packet_id: int) -> bytes:
    """PUBACK: the message is ours now."""
    return PUBACK_HEAD + packet_id.to_bytes(2)


def _length(size: int) -> bytes:
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)
