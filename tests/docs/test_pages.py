"""The pages hold together: no link leads nowhere, and what is to be a whole list is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_commands import PAGES, ROOT

LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)")
"""To a file of the project; addresses have a colon."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    lost = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not lost


def test_the_architecture_names_every_decision() -> None:
    named = re.findall(r"\(decisions/([^)]+)\)", (ROOT / "docs/architecture.md").read_text())
    assert named == sorted(path.name for path in (ROOT / "docs/decisions").iterdir())


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    missing = [
        str(page) for page in pages if page.parts[0] not in ("decisions", "README.md") and f"({page})" not in index
    ]
    assert not missing
