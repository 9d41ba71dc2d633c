"""Every scenario of the library is played against a real gateway, and its expectations are met at 110."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import simulators
from gateway.model import Device, Point, Site
from gateway.registry import Thing
from simulators.police_centre import PoliceCentre
from tests.stories.box import free_ports
from tests.stories.test_scenario import play
from tests.stories.town import town

LIBRARY = Path(simulators.__file__).parent / "scenarios"
ELSEWHERE = {
    "bridge_is_lost": "test_bridges.py",
    "fleet_bad_moments": "test_vehicle_terminals.py",
    "van_leaves_its_area": "test_vehicles.py",
}
"""Played by the story of this file, which looks at more than the expectations."""


@dataclass(frozen=True)
class Gateway:
    """What a scenario wants beside the demo's core: `tables` of the site file (`{ports}` are filled in), ledger, key files."""

    seconds: int
    tables: str = ""
    things: Sequence[Thing] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[str] = ()
    topics: Sequence[str] = ()


def watched(device: str, number: int, *, zone: int | None = None) -> list[Thing]:
    return [Device(device, "yangsi", device), Point(f"p-{device}", "yangsi", number, device, device, zone)]


PANELS = """
[[connection]]
name = "panels"
driver = "dc09"
link = "tcp-listen://{tcp}"
[connection.settings]
accounts = {{ D001 = {{ key_file = "d001.key" }} }}

[[connection]]
name = "panels-udp"
driver = "dc09"
link = "udp-listen://{udp}"
"""
READERS = """
[[connection]]
name = "doors"
driver = "osdp"
link = "serial://{line}?baud=9600"
[[connection.settings.readers]]
address = 1
device = "doors-1"
key_file = "doors-1.key"
inputs = {{ 0 = {{ kind = "door_open" }} }}
[[connection.settings.readers]]
address = 2
device = "doors-2"
key_file = "doors-2.key"
"""
YARD = """
[[connection]]
name = "yard"
driver = "modbus_points"
link = "modbus+tcp://{bus}"
[connection.settings]
units = [
    {{ unit = 1, device = "yard-fence", profile = "fence8" }},
    {{ unit = 2, device = "yard-door", profile = "door_io4" }},
]

[[door]]
name = "yard"
contact = {{ device = "yard-door", zone = 11 }}
exit = [{{ device = "yard-door", zone = 12 }}]
"""
ZIGBEE = """
[[connection]]
name = "zigbee"
driver = "zigbee2mqtt"
link = "mqtt://broker"
"""
NAMED = {"dc09-C001": 841, "dc09-C002": 842, "dc09-C003": 843, "dc09-D001": 844}
OTHERS = [f"dc09-{row}{n:03}" for row, count in (("A", 20), ("B", 10)) for n in range(1, count + 1)]
GATEWAYS = {
    "fence_and_door": Gateway(
        20, YARD, [*watched("yard-fence", 803, zone=3), *watched("yard-door", 811)], ports=["bus"]
    ),
    "radio_in_noise": Gateway(14),
    "readers_are_pulled": Gateway(
        24, READERS, [*watched("doors-1", 861), *watched("doors-2", 862)],
        {f"doors-{n}.key": f"a{n:031x}" for n in (1, 2)},
    ),
    "residential_panels": Gateway(
        16, PANELS,
        [*(thing for name, number in NAMED.items() for thing in watched(name, number)),
         *(Device(name, "yangsi", name) for name in OTHERS)],
        {"d001.key": "text:GATEKEY-AES128-1"}, ["tcp", "udp"],
    ),
    "a_jewellers_evening": Gateway(
        52, "\n[coverage.grace_h]\nsilent = 0\n",
        [Site("gold", "金店", "C001", "jewelry_store"), Device("w1", "gold", "门磁", 6.0), Device("w2", "gold", "库房", 6.0),
         Point("gold-door", "gold", 1, "门", "w1", kind="entrance"), Point("gold-store", "gold", 2, "库", "w2", kind="storeroom")],
    ),
    "a_bus_is_lost": Gateway(
        78, ZIGBEE + "\n[coverage.grace_h]\nfault = 0\n",
        [Site("works", "工地", "C002", "construction_site"), Device("zigbee2mqtt", "works", "网关", kind="mqtt_bridge"),
         Point("works-9", "works", 9, "网关", "zigbee2mqtt"),
         *(Device(f"leaf-{n}", "works", f"leaf-{n}", 4.0) for n in (1, 2, 3)),
         *(Point(f"works-{n}", "works", n, "料库", f"leaf-{n}", kind="material_store") for n in (1, 2, 3))],
        topics=["zigbee2mqtt/#"],
    ),
    "days_that_come": Gateway(
        22, "", [Site("pearl", "珠宝店", "C003", "jewelry_store"), Device("n1", "pearl", "按钮"), Device("n2", "pearl", "库房"),
         Point("pearl-counter", "pearl", 1, "柜台", "n1", kind="counter_panic"),
         Point("pearl-store", "pearl", 2, "库", "n2", kind="storeroom")],
    ),
    "wireless_alarms": Gateway(18),
}  # fmt: skip


def test_every_scenario_of_the_library_is_played_by_somebody() -> None:
    files = {path.stem for path in LIBRARY.glob("*.toml")}

    assert files == GATEWAYS.keys() | ELSEWHERE.keys()
    for name, module in ELSEWHERE.items():
        assert f'"{name}.toml"' in (Path(__file__).parent / module).read_text()


def test_every_scenario_of_the_library_expects_something_and_is_listed() -> None:
    page = (Path(simulators.__file__).parents[1] / "docs" / "simulators.md").read_text()
    for path in LIBRARY.glob("*.toml"):
        assert "[[expect]]" in path.read_text(), path.name
        assert f"scenarios/{path.name})" in page, path.name


@pytest.mark.full
@pytest.mark.parametrize("name", GATEWAYS)
async def test_what_a_scenario_expects_is_at_110(tmp_path: Path, name: str) -> None:
    wanted = GATEWAYS[name]
    for file, secret in wanted.secrets.items():
        (tmp_path / file).touch(mode=0o600)
        (tmp_path / file).write_text(secret + "\n")
    places = {port: f"127.0.0.1:{n}" for port, n in zip(wanted.ports, free_ports(len(wanted.ports)), strict=True)}
    places["line"] = str(tmp_path / "rs485")
    record = tmp_path / "centre.jsonl"
    async with (
        PoliceCentre(record=record, control="127.0.0.1:0") as centre,
        town(
            tmp_path, *wanted.things, centre=centre, receiver=wanted.tables.format(**places), topics=wanted.topics
        ) as place,
    ):
        places |= {"mqtt": place.box.broker_url, "pty": str(place.box.pty)}
        settings = [f"--set={key}={value}" for key, value in places.items()]
        settings += [f"--site-file={place.box.folder / 'site.toml'}", f"--control=127.0.0.1:{centre.control}"]
        code, _, complaints = await play(
            LIBRARY / f"{name}.toml", "--seconds", str(wanted.seconds), "--record", record, *settings, within_s=120
        )

        assert complaints == ""  # alone, so that a long one is shown whole
        assert code == 0
        place.assert_unhurt()
