"""Vehicle terminals of taxis and cash vans: JT/T 808-2013 and -2019 over TCP (docs/drivers/jt808.md)."""

from __future__ import annotations

from typing import Literal

from drivers.jt808.conversation import run
from drivers.jt808.frame import split
from drivers.jt808.messages import Settings, answer, decode, obeys
from drivers.jt808.terminals import Memory
from gateway.driver import Context

__all__ = [
    "HEARD_WITHIN_S",
    "LINK",
    "Memory",
    "Settings",
    "answer",
    "decode",
    "heard_within_s",
    "obeys",
    "run",
    "split",
]

LINK: Literal["stream"] = "stream"
HEARD_WITHIN_S: float | None = 180.0
HEARTBEATS = 3
"""Two may be lost on the air."""


def heard_within_s(device: str, context: Context) -> float | None:
    """Three heartbeats of the line's setting; a vehicle that is under way reports far more often."""
    settings: Settings = context.settings or Settings()
    return HEARTBEATS * settings.heartbeat_s
