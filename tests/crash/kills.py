"""The story of the kills, and its balance: what devices raised and were told against what 110 took."""

from __future__ import annotations

import asyncio
import json
import signal
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from gateway.cli.demo_audit import ACCEPTED, Audit, balance
from simulators._world import Simulated
from simulators.faults import Faults
from simulators.police_centre import Misbehaviour
from tests.crash.town import DEVICES, OWN_ACCOUNT, UNLIMITED, Town, town, where
from tests.stories.box import until

EVENTS_PER_S = 240
"""Raised, so that more than ACKNOWLEDGED_PER_S are acknowledged over the whole run, restarts included."""
ACKNOWLEDGED_PER_S = 200
"""With less a run says little about kills under load."""
KINDS = ("burglary", "panic", "tamper", "smoke", "rf_batt_low")
ALIVE_S = 0.5
"""A gateway that works is killed within this time."""
STARTING_S = 0.4
"""One that is just starting, within this: from its first instruction to its first acknowledgements."""
KILLED_STARTING = 0.2
"""Share of the kills that do not wait until it works."""
ANSWER_WITHIN_S = 0.1
"""A frame that is out for longer when the kill comes waits for an answer that the line has lost: it would go again anyhow."""
LAST_WORDS_S = 0.1
"""What the killed one had said is with the devices, and the new one has not opened its files yet."""
ACKNOWLEDGED_WITHIN_S = 30.0
DRAINED_WITHIN_S = 120.0
ENDS_WITHIN_S = 10.0

TO_110 = Faults(jitter_s=0.002, cut_write=0.1, lose_answer=0.002, drop=0.0005)
TO_BROKER = Faults(jitter_s=0.001, cut_write=0.1, drop=0.0002)


def bad_day(seed: int) -> list[Misbehaviour]:
    """Of the centre itself."""
    return [
        Misbehaviour("drop_before_ack", share=0.001, seed=seed),
        Misbehaviour("late", share=0.005, seed=seed, seconds=0.2),
    ]


