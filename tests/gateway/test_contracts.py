"""Contracts: what a person wrote counts first, then the kind of the device, then its driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ContractsSection
from gateway.coverage.contracts import CONTRACTS, Contract, contract_of, contracts_of, window_s
from gateway.model import Device
from tests.conftest import JumpingClock
from tests.gateway.test_health import box

POLLED_S = 6.0
HOURS_25_S = 25 * 3600
BUTTON = Device("a001", "s1", kind="panic_button")


@pytest.mark.parametrize(
    ("device", "expected_s"),
    [
        (None, POLLED_S),
        (Device("a", "s1"), POLLED_S),
        (Device("a", "s1", kind="door_controller"), POLLED_S),
        (Device("a", "s1", kind="a kind of tomorrow"), POLLED_S),
        (Device("a", "s1", kind="radio_sensor"), 1.1 * HOURS_25_S),
        (Device("a", "s1", kind="vehicle_unit"), 300),
        (Device("a", "s1", kind="radio_code"), None),
        (Device("a", "s1", kind="radio_sensor", heard_within_s=4000), 4000),
    ],
)
def test_how_long_a_device_may_be_unheard(device: Device | None, expected_s: float | None) -> None:
    assert window_s(device, POLLED_S) == (expected_s and pytest.approx(expected_s))


def test_a_kind_of_the_site_file_comes_before_the_one_of_the_trade() -> None:
    ours = CONTRACTS | {"radio_sensor": Contract(heard_within_s=3960)}
    assert window_s(Device("a", "s1", kind="radio_sensor"), POLLED_S, ours) == 3960


def test_the_site_file_knows_every_kind_and_changes_what_it_says() -> None:
    assert set(ContractsSection.model_fields) == set(CONTRACTS)
    assert contracts_of(ContractsSection()) == CONTRACTS
    said = ContractsSection.model_validate({"radio_sensor": {"heard_within_s": 3960}, "siren": {"live_test_days": 90}})
    assert contracts_of(said) == CONTRACTS | {
        "radio_sensor": Contract(heard_within_s=3960), "siren": Contract(live_test_days=90),
    }  # fmt: skip


def test_what_is_silent_by_nature_is_tested_live() -> None:
    tested = {kind for kind in CONTRACTS if contract_of(kind).live_test_days is not None}
    assert tested == {"panic_button", "radio_code"}
    assert {kind for kind in CONTRACTS if not contract_of(kind).is_supervised} == {"radio_code"}


async def test_a_driver_that_knows_nothing_of_a_button_leaves_it_to_its_kind(
    tmp_path: Path, jumping_clock: JumpingClock
) -> None:
    async with box(tmp_path, jumping_clock, BUTTON) as here:
        here.health.heard("a001", "c1", None)
        await jumping_clock.advance(1.1 * HOURS_25_S - 1)
        assert await here.told() == []

        await jumping_clock.advance(0.05 * 1.1 * HOURS_25_S)
        assert len(await here.told()) == 1


async def test_a_code_that_anybody_can_send_is_never_called_silent(tmp_path: Path, jumping_clock: JumpingClock) -> None:
    """Whatever its driver says: also when it was supervised before it was known for what it is."""
    async with box(tmp_path, jumping_clock, Device("a001", "s1")) as here:
        here.health.heard("a001", "c1", 90.0)
        await here.health.flush()

    async with box(tmp_path, jumping_clock, Device("a001", "s1", kind="radio_code")) as here:
        await jumping_clock.advance(60)
        here.health.heard("a001", "c1", 90.0)
        await jumping_clock.advance(1000)
        assert await here.told() == []
