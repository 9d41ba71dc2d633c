"""The same questions for every driver. `--driver acme` asks them of one alone, `--driver vendor.panel9` of one from elsewhere.

A stream driver's frames are cut, glued, chopped, spoiled and buried in noise as bytes; a bus driver's captured
transactions likewise; an MQTT driver's payloads are spoiled whole, because a broker neither cuts nor glues.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.driver import Kind, Qualifier
from gateway.errors import LinkClosed, StoreError, leaves
from gateway.links.stream import StreamLink
from tests.conftest import JumpingClock
from tests.driver_cases import (
    EXPECTED,
    KEYS,
    DeadBus,
    Desk,
    Driver,
    FakeMessage,
    FakeTopics,
    Vector,
    answer_of,
    differences,
    drivers,
    expected_observations,
    facts,
    heard_in_pieces,
    said,
    same_answer,
    variants_of_bits,
    vectors_of,
)  # fmt: skip
from tests.memory import memory_pair

ROOT = Path(__file__).parent.parent
SHAPES = {
    "stream": {"split": 1, "decode": 2, "run": 1},
    "topics": {"subscriptions": 1, "decode": 3, "run": 1},
    "bus": {"split": 1, "decode": 2, "run": 1},
}
OPTIONAL = {"stream": {"answer": 2}, "topics": {"answer": 3}, "bus": {}}
UNFINISHED_BYTES_MAX = 8192
"""What a driver may hold back of a stream that never makes a frame: the longest frames of the trade have some 1100."""
JUNK_BYTES = 65536
WAIT_S = 5.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {"driver", "vector", "stream"} & set(metafunc.fixturenames)
    if not wanted:
        return
    found = drivers(metafunc.config.getoption("--driver"))
    if "vector" in metafunc.fixturenames:
        pairs = [(d, v) for d in found for v in d.vectors if _concerns(metafunc, d, v)]
        metafunc.parametrize(("driver", "vector"), pairs, ids=[f"{d.name}-{v.number}" for d, v in pairs])
    else:
        mark = metafunc.definition.get_closest_marker("only")
        some = [d for d in found if mark is None or d.link in mark.args]
        metafunc.parametrize("driver", some, ids=[d.name for d in some])


def _concerns(metafunc: pytest.Metafunc, driver: Driver, vector: Vector) -> bool:
    mark = metafunc.definition.get_closest_marker("only")
    return mark is None or (driver.link in mark.args and not (mark.kwargs.get("good") and vector.is_error))


# -- works -------------------------------------------------------------------------------------------------------------


def test_it_has_the_shape_of_its_link(driver: Driver) -> None:
    module = driver.module

    assert module.LINK in SHAPES
    assert hasattr(module, "HEARD_WITHIN_S"), "say how often a device must be heard, or None"
    assert module.HEARD_WITHIN_S is None or module.HEARD_WITHIN_S > 0
    for name, arguments in {**SHAPES[module.LINK], **_offered(driver)}.items():
        function = getattr(module, name, None)
        assert callable(function), f"{name} is missing"
        assert len(inspect.signature(function).parameters) == arguments, f"{name} takes {arguments} arguments"
    assert inspect.iscoroutinefunction(module.run)


def _offered(driver: Driver) -> dict[str, int]:
    known = {**OPTIONAL[driver.link], "heard_within_s": 2, "obeys": 2}
    return {name: arguments for name, arguments in known.items() if hasattr(driver.module, name)}


def test_it_satisfies_its_protocol_under_strict_types(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One file for all drivers, as one run of mypy costs as much as ten."""
    lines = [
        "from gateway.driver import BusDriver, Stream, StreamDriver, TopicsDriver",
        "from gateway.links.stream import StreamLink",
        "def link_of_every_stream(link: StreamLink) -> Stream: return link",
    ]
    for number, driver in enumerate(drivers(request.config.getoption("--driver"))):
        lines.append(f"import {driver.module.__name__}")
        lines.append(f"_{number}: {driver.link.title()}Driver = {driver.module.__name__}")
    check = tmp_path / "shapes.py"
    check.write_text("\n".join(lines) + "\n")
    cache = ROOT / ".mypy_cache"
    # One from elsewhere may not call itself typed; it is looked at all the same.
    options = [
        "--strict",
        "--follow-untyped-imports",
        f"--cache-dir={cache}",
        f"--config-file={ROOT / 'pyproject.toml'}",
    ]
    # A process of its own: mypy raises the recursion limit of the one it runs in for good.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(check)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_simulator_vectors_and_page(driver: Driver) -> None:
    if "." in driver.name:
        assert driver.vectors, f"{vectors_of(driver.name, driver.module)} is missing"
        return

    assert list((ROOT / "simulators").glob(f"{driver.name}.py")) or (ROOT / "simulators" / driver.name).is_dir()
    assert (ROOT / "docs" / "drivers" / f"{driver.name}.md").is_file()
    assert any(not v.is_error for v in driver.vectors), "no vector with a good frame"
    assert any(v.is_error for v in driver.vectors), "no vector with a bad frame"


