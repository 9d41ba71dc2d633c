"""Those who may ask: people with an account and a password of their own, programs with a token. Kept in the ledger's file,
known by heart: a look-up never waits, and what the command line changes counts a second later.

Nobody is given a password. An account begins with a one-time secret, which its owner exchanges for a password.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from tortoise.backends.base.client import BaseDBAsyncClient

from gateway import passwords
from gateway.access import GATEWAY, Actor, Role
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.errors import ConfigError, Denied, Problem
from gateway.registry import Registry
from gateway.registry.models import AccountRow, SessionRow, TokenRow

ACCOUNTS_MAX = 500
"""Staff of one box, many times over; all are held in memory."""
TOKENS_MAX = 200
SITES_MAX = 50
"""Sites one account may be limited to. Who has more has all."""
SESSIONS_MAX = 5
"""Browsers of one person at once; a sixth log-in ends the oldest."""
SESSION_S = 12 * 3600
"""A shift."""
ONE_TIME_S = 24 * 3600
TOKEN_DAYS_MAX = 366
SKEW_S = 120
"""A clock that was set back by more makes what was given out later invalid, one that is not set makes everything so."""

FIRST = "admin"
"""The account that a new box begins with."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
"""What the history of configurations can name as well."""
_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Account:
    """A person."""

    name: str
    role: Role
    sites: frozenset[str] | None
    password: str | None = field(repr=False)
    secret: str | None = field(repr=False)
    secret_until: int | None
    disabled: bool
    created: int

    @property
    def actor(self) -> Actor:
        return Actor(f"account:{self.name}", self.role, self.sites)


@dataclass(frozen=True, slots=True)
class Session:
    """A log-in that lasts."""

    account: str
    created: int
    until: int


@dataclass(frozen=True, slots=True)
class Token:
    """A program."""

    label: str
    role: Role
    sites: frozenset[str] | None
    created: int
    until: int

    @property
    def actor(self) -> Actor:
        return Actor(f"token:{self.label}", self.role, self.sites)


