"""From samples to verdicts and pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import aims, report
from bench.__main__ import Bench, Size, _measure
from bench.decode import READERS, decoding
from bench.samples import Sample, share, spread
from bench.slaves import beats, lateness

EVERY_S = 0.2


def samples(load: str, system: str, figure: str, *values: float) -> list[Sample]:
    return [Sample(load, system, nth, {figure: value}) for nth, value in enumerate(values)]


def test_a_ratio_is_taken_round_by_round_and_judged_by_its_median() -> None:
    found = samples(aims.BUSY, aims.OURS, "p50_ms", 1.0, 9.0, 1.4) + samples(
        aims.BUSY, aims.FLOOR_A, "p50_ms", 1.0, 6.0, 0.5
    )

    [answer] = aims.answers(found)

    assert (answer.value, answer.lowest, answer.highest, answer.met) == (1.5, 1.0, 2.8, True)


def test_ours_is_held_against_the_fastest_of_each_round() -> None:
    found = [
        *samples(aims.DC09, aims.OURS, "us_per_frame", 3.0, 2.0),
        *samples(aims.DC09, "siadc09", "us_per_frame", 6.0, 1.0),
        *samples(aims.DC09, "pysiaalarm", "us_per_frame", 2.0, 4.0),
    ]

    [answer] = aims.answers(found)

    assert (answer.lowest, answer.highest, answer.met) == (1.5, 2.0, False)


def test_each_part_of_decoding_is_read_by_somebody() -> None:
    found = list(decoding(rounds=1, seconds=0.001))

    assert len(found) == READERS
    assert all(sample.figures["us_per_frame"] > 0 for sample in found)


def test_one_lost_event_in_one_round_misses_the_aim() -> None:
    [answer] = aims.answers(samples(aims.FLOOD, aims.OURS, "lost", 0, 1, 0))

    assert (answer.value, answer.met) == (1, False)


def test_no_two_aims_have_one_name_and_each_can_be_missed_and_met() -> None:
    assert len({aim.what for aim in aims.AIMS}) == len(aims.AIMS)


def test_percentiles_are_values_that_occurred() -> None:
    ordered = [float(n) for n in range(1, 101)]

    assert (share(ordered, 50), share(ordered, 99), share(ordered, 100)) == (51.0, 100.0, 100.0)
    assert spread(samples("l", "s", "f", 3, 1, 2), "l", "s", "f") == spread(
        samples("l", "s", "f", 2, 3, 1), "l", "s", "f"
    )


@pytest.mark.parametrize(
    ("asked", "on", "late_ms"),
    [
        ([0.0, 0.2, 0.4], [0, 1, 2], [0, 0, 0]),
        ([0.05, 0.2, 0.4], [0, 1, 2], [50, 0, 0]),
        ([0.0, 0.2, 0.55, 0.6], [0, 1, 2, 3], [0, 0, 150, 0]),
        ([0.0, 0.2, 0.6], [0, 1, 3], [0, 0, 0, 200]),
    ],
    ids=["in time", "the first was late", "late by more than half a beat", "one left out"],
)
def test_lateness_is_against_the_devices_own_beat(asked: list[float], on: list[int], late_ms: list[float]) -> None:
    assert beats(asked, EVERY_S) == on
    assert [round(second * 1000) for second in lateness(asked, EVERY_S)] == late_ms


@pytest.mark.full
def test_a_tiny_run_measures_every_aim_and_makes_the_page(tmp_path: Path) -> None:
    tiny = Size(
        rounds=1,
        alone_s=0.3,
        busy_s=0.3,
        flood=1500,
        endure_s=0.2,
        idle_s=0.5,
        polls_s=1,
        devices_s=0.3,
        times=2,
        decode_s=0.02,
    )
    parts = (
        "steady",
        "burst",
        "flood",
        "endure",
        "devices",
        "idle",
        "metrics",
        "start",
        "modbus",
        "decode",
        "coverage",
    )
    found: list[Sample] = []

    _measure(Bench(tiny, parts, tmp_path, mosquitto=False).parts(), tmp_path, found)

    answers = aims.answers(found)
    assert [answer.what for answer in answers] == [aim.what for aim in aims.AIMS]
    assert {
        sample.figures[name] for sample in found for name in ("lost", "doubled", "wrong") if name in sample.figures
    } == {0}
    report.write_json(tmp_path / "results.json", {"cores": "2"}, found, answers)
    assert len(json.loads((tmp_path / "results.json").read_text())["aims"]) == len(aims.AIMS)
    report.write_html(tmp_path / "report.html", {"cores": "2"}, found, answers)
    page = (tmp_path / "report.html").read_text()
    assert page.count("Plotly.newPlot(") == 8
    assert '<script src="http' not in page
