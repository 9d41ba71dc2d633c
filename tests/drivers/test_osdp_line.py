"""A panel and its readers on one line, in made-up time: spoiled bytes, pulled cables, dead neighbours, forgers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from drivers.osdp.obey import ORDERS_MAX
from gateway.acts import Act, Command
from gateway.driver import Kind
from simulators.osdp.reader import ISTATR, KEYPAD, LSTATR, RAW, Reader
from tests.driver_cases import FakeOrder
from tests.drivers.osdp_line import CARD, Stage, context, play, reader, whole

OFFLINE_AFTER_S = 8.0
BACK_WITHIN_S = 1.0
DEAD_COST_S = 0.05


def credentials(stage: Stage) -> list[str]:
    return [device for device, _ in stage.news(Kind.CREDENTIAL)]


# -- a spoiled byte ----------------------------------------------------------------------------------------------------


async def a_busy_moment(stage: Stage) -> None:
    """Everything a reader has to say, one after the other, and an order."""
    (one,) = stage.line.readers
    await stage.until(stage.all_secure)
    one.say(RAW, CARD)
    one.say(KEYPAD, b"\x00\x034#1")
    one.say(LSTATR, b"\x01\x00")
    one.say(ISTATR, b"\x01\x00")
    order = stage.desk.orders.give(FakeOrder(Command("c1", "door-1", Act.OPEN, seconds=30)))
    one.say(ISTATR, b"\x00\x01")
    one.say(LSTATR, b"\x00\x00")
    await stage.until(lambda: len(stage.desk.reported) >= len(WHAT_HAPPENED) and len(order.steps) == 2)
    await stage.clock.sleep(0.2)  # for what should not come


def told(stage: Stage) -> list[tuple[str, str, int | None]]:
    return [(str(seen.kind), str(seen.qualifier), seen.zone) for seen in stage.desk.reported]


WHAT_HAPPENED = [
    ("credential", "new", None),
    ("credential", "new", None),
    ("tamper", "new", None),
    ("door_open", "new", 0),
    ("door_open", "restore", 0),
    ("exit_request", "new", 1),
    ("tamper", "restore", None),
    ("unlocked", "new", 0),
]


def spoiling(way: str, number: int) -> tuple[Callable[[bytes, str], bytes], list[int]]:
    """Flip a bit of byte `number` on this way; and how many bytes there were."""
    seen = [0]

    def alter(data: bytes, on: str) -> bytes:
        if on != way:
            return data
        at = number - seen[0]
        seen[0] += len(data)
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :]

    return alter, seen


@pytest.mark.driver_story("osdp", "garbage")
@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize(("secure", "step"), [pytest.param(True, 1, marks=pytest.mark.full), (True, 7), (False, 7)])
def test_a_spoiled_byte_anywhere_loses_no_reader_and_no_event(way: str, secure: bool, step: int) -> None:
    def run(number: int) -> tuple[Stage, int]:
        alter, seen = spoiling(way, number)

        async def story(stage: Stage) -> None:
            stage.line.alter = alter
            await a_busy_moment(stage)

        one = reader(1) if secure else reader(1, key=None, insists=False)
        return play(story, [one], context(1, secure=secure), baud=38400), seen[0]

    undisturbed, count = run(-1)
    assert sorted(told(undisturbed)) == sorted(WHAT_HAPPENED)
    for number in range(0, count, step):
        stage, _ = run(number)

        assert sorted(told(stage)) == sorted(WHAT_HAPPENED), f"byte {number} on its way {way}"


def test_a_spoiled_answer_with_a_card_costs_less_than_a_second() -> None:
    async def story(stage: Stage) -> None:
        await stage.until(stage.all_secure)
        await stage.clock.sleep(5.0)
        spoiled: list[bytes] = []

        def spoil(data: bytes, way: str) -> bytes:
            if way == "down" or len(data) < 20 or spoiled:
                return data
            spoiled.append(data)
            return data[:12] + bytes([data[12] ^ 1]) + data[13:]

        stage.line.alter = spoil
        stage.line.readers[0].say(RAW, CARD)
        took_s = await stage.until(lambda: credentials(stage) == ["door-1"], step_s=0.001)

        print(f"the card is told {took_s * 1000:.0f} ms after it was read, its first answer spoiled")
        assert spoiled
        assert took_s < BACK_WITHIN_S

    play(story, [reader(1), reader(2)])


@pytest.mark.driver_story("osdp", "garbage")
def test_noise_before_every_answer_costs_time_and_no_event() -> None:
    dice = Random(3)

    def alter(data: bytes, on: str) -> bytes:
        return dice.randbytes(dice.randint(0, 40)) + data if on == "up" else data

    async def story(stage: Stage) -> None:
        stage.line.alter = alter
        await a_busy_moment(stage)

    stage = play(story, [reader(1)], context(1))

    assert sorted(told(stage)) == sorted(WHAT_HAPPENED)
    assert stage.desk.rejected


def test_of_a_refused_frame_only_its_head_is_kept() -> None:
    """Behind it may stand a card's number, in plain text with one bit flipped."""

    async def story(stage: Stage) -> None:
        await stage.until(lambda: stage.line.readers[0].asked > 8)
        stage.line.alter = lambda data, way: data if way == "down" else data[:-3] + b"\x00" + data[-2:]
        stage.line.readers[0].say(RAW, CARD)
        await stage.clock.sleep(2.0)

    stage = play(story, [reader(1, key=None, insists=False)], context(1, secure=False))
    assert stage.desk.rejected
    assert not any(CARD[4:7] in refused for refused in stage.desk.rejected)


