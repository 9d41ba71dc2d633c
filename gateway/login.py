"""Logging in: who it is, how often somebody may try, and that nothing is told by what goes wrong or how long it takes."""

from __future__ import annotations

from gateway import passwords
from gateway.access import GATEWAY
from gateway.accounts import Account, Accounts
from gateway.attempts import Attempts
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.errors import Denied, TooOften, WeakPassword

ACCOUNT_BURST, ACCOUNT_EVERY_S = 10, 10.0
"""Tries as one person: ten, then one every ten seconds. Nobody is locked out for good, and 8 640 guesses a day find no password of
ten characters."""
PEER_BURST, PEER_EVERY_S = 20, 5.0
"""From one address; several people may sit behind it."""
HOMES_MAX = 1000
"""Addresses that people have logged in from since the start; the one longest unused goes first."""


class LogIn:
    """Of one daemon. Every try, good or not, is in the audit record before it is answered."""

    def __init__(self, accounts: Accounts, audit: Audit, clock: Clock) -> None:
        self._accounts = accounts
        self._audit = audit
        self._clock = clock
        self._hashing = passwords.Hashing()
        self._tries_as = Attempts(burst=ACCOUNT_BURST, every_s=ACCOUNT_EVERY_S)
        self._tries_from = Attempts(burst=PEER_BURST, every_s=PEER_EVERY_S)
        self._homes: dict[tuple[str, str], None] = {}
        """Where a person was let in before they have tries of their own: a guesser elsewhere cannot keep them out."""

    def close(self) -> None:
        """Let go of the threads."""
        self._hashing.close()

    async def begin(self, name: str, password: str, peer: str) -> str:
        """The secret of a new session. Raises Denied, TooOften, Busy, StoreError, ConfigError."""
        account = await self._known(name, peer, password, or_secret=False)
        await self._audit.record(account.actor, Deed.LOG_IN, name, {"peer": peer})
        return await self._accounts.begin_session(account)

    async def end(self, secret: str) -> None:
        """End a session. Raises StoreError, ConfigError."""
        actor = self._accounts.by_session(secret)
        if actor is not None:
            await self._audit.record(actor, Deed.LOG_OUT, actor.name)
            await self._accounts.end_session(secret)

    async def choose(self, name: str, secret: str, new: str, peer: str) -> None:
        """Exchange the one-time secret, or the password so far, for a new password. Raises WeakPassword; Denied, TooOften, Busy,
        StoreError, ConfigError."""
        account = await self._known(name, peer, secret, or_secret=True)
        if weakness := "it is the old one" if new == secret else passwords.weakness(new, name):
            expected = f"{passwords.PASSWORD_MIN} to {passwords.PASSWORD_MAX} characters that nobody guesses"
            raise WeakPassword(f"new: {weakness}; expected {expected}")
        hashed = await self._hashing.hashed(new)
        await self._audit.record(account.actor, Deed.PASSWORD, name, {"peer": peer})
        await self._accounts.keep_password(account, hashed)

    async def _known(self, name: str, peer: str, given: str, *, or_secret: bool) -> Account:
        """The account, when what was given is its password (or one-time secret). Takes as long when there is none."""
        now_s = self._clock.monotonic()
        home = (name, peer)
        tries = home if home in self._homes else name
        if wait_s := self._tries_from.take(peer, now_s) or self._tries_as.take(tries, now_s):
            raise TooOften(wait_s)
        account = self._accounts.account(name)
        is_known = await self._hashing.fits(given, account.password if account else None)
        if account and or_secret and self._accounts.invites(account, given):
            is_known = True
        if account is None or account.disabled or not is_known:
            # A password typed where the name belongs must not be written down.
            subject = account.name if account else "no account of this box"
            await self._audit.record(GATEWAY, Deed.LOG_IN_REFUSED, subject, {"peer": peer})
            raise Denied("the account, or the password or one-time secret, is not right")
        self._tries_from.give_back(peer)
        self._tries_as.give_back(tries)
        self._homes.pop(home, None)
        self._homes[home] = None
        if len(self._homes) > HOMES_MAX:
            del self._homes[next(iter(self._homes))]
        return account
