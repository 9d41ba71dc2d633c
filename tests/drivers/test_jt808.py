"""Terminals on real TCP lines behind the supervisor and a real store; frames against what others made of them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import jt808 as driver
from drivers.jt808 import conversation, messages, parts, terminals
from drivers.jt808.frame import FRAME_BYTES_MAX, Frame, build, parse
from drivers.jt808.location import ITEMS_KEPT_MAX
from gateway.acts import Act, Command
from gateway.credentials import hashed
from gateway.driver import Context, FrameError, Kind, LinkClosed, Observation, Qualifier
from tests.conftest import JumpingClock
from tests.driver_cases import Desk, FakeOrder
from tests.memory import memory_pair

WAIT_S = 20.0
CREDENTIAL = partial(hashed, bytes(32))
PHONE = "13912345678"


def context(**settings: object) -> Context:
    return Context(settings=driver.Settings(**settings), connection="vehicles", credential=CREDENTIAL)


# -- frames as a terminal would send them ------------------------------------------------------------------------------


def header(phone: str = PHONE, serial: int = 0, version: int | None = None) -> Frame:
    """What `build` takes the form of its frames from; it serves for the terminal's direction too."""
    width = 12 if version is None else 20
    return Frame(0, bytes.fromhex(phone.zfill(width)), serial, version, 1, 1, b"", b"")


def message(message_id: int, body: bytes, serial: int, phone: str = PHONE, version: int | None = None) -> bytes:
    return build(message_id, header(phone, serial, version), serial, body)


def part(body: bytes, serial: int, total: int, index: int, message_id: int = 0x0704) -> bytes:
    """One part of a message, 2013."""
    content = struct.pack(
        ">HH6sHHH", message_id, 0x2000 | len(body), bytes.fromhex(PHONE.zfill(12)), serial, total, index
    )
    whole = content + body
    check = 0
    for byte in whole:
        check ^= byte
    escaped = (whole + bytes((check,))).replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02")
    return b"\x7e" + escaped + b"\x7e"


def location(bits: int = 0, time: str = "270115163000", status: int = 3) -> bytes:
    """A report of the moment at which a JumpingClock starts, in UTC+8."""
    return struct.pack(">IIIIHHH", bits, status, 31_230_416, 121_473_701, 12, 432, 359) + bytes.fromhex(time)


def report(serial: int, bits: int = 0, time: str = "270115163000", phone: str = PHONE) -> bytes:
    return message(0x0200, location(bits, time), serial, phone)


def authentication(phone: str = PHONE, serial: int = 1, code: bytes | None = None) -> bytes:
    return message(0x0102, messages.code(phone, context()).encode() if code is None else code, serial, phone)


def batch(*reports: bytes, kind: int = 1) -> bytes:
    body = b"".join(struct.pack(">H", len(each)) + each for each in reports)
    return struct.pack(">HB", len(reports), kind) + body


def results(stream: bytes) -> list[tuple[int, int, int]]:
    """(serial, id, result) of the general answers in what a terminal got."""
    answers = [parse(raw) for raw in driver.split(bytearray(stream))]
    return [struct.unpack(">HHB", answer.body) for answer in answers if answer.id == 0x8001]


# -- others' frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "expected", "made"),
    [
        (
            "SmallChi/JT808, JT808_0x8001Test",
            "7E80010005012345678900000A0064020000617E",
            lambda: build(0x8001, header("12345678900"), 10, struct.pack(">HHB", 100, 0x0200, 0)),
        ),
        (
            "SmallChi/JT808, JT808_0x8100Test",
            "7E81000009012345678900000A006400313233343536687E",
            lambda: build(0x8100, header("12345678900"), 10, struct.pack(">HB", 100, 0) + b"123456"),
        ),
        (
            "SmallChi/JT808, JT808_0x8100Test: no such terminal",
            "7E81000003012345678900000A006404617E",
            lambda: build(0x8100, header("12345678900"), 10, struct.pack(">HB", 100, messages.NO_SUCH_TERMINAL)),
        ),
        (
            "yezhihao/jt808-server, JT808.txt, 2013",
            "7e800300150123456789017fff1099090001000200030004000500060007000800091f7e",
            lambda: messages.ask_again(header("12345678901", 0x7FFF), 0x1099, range(1, 10)),
        ),
        (
            "yezhihao/jt808-server, JT808.txt, 2019",
            "7e800340160100000000017299841738ffff10990009000100020003000400050006000700080009147e",
            lambda: messages.ask_again(header("17299841738", 0xFFFF, 1), 0x1099, range(1, 10)),
        ),
    ],
)
def test_the_platforms_frames_are_those_of_others(origin: str, expected: str, made: Callable[[], bytes]) -> None:
    assert made().hex() == expected.lower(), origin