# -- a pulled cable ----------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("osdp", "unplug")
@pytest.mark.parametrize("away_s", [0.3, 3.0, 20.0])
@pytest.mark.parametrize("loses_power", [False, True])
def test_a_reseated_reader_is_back_and_secure_within_a_second(away_s: float, loses_power: bool) -> None:
    readers = [reader(address) for address in range(1, 9)]
    pulled = readers[2]
    receive = pulled.receive

    async def story(stage: Stage) -> None:
        await stage.until(stage.all_secure)
        pulled.receive = lambda _frame, _now_s: b""  # type: ignore[method-assign]  # the cable
        await stage.clock.sleep(away_s)
        if loses_power:
            pulled.lose_power()
        else:
            pulled.say(RAW, CARD)
        pulled.receive = receive  # type: ignore[method-assign]
        polled = pulled.asked
        took_s = await stage.until(lambda: pulled.is_secure and pulled.asked > polled, step_s=0.001)

        print(f"away {away_s} s, power lost {loses_power}: secure and in service again after {took_s * 1000:.0f} ms")
        assert took_s <= BACK_WITHIN_S
        if not loses_power:
            await stage.until(lambda: credentials(stage) == ["door-3"])
        await stage.clock.sleep(5.0)

    stage = play(story, readers)
    faults = [("door-3", "new"), ("door-3", "restore")] if away_s > OFFLINE_AFTER_S else []
    assert stage.news(Kind.COMM_FAULT) == faults
    assert stage.news(Kind.SECURITY) == []


def test_a_reader_that_is_away_at_the_start_is_told_once_and_found_later() -> None:
    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        stage.line.is_cut = True
        await stage.clock.sleep(60.0)
        assert stage.news(Kind.COMM_FAULT) == [("door-1", "new")]
        stage.line.is_cut = False
        assert await stage.until(lambda: one.is_secure) <= BACK_WITHIN_S
        await stage.until(lambda: stage.news(Kind.COMM_FAULT) == [("door-1", "new"), ("door-1", "restore")])

    play(story, [reader(1)])


