"""The data field of a message, read: Contact ID (SIA DC-05) and SIA blocks (DC-03). Pure; the unreadable is a FrameError."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.driver import FrameError, Qualifier

CODES_MAX = 64
"""In one frame. Panels send a handful; two letters a code would make 2000 events of one frame from a stranger."""


class Said(NamedTuple):
    """One code of a message, as it stands there."""

    code: str
    number: str
    """Digits behind the code, possibly none."""
    qualifier: Qualifier | None = None
    """None: the code itself says whether it begins or ends."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Payload:
    """Everything in one data field."""

    account: str | None
    """As the data has it; None where it is absent."""
    said: list[Said]
    modifiers: dict[str, str] = field(default_factory=dict)
    """Shared by all codes: `ri` area, `id` user, `ti` time ..."""
    slash_missing: bool = False
    extra_block: bool = False
    """A block that is none of N, O, A was left out."""


# -- Contact ID --------------------------------------------------------------------------------------------------------

_CID = re.compile(
    r"(?:#?([0-9A-Za-z]{0,16})\|)?([136])([0-9B-F]{3}) ([0-9A-F]{2}) ([0-9A-F]{3})", re.ASCII | re.IGNORECASE
)
_QUALIFIERS = {"1": Qualifier.NEW, "3": Qualifier.RESTORE, "6": Qualifier.UPDATE}


def contact_id(data: str) -> Payload:
    """`#acct|QXYZ GG CCC`. The partition is the modifier `ri`, as in SIA. Raises FrameError."""
    found = _CID.fullmatch(data)
    if found is None:
        raise FrameError(f"Contact ID: expected #account|QXYZ GG CCC with Q 1, 3 or 6, found {data[:60]!r}")
    account, qualifier, code, group, number = found.groups()
    said = [Said(code.upper(), number.upper(), _QUALIFIERS[qualifier])]
    return Payload((account or "").upper() or None, said, {"ri": group} if group != "00" else {})


# -- SIA ---------------------------------------------------------------------------------------------------------------

_ACCOUNT = re.compile(r"#?([0-9A-Za-z]{1,16})\|", re.ASCII)
_MODIFIER = re.compile(
    r"([a-z]{2})(?:([0-9:.,+-]+)(?=[A-Z]{2}[0-9]*(?:[/^*|]|$)|[a-z]{2}[0-9])|([0-9A-Za-z:.,+-]*)(/))", re.ASCII
)
"""Without its slash only a value of digits can be told from the code behind it: `idAB/` is a user, and no abort."""
_CODE = re.compile(r'([A-Z]{2})([0-9]{0,6})(?:\^([^^]*)\^?)?(?:\*"([^"]*)"?[A-Z]{0,2})?', re.ASCII)
_MODIFIERS = frozenset({"ti", "da", "id", "ri", "pi", "ai", "ph", "lv", "va", "pt", "rg", "ss"})


def sia(data: str) -> Payload:
    """`#acct|` and blocks joined by `|`: `N` or `O` with modifiers and codes, `A` with text. Raises FrameError."""
    account = None
    if found := _ACCOUNT.match(data):
        account = found[1].upper()
        data = data[found.end() :]
    blocks = data.removeprefix("|").split("|")
    said: list[Said] = []
    modifiers: dict[str, str] = {}
    slash_missing = extra_block = False
    texts = []
    for block in blocks:
        if block[:1] == "A" and said:
            texts.append(block[1:])
        elif block[:1] in ("N", "O"):
            slash_missing |= _event_block(block, said, modifiers)
        else:
            extra_block |= bool(block)
    if not 1 <= len(said) <= CODES_MAX:
        raise FrameError(f"SIA: {len(said)} codes in {data[:60]!r}, expected 1 to {CODES_MAX}")
    if texts:
        said[-1] = said[-1]._replace(text=" ".join([*filter(None, [said[-1].text]), *texts]))
    return Payload(account, said, modifiers, slash_missing, extra_block)


def _event_block(block: str, said: list[Said], modifiers: dict[str, str]) -> bool:
    """Read one block into both; whether the slash after a modifier was missing. Codes go on until the block ends."""
    at = 1
    slash_missing = False
    while at < len(block):
        if found := _MODIFIER.match(block, at):
            if found[1] not in _MODIFIERS:
                raise FrameError(
                    f"SIA: modifier {found[1]!r} in {block[:60]!r} is none of {', '.join(sorted(_MODIFIERS))}"
                )
            modifiers[found[1]] = found[2] or found[3] or ""
            slash_missing |= not found[4]
        elif found := _CODE.match(block, at):
            said.append(Said(found[1], found[2], text=found[3] or found[4] or ""))
        else:
            raise FrameError(f"SIA: expected a modifier or a code at {block[at : at + 40]!r}")
        at = found.end()
        if block[at : at + 1] == "/":
            at += 1
    return slash_missing
