"""Whatever arrives is counted with its reason, kept as it came, and hurts neither the gateway nor a neighbour."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from gateway.kinds import Kind
from gateway.model import Device, Point
from gateway.store.rows import RAW_MAX_BYTES
from simulators import rf_serial
from tests.stories.box import until
from tests.stories.town import Town, town

IN_TIME_S = 3.0
"""An alarm beside the rubbish is at 110 within this time."""
COUNTED_WITHIN_S = 10.0


def event(**members: object) -> bytes:
    """An event of device x001 as docs/drivers/alarm_json.md has it, with some members otherwise; None leaves one out."""
    message: dict[str, object] = {"v": 1, "device": "x001", "session": "s1", "seq": 1, "kind": "burglary", **members}
    return json.dumps({name: value for name, value in message.items() if value is not None}).encode()


def sealed(body: bytes, *, off_by: int = 0) -> bytes:
    """With the page's checksum, or beside it."""
    return body[:-1] + b',"crc":"%08x"}' % (zlib.crc32(body[:-1]) ^ off_by)


BAD_MESSAGES = {
    "empty": (b"", "malformed"),
    "not JSON": (b"\x00\xff{burglary", "malformed"),
    "half a message": (event()[:40], "malformed"),
    "no object": (b"[1, 2]", "malformed"),
    "seq is a text": (event(seq="1"), "malformed"),
    "zone is true": (event(zone=True), "malformed"),
    "kind is a number": (event(kind=130), "malformed"),
    "values are a list": (event(values=[1]), "malformed"),
    "NaN": (event(values={"t": float("nan")}), "malformed"),
    "infinite": (event(lat=float("inf"), lon=1.0), "malformed"),
    "a number of 5000 digits": (event()[:-1] + b',"zone":' + b"9" * 5000 + b"}", "malformed"),
    "deep": (b"[" * 60_000, "malformed"),
    "depth 100 000": (b"[" * 100_000, "too_long"),
    "900 KB": (event(text="x" * 900_000), "too_long"),
    "half a surrogate pair as UTF-8": (b'{"v":1,"device":"x001","text":"\xed\xa0\x80"}', "malformed"),
    "half a surrogate pair as session": (event(session="\ud800"), "malformed"),
    "wrong CRC": (sealed(event(), off_by=1), "checksum"),
    "another device's name": (event(device="a001"), "spoofed"),
}


async def rejected(place: Town, connection: str) -> list[dict[str, Any]]:
    """What the gateway kept of the refused frames of a line."""
    rows = place.box.get("api/v1/rejected?limit=1000")["items"]
    return [row for row in rows if row["connection"] == connection]


@pytest.mark.driver_story("alarm_json", "garbage")
async def test_bad_messages_are_counted_and_kept_and_a_neighbours_alarm_is_in_time(tmp_path: Path) -> None:
    async with town(tmp_path) as place, place.stranger() as stranger:
        neighbour = place.alarm("a002")
        await neighbour.do("tamper")
        await place.at_110("a002", Kind.TAMPER, within_s=COUNTED_WITHIN_S)

        for payload, _ in BAD_MESSAGES.values():
            await stranger.publish("fangkong/v1/x001/event", payload, qos=1)
        await neighbour.do("panic")
        await place.at_110("a002", Kind.PANIC, within_s=IN_TIME_S)

        await until(
            lambda: place.box.metric("fangkong_rejected_frames_total", connection="alarms") >= len(BAD_MESSAGES),
            within_s=COUNTED_WITHIN_S,
            what="every bad message is counted",
        )
        for reason, count in Counter(reason for _, reason in BAD_MESSAGES.values()).items():
            assert place.box.metric("fangkong_rejected_frames_total", connection="alarms", reason=reason) == count
        await until(  # they are kept after they are counted
            lambda: len(place.box.get("api/v1/rejected?limit=1000")["items"]) >= len(BAD_MESSAGES),
            within_s=COUNTED_WITHIN_S,
            what="every bad message is kept",
        )
        kept = {(row["raw"], row["reason"].split(":")[0]) for row in await rejected(place, "alarms")}
        assert kept == {(payload[:RAW_MAX_BYTES].hex(), reason) for payload, reason in BAD_MESSAGES.values()}
        assert place.box.get("api/v1/events?device=x001")["items"] == []
        assert place.count_at_110("a001", None, Kind.BURGLARY) == 0
        place.assert_unhurt()


@pytest.mark.driver_story("alarm_json", "flood")
async def test_a_message_of_4_mb_and_a_flood_of_rubbish_delay_no_alarm(tmp_path: Path) -> None:
    flood = 500
    async with town(tmp_path) as place:
        neighbour = place.alarm("a002")
        await neighbour.do("tamper")
        await place.at_110("a002", Kind.TAMPER, within_s=COUNTED_WITHIN_S)

        with suppress(aiomqtt.MqttError):  # mosquitto hangs up on it; amqtt hands it on
            async with place.stranger() as stranger:
                await stranger.publish("fangkong/v1/x001/event", b"9" * 4_000_000, qos=1, timeout=2)
        async with place.stranger() as stranger:
            for _ in range(flood):
                await stranger.publish("fangkong/v1/x001/event", b"\xff", qos=0)
            await neighbour.do("panic")
            await place.at_110("a002", Kind.PANIC, within_s=IN_TIME_S)
            await until(
                lambda: place.box.metric("fangkong_rejected_frames_total", connection="alarms") >= flood,
                within_s=COUNTED_WITHIN_S,
                what="the flood is counted",
            )

        place.assert_unhurt()


