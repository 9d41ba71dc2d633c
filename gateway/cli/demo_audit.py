"""Was anything lost, was anything said twice? The devices' ledger against the centre's record; the gateway is not asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.kinds import FACTS, Kind, Lane

Row = Mapping[str, Any]
Bucket = tuple[str, int, str, int]
"""Account, zone number, Contact ID code, qualifier (1 new, 3 restore): what a centre sees of an event."""

ACCEPTED = frozenset({"ACK", "*ACK"})

FOR_110 = frozenset({Lane.LIFE, Lane.ALARM, Lane.FAULT})
"""The lanes a destination takes unless it asks for others: a door that opens or a car that drives is nothing for 110."""
NEVER_TOLD = frozenset({"modbus_points", "mqtt_json", "nmea"})
"""Simulators whose devices get no answer from the gateway itself (a broker's or none): their lasting state must be seen."""

Where = Callable[[str, int | None], tuple[str, int]]
"""Account and zone number towards 110 of a device's zone, as the ledger of the demo's community has it."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The balance."""

    alarms: int
    """Alarms that devices raised."""
    delivered: int
    """Of those, accepted by the centre."""
    lost: int
    """Events (restores too) that must have arrived and did not: acknowledged to a device, or a lasting state of one that is never told."""
    duplicates: int
    """Events the centre has under more than one key, or more often than a device raised them."""
    missing: tuple[Bucket, ...] = ()
    families: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Alarms raised and delivered, by simulator."""


def balance(ledger: Iterable[Row], record: Iterable[Row], where: Where) -> Audit:
    """Compare what devices raised and were told with what the centre accepted."""
    raised: Counter[Bucket] = Counter()
    due: Counter[Bucket] = Counter()
    family: dict[Bucket, str] = {}
    for row in ledger:
        if FACTS[Kind(row["what"])].lane not in FOR_110:
            continue
        bucket = _bucket(row, where)
        family[bucket] = row["simulator"]
        raised[bucket] += row["state"] == "raised"
        due[bucket] += row["state"] == ("raised" if row["simulator"] in NEVER_TOLD else "acknowledged")
    ids: dict[Bucket, set[str]] = defaultdict(set)
    keys: dict[str, set[str]] = defaultdict(set)
    for row in accepted_events(record):
        event = row["id"] or row["key"]
        ids[row["account"], int(row["zone"]), row["code"], int(row["qualifier"])].add(event)
        keys[event].add(row["key"])
    got = {bucket: len(events) for bucket, events in ids.items()}
    missing = {bucket: due[bucket] - got.get(bucket, 0) for bucket in due if due[bucket] > got.get(bucket, 0)}
    surplus = sum(max(0, got.get(bucket, 0) - count) for bucket, count in raised.items())
    new_keys = sum(len(found) - 1 for found in keys.values())
    families: dict[str, tuple[int, int]] = {}
    for bucket, count in raised.items():
        if bucket[3] == 1:
            alarms, delivered = families.get(family[bucket], (0, 0))
            families[family[bucket]] = alarms + count, delivered + min(count, got.get(bucket, 0))
    return Audit(
        alarms=sum(alarms for alarms, _ in families.values()),
        delivered=sum(delivered for _, delivered in families.values()),
        lost=sum(missing.values()),
        duplicates=surplus + new_keys,
        missing=tuple(missing),
        families=families,
    )


def accepted_events(record: Iterable[Row]) -> Iterator[Row]:
    """What the centre took: its record has refused frames and line checks too."""
    return (row for row in record if row["code"] is not None and row["answer"] in ACCEPTED)


def _bucket(row: Row, where: Where) -> Bucket:
    account, number = where(row["device"], row["zone"])
    code = FACTS[Kind(row["what"])].contact_id or "000"
    return account, number, code, 3 if row["restore"] else 1
