"""Card readers and keypads on RS-485 that speak OSDP (IEC 60839-11-5); the gateway is their control panel.

`frame` cuts and checks, `secure` is the secure channel, `reader` leads one reader's conversation, `panel` says whose turn
it is, `meaning` makes facts of answers, `obey` makes bytes of orders, `line` is the only part that waits. `bringup` and
`tools` are for the day a reader is mounted.
"""

from typing import Final, Literal

from drivers.osdp.frame import split
from drivers.osdp.line import run
from drivers.osdp.meaning import decode
from drivers.osdp.obey import obeys
from drivers.osdp.settings import Settings, mistakes, secret_files
from drivers.osdp.tools import tools

__all__ = [
    "ASKS",
    "HEARD_WITHIN_S",
    "LINK",
    "Settings",
    "decode",
    "mistakes",
    "obeys",
    "run",
    "secret_files",
    "split",
    "tools",
]

LINK: Final[Literal["stream"]] = "stream"
ASKS: Final = True
HEARD_WITHIN_S: Final[float | None] = 30.0
"""The driver itself tells after 8 s which reader is offline; this is the net below it."""
