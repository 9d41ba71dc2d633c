"""A report in the format that was asked for. Libraries are imported when they are needed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from gateway.aligned import aligned, width
from gateway.errors import GatewayError
from gateway.reports.tables import Report, Table
from gateway.reports.words import NOTHING, Lang

PDF_MISSING = (
    "PDF needs the extra of this program that lays pages out: install it with  pip install 'fangkong[pdf]'  "
    "and, on Debian or Ubuntu,  apt install libpango-1.0-0 libpangoft2-1.0-0 fonts-noto-cjk;"
    "  or write --format html and print it from a browser 生成 PDF 需安装 fangkong[pdf], 也可用浏览器打印 HTML"
)
_FORMULA = re.compile(r"^[=+\-@\t\r]")


class NoPdf(GatewayError):
    """The extra for PDF is not installed; says what to install."""


def written(report: Report, form: str, lang: Lang) -> bytes:
    """The report as text, json, csv, xlsx, html or pdf. Raises NoPdf."""
    if form == "text":
        return _text(report, lang)
    if form == "json":
        return json_bytes(document(report))
    if form == "csv":
        return _csv(report.tables, lang)
    if form == "xlsx":
        return xlsx(report.tables, lang)
    from gateway.reports.pages import report_page

    page = report_page(report, lang)
    return pdf(page) if form == "pdf" else page.encode()


def _text(report: Report, lang: Lang) -> bytes:
    """For a terminal: what it is, then one table under the other."""
    lines = [f"{report.title[lang]}  {report.subtitle[lang]}"]
    for table in report.tables:
        lines += ["", *([table.title[lang]] if len(report.tables) > 1 else [])]
        lines += aligned([table.heads(lang), *table.texts(lang)]) if table.rows else [NOTHING[lang]]
    return ("\n".join(lines) + "\n").encode()


def document(report: Report) -> dict[str, Any]:
    """For machines: codes and numbers, no words."""
    tables = {table.key: [dict(row) for row in table.rows] for table in report.tables}
    return {"report": report.key, **report.facts, **tables}


def json_bytes(document: object) -> bytes:
    """To read, by people too."""
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def _csv(tables: Sequence[Table], lang: Lang) -> bytes:
    """One table under the other, an empty line between. With the mark by which spreadsheets know UTF-8."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\r\n")
    for number, table in enumerate(tables):
        if number:
            lines.writerow([])
        lines.writerow(table.heads(lang))
        lines.writerows([[_harmless(cell) for cell in row] for row in table.texts(lang)])
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _harmless(cell: str) -> str:
    """A spreadsheet must not take a name for a formula; a number stays one."""
    return f"'{cell}" if _FORMULA.match(cell) and not re.fullmatch(r"-?\d+(\.\d+)?", cell) else cell


def xlsx(tables: Sequence[Table], lang: Lang) -> bytes:
    """A sheet for each table."""
    from openpyxl import Workbook
    from openpyxl.styles import Alignment, Font, PatternFill
    from openpyxl.utils import get_column_letter

    book = Workbook()
    book.remove(book.active)
    for table in tables:
        sheet = book.create_sheet(re.sub(r"[\\/*?:\[\]]", " ", table.title[lang])[:31])
        sheet.append(table.heads(lang))
        for cell in sheet[1]:
            cell.font, cell.fill = Font(bold=True), PatternFill("solid", fgColor="DDE6F0")
            cell.alignment = Alignment(wrap_text=True, vertical="top")
        texts = table.texts(lang)
        for row, shown in zip(table.rows, texts, strict=True):
            values = [
                row[column.key]
                if column.is_number and text in ("", str(row[column.key]))
                else text  # "<5" is no number
                for column, text in zip(table.columns, shown, strict=True)
            ]
            sheet.append(values)
            for cell in sheet[sheet.max_row]:
                cell.data_type = "s" if isinstance(cell.value, str) else cell.data_type  # text, never a formula
        for number, column in enumerate(table.columns):
            longest = max((width(text) for text in [column.head[lang], *(row[number] for row in texts)]), default=0)
            sheet.column_dimensions[get_column_letter(number + 1)].width = min(60, longest + 2)
        sheet.freeze_panes = "A2"
        sheet.auto_filter.ref = sheet.dimensions
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def pdf(page: str) -> bytes:
    """A page on paper. Raises NoPdf."""
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:  # the second: its system library is missing
        raise NoPdf(PDF_MISSING) from error
    made: bytes = HTML(string=page).write_pdf()
    return made
