"""A process of its own that appends to a log and prints an id only when its receipt has settled. Killed by tests."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from gateway.clock import RealClock
from gateway.errors import StoreError
from gateway.ids import EventIds
from gateway.model import Event, Kind, Lane, Qualifier
from gateway.store import Entry
from gateway.store.committer import Committer
from gateway.store.sqlite import SqliteStore

APPENDERS = 20


async def append_for_ever(store: SqliteStore, ids: EventIds) -> None:
    while True:
        event = Event(
            ids.next(), "a001", Kind.PANIC, Qualifier.NEW, Lane.LIFE, datetime(2027, 1, 15, tzinfo=UTC), "test", "c1"
        )
        try:
            await (await store.append([Entry(event, ["110", "property"])]))
        except StoreError as error:
            os.write(1, f"failed {error}\n".encode())
        else:
            os.write(1, f"{event.id}\n".encode())


async def main(data_dir: Path) -> None:
    try:
        store = await SqliteStore.open(data_dir, RealClock())
    except StoreError as error:
        sys.exit(str(error))
    ids = EventIds(RealClock(), Random(os.getpid()))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(APPENDERS):
            tasks.create_task(append_for_ever(store, ids))


if __name__ == "__main__":
    if sys.argv[2:] == ["unsynced"]:  # for an experiment that must lose something
        commit = Committer.commit
        Committer.commit = lambda self, jobs, **_: commit(self, jobs, synced=False)  # type: ignore[method-assign]  # the experiment
    asyncio.run(main(Path(sys.argv[1])))
