"""The store when it is killed, damaged, full, or lied to by the disk."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.model import Delivery, Event, Heard, Kind, Lane, Place, Qualifier, TimeQuality
from gateway.receipt import Series
from gateway.store import Entry, EventFilter, schema
from gateway.store.salvage import DAMAGED_KEPT
from gateway.store.sqlite import FILE_NAME, SqliteStore
from tests.conftest import tool

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PLACE = Place("s1", "A10B", "阳泗小区", "p1", 17, "东门")
CHILD = [sys.executable, str(Path(__file__).with_name("store_child.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # this checkout and no installed one
EVENTS = 200
PATIENCE_S = 20.0
ids = EventIds(RealClock(), Random(2))


def event(**changes: object) -> Event:
    plain = Event(ids.next(), "a001", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, AT, "test", "c1", place=PLACE)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields are the test's own


async def opened(data_dir: Path, *, inline: bool = True) -> SqliteStore:
    return await SqliteStore.open(data_dir, RealClock(), inline=inline)


async def event_ids(store: SqliteStore) -> list[str]:
    return [kept.id for kept in await store.events(EventFilter(), limit=1_000_000)]


async def queued_ids(store: SqliteStore) -> list[str]:
    rows = await store.pending("110", Lane.ALARM, after_seq=0, limit=1_000_000)
    return [row.event.id for row in rows]


async def takes_events(store: SqliteStore) -> bool:
    """A new alarm is stored, queued, and seen by those who read."""
    new = event()
    await (await store.append([Entry(new, ["110"])]))
    return new.id in await event_ids(store) and new.id in await queued_ids(store)


# -- killed ------------------------------------------------------------------------------------------------------------


def start_child(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*CHILD, str(data_dir)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def printed_until_killed(data_dir: Path, lines: int) -> list[str]:
    with start_child(data_dir) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline().strip() for _ in range(lines)]
        child.kill()
        rest = child.stdout.read().splitlines()
    # The last line may be cut short by the kill.
    return printed + [line for line in rest if len(line) == len(printed[0])]


@pytest.mark.row("A3")
def test_what_was_confirmed_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    random = Random(20270115)
    confirmed: list[str] = []
    for _ in range(20):
        confirmed += printed_until_killed(tmp_path, random.randint(1, 300))

        with sqlite3.connect(tmp_path / FILE_NAME) as db:
            kept = dict(db.execute("SELECT id, (SELECT COUNT(*) FROM outbox o WHERE o.seq = e.seq) FROM events e"))
        db.close()
        assert [name for name in confirmed if kept.get(name) != 2] == []


@pytest.mark.row("A10")
def test_a_directory_in_use_is_refused_until_its_holder_is_killed(tmp_path: Path) -> None:
    with start_child(tmp_path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        second = subprocess.run(
            [*CHILD, str(tmp_path)], capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=ENVIRONMENT
        )
        assert second.returncode == 1
        assert f"another fangkong already runs on {tmp_path}" in second.stderr
        assert holder.poll() is None
        holder.kill()

    assert len(printed_until_killed(tmp_path, 1)) >= 1


# -- damaged -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def sound(tmp_path: Path) -> Path:
    """A directory with a log of EVENTS queued alarms, closed in order."""
    data_dir = tmp_path / "sound"
    store = await opened(data_dir)
    await (await store.append([Entry(event(raw=bytes(300), repeat_key=f"k{n}"), ["110"]) for n in range(EVENTS)]))
    await store.number("110", {"A10B": range(1, EVENTS + 1)})
    await store.close()
    return data_dir


def copy_of(data_dir: Path, name: str) -> Path:
    return Path(shutil.copytree(data_dir, data_dir.with_name(name)))


def page_size(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[16:18], "big")  # SQLite file format, section 1.3.2


def root_page(path: Path, table: str) -> int:
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    db.close()
    return int(page)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.row("B7")
async def test_any_one_page_may_break(sound: Path) -> None:
    whole = await readable(sound)
    path = sound / FILE_NAME
    size = page_size(path)
    # The first page names all others, and the root of the events leads to them: nothing of SQL reads past these two.
    hopeless = {1, root_page(path, "events")}
    for page in range(1, path.stat().st_size // size + 1):
        broken = copy_of(sound, f"page{page}")
        overwrite(broken / FILE_NAME, (page - 1) * size, b"\xff" * size)

        store = await opened(broken)
        kept, queued = await event_ids(store), await queued_ids(store)
        assert await takes_events(store), page
        assert store.state.stored[Lane.ALARM] == len(kept) + 1
        await store.close()
        shutil.rmtree(broken)
        if page not in hopeless:
            assert len(set(whole) - set(kept)) <= size // 300, page
            # Whatever could be read of an alarm that waits still waits.
            assert set(queued) == set(kept), page


async def readable(data_dir: Path) -> list[str]:
    store = await opened(data_dir)
    kept = await event_ids(store)
    await store.close()
    return kept


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.row("B7")
async def test_flipped_bits_never_stop_the_reading(sound: Path, seed: int) -> None:
    random = Random(seed)
    path = sound / FILE_NAME
    with sqlite3.connect(path) as db:
        db.execute("UPDATE session SET clean = 0")
    db.close()
    content = bytearray(path.read_bytes())
    for _ in range(40):
        # Not in the 100-byte header, whose fields can claim anything (a newer program, say).
        content[random.randrange(100, len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)

    store = await opened(sound, inline=False)
    with suppress(StoreError):  # damage that only reading meets: it is reported, and cured by the next commit
        await event_ids(store)
        await queued_ids(store)
    if store._check_up:
        await asyncio.wrap_future(store._check_up.finished)
    with suppress(StoreError):
        await store.heard([])
    assert await takes_events(store)
    await store.close()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 6 // 10)


@pytest.mark.parametrize(
    ("harm", "least_kept"),
    [
        (cut_short, EVENTS // 10),
        (lambda path: path.write_bytes(b""), 0),
        (lambda path: path.write_bytes(b"This is not a database." * 500), 0),
    ],
    ids=["truncated", "empty", "no database"],
)
@pytest.mark.row("B7")
async def test_a_damaged_file_is_set_aside_and_work_goes_on(
    sound: Path, harm: Callable[[Path], Any], least_kept: int
) -> None:
    harm(sound / FILE_NAME)
    damaged = (sound / FILE_NAME).read_bytes()

    store = await opened(sound)

    assert store.state.salvaged.startswith(f"{FILE_NAME}.damaged-")
    assert (sound / store.state.salvaged).read_bytes()[4096:] == damaged[4096:]
    assert len(await event_ids(store)) >= least_kept
    assert await takes_events(store)
    await store.close()
    again = await opened(sound)
    assert again.state.salvaged == ""
    await again.close()


@pytest.mark.row("B7")
async def test_a_write_ahead_log_cut_short_loses_its_tail_only(sound: Path, tmp_path: Path) -> None:
    store = await opened(sound)
    for _ in range(50):
        await (await store.append([Entry(event(), ["110"])]))
    torn = copy_of(sound, "torn")
    await store.close()
    cut_short(torn / f"{FILE_NAME}-wal")

    store = await opened(torn)

    assert EVENTS <= len(await event_ids(store)) < EVENTS + 50
    assert store.state.salvaged == ""
    assert await takes_events(store)
    await store.close()


@pytest.mark.row("B7")
async def test_after_an_unclean_stop_damage_is_found_without_keeping_anybody_waiting(sound: Path) -> None:
    store = await opened(sound)
    unclean = copy_of(sound, "unclean")
    await store.close()
    path = unclean / FILE_NAME
    overwrite(path, path.stat().st_size // 2, b"\xff" * 4096)

    store = await opened(unclean, inline=False)
    async with asyncio.timeout(PATIENCE_S):
        while not store.state.salvaged:
            await store.heard([Heard("a001", AT, None)])

    assert len(await event_ids(store)) > EVENTS // 2
    assert await takes_events(store)
    await store.close()


async def test_after_a_clean_stop_nothing_is_checked(sound: Path) -> None:
    store = await opened(sound, inline=False)
    assert store._check_up is None
    await store.close()


@pytest.mark.row("B7")
async def test_damage_met_while_running_is_replaced_under_everybodys_feet(sound: Path) -> None:
    store = await opened(sound, inline=False)
    before = await event_ids(store)
    store._meet_damage(store._committer.opened)
    await store.heard([])

    assert await event_ids(store) == before
    assert await takes_events(store)
    name = store.state.salvaged
    assert (sound / name).exists()
    store._meet_damage(1)  # a reader that was still on the file before
    for _ in range(2):  # the report has crossed to the loop before the second
        await store.heard([])
    assert store.state.salvaged == name
    await store.close()


@pytest.mark.row("B7")
async def test_who_meets_damage_in_reading_is_answered_from_what_replaces_it(sound: Path) -> None:
    """Else a start that reads a broken page would be refused."""
    path = sound / FILE_NAME
    overwrite(path, (root_page(path, "heard") - 1) * page_size(path), b"\xff" * page_size(path))

    store = await opened(sound, inline=False)
    assert store.state.salvaged == "", "closed in order: nothing is checked at the start"

    assert await store.all_heard() == []
    assert store.state.salvaged
    assert len(await event_ids(store)) == EVENTS
    await store.close()


@pytest.mark.row("B7")
async def test_damaged_files_do_not_fill_the_disk(sound: Path) -> None:
    for _ in range(DAMAGED_KEPT + 2):
        (sound / FILE_NAME).write_bytes(b"no database" * 100)
        store = await opened(sound)
        await store.close()

    assert len([path for path in sound.iterdir() if ".damaged-" in path.name]) == DAMAGED_KEPT
    assert {path.name for path in sound.iterdir() if ".damaged-" not in path.name} == {FILE_NAME, "lock"}


class Killed(BaseException):
    """Stands for SIGKILL between two system calls."""


@pytest.mark.row("A6")
async def test_a_kill_during_recovery_only_delays_it(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sound / FILE_NAME
    overwrite(path, path.stat().st_size // 2, b"\xff" * 4096)
    rename, steps = Path.rename, 0
    for last_step in range(1, 9):
        broken = copy_of(sound, f"step{last_step}")
        (broken / f"{FILE_NAME}-wal").touch()
        steps = 0

        def dying(self: Path, target: Path, last: int = last_step) -> Path:
            nonlocal steps
            steps += 1
            if steps == last:
                raise Killed
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", dying)
        with suppress(Killed):
            await (await opened(broken)).close()
        monkeypatch.undo()

        store = await opened(broken)
        assert len(await event_ids(store)) > EVENTS // 2, last_step
        if steps >= last_step:
            assert (broken / store.state.salvaged).exists(), last_step
        await store.close()
    assert steps < last_step, "the loop above must reach past the last rename"


async def test_a_newer_file_is_refused_and_left_alone(sound: Path) -> None:
    db = sqlite3.connect(sound / FILE_NAME)
    db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"newer fangkong \(schema 99, this one knows 1\)"):
        await opened(sound)

    db.execute("PRAGMA user_version = 1")
    db.close()
    store = await opened(sound)  # also: the refusal let go of the lock
    assert len(await event_ids(store)) == EVENTS
    await store.close()


@pytest.mark.row("B7")
async def test_one_garbled_record_does_not_hide_the_others(sound: Path) -> None:
    db = sqlite3.connect(sound / FILE_NAME)
    db.execute("UPDATE events SET body = replace(body, '{', '[') WHERE seq = 3")
    db.execute("UPDATE events SET device = CAST(x'ff41' AS TEXT) WHERE seq = 4")
    db.commit()
    db.close()

    store = await opened(sound)
    rows = await store.pending("110", Lane.ALARM, after_seq=0, limit=5)

    assert [row.event.seq for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2].event.kind is Kind.UNKNOWN
    assert rows[2].event.code == "burglary"
    assert "damaged" in (rows[2].event.text or "")
    assert rows[3].event.device == "\N{REPLACEMENT CHARACTER}A"
    await store.close()


# -- the disk says no --------------------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A full disk that needs no mount: writes beyond `size` fail (Python ignores SIGXFSZ, so with EFBIG)."""
    _, hard = soft_and_hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_and_hard)


