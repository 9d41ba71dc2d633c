"""What a site file may say about a DC-09 receiver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gateway.codecs.dc09_fields import key_bytes
from gateway.config import Address, Section, read_secret
from gateway.errors import ConfigError, Problem

Account = Annotated[str, Field(pattern=r"^[0-9A-F]{3,16}$")]
RouteNumber = Annotated[str, Field(pattern=r"^[0-9A-F]{1,6}$")]


class Settings(Section):
    """One receiver, one path."""

    connect: Address
    """The receiver's HOST:PORT."""
    receiver: RouteNumber | None = None
    """R. Some receivers want it, the standard does not."""
    line: RouteNumber = "0"
    """L; the standard's 0 where it is unused."""
    key_file: Path | None = None
    """AES key of every account that has none of its own: one line, text:... or hex:..., mode 0600. None: plain frames."""
    account_key_files: dict[Account, Path] = Field(default_factory=dict)
    extended: Annotated[str, Field(pattern=r"^[IXYJ]*$")] = "IXYJ"
    """Which optional extended data the receiver understands; H is always sent."""
    window: Annotated[int, Field(ge=1, le=256)] = 32
    """Accounts with a frame on the way at a time, at most: fewer soon after a start. One place is kept for the life lane."""
    answer_within_s: Annotated[float, Field(ge=1, le=60)] = 5.0
    null_every_s: Annotated[float, Field(ge=1, le=86_400)] = 10.0
    """Supervision of a quiet line; with the answer deadline it bounds how long a dead line goes unnoticed."""
    retry_refused_s: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """Life and alarm events that the receiver cannot use (DUH) are offered again this often, for ever."""

    def keys(self, base: Path) -> Keys:
        """Read the key files, relative paths counted from `base`. Raises ConfigError."""
        accounts = {account: _read_key(base / path) for account, path in self.account_key_files.items()}
        return Keys(_read_key(base / self.key_file) if self.key_file else None, accounts)


class Keys:
    """The key of each account; one without a key is sent in plain, unless the receiver has a common key."""

    def __init__(self, common: bytes | None, accounts: Mapping[str, bytes]) -> None:
        self._common = common
        self._accounts = {number_of(account): key for account, key in accounts.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and (self._common, self._accounts) == (other._common, other._accounts)

    def __hash__(self) -> int:
        return hash((self._common, tuple(self._accounts.items())))

    def of(self, account: str) -> bytes | None:
        """None: plain frames."""
        return self._accounts.get(number_of(account), self._common)


def number_of(account: str) -> int | None:
    """An account as a number, because some receivers echo it without its leading zeros; None: not one of ours."""
    try:
        return int(account, 16)
    except ValueError:
        return None


def _read_key(path: Path) -> bytes:
    try:
        return key_bytes(read_secret(path).reveal())
    except ValueError as error:
        raise ConfigError([Problem(str(path), 1, "key", str(error), "text:... or hex:...")]) from None
