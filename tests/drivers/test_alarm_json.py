"""What is special to the JSON alarms: bad input, damage, availability that must become an event once."""

from __future__ import annotations

import asyncio
import json
import tomllib
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from drivers import alarm_json
from drivers.alarm_json import HELD_MAX, LOOK_S, OFFLINE_HOLD_S
from gateway.driver import Context, FrameError, Kind, LatestKey, LinkClosed, Observation, Qualifier, Receipt, Session
from gateway.errors import StoreError
from tests.conftest import JumpingClock
from tests.driver_cases import FakeOrders

EVENT = "fangkong/v1/a001/event"
HEARTBEAT = "fangkong/v1/a001/heartbeat"
AVAILABILITY = "fangkong/v1/a001/availability"
GOOD = {"v": 1, "device": "a001", "session": "s", "seq": 1, "kind": "panic"}
VECTORS = tomllib.loads((Path(__file__).parents[1] / "vectors/alarm_json.toml").read_text(encoding="utf-8"))["vector"]


def event(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def decode(payload: bytes, topic: str = EVENT) -> Observation:
    (seen,) = alarm_json.decode(topic, payload, Context())
    return seen


BAD = {
    "empty": b"",
    "no JSON": b"panic",
    "no object": b"[1]",
    "a bare number": b"5",
    "UTF-16": event().decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + event(),
    "broken UTF-8": event().replace(b"panic", b"\xff\xfe"),
    "NUL": event() + b"\0",
    "two objects": event() * 2,
    "NaN": event().replace(b'"seq": 1', b'"seq": NaN'),
    "Infinity": event(values={"t": 1}).replace(b'"t": 1', b'"t": -Infinity'),
    "10^400": event(values={"t": 1}).replace(b'"t": 1', b'"t": 1e400'),
    "400 digits": event(values={"t": 1}).replace(b'"t": 1', b'"t": ' + b"9" * 400),
    "5000 digits": event(values={"t": 1}).replace(b'"t": 1', b'"t": ' + b"9" * 5000),
    "beyond 2^53": event(seq=2**53),
    "depth 100 000": b'{"v":' + b"[" * 100_000,
    "depth 30 000": b'{"v":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "4 MB": event(text="x" * 4_000_000),
    "duplicate key": b'{"v":1,' + event()[1:],
    "duplicate key deep": event(values={"a": 1}).replace(b'{"a": 1}', b'{"a":1,"a":2}'),
    "version true": event(v=True),
    "version 1.0": event(v=1.0),
    "version 2": event(v=2),
    "version missing": event().replace(b'"v": 1, ', b""),
    "another device": event(device="b002"),
    "device a number": event(device=1),
    "device missing": event().replace(b'"device": "a001", ', b""),
    "session missing": event(session=None),
    "session with slash": event(session="a/b"),
    "session with line break": event(session="a\n"),
    "session too long": event(session="x" * 65),
    "seq missing": event(seq=None),
    "seq true": event(seq=True),
    "seq a text": event(seq="1"),
    "seq 1.0": event(seq=1.0),
    "seq below zero": event(seq=-1),
    "kind missing": event(kind=None),
    "kind a list": event(kind=["panic"]),
    "kind empty": event(kind=""),
    "qualifier unknown": event(qualifier="gone"),
    "qualifier a list": event(qualifier=["new"]),
    "zone true": event(zone=True),
    "zone beyond": event(zone=10_000),
    "at a number": event(at=1_700_000_000),
    "at without zone": event(at="2026-03-01T02:03:04"),
    "at a date": event(at="2026-03-01"),
    "at month 13": event(at="2026-13-01T02:03:04Z"),
    "at before all time": event(at="0001-01-01T00:00:00+23:59"),
    "at year 0": event(at="0000-01-01T00:00:00Z"),
    "text a number": event(text=5),
    "code a list": event(code=[]),
    "test a text": event(test="true"),
    "test null": event(test=None),
    "lat alone": event(lat=1),
    "lat true": event(lat=True, lon=1),
    "lat beyond": event(lat=90.1, lon=1),
    "values a list": event(values=[1]),
    "values null": event(values=None),
    "values nested": event(values={"a": {"b": 1}}),
    "33 values": event(values={f"v{n}": n for n in range(33)}),
    "value name with space": event(values={"a b": 1}),
    "value name a script": event(values={'"} or up{job="': 1}),
    "crc wrong": event(crc="00000000"),
    "crc a number": event(crc=5),
    "crc not last": event(crc="00000000", text="x"),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_what_is_no_event_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(FrameError) as refused:
        decode(payload)

    assert 10 < len(str(refused.value)) < 120


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("4 MB", "too_long"),
        ("depth 100 000", "too_long"),
        ("crc wrong", "checksum"),
        ("another device", "spoofed"),
        ("NaN", "malformed"),
    ],
)
def test_a_refusal_names_the_reason_that_tells_noise_from_an_attack(bad: str, reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        decode(BAD[bad])

    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "topic",
    ["", "event", "fangkong/v1//event", "fangkong/v2/a001/event", "fangkong/v1/a001/receipt", "fangkong/v1/a b/event",
     "fangkong/v1/a001/event/x", "fangkong/v1/a001/event\n", f"fangkong/v1/{'x' * 65}/event"],
)  # fmt: skip
def test_another_topic_is_refused(topic: str) -> None:
    with pytest.raises(FrameError):
        decode(event(), topic)


