"""The boards of the coverage say a rate as the reports do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashboards.src.coverage import COMMUNITY, DISTRICT


@pytest.mark.parametrize("board", [DISTRICT, COMMUNITY], ids=lambda board: board.stem)
def test_the_four_rates_are_rounded_down_to_a_tenth(board: Path) -> None:
    panels = json.loads(board.read_text(encoding="utf-8"))["panels"]
    rates = [panel for panel in panels if panel.get("fieldConfig", {}).get("defaults", {}).get("unit") == "percentunit"]

    assert [panel["title"] for panel in rates] == ["安装率", "完好率", "有效覆盖率", "联网率"]
    for panel in rates:
        [query] = panel["targets"]
        assert query["expr"].startswith("floor(1000 * ")
        assert query["expr"].endswith(") / 1000")
