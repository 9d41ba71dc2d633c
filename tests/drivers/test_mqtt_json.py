"""What is special to alarms behind somebody else's bridge: state and news, presses, repeats on the air, who is away."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from drivers import mqtt_json
from drivers.mqtt_json.hearing import LOOK_S, OFFLINE_HOLD_S, REMEMBERED_MAX
from drivers.mqtt_json.reading import PAYLOAD_MAX_BYTES
from gateway.driver import (
    Act,
    Command,
    Context,
    FrameError,
    Kind,
    LatestKey,
    LinkClosed,
    Observation,
    Qualifier,
    Receipt,
    Session,
)
from gateway.errors import ConfigError, StoreError
from gateway.loader import load_profiles
from gateway.plan import prepare
from tests.conftest import JumpingClock
from tests.driver_cases import FakeOrder, FakeOrders

PROFILES = load_profiles(mqtt_json)
HELD = OFFLINE_HOLD_S + LOOK_S
Letter = tuple[str, str] | tuple[str, str, bool]
"""Topic, payload, and whether the broker only remembers it."""
DOOR, BRIDGE = "zigbee2mqtt/door", "zigbee2mqtt/bridge/state"
OPEN, CLOSED = '{"contact":false}', '{"contact":true}'
GONE, THERE = '{"state":"offline"}', '{"state":"online"}'


def context(profile: str, **settings: Any) -> Context:
    return Context(settings=mqtt_json.Settings(profile=profile, **settings), profiles=PROFILES, connection="c1")


class Line:
    """Stands for the link and the store: delivers what it is given, and knows what was reported, accepted and stored."""

    def __init__(self, clock: JumpingClock, profile: str = "zigbee2mqtt", **settings: Any) -> None:
        self.clock = clock
        self.context = context(profile, **settings)
        self.reported: list[Observation] = []
        self.receipts: list[Receipt] = []
        self.accepted: list[str] = []
        self.rejected: list[str] = []
        self.refused: list[bytes] = []
        self.heard: list[str] = []
        self.stored: dict[str, dict[LatestKey, Qualifier]] = {}
        self.asked: Counter[str] = Counter()
        """How often the store was asked about a device."""
        self.orders = FakeOrders()
        self.published: list[tuple[str, str]] = []
        self.memory = mqtt_json.Memory()
        self.course: Sequence[Letter | Sequence[Letter] | float] = ()

    async def hear(self, *course: Letter | Sequence[Letter] | float) -> list[str]:
        """One conversation: messages, batches, and seconds between them. Returns what it reported that is an event."""
        self.course, before = course, len(self.reported)
        session = Session(
            link=self, report=self.report, reject=self.reject,
            heard=self.heard.append, latest=self.latest, orders=self.orders, context=self.context, clock=self.clock, memory=self.memory,
            log=structlog.get_logger(),
        )  # fmt: skip
        async with asyncio.timeout(20):
            with pytest.raises(LinkClosed, match="the end"):
                await mqtt_json.run(session)  # type: ignore[arg-type]  # a Sent is a Message in all but mypy's eyes
        return [words(seen) for seen in self.reported[before:] if seen.kind is not Kind.HEARTBEAT]

    async def batches(self) -> AsyncIterator[Sequence[Sent]]:
        for step in self.course:
            if isinstance(step, float):
                await self.clock.advance(step)
            else:
                letters = [step] if isinstance(step, tuple) else step
                yield [Sent(self, *letter) for letter in letters]
        await self.clock.settle()
        raise LinkClosed("the end")

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        assert after.is_settled
        self.published.append((topic, payload.decode()))

    async def report(self, seen: Sequence[Observation]) -> Receipt:
        self.reported += seen
        self.receipts.append(Receipt())
        return self.receipts[-1]

    def reject(self, raw: bytes, error: FrameError) -> None:
        self.refused.append(raw)
        self.rejected.append(str(error))

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        self.asked[device] += 1
        return self.stored.get(device, {})

    def commit(self, error: StoreError | None = None) -> None:
        for seen in self.reported if error is None else ():
            self.stored.setdefault(seen.device, {})[seen.kind, seen.zone] = seen.qualifier
        for receipt in self.receipts:
            if not receipt.is_settled:
                receipt.settle(error)


class Sent:
    def __init__(self, line: Line, topic: str, payload: str, retained: bool = False) -> None:
        self.topic, self.payload, self.retained, self._line = topic, payload.encode(), retained, line

    def accept(self, *, after: Receipt) -> None:
        after.when_settled(lambda r: self._line.accepted.append(self.topic) if r.error is None else None)


def words(seen: Observation) -> str:
    zone = "" if seen.zone is None else f"/{seen.zone}"
    return f"{seen.device} {seen.kind}{zone} {seen.qualifier}"


# -- state and news ------------------------------------------------------------------------------------------------------


async def test_a_contact_is_news_when_it_changes_and_not_when_it_is_said_again(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)

    said = await line.hear((DOOR, CLOSED), (DOOR, OPEN), (DOOR, OPEN), (DOOR, CLOSED), (DOOR, CLOSED), (DOOR, OPEN))

    assert said == ["door burglary new", "door burglary restore", "door burglary new"]
    assert line.heard == ["zigbee2mqtt"] * 6


async def test_what_is_stored_is_not_news_after_a_restart(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    await line.hear((DOOR, OPEN))
    line.commit()

    assert await line.hear((DOOR, OPEN), (DOOR, CLOSED)) == ["door burglary restore"]


async def test_what_was_not_stored_is_news_again(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    await line.hear((DOOR, OPEN))
    line.commit(StoreError("disk full"))

    assert line.accepted == []
    assert await line.hear((DOOR, OPEN)) == ["door burglary new"]


async def test_a_missing_key_is_unknown_and_never_false(jumping_clock: JumpingClock) -> None:
    """Nothing about door and lid in a report of the battery: the door stays closed, and the lid off."""
    line = Line(jumping_clock)
    said = await line.hear(
        (DOOR, '{"contact":true,"tamper":true}'), (DOOR, '{"battery":90}'), (DOOR, '{"contact":null}')
    )

    assert said == ["door tamper new"]


async def test_retained_is_state_and_never_news(jumping_clock: JumpingClock) -> None:
    """An "open" that the broker remembers is no alarm, neither when it is said again, nor is its end one."""
    line = Line(jumping_clock)
    said = await line.hear((DOOR, OPEN, True), (DOOR, OPEN), (DOOR, CLOSED), (DOOR, OPEN))

    assert said == ["door burglary new"]


async def test_a_retained_close_ends_no_alarm_and_a_living_one_does(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    line.stored["door"] = {(Kind.BURGLARY, None): Qualifier.NEW}

    assert await line.hear((DOOR, CLOSED, True)) == []
    assert line.heard == []
    assert await line.hear((DOOR, CLOSED)) == ["door burglary restore"]


async def test_a_retained_press_is_none(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)

    assert await line.hear(("zigbee2mqtt/sos", '{"action":"emergency"}', True)) == []


async def test_two_equal_presses_are_two_events(jumping_clock: JumpingClock) -> None:
    press = ("zigbee2mqtt/sos", '{"action":"emergency"}')
    line = Line(jumping_clock)

    assert await line.hear([press, press]) == ["sos panic new"] * 2


async def test_a_value_that_nobody_knows_is_no_all_clear_and_a_person_hears_of_it(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    said = await line.hear((DOOR, OPEN), (DOOR, '{"contact":"ajar","tamper":true,"battery":"low"}'))

    assert said == ["door burglary new", "door tamper new"]
    assert [problem.split(",")[0] for problem in line.rejected] == ["\"contact\" is 'ajar'", "\"battery\" is 'low'"]


async def test_a_code_that_was_typed_is_kept_nowhere(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    keypad = "zigbee2mqtt/keypad"
    await line.hear(
        (keypad, '{"action":"disarm","action_code":"4711","tamper":"?"}'),
        (keypad, '{"action":"emergency","action_code": 4711}'),
        (keypad, '{"action":"disarm","action_code":"47\\"11'),
        ("elsewhere", '{"users":{"1":{"pin_code":"4711"}}}'),
    )

    kept = [seen.raw for seen in line.reported] + line.refused
    assert len(line.refused) == 3
    assert not [raw for raw in kept if b"47" in raw or b"11" in raw.replace(b"1111", b"")]
    assert [words(seen) for seen in line.reported if seen.kind is not Kind.HEARTBEAT] == [
        "keypad open_close new",
        "keypad panic new",
    ]


@given(st.binary(max_size=40))
def test_a_masked_message_is_as_long_and_masked_for_good(noise: bytes) -> None:
    payload = b'{"pin_code":{"user":3,"pin_code":"4711"},"action_code":-123' + noise
    masked = mqtt_json.mask(payload)

    assert len(masked) == len(payload)
    assert b"4711" not in masked[: len(payload) - len(noise)]
    assert mqtt_json.mask(masked) == masked
    assert mqtt_json.mask(b'{"pin":"","user_code":"\xe4\xb8"}') == b'{"pin":"","user_code":"**"}'


async def test_a_battery_that_trembles_is_one_event(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    said = await line.hear(*[(DOOR, json.dumps({"battery": value})) for value in (20, 10, 9, 11, 9, 14, 15, 16)])

    assert said == ["door rf_batt_low new", "door rf_batt_low restore"]


async def test_of_two_words_about_the_battery_the_worse_one_counts(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)

    assert await line.hear((DOOR, '{"battery_low":false,"battery":3}')) == ["door rf_batt_low new"]


# -- copies --------------------------------------------------------------------------------------------------------------

REMOTE = "rtl_433/box/events"


def press(second: str, key: int = 40, **more: object) -> tuple[str, str]:
    return REMOTE, json.dumps(
        {"time": f"2026-03-01 10:00:{second}", "model": "Generic-Remote", "id": 7, "cmd": key} | more
    )


async def test_the_same_within_two_seconds_on_the_air_is_one_event(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock, "rtl_433")
    copies = [press("00", rssi=-1.0), press("00", rssi=-3.0), press("01"), press("02")]

    assert await line.hear(copies, press("02", key=41), press("05")) == ["Generic-Remote-7 unknown new"] * 3


async def test_presses_that_waited_in_the_broker_are_told_apart_by_their_own_time(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock, "rtl_433")

    assert await line.hear([press("00"), press("10"), press("20")]) == ["Generic-Remote-7 unknown new"] * 3


async def test_a_bridge_whose_clock_goes_back_swallows_no_press(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock, "rtl_433")

    assert await line.hear(press("20"), press("10")) == ["Generic-Remote-7 unknown new"] * 2


async def test_without_a_time_arrival_tells_copies_from_presses(jumping_clock: JumpingClock) -> None:
    bare = (REMOTE, '{"model":"Generic-Remote","id":7,"cmd":40}')
    line = Line(jumping_clock, "rtl_433")

    assert await line.hear([bare, bare], 1.0, bare, 3.0, bare) == ["Generic-Remote-7 unknown new"] * 2


async def test_a_supervisory_frame_repeats_the_state_and_is_no_alarm(jumping_clock: JumpingClock) -> None:
    """It may say that something is over: the frame that said so was lost on the air."""

    def honeywell(heartbeat: int, contact_open: int) -> tuple[str, str]:
        content = {"model": "Honeywell-Security", "id": 1, "contact_open": contact_open, "heartbeat": heartbeat}
        return REMOTE, json.dumps(content)

    line = Line(jumping_clock, "rtl_433")

    assert await line.hear(honeywell(1, 1), honeywell(0, 0), honeywell(0, 1), honeywell(1, 1), honeywell(1, 0)) == [
        "Honeywell-Security-1 burglary/1 new", "Honeywell-Security-1 burglary/1 restore",
    ]  # fmt: skip


async def test_motion_whose_end_is_never_said_is_an_alarm_each_time(jumping_clock: JumpingClock) -> None:
    motion = (REMOTE, '{"model":"Kerui-Security","id":5,"cmd":10,"motion":1}')
    line = Line(jumping_clock, "rtl_433")

    assert await line.hear(motion, 60.0, motion) == ["Kerui-Security-5 interior new"] * 2


def test_each_thing_one_uplink_says_has_a_key_of_its_own() -> None:
    topic = "application/a/device/0101/event/up"
    payload = b'{"deduplicationId":"d-1","object":{"magnet_status":"open","tamper":true}}'
    seen = mqtt_json.decode(topic, payload, context("chirpstack_v4"))

    assert [one.repeat_key for one in seen] == [None, "d-1/burglary/new", "d-1/tamper/new"]


def test_a_clock_that_was_never_set_names_no_message() -> None:
    payload = b'{"time":"1970-01-01 00:00:07","model":"Generic-Remote","id":7,"cmd":40}'

    assert mqtt_json.decode(REMOTE, payload, context("rtl_433"))[1].repeat_key is None


def test_a_bridge_without_a_zone_is_believed_once_it_is_known() -> None:
    topic, payload = press("00")
    (_, known) = mqtt_json.decode(topic, payload.encode(), context("rtl_433", utc_offset="+08:00"))
    (_, unknown) = mqtt_json.decode(topic, payload.encode(), context("rtl_433"))

    assert known.at is not None
    assert known.at.isoformat() == "2026-03-01T02:00:00+00:00"
    assert (unknown.at, unknown.repeat_key) == (None, "2026-03-01 10:00:00/unknown/new/cmd=40")


# -- who is away ---------------------------------------------------------------------------------------------------------

LEAVES = [f"leaf-{n}" for n in range(40)]


def all_say(word: str, kept: bool = False) -> list[Letter]:
    return [(f"zigbee2mqtt/{leaf}/availability", word, kept) for leaf in LEAVES]


@pytest.mark.driver_story("mqtt_json", "silence")
async def test_a_device_that_stays_away_is_reported_once_and_its_return_too(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    gone, there = ("zigbee2mqtt/door/availability", GONE), ("zigbee2mqtt/door/availability", "online")
    said = await line.hear(gone, 10.0, gone, HELD, gone, HELD, there, there)

    assert said == ["door comm_fault new", "door comm_fault restore"]


async def test_who_is_back_within_the_hold_was_never_away(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)

    assert await line.hear((BRIDGE, GONE), 15.0, (BRIDGE, THERE), 3600.0) == []


async def test_losing_a_bridge_is_one_event(jumping_clock: JumpingClock) -> None:
    """Also when the bridge gives up its devices as it goes; what is still away when it is back is told then."""
    line = Line(jumping_clock)
    said = await line.hear(all_say(GONE), (BRIDGE, GONE), 600.0)
    assert said == ["zigbee2mqtt comm_fault new"]

    line.commit()
    said = await line.hear(
        (BRIDGE, GONE, True), all_say(GONE, kept=True), 600.0, (BRIDGE, THERE), all_say(THERE)[1:], 60.0
    )
    assert said == ["zigbee2mqtt comm_fault restore", "leaf-0 comm_fault new"]


async def test_the_retained_word_after_a_gap_is_compared_with_what_is_stored(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    line.stored["zigbee2mqtt"] = {(Kind.COMM_FAULT, None): Qualifier.NEW}

    assert await line.hear((BRIDGE, GONE, True), HELD) == []
    assert await line.hear((BRIDGE, THERE, True)) == ["zigbee2mqtt comm_fault restore"]


async def test_an_offline_that_could_not_be_stored_ends_the_conversation(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    original = line.report

    async def fail(seen: Sequence[Observation]) -> Receipt:
        receipt = await original(seen)
        receipt.settle(StoreError("disk full"))
        return receipt

    line.report = fail  # type: ignore[method-assign]  # a disk that is full
    with pytest.raises(AssertionError, match="disk full"):
        await line.hear((BRIDGE, GONE), 60.0)


async def test_beyond_the_bound_nobody_is_held_and_nobody_lost(jumping_clock: JumpingClock) -> None:
    many: list[Letter] = [(f"zigbee2mqtt/d{n}/availability", GONE) for n in range(REMEMBERED_MAX + 2)]
    line = Line(jumping_clock)
    said = await line.hear(many)

    assert said == [f"d{n} comm_fault new" for n in (REMEMBERED_MAX, REMEMBERED_MAX + 1)]


async def test_beyond_the_bound_the_store_is_asked_again(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    many: list[Letter] = [(f"zigbee2mqtt/d{n}", OPEN) for n in range(REMEMBERED_MAX + 2)]
    await line.hear(many)
    line.commit()

    line.asked.clear()
    assert await line.hear(many, ("zigbee2mqtt/d0", OPEN), ("zigbee2mqtt/d0", OPEN)) == []
    assert line.asked["d0"] == 2


async def test_a_phone_given_up_by_its_will_is_back_with_its_next_place(jumping_clock: JumpingClock) -> None:
    """A place that the broker only remembers brings nobody back."""
    line = Line(jumping_clock, "owntracks")
    topic, place = "owntracks/bob/phone", '{"_type":"location","lat":31.2,"lon":121.4,"tst":1800000000}'
    said = await line.hear((topic, '{"_type":"lwt","tst":1}'), HELD, (topic, place, True), (topic, place))

    assert said == ["bob/phone comm_fault new", "bob/phone position new", "bob/phone comm_fault restore"]


@pytest.mark.parametrize("profile", ["zigbee2mqtt", "rtl_433", "tasmota_rf_bridge"])
def test_everything_but_the_bridge_is_behind_the_bridge(profile: str) -> None:
    given = context(profile, topic="here")

    assert mqtt_json.behind("door", given) == "here"
    assert mqtt_json.behind("here", given) is None
    assert mqtt_json.heard_within_s("here", given) == PROFILES[profile].bridge_heard_within_s  # type: ignore[attr-defined]  # a Profile of this driver


# -- locks and sirens ----------------------------------------------------------------------------------------------------

LOCKED, UNLOCKED = '{"lock_state":"locked"}', '{"lock_state":"unlocked"}'
SET = "zigbee2mqtt/front/set"


def house(clock: JumpingClock) -> Line:
    return Line(clock, roles={"front": "lock", "horn": "siren"})


def order_for(line: Line, act: Act, device: str = "front", seconds: int | None = None, **more: Any) -> FakeOrder:
    return line.orders.give(FakeOrder(Command(f"{act}-{device}", device, act, seconds=seconds), **more))


async def test_a_lock_is_told_once_and_believed_only_by_what_it_says_itself(jumping_clock: JumpingClock) -> None:
    line = house(jumping_clock)
    order = order_for(line, Act.LOCK)
    before, after = ("zigbee2mqtt/front", UNLOCKED), ("zigbee2mqtt/front", LOCKED)
    await line.hear(1.0, before, ("zigbee2mqtt/front", LOCKED, True), ("zigbee2mqtt/back", LOCKED))
    assert order.steps == [("sent", "")]

    assert line.published == [(SET, '{"state":"LOCK"}')]
    again = order_for(line, Act.LOCK)
    await line.hear(1.0, after, after)
    assert again.steps == [("sent", ""), ("executed", "lock_state is locked")]


async def test_a_late_order_never_leaves(jumping_clock: JumpingClock) -> None:
    line = house(jumping_clock)
    order = order_for(line, Act.OPEN, seconds=5, is_overdue=True)
    await line.hear(60.0)

    assert (line.published, order.steps) == ([], [])


async def test_a_door_opened_for_a_moment_is_locked_again_also_when_the_line_broke(jumping_clock: JumpingClock) -> None:
    line = house(jumping_clock)
    order = order_for(line, Act.OPEN, seconds=5)
    await line.hear(1.0, ("zigbee2mqtt/front", UNLOCKED), 2.0)
    assert order.steps == [("sent", ""), ("executed", "lock_state is unlocked")]
    assert line.published == [(SET, '{"state":"UNLOCK"}')]

    await line.hear(10.0)
    assert line.published[1:] == [(SET, '{"state":"LOCK"}')]


async def test_a_siren_sounds_and_is_silenced(jumping_clock: JumpingClock) -> None:
    line = house(jumping_clock)
    orders = [order_for(line, Act.SIREN, "horn", 60)]
    await line.hear(1.0, ("zigbee2mqtt/horn", '{"alarm":true}'))
    orders.append(order_for(line, Act.SIREN, "horn", 0))
    await line.hear(1.0, ("zigbee2mqtt/horn", '{"alarm":false}'))

    assert [payload for _, payload in line.published] == ['{"alarm":true,"duration":60}', '{"alarm":false}']
    assert [order.steps[-1][1] for order in orders] == ["alarm is True", "alarm is False"]


def test_only_what_has_a_role_obeys() -> None:
    roles = context("zigbee2mqtt", roles={"front": "lock", "horn": "siren"})

    assert mqtt_json.obeys("front", roles) == {Act.LOCK, Act.OPEN}
    assert mqtt_json.obeys("horn", roles) == {Act.SIREN}
    assert mqtt_json.obeys("window", roles) == frozenset()


# -- input ---------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TOPICS = {
    "zigbee2mqtt": ["zigbee2mqtt/a", "zigbee2mqtt/a/availability", BRIDGE],
    "chirpstack_v4": [f"application/a/device/b/event/{event}" for event in ("up", "status", "location")],
    "rtl_433": [REMOTE],
    "tasmota_rf_bridge": ["tele/t/RESULT", "tele/t/LWT"],
    "owntracks": ["owntracks/a/b", "owntracks/a/b/event"],
    "esphome": ["n/status", "n/binary_sensor/door/state"],
}
PAIRS = [(profile, topic) for profile, topics in TOPICS.items() for topic in topics]
MEMBERS = [
    "contact", "battery", "action", "sos", "last_seen", "state", "object", "time", "deduplicationId", "batteryLevel",
    "location", "model", "id", "cmd", "heartbeat", "RfReceived", "Time", "_type", "lat", "lon", "tst", "vel",
]  # fmt: skip


@given(st.sampled_from(PAIRS), st.binary())
def test_only_frame_errors_leave_decode_on_bytes(pair: tuple[str, str], payload: bytes) -> None:
    with suppress(FrameError):
        mqtt_json.decode(pair[1], payload, context(pair[0], topic="t") if pair[0].startswith("t") else context(pair[0]))


@given(st.sampled_from(PAIRS), st.dictionaries(st.sampled_from(MEMBERS), JSON))
def test_only_frame_errors_leave_decode_on_objects(pair: tuple[str, str], members: dict[str, object]) -> None:
    given = context(pair[0], topic="t") if pair[0].startswith("t") else context(pair[0])
    with suppress(FrameError):
        for seen in mqtt_json.decode(pair[1], json.dumps(members).encode(), given):
            json.dumps([seen.device, seen.code, dict(seen.values)], ensure_ascii=False).encode()  # no lone surrogate


def test_a_payload_beyond_the_bound_is_refused() -> None:
    with pytest.raises(FrameError) as refused:
        mqtt_json.decode(DOOR, b'{"a":"' + b"x" * PAYLOAD_MAX_BYTES + b'"}', context("zigbee2mqtt"))

    assert refused.value.reason == "too_long"


# -- the profile's name is a protocol's name -----------------------------------------------------------------------------

SITE = """
[gateway]
name = "box"
data_dir = "data"