@pytest.mark.parametrize("payload", [b"Online", b"online\n", b'{"state":"online"}', b"\xff"])
def test_availability_has_two_words(payload: bytes) -> None:
    with pytest.raises(FrameError):
        alarm_json.decode(AVAILABILITY, payload, Context())


def test_a_cleared_availability_says_nothing() -> None:
    assert alarm_json.decode(AVAILABILITY, b"", Context()) == ()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("'; DROP TABLE event; --", "'; DROP TABLE event; --"),
        ("<script>alert(1)</script> $(reboot)", "<script>alert(1)</script> $(reboot)"),
        ("door\n2026-01-01 [error] forged", "door�2026-01-01 [error] forged"),
        ("\u202egnp.exe\u2069", "�gnp.exe�"),
        ("a\x00b\x1b[31m", "a�b�[31m"),
        ("\ud800 lone", "� lone"),
        ("大门 🚨", "大门 🚨"),
        ("x" * 300, "x" * 256),
    ],
)
def test_free_text_is_kept_as_harmless_text(text: str, kept: str) -> None:
    assert decode(event(text=text)).text == kept


def test_an_unknown_kind_travels_on_under_its_own_bounded_name() -> None:
    seen = decode(event(kind="laser\n" + "y" * 500))

    assert seen.kind is Kind.UNKNOWN
    assert seen.code == "laser�" + "y" * 58


def test_a_heartbeat_is_no_event() -> None:
    """Nobody can hide an alarm's kind behind proof of life, nor skip the store with it."""
    assert decode(event(kind="heartbeat")).kind is Kind.UNKNOWN


def test_a_missing_value_is_unknown_and_never_false() -> None:
    seen = decode(b'{"v":1,"device":"a001"}', HEARTBEAT)

    assert dict(seen.values) == {}
    assert seen.at is None


def test_null_stays_null() -> None:
    assert dict(decode(event(values={"contact": None, "low": False})).values) == {"contact": None, "low": False}


@pytest.mark.parametrize("row", [row for row in VECTORS if "crc" in row["payload"] and "error" not in row])
def test_no_flipped_bit_makes_another_event_where_a_checksum_is(row: dict[str, str]) -> None:
    payload = row["payload"].encode()
    (good,) = alarm_json.decode(row["topic"], payload, Context())
    read = 0
    for bit in range(len(payload) * 8):
        spoiled = bytearray(payload)
        spoiled[bit // 8] ^= 1 << bit % 8
        try:
            (seen,) = alarm_json.decode(row["topic"], bytes(spoiled), Context())
        except FrameError:
            continue
        read += 1
        assert seen == replace(good, raw=bytes(spoiled)), f"bit {bit}"

    assert read < 40  # a flip in the name "crc" or in the case of its digits


def test_the_checksum_is_the_catalogues() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([EVENT, HEARTBEAT, AVAILABILITY]), st.binary())
def test_only_frame_errors_leave_decode_on_bytes(topic: str, payload: bytes) -> None:
    with suppress(FrameError):
        alarm_json.decode(topic, payload, Context())


