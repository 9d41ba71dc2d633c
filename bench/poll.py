"""Many Modbus TCP devices at a quick pace: is each asked in time, and no oftener than its map needs?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

from bench.samples import Sample, share
from bench.systems import Daemon, Failed, Talker, cpu_s, rss_mb

DEVICES = 500
EVERY_S = 0.2
INPUTS = 16
CONNECTED_WITHIN_S = 60.0
SETTLED_S = 3.0
"""After all are connected: their beginnings crowd."""

_PROFILE = f"""\
driver = "modbus_points"
every_s = {EVERY_S}
heard_within_s = 10
""" + "".join(
    f"""
[[point]]
name = "input {zone}"
zone = {zone}
read = {{ table = "discrete_input", address = {zone - 1} }}
means = {{ 0 = "burglary", 1 = "restore" }}
"""
    for zone in range(1, INPUTS + 1)
)
"""One contiguous range: one request a poll."""

_CONNECTION = """
[[connection]]
name = "m{index}"
driver = "modbus_points"
link = "modbus+tcp://127.0.0.1:{port}?timeout_ms=1000"
[connection.settings]
units = [{{ unit = 1, device = "m{index}", profile = "bench16" }}]
"""


def polls(daemon: Daemon, folder: Path, seconds: float, count: int = DEVICES) -> Iterator[Sample]:
    """`count` devices, each on a line of its own as on a network."""
    folder.mkdir()
    peer = Talker("bench.peer", log=folder / "peer.log")
    slaves = Talker("bench.slaves", log=folder / "slaves.log")
    try:
        [ports], port = peer.hear()["ports"], slaves.hear()["port"]
        (folder / "profiles").mkdir()
        (folder / "profiles" / "bench16.toml").write_text(_PROFILE)
        lines = "".join(_CONNECTION.format(index=index, port=port) for index in range(count))
        daemon.prepare(folder, broker=f'url = "mqtt://127.0.0.1:{ports["mqtt"]}"', centre=ports["centre"], more=lines)
        daemon.run()
        deadline = monotonic() + CONNECTED_WITHIN_S
        while slaves.ask(do="watch")["devices"] < count:
            if monotonic() > deadline:
                raise Failed(f"not all devices are polled: {(folder / 'gateway.log').read_text()[-2000:]}")
            sleep(0.2)
        sleep(SETTLED_S)
        slaves.ask(do="watch")
        cpu = cpu_s(daemon.pid)
        sleep(seconds)
        cpu = cpu_s(daemon.pid) - cpu
        told = slaves.ask(do="tell", every_s=EVERY_S)
        late = sorted(told["late_ms"])
        figures = {
            "late_p50_ms": share(late, 50),
            "late_p99_ms": share(late, 99),
            "late_max_ms": share(late, 100),
            "late_count": sum(each > 10 for each in late),
            "requests_per_poll": told["requests"] / told["polls"],
            "polls_made": told["polls"] / (told["devices"] * seconds / EVERY_S),
            "polled": told["devices"],
            "cpu_percent": cpu / seconds * 100,
            "cpu_us": cpu / told["requests"] * 1e6,
            "rss_mb": rss_mb(daemon.pid),
        }
        yield Sample("polls", daemon.name, 0, figures, late)
    finally:
        daemon.end()
        slaves.end()
        peer.end()
