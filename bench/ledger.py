"""The estate as the gateway's register of devices: the one place where bench uses code of the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.estate import Estate
from gateway.model import Device, Point, Site
from gateway.registry import Registry

HEARD_WITHIN_S = 86_400.0
"""A measurement is shorter: nobody falls silent in the middle of it."""


def things(estate: Estate) -> list[Site | Device | Point]:
    """Sites, devices and points, parents first."""
    sites = [
        Site(f"s{index:03d}", f"{index} 号小区", estate.account(index), address=f"阳泗路 {index} 号")
        for index in range(estate.accounts)
    ]
    devices = [
        Device(estate.device(index), f"s{index % estate.accounts:03d}", f"{index} 号报警器", HEARD_WITHIN_S)
        for index in range(estate.devices)
    ]
    points = [
        Point(
            f"p-{device.id}",
            device.site,
            estate.number(index),
            f"{estate.number(index)} 栋 {index} 号报警点",
            device.id,
        )
        for index, device in enumerate(devices)
    ]
    return [*sites, *devices, *points]


def write(path: Path, estate: Estate) -> Path:
    """A registry.db with this estate."""

    async def put() -> None:
        registry = await Registry.open(path)
        await registry.put(things(estate))
        await registry.close()

    asyncio.run(put())
    return path
