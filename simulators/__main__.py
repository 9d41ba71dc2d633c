"""`python -m simulators SCENARIO`: be the devices of a scenario, and say in the end whether everything arrived."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from simulators._clock import Clock, RealClock
from simulators._desk import Desk
from simulators._world import Ledger, Option, Simulated, Spec, World
from simulators.scenario import Planned, Scenario, ScenarioError, acts, devices_of, load, missing


def main() -> int:
    """Exit code 0: done, everything expected arrived; 1: something is missing; 2: the scenario or a setting is wrong."""
    parser = argparse.ArgumentParser(
        prog="fangkong simulate",
        description="Be the devices of a scenario (docs/simulators.md), and say in the end what was raised and what was "
        "acknowledged. Exit codes: 0 done, everything expected arrived; 1 something is missing; 2 the scenario cannot be run.",
    )
    parser.add_argument("scenario", type=Path, help="TOML file")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", help="fills {NAME} in connect"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long devices raise events (default 60)")
    parser.add_argument("--stay", action="store_true", help="afterwards, or at SIGUSR1, stay connected until SIGTERM")
    parser.add_argument("--ledger", type=Path, help="JSON lines: what was raised and what was acknowledged")
    parser.add_argument("--record", type=Path, help="the 110 centre's record, to check [[expect]] against")
    parser.add_argument("--control", metavar="HOST:PORT", help="control port of the 110 centre, for [[centre]]")
    parser.add_argument("--site-file", type=Path, help="the gateway's, for [[operator]] and [[figure]]")
    parser.add_argument("--check", action="store_true", help="check the file, list the acts, do nothing")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except* ScenarioError as group:
        for error in group.exceptions:
            print(f"the scenario cannot be run: {error}", file=sys.stderr)
    return 2


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, value


def _run(arguments: argparse.Namespace) -> int:
    scenario = load(arguments.scenario)
    plan = acts(scenario, until_s=arguments.seconds)
    if arguments.check:
        if arguments.set:  # without, it is not known where the devices find the gateway
            world = World(RealClock(), Random(scenario.seed), Ledger(RealClock()))
            _check(plan, _devices(scenario, dict(arguments.set), world))
        for act in plan:
            zone = "" if act.zone is None else f" zone {act.zone}"
            print(f"{act.at_s:8.2f} s  {act.device:<12} {act.do}{' restore' if act.restore else ''}{zone}")
        return 0
    if scenario.expect and arguments.record is None:
        print(f"{arguments.scenario} has [[expect]]: name the 110 centre's record with --record", file=sys.stderr)
        return 2
    if scenario.needs_desk and arguments.site_file is None:
        print(f"{arguments.scenario} has [[operator]] or [[figure]]: name the gateway's --site-file", file=sys.stderr)
        return 2
    clock = RealClock()
    desk = Desk(scenario, arguments.site_file, clock) if scenario.needs_desk else None
    ledger = Ledger(clock, arguments.ledger)
    world = World(clock, Random(scenario.seed), ledger, run=int(clock.now() * 1000) & 0xFFFFFFFF)
    devices = _devices(scenario, dict(arguments.set), world)
    _check(plan, devices)
    complaints: list[str] = []
    try:
        asyncio.run(_play(arguments, scenario, clock, devices, plan, desk=desk))
    except* OSError as broken:  # a port that is taken, a centre's control port that nobody serves
        complaints += [str(error) for error in broken.exceptions]
    ledger.close()
    print(f"raised {ledger.raised_count}, acknowledged {ledger.acknowledged_count}")
    complaints += desk.complaints if desk is not None else ()
    if arguments.record is not None:
        complaints += missing(scenario, _accepted(arguments.record))
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def _accepted(record: Path) -> Sequence[Mapping[str, Any]]:
    """What the centre acknowledged. A centre that received nothing has no record yet."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else ()
    return [row for row in map(json.loads, lines) if row.get("answer") in {"ACK", "*ACK"}]


def _devices(scenario: Scenario, settings: Mapping[str, str], world: World) -> dict[str, Simulated]:
    """Every device of the scenario, not yet running. Raises ScenarioError."""
    devices: dict[str, Simulated] = {}
    for table in scenario.device:
        simulator = importlib.import_module(f"simulators.{table.simulator}")
        if unknown := sorted(table.options.keys() - simulator.OPTIONS):
            expected = ", ".join(sorted(simulator.OPTIONS))
            raise ScenarioError(f"options of {table.id}: {', '.join(unknown)} unknown; expected {expected}")
        for name, connect in devices_of(table, settings):
            try:
                devices[name] = simulator.make(Spec(name, connect, table.options), world)
            except ValueError as error:
                raise ScenarioError(f"{name}: {error}") from error
    return devices


def _check(plan: Sequence[Planned], devices: Mapping[str, Simulated]) -> None:
    """Whether each device can do what is asked of it. Raises ScenarioError with every act that is none."""
    complaints: dict[str, None] = {}
    for act in plan:
        try:
            devices[act.device].check(act.do, restore=act.restore, zone=act.zone)
        except ValueError as error:
            complaints[f"{act.device} at {act.at_s:g} s: {error}"] = None
    if complaints:
        raise ScenarioError("\n".join(complaints))


async def _play(
    arguments: argparse.Namespace,
    scenario: Scenario,
    clock: Clock,
    devices: Mapping[str, Simulated],
    plan: Sequence[Planned],
    *,
    desk: Desk | None,
) -> None:
    stop, quiet = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, quiet.set)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(device.run(), name=name) for name, device in devices.items()]
        if arguments.control:
            running += [
                group.create_task(_tell_centre(clock, arguments.control, line.at_s, line.send))
                for line in scenario.centre
                if arguments.stay or line.at_s < arguments.seconds
            ]
        acting = group.create_task(_all(clock, devices, plan, desk, arguments.seconds), name="acts")
        ends = [acting, group.create_task(stop.wait()), group.create_task(quiet.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        acting.cancel()
        if arguments.stay:
            await stop.wait()
        for task in (*running, *ends):
            task.cancel()


async def _all(
    clock: Clock, devices: Mapping[str, Simulated], plan: Sequence[Planned], desk: Desk | None, until_s: float
) -> None:
    """What the devices do, and beside it what the operator does and sees."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_act(clock, devices, plan, until_s))
        if desk is not None:
            group.create_task(desk.work(until_s))


async def _act(clock: Clock, devices: Mapping[str, Simulated], plan: Sequence[Planned], until_s: float) -> None:
    started = clock.monotonic()
    for act in plan:
        await clock.sleep(max(0.0, started + act.at_s - clock.monotonic()))
        await devices[act.device].do(act.do, restore=act.restore, zone=act.zone)
    await clock.sleep(max(0.0, started + until_s - clock.monotonic()))


async def _tell_centre(clock: Clock, control: str, at_s: float, send: Mapping[str, Option]) -> None:
    host, port = control.rsplit(":", 1)
    await clock.sleep(at_s)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(json.dumps(send).encode() + b"\n")
    await writer.drain()
    await reader.readline()
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    sys.exit(main())
