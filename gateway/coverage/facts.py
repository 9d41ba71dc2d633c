"""Facts: what is true of the inventory from when to when, and when that became known. Only added, never changed.

A fact holds from `valid_from` until the next one of the same sort and subject begins, or until `valid_to` where its end is
known beforehand (a waiver, an inspection, a building site). Of two that begin at the same moment the one recorded later
counts. A fact recorded by mistake is withdrawn by another one that names it; a figure can so be had again as it was known
on any day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Sort(StrEnum):
    """What a fact is about; beside each its subject and its value."""

    AREA = "area"
    """(area,): the Area."""
    SITE = "site"
    """(site,): the Site."""
    POINT = "point"
    """(point,): the Point, its watchers included; so this is also the history of what was bound to it."""
    DEVICE = "device"
    """(device,): the Device."""
    PROFILE = "profile"
    """(site kind,): version, source and requirements in force for it."""
    STAGE = "stage"
    """(device,): {"stage": one of STAGES}."""
    ACCEPTANCE = "acceptance"
    """(point, device, zone): {"sheet": hash of the acceptance sheet, "by": role}. Holds for this watcher of this
    point; None when it is taken off."""
    WAIVER = "waiver"
    """(point, measure): {"reason", "approver"}; always with an end."""
    INSPECTION = "inspection"
    """(point, measure): {"ok": bool, "by": role, "remark"}; ends when the next inspection is due."""
    HEALTH = "health"
    """(device, zone): {"state": one of STATES, "cause": event kind, "via": what it is unreachable through,
    "open": every condition that stands (gateway/supervision/conditions.py)}."""
    LIVE_TEST = "live_test"
    """(device, zone): {"event": id}. It was triggered, and was heard."""
    PROOF = "proof"
    """(site,): {"rung": "test_accepted" or "alarm_accepted", "event": id}. The receiving centre said so at `valid_from`."""
    SAMPLE = "sample"
    """(device, quantity): {"value": number}; battery_pct, rssi_dbm, mains_v ..."""
    TICKET = "ticket"
    """(ticket,): a deficiency as the evidence opens, changes and closes it (gateway/coverage/tickets.py). {"state": "open" or
    "closed", "site", "gap", "points": [those it concerns], "because", "risk", "opened": when, "due": local day, "responsible",
    "times": how often it was opened}. (ticket, "told"): {"whom", "by"}; (ticket, "rectified"): {"by", "remark"}. What people
    say is a fact of its own beside it: it overwrites nothing, and nothing overwrites it."""
    TARGET = "target"
    """(node, due date): {"share": 0..1}. What was promised by when."""
    WALK_TEST = "walk_test"
    """(site,): {"points": ids, "by": role, "reason", "standing": [[device, kind, zone]], the real alarms that had not ended};
    always with an end. None: it was ended before."""
    SELF_TEST = "self_test"
    """(site, point, device): {"due": ISO moment, "ok", "detail", "command"}; (site, "", ""): {"due"}, the last that is done."""
    SHEET = "sheet"
    """(site, hash): {"content": the acceptance sheet as canonical JSON}."""
    EDITION = "edition"
    """(scope, period, number): {"state", "hash"} of a bulletin."""


ZONE_OF_ALL = ""
"""In the place of a zone: the device as a whole."""

STAGES = ("planned", "installed", "accepted", "in_service", "out_of_service", "retired")
"""A device's way through its life. One that talks and is not in the ledger is at none of them: it is unplanned."""

STATES = ("working", "degraded", "fault", "silent", "unreachable", "bypassed")
"""How a device, or a zone of it, is. Only the first two count as working. One that was not yet heard since a start is as it
was last known to be, until its deadline."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the record. Times are aware, in UTC, and whole milliseconds."""

    sort: Sort
    subject: tuple[str, ...]
    value: Mapping[str, Any] | None
    """Flat words and numbers, or lists of them; None: no longer."""
    valid_from: datetime
    valid_to: datetime | None = None
    recorded_at: datetime | None = None
    """Set when it is written."""
    actor: str = "gateway"
    """Who said so: an account's name, "cli", "gateway"."""
    withdraws: int | None = None
    """The `id` of a fact that never held."""
    key: str | None = None
    """Unique in the record; a second fact with the same key is not written. For what is derived from events."""
    id: int = 0
    """The record's own order, 0 until written."""
