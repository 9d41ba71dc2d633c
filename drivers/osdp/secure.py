"""The secure channel (IEC 60839-11-5, annex D): session keys, cryptograms, MAC chain, encryption. AES-128 throughout."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drivers.osdp.frame import MAC_BYTES, Frame, closed, head
from gateway.driver import FrameError

DEFAULT_KEY = bytes(range(0x30, 0x40))
"""SCBK-D: everybody knows it. Good for handing over a key of the reader's own, and for nothing else."""
BLOCK = 16

CHALLENGE, CLIENT, SERVER, INITIAL = 0x11, 0x12, 0x13, 0x14
COMMAND_MAC, REPLY_MAC, COMMAND_SEALED, REPLY_SEALED = 0x15, 0x16, 0x17, 0x18
"""Types of security blocks (SCS)."""


def encrypt_block(key: bytes, block: bytes) -> bytes:
    """One block of AES-ECB, from which session keys and cryptograms are made."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # single blocks: the standard's own use
    return encryptor.update(block) + encryptor.finalize()


def _cbc(key: bytes, start: bytes, message: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(start)).encryptor()
    return encryptor.update(message) + encryptor.finalize()


def padded(message: bytes) -> bytes:
    """80 and zeros up to a whole block, always at least the 80."""
    return message + b"\x80" + bytes(-(len(message) + 1) % BLOCK)


def unpadded(message: bytes) -> bytes:
    """Raises FrameError when what was decrypted does not end as it must."""
    content = message.rstrip(b"\x00")
    if not content.endswith(b"\x80") or len(message) - len(content) >= BLOCK:
        raise FrameError("encrypted data without its padding", "spoofed")
    return content[:-1]


@dataclass(slots=True)
class Handshake:
    """From our challenge to the reader's first MAC."""

    key: bytes = field(repr=False)
    challenge: bytes
    """Eight random bytes, new for every attempt: what was recorded of an earlier session opens no later one."""
    _enc: bytes = field(init=False, repr=False)
    _mac1: bytes = field(init=False, repr=False)
    _mac2: bytes = field(init=False, repr=False)
    _server: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        self._enc, self._mac1, self._mac2 = (
            encrypt_block(self.key, prefix + self.challenge[:6] + bytes(8))
            for prefix in (b"\x01\x82", b"\x01\x01", b"\x01\x02")
        )

    def server_cryptogram(self, answer: bytes) -> bytes | None:
        """Ours, for the reader's CCRYPT data (id 8, random 8, cryptogram 16); None: the reader does not know the key."""
        theirs, cryptogram = answer[8:16], answer[16:32]
        if not hmac.compare_digest(encrypt_block(self._enc, self.challenge + theirs), cryptogram):
            return None
        self._server = encrypt_block(self._enc, theirs + self.challenge)
        return self._server

    def channel(self, initial_mac: bytes) -> Channel | None:
        """The channel, for the reader's RMAC_I; None: it is not the one our cryptogram leads to."""
        expected = encrypt_block(self._mac2, encrypt_block(self._mac1, self._server))
        if not hmac.compare_digest(expected, initial_mac):
            return None
        return Channel(self._enc, self._mac1, self._mac2, expected)


@dataclass(slots=True)
class Channel:
    """An established session. Each MAC starts from the last one of the other direction: nothing can be left out,
    repeated or put in."""

    _enc: bytes = field(repr=False)
    _mac1: bytes = field(repr=False)
    _mac2: bytes = field(repr=False)
    _reply_mac: bytes = field(repr=False)
    _command_mac: bytes = field(default=b"", repr=False)

    def _mac(self, start: bytes, message: bytes) -> bytes:
        blocks = message if len(message) % BLOCK == 0 else padded(message)
        if len(blocks) > BLOCK:
            start = _cbc(self._mac1, start, blocks[:-BLOCK])[-BLOCK:]
        return _cbc(self._mac2, start, blocks[-BLOCK:])

    def sealed(self, address: int, sequence: int, content: bytes, *, has_crc: bool) -> bytes:
        """A whole command. To be repeated as it is: sealing it twice would put the two sides apart."""
        code, data = content[:1], content[1:]
        if data:
            start = bytes(byte ^ 0xFF for byte in self._reply_mac)
            content = code + _cbc(self._enc, start, padded(data))
        block = bytes([COMMAND_SEALED if data else COMMAND_MAC])
        covered = head(address, sequence, content, has_crc=has_crc, security=block, mac=True)
        self._command_mac = self._mac(self._reply_mac, covered)
        return closed(covered, self._command_mac[:MAC_BYTES])

    def opened(self, reply: Frame) -> bytes:
        """The data of the answer to the last command. Raises FrameError, and then the session is as before."""
        if not reply.security or reply.security[0] not in {REPLY_MAC, REPLY_SEALED}:
            raise FrameError("an answer outside the secure channel", "spoofed")
        mac = self._mac(self._command_mac, reply.covered)
        if not hmac.compare_digest(mac[:MAC_BYTES], reply.mac):
            raise FrameError("wrong MAC: not the answer to our last command", "spoofed")
        data = reply.data
        if reply.security[0] == REPLY_SEALED and data:
            if len(data) % BLOCK:
                raise FrameError(f"{len(data)} encrypted bytes, expected whole blocks of {BLOCK}")
            start = bytes(byte ^ 0xFF for byte in self._command_mac)
            decryptor = Cipher(algorithms.AES(self._enc), modes.CBC(start)).decryptor()
            data = unpadded(decryptor.update(data) + decryptor.finalize())
        self._reply_mac = mac
        return data