[[connection]]
name = "radio"
driver = "{driver}"
link = "mqtt://broker"
settings = {{ {settings} }}
"""


def planned(folder: Path, driver: str, settings: str = "") -> Context:
    (folder / "site.toml").write_text(SITE.format(driver=driver, settings=settings))
    (connection,) = prepare(folder / "site.toml").connections
    assert connection.driver is mqtt_json
    return connection.context


def test_a_site_file_names_the_profile_and_has_its_driver(tmp_path: Path) -> None:
    assert planned(tmp_path, "zigbee2mqtt", 'topic = "z2m"').settings == mqtt_json.Settings(
        profile="zigbee2mqtt", topic="z2m"
    )


@pytest.mark.parametrize(
    ("driver", "settings", "complaint"),
    [
        ("zigbee2mqtt", 'profile = "rtl_433"', 'found "rtl_433"'),
        ("mqtt_json", 'profile = "zigbee"', 'did you mean "zigbee2mqtt"?'),
        ("tasmota_rf_bridge", "", "no topic"),
        ("rtl_433", 'roles = { a = "lock" }', "it cannot be told anything"),
        ("zigbee2mqtt", 'roles = { a = "door" }', "one of lock, siren"),
        ("zigbee2mqt", "", 'did you mean "zigbee2mqtt"?'),
    ],
)
def test_a_slip_of_the_pen_is_named(tmp_path: Path, driver: str, settings: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(tmp_path, driver, settings)

    assert complaint in str(refused.value)


# -- bad days ----------------------------------------------------------------------------------------------------------


@pytest.mark.driver_story("mqtt_json", "garbage")
async def test_garbage_is_refused_and_accepted_and_hides_no_alarm_beside_it(jumping_clock: JumpingClock) -> None:
    line = Line(jumping_clock)
    garbage = ["\x00", "{", '{"contact":fal', "[" * 60_000, "9" * 5000, '{"contact":NaN}', "\ufffd" * 100]

    said = await line.hear([*((DOOR, junk) for junk in garbage), (DOOR, OPEN), *((DOOR, junk) for junk in garbage)])
    line.commit()

    assert said == ["door burglary new"]
    assert len(line.rejected) >= 2 * (len(garbage) - 1)
    assert len(line.accepted) == 2 * len(garbage) + 1, "what is not accepted comes back for ever"


@pytest.mark.driver_story("mqtt_json", "flood")
async def test_a_sensor_that_floods_is_one_event_and_its_neighbours_alarm_is_in_the_same_commit(
    jumping_clock: JumpingClock,
) -> None:
    line = Line(jumping_clock)
    flood = [(DOOR, OPEN)] * 5_000

    said = await line.hear([*flood, (DOOR.replace("door", "hall"), OPEN), *flood])

    assert said == ["door burglary new", "hall burglary new"]
    assert len(line.receipts) <= 1
