"""What a site file may say about panels: who may dial in, with which key, and how exactly they must speak."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from gateway.codecs.dc09_fields import key_bytes
from gateway.codecs.dc09_panels import Deviation as FrameDeviation
from gateway.driver import Context, Kind
from gateway.driver import Settings as Base

ContentDeviation = Literal[
    "account_missing_in_data",
    "account_differs_in_data",
    "null_with_data",
    "sia_without_slash",
    "sia_extra_block",
    "osborne_hoffman",
]
ClockDeviation = Literal["no_timestamp", "timestamp_local", "timestamp_not_set", "timestamp_off", "outside_window"]
"""The standard lets a plain frame go without a time, or with a wrong one: counted, and accepted by every profile. A frame
outside the window is the one that is answered NAK."""
Deviation = FrameDeviation | ContentDeviation

HEARD_WITHIN_S = 25 * 3600.0
"""Panels report a test once a day at least; an hour for clocks and summer time. Supervision that is worth the name has its
interval in the settings."""
MARGIN_MIN_S = 30.0
"""A repeat or two after a lost NULL."""


class Account(Base):
    """One panel."""

    key_file: str | None = None
    """A file with its AES key: one line, text:... or hex:..., mode 0600."""
    plain: bool = False
    """Accept frames in the clear although there is a key."""
    every_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """The panel's interval of NULL or RP."""


class Settings(Base):
    """One listening port."""

    profile: str = "dc09_tolerant"
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,30})?$")] = "dc09-"
    """Before the account it makes the device's id; another one keeps two installers' equal accounts apart."""
    accounts: dict[Annotated[str, Field(pattern=r"^[0-9A-Z]{1,16}$")], Account] = Field(default_factory=dict)
    key_file: str | None = None
    """The key of every account that has none of its own."""
    plain: bool = False
    every_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    strangers: Literal["keep", "refuse"] = "keep"
    """What becomes of an account that is not listed: kept and shown as unclaimed, or answered DUH."""

    def key_file_of(self, account: str) -> str | None:
        """The account's own word, else the common one."""
        own = self.accounts.get(account)
        return (own and own.key_file) or self.key_file

    def may_be_plain(self, account: str) -> bool:
        """Whether frames in the clear are accepted."""
        own = self.accounts.get(account)
        return self.plain or (own is not None and own.plain) or self.key_file_of(account) is None

    def every_s_of(self, account: str) -> float | None:
        """The panel's interval of supervision."""
        own = self.accounts.get(account)
        return (own and own.every_s) or self.every_s


DEFAULT = Settings()


class Profile(Base):
    """Which departures are accepted, and what codes mean at this site beside the tables."""

    accepts: tuple[str, ...] = ()
    contact_id: dict[Annotated[str, Field(pattern=r"^[1-9B-F][0-9B-F]{2}$")], Kind] = Field(default_factory=dict)
    sia: dict[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], Kind] = Field(default_factory=dict)


DEVIATIONS: frozenset[str] = frozenset((*get_args(FrameDeviation), *get_args(ContentDeviation)))
NOTHING_ACCEPTED = Profile()


def settings_of(context: Context) -> Settings:
    settings: Settings | None = context.settings
    return DEFAULT if settings is None else settings


def profile_of(context: Context) -> Profile:
    """The profile of the settings; one that accepts nothing where there are no profiles."""
    profile: Profile | None = context.profiles.get(settings_of(context).profile)
    return NOTHING_ACCEPTED if profile is None else profile


def device_of(account: str, context: Context) -> str:
    return f"{settings_of(context).prefix}{account}"


def key_of(account: str, context: Context) -> bytes | None:
    """The AES key of an account; None where it has none. Those that are none were found by `mistakes`."""
    file = settings_of(context).key_file_of(account)
    if file is None or file not in context.secrets:
        return None
    return key_bytes(context.secrets[file].reveal())


def secret_files(settings: Settings) -> Sequence[str]:
    """The key files, each once."""
    named = [settings.key_file, *(account.key_file for account in settings.accounts.values())]
    return sorted({file for file in named if file is not None})


def heard_within_s(device: str, context: Context) -> float | None:
    """The panel's interval with a margin of half of it."""
    settings = settings_of(context)
    every_s = settings.every_s_of(device.removeprefix(settings.prefix))
    return HEARD_WITHIN_S if every_s is None else every_s + max(MARGIN_MIN_S, every_s / 2)


def mistakes(context: Context) -> Sequence[tuple[str, str]]:
    """What only settings, profiles and keys together can show."""
    return [*_profile_mistakes(context), *_key_mistakes(context)]


def _profile_mistakes(context: Context) -> Sequence[tuple[str, str]]:
    name, profiles = settings_of(context).profile, context.profiles
    if name not in profiles:
        near = difflib.get_close_matches(name, profiles, n=1, cutoff=0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return [(f'profile "{name}" is not known', f"one of {', '.join(sorted(profiles))}{hint}")]
    profile = profile_of(context)
    found = []
    if strange := sorted(set(profile.accepts) - DEVIATIONS):
        found.append((f'profile "{name}" accepts {", ".join(strange)}', f"accepts of {', '.join(sorted(DEVIATIONS))}"))
    if own := [code for code, kind in {**profile.contact_id, **profile.sia}.items() if kind is Kind.SECURITY]:
        expected = "another kind: security is the receiver's own word about the line, and ends with a good frame"
        found.append((f'profile "{name}" names {", ".join(own)} security', expected))
    return found


def _key_mistakes(context: Context) -> Sequence[tuple[str, str]]:
    found = []
    secrets: Mapping[str, object] = context.secrets
    for file in secrets:
        try:
            key_bytes(context.secrets[file].reveal())
        except ValueError as error:
            found.append((f"key file {file}", str(error)))
    return found
