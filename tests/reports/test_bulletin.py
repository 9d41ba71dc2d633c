"""The monthly bulletin: its editions, and what the public may read."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.__main__ import main
from gateway.coverage.facts import Fact, Sort
from gateway.registry import Registry
from gateway.reports.editions import canonical
from gateway.reports.privacy import HIDDEN, OTHER, NotPublic, check, check_page, merged
from tests.coverage.town import town

K = 5


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text("", encoding="utf-8")
    record(tmp_path, *town(7, 200))
    return tmp_path


def record(box: Path, *facts: Fact) -> None:
    async def write() -> None:
        registry = await Registry.open(box / "var" / "registry.db")
        await registry.record(facts)
        await registry.close()

    asyncio.run(write())


def report(box: Path, *words: str) -> int:
    return main(["report", words[0], "--config", str(box / "site.toml"), "--month", "2026-02", *words[1:]])


def a_late_waiver() -> Fact:
    at = datetime(2026, 2, 28, tzinfo=UTC)
    return Fact(Sort.SITE, ("S0",), None, at)


def test_what_was_published_stays_and_a_late_fact_makes_a_correction(box: Path) -> None:
    assert report(box, "publish") == 0
    first = box / "var" / "editions" / "2026-02-1.json"
    content = first.read_bytes()

    record(box, a_late_waiver())
    assert report(box, "verify") == 0
    assert report(box, "publish") == 0
    assert report(box, "verify") == 0

    assert first.read_bytes() == content
    second = json.loads(first.with_name("2026-02-2.json").read_bytes())
    before, after = (each["figures"]["nodes"]["all"]["counts"]["required"] for each in (json.loads(content), second))
    assert after < before


def test_what_was_published_under_other_contracts_is_derived_by_those(box: Path) -> None:
    """Every detector tested live once a day: none was, so none worked."""
    site_file = box / "site.toml"
    usual = site_file.read_text()
    site_file.write_text(
        usual + "\n[coverage.contract.detector]\nlive_test_days = 1\ngrace_days = 0\nheard_within_s = 60.5\n"
    )
    assert report(box, "publish") == 0

    site_file.write_text(usual)
    assert report(box, "verify") == 0
    assert report(box, "publish") == 0
    strict, lax = (json.loads((box / "var" / "editions" / f"2026-02-{n}.json").read_bytes()) for n in (1, 2))
    assert strict["rules"]["live_tests"] == {"detector": {"live_test_days": 1, "grace_days": 0}}
    assert strict["figures"] != lax["figures"]


def test_an_edition_that_was_changed_by_hand_is_found_out(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(box, "publish") == 0
    path = box / "var" / "editions" / "2026-02-1.json"
    path.write_bytes(path.read_bytes().replace(b'"month":"2026-02"', b'"month":"2026-03"'))

    assert report(box, "verify") == 1
    assert "changed since it was published" in capsys.readouterr().out


def test_without_a_month_every_edition_is_verified_and_a_missing_one_found(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ["report", "verify", "--config", str(box / "site.toml")]
    assert main(verify) == 0
    assert "nothing is published" in capsys.readouterr().out
    for month in ("2026-01", "2026-02"):
        assert main(["report", "publish", "--config", str(box / "site.toml"), "--month", month]) == 0
    capsys.readouterr()

    assert main(verify) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "derived again byte for byte 一致"
    ] * 2
    (box / "var" / "editions" / "2026-01-1.json").unlink()
    assert main([*verify, "--json"]) == 1
    assert [len(each["faults"]) for each in json.loads(capsys.readouterr().out)] == [1, 0]


def test_a_month_without_a_site_is_not_published(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "publish", "--config", str(box / "site.toml"), "--month", "2025-06"]) == 1
    said = capsys.readouterr().err

    assert said.startswith("2025-06: the ledger had no site at its end, the first is of 2026-01-01")


@pytest.mark.parametrize("when", [["--at", "2999-01-01T00:00"], ["--month", "2999-01"]])
@pytest.mark.parametrize("what", ["gaps", "bulletin"])
def test_the_future_is_not_reported(box: Path, capsys: pytest.CaptureFixture[str], what: str, when: list[str]) -> None:
    assert main(["report", what, "--config", str(box / "site.toml"), *when]) == 2

    assert f"{when[0]}: is in the future; expected not later than now" in capsys.readouterr().err


def test_a_month_that_lasts_is_not_published(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "publish", "--config", str(box / "site.toml"), "--month", "2999-01"]) == 1

    assert "it can be published from 2999-02-01 00:00 on" in capsys.readouterr().err


@pytest.mark.parametrize("edition", ["public", "internal"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_bulletin_is_one_file_with_charts_and_nothing_that_runs(box: Path, edition: str, lang: str) -> None:
    out = box / "page.html"

    assert report(box, "bulletin", "--edition", edition, "--lang", lang, "--out", str(out)) == 0
    page = out.read_text(encoding="utf-8")
    assert ("<svg" in page) == (edition == "internal")  # so small a town has no figures for the public
    assert "<script" not in page
    assert page.count("<section>") == (2 if edition == "public" else 3)  # and one of all


def test_frozen_figures_have_no_fractions() -> None:
    with pytest.raises(TypeError, match="whole number"):
        canonical({"a": [0.5]})


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 30)))
def test_classes_put_together_hide_small_ones_and_keep_the_sum(classes: dict[str, int]) -> None:
    shown = merged(classes, K)

    assert all(count == HIDDEN or count >= K for count in shown.values())
    total = sum(classes.values())
    assert shown == ({OTHER: HIDDEN} if total < K else shown) if total else shown == {}
    assert total < K or sum(shown.values()) == total


@pytest.mark.parametrize(
    "found", [{"gaps": {"silent.panic": 3}}, {"name": "C", "who": "张三"}, {"gaps": {"和平路1号": 9}}]
)
def test_the_check_finds_small_cells_and_words(found: dict[str, Any]) -> None:
    with pytest.raises(NotPublic):
        check(found, K)


def test_no_word_of_the_ledger_is_on_a_public_page() -> None:
    check_page("<p>和平社区</p>", ["和平社"], ["和平社区"])
    with pytest.raises(NotPublic, match="和平路1号"):
        check_page("<p>见 和平路1号</p>", ["和平路1号"], ["和平社区"])