def test_one_lost_delimiter_costs_one_frame_and_no_more() -> None:
    """A receiver that pairs them would take what lies between two frames for frames from then on."""
    frames = [report(serial) for serial in range(1, 6)]
    stream = bytearray(b"".join(frames))
    del stream[len(frames[0]) * 2]  # the front of the third

    read = []
    for raw in driver.split(stream):
        with suppress(FrameError):
            read.append(parse(raw).serial)
    assert read == [1, 2, 3, 4, 5]
    stream = bytearray(b"".join(frames).replace(b"\x7e\x7e", b"\x7e"))  # terminals that share them

    assert [parse(raw).serial for raw in driver.split(stream)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("header_bytes", [12, 17], ids=["2013", "2019"])
def test_the_check_byte_is_no_part_of_the_header(header_bytes: int) -> None:
    content = struct.pack(">HH", 0x0002, 0x4000 if header_bytes == 17 else 0).ljust(header_bytes - 1, b"\x01")
    check = 0
    for byte in content:
        check ^= byte
    with pytest.raises(FrameError, match="the body has -1 bytes"):
        parse(b"\x7e" + content + bytes((check,)) + b"\x7e")


def test_what_never_ends_is_let_go() -> None:
    buffer = bytearray(b"\x7e" + b"x" * (FRAME_BYTES_MAX + 1))
    [noise] = driver.split(buffer)

    assert not buffer
    with pytest.raises(FrameError) as refused:
        driver.decode(noise, context())
    assert refused.value.reason == "too_long"


@given(
    st.sampled_from([0x0001, 0x0102, 0x0100, 0x0200, 0x0201, 0x0704, 0x0800]), st.binary(max_size=300), st.booleans()
)
def test_only_frame_errors_leave_decode(message_id: int, body: bytes, is_2019: bool) -> None:
    raw = message(message_id, body, 7, version=1 if is_2019 else None)
    for read in (driver.decode, driver.answer):
        with suppress(FrameError):
            read(raw, context())


@given(st.binary(max_size=200))
def test_only_frame_errors_leave_the_envelope(junk: bytes) -> None:
    for raw in driver.split(bytearray(b"\x7e" + junk + b"\x7e")):
        with suppress(FrameError):
            driver.decode(raw, context())


def test_every_bit_of_the_word_is_read_unsigned_and_told_with_its_number() -> None:
    seen = driver.decode(report(1, 0xFFFFFFFF), context())

    assert [one.zone for one in seen[1:]] == list(range(32))
    assert {one.values["alarm_bits"] for one in seen} == {"ffffffff"}
    kinds = {one.zone: one.kind for one in seen}
    assert [kinds[bit] for bit in (0, 1, 4, 5, 6, 7, 8, 20, 21, 26, 28, 29, 30)] == [
        Kind.PANIC, Kind.OVERSPEED, Kind.DEVICE_FAULT, Kind.ANTENNA_CUT, Kind.ANTENNA_CUT, Kind.BATT_LOW, Kind.POWER_CUT,
        Kind.GEOFENCE, Kind.GEOFENCE, Kind.VEHICLE_MOVED, Kind.VEHICLE_MOVED, Kind.COLLISION, Kind.COLLISION,
    ]  # fmt: skip


def test_items_that_nobody_reads_are_kept_up_to_a_bound() -> None:
    items = b"".join(bytes((0x80 + number, 1, number)) for number in range(ITEMS_KEPT_MAX + 1))
    [position] = driver.decode(message(0x0200, location() + items, 2), context())
    assert sum(name.startswith("item_") for name in position.values) == ITEMS_KEPT_MAX


def test_a_time_that_is_none_is_no_key() -> None:
    """It would be the same one at every start of the terminal, and hide its next alarm as a repeat."""
    seen = driver.decode(report(1, 1, time="000000000000"), context())

    assert {(one.at, one.repeat_key) for one in seen} == {(None, None)}


async def test_the_time_of_a_clock_that_was_never_set_is_no_key(jumping_clock: JumpingClock) -> None:
    """It begins with the same date at every start, and so do the serial numbers."""
    old = "260101000003"
    async with table(jumping_clock) as line:
        await line.say(authentication(), report(2, 1, old), report(3, 0, old), report(2, 1, old), report(4))
        await line.say(message(0x0704, batch(location(0, "270110000000")), 5))

    assert words(line.desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)] * 2
    assert [seen.repeat_key for seen in line.desk.reported if seen.repeat_key] == [
        "0200/4/270115163000/position",
        "0704/5/0/270110000000/position",
    ]


