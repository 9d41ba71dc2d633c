"""The promises hold in every weather: a hundred seeds here, a thousand in the full run, as many as wanted by make dst."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from random import Random

import pytest

from tests.dst.__main__ import run
from tests.dst.weather import Weather

BLOCK = 20
ROOT = Path(__file__).parents[2]

FOUND = {
    0: "a fault of the line reported before a kill was never ended by the next run",
    4: "a report was stored whose predecessor on the same line was not: its repeat stood behind it",
    82: "a commit that failed and was stored all the same was seen by nobody until the next start",
    119: "the same, and a younger event of the source went first",
    148: "a page of the queue that was known already hid what waits behind it",
}
"""Seeds that failed once, and what they found. They stay; the tests beside the mended code hold if the dice fall anew."""


def all_hold(seeds: range | list[int]) -> None:
    broken = [f"make dst SEED={seed}: {result.broken}" for seed in seeds if (result := run(seed)).broken]

    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("first", range(0, 100, BLOCK))
def test_the_promises_hold(first: int) -> None:
    all_hold(range(first, first + BLOCK))


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 2000, 5 * BLOCK))
def test_the_promises_hold_a_thousand_times(first: int) -> None:
    all_hold(range(first, first + 5 * BLOCK))


def test_seeds_that_failed_once() -> None:
    all_hold(list(FOUND))


def test_the_same_seed_is_the_same_run() -> None:
    assert run(7).trace == run(7).trace


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_makes_the_same_run(hash_seed: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.dst", "--seed", "7"], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert run(7).digest in told.stdout


def test_every_kind_of_weather_comes() -> None:
    seen = [Weather.drawn(Random(seed)) for seed in range(100)]

    assert all(any(getattr(weather, field.name) for weather in seen) for field in fields(Weather))
    assert all(not all(getattr(weather, field.name) for weather in seen) for field in fields(Weather))
