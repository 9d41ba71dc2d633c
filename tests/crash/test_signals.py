"""What a process may be told or refused by its system, under load: to stop, to stand still, to live on little memory."""

from __future__ import annotations

import signal
from pathlib import Path
from random import Random

import pytest

from gateway.cli.demo_audit import balance
from gateway.kinds import FACTS, Kind
from simulators.faults import TcpProxy
from tests.conftest import tool
from tests.crash import kills
from tests.crash.sweep import PATIENCE_S, settled
from tests.crash.town import DEVICES, Town, town, where
from tests.stories.box import until

STOOD_STILL_S = 18.0
"""Longer than one and a half of MQTT's keep-alive intervals of 10 s, after which the broker gives the gateway up."""
HEARD_WITHIN_S = 4.0
RECONNECTS_MAX = 3
MEMORY_TO_SPARE_BYTES = 40 << 20
GROWTH_MAX_KB = 64 << 10
"""Of resident memory while 110 is away and everybody speaks at once."""
BURST = 100
"""Events of each device."""


def assert_balanced(place: Town) -> None:
    audit = balance(kills.rows(place.ledger_file), kills.rows(place.record_file), where)
    assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())
    assert place.centre.audit.new_key_duplicates == 0


@pytest.mark.full
@pytest.mark.row("A7")
async def test_told_to_stop_twice_under_load_it_ends_in_order_and_loses_nothing(tmp_path: Path) -> None:
    tool("mosquitto")
    report = await kills.run(tmp_path, kills=10, seed=7, signals=(signal.SIGTERM, signal.SIGTERM))
    print(report.table())

    assert report.is_good, report.audit.missing


@pytest.mark.full
@pytest.mark.row("A8")
async def test_a_process_that_stood_still_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its timers are all overdue: nobody is called silent for it, both lines are made anew once, nothing is lost."""
    tool("mosquitto")
    async with town(tmp_path, seed=8, heard_within_s=HEARD_WITHIN_S) as place:
        place.switch_on(DEVICES, heartbeat_s=1)
        gateway = await place.start()
        await place.ready()
        await kills.raise_some(place, Random(8), 100)
        await settled(place)
        lines = connections(place.to_110), connections(place.to_broker)

        gateway.signal(signal.SIGSTOP)
        await kills.raise_some(place, Random(9), 100)
        await place.world.clock.sleep(STOOD_STILL_S)
        gateway.signal(signal.SIGCONT)
        await settled(place)
        await place.world.clock.sleep(2 * HEARD_WITHIN_S)

        silent = [row for row in place.centre.received if row.code == FACTS[Kind.SILENT].contact_id]
        assert silent == []
        assert connections(place.to_110) <= lines[0] + RECONNECTS_MAX
        assert connections(place.to_broker) <= lines[1] + RECONNECTS_MAX
        assert await place.end() == 0, place.log[-3000:]
    assert_balanced(place)


def connections(line: TcpProxy) -> int:
    """How many there have been."""
    return line._joined


@pytest.mark.full
@pytest.mark.row("A9")
async def test_on_little_memory_it_holds_or_dies_and_loses_nothing(tmp_path: Path) -> None:
    """110 is away and everybody speaks at once: what waits for 110 waits on disk."""
    tool("mosquitto")
    async with town(tmp_path, seed=9) as place:
        place.switch_on(DEVICES)
        gateway = await place.start()
        await place.ready()
        room = status_kb(gateway.pid, "VmPeak") * 1024 + MEMORY_TO_SPARE_BYTES
        await place.kill()

        gateway = await place.start(memory_bytes=room)
        await place.ready()
        before = status_kb(gateway.pid, "VmRSS")
        await place.centre.off()
        await kills.raise_some(place, Random(9), BURST * DEVICES)
        ledger = place.world.ledger
        await until(
            lambda: ledger.acknowledged_count == ledger.raised_count or not gateway.is_running,
            within_s=PATIENCE_S,
            what="all are acknowledged, or it has died",
        )
        print("held" if gateway.is_running else f"died with {await gateway.wait()}")
        if gateway.is_running:
            assert status_kb(gateway.pid, "VmRSS") - before < GROWTH_MAX_KB
            await place.kill()
        await place.centre.on()
        await place.start()
        await settled(place)
        assert await place.end() == 0, place.log[-3000:]
    assert_balanced(place)


def status_kb(pid: int, name: str) -> int:
    """proc(5)."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])
