"""The power goes: whatever was acknowledged before is on the disk when it comes back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from gateway.store.sqlite import FILE_NAME
from simulators._clock import RealClock
from simulators.police_centre import PoliceCentre
from tests.disk.ground import Image, image_disk
from tests.stories.box import ROOT, until
from tests.stories.town import town

pytestmark = [pytest.mark.full, pytest.mark.row("B1")]

SEED = int(os.environ.get("STORY_SEED", "110"))
ROUNDS = int(os.environ.get("POWER_CUTS", "10"))
CONFIRMED_MOST = 600
"""Drawn up to this many: the log is written back into the file every 1000 pages, some 300 of these events."""
CHILD = ROOT / "tests" / "gateway" / "store_child.py"
DEVICES = 10


def confirmed_until_cut(disk: Image, var: Path, lines: int, *settings: str) -> set[str]:
    """Ids that a process of its own was told are on disk, up to a cut after about so many."""
    command = [*disk.inside, sys.executable, str(CHILD), str(var), *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        told = b""
        while told.count(b"\n") < lines:
            told += os.read(child.stdout.fileno(), 1 << 16)
        # What it says from here on nobody would have heard. The kernel may even let a sync succeed that the cut met halfway.
        os.set_blocking(child.stdout.fileno(), False)
        told += child.stdout.read() or b""
        disk.cut_power()
        child.kill()
    disk.unmount()
    disk.plug_in()
    assert b"failed" not in told
    return set(told.decode().split("\n")[:-1])


def stored(disk: Image, copy: Path) -> set[str]:
    """Ids whose outbox rows are there too. Read from a copy: SQLite would follow the path out of the namespace."""
    shutil.copytree(disk.var, copy, ignore=shutil.ignore_patterns("lost+found"), dirs_exist_ok=True)
    db = sqlite3.connect(copy / FILE_NAME)
    rows = db.execute("SELECT id FROM events e WHERE (SELECT COUNT(*) FROM outbox o WHERE o.seq = e.seq) = 2")
    found = {event for (event,) in rows}
    db.close()
    return found


def test_what_was_confirmed_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    random = Random(SEED)
    confirmed: set[str] = set()
    with image_disk(tmp_path / "var") as disk:
        for cut in range(ROUNDS):
            confirmed |= confirmed_until_cut(disk, tmp_path / "var", random.randint(1, CONFIRMED_MOST))

            assert confirmed - stored(disk, tmp_path / f"after-{cut}") == set(), f"lost in round {cut} of seed {SEED}"


def test_without_a_sync_the_same_cut_loses_what_was_confirmed(tmp_path: Path) -> None:
    """The control: the test above can fail."""
    random = Random(SEED)
    lost = 0
    with image_disk(tmp_path / "var") as disk:
        for cut in range(3):
            confirmed = confirmed_until_cut(disk, tmp_path / "var", random.randint(1, CONFIRMED_MOST), "unsynced")
            lost += len(confirmed - stored(disk, tmp_path / f"after-{cut}"))

    assert lost > 0


async def test_what_devices_were_told_reaches_110_after_power_cuts(tmp_path: Path) -> None:
    """110 is away while the cuts happen, so that the disk alone has what was acknowledged."""
    random, clock = Random(SEED), RealClock()
    with image_disk(tmp_path / "var") as disk:
        async with PoliceCentre() as centre, town(tmp_path, centre=centre, under=disk.inside, var=disk.var) as place:
            alarms = [place.alarm(f"a{n:03}") for n in range(1, DEVICES + 1)]
            await centre.off()
            for _ in range(3):
                before = place.world.ledger.acknowledged_count
                for alarm in alarms:
                    await alarm.do("panic")
                await until(
                    lambda before=before: place.world.ledger.acknowledged_count > before,
                    within_s=30,
                    what="a device is acknowledged",
                )
                await clock.sleep(random.uniform(0, 0.3))  # the moment of the cut is drawn, not waited for
                await place.box.kill()  # first: an answer after the cut is one that no device could have heard
                disk.cut_power()
                disk.unmount()
                disk.plug_in()
                await place.box.start()
            await centre.on()
            await until(
                lambda: place.world.ledger.acknowledged_count == place.world.ledger.raised_count,
                within_s=60,
                what="every raised event is acknowledged",
            )
            await until(
                lambda: place.audit().lost == 0,
                within_s=60,
                what="every acknowledged event is at 110",
                tell=lambda: f"{place.audit()}\n{place.box.log[-3000:]}",
            )

            audit = place.audit()
            assert (audit.lost, audit.duplicates, audit.missing) == (0, 0, ())
            assert audit.delivered == audit.alarms == 3 * DEVICES
