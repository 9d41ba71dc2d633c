"""The ledger: what it lets in, that it survives migrations, that a running gateway sees what the command line changes."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tortoise.context import TortoiseContext
from tortoise.migrations.autodetector import MigrationAutodetector

import gateway.registry.checks
import gateway.registry.migrations
from gateway.coverage.facts import Sort
from gateway.coverage.profile_file import shipped
from gateway.coverage.requirements import profile_of
from gateway.errors import ConfigError
from gateway.model import Area, AreaKind, Device, Place, Point, Site, Vehicle, VehicleKind
from gateway.registry import Registry, Written, factlog, migrate, schema
from tests.conftest import JumpingClock

ESTATE = Site("yushan-3", "玉山三期", "1A2B", address="文化路 3 号", contact="值班室 0535-1234567")
BANK = Site("bank-7", "文化路支行", "0007", kind="bank_branch", latitude=37.5, longitude=121.4)
PANEL = Device("panel-1", "yushan-3", "东门主机", heard_within_s=600.0)
FENCE = Point("ys-p05", "yushan-3", 5, "东围墙", device="panel-1", zone=3)
DOOR = Point("ys-p06", "yushan-3", 6, "东门", device="panel-1")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = await Registry.open(tmp_path / "registry.db")
    yield registry
    await registry.close()


async def fill(registry: Registry) -> None:
    await registry.add(ESTATE, BANK, PANEL, FENCE, DOOR)


# -- looking up --------------------------------------------------------------------------------------------------------


async def test_a_zone_is_placed_at_its_point_then_at_the_devices_point_then_at_its_number(registry: Registry) -> None:
    await fill(registry)
    await registry.add(Device("button", "bank-7", "柜台按钮"))
    fence = Place("yushan-3", "1A2B", "玉山三期", "ys-p05", 5, "东围墙", "文化路 3 号")
    counter = Place("bank-7", "0007", "文化路支行", None, 12, "柜台按钮")

    assert registry.place("panel-1", 3) == fence
    assert registry.place("panel-1", 4) == replace(fence, point="ys-p06", number=6, point_name="东门")
    assert registry.place("button", 12) == counter
    assert registry.place("button", None) == replace(counter, number=0)
    assert registry.place("button", 1000) == replace(counter, number=0)
    assert registry.place("stranger", 1) is None
    assert registry.device("stranger") is None


async def test_what_was_added_is_there_after_reopening(tmp_path: Path) -> None:
    first = await Registry.open(tmp_path / "registry.db")
    await fill(first)
    await first.close()
    second = await Registry.open(tmp_path / "registry.db")

    assert set(second.sites()) == {ESTATE, BANK}
    assert set(second.points()) == {FENCE, DOOR}
    assert set(second.devices()) == {PANEL}
    assert second.revision == 1
    await second.close()


# -- changing ----------------------------------------------------------------------------------------------------------


async def test_putting_the_same_twice_changes_nothing(registry: Registry) -> None:
    things = (ESTATE, PANEL, FENCE)

    assert await registry.put(things) == Written(added=3)
    assert await registry.put((replace(ESTATE, account="1a2b"), PANEL, FENCE)) == Written(unchanged=3)
    assert registry.revision == 1
    assert await registry.put((*things[:2], replace(FENCE, name="西围墙"))) == Written(updated=1, unchanged=2)
    assert registry.snapshot.points["ys-p05"].name == "西围墙"
    assert registry.revision == 2


async def test_two_points_can_swap_their_numbers(registry: Registry) -> None:
    await fill(registry)

    assert await registry.update(replace(FENCE, number=6), replace(DOOR, number=5)) == Written(updated=2)
    assert {point.id: point.number for point in registry.points()} == {"ys-p05": 6, "ys-p06": 5}


async def test_a_dry_run_writes_nothing(registry: Registry) -> None:
    assert await registry.put([ESTATE, PANEL], dry_run=True) == Written(added=2)
    assert not registry.sites()
    assert registry.revision == 0


@pytest.mark.parametrize(
    ("thing", "field"),
    [
        (Site("not a slug", "x", "1234"), "id"),
        (Site("s", "", "1234"), "name"),
        (Site("s", "x\ny", "1234"), "name"),
        (Site("s", "x", "12"), "account"),
        (Site("s", "x", "12345678901234567"), "account"),
        (Site("s", "x", "12G4"), "account"),
        (Site("s", "x", "1a2b"), "account"),
        (Site("s", "x", "1234", kind="Bank"), "kind"),
        (Site("s", "x", "1234", latitude=91.0, longitude=0.0), "latitude"),
        (Site("s", "x", "1234", latitude=float("nan"), longitude=0.0), "latitude"),
        (Site("s", "x", "1234", latitude=1.0), "longitude"),
        (Site("s", "x", "1234", contact="张三"), "contact"),
        (Site("s", "x", "1234", address="x" * 257), "address"),
        (Device("", "yushan-3"), "id"),
        (Device("a\x00b", "yushan-3"), "id"),
        (Device("d" * 129, "yushan-3"), "id"),
        (Device("d", "nowhere"), "site"),
        (Device("d", "yushan-3", heard_within_s=0.0), "heard_within_s"),
        (Device("d", "yushan-3", heard_within_s=float("inf")), "heard_within_s"),
        (Point("p", "yushan-3", 1000, "x"), "number"),
        (Point("p", "yushan-3", -1, "x"), "number"),
        (Point("p", "yushan-3", 5, "x"), "number"),
        (Point("p", "yushan-3", 7, "x", device="panel-1", zone=3), "zone"),
        (Point("p", "yushan-3", 7, "x", device="panel-1"), "zone"),
        (Point("p", "yushan-3", 7, "x", zone=1), "zone"),
        (Point("p", "yushan-3", 7, "x", device="panel-1", zone=65_536), "zone"),
        (Point("p", "yushan-3", 7, "x", device="gone"), "device"),
        (Point("p", "bank-7", 7, "x", device="panel-1", zone=9), "device"),
        (Point("p", "yushan-3", 7, "x", kind="Panic"), "kind"),
        (Point("p", "yushan-3", 7, "x", also=(("panel-1", 9),)), "device"),
        (Point("p", "yushan-3", 7, "x", device="panel-1", zone=8, also=(("panel-1", 3),)), "also"),
        (Point("p", "yushan-3", 7, "x", device="panel-1", zone=8, also=(("gone", 3),)), "also"),
        (Point("p", "yushan-3", 7, "x", device="panel-1", zone=8, also=(("panel-1", 8),)), "also"),
        (Point("p", "yushan-3", 7, "x", "panel-1", 20, also=tuple(("panel-1", n) for n in range(21, 37))), "also"),
        (Site("s", "x", "1234", area="nowhere"), "area"),
        (Site("s", " x", "1234"), "name"),
        (Site("s", "x", "1234", responsible="张三"), "responsible"),
        (Site("s", "x", "1234", opens="2026-2-1"), "opens"),
        (Site("s", "x", "1234", opens="2026-02-30"), "opens"),
        (Site("s", "x", "1234", opens="2026-02-03", closes="2026-02-02"), "closes"),
        (Device("d", "yushan-3", kind="Panic button"), "kind"),
        (Device("d", "yushan-3", vendor="x" * 65), "vendor"),
        (Device("d", "yushan-3", model="x\n"), "model"),
        (Device("d", "yushan-3", parent="gone"), "parent"),
        (Device("d", "bank-7", parent="panel-1"), "parent"),
        (Device("d", "yushan-3", parent="d"), "parent"),
        (Area("a", "", AreaKind.DISTRICT), "name"),
        (Area("a", "x", AreaKind.COMMUNITY, parent="gone"), "parent"),
        (Area("a", "x", AreaKind.COMMUNITY, dwellings=-1), "dwellings"),
    ],
)
async def test_a_mistake_is_named_in_both_languages_and_nothing_is_written(
    registry: Registry, thing: Site | Device | Point | Area, field: str
) -> None:
    await fill(registry)
    with pytest.raises(ConfigError) as caught:
        await registry.add(thing, Device("innocent", "yushan-3"))

    assert [problem.key.rsplit(": ", 1)[1] for problem in caught.value.problems] == [field]
    assert re.search("[一-鿿]", caught.value.problems[0].hint)
    assert registry.device("innocent") is None


async def test_devices_are_heard_through_each_other_in_no_circle_and_not_too_deep(registry: Registry) -> None:
    await fill(registry)
    chain = [replace(PANEL, id=f"d{n}", parent=f"d{n - 1}" if n else None) for n in range(9)]
    await registry.add(*chain)

    with pytest.raises(ConfigError, match="more than 8 above it"):
        await registry.add(replace(PANEL, id="d9", parent="d8"))
    with pytest.raises(ConfigError, match="is heard through itself"):
        await registry.update(replace(chain[0], parent="d8"))
    with pytest.raises(ConfigError, match="the site of d1, which is heard through it"):
        await registry.update(replace(chain[0], site="bank-7"))


async def test_an_area_lies_in_one_above_its_kind(registry: Registry) -> None:
    district = Area("d", "区", AreaKind.DISTRICT)
    await registry.add(district, Area("z", "街道", AreaKind.CONTROL_ZONE, "d"))

    with pytest.raises(ConfigError, match="a control_zone inside a control_zone"):
        await registry.add(Area("y", "街道", AreaKind.CONTROL_ZONE, "z"))
    with pytest.raises(ConfigError, match="one above that of z"):
        await registry.update(replace(district, kind=AreaKind.COMMUNITY))


async def test_a_new_record_begins_with_the_shipped_profiles_once(registry: Registry, tmp_path: Path) -> None:
    other = await Registry.open(tmp_path / "registry.db")
    found = await other.facts()
    await other.close()

    assert [profile_of(*fact.subject, fact.value or {}) for fact in found] == shipped()
    assert {fact.sort for fact in found} == {Sort.PROFILE}


async def test_add_refuses_what_is_there_and_update_what_is_not(registry: Registry) -> None:
    await fill(registry)
    with pytest.raises(ConfigError, match="is there already"):
        await registry.add(PANEL)
    with pytest.raises(ConfigError, match="is not there"):
        await registry.update(Device("new", "bank-7"))
    with pytest.raises(ConfigError, match="the site of its point ys-p05"):
        await registry.update(replace(PANEL, site="bank-7"))


@pytest.mark.parametrize(
    ("bound", "count", "thing"),
    [
        ("SITES_MAX", 2, Site("s3", "x", "1234")),
        ("DEVICES_MAX", 1, Device("d2", "bank-7")),
        ("POINTS_MAX", 2, Point("p3", "bank-7", 1, "x")),
    ],
)
async def test_the_ledger_is_bounded(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, bound: str, count: int, thing: Site | Device | Point
) -> None:
    await fill(registry)
    monkeypatch.setattr(gateway.registry.checks, bound, count)
    with pytest.raises(ConfigError, match=f"at most {count} "):
        await registry.add(thing)


@pytest.mark.usefixtures("registry")
async def test_no_column_has_room_for_a_resident(tmp_path: Path) -> None:
    """Places, things, and staff who log in: a new column must be added here too, by somebody who has thought about it."""
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            table: {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            for table in tables
            if table not in ("tortoise_migrations", "sqlite_sequence")
        }

    assert columns == {
        "area": {"id", "name", "kind", "parent", "dwellings", "management"},
        "site": {"id", "name", "account", "kind", "address", "latitude", "longitude", "contact"}
        | {"area", "is_key_unit", "responsible", "opens", "closes"},
        "device": {"id", "site_id", "name", "heard_within_s", "kind", "vendor", "model", "parent"},
        "point": {"id", "site_id", "number", "name", "device_id", "zone", "kind", "also"},
        "vehicle": {"id", "kind", "on_duty", "limit_kmh", "geofences"},
        "geofence": {"id", "number", "name", "rule", "corners", "radius_m"},
        "account": {"name", "role", "sites", "password", "secret", "secret_until", "disabled", "created"},
        "session": {"digest", "account_id", "created", "until"},
        "token": {"label", "digest", "role", "sites", "created", "until"},
        "fact": {
            "id",
            "sort",
            "subject",
            "value",
            "valid_from",
            "valid_to",
            "recorded_at",
            "actor",
            "withdraws",
            "key",
        },
        "cursor": {"reader", "seq"},
    }


# -- following the file ------------------------------------------------------------------------------------------------


async def until(clock: JumpingClock, is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():
            await clock.advance(1.0)


async def test_a_running_gateway_sees_what_another_process_changed(
    registry: Registry, tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    other = await Registry.open(tmp_path / "registry.db")
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(registry.watch(jumping_clock))
        await fill(other)
        assert registry.device("panel-1") is None
        await until(jumping_clock, lambda: registry.device("panel-1") is not None)
        watching.cancel()

    assert registry.snapshot == other.snapshot
    await registry.reload_if_changed()  # ends what the watcher may have been in the middle of
    assert not await registry.reload_if_changed()
    await other.close()


async def test_an_unreadable_ledger_is_reported_and_the_last_one_stays(
    registry: Registry, tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    def run(statement: str) -> None:
        with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
            connection.execute(statement)

    await fill(registry)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(registry.watch(jumping_clock))
        run("ALTER TABLE device RENAME TO lost")
        await until(jumping_clock, lambda: registry.error is not None)
        assert registry.device("panel-1") == PANEL
        run("ALTER TABLE lost RENAME TO device")
        await until(jumping_clock, lambda: registry.error is None)
        watching.cancel()


async def test_a_ledger_damaged_while_we_run_is_reported_and_the_last_one_stays(
    registry: Registry, tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    """SQLite's "file is not a database" is no error that Tortoise translates."""
    await fill(registry)
    path = tmp_path / "registry.db"
    sound = path.read_bytes()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(registry.watch(jumping_clock))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE site SET name = 'changed'")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        path.write_bytes(b"no ledger any more".ljust(len(sound), b"!"))
        await until(jumping_clock, lambda: registry.error is not None)
        assert registry.device("panel-1") == PANEL
        watching.cancel()
    with pytest.raises(ConfigError, match="registry"):
        await registry.put([PANEL])


