"""Who lives where in the demo: the inventory of a small community, and the site file of its gateway."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.cli import demo_families
from gateway.clock import Clock
from gateway.coverage.facts import Fact
from gateway.model import Device, Point, Site
from gateway.registry import Thing

SITES = (
    Site(
        "yangsi",
        "阳泗小区",
        "A101",
        "residential_estate",
        "阳泗路 18 号",
        31.2304,
        121.4737,
        "物业值班室 021-5550-0101",
    ),
    Site("zhouji", "周记金店", "A102", "jewelry_store", "阳泗路 22 号", 31.2311, 121.4741, "店长室 021-5550-0102"),
    Site("xiwang", "希望小学", "A103", "school", "希望街 3 号", 31.2290, 121.4729, "门卫室 021-5550-0103"),
)
ALARMS = 40
FENCES = {"fence-1": "yangsi", "fence-2": "yangsi", "fence-3": "xiwang", "fence-4": "zhouji"}
FENCE_ZONES = 8
SENSORS = ("80650", "80651", "80652", "80653")
HEARD_WITHIN_S = 10.0
"""Demo alarms check in every 3 s, so that a silent one is seen within one look at the screen; real ones take an hour."""


def site_of_alarm(n: int) -> str:
    """The first 28 alarms hang in the estate, six in the jeweller's, six in the school."""
    return "yangsi" if n <= 28 else "zhouji" if n <= 34 else "xiwang"


def things() -> list[Thing]:
    """Sites, devices and points, parents first."""
    found: list[Thing] = list(SITES)
    for n in range(1, ALARMS + 1):
        device, site = f"a{n:03}", site_of_alarm(n)
        found.append(Device(device, site, f"{n} 号无线报警器", HEARD_WITHIN_S))
        found.append(Point(f"p-{device}", site, n, f"{n} 号报警点", device))
    for index, (device, site) in enumerate(FENCES.items(), 1):
        found.append(Device(device, site, f"{index} 号周界主机"))
        found += [
            Point(f"p-{device}-{zone}", site, 100 * index + zone, f"周界 {index}-{zone} 段", device, zone)
            for zone in range(1, FENCE_ZONES + 1)
        ]
    found.append(Device("rf-1", "yangsi", "433 MHz 接收机"))
    found.append(Point("p-rf-1", "yangsi", 900, "值班室接收机", "rf-1"))
    for index, sensor in enumerate(SENSORS, 1):
        found.append(Device(f"ev1527-{sensor}", "yangsi", f"{index} 号红外探测器"))
        found.append(Point(f"p-rf-1-{index}", "yangsi", 900 + index, f"{index} 号楼道", f"ev1527-{sensor}"))
    return found


def where(device: str, zone: int | None) -> tuple[str, int]:
    """Account and zone number towards 110, worked out from the lists above and not from the gateway's ledger."""
    accounts = {site.id: site.account for site in SITES}
    if device in demo_families.WATCHED:
        return accounts[demo_families.SITE], demo_families.WATCHED[device][0]
    if device.startswith("fence-"):
        return accounts[FENCES[device]], 100 * int(device.removeprefix("fence-")) + (zone or 0)
    if device.startswith("ev1527-"):
        return accounts["yangsi"], 901 + SENSORS.index(device.removeprefix("ev1527-"))
    if device == "rf-1":
        return accounts["yangsi"], 900 + (zone or 0)
    n = int(device.removeprefix("a"))
    return accounts[site_of_alarm(n)], n


async def enrol(data_dir: Path, *more: Thing) -> None:
    """Write the ledger, with `more` in it."""
    from gateway.clock import RealClock

    await write([*things(), *more], (), data_dir, RealClock())


async def write(ledger: Sequence[Thing], facts: Sequence[Fact], data_dir: Path, clock: Clock) -> None:
    """What stands in a ledger from the clock's moment on, and what is true of it."""
    from gateway.registry import Registry

    data_dir.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything runs
    registry = await Registry.open(data_dir / "registry.db", clock)
    await registry.put(ledger, facts=facts)
    await registry.close()


SITE_FILE = """\
# Written by fangkong demo.
[gateway]
name = "demo"
account = "A100"

[api]
listen = "127.0.0.1:{api}"
token_file = "api.token"

[broker]
listen = "127.0.0.1:{mqtt}"
passwords = {{ demo = "demo.password" }}
topics = {{ demo = ["fangkong/v1/#", "zigbee2mqtt/#"] }}

# Every single alarm is followed to 110 here, so none is summed up.
[storms]
window_s = 0

[[connection]]
name = "alarms"
driver = "alarm_json"
link = "mqtt://broker"

[[connection]]
name = "perimeter"
driver = "modbus_points"
link = "modbus+tcp://127.0.0.1:{modbus}"
[[connection.settings.units]]
unit = 1
device = "fence-1"
profile = "fence8"
[[connection.settings.units]]
unit = 2
device = "fence-2"
profile = "fence8"
[[connection.settings.units]]
unit = 3
device = "fence-3"
profile = "fence8"
[[connection.settings.units]]
unit = 4
device = "fence-4"
profile = "fence8"

[[connection]]
name = "radio"
driver = "rf_serial"
link = "serial://{pty}?baud=9600"
[connection.settings]
receiver = "rf-1"
profile = "kerui_ev1527"

[[destination]]
name = "centre-110"
forwarder = "dc09"
[destination.settings]
connect = "127.0.0.1:{centre}"
"""
