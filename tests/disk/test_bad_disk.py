"""A disk that is full, read-only or slow under a running gateway: no answer it cannot stand for, told, and over when it is over."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import urllib.error
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.kinds import Kind
from simulators._clock import RealClock
from tests.conftest import tool
from tests.disk.ground import image_disk, memory_disk
from tests.stories.box import until
from tests.stories.town import Town, town

pytestmark = pytest.mark.full

NOTICED_WITHIN_S = 30.0
OVER_WITHIN_S = 60.0
EVENTS_MOST = 400
"""A disk without room still has what the log was given before: it may take this many events until it must grow."""
STILL_S = 3.0
"""The store tries again every second: three chances to say a wrong yes."""
JOURNAL_FAULT, UPDATE = "300", 6


def failing(place: Town) -> str:
    """What /readyz says is wrong with the store; "" when nothing is."""
    try:
        return str(place.box.get("readyz")["failing"].get("store", ""))
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["failing"].get("store", ""))


async def until_store_fails(place: Town) -> None:
    """Raise alarms until the disk takes no more."""
    alarms = [place.alarm(f"a{n:03}", heartbeat_s=30) for n in range(1, 21)]
    for number in range(EVENTS_MOST // len(alarms)):
        for alarm in alarms:
            await alarm.do("burglary", restore=number % 2 == 1)
        await RealClock().sleep(0.2)
        if failing(place):
            return
    await until(lambda: failing(place), within_s=NOTICED_WITHIN_S, what="the store says that it fails")


async def assert_silent_and_told(place: Town) -> None:
    """While the disk takes nothing, no device is told otherwise, and everybody who asks is."""
    ledger = place.world.ledger
    before = ledger.acknowledged_count
    assert before < ledger.raised_count
    await RealClock().sleep(STILL_S)

    assert ledger.acknowledged_count == before
    assert failing(place)
    assert place.box.metric("fangkong_store_up") == 0
    assert "events cannot be stored" in place.box.log


async def assert_over(place: Town) -> None:
    """All was stored and sent, once, and 110 knows that there was something."""
    ledger = place.world.ledger
    await until(
        lambda: ledger.acknowledged_count == ledger.raised_count,
        within_s=OVER_WITHIN_S,
        what="every raised event is acknowledged",
        tell=lambda: place.box.log[-3000:],
    )
    await until(lambda: place.audit().lost == 0, within_s=OVER_WITHIN_S, what="every acknowledged event is at 110")
    await place.centre.wait_for(
        lambda _: any((row.code, row.qualifier) == (JOURNAL_FAULT, UPDATE) for row in place.accepted()),
        timeout_s=OVER_WITHIN_S,
    )

    audit = place.audit()
    assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())
    assert not failing(place)
    assert place.box.metric("fangkong_store_up") == 1
    place.assert_unhurt()


@pytest.mark.row("B2")
async def test_a_full_disk_is_told_and_over_without_a_restart(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "var", options=["size=12m"]) as disk:
        async with town(tmp_path, under=disk.inside, var=disk.var) as place:
            assert place.box.process is not None
            born = place.box.process.pid
            await place.alarm("a040").do("panic")
            await place.at_110("a040", Kind.PANIC, within_s=10)
            filler = disk.fill()
            await until_store_fails(place)
            await assert_silent_and_told(place)

            filler.unlink()
            await assert_over(place)
            assert place.box.process.pid == born


@pytest.mark.row("B4")
async def test_a_disk_that_turns_read_only_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """The kernel gives up on the file system: only a person can bring it back, with the gateway stopped."""
    with image_disk(tmp_path / "var") as disk:
        async with town(tmp_path, under=disk.inside, var=disk.var) as place:
            await place.alarm("a040").do("panic")
            await place.at_110("a040", Kind.PANIC, within_s=10)
            disk.abort()
            await until_store_fails(place)
            await assert_silent_and_told(place)

            assert await place.box.end() == 0, place.box.log
            disk.unmount()
            disk.repair()
            disk.plug_in()
            await place.box.start()
            ledger = place.world.ledger
            await until(
                lambda: ledger.acknowledged_count == ledger.raised_count,
                within_s=OVER_WITHIN_S,
                what="every raised event is acknowledged",
                tell=lambda: place.box.log[-3000:],
            )
            await until(lambda: place.audit().lost == 0, within_s=OVER_WITHIN_S, what="all of it is at 110")
            audit = place.audit()
            assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())


@pytest.mark.row("B3")
async def test_without_inodes_work_goes_on_and_a_restart_says_what_is_missing(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "var", options=["size=32m", "nr_inodes=64"]) as disk:
        async with town(tmp_path, under=disk.inside, var=disk.var) as place:
            alarm = place.alarm("a001")
            many = disk.fill_inodes()
            await alarm.do("panic")
            await place.at_110("a001", Kind.PANIC, within_s=10)

            assert await place.box.end() == 0
            await alarm.do("burglary")
            await place.box.start(wait=False)
            assert place.box.process is not None
            async with asyncio.timeout(NOTICED_WITHIN_S):
                code = await place.box.process.wait()
            assert code == 2
            assert "No space left on device" in place.box.log.splitlines()[-1]

            for file in many.iterdir():
                file.unlink()
            await place.box.start()
            await place.at_110("a001", Kind.BURGLARY, within_s=20)


@pytest.mark.row("B3")
async def test_without_file_descriptors_alarms_go_on_and_accepting_does_not_spin(tmp_path: Path) -> None:
    async with town(tmp_path) as place:
        assert place.box.process is not None
        pid = place.box.process.pid
        alarm = place.alarm("a001")
        await alarm.do("panic")
        await place.at_110("a001", Kind.PANIC, within_s=10)
        spare = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 4
        os.system(f"{tool('prlimit')} --pid {pid} --nofile={spare}:16384")
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(socket.create_connection(("127.0.0.1", place.box.api), timeout=5))
            before_s = cpu_s(pid)
            await alarm.do("burglary")
            await place.at_110("a001", Kind.BURGLARY, within_s=10)
            await RealClock().sleep(STILL_S)

            assert cpu_s(pid) - before_s < STILL_S / 4
        await place.box.ready()
        place.assert_unhurt()


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.row("B5")
async def test_one_sync_that_fails_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The kernel says EIO once; whatever the gateway then says yes to was written and synced anew."""
    once = ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    inject = ["-P", str(tmp_path / "var" / "events.db-wal"), "-e", "inject=fdatasync:error=EIO:when=30"]
    async with town(tmp_path, under=[tool("strace"), *once, *inject]) as place:
        alarms = [place.alarm(f"a{n:03}") for n in range(1, 11)]
        for number in range(EVENTS_MOST // len(alarms)):
            for alarm in alarms:
                await alarm.do("burglary", restore=number % 2 == 1)
            await RealClock().sleep(0.1)
            if "events cannot be stored" in place.box.log or "events are stored again" in place.box.log:
                break
        await assert_over(place)
        assert "disk I/O error" in place.box.log
