"""`fangkong deficiency`: on a box's own files."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.clock import RealClock
from gateway.coverage.tickets import Gone, Risk, Terms, Tickets, changes
from gateway.registry import Registry

NOW = RealClock().now()
SILENT = Gone(
    "device:d1:silent", "s1", "silent", "", Risk.HIGH, NOW - timedelta(days=1), "值班室 0535-1234567", ("p1",)
)


def test_what_is_open_is_listed_and_what_people_say_of_it_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site_file = tmp_path / "site.toml"
    site_file.write_text("")
    (tmp_path / "var").mkdir()

    async def prepare() -> None:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        terms = Terms({}, {"high": 3, "medium": 14, "low": 30})
        await registry.record(changes([SILENT], Tickets(), NOW - timedelta(hours=1), terms))
        await registry.close()

    asyncio.run(prepare())

    def said(*words: str) -> tuple[int, str]:
        code = main(["deficiency", *words, "--config", str(site_file)])
        return code, capsys.readouterr().out

    [row] = json.loads(said("list", "--json")[1])
    assert (row["id"], row["state"], row["points"]) == (SILENT.ticket, "open", 1)
    assert said("told", SILENT.ticket, "--whom", "物业值班室")[0] == 0
    code, text = said("rectified", SILENT.ticket, "--remark", "换电池", "--json")
    assert (code, json.loads(text)[0]["state"]) == (0, "rectified")
    assert "told 物业值班室" in said("show", SILENT.ticket)[1]
    assert said("show", "device:other:silent")[0] == 1
    shown = said("show", SILENT.ticket)[1]
    assert " p1 " in shown
    assert f"{NOW + timedelta(hours=7):%Y-%m-%d %H:%M:%S}+08:00  open" in shown
    assert said("list", "--site", "s9") == (2, "")
    for words in (["told", SILENT.ticket, "--whom", " "], ["rectified", SILENT.ticket, "--remark", "x" * 101]):
        with pytest.raises(SystemExit) as left:
            said(*words)
        assert left.value.code == 2