# -- a conversation on a desk ------------------------------------------------------------------------------------------


class Table:
    """One line in memory: what the terminal sends, what it gets, and the desk behind the driver."""

    def __init__(self, clock: JumpingClock, desk: Desk, memory: driver.Memory, **settings: object) -> None:
        self.near, self.far = memory_pair()
        self.desk, self.clock = desk, clock
        self.got = b""
        self.ended = asyncio.Event()
        session = desk.session(self.near, context(**settings), clock)
        self.session = replace(session, memory=memory, is_enrolled=lambda device: device == PHONE)

    async def run(self) -> None:
        with pytest.raises(LinkClosed):
            await driver.run(self.session)
        self.ended.set()
        await self.near.close()

    async def listen(self) -> None:
        with suppress(LinkClosed):
            while True:
                self.got += await self.far.read()

    async def say(self, *frames: bytes) -> None:
        """Returns once the driver has done with them."""
        for frame in frames:
            with suppress(LinkClosed):
                await self.far.write(frame)
        await self.clock.settle()


@asynccontextmanager
async def table(
    clock: JumpingClock, *, desk: Desk | None = None, memory: driver.Memory | None = None, **settings: object
) -> AsyncIterator[Table]:
    line = Table(clock, desk or Desk(is_prompt=True), memory or driver.Memory(), **settings)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(line.run())
        tasks.create_task(line.listen())
        yield line
        await line.far.close()


def words(seen: Iterable[Observation]) -> list[tuple[Kind, Qualifier, int | None]]:
    """What is neither a position nor proof of life."""
    return [(one.kind, one.qualifier, one.zone) for one in seen if one.kind not in (Kind.POSITION, Kind.HEARTBEAT)]


async def test_an_alarm_that_stays_set_is_one_event_and_its_end_another(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication(), report(2, 1 << 5), report(3, 1 << 5 | 1 << 8), report(4, 1 << 8), report(5))

    assert words(line.desk.reported) == [
        (Kind.ANTENNA_CUT, Qualifier.NEW, 5),
        (Kind.POWER_CUT, Qualifier.NEW, 8),
        (Kind.ANTENNA_CUT, Qualifier.RESTORE, 5),
        (Kind.POWER_CUT, Qualifier.RESTORE, 8),
    ]
    keys = [seen.repeat_key for seen in line.desk.reported if seen.repeat_key]
    assert len(keys) == len(set(keys)) == 8


async def test_a_held_press_is_one_panic_until_it_is_answered_and_then_another(jumping_clock: JumpingClock) -> None:
    """The terminal takes the bit back when it has our answer; a press is no condition and has no end."""
    desk = Desk()
    async with table(jumping_clock, desk=desk) as line:
        await line.say(authentication())
        desk.settle()
        await line.say(report(2, 1), report(3, 1))
        assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)]
        desk.settle()
        await line.say(report(4))
        assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)]
        desk.settle()
        await line.say(report(5, 1))  # again
        desk.settle()
        await line.say(report(6, 1))  # has crossed our answer
        desk.settle()
        assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)] * 2
        await jumping_clock.advance(terminals.CROSSING_S)
        await line.say(report(7, 1))  # and again, before it could report that the bit was clear
        desk.settle()

    assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)] * 3


async def test_after_a_start_the_stored_word_counts(jumping_clock: JumpingClock) -> None:
    desk = Desk(is_prompt=True)
    async with table(jumping_clock, desk=desk) as line:
        await line.say(authentication(), report(2, 1 << 8))
    async with table(jumping_clock, desk=desk) as line:  # another memory
        await line.say(authentication(), report(3, 1 << 8), report(4))

    assert words(desk.reported) == [(Kind.POWER_CUT, Qualifier.NEW, 8), (Kind.POWER_CUT, Qualifier.RESTORE, 8)]


