"""Frames and secure channel from the reader's side, written from IEC 60839-11-5 alone."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BYTES_MAX = 1440
"""The longest frame of the standard; what claims more is noise."""

SILENT_S = 0.02
"""Between two bytes of one frame (clause 5.7)."""


def crc16(message: bytes) -> int:
    """Polynomial 1021, start 1D0F, not reflected."""
    value = 0x1D0F
    for byte in message:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        value &= 0xFFFF
    return value


def finished(message: bytes, *, crc: bool) -> bytes:
    """With its check behind it."""
    return message + (crc16(message).to_bytes(2, "little") if crc else bytes([(256 - sum(message) % 256) % 256]))


def frames(buffer: bytearray) -> list[bytes]:
    """Whole frames with a right check, as a reader hears them; everything before one is dropped."""
    found = []
    at = 0
    while (at := buffer.find(b"\x53", at)) >= 0:
        if len(buffer) < at + 5:
            break
        size = int.from_bytes(buffer[at + 2 : at + 4], "little")
        if not 7 <= size <= BYTES_MAX:
            at += 1
            continue
        if len(buffer) < at + size:
            break
        frame = bytes(buffer[at : at + size])
        crc = bool(frame[4] & 4)
        if finished(frame[: -2 if crc else -1], crc=crc) == frame:
            found.append(frame)
            del buffer[: at + size]
            at = 0
        else:
            at += 1
    del buffer[:-BYTES_MAX]
    return found


class Ear:
    """What a reader makes of the bytes on the line: an unfinished frame is given up when the line falls silent."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._heard_s = 0.0

    def hear(self, data: bytes, now_s: float) -> list[bytes]:
        """The frames that are whole with these bytes."""
        if now_s - self._heard_s > SILENT_S:
            self._buffer.clear()
        self._heard_s = now_s
        self._buffer += data
        return frames(self._buffer)


def aes(key: bytes, block: bytes) -> bytes:
    """One block, ECB."""
    context = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # single blocks
    return context.update(block) + context.finalize()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def inverted(block: bytes) -> bytes:
    """Every bit."""
    return _xor(block, b"\xff" * 16)


class Session:
    """The keys of one session, and the last MAC of each direction. CBC is spelled out block by block."""

    def __init__(self, key: bytes, rnd_a: bytes, rnd_b: bytes) -> None:
        self.enc, self.mac1, self.mac2 = (
            aes(key, bytes.fromhex(prefix) + rnd_a[:6] + bytes(8)) for prefix in ("0182", "0101", "0102")
        )
        self.client_cryptogram = aes(self.enc, rnd_a + rnd_b)
        self.server_cryptogram = aes(self.enc, rnd_b + rnd_a)
        self.reply_mac = aes(self.mac2, aes(self.mac1, self.server_cryptogram))
        self.command_mac = b""
        self.is_open = False

    def mac(self, message: bytes, start: bytes) -> bytes:
        """Of `message`, continuing from the other direction's last."""
        if len(message) % 16:
            message += b"\x80"
            message += bytes(-len(message) % 16)
        blocks = [message[at : at + 16] for at in range(0, len(message), 16)]
        chain = start
        for block in blocks[:-1]:
            chain = aes(self.mac1, _xor(chain, block))
        return aes(self.mac2, _xor(chain, blocks[-1]))

    def encrypted(self, data: bytes, start: bytes) -> bytes:
        data += b"\x80"
        data += bytes(-len(data) % 16)
        out = b""
        for at in range(0, len(data), 16):
            start = aes(self.enc, _xor(start, data[at : at + 16]))
            out += start
        return out

    def decrypted(self, data: bytes, start: bytes) -> bytes:
        context = Cipher(algorithms.AES(self.enc), modes.ECB()).decryptor()  # noqa: S305  # CBC by hand
        plain = b""
        for at in range(0, len(data), 16):
            plain += _xor(context.update(data[at : at + 16]), start)
            start = data[at : at + 16]
        return plain.rstrip(b"\x00").removesuffix(b"\x80")


Random = Callable[[int], bytes]
