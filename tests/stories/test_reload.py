"""Changes of the configuration under full traffic: nothing is lost, nothing leaks, unconcerned lines stay open."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.errors import LinkClosed
from gateway.kinds import Kind
from simulators._clock import RealClock
from simulators._world import World
from simulators.police_centre import PoliceCentre
from simulators.rf_serial import acknowledged, line
from tests.stories.box import Box, free_ports, until
from tests.stories.test_kill import raise_for_ever
from tests.stories.town import NEW, RESTORE, Town, town

DEVICES = 12
SENSORS = 4
PANEL_EVERY_S = 0.05
FENCE_STATE_S = 2.5
"""What a zone shows at the least: a condition counts at its first reading, its end at the second, and each second has one."""
MORE = """\
[[connection]]
name = "hall"
driver = "rf_serial"
link = "tcp-listen://127.0.0.1:{port}"
[connection.settings]
receiver = "rf-2"
profile = "kerui_ev1527"

[[destination]]
name = "estate"
forwarder = "dc09"
lanes = ["life"]
[destination.settings]
connect = "127.0.0.1:{estate}"
"""
NO_STORM = """\
[storms]
window_s = 0
burst = 100_000
per_s = 100_000
life_burst = 100_000
life_per_s = 100_000
"""
"""A few devices make the traffic of many here: each event must be sent on by itself."""

MEMORY_MAY_GROW = 1.1
"""Between two moments far apart with the same configuration: allocators breathe, a leak of 10 KB a change does not fit."""


class Panel:
    """A radio receiver on a TCP line. It dials once: a line that is closed under it fails the story."""

    def __init__(self, port: int, world: World) -> None:
        self._port, self._world, self._boot = port, world, f"{world.boot():08X}"
        self._waiting: dict[tuple[str, str], tuple[str, bool]] = {}
        self.is_quiet = False
        """Raises nothing new, and goes on hearing."""

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._raise(writer))
                tasks.create_task(self._hear(reader))
        finally:
            writer.close()

    async def _raise(self, writer: asyncio.StreamWriter) -> None:
        for n in count():
            if self.is_quiet:
                return
            sensor, restore = n // 2 % SENSORS, bool(n % 2)
            key, device = (self._boot, f"{n + 1:08X}"), f"ev1527-8065{sensor}"
            self._waiting[key] = device, restore
            self._world.ledger.raised("panel", device, "burglary", restore=restore, zone=None, ref="/".join(key))
            code = f"8065{sensor}{'7' if restore else 'A'}"
            writer.write(line("RX", *key, "EV1527", code, "-60", "0"))
            await self._world.clock.sleep(PANEL_EVERY_S)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while told := await reader.readline():
            if key := acknowledged(told.decode().strip()):
                device, restore = self._waiting.pop(key)
                ref = "/".join(key)
                self._world.ledger.acknowledged("panel", device, "burglary", restore=restore, zone=None, ref=ref)
        raise LinkClosed("the gateway hung up on a line that did not change")


async def guard_fences(place: Town, fences: list[Any], clock: RealClock) -> None:
    """Each fence's zones in turn. The controllers latch: a state stands until 110 has it, however late a polling was answered."""
    for lap in count(1):
        for zone in range(1, 9):
            for qualifier in (NEW, RESTORE):
                for fence in fences:
                    await fence.do("perimeter", zone=zone, restore=qualifier == RESTORE)
                await clock.sleep(FENCE_STATE_S)
                for fence in fences:
                    await until(
                        lambda fence=fence, zone=zone, qualifier=qualifier, lap=lap: (
                            place.count_at_110(fence.device, zone, Kind.PERIMETER, qualifier) >= lap
                        ),
                        within_s=30,
                        what=f"110 has lap {lap} of {fence.device}, zone {zone}, qualifier {qualifier}",
                    )


