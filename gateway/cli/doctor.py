"""`fangkong doctor`: look at the box as it is and say what a person should do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import add_config
from gateway.cli._daemon import is_running
from gateway.cli._finding import Finding, mistakes, told
from gateway.cli.run import prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.cli import Commands
    from gateway.plan import Plan

CONNECT_WITHIN_S = 3.0
DISK_LEFT_MIN_BYTES = 512 << 20
"""Less than this and a week of outage may not fit."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("doctor")
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable findings")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    plan, error = prepared(arguments)
    if error is not None:
        return told(mistakes(error), as_json=arguments.json)
    assert plan is not None
    running = is_running(plan.data_dir)
    daemon = Finding("daemon", "ok", "running on this data directory" if running else "not running")
    findings = [Finding("site file", "ok", str(arguments.config)), daemon, *examine(plan, running=running)]
    return told(findings, as_json=arguments.json)


def examine(plan: Plan, *, running: bool) -> Iterator[Finding]:
    """Everything that can be seen without the daemon's help."""
    yield _disk(plan.data_dir)
    yield _clock()
    yield _token(plan)
    if not running:
        yield _port("api port", plan.site.api.listen)
        for planned in plan.connections:
            if planned.section.link.startswith(("tcp-listen:", "udp-listen:")):
                yield _listening(f"port of {planned.section.name}", planned.section.link)
    if any(planned.driver.LINK == "topics" for planned in plan.connections):
        yield _broker(plan)
        if not running and plan.site.broker.url is None:
            yield _port("broker port", plan.site.broker.listen)
    for planned in plan.connections:
        if planned.section.link.startswith(("serial:", "modbus+rtu:")):
            yield _serial(planned.section.name, planned.section.link)
    for destination in plan.destinations:
        connect = getattr(destination.settings, "connect", None)
        if isinstance(connect, str):
            yield _reach(f"110 line {destination.section.name}", connect.removeprefix("tcp://"))
    yield from _left_behind(plan)
    if not plan.destinations:
        yield Finding("destinations", "warning", "none", "add a [[destination]], else nobody is told 请配置转发目的地")


def _left_behind(plan: Plan) -> Iterator[Finding]:
    """Events of destinations that are not in the site file any more."""
    import sqlite3

    from gateway.store.beside import read_waiting

    try:
        waiting = read_waiting(plan.data_dir / "events.db")
    except sqlite3.Error as error:
        yield Finding(
            "event log", "failed", str(error), "a file of this program, readable by this user 事件存储无法读取"
        )
        return
    configured = {section.name for section in plan.site.destination}
    for name, count in waiting.items():
        if name not in configured:
            hint = "put it back into the site file, or pass them on by hand 该目的地已移除,仍有事件未送达"
            yield Finding(f"destination {name}", "warning", f"not in the site file; {count} events wait for it", hint)


def _disk(data_dir: Path) -> Finding:
    import os
    import shutil

    folder = data_dir
    while not os.path.exists(folder):  # noqa: PTH110  # Path.exists raises inside a folder that is closed to us
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "data directory", "failed", f"{folder} is not writable", f"chown it to this user 请授权目录 {folder}"
        )
    free = shutil.disk_usage(folder).free
    text = f"{data_dir}, {free >> 20} MiB free"
    if free < DISK_LEFT_MIN_BYTES:
        return Finding("data directory", "warning", text, "free some space 磁盘空间不足")
    return Finding("data directory", "ok", text)


def _clock() -> Finding:
    from gateway.clock import RealClock
    from gateway.timekeeping import is_synchronised

    now = RealClock().now()
    if now.year < 2026:
        return Finding("clock", "failed", now.isoformat(), "set the time, enable NTP 请校准时钟并启用 NTP")
    if not is_synchronised():
        return Finding(
            "clock",
            "warning",
            f"{now:%F %T} UTC, nobody keeps it right",
            "enable systemd-timesyncd or chrony 请启用时间同步",
        )
    return Finding("clock", "ok", f"{now:%F %T} UTC, synchronised")


def _token(plan: Plan) -> Finding:
    if plan.token is None:
        return Finding(
            "api token",
            "warning",
            "no [api] token_file",
            "without it tail and config apply cannot ask the gateway 未设置接口令牌",
        )
    return Finding("api token", "ok", str(plan.site.api.token_file))


def _port(what: str, address: str) -> Finding:
    import socket

    host, port = address.rsplit(":", 1)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return Finding(
                what, "failed", f"{address}: {error.strerror}", "choose another port, or stop who has it 端口被占用"
            )
    return Finding(what, "ok", f"{address} is free")


def _listening(what: str, link: str) -> Finding:
    from gateway.links.endpoint import why_taken

    if taken := why_taken(link):
        return Finding(what, "failed", taken, "choose another port, or stop who has it 端口被占用")
    return Finding(what, "ok", f"{link} is free")


def _broker(plan: Plan) -> Finding:
    import shutil

    if plan.site.broker.url:
        from urllib.parse import urlsplit

        url = urlsplit(plan.site.broker.url)
        return _reach("MQTT broker", f"{url.hostname}:{url.port or 1883}")
    if shutil.which("mosquitto"):
        return Finding("MQTT broker", "ok", "mosquitto, run as a supervised child")
    return Finding("MQTT broker", "warning", "amqtt, a demo broker", "apt install mosquitto 正式环境请安装 mosquitto")


def _serial(name: str, link: str) -> Finding:
    import glob
    import os
    from urllib.parse import urlsplit

    pattern = urlsplit(link).path
    ports = glob.glob(pattern)  # noqa: PTH207  # an absolute pattern from the site file
    what = f"serial {name}"
    if not ports:
        return Finding(
            what, "failed", f"{pattern} does not exist", "plug it in, or name it by /dev/serial/by-id/ 串口不存在"
        )
    if not os.access(ports[0], os.R_OK | os.W_OK):
        return Finding(
            what, "failed", f"{ports[0]} may not be opened", "add the user to group dialout 请加入 dialout 组"
        )
    return Finding(what, "ok", ports[0])


def _reach(what: str, address: str) -> Finding:
    import socket

    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_WITHIN_S).close()
    except OSError as error:
        return Finding(what, "failed", f"{address}: {error}", "check address, cable and firewall 请检查地址与网络")
    return Finding(what, "ok", f"{address} answers")
