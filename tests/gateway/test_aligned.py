"""Columns on a terminal, where a Chinese character takes two."""

from __future__ import annotations

from gateway.aligned import aligned


def test_cells_stand_below_each_other_whatever_the_script() -> None:
    rows = [["名称", "n"], ["a", "1"], ["东门主机", ""], ["e\u0301", "2"]]

    assert aligned(rows) == ["名称      n", "a         1", "东门主机", "e\u0301         2"]
