"""A town for a story: a simulated 110 centre, a real gateway process, and simulated devices that find it by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import aiomqtt

from gateway.cli.demo_audit import ACCEPTED, Audit, balance
from gateway.cli.demo_community import where
from gateway.kinds import FACTS, Kind
from gateway.registry import Thing
from simulators import alarm_json, modbus_points, rf_serial
from simulators._clock import RealClock
from simulators._tasks import Tasks
from simulators._world import Ledger, Option, Simulated, Spec, World
from simulators.police_centre import PoliceCentre
from simulators.police_centre.judge import Row
from tests.stories.box import Box, until

SEED = 110
NEW, RESTORE = 1, 3
LINE_UP_WITHIN_S = 15.0


@dataclass(slots=True)
class Town:
    """Everything a story talks to."""

    centre: PoliceCentre
    box: Box
    world: World
    tasks: Tasks
    ledger: list[Any] = field(default_factory=list)

    # -- devices ---------------------------------------------------------------------------------------------------------

    def alarm(self, name: str, **options: Option) -> Simulated:
        """A wireless alarm, switched on."""
        return self._switch_on(alarm_json, Spec(name, self.box.broker_url, {"heartbeat_s": 3, **options}))

    async def fences(self) -> list[Simulated]:
        """The four fence controllers of the site file; returns when they are polled."""
        connect = f"modbus+tcp://127.0.0.1:{self.box.modbus}"
        made = [self._switch_on(modbus_points, Spec(f"fence-{n}", connect, {"model": "fence8"})) for n in range(1, 5)]
        await self.line_is_up("perimeter")
        return made

    async def radio(self, port: Path | None = None) -> rf_serial.Receiver:
        """The radio receiver of the site file; returns when its line is open (with a `port` of its own: when that is there)."""
        plug = port or self.box.pty
        made = self._switch_on(rf_serial, Spec("rf-1", f"pty:{plug}"))
        await until(plug.exists, within_s=LINE_UP_WITHIN_S, what="the receiver is plugged in")
        if port is None:
            await self.line_is_up("radio")
        assert isinstance(made, rf_serial.Receiver)
        return made

    def _switch_on(self, simulator: ModuleType, spec: Spec) -> Simulated:
        device: Simulated = simulator.make(spec, self.world)
        self.tasks.start(device.run(), name=spec.device)
        return device

    async def line_is_up(self, connection: str) -> None:
        """Return when the gateway has opened this line to the devices."""
        await until(
            lambda: self.box.metric("fangkong_connection_up", connection=connection) == 1,
            within_s=LINE_UP_WITHIN_S,
            what=f"line {connection} is open",
        )

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[aiomqtt.Client]:
        """Somebody with the devices' password who publishes what he likes."""
        async with aiomqtt.Client("127.0.0.1", self.box.mqtt, username="demo", password="for-this-test-only") as client:
            yield client

    # -- the centre ------------------------------------------------------------------------------------------------------

    def accepted(self) -> list[Row]:
        """Events the centre took, in order, each at its first frame that was answered."""
        rows = [row for row in self.centre.received if row.code is not None and row.answer in ACCEPTED]
        return list({row.key: row for row in reversed(rows)}.values())[::-1]

    def count_at_110(self, device: str, zone: int | None, kind: Kind, qualifier: int = NEW) -> int:
        """How many events of this kind the centre has from this device."""
        account, number = where(device, zone)
        code = FACTS[kind].contact_id
        return sum(
            (row.account, row.zone, row.code, row.qualifier) == (account, f"{number:03d}", code, qualifier)
            for row in self.accepted()
        )

    async def at_110(
        self, device: str, kind: Kind, *, zone: int | None = None, qualifier: int = NEW, count: int = 1, within_s: float
    ) -> None:
        """Return when the centre has this event."""
        await self.centre.wait_for(
            lambda _: self.count_at_110(device, zone, kind, qualifier) >= count, timeout_s=within_s
        )

    # -- the verdict -----------------------------------------------------------------------------------------------------

    def audit(self) -> Audit:
        """What the devices raised and were told against what the centre took."""
        rows = [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in self.centre.received]
        return balance(self.ledger, rows, where)

    def assert_unhurt(self) -> None:
        """Nothing of what happened reached the gateway's loop as an exception."""
        assert self.box.metric("fangkong_driver_errors_total") == 0
        own = [line for line in self.box.log.splitlines() if '"broker says"' not in line]  # amqtt has errors of its own
        assert [line for line in own if "Traceback" in line] == []


@asynccontextmanager
async def town(
    folder: Path, *things: Thing, centre: PoliceCentre | None = None, port: int = 0, **box: Any
) -> AsyncIterator[Town]:
    """A town whose gateway is ready. `things` change the demo's ledger; `centre` is open already, `port` a proxy's before it."""
    clock = RealClock()
    ledger = Ledger(clock)
    async with AsyncExitStack() as stack:
        at_110 = centre if centre is not None else await stack.enter_async_context(PoliceCentre())
        gateway = Box(folder, centre=port or at_110.port, **box)
        await gateway.enrol()
        await gateway.register(*things)
        try:
            await gateway.start()
            async with Tasks() as tasks:
                place = Town(at_110, gateway, World(clock, Random(SEED), ledger), tasks)
                ledger.listeners.append(place.ledger.append)
                await place.line_is_up("alarms")
                yield place
            assert await gateway.end() == 0, gateway.log
        finally:
            if gateway.process is not None and gateway.process.returncode is None:
                await gateway.kill()
