"""Documentation that can be held against the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway import config
from gateway.api.problems import RESPONSES
from tests.dashboards.prometheus import rules

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "dashboards").rglob("*.md")]
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page as the links to them are written."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {path} does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name}: {path} has no heading {anchor}"


@pytest.mark.parametrize(
    "table",
    [
        config.GatewaySection, config.ApiSection, config.BrokerSection, config.StoreSection, config.StormsSection,
        config.ConnectionSection, config.DestinationSection,
    ],
)  # fmt: skip
def test_every_key_of_the_site_file_is_explained(table: type[BaseModel]) -> None:
    explained = OPERATING.split("\n## Site file\n")[1].split("\n## ")[0]

    assert {key for key in table.model_fields if f"`{key}`" not in explained} == set()


def test_every_alert_is_explained() -> None:
    assert {rule["alert"] for rule in rules() if "alert" in rule and f"[{rule['alert']}]" not in OPERATING} == set()


def test_every_error_of_the_api_is_announced_and_explained() -> None:
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## Errors\n")[1]
    rows = re.findall(r"^\| ([\d, ]+) \|", api, re.MULTILINE)

    assert {int(status) for row in rows for status in row.split(", ")} == set(RESPONSES)