def test_a_vector_names_where_it_comes_from(driver: Driver, vector: Vector) -> None:
    origin = vector.row.get("origin", "")

    assert len(origin) >= 8, "origin: clause of a standard, capture, vendor's tool, independent implementation"
    assert "our encoder" not in origin.lower()
    assert set(vector.row) <= KEYS | set(EXPECTED), "a key that nothing compares"
    for wanted in expected_observations(vector):
        assert set(wanted) <= set(EXPECTED), "a key that nothing compares"


def test_a_vector_means_what_it_says(driver: Driver, vector: Vector) -> None:
    if vector.is_error:
        seen, refused = said(driver, vector, vector.payload)

        assert seen == []
        assert refused or driver.link != "topics"
        return
    decoded = _decoded(driver, vector)
    expected = expected_observations(vector)
    count = vector.row.get("observations", max(1, len(expected)))

    assert len(decoded) == count, f"{len(decoded)} observations, expected {count}: {decoded}"
    assert [differences(one, wanted) for one, wanted in zip(decoded, expected, strict=False)] == [[]] * len(expected)


def test_the_answer_is_what_the_vector_says(driver: Driver, vector: Vector) -> None:
    if hasattr(driver.module, "answer") and not vector.is_error:
        wanted = vector.row.get("answer")
        given = answer_of(driver, vector)

        assert same_answer(given, wanted), f"answers {given}, expected {wanted}"
    else:
        assert "answer" not in vector.row, "the driver offers no answer()"


def _decoded(driver: Driver, vector: Vector) -> list[Any]:
    if driver.link == "topics":
        return list(driver.module.decode(vector.row["topic"], vector.payload, vector.context))
    buffer = bytearray(vector.payload)
    decoded = [seen for frame in driver.module.split(buffer) for seen in driver.module.decode(frame, vector.context)]
    assert not buffer, f"{buffer.hex()} is left over"
    return decoded


# -- sturdy: streams and captures ------------------------------------------------------------------------------------------


@pytest.mark.only("stream", "bus", good=True)
def test_cut_at_every_byte_says_the_same(driver: Driver, vector: Vector) -> None:
    whole = said(driver, vector, vector.payload)
    for at in range(1, len(vector.payload)):
        pieces = [vector.payload[:at], vector.payload[at:]]

        assert heard_in_pieces(driver, vector, pieces) == whole, f"cut at {at}"


@pytest.mark.only("stream", "bus", good=True)
def test_one_byte_at_a_time_says_the_same(driver: Driver, vector: Vector) -> None:
    pieces = [vector.payload[at : at + 1] for at in range(len(vector.payload))]

    assert heard_in_pieces(driver, vector, pieces) == said(driver, vector, vector.payload)


@pytest.mark.only("stream", "bus", good=True)
def test_the_front_of_a_frame_says_nothing(driver: Driver, vector: Vector) -> None:
    if len(list(driver.module.split(bytearray(vector.payload)))) != 1:
        pytest.skip("several frames")
    for at in range(len(vector.payload)):
        seen, _ = said(driver, vector, vector.payload[:at])

        assert seen == [], f"cut at {at}"


@pytest.mark.only("stream", "bus", good=True)
def test_glued_to_its_neighbours_says_both(driver: Driver, vector: Vector) -> None:
    own, _ = said(driver, vector, vector.payload)
    for other in driver.vectors:
        if other.is_error or other.context != vector.context:
            continue
        theirs, _ = said(driver, other, other.payload)

        assert said(driver, vector, vector.payload + other.payload)[0] == own + theirs, (
            f"glued to vector {other.number}"
        )


