"""The ledger as the rest of the gateway sees it: look-ups in memory, changes in one transaction each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext
from tortoise.models import Model
from tortoise.transactions import in_transaction

from gateway import logs
from gateway.clock import Clock, RealClock
from gateway.coverage.facts import ZONE_OF_ALL, Fact, Sort
from gateway.errors import ConfigError, GatewayError, Problem
from gateway.model import (
    Area,
    AreaKind,
    Device,
    FenceRule,
    Geofence,
    Management,
    Place,
    Point,
    Site,
    Vehicle,
    VehicleKind,
)  # fmt: skip
from gateway.registry import factlog, schema
from gateway.registry.checks import Checker, Finding, Thing, join
from gateway.registry.models import AreaRow, DeviceRow, GeofenceRow, PointRow, SiteRow, VehicleRow
from gateway.registry.snapshot import EMPTY, Snapshot

RELOAD_EVERY_S = 1.0
"""How soon the daemon sees what the command line changed: shorter than a person needs to look up from the keyboard."""
EVER = datetime(2000, 1, 1, tzinfo=UTC)
"""From when the shipped profiles hold: before any ledger."""
BATCH = 500
"""Rows in one INSERT: at most 13 columns each, far below SQLite's 32 766 parameters."""

SHELVES: tuple[tuple[type[Thing], type[Model]], ...] = (
    (Area, AreaRow), (Site, SiteRow), (Device, DeviceRow), (Point, PointRow), (Geofence, GeofenceRow), (Vehicle, VehicleRow),
)  # fmt: skip
"""Parents first."""

