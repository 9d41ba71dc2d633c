"""Which readers are on the line, with which keys, and what their inputs and outputs are for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from drivers.osdp.secure import DEFAULT_KEY
from gateway.driver import Context, Kind, Secret
from gateway.driver import Settings as Base

READERS_MAX = 32
"""Unit loads of an RS-485 line. With as many, a round takes more than a second at 9600 baud."""
EVERY_S = 0.05
"""Between two polls of a reader, where the round leaves the time: what a person feels as at once."""
OPEN_S_MAX = 6553.5
"""Sixteen bits of tenths of a second: the longest time a reader counts by itself."""


class Input(Base):
    """What an input of a reader says while it is active."""

    kind: Kind
    active: Literal[0, 1] = 1
    """0 for a contact that opens its loop at rest."""


class Reader(Base):
    """One reader."""

    address: Annotated[int, Field(ge=0, le=0x7E)]
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
    key_file: str | None = None
    """The reader's own key, as `fangkong tool osdp pair` writes it."""
    secure: bool = True
    """False: it may speak in plain text, and then anybody on the line can read cards and press buttons."""
    check: Literal["crc", "checksum"] = "crc"
    inputs: Mapping[Annotated[str, Field(pattern=r"^([0-9]|[12][0-9]|3[01])$")], Input] = Field(default_factory=dict)
    """By number. An input that is not named here is not reported."""
    strike: Annotated[int, Field(ge=0, le=31)] | None = None
    """The output that opens the door; None: this reader opens nothing."""
    open_s: Annotated[float, Field(gt=0, le=OPEN_S_MAX)] = 5.0
    """How long `open` lets the door be opened; the reader itself counts."""


class Settings(Base):
    """The readers on this line."""

    readers: Annotated[tuple[Reader, ...], Field(min_length=1, max_length=READERS_MAX)]


def secret_files(settings: Settings) -> list[str]:
    """The key files."""
    return [reader.key_file for reader in settings.readers if reader.key_file is not None]


def key_of(secret: Secret) -> bytes | None:
    """The key in a key file: 32 hex digits; None when it is none."""
    text = secret.reveal().removeprefix("hex:")
    return bytes.fromhex(text) if re.fullmatch(r"[0-9A-Fa-f]{32}", text) else None


def reader_key(reader: Reader, context: Context) -> bytes | None:
    """The key to speak with this reader; None: in plain text."""
    return key_of(context.secrets[reader.key_file]) if reader.key_file is not None else None


def mistakes(context: Context) -> Sequence[tuple[str, str]]:
    """What is wrong with the readers, as found and expected."""
    settings: Settings = context.settings
    return [*_twice(settings), *(wrong for reader in settings.readers for wrong in _wrong_key(reader, context))]


def _twice(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in ("address", "device", "key_file"):
        counts = Counter(value for reader in settings.readers if (value := getattr(reader, name)) is not None)
        for value, count in counts.items():
            if count > 1:
                yield f"{name} {value} of {count} readers", f"{name} of its own for each reader"


def _wrong_key(reader: Reader, context: Context) -> Iterator[tuple[str, str]]:
    if reader.key_file is None:
        if reader.secure:
            yield f"{reader.device} without key_file", "a key file (fangkong tool osdp pair), or secure = false"
        return
    key = reader_key(reader, context)
    if key is None:
        yield f"{reader.key_file} holds no key", "one line with 32 hex digits"
    elif key == DEFAULT_KEY:
        yield f"{reader.key_file} holds the default key, which everybody knows", "a key of the reader's own"
