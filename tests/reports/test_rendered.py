"""Pages of the sample district as they are read: on paper, in both languages, and in a spreadsheet program."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import pytest
from openpyxl import load_workbook
from pypdf import PdfReader

from gateway.cli._district import district
from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.facts import Sort
from gateway.coverage.verdict import Gap
from gateway.kinds import Kind
from gateway.model import Area, AreaKind
from gateway.reports import words
from gateway.reports.bulletin import Label, public
from gateway.reports.colour import LEVELS
from gateway.reports.figures import MS, month_figures
from gateway.reports.formats import xlsx
from gateway.reports.internal import internal
from gateway.reports.office import Asked, report
from gateway.reports.pages import report_page
from gateway.reports.privacy import HIDDEN
from gateway.reports.sources import known
from gateway.reports.tables import Table
from tests.conftest import tool
from tests.reports.sample import MONTH, box

OFFICE = ("coverage", "gaps", "zones", "ledger", "notice", "schedule")
COMMUNITIES = [thing.name for thing in district() if isinstance(thing, Area) and thing.kind is AreaKind.COMMUNITY]
LANGS: tuple[words.Lang, ...] = ("zh", "en")


@dataclass(frozen=True)
class Pages:
    """All that is printed of the sample's month, made once."""

    html: dict[tuple[str, str], str]
    tables: dict[str, Sequence[Table]]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    folder = box(tmp_path_factory.mktemp("sample")).parent / "var"
    facts = asyncio.run(known(folder, MONTH, CoverageSection(), ReportsSection()))
    figures = month_figures(facts, MONTH, MONTH.end - MS, box="sample")
    found, tables = dict[tuple[str, str], str](), dict[str, Sequence[Table]]()
    asked = Asked(facts, MONTH.end - MS)
    for name in OFFICE:
        made = report(name, asked)
        tables[name] = made.tables
        found |= {(name, lang): report_page(made, lang) for lang in LANGS}
    for edition, make in (("public", public), ("internal", internal)):
        for lang in LANGS:
            bulletin = make(facts, figures, None, lang=lang, label=Label())
            found[edition, lang], tables[edition] = bulletin.page, bulletin.tables
    return Pages(found, tables)


def text_of(page: str) -> str:
    """What people read of it."""
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(style|title|desc)\b.*?</\1>", " ", page, flags=re.DOTALL))


@pytest.mark.full
def test_no_code_stands_where_people_expect_a_word(pages: Pages) -> None:
    """Every text is in the catalogue of its language; what the ledger holds stays as it was written."""
    for (name, lang), page in pages.html.items():
        text = text_of(page)

        assert not re.findall(r"\b[a-z]+_[a-z_]+\b", text), name
        assert "None" not in text, name
        if lang == "zh" and name in ("public", "internal"):
            english = {word.lower() for word in re.findall(r"[A-Za-z]{3,}", text)}
            assert english <= {"lanhai", "anda", "shouwang", "rust", "rebuilding"}  # as the ledger has it


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_code_has_a_word_in_both_languages(lang: words.Lang) -> None:
    assert {str(gap) for gap in Gap} <= set(words.GAPS)
    assert set(LEVELS) <= set(words.COLOURS)
    assert {str(sort) for sort in Sort} <= set(words.FACTS)
    assert all(words.cause(kind.value, lang) for kind in Kind)
    for said in (*words.GAPS.values(), *words.MEASURES.values(), *words.TIPS.values(), *words.FORECASTS.values()):
        is_chinese = any(ord(char) > 0x2E7F for char in said[lang])
        assert is_chinese == (lang == "zh")


@pytest.mark.full
def test_a_workbook_can_be_read_and_filtered(pages: Pages) -> None:
    for name, tables in pages.tables.items():
        for sheet in load_workbook(io.BytesIO(xlsx(tables, "zh"))):
            where = f"{name}: {sheet.title}"
            heads = [cell.value for cell in sheet[1]]
            cells = [cell for row in sheet.iter_rows(min_row=2) for cell in row if cell.value is not None]
            widths = [sheet.column_dimensions[cell.column_letter].width for cell in sheet[1]]

            assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", sheet.dimensions), where
            assert None not in heads, where
            assert len(set(heads)) == len(heads), where
            assert not [cell.coordinate for cell in cells if cell.data_type == "f" or cell.value == HIDDEN], where
            assert all(6 <= width <= 60 for width in widths), where


@pytest.mark.full
def test_the_office_sees_what_was_promised_and_when_it_will_be(pages: Pages) -> None:
    page = pages.html["internal", "zh"]

    assert page.count('id="chart-target-') == len(COMMUNITIES) + 1
    assert page.count(">预测 20") > 5


@pytest.mark.full
def test_a_community_is_one_page_of_paper(pages: Pages, tmp_path: Path) -> None:
    """Also in the office's edition, where one of all comes before and the lists behind; English takes more room there."""
    for edition, lang, before in (("public", "zh", 0), ("public", "en", 0), ("internal", "en", 1)):
        page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
        page.write_text(pages.html[edition, lang], encoding="utf-8")
        command = [tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
        subprocess.run(
            [*command, f"--print-to-pdf={paper}", page.as_uri()], check=True, capture_output=True, timeout=60
        )
        sheets = PdfReader(paper).pages
        box = sheets[0].mediabox

        assert sorted(round(float(side) * 25.4 / 72) for side in (box.width, box.height)) == [210, 297]
        assert edition == "internal" or len(sheets) == len(COMMUNITIES)
        for name, sheet in zip(COMMUNITIES, sheets[before:], strict=False):
            assert name in normalize("NFKC", sheet.extract_text()).replace("\n", "")
