"""The tree along which a loss is one cause: gateway, line, bridge or controller, device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.model import Device

LINE = "connection/"
"""Begins the name under which the gateway speaks of a line of its own."""


class Ledger(Protocol):
    """What the registry tells about devices."""

    def device(self, device_id: str) -> Device | None: ...


def parents_of(
    device: str,
    *,
    ledger: Ledger,
    behind: Callable[[str, str], str | None],
    last_connection: Callable[[str], str],
) -> Sequence[str]:
    """What a device is heard through alone, the nearest first. What the ledger says comes before what a driver knows."""
    if device.startswith(LINE):
        return ()
    known, line = ledger.device(device), last_connection(device)
    nearest = (known.parent if known else None) or (behind(line, device) if line else None)
    found = [nearest] if nearest and nearest != device else []
    return [*found, LINE + line] if line else found
