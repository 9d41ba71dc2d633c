"""Passwords and secrets: made, hashed off the loop, compared without telling anything by the time it takes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import Busy

T = TypeVar("T")

HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
"""Argon2id as in RFC 9106, section 4, for machines with little memory: 64 MiB, about 0.2 s. One lane instead of four: the other
cores are for alarms."""
HASHES_AT_ONCE = 1
"""64 MiB each, on a box that has other work to do."""
HASHES_MAX = 8
"""Under way and waiting: two seconds. More people do not log in at one moment."""

PASSWORD_MIN, PASSWORD_MAX = 10, 128
"""Characters. NIST SP 800-63B asks for 8 at least, and for no rules about what they are."""

NOBODY = "$argon2id$v=19$m=65536,t=3,p=1$fUlcqbP4oi4RebdI4xMaIw$hXr8zEmlKAwO9fHXAD78SljofJW9ZpczyCW75hFX99o"
"""A hash of a thrown-away secret: an account that is not there takes as long to refuse as one that is."""

_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 of them, without those that are mistaken for each other on paper."""


def token() -> str:
    """256 bits, for machines."""
    return secrets.token_urlsafe(32)


def one_time_secret() -> str:
    """100 bits that a person can read to another, in five groups."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(5))


def digest(secret: str) -> str:
    """What is kept of a random secret. It needs no slow hash: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_same(secret: str, kept: str | None) -> bool:
    """Whether `kept` is the digest of `secret`."""
    return hmac.compare_digest(digest(secret), kept or "")


def weakness(password: str, account: str) -> str:
    """What is wrong with a new password; "" when nothing is."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        return f"{len(password)} characters"
    if account.lower() in password.lower():
        return "it contains the account's name"
    if len(set(password)) < PASSWORD_MIN // 2:
        return "it repeats a few characters"
    return ""


class Hashing:
    """Argon2 in threads of its own, few at once. Raises Busy when `HASHES_MAX` wait already."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(HASHES_AT_ONCE, "password")
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """What is kept of a password."""
        return await self._run(lambda: HASHER.hash(password))

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether a password is the kept one; None: nobody's, which takes as long."""
        return await self._run(lambda: _fits(kept or NOBODY, password)) and kept is not None

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= HASHES_MAX:
            raise Busy(f"{HASHES_MAX} passwords are being checked already")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, _: object) -> None:
        self._waiting -= 1


def _fits(kept: str, password: str) -> bool:
    try:
        return HASHER.verify(kept, password)
    except (VerificationError, InvalidHashError):  # the latter: changed by hand, and nobody's password any more
        return False
