"""A credential (card number, PIN) as it may be kept: a keyed hash that says "the same again" inside one box, and no more.

The key is drawn on the box and never leaves it, so hashes of two boxes, or from before and after a rotation, cannot be
linked, and a card number cannot be found by trying them all.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import ConfigError, Problem

FILE_NAME = "credential.key"
KEY_BYTES = 32
HASH_BYTES = 8
"""64 bits: two of a million cards share a hash with a chance of three in a hundred million."""

Credential = Callable[[bytes], str]
"""Gives the 16 hex digits that stand for a credential."""


def hashed(key: bytes, credential: bytes) -> str:
    """The credential's hash under a key: HMAC-SHA-256, the first 16 hex digits."""
    return hmac.digest(key, credential, "sha256")[:HASH_BYTES].hex()


def throw_away() -> Credential:
    """A key that lives as long as what is returned: for looking at frames outside a gateway."""
    key = secrets.token_bytes(KEY_BYTES)
    return lambda credential: hashed(key, credential)


@dataclass(slots=True)
class KeyFile:
    """The box's key, made when the gateway first starts. A rotated one counts from the next credential on."""

    path: Path
    _stamp: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)
    _key: bytes = field(default=b"", repr=False, compare=False)

    def __call__(self, credential: bytes) -> str:
        try:
            self.read()
        except (OSError, ConfigError):
            if not self._key:
                raise
            # The disk does not answer, or the file was spoilt while we run: the door's events must go on.
        return hashed(self._key, credential)

    def make(self) -> None:
        """Draw a key unless there is one, and read it. Raises ConfigError when it cannot be used."""
        try:
            if not self.path.exists():
                _write(self.path, secrets.token_hex(KEY_BYTES))
            self.read()
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error), "a file we can read and write") from error

    def rotate(self) -> None:
        """Draw another key in place of the present one, which is gone for good. Raises OSError."""
        _write(self.path, secrets.token_hex(KEY_BYTES))

    def read(self) -> None:
        """Take the key as it stands now. Raises OSError when there is none to be had, ConfigError when it is none."""
        stat = self.path.stat()
        stamp = stat.st_mtime_ns, stat.st_ino
        if stamp == self._stamp:
            return
        if stat.st_mode & 0o077:
            raise _unusable(self.path, f"mode {stat.st_mode & 0o777:04o}", "mode 0600")
        try:
            key = bytes.fromhex(self.path.read_text(encoding="ascii").strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:  # what is wrong with it is not said: it may be most of a key
            raise _unusable(self.path, "no key", f"{2 * KEY_BYTES} hex digits; fangkong credential rotate makes it new")
        self._key, self._stamp = key, stamp


def _unusable(path: Path, found: str, expected: str) -> ConfigError:
    return ConfigError([Problem(str(path), None, "credential key", found, expected, "凭证密钥不可用")])


def _write(path: Path, text: str) -> None:
    """Put it there whole or not at all, for the owner of the folder only."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        folder = path.parent.stat()
        if os.geteuid() == 0:  # root rotates for the service, which must be able to read it
            os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
