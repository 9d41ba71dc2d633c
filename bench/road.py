"""The road from a sensor to 110 under load: the gateway and the floors in turn, A B C A B C."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from bench.samples import Sample, share
from bench.systems import Failed, System, Talker, cpu_s, free_port, is_open, rss_mb

WARM_UP = 300
"""Events before anything is measured: imports, page cache, the first pages of each file."""
SUBSCRIBED_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` 0: all at once."""

    name: str
    count: int
    rate: float

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return self.count / self.rate if self.rate else self.count / 10_000


def steady(rate: float, seconds: float) -> Load:
    """Poisson arrivals."""
    return Load(f"steady {rate:g}/s", round(rate * seconds), rate)


MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 0
set_tcp_nodelay true
"""


@contextmanager
def stage(systems: Sequence[System], folder: Path, *, mosquitto: bool = False) -> Iterator[Talker]:
    """All systems running, each between its own two ends; the peer that plays them."""
    folder.mkdir(parents=True, exist_ok=True)
    estate = systems[0].estate
    with ExitStack() as stack:
        brokers = (
            [stack.enter_context(broker(folder / f"mosquitto-{n}.conf")) for n in range(len(systems))]
            if mosquitto
            else []
        )
        peer = Talker(
            "bench.peer", "--gateways", str(len(systems)), "--devices", str(estate.devices), "--accounts",
            str(estate.accounts), "--brokers", *map(str, brokers), log=folder / "peer.log",
        )  # fmt: skip
        stack.callback(peer.end)
        for index, (system, ports) in enumerate(zip(systems, peer.hear()["ports"], strict=True)):
            own = folder / str(index)
            own.mkdir()
            stack.callback(system.end)
            system.start(own, mqtt=ports["mqtt"], centre=ports["centre"])
            peer.ask(do="wait", gateway=index)
            if mosquitto:
                sleep(SUBSCRIBED_S)  # only the broker knows when
            peer.ask(do="load", gateway=index, count=WARM_UP, rate=0, seed=0)
        yield peer


@contextmanager
def broker(configuration: Path) -> Iterator[int]:
    """A real mosquitto; gives its port."""
    port = free_port()
    configuration.write_text(MOSQUITTO.format(port=port))
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise Failed("mosquitto is not installed (apt install mosquitto)")
    with subprocess.Popen([program, "-c", str(configuration)], stderr=subprocess.DEVNULL) as process:
        try:
            while not is_open(port):
                sleep(0.05)
            yield port
        finally:
            process.terminate()


def measure(peer: Talker, systems: Sequence[System], load: Load, nth: int) -> Iterator[Sample]:
    """The same events at the same moments through each system."""
    for index, system in enumerate(systems):
        syncs, kept_back, cpu = system.syncs(), system.kept_back(), cpu_s(system.pid)
        with system.watched():
            told = peer.ask(do="load", gateway=index, count=load.count, rate=load.rate, seed=1000 + nth)
        cpu, syncs = cpu_s(system.pid) - cpu, system.syncs() - syncs
        kept_back = system.kept_back() - kept_back
        latencies = sorted(told.pop("latencies_ms"))
        figures = {
            "p50_ms": share(latencies, 50),
            "p99_ms": share(latencies, 99),
            "max_ms": share(latencies, 100),
            "per_s": told["acked"] / told["seconds"] if told["seconds"] else 0.0,
            "kept_back": kept_back,
            "lost": told["sent"]
            - told["acked"]
            - kept_back,  # or still open, where `per_s` is below what was asked for
            "doubled": told["doubled"],
            "others": told["others"],
            "wrong": told["damaged"] + told["misordered"],
            "cpu_us": cpu / load.count * 1e6,
            "syncs": syncs / load.count,
            "rss_mb": rss_mb(system.pid),
            "peer_cpu_us": told["peer_cpu_s"] / load.count * 1e6,
        }
        yield Sample(load.name, system.name, nth, figures, latencies)
