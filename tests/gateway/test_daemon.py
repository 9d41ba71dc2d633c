"""The whole daemon in this process: which faults of a part it must outlive, and what it counts from the first second on."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from gateway import housekeeping, logs
from gateway.audit import verify
from gateway.clock import RealClock
from gateway.daemon import Daemon
from gateway.forwarders import Outlet
from gateway.metrics import Metrics
from gateway.plan import prepare
from gateway.south import South
from gateway.store.sqlite import SqliteStore

PATIENCE_S = 20
SITE = """
[gateway]
data_dir = "var"
[api]
listen = "127.0.0.1:0"
[[destination]]
name = "centre"
forwarder = "testing.forwarder"
lanes = ["life", "fault"]
"""


@pytest.fixture
def forwarder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Outlet], Awaitable[None]]], None]:
    """Register a forwarder whose `run` is the one given."""

    def register(run: Callable[[Outlet], Awaitable[None]]) -> None:
        module = ModuleType("testing.forwarder")
        vars(module).update(
            NUMBERED=False, RECEIPTS=False, run=run, wants=lambda event: True, check=lambda settings, base: None
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return register


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Daemon]:
    """A ready daemon, ended in order at the end of the block."""
    logs.set_up("info")
    (folder / "site.toml").write_text(SITE)
    made = Daemon(prepare(folder / "site.toml"), clock=RealClock(), random=Random(1), log=logs.logger())
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(made.run())
        await made.ready.wait()
        yield made
        made.stop()


def value(made: Daemon, name: str, **labels: str) -> float | None:
    return made._metrics.registry.get_sample_value(f"fangkong_{name}", labels)


async def test_the_head_of_the_audit_record_is_shown_and_a_loss_is_told(
    tmp_path: Path, forwarder: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarder(lambda outlet: asyncio.Event().wait())
    monkeypatch.setattr(housekeeping, "AUDIT_LOOK_S", 0.02)
    path = tmp_path / "var" / "audit.db"
    async with running(tmp_path) as made:
        while value(made, "audit_rows") != 1:  # the first account
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks; bounded by `running`
        assert (value(made, "audit_head"), value(made, "audit_ok")) == (verify(path).head.mark, 1)
        path.unlink()
        while value(made, "audit_ok") != 0:
            await asyncio.sleep(0.01)  # noqa: TID251


async def test_the_time_between_two_starts_is_a_fact(tmp_path: Path, forwarder: Callable[[Any], None]) -> None:
    forwarder(lambda outlet: asyncio.Event().wait())
    alive, now = tmp_path / "var" / "alive", RealClock().now().timestamp()

    async def until(is_so: Callable[[], bool]) -> None:
        while not is_so():
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks; bounded by `running`

    async with running(tmp_path):
        await until(alive.exists)
    os.utime(alive, (now - 3600, now - 3600))
    async with running(tmp_path):
        await until(lambda: len(told(tmp_path)) == 2)
        await until(lambda: alive.stat().st_mtime >= now)
    (off, since_ms), (is_on, until_ms) = told(tmp_path)
    assert (off, is_on) == ("silent", "working")
    assert 3599 <= (until_ms - since_ms) / 1000 < 3600 + PATIENCE_S


def told(folder: Path) -> list[tuple[str, int]]:
    """States of the gateway itself, and from when on."""
    with closing(sqlite3.connect(folder / "var" / "registry.db")) as ledger:
        rows = ledger.execute("SELECT value, valid_from FROM fact WHERE sort = 'health' ORDER BY id").fetchall()
    return [(json.loads(value)["state"], at) for value, at in rows]


async def test_a_forwarder_that_fails_is_started_again_and_the_gateway_stays(
    tmp_path: Path, forwarder: Callable[[Any], None]
) -> None:
    again = asyncio.Event()
    starts: list[str] = []

    async def run(outlet: Outlet) -> None:
        starts.append(outlet.destination)
        if len(starts) == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        again.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        raise ValueError("an event that nobody thought of")

    forwarder(run)
    async with running(tmp_path) as made:
        await again.wait()

        assert starts == ["centre", "centre"]
        assert value(made, "forwarder_errors_total", destination="centre") == 1


async def test_a_forwarder_that_fails_as_it_is_stopped_does_not_hold_up_the_end(
    tmp_path: Path, forwarder: Callable[[Any], None]
) -> None:
    async def run(outlet: Outlet) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("fails while it says goodbye")

    forwarder(run)
    async with running(tmp_path):
        pass  # ends within the patience of `running`


async def test_what_stands_at_the_start_is_not_collected_again_and_let_go_at_the_end(
    tmp_path: Path, forwarder: Callable[[Any], None]
) -> None:
    """Each collection walked the whole program, some 30 ms in which no alarm moved."""

    async def run(outlet: Outlet) -> None:
        await asyncio.Event().wait()

    forwarder(run)
    async with running(tmp_path):
        assert gc.get_freeze_count() > 10_000

    assert gc.get_freeze_count() == 0


async def test_what_can_be_counted_is_there_before_the_first_event(
    tmp_path: Path, forwarder: Callable[[Any], None]
) -> None:
    """An alert sees no increase in a series that begins with its first error."""

    async def run(outlet: Outlet) -> None:
        await asyncio.Event().wait()

    forwarder(run)
    async with running(tmp_path) as made:
        assert value(made, "forwarder_errors_total", destination="centre") == 0
        assert value(made, "repeats_total") == 0


@pytest.mark.row("B6")
async def test_a_loop_that_stands_still_is_measured(tmp_path: Path, forwarder: Callable[[Any], None]) -> None:
    async def run(outlet: Outlet) -> None:
        await asyncio.Event().wait()

    forwarder(run)
    async with running(tmp_path) as made:
        while (value(made, "loop_lag_seconds_count") or 0) < 3:
            await RealClock().sleep(0.01)
        time.sleep(0.5)  # noqa: TID251  # what no code of ours may do
        while not (value(made, "loop_lag_seconds_sum") or 0) > 0.3:
            await RealClock().sleep(0.01)

        late = (value(made, "loop_lag_seconds_count") or 0) - (value(made, "loop_lag_seconds_bucket", le="0.25") or 0)
        assert late == 1


async def test_a_long_pruning_does_not_starve_the_watchdog(
    tmp_path: Path, forwarder: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(outlet: Outlet) -> None:
        await asyncio.Event().wait()

    async def endless(store: SqliteStore, before: datetime) -> int:
        pruning.set()
        return await asyncio.Future()

    pruning = asyncio.Event()
    forwarder(run)
    monkeypatch.setattr(SqliteStore, "prune", endless)
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", 0.01)
    monkeypatch.setattr(housekeeping, "LOOK_S", 0.02)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with running(tmp_path):
            await pruning.wait()
            loop = asyncio.get_running_loop()
            said = [await loop.sock_recv(manager, 64) for _ in range(20)]  # far more than went before the pruning

    assert said[-3:] == [b"WATCHDOG=1"] * 3


@pytest.mark.row("D5")
async def test_what_the_broker_drops_is_counted_from_now_on_also_when_it_begins_anew() -> None:
    nobody: Any = None
    metrics = Metrics()
    south = South(
        supervisor=nobody, intake=nobody, own=nobody, subscribed_before=set(), clock=nobody, random=nobody,
        metrics=metrics, log=logs.logger(),
    )  # fmt: skip

    for said in (500, 500, 507, 2):
        south._broker_drops(said)
    assert metrics.registry.get_sample_value("fangkong_broker_dropped_messages_total") == 7 + 2
