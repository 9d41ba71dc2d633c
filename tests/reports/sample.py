"""A box of the sample district with a month of life: faults, tests, proofs, inspections, waivers, targets, alarms, people told."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from gateway.cli._district import district
from gateway.config import CoverageSection
from gateway.coverage.causes import causes, open_gaps
from gateway.coverage.count import verdicts
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.profile_file import shipped
from gateway.coverage.requirements import Family
from gateway.coverage.tickets import Terms, Tickets, changes, rectified, told
from gateway.coverage.verdict import Rules
from gateway.coverage.view import TARGET_KINDS
from gateway.kinds import FACTS, Kind
from gateway.model import Area, Device, Point, Site
from gateway.registry import Registry
from gateway.store.rows import milliseconds
from gateway.store.schema import ADDED, TABLES
from tests.coverage.ledger import Ledger

MONTH = Month(2026, 10)
BEFORE = datetime(2026, 6, 1, tzinfo=UTC)
NEW = datetime(2026, 11, 2, 2, tzinfo=UTC)
DAYS = (MONTH.end - BEFORE).days
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BANK = "site:cs-002:target"
ALARMS = (Kind.BURGLARY, Kind.PERIMETER, Kind.PANIC, Kind.TAMPER, Kind.DOOR_FORCED, Kind.FIRE)


def facts(seed: int = 1) -> Sequence[Fact]:
    """Most points are in service since June, some a few each week since; one in twenty fails now and then."""
    dice, ledger = Random(seed), Ledger()
    things = district()
    kinds = {thing.id: thing.kind for thing in things if isinstance(thing, Site)}
    for thing in things:
        sort = {Area: Sort.AREA, Site: Sort.SITE, Device: Sort.DEVICE, Point: Sort.POINT}[type(thing)]
        value = asdict(thing)
        ledger.say(sort, (value.pop("id"),), value, BEFORE)
    for thing in things:
        if isinstance(thing, Site):
            for day in range(DAYS + 1):
                ledger.proof(thing.id, BEFORE + day * DAY)
        elif isinstance(thing, Device):
            ledger.health(thing.id, at=BEFORE)
            _fails(ledger, dice, thing.id)
        elif isinstance(thing, Point):
            _in_service(ledger, dice, thing, kinds[thing.site])
    end = MONTH.end - DAY
    ledger.waive("cs-002-p03", "panic", end - 20 * DAY, end + 40 * DAY)
    ledger.waive("cs-004-p02", "intrusion", end - 3 * DAY, end + 10 * DAY)
    for due, share in (("2026-08-31", 0.9), ("2026-10-31", 0.96), ("2026-12-31", 1.0)):
        for node in ("all", "area:qu", *(f"area:fkq-{zone}-{one}" for zone in range(1, 8) for one in (1, 2, 3))):
            ledger.say(Sort.TARGET, (node, due), {"share": share}, BEFORE)
    return ledger.facts


def _fails(ledger: Ledger, dice: Random, device: str) -> None:
    for _ in range(dice.choice((0,) * 12 + (1, 2))):
        began = MONTH.start + timedelta(hours=dice.randrange(31 * 24))
        cause = dice.choice(("ac_loss", "rf_batt_low", "tamper", ""))
        ledger.health(device, dice.choice(("fault", "silent", "bypassed")), began, cause=cause)
        if dice.random() < 0.7:
            ledger.health(device, "working", began + timedelta(hours=dice.randrange(1, 90)))


def _in_service(ledger: Ledger, dice: Random, point: Point, site_kind: str) -> None:
    since = BEFORE if dice.random() < 0.8 else BEFORE + dice.randrange(DAYS + 20) * DAY
    if point.device is not None and since < MONTH.end:
        ledger.accept(point.id, point.device, at=since)
        for tested in range(dice.randrange(25), DAYS, 28):
            if dice.random() < 0.97:
                ledger.live_test(point.device, BEFORE + tested * DAY)
    profile = next(profile for profile in shipped() if profile.site_kind == site_kind)
    for line in profile.requirements:
        if line.family is Family.PHYSICAL and line.point_kind == point.kind and dice.random() < 0.9:
            at = MONTH.start + dice.randrange(-300, 29) * DAY
            ledger.inspect(point.id, line.measure, dice.random() < 0.95, at, at + line.inspect_days * DAY)


def events(path: Path, seed: int = 2) -> None:
    """Alarms and tests of twenty weeks, as the event log keeps them."""
    dice = Random(seed)
    sites = [thing.id for thing in district() if isinstance(thing, Site)]
    rows = []
    for number in range(4000):
        at, kind, is_test = BEFORE + DAYS * DAY * (number / 4000), dice.choice(ALARMS), dice.random() < 0.2
        body = json.dumps({"test": is_test})
        row = (
            f"e{number}",
            "d",
            dice.choice(sites),
            kind.value,
            "new",
            int(FACTS[kind].lane),
            milliseconds(at),
            body,
            b"",
        )
        rows.append(row)
    with closing(sqlite3.connect(path)) as log:
        log.executescript("PRAGMA journal_mode=WAL;" + TABLES + ADDED)
        columns = "id, device, site, kind, qualifier, lane, received_ms, body, raw"
        log.executemany(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        log.execute("PRAGMA user_version=1")
        log.commit()


def tickets(known: Sequence[Fact]) -> Sequence[Fact]:
    """As a gateway would have opened and closed them, looking every ten days; the bank was told, and says that it is done."""
    found, section = list[Fact](), CoverageSection()
    for at in (MONTH.start + days * DAY for days in (0, 10, 20, 30)):
        history = History(fact for fact in known if fact.valid_from <= at)
        gone = causes(open_gaps(verdicts(history, at, rules=Rules()), history, at, TARGET_KINDS))
        terms = Terms(section.grace_h.model_dump(), section.due_days.model_dump())
        found += changes(gone, Tickets(found), at, terms)
    end = MONTH.end - 3 * HOUR
    return [
        *found,
        told(BANK, "安保负责岗", "os:li", end - 9 * DAY),
        told(BANK, "支行办公室", "os:li", end),
        rectified(BANK, "os:li", "", end),
    ]


def box(folder: Path) -> Path:
    """A site file in this folder, and its data directory beside it."""
    (folder / "site.toml").write_text("[reports]\nfaults_to = '示范区综治中心 0535-555-0000'\n", encoding="utf-8")
    (folder / "var").mkdir()

    async def write() -> None:
        registry = await Registry.open(folder / "var" / "registry.db")
        await registry.record([replace(fact, id=0) for fact in facts()])
        await registry.record(tickets(await registry.facts(limit=10**6)))
        await registry.close()

    asyncio.run(write())
    events(folder / "var" / "events.db")
    return folder / "site.toml"
