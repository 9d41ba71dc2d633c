"""Killed at the n-th system call, for every n: by strace, before the call takes place.

`python -m tests.crash.sweep` goes through all calls of each case, the tests through some of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from gateway import logs
from gateway.cli.demo_audit import balance
from gateway.registry import Registry
from gateway.store.sqlite import FILE_NAME
from simulators._world import Simulated
from tests.crash.kills import rows
from tests.crash.nursery import Child
from tests.crash.town import OWN_ACCOUNT, Town, inventory, town, where
from tests.stories.box import until

PATIENCE_S = 30.0
QUIET_S = 0.3
"""A script that is through and a process that lives on: the n-th call will not come."""
STUCK_S = 2.0
"""strace 6.1 on a busy machine now and then stops the process at the n-th call and never sends its signal. Then we do."""
ANSWER_S = 0.1
"""The centre answers this late, so that a kill before its answer can be told from one after it."""
KIND, CODE = "panic", "120"
REPEAT_S = 0.3
"""The device repeats an event without a receipt this soon."""

OF_AN_EVENT = ("epoll_pwait", "recvfrom", "sendto", "read", "write", "pwrite64", "fdatasync")
"""What an event is received, stored, acknowledged and forwarded with, by all threads."""
OF_FILES = ("openat", "mkdir", "flock", "pwrite64", "fdatasync", "ftruncate", "rename", "unlink")
"""What files are opened, repaired and closed with."""


@dataclass(frozen=True, slots=True)
class Point:
    """The n-th call of this name by any one thread."""

    call: str
    n: int


@dataclass(slots=True)
class Found:
    """What a sweep met. `windows`: between which steps of an event it was killed, by the failure's name."""

    kills: int = 0
    missed: int = 0
    windows: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {count}" for name, count in sorted(self.windows.items()))
        return f"{self.kills} kills ({self.missed} calls that did not come), lost {self.lost}, doubled {self.doubled}. {seen}"


# -- strace ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _strace(child: Child, *options: str) -> AsyncIterator[None]:
    """From when it is attached; ends with the child, or lets go of it."""
    process = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(child.pid), *options, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        said = await process.stderr.readline()
    assert b"attached" in said, said
    try:
        yield
    finally:
        if process.returncode is None and child.is_running:
            os.kill(process.pid, signal.SIGTERM)
        await process.communicate()


def _killing(point: Point) -> Sequence[str]:
    return "-o", "/dev/null", "-e", f"trace={point.call}", "-e", f"inject={point.call}:signal=KILL:when={point.n}"


def _counts(trace: Path) -> dict[str, int]:
    """The calls in a trace, by the thread that made most of each."""
    calls = Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    return {name: max(count for (_, call), count in calls.items() if call == name) for _, name in calls}


