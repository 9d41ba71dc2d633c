"""Real brokers for tests: the gateway's own, of both kinds, with one device user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from gateway import logs
from gateway.broker import Broker
from gateway.clock import RealClock
from gateway.config import BrokerSection, read_secret
from gateway.links.mqtt import BrokerAddress
from tests.conftest import tool

BrokerKind = Literal["amqtt", "mosquitto"]
KINDS = ["amqtt", pytest.param("mosquitto", marks=[pytest.mark.full, pytest.mark.peer("mosquitto")])]


@asynccontextmanager
async def running(kind: BrokerKind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """A broker on a free port with users `demo` (everything) and `a001` (its own topics)."""
    if kind == "amqtt":
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        tool("mosquitto")
    section = BrokerSection(
        listen="127.0.0.1:0",
        passwords={"demo": Path("demo.password"), "a001": Path("a001.password")},
        topics={"demo": ("#",)},
    )
    async with Broker(section, folder, RealClock(), Random(7), logs.logger(), base=folder) as broker:
        assert broker.kind == kind
        yield broker


def address_of(user: str, broker: Broker, folder: Path) -> BrokerAddress:
    """How a device reaches that broker."""
    return replace(broker.address, username=user, password=read_secret(folder / f"{user}.password"))
