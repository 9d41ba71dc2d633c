"""The daemon by itself: how it starts, rests, is scraped, and what the number of its devices costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep

from bench.estate import Estate
from bench.readers import Reader, connected
from bench.road import Load, measure, stage
from bench.samples import Sample, share
from bench.systems import TOKEN, Daemon, Talker, cpu_s, rss_mb

SCRAPE_PAUSE_S = 0.2
SETTLED_S = 2.0
"""After the start, before it counts as resting."""


def starts(daemon: Daemon, folder: Path, times: int) -> Iterator[Sample]:
    """From exec to a good /readyz, on data of the start before."""
    folder.mkdir()
    peer = Talker("bench.peer", log=folder / "peer.log")
    try:
        [ports] = peer.hear()["ports"]
        daemon.prepare(folder, broker=f'url = "mqtt://127.0.0.1:{ports["mqtt"]}"', centre=ports["centre"])
        for nth in range(times):
            yield Sample("start", daemon.name, nth, {"start_s": daemon.run()})
            daemon.end()
    finally:
        daemon.end()
        peer.end()


def rest(daemon: Daemon, folder: Path, seconds: float) -> Iterator[Sample]:
    """Nobody says anything."""
    with stage([daemon], folder):
        sleep(SETTLED_S)
        cpu, started = cpu_s(daemon.pid), perf_counter()
        sleep(seconds)
        percent = (cpu_s(daemon.pid) - cpu) / (perf_counter() - started) * 100
        yield Sample("idle", daemon.name, 0, {"cpu_percent": percent, "rss_mb": rss_mb(daemon.pid)})


def scrapes(daemon: Daemon, folder: Path, times: int) -> Iterator[Sample]:
    """/metrics, and how long nobody else was answered meanwhile."""
    with stage([daemon], folder):
        sleep(SETTLED_S)
        for path in ("metrics", "metrics/devices"):
            took, stalls = asyncio.run(_scrape(daemon.api, f"/{path}", times))
            for nth, (seconds, stall) in enumerate(zip(took, stalls, strict=True)):
                yield Sample(f"/{path}", daemon.name, nth, {"scrape_ms": seconds * 1000, "stall_ms": stall * 1000})


async def _scrape(port: int, path: str, times: int) -> tuple[list[float], list[float]]:
    """Seconds of each scrape, and by how much the slowest /healthz during it exceeded what one takes in peace."""
    pings: list[tuple[float, float]] = []
    scraped = []

    async def ping_for_ever(probe: Reader) -> None:
        while True:
            began = perf_counter()
            await probe.get("/healthz")
            pings.append((began, perf_counter()))

    async with connected(port, TOKEN) as prometheus, connected(port, TOKEN) as probe, asyncio.TaskGroup() as group:
        pinging = group.create_task(ping_for_ever(probe))
        for _ in range(times):
            await asyncio.sleep(SCRAPE_PAUSE_S)
            began = perf_counter()
            await prometheus.get(path)
            scraped.append((began, perf_counter()))
        pinging.cancel()
    usual = share(sorted(end - began for began, end in pings), 50)
    stalls = [
        max((end - began for began, end in pings if end > start and began < stop), default=0.0) - usual
        for start, stop in scraped
    ]
    return [stop - start for start, stop in scraped], stalls


def devices(few: Daemon, many: Daemon, folder: Path, load: Load, rounds: int) -> Iterator[Sample]:
    """The same load on a gateway with few devices and on one with many, in turn."""
    with stage([few], folder / "few") as for_few, stage([many], folder / "many") as for_many:
        for nth in range(rounds):
            yield from measure(for_few, [few], load, nth)
            yield from measure(for_many, [many], load, nth)


NO_STORMS = """
[storms]
window_s = 0
burst = 100000
per_s = 100000
life_burst = 100000
life_per_s = 100000
"""
"""So that 100 devices may say as much as 10 000."""


def few_devices(estate: Estate) -> Estate:
    """One device an account."""
    return Estate(devices=estate.accounts, accounts=estate.accounts)