class Accounts:
    """Open with `Accounts.open`."""

    def __init__(self, registry: Registry, audit: Audit, clock: Clock) -> None:
        self._registry = registry
        self._audit = audit
        self._clock = clock
        self._accounts: Mapping[str, Account] = MappingProxyType({})
        self._sessions: Mapping[str, Session] = MappingProxyType({})
        self._tokens: Mapping[str, Token] = MappingProxyType({})

    @classmethod
    async def open(cls, registry: Registry, audit: Audit, clock: Clock) -> Accounts:
        """Load them, and follow the file. Raises ConfigError."""
        accounts = cls(registry, audit, clock)
        await registry.follow(accounts._load)
        return accounts

    # -- who asks --------------------------------------------------------------------------------------------------------

    def account(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def accounts(self) -> Collection[Account]:
        return self._accounts.values()

    def tokens(self) -> Collection[Token]:
        return self._tokens.values()

    def by_token(self, secret: str) -> Actor | None:
        """The program whose token this is."""
        token = self._tokens.get(passwords.digest(secret))
        return token.actor if token and self._holds(token) else None

    def by_session(self, secret: str) -> Actor | None:
        """The person whose session this is."""
        session = self._sessions.get(passwords.digest(secret))
        account = self._accounts.get(session.account) if session and self._holds(session) else None
        return account.actor if account else None

    def _holds(self, given: Session | Token) -> bool:
        return given.created - SKEW_S <= self._now() < given.until

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    def invites(self, account: Account, secret: str) -> bool:
        """Whether this is the one-time secret of the account, and still good."""
        until = account.secret_until or 0
        is_time = until - ONE_TIME_S - SKEW_S <= self._now() < until
        return passwords.is_same(secret.strip().upper(), account.secret) and is_time

    # -- what a log-in changes (see `gateway.login`, which asks who it is) -------------------------------------------------

    async def begin_session(self, account: Account) -> str:
        """Its secret. Raises Denied when the account has changed meanwhile; ConfigError."""
        secret, now = passwords.token(), self._now()
        async with self._change(account) as transaction:
            await SessionRow.filter(until__lte=now).using_db(transaction).delete()
            mine = SessionRow.filter(account_id=account.name).using_db(transaction).order_by("-created", "-until")
            for old in (await mine)[SESSIONS_MAX - 1 :]:
                await old.delete(using_db=transaction)
            await SessionRow.create(
                digest=passwords.digest(secret), account_id=account.name, created=now, until=now + SESSION_S,
                using_db=transaction,
            )  # fmt: skip
        return secret

    async def end_session(self, secret: str) -> None:
        """Raises ConfigError."""
        async with self._change() as transaction:
            await SessionRow.filter(digest=passwords.digest(secret)).using_db(transaction).delete()

    async def keep_password(self, account: Account, hashed: str) -> None:
        """Instead of what it had, which ends its sessions. Raises Denied when the account has changed meanwhile: a secret is
        exchanged once; ConfigError."""
        async with self._change(account) as transaction:
            mine = AccountRow.filter(name=account.name).using_db(transaction)
            await mine.update(password=hashed, secret=None, secret_until=None)
            await SessionRow.filter(account_id=account.name).using_db(transaction).delete()

    # -- what an administrator does --------------------------------------------------------------------------------------

    async def first(self) -> str | None:
        """On a box without accounts: the one-time secret of the first one, an administrator. Raises StoreError, ConfigError."""
        return None if self._accounts else await self.add(GATEWAY, FIRST, Role.ADMINISTRATOR, None)

    async def add(self, by: Actor, name: str, role: Role, sites: frozenset[str] | None) -> str:
        """Its one-time secret. Raises ConfigError, StoreError."""
        _raise([*_name("account", name, self._accounts, ACCOUNTS_MAX), *self._reach(role, sites)])
        secret = passwords.one_time_secret()
        await self._audit.record(by, Deed.ACCOUNT, name, {"change": "added", "role": role, "sites": _joined(sites)})
        async with self._change() as transaction:
            now = self._now()
            await AccountRow.create(
                name=name, role=role.value, sites=_joined(sites), password=None, secret=passwords.digest(secret),
                secret_until=now + ONE_TIME_S, disabled=False, created=now, using_db=transaction,
            )  # fmt: skip
        return secret

    async def disable(self, by: Actor, name: str) -> None:
        """Its sessions end at once. Raises ConfigError, StoreError."""
        await self._alter(by, name, "disabled", disabled=True, password=None, secret=None, secret_until=None)

    async def renew(self, by: Actor, name: str) -> str:
        """A one-time secret instead of its password; a disabled account may be used again. Raises ConfigError, StoreError."""
        secret = passwords.one_time_secret()
        until = self._now() + ONE_TIME_S
        await self._alter(
            by, name, "new one-time secret",
            disabled=False, password=None, secret=passwords.digest(secret), secret_until=until,
        )  # fmt: skip
        return secret

    async def _alter(self, by: Actor, name: str, change: str, **columns: str | int | bool | None) -> None:
        if name not in self._accounts:
            _raise([_mistake("account", f"{name!r} is not there", f"one of {', '.join(self._accounts) or 'none'}")])
        await self._audit.record(by, Deed.ACCOUNT, name, {"change": change})
        async with self._change() as transaction:
            await AccountRow.filter(name=name).using_db(transaction).update(**columns)
            await SessionRow.filter(account_id=name).using_db(transaction).delete()

    async def add_token(self, by: Actor, label: str, role: Role, sites: frozenset[str] | None, *, days: int) -> str:
        """The token, shown this once. Raises ConfigError, StoreError."""
        labels = [token.label for token in self.tokens()]
        problems = [*_name("token", label, labels, TOKENS_MAX), *self._reach(role, sites)]
        if not 1 <= days <= TOKEN_DAYS_MAX:
            problems.append(_mistake("days", f"found {days}", f"1 to {TOKEN_DAYS_MAX}"))
        _raise(problems)
        secret, now = passwords.token(), self._now()
        details = {"change": "added", "role": role, "sites": _joined(sites), "days": days}
        await self._audit.record(by, Deed.TOKEN, label, details)
        async with self._change() as transaction:
            await TokenRow.create(
                label=label, digest=passwords.digest(secret), role=role.value, sites=_joined(sites), created=now,
                until=now + days * 86_400, using_db=transaction,
            )  # fmt: skip
        return secret

    async def revoke(self, by: Actor, label: str) -> None:
        """It counts no more. Raises ConfigError, StoreError."""
        labels = [token.label for token in self.tokens()]
        if label not in labels:
            _raise([_mistake("token", f"{label!r} is not there", f"one of {', '.join(labels) or 'none'}")])
        await self._audit.record(by, Deed.TOKEN, label, {"change": "revoked"})
        async with self._change() as transaction:
            await TokenRow.filter(label=label).using_db(transaction).delete()

    def _reach(self, role: Role, sites: frozenset[str] | None) -> Iterator[Problem]:
        if role is Role.TEST_ENGINEER and sites is None:
            yield _mistake("site", "none named", "the sites that are there for tests: a test engineer has no others")
        if sites is not None and not 1 <= len(sites) <= SITES_MAX:
            yield _mistake("site", f"found {len(sites)}", f"1 to {SITES_MAX} sites, or all by naming none")
        for site in sorted((sites or frozenset()) - self._registry.snapshot.sites.keys())[:SITES_MAX]:
            yield _mistake("site", f"{site!r} is not in the ledger", "a site (fangkong site list)")

    # -- the file --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _change(self, account: Account | None = None) -> AsyncIterator[BaseDBAsyncClient]:
        """One change, known by heart when it is over; of an account that is still as it was."""
        async with self._registry.transaction() as transaction:
            await self._load(transaction)
            if account is not None and self._accounts.get(account.name) != account:
                raise Denied("the account was changed by somebody else just now")
            yield transaction
            await self._load(transaction)

    async def _load(self, transaction: BaseDBAsyncClient) -> None:
        columns = ("name", "role", "sites", "password", "secret", "secret_until", "disabled", "created")
        self._accounts = {
            name: Account(name, Role(role), _split(sites), *others)
            for name, role, sites, *others in await AccountRow.all().using_db(transaction).values_list(*columns)
            if role in _ROLES  # one that this version does not know grants nothing
        }
        sessions = SessionRow.all().using_db(transaction).values_list("digest", "account_id", "created", "until")
        self._sessions = {digest: Session(*others) for digest, *others in await sessions}
        tokens = TokenRow.all().using_db(transaction)
        self._tokens = {
            digest: Token(label, Role(role), _split(sites), *others)
            for digest, label, role, sites, *others in await tokens.values_list(
                "digest", "label", "role", "sites", "created", "until"
            )
            if role in _ROLES
        }


def _name(what: str, name: str, taken: Collection[str], at_most: int) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield _mistake(what, f"found {name!r}"[:120], "1 to 32 of a-z 0-9 . -, beginning with a letter or digit")
    elif name in taken:
        yield _mistake(what, f"{name!r} is there already", "a name of its own")
    if len(taken) >= at_most:
        yield _mistake(what, f"{len(taken)} are there", f"at most {at_most}")


def _mistake(key: str, found: str, expected: str) -> Problem:
    return Problem("accounts", None, key, found, expected, "取值不符")


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise ConfigError(problems)


def _joined(sites: frozenset[str] | None) -> str | None:
    return None if sites is None else " ".join(sorted(sites))


def _split(sites: str | None) -> frozenset[str] | None:
    return None if sites is None else frozenset(sites.split())