def test_edges_are_reported_once_across_restarts() -> None:
    one = reader(1)

    async def opened(stage: Stage) -> None:
        await stage.until(stage.all_secure)
        one.inputs[0] = 1
        one.say(ISTATR, bytes(one.inputs))
        one.tamper = 1
        await stage.until(lambda: bool(stage.news(Kind.DOOR_OPEN)))

    before = play(opened, [one])

    async def closed_meanwhile(stage: Stage) -> None:
        stage.desk.reported += before.desk.reported
        await stage.until(lambda: one.is_secure and bool(stage.news(Kind.TAMPER)))
        assert stage.news(Kind.DOOR_OPEN) == [("door-1", "new")], "still open, and told before"
        one.inputs[0] = 0
        one.lose_power()
        await stage.until(lambda: stage.news(Kind.DOOR_OPEN)[1:] == [("door-1", "restore")])

    one.lose_power()
    play(closed_meanwhile, [one])


# -- dead neighbours ---------------------------------------------------------------------------------------------------


def reactions_s(count: int, dead: int, *, baud: int = 9600) -> list[float]:
    """From a card at one of six living readers to its report, many times; the last `dead` of `count` never answer."""
    dice = Random(42)
    readers = [reader(address) for address in range(1, count + 1)]
    took_s: list[float] = []

    async def story(stage: Stage) -> None:
        living = readers[: count - dead]
        stage.line.readers = living
        await stage.until(lambda: all(one.is_secure for one in living))
        await stage.clock.sleep(10.0)
        for _ in range(300):
            await stage.clock.sleep(dice.uniform(0.3, 1.0))
            one = dice.choice(living)
            stage.desk.changed.clear()
            said_s = stage.loop.time()
            one.say(RAW, CARD)
            await stage.desk.changed.wait()
            took_s.append(stage.loop.time() - said_s)

    play(story, readers, baud=baud)
    return sorted(took_s)


@pytest.mark.driver_story("osdp", "silence")
@pytest.mark.parametrize("baud", [9600, pytest.param(115200, marks=pytest.mark.full)])
def test_two_dead_readers_of_eight_hardly_slow_the_living_six(baud: int) -> None:
    alone, beside = reactions_s(6, 0, baud=baud), reactions_s(8, 2, baud=baud)
    p99 = int(len(alone) * 0.99)

    print(f"{baud} baud: p99 {alone[p99] * 1000:.0f} ms alone, {beside[p99] * 1000:.0f} ms beside two dead")
    assert beside[p99] - alone[p99] <= DEAD_COST_S


# -- who is not to be trusted --------------------------------------------------------------------------------------------


def test_a_recorded_answer_is_no_event() -> None:
    """Somebody on the line plays the answer with the card again and again, in place of the reader's own."""

    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        await stage.until(stage.all_secure)
        recorded: list[bytes] = []

        def record(data: bytes, way: str) -> bytes:
            recorded.extend([data] * (way == "up" and len(data) > 20))
            return data

        def replay(data: bytes, way: str) -> bytes:
            return recorded[0] if way == "up" and data[4] & 3 == recorded[0][4] & 3 else data

        stage.line.alter = record
        one.say(RAW, CARD)
        await stage.until(lambda: credentials(stage) == ["door-1"])
        stage.line.alter = replay
        await stage.clock.sleep(20.0)

        assert credentials(stage) == ["door-1"]
        stage.line.alter = whole
        one.say(RAW, CARD)
        await stage.until(lambda: credentials(stage) == ["door-1"] * 2)

    assert play(story, [reader(1)]).desk.rejected


def test_an_answer_with_another_number_is_no_event_in_plain_text_either() -> None:
    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        await stage.until(lambda: one.asked > 8)
        recorded: list[bytes] = []

        def record(data: bytes, way: str) -> bytes:
            recorded.extend([data] * (way == "up" and data[5] == RAW))
            return data

        stage.line.alter = record
        one.say(RAW, CARD)
        await stage.until(lambda: credentials(stage) == ["door-1"])
        stage.line.alter = lambda data, way: (
            recorded[0] + data if way == "up" and data[4] & 3 != recorded[0][4] & 3 else data
        )
        await stage.clock.sleep(10.0)

        assert credentials(stage) == ["door-1"]

    assert play(story, [reader(1, key=None, insists=False)], context(1, secure=False)).desk.rejected


