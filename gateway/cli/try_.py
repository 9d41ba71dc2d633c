"""`fangkong try`: a driver on a real line, and what it makes of it, live. No site file, no database, nothing is kept."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gateway.cli.capture import new_file
from gateway.cli.explain import add_driver_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from gateway.cli import Commands
    from gateway.cli._trial import Trial
    from gateway.driver import Context
    from gateway.links.mqtt_client import BrokerAddress

DESCRIPTION = """\
Run a driver on a line and print what it sees, one JSON object a line, until Ctrl-C.

DRIVER is a driver, a profile, a dotted path or a FILE.py. The line is written as in a site file: serial:///dev/ttyUSB0?baud=9600,
tcp://HOST:PORT, tcp-listen://0.0.0.0:PORT, udp-listen://..., modbus+tcp://..., modbus+rtu:///dev/..., and mqtt://HOST:PORT.
Answers are printed and not sent: nothing is stored here, and a device that is answered forgets what it said. --answer sends them,
for a device on the desk. A driver that must ask (Modbus, OSDP) asks in any case. A line that is lost is opened again."""
REOPEN_S = 1.0
"""Between two attempts to open a line."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "try", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("driver", metavar="DRIVER")
    parser.add_argument("--link", required=True, metavar="URL", help="the line, as in a site file")
    parser.add_argument("--answer", action="store_true", help="answer the device, which then forgets what it said")
    parser.add_argument("--seconds", type=float, metavar="N", help="end by itself")
    parser.add_argument("--capture", metavar="FILE", type=Path, help="record what passes, for fangkong replay")
    parser.add_argument("--username", metavar="USER", help="MQTT: the user")
    parser.add_argument("--password-file", metavar="FILE", help="MQTT: its password, mode 0600")
    add_driver_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit codes: 0 ended by its time or Ctrl-C, 1 the line never opened, 2 the command is wrong."""
    import asyncio

    from gateway import logs
    from gateway.cli.explain import prepare
    from gateway.errors import ConfigError
    from gateway.plan import check_link

    logs.set_up("warning")
    try:
        driver, context = prepare(arguments.driver, arguments.profile, arguments.set, arguments.profiles_dir)
        broker = _broker(arguments) if driver.LINK == "topics" else None
        if broker is None:
            check_link(driver, arguments.link)
        elif arguments.answer:
            print("--answer: over MQTT nothing is answered here (MQTT 下不作应答)", file=sys.stderr)
            return 2
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.answer:
        print("answering: what devices say now is kept nowhere (现在设备得到应答,但报文不会保存)", file=sys.stderr)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(new_file(arguments.capture)) if arguments.capture else None
        except OSError as error:
            print(f"--capture {arguments.capture}: {error.strerror}", file=sys.stderr)
            return 2
        with suppress(KeyboardInterrupt):
            return asyncio.run(_try(arguments, driver, context, broker, file))
    return 0


def _say(what: Mapping[str, Any]) -> None:
    print(json.dumps(what, ensure_ascii=False), flush=True)


async def _try(
    arguments: argparse.Namespace,
    driver: ModuleType,
    context: Context,
    broker: BrokerAddress | None,
    file: TextIO | None,
) -> int:
    import asyncio

    from gateway import logs
    from gateway.cli._trial import Trial
    from gateway.clock import RealClock
    from gateway.errors import GatewayError
    from gateway.recording import Recorder

    clock, log = RealClock(), logs.logger()
    recorder = Recorder(clock, file.write, connection="try", driver=driver) if file else None
    trial = Trial(driver, context, clock, log, _say, answers=arguments.answer, recorder=recorder)
    subscriptions = driver.subscriptions(context) if driver.LINK == "topics" else ()
    opened = False

    def up() -> None:
        nonlocal opened
        opened = True
        _say({"line": "open"})

    with suppress(TimeoutError):
        async with asyncio.timeout(arguments.seconds):
            while True:
                try:
                    await _converse(arguments.link, trial, up, broker, subscriptions)
                except (GatewayError, OSError) as error:
                    _say({"line": "closed", "why": str(error)})
                await clock.sleep(REOPEN_S)
    if recorder is not None:
        recorder.end("the time is up")
    return 0 if opened else 1


async def _converse(
    link: str, trial: Trial, up: Callable[[], None], broker: BrokerAddress | None, subscriptions: Sequence[str]
) -> None:
    """Once: open the line and run the driver on it until the line is gone. Raises what ends it."""
    import asyncio
    from urllib.parse import urlsplit

    from gateway import logs
    from gateway.cli._plain_mqtt import open_plain_topics
    from gateway.clock import RealClock
    from gateway.errors import LinkClosed
    from gateway.links import tcp, udp
    from gateway.links.modbus import open_bus
    from gateway.links.serial import open_serial
    from gateway.metrics import Metrics

    match urlsplit(link).scheme:
        case "tcp" | "serial" as scheme:
            stream = await (tcp.dial(link) if scheme == "tcp" else open_serial(link))
            try:
                up()
                await trial.converse(stream)
            finally:
                await stream.close()
        case "tcp-listen" | "udp-listen" as scheme:

            async def peer(stream: Any) -> None:
                _say({"peer": stream.peer})
                with suppress(LinkClosed):
                    await trial.converse(stream)

            async with (tcp if scheme == "tcp-listen" else udp).listen(link, peer) as listener:
                _say({"listening": f"{listener.host}:{listener.port}"})
                up()
                await asyncio.Event().wait()
        case "mqtt":
            assert broker is not None
            async with open_plain_topics(broker, subscriptions) as topics:
                up()
                await trial.converse(topics)
        case _:
            async with open_bus(
                link, clock=RealClock(), log=logs.logger(), metrics=Metrics(), connection="try", reject=trial.reject
            ) as bus:
                up()
                await trial.converse(bus)


def _broker(arguments: argparse.Namespace) -> BrokerAddress:
    """Raises ConfigError."""
    from gateway.config import BrokerSection
    from gateway.links.broker_url import external_address

    password = Path(arguments.password_file) if arguments.password_file else None
    section = BrokerSection(url=arguments.link, username=arguments.username, password_file=password)
    return external_address(section)