async def test_a_press_of_long_ago_hides_no_press_after_a_start(jumping_clock: JumpingClock) -> None:
    """A press has no end in the store, so it would stand there for ever."""
    desk = Desk(is_prompt=True)
    async with table(jumping_clock, desk=desk) as line:
        await line.say(authentication(), report(2, 1 | 1 << 29), report(3))
    async with table(jumping_clock, desk=desk) as line:  # another memory
        await line.say(authentication(), report(4, 1 | 1 << 29))

    assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0), (Kind.COLLISION, Qualifier.NEW, 29)] * 2


async def test_a_press_whose_commit_failed_is_told_when_it_is_repeated(jumping_clock: JumpingClock) -> None:
    """Also where an earlier one is on disk: else the repeat would be acknowledged, and the press lost."""
    desk, memory = Desk(), driver.Memory()
    async with table(jumping_clock, desk=desk, memory=memory) as line:
        await line.say(authentication(), report(2, 1), report(3))
        desk.settle()
        stored = list(desk.reported)
        await line.say(report(4, 1))
        desk.fail()
        desk.reported[:] = stored
    async with table(jumping_clock, desk=desk, memory=memory) as line:
        await line.say(authentication(), report(4, 1))
        desk.settle()

    assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)] * 2


async def test_a_report_from_the_future_holds_no_alarm_for_ever(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication(), report(2, 1 << 8, "460901120000"), report(3), report(4, 1 << 8), report(5))

    assert words(line.desk.reported) == [
        (Kind.POWER_CUT, Qualifier.NEW, 8), (Kind.POWER_CUT, Qualifier.RESTORE, 8)
    ] * 2  # fmt: skip


async def test_what_was_not_stored_is_news_again(jumping_clock: JumpingClock) -> None:
    desk, memory = Desk(), driver.Memory()
    async with table(jumping_clock, desk=desk, memory=memory) as line:
        await line.say(authentication())
        desk.settle()
        await line.say(report(2, 1 << 8))
        desk.fail()
        desk.reported.clear()
    async with table(jumping_clock, desk=desk, memory=memory) as line:
        await line.say(authentication())
        desk.settle()
        await line.say(report(2, 1 << 8))
        desk.settle()

    assert words(desk.reported) == [(Kind.POWER_CUT, Qualifier.NEW, 8)]


async def test_what_was_made_up_after_a_gap_is_late_and_ends_nothing_newer(jumping_clock: JumpingClock) -> None:
    gap = [location(1, "270115162900"), location(0, "270115162930")]
    async with table(jumping_clock) as line:
        await line.say(authentication(), report(2, 1 << 8, "270115163000"), message(0x0704, batch(*gap), 3))

    assert words(line.desk.reported) == [(Kind.POWER_CUT, Qualifier.NEW, 8), (Kind.PANIC, Qualifier.NEW, 0)]
    late = [seen for seen in line.desk.reported if seen.values.get("late")]
    assert [seen.at and seen.at.strftime("%H%M%S") for seen in late] == ["162900", "162900", "162930"]


async def test_an_old_word_that_comes_late_ends_nothing_and_a_repeat_is_no_news(jumping_clock: JumpingClock) -> None:
    """Terminals send alarms first, and what was not answered again when newer words are there already."""
    cut = report(3, 1 << 5, "270115162930")
    async with table(jumping_clock) as line:
        await line.say(authentication(), report(4, 1 << 5 | 1, "270115163000"), cut, report(2, 0, "270115162900"))
        await line.say(report(1, 0, "270115163000"))  # of the same second
        await line.say(report(5, 0, "270115163010"), cut, report(6, 0, "270115163020"))

        assert len(results(line.got)) == 8
    assert words(line.desk.reported) == [
        (Kind.PANIC, Qualifier.NEW, 0),
        (Kind.ANTENNA_CUT, Qualifier.NEW, 5),
        (Kind.ANTENNA_CUT, Qualifier.RESTORE, 5),
    ]