@given(
    st.sampled_from([EVENT, HEARTBEAT]),
    st.dictionaries(
        st.sampled_from(
            ["v", "device", "session", "seq", "kind", "qualifier", "zone", "at", "text", "values", "test", "code",
             "lat", "lon", "crc"]
        ),
        JSON,
    ),
)  # fmt: skip
def test_only_frame_errors_leave_decode_on_objects(topic: str, members: dict[str, object]) -> None:
    payload = json.dumps({**GOOD, **members}).encode()
    with suppress(FrameError):
        for seen in alarm_json.decode(topic, payload, Context()):
            json.dumps([seen.text, seen.code, dict(seen.values)], ensure_ascii=False).encode()  # no lone surrogate


# -- the conversation --------------------------------------------------------------------------------------------------


Batch = Sequence[tuple[str, bytes, bool]]


class Wire:
    """Stands for the link and the store: delivers batches, notes what is accepted and published, and after what."""

    def __init__(self, clock: JumpingClock, *course: Batch | float) -> None:
        """`course`: batches, and seconds that pass between them."""
        self.clock = clock
        self.course = course
        self.delivered = 0
        self.reported: list[Observation] = []
        self.receipts: list[Receipt] = []
        self.done: list[str] = []
        self.rejected: list[str] = []
        self.heard: list[str] = []
        self.stored: dict[str, dict[LatestKey, Qualifier]] = {}
        self.orders = FakeOrders()

    @property
    def words(self) -> list[str]:
        return [seen.qualifier.value for seen in self.reported if seen.kind is Kind.COMM_FAULT]

    async def batches(self) -> AsyncIterator[Sequence[Letter]]:
        for step in self.course:
            if isinstance(step, float):
                await self.clock.advance(step)
            else:
                self.delivered += 1
                yield [Letter(*message, self) for message in step]
        raise LinkClosed("the end")

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        after.when_settled(lambda _: self.done.append(f"published {topic} {payload.decode()}"))

    async def report(self, seen: Sequence[Observation]) -> Receipt:
        self.reported += seen
        self.receipts.append(Receipt())
        return self.receipts[-1]

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        return self.stored.get(device, {})

    def commit(self) -> None:
        """Everything reported is on disk."""
        for seen in self.reported:
            self.stored.setdefault(seen.device, {})[seen.kind, seen.zone] = seen.qualifier
        for receipt in self.receipts:
            if not receipt.is_settled:
                receipt.settle()

    async def converse(self) -> None:
        session = Session(
            link=self,
            report=self.report,
            reject=lambda _, error: self.rejected.append(str(error)),
            heard=self.heard.append,
            latest=self.latest,
            orders=self.orders,
            context=Context(),
            clock=self.clock,
            log=structlog.get_logger(),
        )
        async with asyncio.timeout(20):
            await alarm_json.run(session)  # type: ignore[arg-type]  # Letter is a Message in all but mypy's eyes

    async def run(self, *course: Batch | float) -> None:
        """The conversation to its end; with `course`, the next one."""
        self.course = course or self.course
        with pytest.raises(LinkClosed, match="the end"):
            await self.converse()


class Letter:
    def __init__(self, topic: str, payload: bytes, retained: bool, wire: Wire) -> None:
        self.topic, self.payload, self.retained, self._wire = topic, payload, retained, wire

    def accept(self, *, after: Receipt) -> None:
        after.when_settled(lambda _: self._wire.done.append("accepted"))


async def test_puback_and_receipt_leave_after_the_commit(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, [(EVENT, event(), False)])
    await wire.run()

    assert wire.done == []
    wire.receipts[0].settle()
    assert wire.done == ["accepted", 'published fangkong/v1/a001/receipt {"v":1,"session":"s","seq":1}']


