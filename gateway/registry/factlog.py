"""The record of facts on disk. Lines are added in the transaction of the change they tell of, and never touched again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from gateway.coverage.facts import Fact, Sort
from gateway.model import Area, Device, Point, Site
from gateway.registry.checks import Thing
from gateway.registry.models import CursorRow

PAGE = 10_000
"""Facts in one look: some 3 MB."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_SORTS: dict[type[Thing], Sort] = {Area: Sort.AREA, Site: Sort.SITE, Point: Sort.POINT, Device: Sort.DEVICE}
_INSERT = (
    "INSERT OR IGNORE INTO fact (sort, subject, value, valid_from, valid_to, recorded_at, actor, withdraws, key)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_READ = "SELECT * FROM fact WHERE id > ? AND ? IN ('', sort) ORDER BY id LIMIT ?"
_NEWEST = (
    "SELECT * FROM fact WHERE id IN (SELECT MAX(id) FROM fact WHERE sort = ? AND withdraws IS NULL GROUP BY subject)"
    " AND id > ? ORDER BY id LIMIT ?"
)
_AHEAD = (
    "SELECT * FROM fact WHERE valid_from > ? AND actor = 'gateway' AND withdraws IS NULL"
    " AND sort IN ('health', 'live_test', 'proof', 'sample', 'stage')"
    " AND id NOT IN (SELECT withdraws FROM fact WHERE withdraws IS NOT NULL) ORDER BY id LIMIT ?"
)


def fact_of(thing: Thing, now: datetime, actor: str) -> Fact | None:
    """What a thing of the ledger is from now on; None for those that are not counted."""
    sort = _SORTS.get(type(thing))
    if sort is None:
        return None
    value = asdict(thing)
    return Fact(sort, (value.pop("id"),), value, now, actor=actor)


async def write(transaction: BaseDBAsyncClient, facts: Sequence[Fact], now: datetime) -> None:
    """Add these, but for those whose key is there."""
    if facts:
        await transaction.execute_many(_INSERT, [_row(fact, now) for fact in facts])


async def read(transaction: BaseDBAsyncClient, after: int, limit: int, sort: Sort | None = None) -> Sequence[Fact]:
    """Beyond the id `after`, in the order they were written; all, or those of one sort."""
    _, rows = await transaction.execute_query(_READ, [after, sort.value if sort else "", limit])
    return [_fact(row) for row in rows]


async def newest(transaction: BaseDBAsyncClient, sort: Sort, after: int, limit: int) -> Sequence[Fact]:
    """The one written last of each subject, in the order they were written."""
    _, rows = await transaction.execute_query(_NEWEST, [sort.value, after, limit])
    return await asyncio.to_thread(lambda: [_fact(row) for row in rows])


async def ahead(transaction: BaseDBAsyncClient, than: datetime, limit: int) -> Sequence[Fact]:
    """Of what the gateway itself has seen, that which begins later than a moment and still counts: a look at the whole record."""
    _, rows = await transaction.execute_query(_AHEAD, [_ms(than), limit])
    return [_fact(row) for row in rows]


async def cursor(transaction: BaseDBAsyncClient, reader: str) -> int:
    """How far a reader of the event log has come."""
    found = await CursorRow.get_or_none(reader=reader, using_db=transaction)
    return found.seq if found else 0


async def set_cursor(transaction: BaseDBAsyncClient, reader: str, seq: int) -> None:
    """In the transaction of the facts that follow from what was read."""
    await CursorRow.update_or_create({"seq": seq}, using_db=transaction, reader=reader)


def _row(fact: Fact, now: datetime) -> list[object]:
    return [
        fact.sort.value,
        json.dumps(fact.subject, ensure_ascii=False),
        None if fact.value is None else json.dumps(fact.value, ensure_ascii=False),
        _ms(fact.valid_from),
        None if fact.valid_to is None else _ms(fact.valid_to),
        _ms(fact.recorded_at or now),
        fact.actor,
        fact.withdraws,
        fact.key,
    ]  # fmt: skip


def _fact(row: Mapping[str, Any]) -> Fact:
    value, until = row["value"], row["valid_to"]
    return Fact(
        sort=Sort(row["sort"]),
        subject=tuple(json.loads(row["subject"])),
        value=None if value is None else json.loads(value),
        valid_from=_at(row["valid_from"]),
        valid_to=None if until is None else _at(until),
        recorded_at=_at(row["recorded_at"]),
        actor=row["actor"],
        withdraws=row["withdraws"],
        key=row["key"],
        id=row["id"],
    )


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // _MS


def _at(ms: int) -> datetime:
    return _EPOCH + ms * _MS
