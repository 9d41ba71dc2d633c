"""Destinations: each forwarder empties its share of the outbox towards one receiver.

A forwarder is a module (or package) of this folder and its name is the registration; `gateway.loader` finds it, or one
from elsewhere by dotted path. Modules with a leading underscore are what forwarders share, none is a destination.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger as Logger

from gateway.clock import Clock
from gateway.metrics import Metrics
from gateway.model import Delivery, Event, Kind, Qualifier
from gateway.store import Store

__all__ = ["Connect", "Forwarder", "Outlet", "Report", "device_of"]

Report = Callable[[Kind, Qualifier, str], Awaitable[None]]
"""Store a fault of the gateway's own: kind, new or restore, and words for the person who must act."""

Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Open a stream to a host and port. Raises OSError."""


def device_of(destination: str) -> str:
    """The name under which the gateway reports about its own line to a destination."""
    return f"destination/{destination}"


@dataclass(frozen=True, slots=True)
class Outlet:
    """What a forwarder is given."""

    destination: str
    """Name in the site file; the outbox rows and the metrics carry it."""
    settings: Any
    """The module's own `Settings`, checked; None when it declares none."""
    base: Path
    """Folder of the site file, from which relative paths in the settings count."""
    account: str
    """DC-09 account under which the gateway speaks for itself."""
    store: Store
    clock: Clock
    random: Random
    """For jitter and pad bytes; the daemon passes a `SystemRandom`."""
    metrics: Metrics
    log: Logger
    """Already carries the destination."""
    report: Report
    proven: Callable[[Sequence[Delivery]], None] = lambda _: None
    """Told of rows that were accepted, once that is on disk, where that proves anything."""
    connect: Connect = asyncio.open_connection
    """The network as a parameter, like time: a simulated one runs a bad week in a second."""


class Forwarder(Protocol):
    """The shape of a forwarder module."""

    NUMBERED: bool
    """Whether each event of an account gets a sequence number there (`Store.number`)."""

    RECEIPTS: bool
    """Whether its answers come from the program that shows events to people: only then they prove that a site is heard."""

    def wants(self, event: Event) -> bool:
        """Whether this event can be said there at all; asked before an outbox row is written. Pure."""

    def check(self, settings: Any, base: Path) -> object:
        """Before anything starts: read the secrets that the settings name, and return them so that a change shows (None:
        it has none). Raises ConfigError."""

    async def run(self, outlet: Outlet) -> None:
        """Deliver until cancelled. What was not accepted stays queued."""