async def test_a_refused_message_is_accepted_so_that_it_does_not_come_back(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, [(EVENT, b"{", False), (EVENT, event(), False)])
    await wire.run()
    wire.commit()

    assert wire.done[:2] == ["accepted", "accepted"]
    assert len(wire.rejected) == len(wire.reported) == 1


async def test_what_arrived_together_is_one_report_and_is_answered_in_order(jumping_clock: JumpingClock) -> None:
    """One commit for a burst, however many devices it came from."""
    wire = Wire(
        jumping_clock,
        [
            (EVENT, event(seq=1), False),
            (HEARTBEAT, b'{"v":1,"device":"a001"}', False),
            (EVENT, event(seq=2), False),
            (AVAILABILITY, b"offline", False),
            (EVENT, event(seq=3), False),
        ],
    )
    await wire.run()

    assert [seen.repeat_key for seen in wire.reported] == ["s/1", None, "s/2", "s/3"]
    assert len(wire.receipts) == 2  # what came before the availability is handed over before it is looked at
    assert wire.done == ["accepted"]  # the "offline", which is held
    wire.commit()
    assert [said.split()[0] for said in wire.done[1:]] == [
        "accepted", "published", "accepted", "accepted", "published", "accepted", "published",
    ]  # fmt: skip


@pytest.mark.row("D3")
async def test_retained_is_state_and_never_news(jumping_clock: JumpingClock) -> None:
    """An event kept by the broker would be raised again at every start; a kept heartbeat proves no life."""
    wire = Wire(
        jumping_clock,
        [(EVENT, event(), True), (HEARTBEAT, b'{"v":1,"device":"a001"}', True), (AVAILABILITY, b"online", True)],
    )
    await wire.run()

    assert wire.reported == []
    assert wire.heard == []
    assert wire.done == ["accepted"] * 3
    assert "retain" in wire.rejected[0]


# -- availability ------------------------------------------------------------------------------------------------------

OFFLINE: Batch = [(AVAILABILITY, b"offline", False)]
ONLINE: Batch = [(AVAILABILITY, b"online", False)]
KEPT_OFFLINE: Batch = [(AVAILABILITY, b"offline", True)]
HELD = OFFLINE_HOLD_S + LOOK_S
"""By then an "offline" has been reported."""


async def test_a_device_that_stays_offline_is_reported_once_after_the_hold(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, OFFLINE, OFFLINE_HOLD_S - 1)
    await wire.run()
    assert wire.reported == []
    assert wire.done == ["accepted"]

    await wire.run(OFFLINE, HELD, OFFLINE, HELD, KEPT_OFFLINE, 3600.0)
    wire.commit()
    await wire.run(KEPT_OFFLINE, 3600.0)
    assert [(seen.device, seen.kind, seen.qualifier) for seen in wire.reported] == [
        ("a001", Kind.COMM_FAULT, Qualifier.NEW)
    ]


async def test_an_offline_said_again_is_not_held_longer(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, *[OFFLINE, 5.0] * 4, LOOK_S)
    await wire.run()

    assert wire.words == ["new"]


async def test_a_device_that_is_back_within_the_hold_was_never_away(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, *[OFFLINE, OFFLINE_HOLD_S - 1, ONLINE, 1.0] * 5, 3600.0)
    await wire.run()

    assert wire.reported == []
    assert wire.heard == ["a001"] * 5


@pytest.mark.row("D1")
async def test_a_broker_restart_with_forty_devices_is_no_event(jumping_clock: JumpingClock) -> None:
    """The wills of all are kept by the broker, and each device is back in its own time."""

    def all_say(word: bytes, *, kept: bool) -> Batch:
        return [(f"fangkong/v1/a{n:03}/availability", word, kept) for n in range(40)]

    wire = Wire(jumping_clock, all_say(b"online", kept=True), 600.0, all_say(b"offline", kept=False))
    await wire.run()
    back: list[Batch | float] = []
    for message in all_say(b"online", kept=False):
        back += [[message], 0.4]
    await wire.run(all_say(b"offline", kept=True), *back, 3600.0)

    assert wire.reported == []
    assert len(wire.heard) == 40


