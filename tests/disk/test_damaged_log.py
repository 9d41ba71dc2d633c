"""The whole gateway on an event log that the disk has spoiled: it starts, says so, keeps what can be read, and goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import housekeeping
from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.forwarders import Outlet
from gateway.model import Event, Kind, Qualifier
from gateway.store import Entry, EventFilter
from gateway.store.sqlite import FILE_NAME, SqliteStore
from tests.gateway.test_daemon import forwarder, running
from tests.gateway.test_store_faults import event

__all__ = ["forwarder"]

EVENTS = 200
PATIENCE_S = 20.0
WAL = f"{FILE_NAME}-wal"
HEADER_BYTES = 100
"""SQLite file format, section 1.3: fields that can claim anything, a newer program say."""


def flip(name: str, seed: int) -> Callable[[Path], None]:
    """Forty bits somewhere."""

    def harm(data_dir: Path) -> None:
        random, path = Random(seed), data_dir / name
        content = bytearray(path.read_bytes())
        for _ in range(40):
            content[random.randrange(HEADER_BYTES, len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)

    return harm


def blank(seed: int) -> Callable[[Path], None]:
    """Three pages that the disk gives back as zeros."""

    def harm(data_dir: Path) -> None:
        path = data_dir / FILE_NAME
        content = bytearray(path.read_bytes())
        at = Random(seed).randrange(1, len(content) // 4096 - 3) * 4096
        content[at : at + 3 * 4096] = bytes(3 * 4096)
        path.write_bytes(content)

    return harm


def cut(name: str) -> Callable[[Path], None]:
    return lambda data_dir: os.truncate(data_dir / name, (data_dir / name).stat().st_size * 6 // 10)


def become(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda data_dir: (data_dir / name).write_bytes(content)


@pytest.mark.row("B7")
@pytest.mark.parametrize(
    ("harm", "least_kept"),
    [
        *(pytest.param(flip(FILE_NAME, seed), 1, id=f"flipped bits, seed {seed}") for seed in range(6)),
        *(pytest.param(blank(seed), 1, id=f"blank pages, seed {seed}") for seed in range(3)),
        pytest.param(cut(FILE_NAME), 1, id="file cut short"),
        pytest.param(become(FILE_NAME, b""), 0, id="empty file"),
        pytest.param(become(FILE_NAME, b"This is not a database." * 500), 0, id="no database"),
        pytest.param(flip(WAL, 1), EVENTS // 2, id="flipped bits in the log ahead"),
        pytest.param(cut(WAL), EVENTS // 2, id="log ahead cut short"),
        pytest.param(become(WAL, b""), EVENTS // 2, id="log ahead empty"),
        pytest.param(become(WAL, b"nothing of SQLite" * 500), EVENTS // 2, id="log ahead of garbage"),
        pytest.param(become(f"{FILE_NAME}-shm", b"garbage" * 5000), EVENTS, id="index of the log ahead of garbage"),
    ],
)
async def test_the_gateway_outlives_what_the_disk_does_to_its_log(
    tmp_path: Path,
    forwarder: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], Any],
    least_kept: int,
) -> None:
    before = await spoiled_log(tmp_path, harm)
    outlets: list[Outlet] = []

    async def run(outlet: Outlet) -> None:
        outlets.append(outlet)
        await asyncio.Event().wait()

    forwarder(run)
    monkeypatch.setattr(housekeeping, "LOOK_S", 0.05)
    async with running(tmp_path), asyncio.timeout(PATIENCE_S):
        outlet = outlets[0]
        store = outlet.store
        assert isinstance(store, SqliteStore)
        if store._check_up:
            await asyncio.wrap_future(store._check_up.finished)
        await report(outlet, Kind.AC_LOSS)
        await report(outlet, Kind.BATT_LOW)

        kept = await all_events(store)
        assert len(before & {each.id for each in kept}) >= least_kept
        assert {Kind.AC_LOSS, Kind.BATT_LOW} <= {each.kind for each in kept}
        while store.state.salvaged and not any(
            each.kind is Kind.JOURNAL_FAULT and store.state.salvaged in (each.text or "") for each in kept
        ):
            await RealClock().sleep(0.05)
            kept = await all_events(store)
        assert not store.state.salvaged or (tmp_path / "var" / store.state.salvaged).exists()
        assert store.state.ok


async def spoiled_log(folder: Path, harm: Callable[[Path], Any]) -> set[str]:
    """A log as a killed gateway leaves it, half in the file and half in the log ahead, then harmed. Returns the ids in it."""
    data_dir = folder / "before"
    store = await SqliteStore.open(data_dir, RealClock())
    events = [event(raw=bytes(300)) for _ in range(EVENTS)]
    await (await store.append([Entry(each, ["centre"]) for each in events[: EVENTS // 2]]))
    await store.close()
    store = await SqliteStore.open(data_dir, RealClock())
    await (await store.append([Entry(each, ["centre"]) for each in events[EVENTS // 2 :]]))
    shutil.copytree(data_dir, folder / "var")
    await store.close()
    harm(folder / "var")
    return {each.id for each in events}


async def report(outlet: Outlet, kind: Kind) -> None:
    """As the forwarder says something; the commit that meets the damage may fail, the next one must not."""
    with suppress(StoreError):
        await outlet.report(kind, Qualifier.NEW, "")
        return
    await outlet.report(kind, Qualifier.NEW, "")


async def all_events(store: SqliteStore) -> list[Event]:
    return list(await store.events(EventFilter(), limit=10_000))


@pytest.mark.row("B7")
async def test_who_reads_while_the_file_is_exchanged_gets_the_rows_of_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened between two renames, SQLite found the pages of one file and the log of the other: "disk I/O error"."""
    await spoiled_log(tmp_path, lambda _: None)
    rename = Path.rename

    def slow_rename(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        asked.wait(0.1)
        return moved

    asked = threading.Event()  # never set: it only makes each rename last
    store = await SqliteStore.open(tmp_path / "var", RealClock())
    try:
        await all_events(store)
        monkeypatch.setattr(Path, "rename", slow_rename)
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_S):
            renewal = group.create_task(_renewed(store))
            while not renewal.done():
                assert len(await all_events(store)) == EVENTS
                store._people._opened = -1  # as if this were the first question: the file is opened
    finally:
        await store.close()


async def _renewed(store: SqliteStore) -> None:
    await store._renew(store._committer.opened)
