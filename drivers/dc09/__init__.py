"""A receiver for alarm panels and hubs that dial in by SIA DC-09 over TCP or UDP (docs/drivers/dc09.md).

Contact ID (ADM-CID) and SIA (SIA-DCS) events, supervision by NULL and RP, plain or encrypted.
"""

from __future__ import annotations

from typing import Literal

from drivers.dc09.conversation import Memory, answer, decode, deviations, run
from drivers.dc09.settings import HEARD_WITHIN_S as _HEARD_WITHIN_S
from drivers.dc09.settings import Profile, Settings, heard_within_s, mistakes, secret_files
from gateway.codecs.dc09_panels import split

__all__ = [
    "HEARD_WITHIN_S", "LINK", "Memory", "Profile", "Settings", "answer", "decode", "deviations", "heard_within_s", "mistakes",
    "run", "secret_files", "split",
]  # fmt: skip

LINK: Literal["stream"] = "stream"
HEARD_WITHIN_S: float | None = _HEARD_WITHIN_S