def reload(box: Box, text: str) -> Any:
    """Write the site file and let the gateway take it, as `fangkong config apply` does."""
    (box.folder / "site.toml").write_text(text, encoding="utf-8")
    request = urllib.request.Request(
        f"http://127.0.0.1:{box.api}/api/v1/config/reload",
        b'{"who": "story"}',
        {"Authorization": "Bearer for-this-test-only", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def sockets(pid: int, port: int) -> set[str]:
    """The gateway's open sockets with this port at either end, by the kernel's number for each."""
    held = {Path(f"/proc/{pid}/fd/{fd.name}").readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    wanted, is_open = f":{port:04X}", "01"
    return {
        row[9]
        for row in rows
        if row[3] == is_open and wanted in (row[1][-5:], row[2][-5:]) and Path(f"socket:[{row[9]}]") in held
    }


def used(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads, and memory in KB."""
    status = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]), int(status["VmRSS"].split()[0])


def on_tcp(box: Box, port: int) -> str:
    """The demo's site file with its radio receiver on a TCP line."""
    text = (box.folder / "site.toml").read_text()
    text = text.replace(f"serial://{box.pty}?baud=9600", f"tcp-listen://127.0.0.1:{port}")
    assert f":{port}" in text
    head, _, rest = text.partition("[storms]\n")
    return head + NO_STORM + rest.partition("\n\n")[2]


@pytest.mark.row("I2")
@pytest.mark.parametrize(
    "times",
    [48, pytest.param(300, marks=pytest.mark.full), pytest.param(1000, marks=pytest.mark.soak)],
)
async def test_changes_under_traffic_lose_nothing_leak_nothing_and_leave_other_lines_open(
    tmp_path: Path, times: int
) -> None:
    panel_port, hall = free_ports(2)
    async with PoliceCentre() as estate, town(tmp_path) as place:
        box, clock = place.box, RealClock()
        base = on_tcp(box, panel_port)
        more = base + MORE.format(port=hall, estate=estate.port)
        await asyncio.to_thread(reload, box, base)  # the serial line becomes a TCP line: the first change
        assert box.process is not None
        pid = box.process.pid
        fences = await place.fences()
        alarms = [place.alarm(f"a{n:03}") for n in range(1, DEVICES + 1)]
        lines = {"panel": panel_port, "broker": box.mqtt, "fences": box.modbus}
        async with asyncio.TaskGroup() as group:
            panel = Panel(panel_port, place.world)
            traffic = [
                group.create_task(panel.run()),
                group.create_task(raise_for_ever(alarms, Random(110), clock)),
                group.create_task(guard_fences(place, fences, clock)),
            ]
            await until(lambda: place.audit().delivered > 50, within_s=30, what="traffic flows")
            before = {name: sockets(pid, port) for name, port in lines.items()}
            assert all(len(held) == 1 for held in before.values()), before

            outcomes, uses = [], []
            for n in range(times):
                text, so_far = (more, more, base, base)[n % 4], len(place.ledger)
                outcomes.append((await asyncio.to_thread(reload, box, text))["outcome"])
                await until(
                    lambda so_far=so_far: len(place.ledger) > so_far, within_s=10, what="traffic between changes"
                )
                if n % 4 == 3:
                    uses.append(used(pid))

            assert outcomes == ["applied", "unchanged"] * (times // 2)
            assert {name: sockets(pid, port) for name, port in lines.items()} == before
            panel.is_quiet = True
            for task in traffic[1:]:
                task.cancel()
            await until(
                lambda: place.audit().lost == 0 and place.audit().delivered == place.audit().alarms,
                within_s=60,
                what="everything raised is at 110",
                tell=lambda: str(place.audit()),
            )
            traffic[0].cancel()
        audit = place.audit()
        assert (audit.lost, audit.duplicates) == (0, 0), audit
        assert estate.audit.new_key_duplicates == 0
        assert estate.received
        assert box.metric("fangkong_config_reloads_total", outcome="refused") == 0
        place.assert_unhurt()
    early, late = uses[len(uses) // 4 :][: len(uses) // 4], uses[-len(uses) // 4 :]
    assert min(fds for fds, _, _ in late) <= max(fds for fds, _, _ in early), uses
    assert len({threads for _, threads, _ in uses}) == 1, uses
    assert min(rss for *_, rss in late) <= MEMORY_MAY_GROW * max(rss for *_, rss in early), uses
    print(
        f"RELOADS {times} events={audit.alarms} descriptors={early[0][0]}->{late[-1][0]} "
        f"threads={early[0][1]}->{late[-1][1]} rss_kb={early[0][2]}->{late[-1][2]}"
    )


@pytest.mark.full
@pytest.mark.row("I2")
async def test_kills_in_the_middle_of_changes_lose_and_double_nothing(tmp_path: Path) -> None:
    """kill -9 at a random moment while one change follows the other, eight times; each start takes the file that is there."""
    panel_port, hall = free_ports(2)
    random = Random(24)
    async with PoliceCentre() as estate, town(tmp_path) as place:
        box, clock = place.box, RealClock()
        base = on_tcp(box, panel_port)
        more = base + MORE.format(port=hall, estate=estate.port)
        await asyncio.to_thread(reload, box, base)
        alarms = [place.alarm(f"a{n:03}") for n in range(1, DEVICES + 1)]
        async with asyncio.TaskGroup() as group:
            load = group.create_task(raise_for_ever(alarms, random, clock))
            for _ in range(8):
                changing = group.create_task(change_for_ever(box, base, more))
                await clock.sleep(random.uniform(0.3, 1.5))
                await box.kill()
                changing.cancel()
                await asyncio.wait([changing])
                (box.folder / "site.toml").write_text(random.choice((base, more)))
                await box.start()
            load.cancel()
        await until(
            lambda: place.audit().lost == 0 and place.audit().delivered == place.audit().alarms,
            within_s=60,
            what="everything raised is at 110",
            tell=lambda: str(place.audit()),
        )
        assert place.audit().duplicates == 0
        assert estate.audit.new_key_duplicates == 0


async def change_for_ever(box: Box, base: str, more: str) -> None:
    """Until the gateway is gone."""
    with suppress(OSError):
        while True:
            for text in (more, base):
                await asyncio.to_thread(reload, box, text)
