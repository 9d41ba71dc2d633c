"""The other families in the demo: panels that dial in, a Zigbee bridge, card readers and a door, vehicles on the road."""

from __future__ import annotations

from gateway.model import Device, FenceRule, Geofence, Point, Vehicle, VehicleKind
from gateway.registry import Thing

SITE = "yangsi"
READER_KEYS = "5F0CB0A4E1D24A9E8C1B7A3D92E6010{}"
"""One for each reader, as fangkong tool osdp pair would write them; the last stands for the demo alone."""
SECRETS = {
    "panel.key": "text:GATEKEY-AES128-1",
    "reader-1.key": READER_KEYS.format(1),
    "reader-2.key": READER_KEYS.format(2),
}
WATCHED = {
    **{f"dc09-D{n:03}": (40 + n, f"{n} 号楼报警主机") for n in range(1, 7)},
    **{f"zigbee-{n}": (50 + n, f"{n} 号门磁") for n in range(1, 5)},
    "reader-1": (61, "值班室读卡器"),
    "reader-2": (62, "配电房读卡器"),
    "door-io": (65, "值班室门"),
    "13900000001": (71, "出租车 1"),
    "13900000002": (72, "巡逻车 2"),
    "van-1": (73, "押运车"),
}
"""Device: number towards 110 and name. The whole device watches its point."""
YARD = Geofence("yard", 700, "小区", FenceRule.STAY_IN, ((31.2304, 121.4737),), 80)
VEHICLES = (
    Vehicle("13900000001", VehicleKind.TAXI, on_duty=True),
    Vehicle("13900000002", VehicleKind.PATROL_CAR, on_duty=True),
    Vehicle("van-1", VehicleKind.CASH_TRANSPORT, on_duty=True, geofences=("yard",)),
)


def things() -> list[Thing]:
    """What stands in the ledger beside sites and alarms, parents first."""
    found: list[Thing] = [Device("zigbee2mqtt", SITE, "Zigbee 网关")]
    for device, (number, name) in WATCHED.items():
        found += [Device(device, SITE, name), Point(f"p-{device}", SITE, number, name, device)]
    return [*found, YARD, *VEHICLES]


TABLES = """
[[connection]]
name = "panels"
driver = "dc09"
link = "tcp-listen://127.0.0.1:{dc09}"
[connection.settings]
every_s = 10
accounts = {{ D006 = {{ key_file = "panel.key" }} }}

[[connection]]
name = "zigbee"
driver = "zigbee2mqtt"
link = "mqtt://broker"

[[connection]]
name = "readers"
driver = "osdp"
link = "serial://{osdp}?baud=38400"
[[connection.settings.readers]]
address = 1
device = "reader-1"
key_file = "reader-1.key"
strike = 0
[[connection.settings.readers]]
address = 2
device = "reader-2"
key_file = "reader-2.key"

[[connection]]
name = "door"
driver = "modbus_points"
link = "modbus+tcp://127.0.0.1:{door}"
[[connection.settings.units]]
unit = 1
device = "door-io"
profile = "door_io4"

[[door]]
name = "值班室"
contact = {{ device = "door-io", zone = 11 }}
exit = [{{ device = "door-io", zone = 12 }}]
lock = {{ device = "door-io", zone = 13 }}
readers = [{{ device = "reader-1" }}]

[[connection]]
name = "terminals"
driver = "jt808"
link = "tcp-listen://127.0.0.1:{jt808}"

[[connection]]
name = "van"
driver = "nmea"
link = "tcp-listen://127.0.0.1:{nmea}"
[connection.settings]
device = "van-1"
every_s = 2
"""
"""Behind the site file of demo_community."""
