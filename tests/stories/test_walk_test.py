"""A walk test in a whole town: what is tried out is nothing at 110, what is real is there, also over a kill in the middle."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest

from gateway.kinds import Kind
from tests.stories.box import until
from tests.stories.town import Town, town

PRESSED = [f"a{n:03}" for n in range(1, 21)]
WITHIN_S = 20.0


def ask(place: Town, path: str, body: dict[str, object]) -> None:
    headers = {"Authorization": "Bearer for-this-test-only", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{place.box.api}/api/v1/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=10) as answer:
        assert answer.status < 300


async def press(place: Town, devices: list[str], seq: int) -> None:
    async with place.stranger() as stranger:
        for device in devices:
            word = {"v": 1, "device": device, "session": "s1", "seq": seq, "kind": "panic"}
            await stranger.publish(f"fangkong/v1/{device}/event", json.dumps(word), qos=1)


def kept_as_tests(place: Town) -> int:
    events = place.box.get("api/v1/events?site=yangsi&kind=panic&limit=1000")["items"]
    return sum(event["test"] for event in events)


@pytest.mark.full
async def test_sixty_triggers_are_nothing_at_110_over_a_kill_and_the_neighbours_panic_is(tmp_path: Path) -> None:
    async with town(tmp_path) as place:
        wish = {"points": [f"p-{device}" for device in PRESSED], "minutes": 30, "reason": "handover"}
        await asyncio.to_thread(ask, place, "sites/yangsi/walk-test", wish)
        await press(place, PRESSED, 1)
        await until(lambda: kept_as_tests(place) == 20, within_s=WITHIN_S, what="20 presses are kept as tests")
        await place.box.kill()
        await place.box.start()
        for seq in (2, 3):
            await press(place, PRESSED, seq)
        await press(place, ["a025"], 1)
        await until(lambda: kept_as_tests(place) == 60, within_s=WITHIN_S, what="60 presses are kept as tests")
        await place.at_110("a025", Kind.PANIC, within_s=WITHIN_S)
        assert sum(place.count_at_110(device, None, Kind.PANIC) for device in PRESSED) == 0

        await asyncio.to_thread(ask, place, "sites/yangsi/walk-test/end", {})
        await press(place, ["a001"], 4)
        await place.at_110("a001", Kind.PANIC, within_s=WITHIN_S)
        assert sum(place.count_at_110(device, None, Kind.PANIC) for device in PRESSED) == 1