@pytest.mark.row("B2")
async def test_a_full_disk_is_told_to_all_and_recovers_without_traffic(tmp_path: Path) -> None:
    loop, committed = asyncio.get_running_loop(), asyncio.Event()

    def observe(_: float) -> None:
        loop.call_soon_threadsafe(committed.set)

    store = await SqliteStore.open(tmp_path, RealClock(), observe=observe)

    async def next_commit() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await committed.wait()
            committed.clear()

    confirmed: list[str] = []
    for _ in range(5):
        new = event()
        await (await store.append([Entry(new, ["110"])]))
        confirmed.append(new.id)
    assert (
        await event_ids(store) == confirmed
    )  # a reader is there, as in the daemon: the log ahead is not emptied on reopening
    # A few pages still fit in, a batch of events does not.
    with files_no_larger_than((tmp_path / f"{FILE_NAME}-wal").stat().st_size + 20_000):
        with pytest.raises(StoreError, match="not stored"):
            await (await store.append([Entry(event(raw=bytes(4000))) for _ in range(10)]))
        assert not store.state.ok
        assert store.state.error
        committed.clear()
        for _ in range(2):  # probes that must not mistake a page that fits for a disk that works
            await next_commit()
            assert not store.state.ok
        with pytest.raises(StoreError):
            await (await store.append([Entry(event(raw=bytes(4000))) for _ in range(10)]))
    while not store.state.ok:
        await next_commit()

    assert await event_ids(store) == confirmed
    assert (await store.backlog("110")).count[Lane.ALARM] == len(confirmed)
    assert await takes_events(store)
    await store.close()