Report = Callable[[Thing, Finding], Problem]
Load = Callable[[BaseDBAsyncClient], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a change did."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0


class Registry:
    """Open with `Registry.open`; look-ups never wait and see one consistent revision."""

    def __init__(self, path: Path, context: TortoiseContext, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._context = context
        # One SQLite connection, and Tortoise keeps its context in the task: one user at a time.
        self._lock = asyncio.Lock()
        self._snapshot = EMPTY
        self._data_version = -1
        self._error: str | None = None
        self._loads: list[Load] = []

    @classmethod
    async def open(cls, path: Path, clock: Clock | None = None, *, to_write: bool = True) -> Registry:
        """Bring the file up to date (creating it when new) and load it; or, not `to_write`, load it as it stands.

        Raises ConfigError for a newer or damaged file, and for an older one that may not be brought up to date."""
        await (schema.migrate(path) if to_write else schema.require_current(path))
        context = TortoiseContext()
        with context:
            await context.init(schema.database(path))
        registry = cls(path, context, clock or RealClock())
        try:
            await registry.reload_if_changed()
            if to_write:
                await registry._begin_record()
        except ConfigError:
            await registry.close()
            raise
        except schema.FAULTS as error:
            await registry.close()
            raise ConfigError([schema.unusable(path, error)]) from error
        return registry

    async def close(self) -> None:
        """Let go of the file."""
        async with self._lock:
            await self._context.close_connections()

    # -- looking up ----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Counts the changes ever made to this ledger; kept in the file."""
        return self._snapshot.revision

    @property
    def error(self) -> str | None:
        """Why the last reload failed; the ledger as last loaded stays in use."""
        return self._error

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def device(self, device_id: str) -> Device | None:
        """The device that goes by this id; None: nobody has claimed it."""
        return self._snapshot.devices.get(device_id)

    def place(self, device_id: str, zone: int | None) -> Place | None:
        """Where an event of this device and zone belongs; None: nobody has claimed the device."""
        return self._snapshot.place(device_id, zone)

    def site(self, site_id: str) -> Site | None:
        return self._snapshot.sites.get(site_id)

    def sites(self) -> Collection[Site]:
        return self._snapshot.sites.values()

    def points(self) -> Collection[Point]:
        return self._snapshot.points.values()

    def devices(self) -> Collection[Device]:
        return self._snapshot.devices.values()

    def vehicle(self, device_id: str) -> Vehicle | None:
        """The vehicle this device is; None: it is none."""
        return self._snapshot.vehicles.get(device_id)

    def vehicles(self) -> Collection[Vehicle]:
        return self._snapshot.vehicles.values()

    def geofences(self) -> Collection[Geofence]:
        return self._snapshot.geofences.values()

    def areas(self) -> Collection[Area]:
        return self._snapshot.areas.values()

    def geofences_of(self, vehicle: Vehicle) -> Sequence[Geofence]:
        """Where a vehicle belongs, and where not."""
        return self._snapshot.geofences_of(vehicle)

    # -- following the file --------------------------------------------------------------------------------------------

    async def reload_if_changed(self) -> bool:
        """Load the ledger again when another connection has changed the file. True when it was loaded."""
        async with self._lock:
            # Asked before loading: a change made meanwhile is then seen next time, never missed.
            version = await _pragma(self._context.db(), "data_version")
            if version == self._data_version:
                return False
            with self._context:
                async with in_transaction(schema.APP) as transaction:
                    self._snapshot = await _load(transaction)
                    for load in self._loads:
                        await load(transaction)
            self._data_version = version
            return True

    async def follow(self, load: Load) -> None:
        """Load what else stands in the file, now and whenever the ledger is loaded again. Raises ConfigError."""
        async with self.transaction(to_write=False) as transaction:
            await load(transaction)
        self._loads.append(load)

    async def watch(self, clock: Clock) -> None:
        """Follow the file for ever. A file that cannot be read is reported and tried again."""
        log = logs.logger(registry=str(self._path))
        while True:
            await clock.sleep(RELOAD_EVERY_S)
            try:
                if await self.reload_if_changed():
                    log.info("ledger loaded", revision=self.revision, devices=len(self.devices()))
            except (GatewayError, *schema.FAULTS) as error:
                if self._error is None:
                    log.warning("ledger cannot be read; the last one stays in use", error=str(error))
                self._error = str(error) or type(error).__name__
            else:
                if self._error is not None:
                    log.warning("ledger can be read again")
                self._error = None

    # -- changing ------------------------------------------------------------------------------------------------------

    async def add(self, *things: Thing) -> Written:
        """Add what is not there yet, all or nothing. Raises ConfigError with every mistake."""
        return await self.put(things, only="new")

    async def update(self, *things: Thing) -> Written:
        """Replace what is there, all or nothing. Raises ConfigError with every mistake."""
        return await self.put(things, only="known")

    async def put(
        self,
        things: Sequence[Thing],
        *,
        only: str | None = None,
        dry_run: bool = False,
        report: Report | None = None,
        actor: str = "cli",
        facts: Sequence[Fact] = (),
    ) -> Written:
        """Add or replace, all or nothing; asking twice changes nothing. Raises ConfigError with every mistake.

        What changes goes into the record of facts, as true from now; `facts` go with it.

        `report` words a finding for the person who wrote the thing (file, line and column of an import).
        """
        wanted = list({(type(thing), thing.id): _tidy(thing) for thing in things}.values())
        word = report or self._problem
        async with self.transaction() as transaction:
            before = await _load(transaction)
            problems = _problems(before, wanted, only, word)
            if problems:
                raise ConfigError(problems)
            changes, written = _changes(before, wanted)
            if (changes or facts) and not dry_run:
                await _write(transaction, before, changes)
                now = self._clock.now()
                changed = [fact for thing in changes if (fact := factlog.fact_of(thing, now, actor)) is not None]
                changed += _no_longer_accepted(before, changes, now, actor)
                await factlog.write(transaction, [*changed, *facts], now)
                self._snapshot = await _load(transaction)
        return written

    async def remove(self, thing: Site | Point, *, actor: str = "cli") -> Sequence[Thing]:
        """Take out a point, or a site with all that is there; what was true of them stays in the record, and ends now. What is
        gone. Raises ConfigError."""
        async with self.transaction() as transaction:
            before, now = await _load(transaction), self._clock.now()
            gone = [thing, *(_all_at(before, thing) if isinstance(thing, Site) else ())]
            for kind, model in reversed(SHELVES):
                ids = [each.id for each in gone if isinstance(each, kind)]
                for start in range(0, len(ids), BATCH):
                    await model.filter(id__in=ids[start : start + BATCH]).using_db(transaction).delete()
            ends = [
                replace(fact, value=None) for each in gone if (fact := factlog.fact_of(each, now, actor)) is not None
            ]
            bare = [replace(each, device=None, zone=None, also=()) for each in gone if isinstance(each, Point)]
            await factlog.write(transaction, [*ends, *_no_longer_accepted(before, bare, now, actor)], now)
            await transaction.execute_query(f"PRAGMA user_version = {before.revision + 1}")
            self._snapshot = await _load(transaction)
        return gone

    # -- the record of facts -------------------------------------------------------------------------------------------

    async def record(self, facts: Sequence[Fact], *, reader: str | None = None, seq: int = 0) -> None:
        """Write these, and with them how far a reader of the event log has come, all or nothing. Raises ConfigError."""
        async with self.transaction() as transaction:
            await factlog.write(transaction, facts, self._clock.now())
            if reader is not None:
                await factlog.set_cursor(transaction, reader, seq)

    async def facts(self, *, after: int = 0, limit: int = factlog.PAGE, sort: Sort | None = None) -> Sequence[Fact]:
        """A page of the record beyond the id `after`, in the order it was written. Raises ConfigError."""
        async with self.transaction(to_write=False) as transaction:
            return await factlog.read(transaction, after, limit, sort)

    async def newest(self, sort: Sort) -> AsyncIterator[Sequence[Fact]]:
        """The fact of each subject that was written last, page by page. Raises ConfigError."""
        after = 0
        while True:
            async with self.transaction(to_write=False) as transaction:
                page = await factlog.newest(transaction, sort, after, factlog.PAGE)
            if not page:
                return
            yield page
            after = page[-1].id

    async def cursor(self, reader: str) -> int:
        """How far a reader of the event log has come; 0 for a new one. Raises ConfigError."""
        async with self.transaction(to_write=False) as transaction:
            return await factlog.cursor(transaction, reader)

    async def _begin_record(self) -> None:
        """An empty record begins with the shipped profiles, and what a ledger from before it holds is true from now."""
        if await self.facts(limit=1):
            return
        from gateway.coverage.profile_file import shipped  # only a new box reads them

        ledger, now = self._snapshot, self._clock.now()
        things: list[Thing] = [*ledger.sites.values(), *ledger.devices.values(), *ledger.points.values()]
        facts = [
            Fact(Sort.PROFILE, (profile.site_kind,), profile.value, EVER, actor="shipped", key=f"shipped {profile.site_kind}")
            for profile in await asyncio.to_thread(shipped)
        ]  # fmt: skip
        facts += [fact for thing in things if (fact := factlog.fact_of(thing, now, "upgrade")) is not None]
        async with self.transaction() as transaction:
            if not await factlog.read(transaction, 0, 1):  # another process may have been first
                await factlog.write(transaction, facts, now)

    @asynccontextmanager
    async def transaction(self, *, to_write: bool = True) -> AsyncIterator[BaseDBAsyncClient]:
        """The file at one moment, for one change, all or nothing. Raises ConfigError."""
        try:
            async with self._lock:
                with self._context:
                    async with in_transaction(schema.APP) as transaction:
                        if to_write:
                            await _take_write_lock(transaction)
                        yield transaction
        except schema.FAULTS as error:
            raise ConfigError([schema.unusable(self._path, error)]) from error

    def _problem(self, thing: Thing, finding: Finding) -> Problem:
        key = f"{type(thing).__name__.lower()} {thing.id}: {finding.field}"
        return Problem(str(self._path), None, key, finding.found, finding.expected, finding.zh)


def _tidy(thing: Thing) -> Thing:
    return replace(thing, account=thing.account.upper()) if isinstance(thing, Site) else thing


def _known(ledger: Snapshot, thing: Thing) -> Thing | None:
    shelves: Mapping[type[Thing], Mapping[str, Thing]] = {
        Site: ledger.sites, Device: ledger.devices, Point: ledger.points,
        Vehicle: ledger.vehicles, Geofence: ledger.geofences, Area: ledger.areas,
    }  # fmt: skip
    return shelves[type(thing)].get(thing.id)


def _problems(before: Snapshot, wanted: Sequence[Thing], only: str | None, word: Report) -> list[Problem]:
    checker = Checker(join(before, wanted))
    problems = []
    for thing in wanted:
        is_known = _known(before, thing) is not None
        if only == "new" and is_known:
            problems.append(word(thing, Finding("id", f"{thing.id!r} is there already", "a new id", "编号已存在")))
        elif only == "known" and not is_known:
            problems.append(
                word(thing, Finding("id", f"{thing.id!r} is not there", "an id of the ledger", "编号不存在"))
            )
        problems += [word(thing, finding) for finding in checker.findings(thing)]
    return problems


def _changes(before: Snapshot, wanted: Sequence[Thing]) -> tuple[list[Thing], Written]:
    changes = [thing for thing in wanted if _known(before, thing) != thing]
    added = sum(_known(before, thing) is None for thing in changes)
    return changes, Written(added, len(changes) - added, len(wanted) - len(changes))


def _all_at(ledger: Snapshot, site: Site) -> list[Thing]:
    devices = [device for device in ledger.devices.values() if device.site == site.id]
    vehicles = [ledger.vehicles[device.id] for device in devices if device.id in ledger.vehicles]
    return [*devices, *vehicles, *(point for point in ledger.points.values() if point.site == site.id)]


def _no_longer_accepted(before: Snapshot, changes: Sequence[Thing], now: datetime, actor: str) -> list[Fact]:
    """An acceptance ends with its binding: what returns to a point has to show again that it works there."""
    return [
        Fact(Sort.ACCEPTANCE, (thing.id, device, ZONE_OF_ALL if zone is None else str(zone)), None, now, actor=actor)
        for thing in changes
        if isinstance(thing, Point) and thing.id in before.points
        for device, zone in before.points[thing.id].watchers
        if (device, zone) not in thing.watchers
    ]


# -- rows --------------------------------------------------------------------------------------------------------------


async def _pragma(database: BaseDBAsyncClient, name: str) -> int:
    _, rows = await database.execute_query(f"PRAGMA {name}")
    return int(rows[0][name])


async def _take_write_lock(transaction: BaseDBAsyncClient) -> None:
    """Wait for other writers now: a transaction that reads first and writes later is refused when it finds one."""
    await transaction.execute_query("UPDATE site SET id = id WHERE 0")


async def _load(transaction: BaseDBAsyncClient) -> Snapshot:
    revision = await _pragma(transaction, "user_version")
    areas = await AreaRow.all().using_db(transaction).values()
    sites = await SiteRow.all().using_db(transaction).values()
    devices = await DeviceRow.all().using_db(transaction).values()
    points = await PointRow.all().using_db(transaction).values()
    vehicles = await VehicleRow.all().using_db(transaction).values_list(
        "id", "kind", "on_duty", "limit_kmh", "geofences"
    )  # fmt: skip
    geofences = await GeofenceRow.all().using_db(transaction).values_list(
        "id", "number", "name", "rule", "corners", "radius_m"
    )  # fmt: skip

    def build() -> Snapshot:
        return Snapshot.of(
            revision,
            (Site(**_said(row)) for row in sites),
            (Point(**_said(row)) for row in points),
            (Device(**_said(row)) for row in devices),
            areas=(Area(**_said(row) | {"kind": AreaKind(row["kind"])}) for row in areas),
            vehicles=(
                Vehicle(row_id, VehicleKind(kind), on_duty, limit_kmh, tuple(fences.split()))
                for row_id, kind, on_duty, limit_kmh, fences in vehicles
            ),
            geofences=(
                Geofence(row_id, number, name, FenceRule(rule), _corners(corners), radius_m)
                for row_id, number, name, rule, corners, radius_m in geofences
            ),
        )

    return await asyncio.to_thread(build)


async def _write(transaction: BaseDBAsyncClient, before: Snapshot, changes: Sequence[Thing]) -> None:
    for kind, model in SHELVES:
        new = [thing for thing in changes if isinstance(thing, kind) and _known(before, thing) is None]
        known = [thing for thing in changes if isinstance(thing, kind) and _known(before, thing) is not None]
        if model is PointRow:
            # Nothing refers to a point: taken out and put back, two of them can swap their numbers.
            for start in range(0, len(known), BATCH):
                ids = [thing.id for thing in known[start : start + BATCH]]
                await PointRow.filter(id__in=ids).using_db(transaction).delete()
            new, known = new + known, []
        await _insert(transaction, model, new)
        for thing in known:
            columns = _columns(thing)
            await model.filter(id=columns.pop("id")).using_db(transaction).update(**columns)
    await transaction.execute_query(f"PRAGMA user_version = {before.revision + 1}")


async def _insert(transaction: BaseDBAsyncClient, model: type[Model], things: Sequence[Thing]) -> None:
    await model.bulk_create([model(**_columns(thing)) for thing in things], batch_size=BATCH, using_db=transaction)


def _columns(thing: Thing) -> dict[str, Any]:
    """Field by field, foreign keys under their column's name."""
    values = {field.name: getattr(thing, field.name) for field in fields(thing)}
    for key in ("site", "device"):
        if key in values:
            values[f"{key}_id"] = values.pop(key)
    if isinstance(thing, Point):
        values["also"] = json.dumps(thing.also, ensure_ascii=False) if thing.also else None
    elif isinstance(thing, Vehicle):
        values["geofences"] = " ".join(thing.geofences)
    elif isinstance(thing, Geofence):
        values["corners"] = ";".join(f"{latitude!r} {longitude!r}" for latitude, longitude in thing.corners)
    return values


_READ_AS: Mapping[str, Callable[[Any], Any]] = {
    "also": lambda text: tuple((device, zone) for device, zone in json.loads(text)),
    "management": Management,
}


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says, under the names of the thing's fields; where it says nothing, the thing's own default counts."""
    return {
        column.removesuffix("_id"): _READ_AS[column](value) if column in _READ_AS else value
        for column, value in row.items()
        if value is not None
    }


def _corners(text: str) -> tuple[tuple[float, float], ...]:
    pairs = (corner.split() for corner in text.split(";"))
    return tuple((float(latitude), float(longitude)) for latitude, longitude in pairs)
