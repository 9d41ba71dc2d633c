"""Was anything lost, was anything said twice? The devices' ledger against the centre's record; the gateway is not asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.kinds import FACTS, Kind

Row = Mapping[str, Any]
Bucket = tuple[str, int, str, int]
"""Account, zone number, Contact ID code, qualifier (1 new, 3 restore): what a centre sees of an event."""

ACCEPTED = frozenset({"ACK", "*ACK"})

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
    """Events (restores too) that must have arrived and did not: acknowledged to a device, or a lasting state of a polled one."""
    duplicates: int
    """Events the centre has under more than one key, or more often than a device raised them."""
    missing: tuple[Bucket, ...] = ()


def balance(ledger: Iterable[Row], record: Iterable[Row], where: Where) -> Audit:
    """Compare what devices raised and were told with what the centre accepted."""
    raised: Counter[Bucket] = Counter()
    due: Counter[Bucket] = Counter()
    for row in ledger:
        bucket = _bucket(row, where)
        is_polled = row["simulator"] == "modbus_points"  # a polled device is never told: its lasting state must be seen
        raised[bucket] += row["state"] == "raised"
        due[bucket] += row["state"] == ("raised" if is_polled else "acknowledged")
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
    alarms = [bucket for bucket in raised if bucket[3] == 1]
    return Audit(
        alarms=sum(raised[bucket] for bucket in alarms),
        delivered=sum(min(raised[bucket], got.get(bucket, 0)) for bucket in alarms),
        lost=sum(missing.values()),
        duplicates=surplus + new_keys,
        missing=tuple(missing),
    )


def accepted_events(record: Iterable[Row]) -> Iterator[Row]:
    """What the centre took: its record has refused frames and line checks too."""
    return (row for row in record if row["code"] is not None and row["answer"] in ACCEPTED)


def _bucket(row: Row, where: Where) -> Bucket:
    account, number = where(row["device"], row["zone"])
    code = FACTS[Kind(row["what"])].contact_id or "000"
    return account, number, code, 3 if row["restore"] else 1