async def test_lone_surrogates_in_a_text_are_replaced_and_the_alarm_is_at_110(tmp_path: Path) -> None:
    async with town(tmp_path) as place, place.stranger() as stranger:
        message = event(device="a003", kind="panic", text="door \udc80 open", code="\ud83d")
        await stranger.publish("fangkong/v1/a003/event", message, qos=1)

        await place.at_110("a003", Kind.PANIC, within_s=IN_TIME_S)

        [stored] = place.box.get("api/v1/events?device=a003")["items"]
        assert (stored["text"], stored["code"]) == ("door \ufffd open", "\ufffd")
        place.assert_unhurt()


@pytest.mark.driver_story("rf_serial", "garbage")
async def test_noise_on_the_serial_line_hides_no_alarm_on_it(tmp_path: Path) -> None:
    damaged = rf_serial.line("RX", "00000001", "00000001", "EV1527", "80650A", "-60", "0").replace(b"80650A", b"80651A")
    async with town(tmp_path) as place:
        radio = await place.radio()
        radio._put(damaged)
        for _ in range(20):
            await radio.do("garbage")
            await radio.do("half")
        await radio.do("burglary", zone=2)

        await place.at_110(radio.device(2), Kind.BURGLARY, within_s=IN_TIME_S)

        kept = {row["raw"]: row["reason"] for row in await rejected(place, "radio")}
        assert kept[damaged.hex()].startswith("checksum: ")
        assert place.box.metric("fangkong_rejected_frames_total", connection="radio", reason="checksum") == 1
        assert place.box.metric("fangkong_rejected_frames_total", connection="radio", reason="malformed") >= 20
        assert place.count_at_110(radio.device(1), None, Kind.BURGLARY) == 0
        assert place.box.metric("fangkong_connection_lost_total", connection="radio") == 0
        place.assert_unhurt()


@pytest.mark.driver_story("modbus_points", "garbage")
@pytest.mark.parametrize(
    ("misbehaviour", "outcome"),
    [
        ("exception", "refused"),
        ("silent", "no_answer"),
        ("late", "no_answer"),
        ("wrong_unit", "no_answer"),
        ("garble", "no_answer"),
    ],
)
async def test_a_bad_unit_on_the_bus_is_counted_and_its_neighbour_is_heard(
    tmp_path: Path, misbehaviour: str, outcome: str
) -> None:
    async with town(tmp_path) as place:
        bad, neighbour, *_ = await place.fences()
        await neighbour.do("perimeter", zone=1)
        await place.at_110("fence-2", Kind.PERIMETER, zone=1, within_s=COUNTED_WITHIN_S)

        await bad.do(misbehaviour)
        await until(
            lambda: place.box.metric("fangkong_bus_requests_total", connection="perimeter", outcome=outcome) > 0,
            within_s=COUNTED_WITHIN_S,
            what=f"a request that ended as {outcome}",
        )
        await neighbour.do("perimeter", zone=3)

        await place.at_110("fence-2", Kind.PERIMETER, zone=3, within_s=IN_TIME_S)
        place.assert_unhurt()


async def test_an_unknown_device_is_shown_unclaimed_and_is_at_110_once_it_is_claimed(tmp_path: Path) -> None:
    async with town(tmp_path) as place:
        stranger, neighbour = place.alarm("x900"), place.alarm("a002")
        await stranger.do("panic")
        await until(
            lambda: place.box.get("api/v1/events?device=x900&claimed=false")["items"],
            within_s=COUNTED_WITHIN_S,
            what="the event is stored",
        )
        await neighbour.do("burglary")  # later than the stranger's: what is sent to 110 at all, is sent by now
        await place.at_110("a002", Kind.BURGLARY, within_s=IN_TIME_S)

        assert [row["id"] for row in place.box.get("api/v1/devices?state=unclaimed")["items"]] == ["x900"]
        assert {row.code for row in place.accepted()} == {"130"}

        await place.box.register(
            Device("x900", "xiwang", "新装报警器"), Point("p-x900", "xiwang", 777, "新装报警点", "x900")
        )
        await until(
            lambda: place.box.get("api/v1/devices?state=unclaimed")["items"] == [],
            within_s=COUNTED_WITHIN_S,
            what="the gateway has read the ledger",
        )
        await stranger.do("panic")

        await place.centre.wait_for(lambda _: any(row.code == "120" for row in place.accepted()), timeout_s=IN_TIME_S)
        [panic] = [row for row in place.accepted() if row.code == "120"]
        assert (panic.account, panic.zone) == ("A103", "777")
        place.assert_unhurt()


@pytest.mark.parametrize(("code", "at_110"), [("E5A", "E5A"), ("门-17", "000")])
async def test_an_unknown_code_is_stored_shown_and_forwarded_as_unknown(tmp_path: Path, code: str, at_110: str) -> None:
    async with town(tmp_path) as place, place.stranger() as stranger:
        message = event(device="a004", kind="flood_gate", code=code)
        await stranger.publish("fangkong/v1/a004/event", message, qos=1)
        await place.centre.wait_for(lambda _: bool(place.accepted()), timeout_s=IN_TIME_S)

        [row] = place.accepted()
        assert (row.account, row.zone, row.code, row.qualifier) == ("A101", "004", at_110, 1)
        assert row.text is not None
        assert row.text.startswith(f"未知报警代码 {code}")
        [stored] = place.box.get("api/v1/events?device=a004")["items"]
        assert (stored["kind"], stored["code"], stored["text"], stored["lane"]) == (
            "unknown",
            code,
            "flood_gate",
            "alarm",
        )
        place.assert_unhurt()
