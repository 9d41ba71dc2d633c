"""Under the usual storm limits: what a device was told is in the log, and what is in the log reached 110 or is spoken for there."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo_audit import accepted_events
from gateway.store.sqlite import FILE_NAME
from tests.crash.kills import rows

Said = tuple[str, str, bool]
"""Device, kind, and whether it is a restore."""


@dataclass(frozen=True, slots=True)
class KeptBack:
    """The balance of a run."""

    acknowledged: int
    recorded: int
    """Events of devices in the log."""
    kept_back: int
    """Of those, not sent on, because another event speaks for them."""
    not_recorded: int
    """Acknowledged and not in the log."""
    doubled: int
    """In the log more often than they were raised."""
    unspoken: int
    """In the log, not at 110, and no event at 110 speaks for them."""

    @property
    def is_good(self) -> bool:
        return not (self.not_recorded or self.doubled or self.unspoken)


def audit(folder: Path) -> KeptBack:
    """Of a town whose gateway has ended. The log is read with a connection of its own."""
    raised: Counter[Said] = Counter()
    told: Counter[Said] = Counter()
    for row in rows(folder / "ledger.jsonl"):
        said = row["device"], row["what"], bool(row["restore"])
        raised[said] += row["state"] == "raised"
        told[said] += row["state"] == "acknowledged"
    at_110 = {row["id"] for row in accepted_events(rows(folder / "centre.jsonl"))}
    recorded: Counter[Said] = Counter()
    speakers: list[str] = []  # of each recorded event: itself, or the one that speaks for it
    spoken = set(at_110)  # also for whom a word of the gateway's own at 110 speaks by name
    kept_back = 0
    with closing(sqlite3.connect(folder / "var" / FILE_NAME)) as log:
        for event_id, device, kind, qualifier, body in log.execute(
            "SELECT id, device, kind, qualifier, body FROM events"
        ):
            content = json.loads(body)
            if content["connection"] != "alarms":  # the gateway's own word
                if event_id in at_110:
                    spoken.add(content.get("values", {}).get("of"))
                continue
            recorded[device, kind, qualifier == "restore"] += 1
            kept_back += "suppressed_by" in content
            speakers.append(content.get("suppressed_by", event_id))
    return KeptBack(
        acknowledged=told.total(),
        recorded=recorded.total(),
        kept_back=kept_back,
        not_recorded=(told - recorded).total(),
        doubled=(recorded - raised).total(),
        unspoken=sum(speaker not in spoken for speaker in speakers),
    )
