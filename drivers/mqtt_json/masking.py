"""Codes that people type at a keypad or store in a lock: blotted out before anything is read, kept or recorded. Pure."""

from __future__ import annotations

import re

_CODE = re.compile(
    rb'("(?:action_code|pin_code|pin|user_code)"\s*:\s*)(?:"((?:[^"\\]|\\.)*)|-?(\d+))', re.IGNORECASE | re.DOTALL
)
"""Members of zigbee2mqtt's keypads and locks. The end of the text is not asked for: half a message may be kept too."""


def mask(data: bytes) -> bytes:
    """The same bytes with stars for such a text and ones for such a number: as long as before, and JSON as before."""
    return _CODE.sub(_blotted, data)


def _blotted(found: re.Match[bytes]) -> bytes:
    group, blot = (2, b"*") if found[2] is not None else (3, b"1")
    start, end = found.start(group) - found.start(), found.end(group) - found.start()
    return found[0][:start] + blot * (end - start) + found[0][end:]
