"""Looking around: a scan of a Modbus line, a broker's messages, serial ports. What is understood, the drivers themselves say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

import aiomqtt

from gateway.cli._plain_mqtt import open_plain_topics
from gateway.cli.explain import prepare
from gateway.clock import RealClock
from gateway.driver import Context, Table
from gateway.errors import BusRefused, ConfigError, FrameError, GatewayError, LinkClosed, NoAnswer
from gateway.links.modbus import ModbusBus, open_bus
from gateway.links.mqtt_client import BrokerAddress
from gateway.links.serial import open_serial
from gateway.loader import names_in, shipped_profiles
from gateway.logs import logger
from gateway.metrics import Metrics

PAUSE_S = 0.05
"""Between two requests of a scan: whoever else asks on a shared line gets through."""
FOUND_MAX = 10_000
"""Proposals of one run; nobody claims more from a table."""
BAUDS = (9600, 115200, 4800, 19200, 38400)
HEARD_MAX_BYTES = 65536
"""Of one port at one rate: enough to know a protocol by."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something that may be a device."""

    where: str
    what: str
    """For people: what it answered, or which kinds of messages were heard."""
    driver: str = ""
    device: str = ""
    """The id by which the driver knows it; empty where the site file has to give it one."""
    name: str = ""


# -- Modbus ------------------------------------------------------------------------------------------------------------


async def scan_modbus(link: str, units: Sequence[int]) -> Sequence[Proposal]:
    """Who answers what. Raises LinkClosed when the line cannot be opened, ConfigError."""
    found: list[Proposal] = []
    waiting = list(units)
    was_closed = False
    while waiting:
        async with open_bus(
            link,
            clock=RealClock(),
            log=logger(),
            metrics=Metrics(),
            connection="discover",
            reject=lambda _raw, _error: None,
        ) as bus:
            try:
                while waiting:
                    found += await _scan_unit(bus, waiting[0])
                    waiting.pop(0)
                    was_closed = False
            except LinkClosed:  # a gateway that hangs up on a unit it does not have, or nobody for a long time
                if was_closed:
                    waiting.pop(0)
                was_closed = not was_closed
    return found


async def _scan_unit(bus: ModbusBus, unit: int) -> Sequence[Proposal]:
    answers: dict[str, str] = {}
    for table in get_args(Table):
        await RealClock().sleep(PAUSE_S)
        try:
            await bus.read(unit, table, 0, 1)
            answers[table] = "answers"
        except BusRefused as error:
            answers[table] = f"refuses ({error.code})"
        except NoAnswer:
            if not answers:
                return []  # nobody there: one time-out is enough
    identity = ""
    with suppress(NoAnswer, BusRefused):
        identity = " ".join(await bus.identify(unit))
    what = ", ".join(f"{table} {how}" for table, how in answers.items())
    return [Proposal(f"unit {unit}", f"{identity}: {what}" if identity else what, device=f"unit-{unit}", name=identity)]


# -- MQTT --------------------------------------------------------------------------------------------------------------


async def listen_mqtt(address: BrokerAddress, topic: str, seconds: float) -> Sequence[Proposal]:
    """Which driver or profile knows which device, by what it said. Raises LinkClosed."""
    ears = [(name, driver, context, driver.subscriptions(context)) for name, driver, context in _drivers("topics")]
    heard: dict[tuple[str, str], Counter[str]] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), open_plain_topics(address, [topic]) as link:
            async for batch in link.batches():
                for message in batch:
                    there = aiomqtt.Topic(message.topic)
                    for name, driver, context, filters in ears:
                        if any(there.matches(wanted) for wanted in filters):
                            _hear(heard, name, driver, context, message.topic, message.payload)
    return [
        Proposal(address.host, ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()), name, device)
        for (name, device), kinds in sorted(heard.items())
    ]


def _hear(
    heard: dict[tuple[str, str], Counter[str]], name: str, driver: ModuleType, context: Context, *message: str | bytes
) -> None:
    with suppress(FrameError):
        for seen in driver.decode(*message, context):
            if len(heard) < FOUND_MAX or (name, seen.device) in heard:
                heard.setdefault((name, seen.device), Counter())[str(seen.kind)] += 1


def _drivers(link: str) -> Iterator[tuple[str, ModuleType, Context]]:
    """Every driver and profile of this shape that needs no settings."""
    profiles = sorted(path.stem for path in shipped_profiles().glob("*.toml"))
    for name in [*names_in("drivers"), *profiles]:
        with suppress(ConfigError):
            driver, context = prepare(name, None, [], None)
            if link == driver.LINK:
                yield name, driver, context


# -- serial ports --------------------------------------------------------------------------------------------------------


async def look_at_ports(seconds: float) -> Sequence[Proposal]:
    """The ports, by the name that stays, and who was understood on them."""
    found: list[Proposal] = []
    for port, about in _ports():
        said = await _listen(port, seconds) if seconds else []
        found += said or [Proposal(port, about)]
    return found


def _ports() -> Iterator[tuple[str, str]]:
    from serial.tools.list_ports import comports

    lasting = {str(path.resolve()): str(path) for path in sorted(Path("/dev/serial/by-id").glob("*"))}
    for port in sorted(comports()):
        yield lasting.get(port.device, port.device), port.description or "n/a"


async def _listen(port: str, seconds: float) -> Sequence[Proposal]:
    for baud in BAUDS:
        heard = bytearray()
        try:
            link = await open_serial(f"serial://{port}?baud={baud}")
        except LinkClosed as error:
            return [Proposal(port, str(error))]
        try:
            async with asyncio.timeout(seconds):
                while len(heard) < HEARD_MAX_BYTES:
                    heard += await link.read()
        except (TimeoutError, GatewayError):
            pass
        finally:
            await link.close()
        if found := [
            Proposal(f"serial://{port}?baud={baud}", "understood", name, device)
            for name, driver, context in _drivers("stream")
            for device in dict.fromkeys(_devices(driver, context, bytes(heard)))
        ]:
            return found[:FOUND_MAX]
    return []


def _devices(driver: ModuleType, context: Context, heard: bytes) -> Iterator[str]:
    for frame in driver.split(bytearray(heard)):
        with suppress(FrameError):
            yield from (seen.device for seen in driver.decode(frame, context))