async def test_a_crash_inside_the_hold_loses_nothing(jumping_clock: JumpingClock) -> None:
    """The message is accepted before it is reported: what is left is the broker's retained word."""
    wire = Wire(jumping_clock, OFFLINE, 10.0)
    await wire.run()
    assert wire.done == ["accepted"]

    await wire.run(KEPT_OFFLINE, HELD)
    assert wire.words == ["new"]


async def test_an_offline_that_could_not_be_stored_is_told_anew(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, OFFLINE, HELD, *[1.0] * 5)
    original = wire.report

    async def fail(seen: Sequence[Observation]) -> Receipt:
        receipt = await original(seen)
        receipt.settle(StoreError("disk full"))
        return receipt

    wire.report = fail  # type: ignore[method-assign]  # a disk that is full for a while
    with pytest.raises(LinkClosed, match="disk full"):
        await wire.converse()

    wire.report = original  # type: ignore[method-assign]  # and has room again
    await wire.run(KEPT_OFFLINE, HELD)
    assert wire.words == ["new", "new"]


async def test_beyond_the_bound_nobody_is_held_and_nobody_lost(jumping_clock: JumpingClock) -> None:
    many: Batch = [(f"fangkong/v1/a{n:05}/availability", b"offline", False) for n in range(HELD_MAX + 3)]
    wire = Wire(jumping_clock, many, many)
    await wire.run()
    assert [seen.device for seen in wire.reported] == ["a10000", "a10001", "a10002"]

    wire.commit()
    await wire.run(many, HELD)
    assert sorted(seen.device for seen in wire.reported) == [f"a{n:05}" for n in range(HELD_MAX + 3)]


async def test_an_online_while_the_store_is_asked_about_the_offline_comes_after_it(
    jumping_clock: JumpingClock,
) -> None:
    wire = Wire(jumping_clock, OFFLINE, OFFLINE_HOLD_S, ONLINE)
    original = wire.latest
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slowly(device: str) -> Mapping[LatestKey, Qualifier]:
        found = await original(device)
        asked.set()
        await answered.wait()
        return found

    wire.latest = slowly  # type: ignore[method-assign]  # a busy disk
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wire.run())
        await asked.wait()
        while wire.delivered < 2:
            await jumping_clock.settle()
        await jumping_clock.settle()  # what the driver does with it at once
        answered.set()

    assert wire.words == ["new", "restore"]


async def test_an_offline_that_happened_while_we_were_away_becomes_an_event_once(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, KEPT_OFFLINE, KEPT_OFFLINE, HELD, KEPT_OFFLINE, HELD)
    await wire.run()

    assert [(seen.kind, seen.qualifier) for seen in wire.reported] == [(Kind.COMM_FAULT, Qualifier.NEW)]


@pytest.mark.parametrize("known", [Qualifier.NEW, Qualifier.UPDATE])
async def test_an_offline_known_from_before_a_restart_is_not_news(
    jumping_clock: JumpingClock, known: Qualifier
) -> None:
    wire = Wire(jumping_clock, KEPT_OFFLINE, HELD)
    wire.stored["a001"] = {(Kind.COMM_FAULT, None): known}
    await wire.run()

    assert wire.reported == []


async def test_every_change_is_reported_also_before_the_first_is_committed(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, [*ONLINE, *OFFLINE], HELD, [*ONLINE, *ONLINE, *OFFLINE], HELD)
    await wire.run()

    assert wire.words == ["new", "restore", "new"]
    assert wire.heard == ["a001"] * 3


async def test_a_commit_of_an_older_change_does_not_hide_the_newer_one(jumping_clock: JumpingClock) -> None:
    wire = Wire(jumping_clock, OFFLINE, HELD, ONLINE, ONLINE)
    original = wire.report

    async def settle_older(seen: Sequence[Observation]) -> Receipt:
        if wire.receipts:
            wire.stored["a001"] = {(Kind.COMM_FAULT, None): Qualifier.NEW}
            wire.receipts[0].settle()
        return await original(seen)

    wire.report = settle_older  # type: ignore[method-assign]  # the store's word comes at the worst moment
    await wire.run()

    assert wire.words == ["new", "restore"]
