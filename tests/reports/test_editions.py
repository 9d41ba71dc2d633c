"""Published figures: frozen, audited, corrected by name, and derived again; whatever is cut off or tampered with is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.access import Actor, Role
from gateway.audit import FILE, Audit
from gateway.clock import RealClock
from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact, Sort
from gateway.registry import Registry
from gateway.reports.editions import FACTS_EACH
from gateway.reports.publishing import publish
from gateway.reports.sources import known
from tests.coverage.town import town

MONTH = Month(2026, 2)
ACTOR = Actor("os:li", Role.ADMINISTRATOR)


class Killed(BaseException):
    """The process ends here."""


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
    return main(["report", words[0], "--config", str(box / "site.toml"), "--month", str(MONTH), *words[1:]])


def edition(box: Path, number: int) -> Path:
    return box / "var" / "editions" / f"{MONTH}-{number}.json"


def killed_before_the_fact(box: Path) -> None:
    async def die(_: Sequence[Fact]) -> None:
        raise Killed

    async def go() -> None:
        folder = box / "var"
        facts = await known(folder, MONTH, CoverageSection(), ReportsSection())
        audit, now = Audit(folder / FILE, RealClock()), datetime(2026, 3, 5, tzinfo=UTC)
        await publish(folder, facts, MONTH, box="fangkong", now=now, record=die, audit=audit, actor=ACTOR)

    with pytest.raises(Killed):
        asyncio.run(go())


def test_a_publication_that_was_cut_off_is_finished_with_the_same_bytes(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_before_the_fact(box)
    content = edition(box, 1).read_bytes()
    assert report(box, "verify") == 1
    assert "the record of facts knows no such edition" in capsys.readouterr().out

    record(
        box, Fact(Sort.SITE, ("S0",), None, datetime(2026, 2, 28, tzinfo=UTC))
    )  # what became known since changes nothing
    assert report(box, "publish") == 0
    assert edition(box, 1).read_bytes() == content
    assert not edition(box, 2).exists()
    assert report(box, "verify") == 0


def test_a_file_that_nobody_published_is_not_taken_for_one_that_was_cut_off(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_before_the_fact(box)
    content = edition(box, 1).read_bytes()
    edition(box, 1).write_bytes(content.replace(b'"installed":', b'"installed":1', 1))
    assert report(box, "publish") == 1
    assert "take it away" in capsys.readouterr().err
    edition(box, 1).write_bytes(b"{}")
    assert report(box, "publish") == 1


def test_a_correction_names_what_it_corrects_and_what_changed(box: Path) -> None:
    assert report(box, "publish") == 0
    record(box, Fact(Sort.SITE, ("S0",), None, datetime(2026, 2, 28, tzinfo=UTC)))
    assert report(box, "publish") == 0

    first, second = (json.loads(edition(box, number).read_bytes()) for number in (1, 2))
    assert "corrects" not in first
    assert second["corrects"]["number"] == 1
    before, after = (each["figures"]["nodes"]["all"]["counts"]["required"] for each in (first, second))
    assert second["changed"]["all"]["counts"]["required"] == [before, after]
    assert set(second["changed"]) <= set(first["figures"]["nodes"])
    assert report(box, "bulletin", "--lang", "zh", "--edition", "internal", "--out", str(box / "page.html")) == 0
    page = (box / "page.html").read_text(encoding="utf-8")
    assert "更正第 1 版" in page
    assert f"应装 {before} → {after}" in page


def test_who_published_is_in_the_audit_record(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(box, "publish") == 0
    assert report(box, "publish") == 0
    capsys.readouterr()
    assert main(["audit", "list", "--config", str(box / "site.toml"), "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["deed"] == "edition"]

    assert [row["subject"] for row in rows] == [f"{MONTH} no. 1", f"{MONTH} no. 2"]
    assert "sha256" in str(rows[0])


def test_what_cannot_be_audited_is_not_published(box: Path) -> None:
    (box / "var" / FILE).mkdir()

    assert report(box, "publish") == 1
    assert not edition(box, 1).exists()


EDITED = "UPDATE fact SET value = replace(value, 'working', 'degraded') WHERE id = ?"
DELETED = "DELETE FROM fact WHERE id = ?"


@pytest.mark.parametrize("change", [EDITED, DELETED])
def test_a_fact_that_was_tampered_with_is_named(box: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    assert report(box, "publish") == 0
    with closing(sqlite3.connect(box / "var" / "registry.db")) as database:
        [number] = database.execute(
            "SELECT MAX(id) FROM fact WHERE sort = 'health' AND value LIKE '%working%'"
        ).fetchone()
        database.execute(change, (number,))
        database.commit()

    assert report(box, "verify") == 1
    said = capsys.readouterr().out
    first = (number - 1) // FACTS_EACH * FACTS_EACH + 1
    assert f"one of the facts {first} to " in said


def test_a_file_that_was_tampered_with_or_is_gone_is_named(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(box, "publish") == 0
    assert report(box, "publish") == 0
    content = edition(box, 1).read_bytes()
    edition(box, 1).write_bytes(content.replace(b'"working":', b'"working":1', 1))
    assert report(box, "verify") == 1
    assert f"{edition(box, 1)}" in capsys.readouterr().out.split("changed since")[0]

    edition(box, 1).unlink()
    assert report(box, "verify") == 1
    assert report(box, "publish") == 1
    assert "bring it back" in capsys.readouterr().err
    edition(box, 1).write_bytes(content)
    assert report(box, "verify") == 0
