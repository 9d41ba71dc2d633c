"""The police centre over SIA DC-09: Contact ID in ADM-CID frames over TCP to one receiver."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.forwarders import Outlet
from gateway.forwarders._outbox import Outbox
from gateway.forwarders.dc09._line import Line
from gateway.forwarders.dc09._message import wants
from gateway.forwarders.dc09._settings import Keys, Settings

__all__ = ["NUMBERED", "RECEIPTS", "Settings", "check", "run", "wants"]

NUMBERED = True
RECEIPTS = True


def check(settings: Settings, base: Path) -> Keys:
    """Raises ConfigError when a key file cannot be read or holds no key."""
    return settings.keys(base)


async def run(outlet: Outlet) -> None:
    """Deliver until cancelled. Raises ConfigError when a key cannot be read."""
    settings: Settings = outlet.settings
    outbox = Outbox(outlet)
    line = Line(outlet, settings, settings.keys(outlet.base), outbox)
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run(), name=f"{outlet.destination} outbox")
        group.create_task(line.run(), name=f"{outlet.destination} line")