# -- migrations --------------------------------------------------------------------------------------------------------

ADDITIVE = """
    operations = [ops.AddField(model_name="DeviceRow", name="batch", field=fields.CharField(max_length=8, null=True))]
"""
REBUILDING = """
    operations = [ops.AlterField(model_name="SiteRow", name="kind", field=fields.CharField(max_length=200))]
"""
LOSING_AN_INDEX = """
    operations = [
        Statement(
            'CREATE TABLE copy (id TEXT PRIMARY KEY, site_id TEXT, number INT, name TEXT, device_id TEXT, zone INT,'
            ' kind TEXT, also TEXT)'
        ),
        Statement('INSERT INTO copy SELECT id, site_id, number, name, device_id, zone, kind, also FROM point'),
        Statement('DROP TABLE point'),
        Statement('ALTER TABLE copy RENAME TO point'),
    ]
"""
LOSING_ROWS = """
    operations = [
        Statement("DELETE FROM point WHERE id = 'ys-p05'"),
        Statement("DROP TABLE IF EXISTS nowhere"),
    ]
"""
FAILING = """
    operations = [
        Statement("DELETE FROM point WHERE id = 'ys-p05'"),
        Statement("DROP TABLE nowhere"),
    ]
"""

NextVersion = Callable[[str], str]
NEWEST = max(path.stem for path in Path(gateway.registry.migrations.__path__[0]).glob("0*.py"))
NEXT = "9999_next"


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NextVersion]:
    """Makes a package with today's migrations and one more, as the next version of the program would ship."""
    folder = tmp_path / "next" / "next_migrations"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for path in Path(gateway.registry.migrations.__path__[0]).glob("0*.py"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(str(folder.parent))

    def make(operations: str) -> str:
        (folder / f"{NEXT}.py").write_text(
            "from tortoise import fields, migrations\nfrom tortoise.migrations import operations as ops\n\n"
            "class Statement(ops.TortoiseOperation):\n"
            "    def __init__(self, sql):\n        self.sql = sql\n\n"
            "    async def database_forward(self, app_label, old_state, new_state, state_editor=None):\n"
            "        if state_editor is not None:\n            await state_editor._run_sql(self.sql)\n\n"
            f"class Migration(migrations.Migration):\n    dependencies = [('registry', '{NEWEST}')]\n{operations}"
        )
        return "next_migrations"

    yield make
    for name in [name for name in sys.modules if name.startswith("next_migrations")]:
        del sys.modules[name]


async def filled(path: Path) -> str:
    registry = await Registry.open(path)
    await fill(registry)
    await registry.close()
    return dump(path)


def dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def cells(path: Path) -> set[tuple[object, ...]]:
    """Every value of every row, by table, key and column: whatever columns there are beside it."""
    found: set[tuple[object, ...]] = set()
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table != "sqlite_sequence":
                rows = connection.execute(f"SELECT * FROM {table}")
                found |= {(table, row["id"], column, row[column]) for row in rows for column in row.keys()}  # noqa: SIM118
    return found


def rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        tables = ("site", "device", "point")
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


FIRST = """
CREATE TABLE "site" ("id" VARCHAR(64) NOT NULL PRIMARY KEY, "name" VARCHAR(128) NOT NULL, "account" VARCHAR(16) NOT NULL UNIQUE,
    "kind" VARCHAR(32) NOT NULL, "address" VARCHAR(256) NOT NULL, "latitude" REAL, "longitude" REAL, "contact" VARCHAR(64) NOT NULL);
CREATE TABLE "device" ("id" VARCHAR(128) NOT NULL PRIMARY KEY, "name" VARCHAR(128) NOT NULL, "heard_within_s" REAL,
    "site_id" VARCHAR(64) NOT NULL REFERENCES "site" ("id") ON DELETE RESTRICT);
CREATE TABLE "point" ("id" VARCHAR(64) NOT NULL PRIMARY KEY, "number" INT NOT NULL, "name" VARCHAR(128) NOT NULL, "zone" INT,
    "device_id" VARCHAR(128) REFERENCES "device" ("id") ON DELETE RESTRICT,
    "site_id" VARCHAR(64) NOT NULL REFERENCES "site" ("id") ON DELETE RESTRICT,
    CONSTRAINT "uid_point_site_id_c70f52" UNIQUE ("site_id", "number"),
    CONSTRAINT "uid_point_device__2b89b8" UNIQUE ("device_id", "zone"));
CREATE TABLE "tortoise_migrations" ("id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "app" VARCHAR(255) NOT NULL,
    "name" VARCHAR(255) NOT NULL, "applied_at" TIMESTAMP NOT NULL, CONSTRAINT "uid_tortoise_mi_app_3803a5" UNIQUE ("app", "name"));
INSERT INTO "tortoise_migrations" VALUES(1,'registry','0001_initial','2026-10-01 08:00:00.000000+00:00');
INSERT INTO "site" VALUES('bank-7','文化路支行','0007','bank_branch','',37.5,121.4,'');
INSERT INTO "site" VALUES('yushan-3','玉山三期','1A2B','residential_estate','文化路 3 号',NULL,NULL,'值班室 0535-1234567');
INSERT INTO "device" VALUES('panel-1','东门主机',600.0,'yushan-3');
INSERT INTO "point" VALUES('ys-p05',5,'东围墙',3,'panel-1','yushan-3');
INSERT INTO "point" VALUES('ys-p06',6,'东门',NULL,'panel-1','yushan-3');
"""
"""The ledger of `fill` as the first version left it, with the tables as its one migration made them."""


async def test_a_ledger_of_the_first_version_keeps_every_row_and_index(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST)
    before, indexed = cells(path), schema._contents(path).indexes
    registry = await Registry.open(path)
    after = cells(path)

    assert before <= after
    assert indexed <= schema._contents(path).indexes
    assert {*registry.sites(), *registry.devices(), *registry.points()} == {BANK, ESTATE, PANEL, FENCE, DOOR}
    await registry.add(Vehicle(PANEL.id, VehicleKind.TAXI, on_duty=True))  # what came later has room beside it
    await registry.close()


@pytest.fixture
def version_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The migrations of the version before there was an index of facts."""
    folder = tmp_path / "then" / "migrations_of_4"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for path in Path(gateway.registry.migrations.__path__[0]).glob("000[1-4]*.py"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


async def test_a_record_without_its_index_keeps_every_fact_and_gains_it(tmp_path: Path, version_4: str) -> None:
    path = tmp_path / "registry.db"
    assert (await migrate(path, migrations=version_4))[-1] == "0004_coverage"
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO fact (sort, subject, value, valid_from, recorded_at, actor, key) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                ("proof", f'["s{n % 3}"]', '{"rung": "test_accepted", "event": "e"}', n, n, "gateway", f"k{n}")
                for n in range(30)
            ],
        )
        connection.commit()
    before, indexed = cells(path), schema._contents(path).indexes

    assert await migrate(path) == ["0005_newest_facts"]

    assert before <= cells(path)
    assert schema._contents(path).indexes - indexed == {("fact", False, ("sort", "subject", "withdraws"))}
    registry = await Registry.open(path)
    newest = [each async for page in registry.newest(Sort.PROOF) for each in page]
    await registry.close()
    assert {each.subject[0]: each.key for each in newest} == {"s0": "k27", "s1": "k28", "s2": "k29"}


async def test_the_newest_facts_are_found_in_the_index(registry: Registry, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {factlog._NEWEST}", ("proof", 0, 10))]
    assert "SEARCH fact USING COVERING INDEX fact_newest (sort=?)" in plan
    assert not [step for step in plan if step.startswith("SCAN fact") or "B-TREE FOR GROUP BY" in step]


async def test_an_additive_migration_keeps_every_row_and_needs_nobody(
    tmp_path: Path, next_version: NextVersion
) -> None:
    path = tmp_path / "registry.db"
    await filled(path)

    assert await migrate(path, migrations=next_version(ADDITIVE)) == [NEXT]
    assert rows(path) == [2, 1, 2]
    assert await migrate(path, migrations="next_migrations") == []


async def test_a_migration_that_drops_a_table_is_refused_without_the_guarded_path(
    tmp_path: Path, next_version: NextVersion
) -> None:
    path = tmp_path / "registry.db"
    before = await filled(path)
    with pytest.raises(ConfigError, match=rf"{NEXT} rebuilds tables.*fangkong migrate"):
        await migrate(path, migrations=next_version(REBUILDING))

    assert dump(path) == before


async def test_the_guarded_path_keeps_rows_that_point_at_a_rebuilt_table(
    tmp_path: Path, next_version: NextVersion
) -> None:
    path = tmp_path / "registry.db"
    await filled(path)

    assert await migrate(path, rebuild=True, migrations=next_version(REBUILDING)) == [NEXT]
    assert rows(path) == [2, 1, 2]
    assert "VARCHAR(200)" in dump(path)
    assert rows(path.with_name(f"registry.db.before-{NEXT}")) == [2, 1, 2]


@pytest.mark.parametrize(
    ("operations", "complaint"),
    [
        (LOSING_AN_INDEX, r"index on point \(site_id, number\) is gone"),
        (LOSING_ROWS, "table point had 2 rows, now 1"),
        (FAILING, "no such table"),
    ],
)
async def test_a_rebuild_that_fails_or_loses_something_is_undone(
    tmp_path: Path, next_version: NextVersion, operations: str, complaint: str
) -> None:
    path = tmp_path / "registry.db"
    before = await filled(path)
    with pytest.raises(ConfigError, match=complaint):
        await migrate(path, rebuild=True, migrations=next_version(operations))

    assert dump(path) == before


async def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, next_version: NextVersion) -> None:
    path = tmp_path / "registry.db"
    await filled(path)
    await migrate(path, migrations=next_version(ADDITIVE))
    before = dump(path)
    words = rf"registry\.db: schema: made by a newer version \(migration {NEXT}\); expected at most {NEWEST}"
    with pytest.raises(ConfigError, match=words):
        await Registry.open(path)

    assert dump(path) == before


async def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError, match="a ledger of this program"):
        await Registry.open(path)


async def test_a_ledger_with_damaged_pages_is_refused(registry: Registry, tmp_path: Path) -> None:
    await fill(registry)
    await registry.close()
    path = tmp_path / "registry.db"
    sound = path.read_bytes()
    path.write_bytes(sound[:4096] + b"\x99" * (len(sound) - 4096))

    with pytest.raises(ConfigError, match="registry"):
        await Registry.open(path)


async def test_nobody_changed_a_model_without_a_migration(tmp_path: Path) -> None:
    config = schema.database(tmp_path / "registry.db")
    async with TortoiseContext() as context:
        await context.init(config)
        assert context.apps is not None
        changes = await MigrationAutodetector(context.apps, config["apps"]).changes()

    assert changes == []