async def test_a_repeat_on_a_new_line_waits_for_what_the_old_one_has_under_way(jumping_clock: JumpingClock) -> None:
    desk, memory = Desk(), driver.Memory()
    async with table(jumping_clock, desk=desk, memory=memory) as old:
        await old.say(authentication())
        desk.settle()
        await old.say(report(2, 1))
        [first] = desk.receipts
        async with table(jumping_clock, desk=desk, memory=memory) as new:
            await new.say(authentication(serial=3), report(2, 1))
            for receipt in desk.receipts[1:]:
                receipt.settle()
            await jumping_clock.settle()
            assert results(new.got) == [(3, 0x0102, 0)], "the panic is not stored yet"
            first.settle()
            await jumping_clock.settle()

            assert results(new.got) == [(3, 0x0102, 0), (2, 0x0200, 0)]
    assert words(desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)]


async def test_the_answer_waits_for_the_commit_and_a_held_commit_holds_it(jumping_clock: JumpingClock) -> None:
    desk = Desk()
    async with table(jumping_clock, desk=desk) as line:
        await line.say(authentication())
        desk.settle()
        await line.say(report(2, 1), report(3))
        assert results(line.got) == [(1, 0x0102, 0)]
        first, second = desk.receipts
        second.settle()
        await jumping_clock.settle()
        assert results(line.got) == [(1, 0x0102, 0)], "the second overtook the first"
        first.settle()
        await jumping_clock.settle()

        assert results(line.got) == [(1, 0x0102, 0), (2, 0x0200, 0), (3, 0x0200, 0)]
        desk.receipts.clear()


async def test_alarms_can_be_answered_as_handled(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock, alarm_result=4) as line:
        await line.say(authentication(), report(2, 1), report(3, 1 << 8))

        assert results(line.got)[1:] == [(2, 0x0200, 4), (3, 0x0200, 0)]


async def test_what_is_wrong_or_unknown_is_answered_so(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication(), message(0x0200, b"\0" * 27, 2), message(0x0800, b"\0" * 8, 3))
        await line.say(message(0x0001, struct.pack(">HHB", 0, 0x8103, 0), 4), message(0x0003, b"", 5), report(6))

        assert results(line.got)[1:] == [(2, 0x0200, 2), (3, 0x0800, 3), (5, 0x0003, 0)]
    assert len(line.desk.rejected) == 2  # the short report, and the one after the farewell


# -- who may speak -----------------------------------------------------------------------------------------------------


async def test_a_report_before_authentication_is_refused_and_told_once(jumping_clock: JumpingClock) -> None:
    desk = Desk(is_prompt=True)
    async with table(jumping_clock, desk=desk) as line:
        await line.say(report(2, 1), report(3, 1), message(0x0002, b"", 4))
        assert line.got == b""
    async with table(jumping_clock, desk=desk) as line:  # and not again after a start
        await line.say(report(5), authentication(serial=6), report(7))

    assert words(desk.reported) == [(Kind.SECURITY, Qualifier.NEW, None), (Kind.SECURITY, Qualifier.RESTORE, None)]
    assert len(desk.rejected) == 4
    assert [seen.repeat_key for seen in desk.reported if seen.kind is Kind.POSITION] == ["0200/7/270115163000/position"]


async def test_a_wrong_code_is_refused_and_a_stranger_is_only_counted(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication(code=b"0123456789abcdef"), authentication("999"), report(3, 1, phone="999"))

        assert results(line.got) == [(1, 0x0102, 1), (1, 0x0102, 1)]
        assert words(line.desk.reported) == []  # the key may have been rotated: it registers anew
        await line.say(authentication(code=b"0123456789abcdef"))
    assert words(line.desk.reported) == [(Kind.SECURITY, Qualifier.NEW, None)]
    assert {seen.device for seen in line.desk.reported} == {PHONE}
    assert len(line.desk.rejected) == 4


async def test_after_a_rotation_of_the_key_a_terminal_registers_anew_and_nobody_is_alarmed(
    jumping_clock: JumpingClock,
) -> None:
    desk = Desk(is_prompt=True)
    for _ in range(2):  # each month
        async with table(jumping_clock, desk=desk) as line:
            await line.say(authentication(code=b"0123456789abcdef"), authentication(serial=2))

            assert results(line.got) == [(1, 0x0102, 1), (2, 0x0102, 0)]
    assert words(desk.reported) == []


