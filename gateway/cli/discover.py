"""`fangkong discover`: what is out there, as proposals. It only listens and reads; a person claims what is theirs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli._site_file import FAILED, OK, USAGE, add_common, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.cli import Commands
    from gateway.cli._discovery import Proposal

UNIT_MAX = 247
"""Modbus over serial line V1.02, clause 2.2."""
SECONDS_MAX = 3600.0


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "discover",
    )
    kinds = parser.add_subparsers(title="where", metavar="WHERE", required=True)
    modbus = kinds.add_parser(
        "modbus",
        help="which units answer which function",
        description="Ask each unit for one coil, input and register, and for its identification (43/14). Reads only, one "
        "request at a time with pauses; a unit that is not there costs one time-out. Not while the gateway holds the line.",
    )
    modbus.add_argument("link", metavar="URL", help="modbus+tcp://HOST:PORT or modbus+rtu:///dev/ttyS1?baud=9600")
    modbus.add_argument("--units", type=_units, default=range(1, 33), metavar="A-B", help="default 1-32")
    mqtt = kinds.add_parser(
        "mqtt",
        help="which devices of which families an MQTT broker has",
        description="Listen to a broker and let every MQTT driver and profile say what it understands. Nothing is answered, and "
        "no session is left behind. What the broker retains is heard at once, the rest when it speaks.",
    )
    mqtt.add_argument("url", metavar="URL", help="mqtt://HOST:PORT")
    mqtt.add_argument("--seconds", type=_seconds, default=30.0, metavar="N", help="how long to listen (default 30)")
    mqtt.add_argument("--topic", default="#", help="what to subscribe (default #)")
    mqtt.add_argument("--username", metavar="USER")
    mqtt.add_argument("--password-file", metavar="FILE", help="mode 0600")
    serial = kinds.add_parser(
        "serial",
        help="serial ports by their lasting names, and who speaks there",
        description="List serial ports. With --seconds listen on each free one at common baud rates, and let every stream driver "
        "say whether it understands what is heard. Devices that only answer say nothing here.",
    )
    serial.add_argument("--seconds", type=_seconds, default=0.0, metavar="N", help="listen so long at each baud rate")
    for one, command in ((modbus, _modbus), (mqtt, _mqtt), (serial, _serial)):
        one.add_argument("--csv", type=Path, metavar="FILE", help="write proposals for fangkong device import")
        one.add_argument("--site", metavar="SITE", default="", help="the site they are proposed for, in the CSV")
        add_common(one, command)


def _units(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) <= UNIT_MAX):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected A-B with 1 <= A <= B <= {UNIT_MAX}")
    return range(int(first), int(last or first) + 1)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds up to {SECONDS_MAX:g}")
    return seconds


async def _modbus(args: argparse.Namespace) -> int:
    from gateway.cli._discovery import scan_modbus

    if holder := _held(args, args.link):
        print(
            f"the running gateway holds this line (connection {holder}): stop it first 线路正被网关使用",
            file=sys.stderr,
        )
        return FAILED
    return _propose(args, await scan_modbus(args.link, args.units))


async def _mqtt(args: argparse.Namespace) -> int:
    from gateway.cli._discovery import listen_mqtt
    from gateway.config import BrokerSection
    from gateway.links.broker_url import external_address

    password = Path(args.password_file) if args.password_file else None
    address = external_address(BrokerSection(url=args.url, username=args.username, password_file=password))
    return _propose(args, await listen_mqtt(address, args.topic, args.seconds))


async def _serial(args: argparse.Namespace) -> int:
    from gateway.cli._discovery import look_at_ports

    return _propose(args, await look_at_ports(args.seconds))


def _held(args: argparse.Namespace, link: str) -> str | None:
    """The connection of a running gateway that has the same port or address."""
    from urllib.parse import urlsplit

    from gateway.cli._daemon import is_running
    from gateway.config import load_site_file

    if not args.config.exists():
        return None
    site_file = load_site_file(args.config)
    if not is_running(site_file.data_dir(args.config.resolve().parent)):
        return None
    wanted = urlsplit(link)
    for section in site_file.connection:
        there = urlsplit(section.link)
        if (there.netloc, there.path) == (wanted.netloc, wanted.path):
            return section.name
    return None


def _propose(args: argparse.Namespace, found: Sequence[Proposal]) -> int:
    if args.csv is not None:
        try:
            _write_csv(args.csv, args.site, found)
        except FileExistsError:
            print(f"{args.csv}: is there already; nothing was written (文件已存在)", file=sys.stderr)
            return USAGE
    rows = [{"where": one.where, "driver": one.driver, "device": one.device, "what": one.what} for one in found]
    show(args, rows, empty="nothing was found 未发现设备")
    return OK


def _write_csv(path: Path, site: str, found: Sequence[Proposal]) -> None:
    """Only what a register can take: devices by the id they give themselves."""
    import csv

    from gateway.cli._device_csv import COLUMNS

    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        for device, name in dict.fromkeys((one.device, one.name) for one in found if one.device):
            writer.writerow({"site": site, "device": device, "device_name": name})
