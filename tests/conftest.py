"""What every test may use: tools that must exist in CI, a clock that jumps."""

from __future__ import annotations

import asyncio
import heapq
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gateway.registry import migrate, schema
from tests.peers import PEERS, Bench

# How fast a machine makes up inputs says nothing about the program; a busy one fails such a check now and then.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--driver NAME`: ask the questions of tests/test_every_driver.py of this driver alone, one from elsewhere by dotted path."""
    parser.addoption("--driver", action="append", default=[], metavar="NAME", help="driver, or one by its dotted path")
    parser.addoption("--all-peers", action="store_true", help="fail when a peer of tests/peers.py has judged nothing")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Bench(PEERS, all_wanted=config.getoption("--all-peers")))


def tool(name: str) -> str:
    """Path of an apt tool. Missing: skip on a desk, fail in CI, where a skip would hide a hole."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; .ci/run must install it")
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="session", autouse=True)
def fresh_ledgers_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Three hundred tests open an empty ledger: the migrations make the first, and the others in this process are its copies.

    Files that exist, processes that tests start and the tests of `migrate` itself go the long way.
    """
    made = tmp_path_factory.mktemp("ledger") / "registry.db"
    names: list[str] = []

    async def copied(path: Path) -> list[str]:
        if path.exists():
            return await migrate(path)
        if not names:
            names.extend(await migrate(made))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(made, path)
        return list(names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "migrate", copied)
        yield


class JumpingClock:
    """A clock whose sleepers wake in order as soon as `advance` passes their moment: a day takes a millisecond."""

    def __init__(self, start: datetime = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)) -> None:
        self._wall = start
        self._mono = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._mono

    def jump_wall(self, seconds: float) -> None:
        """The wall clock steps; durations do not."""
        self._wall += timedelta(seconds=seconds)

    async def sleep(self, delay_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._mono + max(0.0, delay_s), self._count, future))
        await future

    async def settle(self) -> None:
        """Let every task that can run do so, without passing time."""
        for _ in range(20):
            await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing

    async def advance(self, seconds: float) -> None:
        """Pass time, waking each sleeper at its own moment."""
        end = self._mono + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, future = heapq.heappop(self._sleepers)
            self._move(at)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._move(end)
        await self.settle()

    def _move(self, to: float) -> None:
        step = max(0.0, to - self._mono)
        self._mono += step
        self._wall += timedelta(seconds=step)


@pytest.fixture
def jumping_clock() -> JumpingClock:
    return JumpingClock()