async def test_only_the_enrolled_get_a_code_unless_all_may(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(message(0x0100, b"\0" * 40, 1), message(0x0100, b"\0" * 40, 2, "999"))
        codes = [parse(raw).body for raw in driver.split(bytearray(line.got))]

        assert codes == [b"\0\1\0" + messages.code(PHONE, context()).encode(), b"\0\2\4"]
    async with table(jumping_clock, accept="open") as line:
        await line.say(message(0x0100, b"\0" * 40, 2, "999"))
        [answer] = driver.split(bytearray(line.got))

        assert parse(answer).body == b"\0\2\0" + messages.code("999", context()).encode()


async def test_where_the_site_says_so_a_report_is_recorded_as_unauthenticated(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock, unauthenticated="record") as line:
        await line.say(report(2, 1))

        assert results(line.got) == [(2, 0x0200, 0)]
    assert words(line.desk.reported) == [(Kind.PANIC, Qualifier.NEW, 0)]
    assert [seen.values["authenticated"] for seen in line.desk.reported] == [False, False]


async def test_the_code_of_2019_stands_behind_its_length(jumping_clock: JumpingClock) -> None:
    code = messages.code(PHONE, context()).encode()
    body = bytes((len(code),)) + code + b"123456789012345" + b"3.7.15".ljust(20, b"\0")
    async with table(jumping_clock) as line:
        await line.say(message(0x0102, body, 1, version=1), message(0x0102, code, 2, version=1))

        assert results(line.got) == [(1, 0x0102, 0), (2, 0x0102, 0)]


async def test_a_terminal_that_dials_in_again_ends_its_old_line(jumping_clock: JumpingClock) -> None:
    desk, memory = Desk(is_prompt=True), driver.Memory()
    async with table(jumping_clock, desk=desk, memory=memory) as old:
        await old.say(authentication(), report(2, 1 << 8))
        async with table(jumping_clock, desk=desk, memory=memory) as new:
            await new.say(authentication(serial=3), report(4, 1 << 8))
            await old.ended.wait()

            assert results(new.got) == [(3, 0x0102, 0), (4, 0x0200, 0)]
    assert words(desk.reported) == [(Kind.POWER_CUT, Qualifier.NEW, 8)]
    assert memory.speakers == {}


async def test_a_relay_has_a_bound(jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "TERMINALS_A_LINE_MAX", 2)
    async with table(jumping_clock, accept="open") as line:
        await line.say(*(authentication(phone) for phone in ("1", "2", "3", "2")))

        assert [result for _, _, result in results(line.got)] == [0, 0, 1, 0]


async def test_the_memory_has_a_bound(jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "TERMINALS_MAX", 2)
    memory = driver.Memory()
    async with table(jumping_clock, memory=memory, accept="open") as line:
        for phone in ("1", "2", "3"):
            await line.say(authentication(phone), report(2, phone=phone))
        await line.say(report(3, 1 << 8, phone="1"))

    assert len(memory._terminals) == 2
    assert words(line.desk.reported) == [(Kind.POWER_CUT, Qualifier.NEW, 8)]


# -- messages in parts -------------------------------------------------------------------------------------------------

WHOLE = batch(*(location(1 << 8, f"2701151630{second:02}") for second in range(10)))
PIECES = [WHOLE[:100], WHOLE[100:200], WHOLE[200:]]


def asked(stream: bytes) -> list[bytes]:
    return [frame.body for raw in driver.split(bytearray(stream)) if (frame := parse(raw)).id == 0x8003]


async def test_a_message_in_parts_is_read_whole_and_its_last_part_waits_for_the_commit(
    jumping_clock: JumpingClock,
) -> None:
    desk = Desk()
    async with table(jumping_clock, desk=desk) as line:
        await line.say(authentication(), *(part(piece, 10 + n, 3, 1 + n) for n, piece in enumerate(PIECES[:2])))
        desk.settle()
        await line.say(part(PIECES[2], 12, 3, 3))

        assert results(line.got)[1:] == [(10, 0x0704, 0), (11, 0x0704, 0)]
        desk.settle()
        await jumping_clock.settle()
        assert results(line.got)[3:] == [(12, 0x0704, 0)]
    positions = [seen for seen in desk.reported if seen.kind is Kind.POSITION]
    assert [seen.repeat_key for seen in positions][::9] == [
        "0704/10/0/270115163000/position",
        "0704/10/9/270115163009/position",
    ]
    assert len(positions[0].raw) == 28


async def test_missing_parts_are_asked_for_and_in_the_end_given_up(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication(), part(PIECES[0], 10, 3, 1), part(PIECES[2], 12, 3, 3))
        assert asked(line.got) == [struct.pack(">HBH", 10, 1, 2)]
        assert results(line.got)[1:] == [(10, 0x0704, 0)], "with its last part answered the terminal would forget it"
        await line.say(part(PIECES[1], 11, 3, 2))
        assert len([seen for seen in line.desk.reported if seen.kind is Kind.POSITION]) == 10
        assert results(line.got)[2:] == [(11, 0x0704, 0), (12, 0x0704, 0)]

        await line.say(part(PIECES[0], 20, 3, 1))
        for _ in range(parts.ASK_MAX + 2):
            await jumping_clock.advance(parts.ASK_AFTER_S)
            await line.say(message(0x0002, b"", 30))
        assert asked(line.got)[1:] == [struct.pack(">HBHH", 20, 2, 2, 3)] * parts.ASK_MAX
    assert len(line.desk.rejected) == 1


def test_parts_have_bounds() -> None:
    held = parts.Parts()
    with pytest.raises(FrameError) as refused:
        held.add(parse(part(b"x", 1, parts.PARTS_MAX + 1, 1)), 0)
    assert refused.value.reason == "too_long"
    for phone in range(10):
        raw = parse(part(b"x", 1, 2, 1))
        held.add(Frame(raw.id, bytes((phone,) * 6), raw.serial, None, 2, 1, raw.body, b""), 0)

    assert len(held._open) == parts.OPEN_MAX


# -- what it is asked --------------------------------------------------------------------------------------------------


def order(device: str = PHONE, **more: bool) -> FakeOrder:
    return FakeOrder(Command(id="c1", device=device, act=Act.LOCATE), **more)


async def test_a_position_that_is_asked_for_is_the_evidence(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication())
        given = line.desk.orders.give(order())
        await jumping_clock.settle()
        [question] = [frame for raw in driver.split(bytearray(line.got)) if (frame := parse(raw)).id == 0x8201]
        assert given.steps == [("sent", "")]
        await line.say(message(0x0201, struct.pack(">H", question.serial) + location(), 2))

        assert given.steps[1:] == [("executed", "its position of 2027-01-15T16:30:00+08:00")]
    assert words(line.desk.reported) == []
    assert [seen.kind for seen in line.desk.reported] == [Kind.HEARTBEAT, Kind.POSITION]


async def test_questions_without_an_answer_have_a_bound(
    jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "ASKED_MAX", 1)
    async with table(jumping_clock) as line:
        await line.say(authentication())
        first, second = (
            line.desk.orders.give(FakeOrder(Command(id=name, device=PHONE, act=Act.LOCATE))) for name in ("c1", "c2")
        )
        await jumping_clock.settle()
        for serial in (1, 2):
            await line.say(message(0x0201, struct.pack(">H", serial) + location(), 1 + serial))

        assert [step for step, _ in first.steps] == ["sent"]
        assert [step for step, _ in second.steps] == ["sent", "executed"]


async def test_half_an_answer_is_no_evidence_and_ends_no_conversation(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication())
        given = line.desk.orders.give(order())
        await jumping_clock.settle()
        await line.say(
            part(struct.pack(">H", 1) + location()[:9], 2, 2, 1, 0x0201), part(location()[9:], 3, 2, 2, 0x0201)
        )

        assert [step for step, _ in given.steps] == ["sent", "executed"]


async def test_a_refusal_a_late_order_and_a_terminal_that_is_not_there(jumping_clock: JumpingClock) -> None:
    async with table(jumping_clock) as line:
        await line.say(authentication())
        given = line.desk.orders.give(order())
        await jumping_clock.settle()
        await line.say(message(0x0001, struct.pack(">HHB", 1, 0x8201, 3), 2))
        assert given.steps == [("sent", ""), ("failed", "the terminal answers 3: it cannot do that")]

        late, astray = line.desk.orders.give(order(is_overdue=True)), line.desk.orders.give(order("999"))
        await jumping_clock.settle()
        assert late.steps == []
        assert astray.steps == [("failed", "the terminal has not authenticated on this line")]
