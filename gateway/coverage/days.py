"""Local days and months: what people mean by "on the 3rd" and "in October"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

LOCAL = timezone(timedelta(hours=8), "Asia/Shanghai")
"""All of China, all the year. Fixed, so that a box without a time zone database counts the same days."""


def day_of(moment: datetime) -> date:
    """The local day a moment is in."""
    return moment.astimezone(LOCAL).date()


def start_of(day: date) -> datetime:
    """Its first moment, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=LOCAL).astimezone(UTC)


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A local month, written "2026-10"."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """Raises ValueError for what is not like 2026-10."""
        try:
            day = datetime.strptime(text, "%Y-%m").replace(tzinfo=LOCAL)
        except ValueError:
            raise ValueError(f"a month is expected, like 2026-10, not {text!r}") from None
        return cls(day.year, day.month)

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """The one a moment is in."""
        day = day_of(moment)
        return cls(day.year, day.month)

    @property
    def start(self) -> datetime:
        """Its first moment, in UTC."""
        return start_of(date(self.year, self.month, 1))

    @property
    def end(self) -> datetime:
        """The first moment that is no longer in it, in UTC."""
        return self.plus(1).start

    @property
    def last_moment(self) -> datetime:
        """The last millisecond that is in it, in UTC."""
        return self.end - timedelta(milliseconds=1)

    def plus(self, months: int) -> Month:
        """So many months on, or back."""
        year, month = divmod(self.year * 12 + self.month - 1 + months, 12)
        return Month(year, month + 1)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"
