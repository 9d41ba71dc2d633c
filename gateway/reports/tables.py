"""A table of a report, once for all formats: codes and numbers for machines, words for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.reports.words import Lang, Said

Cell = str | int | None
Row = Mapping[str, Any]
Show = Callable[[Any, Lang], str]


def plain(cell: Cell, _lang: Lang) -> str:
    """As it is; nothing where there is nothing."""
    return "" if cell is None else str(cell)


def word_of(words: Mapping[str, Said]) -> Show:
    """A code as people say it; a code without a word stays itself."""
    return lambda cell, lang: words[cell][lang] if cell in words else plain(cell, lang)


@dataclass(frozen=True, slots=True)
class Column:
    """What one key of the rows is called, and how its cells are shown to people."""

    key: str
    head: Said
    show: Show = plain
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as codes and whole numbers; the columns know the words."""

    key: str
    title: Said
    columns: Sequence[Column]
    rows: Sequence[Row]

    def heads(self, lang: Lang) -> list[str]:
        return [column.head[lang] for column in self.columns]

    def texts(self, lang: Lang) -> list[list[str]]:
        """The cells as people read them."""
        return [[column.show(row[column.key], lang) for column in self.columns] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Report:
    """What one command prints."""

    key: str
    title: Said
    subtitle: Said
    tables: Sequence[Table]
    facts: Mapping[str, Cell] = field(default_factory=dict)
    """What machines want to know beside the rows: instant, node."""
    template: str = "tables.html"
    page: Mapping[str, Any] = field(default_factory=dict)
    """What its template prints beside the tables."""