@pytest.mark.only("stream", "bus", good=True)
def test_no_flipped_bit_makes_another_event(driver: Driver, vector: Vector) -> None:
    whole, _ = said(driver, vector, vector.payload)
    for number, spoiled in enumerate(variants_of_bits(vector.payload)):
        seen, _ = said(driver, vector, spoiled)

        assert all(one in whole for one in seen), f"bit {number} of {vector.payload.hex()}: {seen}"


def _junk(size: int) -> bytes:
    return Random(20270115).randbytes(size)


@pytest.mark.only("stream", "bus", good=True)
@pytest.mark.parametrize("size", [1, 7, 300, JUNK_BYTES])
def test_junk_before_costs_one_frame_at_most(driver: Driver, vector: Vector, size: int) -> None:
    whole, _ = said(driver, vector, vector.payload)
    rounds = 1 + UNFINISHED_BYTES_MAX // len(vector.payload)
    buffer = bytearray()
    seen, _ = heard_in_pieces(driver, vector, _chunks(_junk(size)), buffer)

    assert len(buffer) <= UNFINISHED_BYTES_MAX
    assert seen == []
    seen, _ = heard_in_pieces(driver, vector, [vector.payload] * (rounds if driver.link == "bus" else 2), buffer)
    assert all(one in whole for one in seen)
    assert len(seen) >= len(whole), "not one frame got through behind the junk"


@pytest.mark.only("stream", "bus", good=True)
@pytest.mark.parametrize("filler", [b"\x00", b"\xff", b"$", b"\x7e", b"\n", b"\r\n", b"5", b"U\xaa"])
def test_endless_sameness_leaves_a_bounded_buffer(driver: Driver, vector: Vector, filler: bytes) -> None:
    buffer = bytearray()
    seen, _ = heard_in_pieces(driver, vector, _chunks(filler * (JUNK_BYTES // len(filler))), buffer)

    assert seen == []
    assert len(buffer) <= UNFINISHED_BYTES_MAX


@pytest.mark.only("stream", "bus", good=True)
def test_junk_behind_changes_nothing(driver: Driver, vector: Vector) -> None:
    whole, _ = said(driver, vector, vector.payload)

    assert said(driver, vector, vector.payload + _junk(300))[0] == whole


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + 4096] for at in range(0, len(data), 4096)]


# -- sturdy: payloads --------------------------------------------------------------------------------------------------


@pytest.mark.only("topics", good=True)
def test_a_spoiled_payload_is_refused_or_read_but_nothing_else(driver: Driver, vector: Vector) -> None:
    """Nothing in MQTT protects the content from its sender, so a flipped digit is another digit; it must not be worse."""
    for spoiled in variants_of_bits(vector.payload):
        said(driver, vector, spoiled)


@pytest.mark.only("topics", good=True)
def test_a_cut_json_payload_says_nothing(driver: Driver, vector: Vector) -> None:
    payload = vector.payload.rstrip()
    for at in range(len(payload)):
        seen, _ = said(driver, vector, payload[:at])

        assert not (seen and payload[:1] in (b"{", b"[")), f"cut at {at}: {seen}"


@pytest.mark.only("topics", good=True)
def test_junk_around_a_payload_is_refused_or_left_out(driver: Driver, vector: Vector) -> None:
    whole, _ = said(driver, vector, vector.payload)
    for junk in (b"\x00", b"\xff\xfe", b"{", b"]", _junk(JUNK_BYTES), b"[" * JUNK_BYTES, b"9" * 5000):
        for payload in (junk, junk + vector.payload, vector.payload + junk):
            seen, _ = said(driver, vector, payload)

            if payload[:1] == b"{" or payload[-1:] == b"}":
                assert all(one in whole for one in seen)


# -- sturdy: conversations ---------------------------------------------------------------------------------------------


def _good(driver: Driver) -> list[Vector]:
    """Vectors of one context, so that they can share a conversation."""
    good = [v for v in driver.vectors if not v.is_error]
    return [v for v in good if v.context == good[0].context]


def _answered(driver: Driver) -> list[Vector]:
    """Of a device that only ever speaks, nothing can be asked about answers."""
    if not hasattr(driver.module, "answer"):
        pytest.skip("it answers nothing")
    return [v for v in _good(driver) if "answer" in v.row]


class Device:
    """The far end of a memory line: what it got back, and a note in the desk's log of when."""

    def __init__(self, link: StreamLink, log: list[str]) -> None:
        self.link = link
        self.got = b""
        self._log = log

    async def listen(self) -> None:
        with suppress(LinkClosed):
            while True:
                self.got += await self.link.read()
                self._log.append("answered")


async def _converse(driver: Driver, desk: Desk, link: Any, vector: Vector, clock: JumpingClock) -> None:
    """The driver's whole conversation, which ends with its line or, if it waits for its receipt, with the store's word."""
    expected = (LinkClosed, StoreError) if desk.is_disk_full else (LinkClosed,)
    with pytest.raises((*expected, ExceptionGroup)) as caught:
        await driver.module.run(desk.session(link, vector.context, clock))
    if isinstance(caught.value, ExceptionGroup):  # of a driver with tasks of its own
        assert all(isinstance(leaf, expected) for leaf in leaves(caught.value)), caught.value


async def _settle(desk: Desk, clock: JumpingClock) -> None:
    """Commit until a strict request-and-answer driver has nothing more to report."""
    while desk.receipts:
        desk.settle()
        await clock.settle()


@pytest.mark.only("stream")
async def test_nothing_leaves_a_stream_before_it_is_stored(driver: Driver, jumping_clock: JumpingClock) -> None:
    vectors = _answered(driver)
    near, far = memory_pair()
    desk = Desk()
    device = Device(far, desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, vectors[0], jumping_clock))
        tasks.create_task(device.listen())
        for vector in vectors:
            await far.write(vector.payload)
        await jumping_clock.settle()

        assert desk.reported, "the driver reports nothing"
        assert device.got == b"", "answered before it was stored"
        await _settle(desk, jumping_clock)
        await far.close()
    assert desk.log[:2] == ["stored", "answered"]
    assert device.got == b"".join(bytes.fromhex(v.row["answer"]) for v in vectors)