class FailingOnce:
    """A connection whose COMMIT fails like a sync that returned EIO: nobody knows what reached the disk."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(statement, *values)

    def close(self) -> None:
        self._real.close()


@pytest.mark.row("B5")
async def test_after_a_failed_commit_the_connection_is_never_used_again(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await (await store.append([Entry(event(), ["110"])]))
    failing = FailingOnce(store._committer._connection)  # type: ignore[arg-type]  # set by open
    store._committer._connection = failing  # type: ignore[assignment]  # stands in for it, and breaks

    lost = event()
    with pytest.raises(StoreError, match="disk I/O error"):
        await (await store.append([Entry(lost, ["110"])]))
    assert not store.state.ok
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        failing.execute("SELECT 1")

    assert await takes_events(store)
    assert store.state.ok
    assert lost.id not in await event_ids(store)
    assert store.state.stored[Lane.ALARM] == 2
    assert (await store.backlog("110")).count[Lane.ALARM] == 2
    await store.close()


@pytest.mark.full
@pytest.mark.row("B5")
def test_a_sync_that_fails_in_the_kernel_is_not_confirmed(tmp_path: Path) -> None:
    inject = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=40..42"]
    child = subprocess.Popen(
        [tool("strace"), *inject, *CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert child.stdout is not None
    failed = confirmed_after = 0
    confirmed: list[str] = []
    for line in child.stdout:
        if line.startswith("failed"):
            assert "disk I/O error" in line
            failed += 1
        elif line.endswith("\n"):
            confirmed.append(line.strip())
            confirmed_after += failed > 0
        if confirmed_after >= 100 or len(confirmed) > 20_000:
            break
    child.terminate()
    child.stdout.close()
    child.wait()

    db = sqlite3.connect(tmp_path / FILE_NAME)
    kept = {name for (name,) in db.execute("SELECT id FROM events")}
    db.close()
    assert failed
    assert set(confirmed) <= kept


@pytest.mark.parametrize(
    "poison",
    [
        {"zone": 2**70},
        {"values": {"x": object()}},
        {"device": "a\ud800"},
        {"repeat_key": "a\ud800|1"},
        {"raw": None},
        {"device_time": datetime(2027, 1, 1)},  # noqa: DTZ001  # a driver's mistake
        {"code": b"\xff"},
    ],
    ids=["integer", "object", "surrogate", "surrogate in the key", "no bytes", "naive time", "bytes as text"],
)
async def test_of_an_alarm_that_cannot_be_stored_whole_the_rest_is_stored_and_sent(
    tmp_path: Path, poison: dict[str, object]
) -> None:
    """Refused, it would come again for ever, and with it everything of the same batch."""
    store = await opened(tmp_path, inline=False)
    receipts = [
        await store.append([Entry(event(**(poison if n == 25 else {})), ["110"]), Entry(event(), ["110"])])
        for n in range(50)
    ]
    await asyncio.gather(*receipts)

    (left,) = [kept for kept in await store.events(EventFilter()) if kept.text and "cannot be stored" in kept.text]
    assert (left.device[0], left.kind, left.lane) == ("a", Kind.BURGLARY, Lane.ALARM)
    assert len(await event_ids(store)) == store.state.stored[Lane.ALARM] == 100
    assert (await store.backlog("110")).count[Lane.ALARM] == 100
    await store.close()


async def test_what_cannot_be_stored_at_all_fails_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path, inline=False)
    receipts = [
        await store.append([Entry(event(**({"id": b"\xff", "kind": None} if n == 25 else {})), ["110"])])
        for n in range(50)
    ]

    results = await asyncio.gather(*receipts, return_exceptions=True)

    assert [n for n, result in enumerate(results) if isinstance(result, StoreError)] == [25]
    assert store.state.ok
    assert len(await event_ids(store)) == store.state.stored[Lane.ALARM] == 49
    await store.close()


async def test_the_last_moment_of_time_comes_back(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    ages = [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]
    await (await store.append([Entry(event(device_time=at, time_quality=TimeQuality.OK)) for at in ages]))

    kept = [row.device_time for row in await store.events(EventFilter())]

    assert kept == [ages[0].replace(microsecond=999000), ages[1]]
    await store.close()


class Unsure:
    """A connection that commits, and reports an error once."""

    reports_error = False

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        done = self._real.execute(statement, values)
        if statement == "COMMIT" and Unsure.reports_error:
            Unsure.reports_error = False
            raise sqlite3.OperationalError("disk I/O error")
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def test_what_a_failed_commit_has_left_in_the_file_is_found_by_who_empties_the_queue(tmp_path: Path) -> None:
    def connect(path: Path, *, read_only: bool = False) -> Any:
        return Unsure(schema.connect(path, read_only=read_only))

    store = await SqliteStore.open(tmp_path, RealClock(), inline=True, connect=connect)
    said: list[object] = []

    class Follower:
        def committed(self, rows: Sequence[Delivery]) -> None:
            said.extend(row.event.seq for row in rows)

        def requeued(self) -> None:
            said.append("look from the front")

    store.follow("110", Follower())
    Unsure.reports_error = True
    with pytest.raises(StoreError):
        await (await store.append([Entry(event(), ["110"])]))
    await (await store.append([Entry(event(), ["110"])]))

    assert said == ["look from the front", 2]
    await store.close()


async def test_after_a_report_that_was_not_stored_none_of_its_conversation_is(tmp_path: Path) -> None:
    def connect(path: Path, *, read_only: bool = False) -> Any:
        return Unsure(schema.connect(path, read_only=read_only))

    store = await SqliteStore.open(tmp_path, RealClock(), connect=connect)
    one, other = Series(), Series()
    Unsure.reports_error = True
    lost = await store.append([Entry(event())], series=one)
    late = await store.append([Entry(event())], series=one)
    with pytest.raises(StoreError, match="I/O error"):
        await lost
    with pytest.raises(StoreError):
        await late
    with pytest.raises(StoreError, match="an earlier report"):
        await (await store.append([Entry(event())], series=one))
    await (await store.append([Entry(event())], series=other))

    assert (one.is_broken, other.is_broken) == (True, False)
    await store.close()
