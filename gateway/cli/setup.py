"""`fangkong init`: ask little, write a site file that explains itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.cli import Commands

QUESTIONS = {
    "name": ("Name of this box (lower case, digits, - and _)", "box-1"),
    "account": ("DC-09 account of the box itself (3 to 16 hex digits)", "0001"),
    "centre": ("110 receiving centre, HOST:PORT (empty: none yet)", ""),
    "serial": ("Serial port of a radio receiver (empty: none)", ""),
    "modbus": ("Modbus TCP unit or gateway, HOST:PORT (empty: none)", ""),
}


class Answers(NamedTuple):
    """What a new site needs to be told."""

    name: str
    account: str
    centre: str
    serial: str
    modbus: str


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("init")
    parser.add_argument("--dir", type=Path, default=Path(), help="folder to write into (default: here)")
    parser.add_argument("--yes", action="store_true", help="ask nothing, take the options and defaults")
    parser.add_argument("--force", action="store_true", help="replace an existing site.toml")
    for name, (question, default) in QUESTIONS.items():
        parser.add_argument(f"--{name}", help=f"{question}; default {default or 'none'}")
    parser.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    import secrets

    from gateway.errors import ConfigError
    from gateway.plan import prepare

    site = arguments.dir / "site.toml"
    if site.exists() and not arguments.force:
        print(f"{site} exists: edit it, or replace it with --force 文件已存在", file=sys.stderr)
        return 2
    values = {name: _ask(arguments, name) for name in QUESTIONS}
    arguments.dir.mkdir(parents=True, exist_ok=True)
    token = arguments.dir / "secrets" / "api.token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
    site.write_text(site_text(Answers(**values)), encoding="utf-8")
    print(f"wrote {site} and {token}")
    try:
        prepare(site)
    except ConfigError as error:
        print(error, file=sys.stderr)
        print(f"an answer cannot be used: edit {site}, or answer again with --force 请修改后再用", file=sys.stderr)
        return 2
    print(f"next, each with --config {site}: fangkong check, doctor, site add, device add, run")
    return 0


def _ask(arguments: argparse.Namespace, name: str) -> str:
    given: str | None = getattr(arguments, name)
    question, default = QUESTIONS[name]
    if given is not None or arguments.yes or not sys.stdin.isatty():
        return default if given is None else given
    return input(f"{question} [{default}]: ").strip() or default


def site_text(answers: Answers) -> str:
    """The site file, each choice with its reason."""
    parts = [
        _HEAD.format(name=answers.name, account=answers.account),
        _MQTT,
        _MODBUS.format(mark="" if answers.modbus else "# ", modbus=answers.modbus or "192.0.2.10:502"),
        _SERIAL.format(mark="" if answers.serial else "# ", serial=answers.serial or "/dev/ttyUSB0"),
        _CENTRE.format(mark="" if answers.centre else "# ", centre=answers.centre or "192.0.2.110:9110"),
    ]
    return "\n".join(parts)


_HEAD = """\
# Fangkong site file. Check it with: fangkong check    All keys: docs/operating.md
# Paths count from the folder of this file. Secrets stand in files of their own, mode 0600.

[gateway]
name = "{name}"
data_dir = "var"            # event log and ledger; one daemon per directory
language = "zh-CN"          # the web page; "en" for English
account = "{account}"            # the box's own DC-09 account, for its own faults

[api]
listen = "127.0.0.1:8110"   # loopback: put a TLS proxy in front before you open it
token_file = "secrets/api.token"

[broker]
# No url: a mosquitto on PATH is run as a supervised child, else a demo broker.
listen = "127.0.0.1:1883"
# url = "mqtt://broker.example:1883"

[store]
budget_mb = 2048            # bulk data is thinned first; alarms are never shed
retention_days = 730
positions_days = 90
grants_days = 30

[storms]
window_s = 10               # identical alarms of a zone within it become one, and a count
burst = 60                  # what a device may send on at once; then two events a second
"""

_MQTT = """\
# Wireless alarms over MQTT: docs/drivers/alarm_json.md
[[connection]]
name = "alarms"
driver = "alarm_json"
link = "mqtt://broker"
"""

_MODBUS = """\
# A perimeter fence on Modbus: docs/drivers/modbus_points.md
{mark}[[connection]]
{mark}name = "perimeter"
{mark}driver = "modbus_points"
{mark}link = "modbus+tcp://{modbus}"
{mark}[[connection.settings.units]]
{mark}unit = 1
{mark}device = "fence-1"
{mark}profile = "fence8"
"""

_SERIAL = """\
# A 433 MHz receiver on a serial port: docs/drivers/rf_serial.md
{mark}[[connection]]
{mark}name = "radio"
{mark}driver = "rf_serial"
{mark}link = "serial://{serial}?baud=9600"
{mark}[connection.settings]
{mark}receiver = "rf-1"
{mark}profile = "kerui_ev1527"
"""

_CENTRE = """\
# The 110 receiving centre, SIA DC-09: docs/forwarders/dc09.md
{mark}[[destination]]
{mark}name = "centre-110"
{mark}forwarder = "dc09"
{mark}[destination.settings]
{mark}connect = "{centre}"
"""