def points(counts: dict[str, int], most: int | None) -> Sequence[Point]:
    """Every call that was counted, or `most` of them: all of the rare ones, the frequent ones evenly thinned."""
    left = sum(counts.values()) if most is None else most
    chosen: list[Point] = []
    by_count = sorted(counts.items(), key=lambda item: item[1])
    for index, (call, count) in enumerate(by_count):
        share = min(count, left // (len(by_count) - index))
        left -= share
        chosen += [Point(call, 1 + place * count // share) for place in range(share)]
    return chosen


# -- one case ----------------------------------------------------------------------------------------------------------

Step = Callable[[Town], Awaitable[None]]


async def _nothing(_: Town) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """What is swept. `prepare`: while the gateway is down; `script`: what the calls are counted over."""

    calls: Sequence[str]
    script: Step
    prepare: Step = _nothing
    mend: Step = _nothing
    """Done before the gateway starts again."""
    from_the_start: bool = True
    """Calls are counted from the first instruction of the process, else from when it is ready."""


async def _event(place: Town) -> None:
    """Raised, acknowledged, at 110, and some time for the acceptance to reach the disk."""
    await _device(place).do(KIND)
    await _all_told(place)
    await _quiet(place)


async def _start(place: Town) -> None:
    """Until it is ready, has answered what the broker kept for it, and sent it."""
    await _until_dead_or(place, place.is_ready)
    await _all_told(place)
    await _quiet(place)


async def _end(place: Town) -> None:
    assert place.gateway is not None
    place.gateway.signal(signal.SIGTERM)
    await _until_dead_or(place, lambda: False)


async def _raise_meanwhile(place: Town) -> None:
    """With an event at the broker, so that a start has something to do at once."""
    await _device(place).do(KIND)


async def _empty_box(place: Town) -> None:
    """Both databases are made anew."""
    shutil.rmtree(place.data_dir)
    place.data_dir.mkdir()


async def _damage(place: Town) -> None:
    """The log's first page is garbage: it is set aside, what can be read is taken over."""
    await _raise_meanwhile(place)
    with (place.data_dir / FILE_NAME).open("r+b") as file:
        file.write(b"\xff" * 4096)


async def _enrol(place: Town) -> None:
    registry = await Registry.open(place.data_dir / "registry.db")
    await registry.put(inventory())
    await registry.close()


CASES = {
    "an event": Case(OF_AN_EVENT, _event, from_the_start=False),
    "start after a kill": Case(OF_FILES, _start, prepare=_raise_meanwhile),
    "first start of all": Case(OF_FILES, _start, prepare=_empty_box, mend=_enrol),
    "recovery": Case(OF_FILES, _start, prepare=_damage),
    "orderly end": Case(OF_FILES, _end, from_the_start=False),
}


async def sweep(
    folder: Path, name: str, *, most: int | None = None, tell: Callable[[int, int], None] = lambda *_: None
) -> Found:
    """Kill at each point of a case, start again, and see that all is well. `tell` hears how far it is."""
    case, found = CASES[name], Found()
    async with town(folder, seed=1) as place:
        place.switch_on(1, repeat_s=REPEAT_S)
        place.centre.misbehave("late", seconds=ANSWER_S, frames="event")
        await _recover(place, case)
        chosen = points(await _counted(place, case), most)
        for index, point in enumerate(chosen, 1):
            await _kill_at(place, case, point, found)
            await _recover(place, case)
            tell(index, len(chosen))
        assert await place.end() == 0, place.log[-3000:]
    audit = balance(rows(place.ledger_file), rows(place.record_file), where)
    found.lost, found.doubled = audit.lost, audit.duplicates + place.centre.audit.new_key_duplicates
    return found


async def _counted(place: Town, case: Case) -> dict[str, int]:
    trace = place.folder / "trace"
    async with _begun(place, case, "-o", str(trace), "-e", f"trace={','.join(case.calls)}"):
        await case.script(place)
        await place.kill()
    await _recover(place, case)
    return _counts(trace)


@asynccontextmanager
async def _begun(place: Town, case: Case, *strace: str) -> AsyncIterator[None]:
    """The gateway under strace, from its first instruction on or from where it stands."""
    if case.from_the_start:
        await place.kill()
        await case.prepare(place)
        child = await place.start(is_stopped=True)
    else:
        assert place.gateway is not None
        child = place.gateway
    async with _strace(child, *strace):
        child.signal(signal.SIGCONT)
        yield


async def _kill_at(place: Town, case: Case, point: Point, found: Found) -> None:
    async with _begun(place, case, *_killing(point)):
        await case.script(place)
    assert place.gateway is not None
    if not place.gateway.is_running and await place.gateway.wait() == -signal.SIGKILL:
        found.kills += 1
        if case.calls is OF_AN_EVENT:
            found.windows.update(_windows(place))
    else:
        found.missed += 1
        await place.kill()


async def _recover(place: Town, case: Case) -> None:
    """The next start completes, brings to 110 what was under way, and takes what is new."""
    await case.mend(place)
    await place.start()
    await settled(place)
    if case.calls is OF_FILES:
        await _device(place).do(KIND)
        await settled(place)


async def settled(place: Town) -> None:
    """Return when every event is acknowledged and at 110."""
    await place.ready()
    await _all_told(place)
    await until(
        lambda: place.metric("fangkong_outbox_pending") == 0 and place.metric("fangkong_connection_up") == 1,
        within_s=PATIENCE_S,
        what="all is at 110",
        tell=lambda: place.log[-3000:],
    )


def _device(place: Town) -> Simulated:
    [device] = place.devices
    return device


async def _all_told(place: Town) -> None:
    ledger = place.world.ledger
    await _until_dead_or(place, lambda: ledger.acknowledged_count == ledger.raised_count)


async def _quiet(place: Town) -> None:
    """Until 110 has answered and a little longer."""
    began = place.world.clock.monotonic()
    await _until_dead_or(place, lambda: place.world.clock.monotonic() - began > ANSWER_S + QUIET_S)


def _is_stopped_at_a_call(pid: int) -> bool:
    """As strace holds it, before the call takes place."""
    try:
        return "State:\tt" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before the file was opened, or while it was read
        return False


async def _until_dead_or(place: Town, is_done: Callable[[], bool]) -> None:
    clock = place.world.clock
    moved_at = clock.monotonic()

    def is_over() -> bool:
        nonlocal moved_at
        assert place.gateway is not None
        if is_done() or not place.gateway.is_running:
            return True
        if not _is_stopped_at_a_call(place.gateway.pid):
            moved_at = clock.monotonic()
        elif clock.monotonic() - moved_at > STUCK_S:
            os.kill(place.gateway.pid, signal.SIGKILL)
        return False

    await until(is_over, within_s=PATIENCE_S, what="the script is through", tell=lambda: place.log[-3000:])


# -- where it was killed -----------------------------------------------------------------------------------------------


def _windows(place: Town) -> Sequence[str]:
    """Between which steps of the newest event the process died. Several: the device is answered while 110 is told."""
    ledger, now = place.world.ledger, place.world.clock.now()
    sent_at = {row.key: row.t for row in place.centre.received if row.code == CODE and row.account != OWN_ACCOUNT}
    stored, queued = _on_disk(place)
    if stored < ledger.raised_count:
        return ["A1"]
    windows = [] if ledger.acknowledged_count == ledger.raised_count else ["A2"]
    if not queued:
        return windows or ["done"]
    if len(sent_at) == stored:
        windows.append("A4" if now < max(sent_at.values()) + ANSWER_S else "A5")
    elif not windows:
        windows.append("A3")
    return windows


def _on_disk(place: Town) -> tuple[int, int]:
    """Events of the device that a start would find, and how many of them still have to go to 110."""
    with tempfile.TemporaryDirectory() as folder:
        for file in place.data_dir.glob(f"{FILE_NAME}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / FILE_NAME)) as db:
            return (
                db.execute("SELECT COUNT(*) FROM events WHERE kind = ?", (KIND,)).fetchone()[0],
                db.execute(
                    "SELECT COUNT(*) FROM outbox JOIN events USING (seq) WHERE kind = ? AND state = 'queued'", (KIND,)
                ).fetchone()[0],
            )


def main() -> int:
    """0 when no kill lost or doubled anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.sweep", description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; again for several")
    parser.add_argument("--most", type=int, help="at most so many calls of each case")
    options = parser.parse_args()
    logs.set_up("error")
    is_good = True
    for name in options.case or CASES:

        def tell(done: int, of: int, name: str = name) -> None:
            print(f"\r{name}: {done}/{of}", end="", file=sys.stderr)

        with tempfile.TemporaryDirectory(prefix="fangkong-sweep-") as folder:
            found = asyncio.run(sweep(Path(folder), name, most=options.most, tell=tell))
        print(file=sys.stderr)
        print(f"{name}: {found}", flush=True)
        is_good &= not (found.lost or found.doubled)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