@pytest.mark.only("stream")
async def test_a_failed_commit_hangs_up_instead_of_answering(driver: Driver, jumping_clock: JumpingClock) -> None:
    vector = _answered(driver)[0]
    near, far = memory_pair()
    desk = Desk()
    device = Device(far, desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, vector, jumping_clock))
        tasks.create_task(device.listen())
        await far.write(vector.payload)
        await jumping_clock.settle()
        desk.fail()
        await jumping_clock.settle()
        await near.close()
    assert device.got == b""


@pytest.mark.only("stream")
async def test_frames_that_are_none_end_no_conversation(driver: Driver, jumping_clock: JumpingClock) -> None:
    _skip_if_it_asks(driver)
    good, bad = _good(driver), [v for v in driver.vectors if v.is_error]
    near, far = memory_pair(read_bytes_max=17)
    desk = Desk(is_prompt=True)
    device = Device(far, desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, good[0], jumping_clock))
        tasks.create_task(device.listen())
        await far.write(_junk(300))
        for vector in (*bad, *bad, good[0], *bad, good[0]):
            await far.write(vector.payload)
        await far.close()
    assert desk.rejected
    wanted, _ = said(driver, good[0], good[0].payload)
    assert set(wanted) <= {facts(replace(one, at=None)) for one in desk.reported} | {
        facts(one) for one in desk.reported
    }


@pytest.mark.only("stream")
async def test_a_flood_waits_in_the_line_and_all_of_it_counts(driver: Driver, jumping_clock: JumpingClock) -> None:
    vector = _answered(driver)[0]
    near, far = memory_pair()
    desk = Desk(is_prompt=True)
    device = Device(far, desk.log)
    times = 500
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, vector, jumping_clock))
        tasks.create_task(device.listen())
        for _ in range(times):
            await far.write(vector.payload)
        await jumping_clock.settle()
        await far.close()
    assert len(desk.reported) >= times
    assert not desk.rejected


@pytest.mark.only("stream")
async def test_silence_is_waited_out(driver: Driver, jumping_clock: JumpingClock) -> None:
    """A driver may give up a silent line, by LinkClosed; it may not report or write for want of anything better."""
    _skip_if_it_asks(driver)
    near, far = memory_pair()
    desk = Desk()
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, _good(driver)[0], jumping_clock))
        await jumping_clock.advance(3600)
        await far.close()
    assert desk.reported == []


