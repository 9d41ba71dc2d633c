"""Reports as pages: one file each, with nothing to be fetched and nothing that runs, made to be printed on A4."""

from __future__ import annotations

from functools import cache
from typing import Any

from gateway.reports.tables import Report
from gateway.reports.words import Lang, Said


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("gateway.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip


def render(template: str, lang: Lang, **values: object) -> str:
    """A page from a template of this package; whatever comes from the ledger is escaped."""

    def say(zh: str | Said, en: str = "") -> str:
        return zh[lang] if isinstance(zh, Said) else (zh if lang == "zh" else en)

    page: str = _environment().get_template(template).render(lang=lang, say=say, **values)
    return page


def report_page(report: Report, lang: Lang) -> str:
    """As its template has it; most are tables under each other."""
    return render(report.template, lang, report=report, **report.page)
