"""A radio code that anybody can copy raises alarms like any other, and can never disarm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from drivers import mqtt_json, rf_serial
from gateway.driver import Context, Kind, Observation
from gateway.ids import EventIds
from gateway.intake import Intake, Route, Source
from gateway.loader import load_profiles
from gateway.metrics import Metrics
from gateway.model import Lane, Place
from gateway.store import EventFilter
from gateway.store.sqlite import SqliteStore
from tests.conftest import JumpingClock

KEYFOB = {"D": {"kind": "open_close"}, "A": {"kind": "open_close", "qualifier": "restore"}, "B": {"kind": "bypass"}}
"""What a site may say of a learning remote: keys that disarm, arm and bypass."""
KEYFOB |= {"E": {"kind": "burglary"}}


def of_rf_serial(key: str) -> Sequence[Observation]:
    profile = rf_serial.Profile.model_validate({"coding": "EV1527", "key": KEYFOB})
    context = Context(settings=rf_serial.Settings(profile="keyfob"), profiles={"keyfob": profile})
    frame = rf_serial.sentence(f"RX,0A1B2C3D,{ord(key):08X},EV1527,80650{key},-61,0")
    return rf_serial.decode(frame, context)


def of_tasmota(key: str) -> Sequence[Observation]:
    shipped = load_profiles(mqtt_json)["tasmota_rf_bridge"].model_dump()
    profile = mqtt_json.Profile.model_validate(shipped | {"words": [{"member": "key", "means": KEYFOB, "each": True}]})
    context = Context(settings=mqtt_json.Settings(profile="keyfob", topic="t"), profiles={"keyfob": profile})
    payload = b'{"Time":"2026-03-01T10:00:00","RfReceived":{"Data":"80650%s"}}' % key.encode()
    return mqtt_json.decode("tele/t/RESULT", payload, context)


def of_rtl_433(key: str) -> Sequence[Observation]:
    word = {"D": "Disarm", "A": "Arm", "B": "Home Mode", "E": "Normal Zone"}[key]
    context = Context(settings=mqtt_json.Settings(profile="rtl_433"), profiles=load_profiles(mqtt_json))
    payload = b'{"time":"2026-03-01 10:00:00","model":"Chuango-Security","id":1,"cmd":"%s"}' % word.encode()
    return mqtt_json.decode("rtl_433/box/events", payload, context)


class Claimed:
    """Every remote has its place: that somebody has claimed it makes it no truer."""

    def place(self, device: str, zone: int | None) -> Place:
        return Place("s1", "A10B", "阳泗小区", None, 0, device)


@pytest.mark.parametrize("heard", [of_rf_serial, of_tasmota, of_rtl_433])
async def test_a_copied_disarm_is_a_fact_and_changes_nothing(
    tmp_path: Path, jumping_clock: JumpingClock, heard: object
) -> None:
    assert callable(heard)
    seen = [one for key in "DABE" for one in heard(key)]
    assert {one.values["assurance"] for one in seen} == {"low"}
    store = await SqliteStore.open(tmp_path, jumping_clock, inline=True)
    intake = Intake(
        store=store, places=Claimed(), routes=[Route("110", frozenset(Lane))], ids=EventIds(jumping_clock, Random(1)),
        clock=jumping_clock, metrics=Metrics(), heard=lambda device, source: None,
    )  # fmt: skip
    await (await intake.report(Source("radio", "c1"), seen))

    stored = [event.kind for event in await store.events(EventFilter())]
    sent = [row.event.kind for row in await store.deliveries(destination="110")]
    await store.close()
    assert len(stored) == 4
    assert stored.count(Kind.OPEN_CLOSE) >= 2
    assert sent == [Kind.BURGLARY]
