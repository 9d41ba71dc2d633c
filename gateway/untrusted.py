"""JSON and text from strangers, read more strictly than Python does it."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from gateway.errors import FrameError

INTEGER_MAX = 2**53 - 1
"""What every JSON reader keeps exactly (RFC 8259, section 6)."""
NUMBER_DIGITS_MAX = 32


def json_object(payload: bytes, *, size_max: int) -> dict[str, Any]:
    """The one JSON object that `payload` is: UTF-8, every member once, every number finite and exact. Raises FrameError."""
    if len(payload) > size_max:
        raise FrameError(f"payload of {len(payload)} bytes; at most {size_max}", "too_long")
    try:
        found = _JSON.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError("payload is not JSON in UTF-8 (RFC 8259)") from error
    if not isinstance(found, dict):
        raise FrameError("payload is JSON, but no object")
    return found


def clean_text(text: str, most: int) -> str:
    """Cut, and without control characters, direction overrides and lone surrogates: they forge logs and screens."""
    text = text[:most]
    if text.isprintable():  # none of them, then, and it costs a fiftieth
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else sign
        for sign in text
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise FrameError("a member is there twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > NUMBER_DIGITS_MAX:
        raise FrameError("a number is too long")
    value = int(digits)
    if abs(value) > INTEGER_MAX:
        raise FrameError(f"a whole number is beyond {INTEGER_MAX}")
    return value


def _finite(digits: str) -> float:
    if len(digits) > NUMBER_DIGITS_MAX:
        raise FrameError("a number is too long")
    value = float(digits)
    if not math.isfinite(value):
        raise FrameError("a number is too large")
    return value


def _constant(name: str) -> float:
    raise FrameError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(
    parse_int=_integer, parse_float=_finite, parse_constant=_constant, object_pairs_hook=_members
)  # once: json.loads would build it for each message
