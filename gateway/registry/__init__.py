"""The ledger: which sites, points and devices there must be, and where each device belongs."""

from gateway.registry.checks import DEVICES_MAX, POINTS_MAX, SITES_MAX, Finding, Thing
from gateway.registry.ledger import Registry, Report, Written
from gateway.registry.schema import migrate
from gateway.registry.snapshot import Snapshot

__all__ = [
    "DEVICES_MAX",
    "POINTS_MAX",
    "SITES_MAX",
    "Finding",
    "Registry",
    "Report",
    "Snapshot",
    "Thing",
    "Written",
    "migrate",
]