def test_a_reader_that_grew_slow_is_found_again_by_the_answer_nobody_waited_for() -> None:
    async def story(stage: Stage) -> None:
        slow = stage.line.readers[0]
        await stage.until(stage.all_secure)
        await stage.clock.sleep(15.0)
        stage.line.is_cut = True
        await stage.clock.sleep(1.0)
        stage.line.lags_s[1] = 0.1
        stage.line.is_cut = False
        slow.say(RAW, CARD)
        assert await stage.until(lambda: credentials(stage) == ["door-1"]) < 3.0

    play(story, [reader(1), reader(2)], baud=115200)


def test_an_answer_with_a_changed_word_and_a_right_check_is_no_event() -> None:
    from simulators.osdp.frames import finished

    def forge(data: bytes, way: str) -> bytes:
        is_ack = way == "up" and data[4] & 8 and data[7] == 0x40 and data[6] == 0x16
        return finished(data[:7] + b"\x50" + data[8:-2], crc=True) if is_ack else data

    async def story(stage: Stage) -> None:
        await stage.until(stage.all_secure)
        stage.line.alter = forge
        await stage.clock.sleep(20.0)

    stage = play(story, [reader(1)])
    assert credentials(stage) == []
    assert stage.desk.rejected


TROUBLES = {
    "wrong key": lambda: reader(1, key=b"\x11" * 16),
    "reader without secure channel": lambda: reader(1, key=None, has_channel=False, insists=False),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_reader_that_cannot_prove_itself_is_a_security_event_and_says_nothing(trouble: str) -> None:
    one = TROUBLES[trouble]()

    async def story(stage: Stage) -> None:
        one.say(RAW, CARD)
        one.say(LSTATR, b"\x01\x00")
        await stage.clock.sleep(30.0)

    stage = play(story, [one, reader(2)])
    assert [(seen.device, seen.kind, seen.text) for seen in stage.desk.reported] == [("door-1", Kind.SECURITY, trouble)]
    assert stage.desk.heard.count("door-1") == 0
    assert stage.desk.heard.count("door-2") >= 25


def test_a_right_key_after_a_wrong_one_ends_it() -> None:
    one = reader(1, key=b"\x11" * 16)

    async def story(stage: Stage) -> None:
        await stage.until(lambda: stage.news(Kind.SECURITY) == [("door-1", "new")])
        one.key = reader(1).key
        await stage.until(lambda: stage.news(Kind.SECURITY) == [("door-1", "new"), ("door-1", "restore")])

    play(story, [one])


def test_plain_text_in_a_secure_session_is_a_security_event() -> None:
    """Somebody cuts the reader off and answers in its place."""
    one = reader(1)
    forger = Reader(1, None, Random(9).randbytes, insists=False, has_channel=False)

    async def story(stage: Stage) -> None:
        await stage.until(stage.all_secure)
        await stage.clock.sleep(1.0)
        sequence = [0]

        def forged(frame: bytes, _now_s: float) -> bytes:
            sequence[0] = frame[4] & 3
            return forger._framed(frame, sequence[0], RAW, CARD)

        one.receive = forged  # type: ignore[method-assign]
        await stage.until(lambda: stage.news(Kind.SECURITY) == [("door-1", "new")])
        await stage.clock.sleep(20.0)

    stage = play(story, [one])
    assert credentials(stage) == []
    assert stage.desk.reported[0].text == "plain text in a secure session"


def test_a_busy_reader_is_asked_again_and_loses_nothing() -> None:
    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        await stage.until(stage.all_secure)
        one.say(RAW, CARD)
        one.busy = 5
        await stage.until(lambda: credentials(stage) == ["door-1"])

    assert play(story, [reader(1)]).news(Kind.COMM_FAULT) == []


# -- neighbours --------------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("osdp", "flood")
def test_a_reader_that_floods_holds_up_nobody() -> None:
    """Cards without end at one reader: it gets its turn and no more."""

    async def story(stage: Stage) -> None:
        first, second = stage.line.readers
        await stage.until(stage.all_secure)
        await stage.clock.sleep(2.0)
        for _ in range(60):
            first.say(RAW, CARD)
        second.say(RAW, CARD)
        assert await stage.until(lambda: "door-2" in credentials(stage)) < 0.5
        await stage.until(lambda: credentials(stage).count("door-1") == 60)

    play(story, [reader(1), reader(2)])


@pytest.mark.driver_story("osdp", "slow peer")
def test_a_slow_reader_keeps_its_time_and_its_neighbour() -> None:
    async def story(stage: Stage) -> None:
        stage.line.lags_s[1] = 0.19
        await stage.until(stage.all_secure)
        for one in stage.line.readers:
            one.say(RAW, CARD)
        await stage.until(lambda: sorted(credentials(stage)) == ["door-1", "door-2"])
        await stage.clock.sleep(20.0)

    assert play(story, [reader(1), reader(2)]).news(Kind.COMM_FAULT) == []


def test_a_reader_whose_card_is_not_on_disk_is_not_asked_again_and_its_neighbour_is() -> None:
    async def story(stage: Stage) -> None:
        first, second = stage.line.readers
        await stage.until(stage.all_secure)
        await stage.clock.sleep(2.0)
        stage.desk.is_prompt = False
        first.say(RAW, CARD)
        delivered: list[int] = []
        first.say(RAW, CARD, lambda: delivered.append(1))
        await stage.until(lambda: bool(stage.desk.receipts))
        before = [first.asked, second.asked]
        await stage.clock.sleep(5.0)

        assert first.asked == before[0]
        assert second.asked > before[1] + 20
        stage.desk.settle()
        await stage.until(lambda: len(credentials(stage)) == 2)

    play(story, [reader(1), reader(2)])


# -- orders ------------------------------------------------------------------------------------------------------------


def test_a_door_opens_for_as_long_as_asked_and_the_reader_counts() -> None:
    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        await stage.until(stage.all_secure)
        order = stage.desk.orders.give(FakeOrder(Command("c1", "door-1", Act.OPEN, seconds=3)))
        await stage.until(lambda: len(order.steps) == 2)
        assert order.steps == [("sent", ""), ("executed", "output 0 is on")]
        assert one.heard[0] == (0x68, b"\x00\x05\x1e\x00")
        await stage.until(lambda: stage.news(Kind.UNLOCKED) == [("door-1", "new"), ("door-1", "restore")])
        assert one.heard[1] == (0x69, b"\x00\x00\x02\x05\x00\x02\x02\x1e\x00" + bytes(5)), "green as long as it is open"

    play(story, [reader(1)])


def test_orders_for_a_reader_that_is_away_have_a_bound() -> None:
    async def story(stage: Stage) -> None:
        stage.line.is_cut = True
        given = [
            stage.desk.orders.give(FakeOrder(Command(f"c{number}", "door-1", Act.OPEN, seconds=3)))
            for number in range(ORDERS_MAX + 1)
        ]
        await stage.until(lambda: bool(given[-1].steps))
        assert given[-1].steps == [("failed", f"{ORDERS_MAX} orders wait already")]
        assert not any(order.steps for order in given[:-1])

    play(story, [reader(1)])


def test_a_late_order_never_leaves_and_one_without_answer_is_not_said_for_long() -> None:
    async def story(stage: Stage) -> None:
        (one,) = stage.line.readers
        await stage.until(stage.all_secure)
        late = stage.desk.orders.give(FakeOrder(Command("c1", "door-1", Act.OPEN, seconds=3), is_overdue=True))
        lost = stage.desk.orders.give(FakeOrder(Command("c2", "door-1", Act.OPEN, seconds=3)))
        stage.line.alter = lambda data, way: data if way == "up" or len(data) < 30 else b""
        await stage.until(lambda: bool(lost.steps))
        stage.line.is_cut = True
        await stage.clock.sleep(5.0)
        stage.line.is_cut, stage.line.alter = False, whole
        await stage.until(lambda: len(lost.steps) == 2)
        await stage.until(stage.all_secure)
        await stage.clock.sleep(1.0)

        assert late.steps == []
        assert lost.steps[1] == ("failed", "the session ended before the reader answered: it may have obeyed")
        assert one.heard == []

    play(story, [reader(1)])
