"""The demo's whole community, every family in it, for a story that looks at a gateway while they all are there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import simulators
from gateway.cli import demo_families
from tests.stories.box import free_ports
from tests.stories.town import Town, town

COMMUNITY = Path(simulators.__file__).parent / "community" / "scenario.toml"
PORTS = ("door", "dc09", "jt808", "nmea")
RAISING_S = 600


@asynccontextmanager
async def whole_community(folder: Path) -> AsyncIterator[Town]:
    """Its devices raise what the scenario says until the end of the block."""
    for name, secret in demo_families.SECRETS.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret + "\n")
    places = {"osdp": str(folder / "rs485")}
    places |= {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    async with town(folder, *demo_families.things(), receiver=demo_families.TABLES.format(**places)) as place:
        places |= {"mqtt": place.box.broker_url, "modbus": str(place.box.modbus), "pty": str(place.box.pty)}
        devices = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "simulators", str(COMMUNITY), "--seconds", str(RAISING_S),
            *(f"--set={name}={value}" for name, value in places.items()),
        )  # fmt: skip
        try:
            yield place
        finally:
            devices.terminate()
            await devices.wait()