@dataclass(frozen=True, slots=True)
class Report:
    """The balance of a run."""

    seed: int
    kills: int
    load_s: float
    raised: int
    acknowledged: int
    acknowledged_under_load: int
    audit: Audit
    distinct: int
    new_key_duplicates: int
    repeats_by_kill: int
    still_on_the_line: int
    """Of those, frames that reached 110 after the kill: no gateway could have known their answer."""
    repeats_by_line: int
    """Others: the line or 110 lost the answer, or came too late with it; killed or not, they would have gone again."""
    most_by_one_kill: int
    restarts_s: tuple[float, ...]
    """From the start of a process to the first acknowledgement by it."""

    @property
    def doubled(self) -> int:
        return self.audit.duplicates + self.new_key_duplicates

    @property
    def acknowledged_per_s(self) -> float:
        """While it was killed."""
        return self.acknowledged_under_load / self.load_s

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing doubled."""
        return not (self.audit.lost or self.doubled) and self.acknowledged == self.raised

    def table(self) -> str:
        """For people."""
        rows = [
            ("seed", f"{self.seed}"),
            ("kills", f"{self.kills} in {self.load_s:.0f} s of load"),
            ("raised by devices", f"{self.raised}"),
            ("acknowledged to devices", f"{self.acknowledged}, {self.acknowledged_per_s:.0f} a second"),
            ("distinct events at 110", f"{self.distinct}"),
            ("acknowledged and lost", f"{self.audit.lost}"),
            ("doubled under a new key", f"{self.doubled}"),
            ("repeats on the wire by kills", f"{self.repeats_by_kill}, {self.repeats_by_kill / self.kills:.2f} a kill"),
            (
                "of them on the line at the kill",
                f"{self.still_on_the_line}, {self.still_on_the_line / self.kills:.2f} a kill",
            ),
            ("most by one kill", f"{self.most_by_one_kill}"),
            ("repeats by faults of the line", f"{self.repeats_by_line}"),
            (
                "start to first acknowledgement",
                f"{median(self.restarts_s):.2f} s, at most {max(self.restarts_s):.2f} s",
            ),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


async def run(
    folder: Path,
    *,
    kills: int,
    seed: int,
    signals: Sequence[int] = (signal.SIGKILL,),
    tell: Callable[[int, Town], None] = lambda *_: None,
    storms: str = UNLIMITED,
) -> Report:
    """Kill a gateway under load, let it drain without faults, and strike the balance. `tell` hears of each kill.

    `signals` are sent one right after the other; after SIGTERM it must end in order.
    """
    async with town(
        folder, seed=seed, faults_110=TO_110, faults_broker=TO_BROKER, bad=bad_day(seed), storms=storms
    ) as place:
        story = _Story(place, seed, signals)
        await story.kill_often(kills, tell)
        await story.drain()
    return _report(story, kills, seed)


class Life(NamedTuple):
    """Of one gateway, by the clock on the wall; the last one ends in order."""

    started_at: float
    killed_at: float


class _Story:
    def __init__(self, place: Town, seed: int, signals: Sequence[int]) -> None:
        self._signals = signals
        self.place = place
        self.clock, self.ledger = place.world.clock, place.world.ledger
        self._random = Random(seed)
        self.lives: list[Life] = []
        self.restarts_s: list[float] = []
        self.load_s = 0.0
        self.acknowledged_under_load = 0

    async def kill_often(self, kills: int, tell: Callable[[int, Town], None]) -> None:
        self.place.switch_on(DEVICES)
        began = self.clock.monotonic()
        async with asyncio.TaskGroup() as group:
            load = group.create_task(raise_for_ever(self.place, self._random))
            for count in range(1, kills + 1):
                await self._live_and_die()
                tell(count, self.place)
            load.cancel()
        self.load_s = self.clock.monotonic() - began
        self.acknowledged_under_load = self.ledger.acknowledged_count

    async def _live_and_die(self) -> None:
        began, started_at = self.clock.monotonic(), self.clock.now()
        await self.place.start()
        if self._random.random() < KILLED_STARTING:
            await self.clock.sleep(self._random.uniform(0, STARTING_S))
        else:
            await self.clock.sleep(LAST_WORDS_S)
            told = self.ledger.acknowledged_count
            await until(
                lambda: self.ledger.acknowledged_count > told,
                within_s=ACKNOWLEDGED_WITHIN_S,
                what="a device is acknowledged after the restart",
                tell=lambda: self.place.log[-3000:],
            )
            self.restarts_s.append(self.clock.monotonic() - began)
            await self.clock.sleep(self._random.uniform(0, ALIVE_S))
        self.lives.append(Life(started_at, self.clock.now()))
        await self._die()

    async def _die(self) -> None:
        gateway = self.place.gateway
        assert gateway is not None
        for number in self._signals:
            gateway.signal(number)
        async with asyncio.timeout(ENDS_WITHIN_S):
            status = await gateway.wait()
        assert status == (-signal.SIGKILL if signal.SIGKILL in self._signals else 0), self.place.log[-3000:]

    async def drain(self) -> None:
        place = self.place
        place.centre.behave()
        place.to_110.faults = place.to_broker.faults = Faults()
        self.lives.append(Life(self.clock.now(), inf))
        await place.start()
        await until(
            lambda: self.ledger.acknowledged_count == self.ledger.raised_count,
            within_s=DRAINED_WITHIN_S,
            what="every raised event is acknowledged",
            tell=lambda: f"{self.ledger.acknowledged_count} of {self.ledger.raised_count}\n{place.log[-3000:]}",
        )
        await until(
            lambda: (
                not any(  # not by the metric, which is up to a second old
                    any(each["backlog"].values()) for each in place.get("api/v1/destinations")["items"]
                )
            ),
            within_s=DRAINED_WITHIN_S,
            what="nothing waits for 110 any more",
            tell=lambda: place.log[-3000:],
        )
        assert await place.end() == 0, place.log[-3000:]


async def raise_for_ever(place: Town, random: Random) -> None:
    """At the pace of the load."""
    clock = place.world.clock
    due = clock.monotonic()
    for device, what, restore in _said(place, random):
        await device.do(what, restore=restore)
        due += random.expovariate(EVENTS_PER_S)
        await clock.sleep(max(0.0, due - clock.monotonic()))


async def raise_some(place: Town, random: Random, count: int) -> None:
    """All at once."""
    for device, what, restore in islice(_said(place, random), count):
        await device.do(what, restore=restore)


def _said(place: Town, random: Random) -> Iterator[tuple[Simulated, str, bool]]:
    """Alarms and restores in turn per device and kind, for ever."""
    open_conditions: set[tuple[int, str]] = set()
    while True:
        n, what = random.randrange(len(place.devices)), random.choice(KINDS)
        restore = (n, what) in open_conditions and what != "panic"
        (open_conditions.discard if restore else open_conditions.add)((n, what))
        yield place.devices[n], what, restore


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _report(story: _Story, kills: int, seed: int) -> Report:
    place = story.place
    audit = balance(rows(place.ledger_file), rows(place.record_file), where)
    of_devices = (row for row in rows(place.record_file) if row["account"] != OWN_ACCOUNT)
    repeats = _repeats(of_devices, story.lives)
    return Report(
        seed=seed,
        kills=kills,
        load_s=story.load_s,
        raised=story.ledger.raised_count,
        acknowledged=story.ledger.acknowledged_count,
        acknowledged_under_load=story.acknowledged_under_load,
        audit=audit,
        distinct=repeats.distinct,
        new_key_duplicates=place.centre.audit.new_key_duplicates,
        repeats_by_kill=repeats.by_kill.total(),
        still_on_the_line=repeats.still_on_the_line,
        repeats_by_line=repeats.by_line,
        most_by_one_kill=max(repeats.by_kill.values(), default=0),
        restarts_s=tuple(story.restarts_s),
    )


@dataclass(slots=True)
class Repeats:
    """Frames of known keys."""

    by_kill: Counter[int] = field(default_factory=Counter)
    """By the life it ended."""
    still_on_the_line: int = 0
    by_line: int = 0
    distinct: int = 0
    """The keys taken."""


def _repeats(record: Iterable[Mapping[str, Any]], lives: Sequence[Life]) -> Repeats:
    """Who caused each. A frame belongs to the life that sent it; what it sent last may arrive after its end."""
    found = Repeats()
    seen: dict[str, Mapping[str, Any]] = {}
    taken: set[str] = set()
    starts = [life.started_at for life in lives]
    for row in record:
        if row["code"] is None:
            continue
        if row["answer"] in ACCEPTED:
            taken.add(row["key"])
        before, seen[row["key"]] = seen.get(row["key"]), row
        if before is None:
            continue
        sent_by, sent_again_by = bisect_right(starts, before["t"]), bisect_right(starts, row["t"])
        out_s = lives[sent_by - 1].killed_at - before["t"]
        if sent_by < sent_again_by and before["misbehaviour"] is None and out_s < ANSWER_WITHIN_S:
            found.by_kill[sent_by] += 1
            found.still_on_the_line += out_s < 0
        else:
            found.by_line += 1
    found.distinct = len(taken)
    return found
