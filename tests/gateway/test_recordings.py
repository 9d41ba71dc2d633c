"""Recording a line: who may, within which bounds, and what stands in the file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway import recording
from gateway.access import GATEWAY, Role
from gateway.api import recordings
from gateway.clock import RealClock
from gateway.driver import Context
from gateway.errors import BusRefused, Busy, LinkClosed, NoAnswer
from gateway.model import Device, Site, Vehicle, VehicleKind
from gateway.recording import Recorder, transaction
from gateway.supervisor import Connection
from tests.gateway.api_box import Box, closed_box
from tests.memory import memory_pair

WAIT_S = 20.0
CAPTURE = "/api/v1/connections/line1/capture"


def driver(**parts: Any) -> ModuleType:
    module = ModuleType("drivers.testing")
    vars(module).update(parts)
    return module


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A line on which a device of s1 was heard."""
    async with closed_box(tmp_path) as parts, parts.open():
        await parts.registry.add(Site("s1", "s1", "A10B"), Site("s2", "s2", "A10C"), Device("d1", "s1"))
        parts.health.hear("d1", "line1")
        parts.lines.connections["line1"] = Connection("line1", driver(), "testing", Context())
        yield parts


def recorder(lines: list[str], **parts: Any) -> Recorder:
    return Recorder(RealClock(), lines.append, connection="line1", driver=driver(**parts))


def facts(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


async def test_who_is_limited_to_sites_hears_no_line_on_which_others_speak(box: Box) -> None:
    async def status(*sites: str) -> int:
        token = await box.accounts.add_token(GATEWAY, "-".join(sites), Role.TEST_ENGINEER, frozenset(sites), days=1)
        headers = {"authorization": f"Bearer {token}"}
        return (await box.client.post(CAPTURE, json={"seconds": 0.01}, headers=headers, timeout=WAIT_S)).status_code

    assert await status("s1") == 200
    assert await status("s2") == 404
    box.health.hear("stranger", "line1")
    assert await status("s1", "s2") == 404


async def test_where_vehicles_tell_their_places_only_those_listen_who_may_see_them(box: Box) -> None:
    await box.registry.add(Vehicle("d1", VehicleKind.TAXI))
    token = await box.accounts.add_token(GATEWAY, "li", Role.MAINTENANCE, None, days=1)
    answer = await box.client.post(CAPTURE, json={"seconds": 0.01}, headers={"authorization": f"Bearer {token}"})

    assert (answer.status_code, "for you to hear" in answer.text) == (404, True)
    assert (await box.client.post(CAPTURE, json={"seconds": 0.01}, timeout=WAIT_S)).status_code == 200


async def test_a_span_has_bounds_and_a_line_a_name(box: Box) -> None:
    for seconds in (0, -1, recording.SECONDS_MAX + 1, "nan"):
        assert (await box.client.post(CAPTURE, json={"seconds": seconds}, timeout=WAIT_S)).status_code == 422
    assert (
        await box.client.post(CAPTURE.replace("line1", "line2"), json={"seconds": 1}, timeout=WAIT_S)
    ).status_code == 404


async def test_one_recording_at_a_time_and_a_caller_who_hangs_up_ends_it(box: Box) -> None:
    line = box.lines.connections["line1"]
    async with asyncio.timeout(WAIT_S):
        async with box.client.stream("POST", CAPTURE, json={"seconds": 600}, timeout=WAIT_S) as first:
            lines = first.aiter_lines()
            assert '"capture": 1' in await anext(lines)
            assert (await box.client.post(CAPTURE, json={"seconds": 1}, timeout=WAIT_S)).status_code == 409
        while line.recorder is not None:
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks; bounded above
        answer = await box.client.post(CAPTURE, json={"seconds": 0.01}, timeout=WAIT_S)
    assert json.loads(answer.text.splitlines()[-1])["end"] == "the time is up"
    with line.recorded_by(recorder([])), pytest.raises(Busy), line.recorded_by(recorder([])):
        pass


async def test_a_reader_who_takes_nothing_ends_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "UNTAKEN_MAX_BYTES", 2000)
    line = box.lines.connections["line1"]
    async with (
        asyncio.timeout(WAIT_S),
        box.client.stream("POST", CAPTURE, json={"seconds": 600}, timeout=WAIT_S) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        assert line.recorder is not None
        tap = line.recorder.conversation("peer")
        for _ in range(100):
            tap.came(bytes(100))
        rest = [json.loads(text) async for text in lines]
    assert rest[-1]["end"] == "the reader is too slow"
    assert len(rest) < 20


def test_a_recording_ends_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "SIZE_MAX_BYTES", 2000)
    lines: list[str] = []
    one = recorder(lines)
    tap = one.conversation("peer")
    for _ in range(100):
        tap.came(bytes(100))
    assert one.ended is not None
    assert "end" in facts(lines)[-1]
    assert sum(map(len, lines)) < 2200


async def test_a_stream_under_way_is_recorded_as_it_is_read_and_left_alone_after() -> None:
    lines: list[str] = []
    near, far = memory_pair()
    line = Connection("line1", driver(mask=lambda data: data.replace(b"1234", b"****")), "testing", Context())
    with line.conversation(near):
        with line.recorded_by(Recorder(RealClock(), lines.append, connection="line1", driver=line.driver)):
            await far.write(b"pin 1234")
            await near.read()
            await near.write(b"ok")
        assert near.tap is None
    _, begin, came, left = facts(lines)
    assert begin["begin"] == "under way"
    assert (came["dir"], bytes.fromhex(came["bytes"])) == ("in", b"pin ****")
    assert (left["dir"], bytes.fromhex(left["bytes"])) == ("out", b"ok")


async def test_a_bus_is_recorded_with_its_errors() -> None:
    lines: list[str] = []
    tap = recorder(lines).conversation("bus")

    async def answers(what: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what

    assert await transaction(tap, {"read": [1, "coil", 0, 2]}, answers([0, 1])) == [0, 1]
    for error in (BusRefused(2), NoAnswer("silent"), LinkClosed("gone")):
        with pytest.raises(type(error)):
            await transaction(tap, {"read": [1, "coil", 0, 2]}, answers(error))
    assert [fact.get("answer", fact.get("error")) for fact in facts(lines)[2:]] == [
        [0, 1], "refused", "no_answer", "closed",
    ]  # fmt: skip
