"""Contracts: what proves, by the kind of a device, that it lives, and how long the proof lasts.

| kind | proof of life | live test |
| --- | --- | --- |
| panel, detector, door_controller, perimeter_controller, bus_gateway, mqtt_bridge, siren, "" | as its driver says | none |
| radio_sensor | one check-in of its own and 10 % | none |
| panic_button | one check-in of its own and 10 % | every 30 days: it is silent by nature |
| vehicle_unit | 5 min; off duty nobody minds (gateway/rules/vehicles.py) | none |
| radio_code | none: anybody can have sent it, and it never checks in | every 30 days, its only proof |

A driver knows its own pace: three polls, two heartbeats; until the first word of a device, FIRST_WORD_S counts. The site file may
change each row, `[coverage.contract.KIND]`. What a person wrote at the device itself comes before all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.model import Device

if TYPE_CHECKING:
    from gateway.config import ContractsSection

HOUR_S = 3600.0
CHECK_IN_S = 25 * HOUR_S
"""Radio sensors check in every 1 to 25 hours; of one whose pace nobody wrote down, the longest is believed."""
CHECK_IN_MARGIN = 1.1
FIRST_WORD_S = CHECK_IN_S * CHECK_IN_MARGIN
"""Only a driver knows the pace of some devices, and tells it with their first word: this one is owed by the slowest that check in."""
LIVE_TEST_DAYS = 30.0
GRACE_DAYS = 7.0
"""An overdue live test counts as degraded for so long: a round takes a week, and no rate should fall off a cliff."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a kind of device owes."""

    heard_within_s: float | None = None
    """None: as its driver says."""
    live_test_days: float | None = None
    """It must be triggered by a person, and heard, so often; None: never."""
    grace_days: float = GRACE_DAYS
    is_supervised: bool = True
    """False: its silence says nothing, and it works only while its last live test is fresh."""


DEFAULT = Contract()
CONTRACTS: Mapping[str, Contract] = MappingProxyType(
    {
        "panel": DEFAULT,
        "detector": DEFAULT,
        "radio_sensor": Contract(heard_within_s=CHECK_IN_S * CHECK_IN_MARGIN),
        "radio_code": Contract(live_test_days=LIVE_TEST_DAYS, is_supervised=False),
        "panic_button": Contract(heard_within_s=CHECK_IN_S * CHECK_IN_MARGIN, live_test_days=LIVE_TEST_DAYS),
        "door_controller": DEFAULT,
        "perimeter_controller": DEFAULT,
        "vehicle_unit": Contract(heard_within_s=300.0),
        "bus_gateway": DEFAULT,
        "mqtt_bridge": DEFAULT,
        "siren": DEFAULT,
    }
)


def contracts_of(said: ContractsSection) -> Mapping[str, Contract]:
    """Of every kind, as the site file changes what is shipped."""
    changes = said.model_dump(exclude_none=True)
    return {kind: replace(contract, **changes[kind]) for kind, contract in CONTRACTS.items()}


def contract_of(kind: str, contracts: Mapping[str, Contract] = CONTRACTS) -> Contract:
    """What a device of this kind owes; of a kind nobody knows, what its driver says."""
    return contracts.get(kind, DEFAULT)


def window_s(
    device: Device | None, driver_s: float | None, contracts: Mapping[str, Contract] = CONTRACTS
) -> float | None:
    """Seconds within which a device must be heard, given what its driver says; None: its silence says nothing."""
    if device is None:
        return driver_s
    if device.heard_within_s is not None:
        return device.heard_within_s
    contract = contract_of(device.kind, contracts)
    if not contract.is_supervised:
        return None
    return driver_s if contract.heard_within_s is None else contract.heard_within_s