@pytest.mark.only("stream")
async def test_who_asks_tells_silence_once_and_believes_no_answer_to_nothing(
    driver: Driver, jumping_clock: JumpingClock
) -> None:
    if not _asks(driver):
        pytest.skip("its devices speak first")
    good = _good(driver)[0]
    near, far = memory_pair()
    desk = Desk(is_prompt=True)
    device = Device(far, desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, near, good, jumping_clock))
        tasks.create_task(device.listen())
        for _ in range(30):
            await far.write(_junk(300) + good.payload)
            await jumping_clock.advance(1)
        await far.close()
    assert {(seen.kind, seen.qualifier) for seen in desk.reported} == {(Kind.COMM_FAULT, Qualifier.NEW)}
    assert len(desk.reported) == len({seen.device for seen in desk.reported})
    assert desk.heard == []
    assert device.got
    assert desk.rejected


def _asks(driver: Driver) -> bool:
    return getattr(driver.module, "ASKS", False) is True


def _skip_if_it_asks(driver: Driver) -> None:
    if _asks(driver):
        pytest.skip("its devices only answer")


@pytest.mark.only("topics")
async def test_no_message_is_accepted_before_it_is_stored(driver: Driver, jumping_clock: JumpingClock) -> None:
    """Except what says only who can be reached, if nothing was reported of it: the broker keeps that for the next start."""
    vectors = _good(driver)
    desk = Desk()
    messages = [FakeMessage(v.row["topic"], v.payload, desk.log, retained=_is_reachability(driver, v)) for v in vectors]
    topics = FakeTopics(messages, desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, topics, vectors[0], jumping_clock))
        await jumping_clock.settle()

        early = [message for message in messages if message.is_accepted]
        assert [message.topic for message in early if not message.retained] == []
        assert not {seen.raw for seen in desk.reported} & {message.payload for message in early}
        assert topics.published == []
        assert len(desk.log) == len(early)
        await _settle(desk, jumping_clock)
        topics.end()
    assert [message.topic for message in messages if not message.is_accepted] == []
    assert desk.log[len(early) :][:2] == ["stored", "answered"]


def _is_reachability(driver: Driver, vector: Vector) -> bool:
    kinds = {seen.kind for seen in _decoded(driver, vector)}
    return kinds == {Kind.COMM_FAULT}


@pytest.mark.only("topics")
async def test_a_failed_commit_accepts_nothing(driver: Driver, jumping_clock: JumpingClock) -> None:
    vector = next(v for v in _good(driver) if expected_observations(v))
    desk = Desk()
    message = FakeMessage(vector.row["topic"], vector.payload, desk.log)
    topics = FakeTopics([message], desk.log)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_converse(driver, desk, topics, vector, jumping_clock))
        await jumping_clock.settle()
        assert desk.receipts, "the driver reports nothing"
        desk.fail()
        await jumping_clock.settle()
        topics.end()
    assert not message.is_accepted
    assert topics.published == []


@pytest.mark.only("topics")
async def test_a_payload_that_is_none_ends_no_conversation(driver: Driver, jumping_clock: JumpingClock) -> None:
    """It is accepted too: a broker would deliver it again for ever."""
    good = _good(driver)[0]
    desk = Desk(is_prompt=True)
    messages = [
        FakeMessage(good.row["topic"], payload, desk.log) for payload in (b"\xff\x00{", _junk(300), good.payload)
    ]
    topics = FakeTopics(messages, desk.log)
    topics.end()
    await _converse(driver, desk, topics, good, jumping_clock)

    assert all(message.is_accepted for message in messages)
    assert len(desk.reported) >= len(said(driver, good, good.payload)[0])


@pytest.mark.only("bus")
async def test_a_dead_bus_is_asked_on_until_it_is_gone(driver: Driver, jumping_clock: JumpingClock) -> None:
    desk = Desk(is_prompt=True)
    bus = DeadBus(requests_max=200)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        conversation = tasks.create_task(_converse(driver, desk, bus, _good(driver)[0], jumping_clock))
        while not conversation.done():
            await jumping_clock.advance(1)
    assert bus.requests >= 200
