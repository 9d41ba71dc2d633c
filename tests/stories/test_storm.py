"""Storms through the whole daemon: MQTT in, a duty desk out. Everything is recorded, life is first, one loud source hurts nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import pytest

from gateway.model import Device, Site
from simulators._clock import RealClock
from tests.conftest import tool
from tests.stories.box import Box, until
from tests.stories.desk import Desk, Taken, desk
from tests.stories.figures import quantiles, resident_mb, tell

SOURCES = 1000
ACCOUNTS = 50
BURST_S = 0.02
"""Messages are published in bursts this far apart: a thousand timers a second would measure the test."""
SETTLED_WITHIN_S = 120.0
DUE = ("burglary", "tamper", "perimeter", "smoke", "rf_batt_low")
QUIETLY = logging.getLogger("storm devices")
QUIETLY.setLevel(logging.ERROR)  # it warns of every publish beyond the tenth that waits
STOLEN = "d7"

Word = tuple[str, str, str]
"""Device, kind, qualifier."""


@dataclass
class Place:
    """A gateway with its desk, and a line on which all devices speak."""

    box: Box
    duty: Desk
    client: aiomqtt.Client
    clock: RealClock = field(default_factory=RealClock)
    said: dict[str, tuple[Word, float]] = field(default_factory=dict)
    """By the text that finds an event again: what, and when it fell due."""

    def __post_init__(self) -> None:
        self._numbers = count(1)

    async def say(self, words: Iterator[Word], per_s: float) -> None:
        """Publish at this pace, whatever the gateway does; all at once at 0."""
        due = self.clock.monotonic()
        size = max(1, round(per_s * BURST_S)) if per_s else SOURCES
        async with asyncio.TaskGroup() as group:
            while burst := list(islice(words, size)):
                await self.clock.sleep(due - self.clock.monotonic())
                for word in burst:
                    group.create_task(self._publish(word, due))
                due += len(burst) / per_s if per_s else 0.0

    async def _publish(self, word: Word, due: float) -> None:
        number = next(self._numbers)
        device, kind, qualifier = word
        text = f"e{number}"
        self.said[text] = word, due
        message = {
            "v": 1, "device": device, "session": "storm", "seq": number, "kind": kind, "qualifier": qualifier, "zone": 1,
            "text": f"测试 {text} ",
        }  # fmt: skip
        await self.client.publish(f"fangkong/v1/{device}/event", json.dumps(message), qos=1, timeout=SETTLED_WITHIN_S)

    async def recorded(self) -> None:
        """Return when the gateway has all of it on disk and the desk what it is to have."""
        of_devices = "SELECT COUNT(*) FROM events WHERE json_extract(body, '$.driver') = 'alarm_json'"
        waiting = "SELECT COUNT(*) FROM outbox WHERE state = 'queued'"
        within = {"within_s": SETTLED_WITHIN_S, "tell": lambda: self.box.log[-2000:]}
        await until(lambda: self._rows(of_devices)[0][0] >= len(self.said), what="all is recorded", **within)
        await until(lambda: self._rows(waiting)[0][0] == 0, what="all is sent", **within)
        await self.clock.sleep(0.2)  # the desk writes its record twenty times a second

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read from the log itself, beside the gateway."""
        path = self.box.folder / "var" / "events.db"
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as log:
            return log.execute(query).fetchall()

    def stored(self) -> dict[str, tuple[str, str | None]]:
        """Each event of a device by its text: id, and who speaks for it."""
        bodies = [(event_id, json.loads(body)) for event_id, body in self._rows("SELECT id, body FROM events")]
        found = [
            (body["text"].split(" ")[1], event_id, body) for event_id, body in bodies if body["driver"] == "alarm_json"
        ]
        assert len({text for text, _, _ in found}) == len(found), "something is stored twice"
        return {text: (event_id, body.get("suppressed_by")) for text, event_id, body in found}

    def judged(self) -> tuple[list[Taken], dict[str, tuple[str, str | None]]]:
        """What the desk has, after everything that must hold was looked at: nothing acknowledged is lost, nothing is doubled."""
        taken, stored = self.duty.taken(), self.stored()
        assert stored.keys() == self.said.keys(), "every event is recorded"
        assert max(Counter(row.id for row in taken).values()) == 1, "nothing comes twice"
        at_desk = {row.id for row in taken}
        assert at_desk >= {event_id for event_id, by in stored.values() if by is None}, (
            "what is not part of a storm is sent"
        )
        assert at_desk.isdisjoint(event_id for event_id, by in stored.values() if by is not None)
        assert {by for _, by in stored.values() if by is not None} <= at_desk, "and so is what speaks for the rest"
        keys = Counter((row.account, row.number) for row in taken)
        assert max(keys.values()) == 1 or len(taken) > 9999, "no number is given twice"
        return taken, stored

    def latencies(self, taken: Sequence[Taken], *kinds: str) -> list[float]:
        """From the moment an event fell due at the device to the desk's acknowledgement, in seconds."""
        words = [(row.at_s, *self.said[row.word]) for row in taken if row.word in self.said]
        return [at - due for at, word, due in words if word[1] in kinds]


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    """Everything enrolled, connected and ready."""
    tool("mosquitto")
    sites = [Site(f"s{n}", f"{n} 号小区", f"B{n:03}") for n in range(ACCOUNTS)]
    names = [f"d{n}" for n in range(SOURCES)]
    devices = [Device(name, f"s{n % ACCOUNTS}", name, 86_400) for n, name in enumerate(names)]
    async with desk(folder) as duty:
        box = Box(folder, centre=duty.port)
        site = folder / "site.toml"
        site.write_text(site.read_text().replace("[storms]\nwindow_s = 0\n", ""))  # limits as they come
        await box.enrol()
        await box.register(*sites, *devices)
        await box.start()
        try:
            await until(
                lambda: box.metric("fangkong_connection_up", connection="alarms") == 1,
                within_s=15,
                what="the line is open",
            )
            async with aiomqtt.Client(
                "127.0.0.1", box.mqtt, username="demo", password="for-this-test-only", max_queued_outgoing_messages=0,
                max_inflight_messages=1000, max_concurrent_outgoing_calls=100_000, logger=QUIETLY,
            ) as client:  # fmt: skip
                yield Place(box, duty, client)
            assert await box.end() == 0, box.log
        finally:
            if box.process is not None and box.process.returncode is None:
                await box.kill()


