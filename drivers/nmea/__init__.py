"""GNSS receivers of vehicles, NMEA 0183 over a serial line or TCP (docs/drivers/nmea.md).

One receiver is one vehicle: sentences name no sender, so its id stands in the settings. The sentences of one moment make one
position; `decode` gives what each says alone.
"""

from typing import Literal

from drivers.nmea.conversation import Settings, decode, run
from drivers.nmea.sentences import split

LINK: Literal["stream"] = "stream"
HEARD_WITHIN_S: float | None = 15.0
"""Receivers speak once a second, fix or none, slow ones every 10 s: longer silence is a pulled plug or lost power."""

__all__ = ["HEARD_WITHIN_S", "LINK", "Settings", "decode", "run", "split"]
