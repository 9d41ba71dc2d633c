"""The month's self-tests against real devices of a real gateway: who cannot do it is a fault and somebody's task, and by night
nobody is asked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import logs
from gateway.clock import RealClock
from gateway.coverage.days import LOCAL
from gateway.coverage.facts import Fact, Sort
from gateway.daemon import Daemon
from gateway.model import Device, Point, Site
from gateway.plan import prepare
from gateway.registry import Registry
from simulators import _clock
from simulators._world import Ledger, Spec, World
from simulators.alarm_json import Alarm
from tests.stories.box import Api, free_ports

TOLD_WITHIN_S = 90.0
"""The gateway looks every 30 s whether a test is due, and a device has as long again to answer."""
TESTED = {"jammed": False, "well": True}
SITE = """
[gateway]
data_dir = "var"
[api]
listen = "127.0.0.1:{api}"
token_file = "token"
[broker]
listen = "127.0.0.1:{mqtt}"
passwords = {{ sirens = "sirens.password" }}
topics = {{ sirens = ["fangkong/v1/#"] }}
[coverage.grace_h]
fault = 0
[[connection]]
name = "wireless"
driver = "alarm_json"
link = "mqtt://broker"
[connection.settings]
obeys = {{ "*" = ["self-test"] }}
[[self_test]]
site = "day"
quiet_from = "{later}"
quiet_to = "{earlier}"
[[self_test]]
site = "night"
quiet_from = "{earlier}"
quiet_to = "{later}"
"""
"""Where it is day, it is quiet but for the hours around now; where it is night, just then."""


async def plan(folder: Path) -> None:
    """Two sites; the sirens of the one by day are accepted at its doors."""
    registry = await Registry.open(folder / "var" / "registry.db")
    sirens = {"well": "day", "jammed": "day", "sleeps": "night"}
    await registry.add(
        Site("day", "金店", "A10B", "jewelry_store"), Site("night", "夜店", "A10C", "jewelry_store"),
        *(Device(name, site, name, kind="siren") for name, site in sirens.items()),
        *(Point(f"p-{name}", site, n, name, name, kind="entrance") for n, (name, site) in enumerate(sirens.items())),
    )  # fmt: skip
    now = RealClock().now()
    await registry.record(
        [Fact(Sort.ACCEPTANCE, (f"p-{name}", name, ""), {"sheet": "0", "by": "maintenance"}, now) for name in sirens]
    )
    await registry.close()


async def results(folder: Path) -> dict[str, Any]:
    registry = await Registry.open(folder / "var" / "registry.db")
    facts = await registry.facts(sort=Sort.SELF_TEST)
    await registry.close()
    return {fact.subject[2]: fact.value["ok"] for fact in facts if fact.value and fact.subject[2]}


@pytest.mark.full
async def test_a_siren_that_fails_its_test_is_a_fault_and_a_task_and_the_night_is_quiet(tmp_path: Path) -> None:
    logs.set_up("warning")
    await plan(tmp_path)
    api, mqtt = free_ports(2)
    now = RealClock().now().astimezone(LOCAL)
    hours = {name: f"{now + timedelta(hours=hours):%H:%M}" for name, hours in (("earlier", -2), ("later", 2))}
    (tmp_path / "site.toml").write_text(SITE.format(api=api, mqtt=mqtt, **hours))
    for name in ("sirens.password", "token"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text("for-this-test-only\n")
    clock = _clock.RealClock()
    world = World(clock, Random(7), Ledger(clock))
    options = {"username": "sirens", "password": "for-this-test-only", "heartbeat_s": 0.5}
    sirens = {
        name: Alarm(Spec(name, f"mqtt://127.0.0.1:{mqtt}", options), world) for name in ("well", "jammed", "sleeps")
    }
    await sirens["jammed"].do("jammed")
    daemon = Daemon(prepare(tmp_path / "site.toml"), clock=RealClock(), random=Random(1), log=logs.logger())
    look = Api()
    look.api = api
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(daemon.run())]
        await daemon.ready.wait()
        devices = [tasks.create_task(siren.run()) for siren in sirens.values()]

        def tasks_open() -> list[Any]:
            open_ = look.get("api/v1/deficiencies?node=site:day")["items"]
            return [each["points"] for each in open_ if each["gap"] == "fault"]

        async def is_somebodys_task() -> bool:
            return await asyncio.to_thread(tasks_open) == [["p-jammed"]]

        async with asyncio.timeout(TOLD_WITHIN_S):
            while not (await is_somebodys_task() and len(await results(tmp_path)) == len(TESTED)):
                await RealClock().sleep(0.5)
        events = (await asyncio.to_thread(look.get, "api/v1/events?kind=device_fault"))["items"]
        for task in devices:
            task.cancel()
        daemon.stop()
        await asyncio.wait(running)

    assert [(event["device"], event["code"], event["qualifier"]) for event in events] == [
        ("jammed", "self_test", "new")
    ]
    assert await results(tmp_path) == TESTED
    assert [siren.done for siren in sirens.values()] == [["self-test"], [], []]