def of_everybody(total: int) -> Iterator[Word]:
    """Conditions of a thousand devices that begin and end; one event in a hundred is a panic."""
    random, began = Random(11), set()
    for n in range(total):
        device = f"d{random.randrange(SOURCES)}"
        if n % 100 == 0:
            yield device, "panic", "new"
            continue
        kind = random.choice(DUE)
        condition = device, kind
        yield device, kind, "restore" if condition in began else "new"
        began ^= {condition}


def of_one(total: int) -> Iterator[Word]:
    """A stolen device: codes that nobody knows, and panics without end."""
    return ((STOLEN, "panic" if n % 2 else "strange", "new") for n in range(total))


@pytest.mark.row("G1")
@pytest.mark.full
@pytest.mark.parametrize(
    "total", [pytest.param(2000, id="2 s"), pytest.param(10_000, id="10 s", marks=pytest.mark.soak)]
)
async def test_a_storm_of_a_thousand_sources_is_recorded_and_life_comes_first(tmp_path: Path, total: int) -> None:
    async with place(tmp_path) as town:
        await town.say(of_everybody(total), per_s=1000)
        await town.recorded()
        taken, stored = town.judged()
        memory_mb = resident_mb(town.box.process.pid) if town.box.process else 0.0
        tell(
            f"{total} events of {SOURCES} sources at 1000/s",
            [
                ("panic and smoke at 110", quantiles(town.latencies(taken, "panic", "smoke"))),
                ("burglary, tamper, perimeter", quantiles(town.latencies(taken, "burglary", "tamper", "perimeter"))),
                ("faults", quantiles(town.latencies(taken, "rf_batt_low"))),
                ("part of a storm", f"{sum(by is not None for _, by in stored.values())} of {len(stored)} recorded"),
                ("memory of the gateway", f"{memory_mb:.0f} MB"),
            ],
        )


@pytest.mark.row("G1")
@pytest.mark.row("H5")
@pytest.mark.full
@pytest.mark.parametrize("seconds", [pytest.param(2, id="2 s"), pytest.param(10, id="10 s", marks=pytest.mark.soak)])
async def test_one_source_at_a_thousand_a_second_hurts_no_other(tmp_path: Path, seconds: int) -> None:
    async with place(tmp_path) as town:
        async with asyncio.TaskGroup() as group:
            group.create_task(town.say(of_one(1000 * seconds), per_s=1000))
            group.create_task(town.say(iter([(f"d{100 + n}", "panic", "new") for n in range(10 * seconds)]), per_s=10))
        await town.recorded()
        taken, stored = town.judged()

        loud = [row for row in taken if row.word in town.said and town.said[row.word][0][0] == STOLEN]
        floods = [row for row in taken if (row.code, row.qualifier) == ("377", "1")]
        assert len(floods) == 1
        # Two lanes, what each lets through at once and then each second.
        assert len(loud) <= 60 + 30 + (2 + 1) * (seconds + SETTLED_WITHIN_S)
        panics = town.latencies([row for row in taken if row not in loud], "panic")
        assert len(panics) == 10 * seconds
        tell(
            f"one source at 1000/s for {seconds} s",
            [
                ("its own at 110", f"{len(loud)} of {1000 * seconds} recorded"),
                ("others' panics meanwhile", quantiles(panics)),
                ("not sent on", f"{sum(by is not None for _, by in stored.values())}"),
            ],
        )


@pytest.mark.row("G1")
@pytest.mark.full
async def test_a_thousand_sources_at_once_are_all_heard(tmp_path: Path) -> None:
    async with place(tmp_path) as town:
        await town.say(
            iter([(f"d{n}", "panic" if n % 10 == 0 else "burglary", "new") for n in range(SOURCES)]), per_s=0
        )
        await town.recorded()
        taken, _ = town.judged()

        assert len(town.latencies(taken, "panic", "burglary")) == SOURCES
        tell(
            f"{SOURCES} sources in one moment",
            [
                ("panics at 110", quantiles(town.latencies(taken, "panic"))),
                ("burglaries at 110", quantiles(town.latencies(taken, "burglary"))),
            ],
        )
