"""The list of planted defects is kept in step with the code, and none of them survives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted.__main__ import ROOT, Change, Defect, defects, main, tried


@pytest.mark.parametrize("defect", [pytest.param(defect, id=defect.name) for defect in defects()])
def test_every_defect_can_be_planted_and_names_tests_that_exist(defect: Defect) -> None:
    files = [Path(test.partition("::")[0]) for test in defect.tests]

    assert [problem for change in defect.changes if (problem := change.problem(ROOT))] == []
    assert files
    assert all((ROOT / file).exists() for file in files)


def test_a_harmless_change_is_reported_as_a_survivor() -> None:
    harmless = Change("README.md", "# Fangkong", "# fangkong")

    verdict = tried(Defect("harmless", "nothing", [harmless], ["tests/gateway/test_sdnotify.py"]))

    assert (verdict.caught_by, verdict.problem) == ((), "SURVIVED")


@pytest.mark.full
@pytest.mark.timeout(900)  # some thirty runs of pytest, one after another; each has its own bound
def test_no_planted_defect_survives() -> None:
    assert main([]) == 0
