"""What people say of a measure at a point: that it is not asked for a time, and what an inspection found.

One set of rules, for the commands and for the sheets of the inventory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import ClassVar

from gateway.cli._asked import asked_of
from gateway.cli.waiver import DAYS_MAX
from gateway.coverage.days import day_of, start_of
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History, Stretch, moment_of, ms_of
from gateway.coverage.requirements import Family, Requirement
from gateway.errors import Problem
from gateway.registry import Finding, Snapshot

TEXT_MAX = 128
OLDEST = date(2000, 1, 1)
"""From when the shipped profiles hold: nothing was asked before."""
COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Waiver:
    """A measure that is not asked of a point until a day, that day included."""

    point: str
    measure: str
    reason: str
    approver: str
    until: date
    since: date | None = field(default=None, compare=False)
    """Its first day, to be read by people: nothing is waived for the past, so one that is new begins when it is said."""

    sort: ClassVar = Sort.WAIVER

    @property
    def id(self) -> str:
        return f"{self.point} {self.measure}"

    @property
    def subject(self) -> tuple[str, str]:
        return self.point, self.measure

    def findings(self, asked: Requirement | Finding, now: datetime) -> Iterator[Finding]:
        """Every mistake, `asked` being what the profile says."""
        if isinstance(asked, Finding):
            yield asked
        yield from _text("reason", self.reason)
        yield from _text("approver", self.approver)
        today = day_of(now)
        if self.since is not None and self.since > today:
            expected = "a day not after today, or nothing: a waiver begins when it is given"
            yield Finding("from", f"found {self.since}", expected, "豁免起始日不得晚于今天")
        if not today <= self.until < day_of(now + timedelta(days=DAYS_MAX)):
            expected = f"a day like 2026-12-31, from today on, at most {DAYS_MAX} days away"
            yield Finding("until", f"found {self.until}", expected, "豁免期限不对")

    def fact(self, _history: History, _asked: Requirement, now: datetime, actor: str) -> Fact:
        value = {"reason": self.reason, "approver": self.approver}
        return Fact(self.sort, self.subject, value, now, start_of(self.until + timedelta(days=1)), actor=actor)

    def known(self, history: History, now: datetime) -> Waiver | None:
        """What the record says of it: in force, or at its end by itself."""
        return _waiver(self.subject, history.look(self.sort, self.subject, ms_of(now)))


@dataclass(frozen=True, slots=True)
class Inspection:
    """What somebody found who looked, on a day."""

    point: str
    measure: str
    day: date
    result: str
    """"ok" or "failed"."""
    by: str
    remark: str = ""

    sort: ClassVar = Sort.INSPECTION

    @property
    def id(self) -> str:
        return f"{self.point} {self.measure} {self.day}"

    @property
    def subject(self) -> tuple[str, str]:
        return self.point, self.measure

    def findings(self, asked: Requirement | Finding, now: datetime) -> Iterator[Finding]:
        """Every mistake, `asked` being what the profile says."""
        if isinstance(asked, Finding):
            yield asked
        elif asked.family is not Family.PHYSICAL:
            expected = "a physical measure: telemetry proves the others"
            yield Finding("measure", f"{self.measure!r} is technical", expected, "技防措施不作人工检查")
        yield from _text("by", self.by)
        yield from _text("remark", self.remark or "-")
        if not self._has_been(now):
            expected = f"a day like 2026-10-01, from {OLDEST} on, not after today"
            yield Finding("date", f"found {self.day}", expected, "检查日期不对")

    def fact(self, history: History, asked: Requirement, now: datetime, actor: str) -> Fact:
        value = {"ok": self.result == "ok", "by": self.by, "remark": self.remark}
        last = self._last(history, now)
        begins = now if self.day == day_of(now) else start_of(self.day)
        if begins != now and _begins_on(last, self.day):  # beside a later one of that day it would never count
            begins = moment_of(last.start) or begins
        ends = start_of(self.day + timedelta(days=asked.inspect_days + 1))
        return Fact(self.sort, self.subject, value, begins, ends, actor=actor)

    def known(self, history: History, now: datetime) -> Inspection | None:
        """The last of its day that the record has."""
        if not self._has_been(now):
            return None
        last = self._last(history, now)
        return _inspection(self.subject, last) if _begins_on(last, self.day) else None

    def _has_been(self, now: datetime) -> bool:
        return OLDEST <= self.day <= day_of(now)

    def _last(self, history: History, now: datetime) -> Stretch:
        end = min(now, start_of(self.day + timedelta(days=1)) - timedelta(milliseconds=1))
        return history.look(self.sort, self.subject, ms_of(end))


Statement = Waiver | Inspection


def asked(ledger: Snapshot, profiles: History, statement: Statement, now: datetime) -> Requirement | Finding:
    """The requirement that a statement is about, or what is wrong with its point or measure."""
    point = ledger.points.get(statement.point)
    if point is None:
        return Finding(
            "point", f"{statement.point!r} is not in the ledger"[:120], "a point of the ledger", "点位不存在"
        )
    lines = asked_of(ledger, profiles, point, now)
    for line in lines:
        if line.measure == statement.measure:
            return line
    found = f"{statement.measure!r} is not asked of a point of kind {point.kind or '(none)'}"
    expected = (
        "one of " + ", ".join(line.measure for line in lines) if lines else "a point that a profile asks for something"
    )
    return Finding("measure", found[:120], expected, "配置要求中没有该措施")


def weigh(
    statement: Statement, ledger: Snapshot, history: History, now: datetime, actor: str
) -> tuple[Sequence[Finding], Fact | None]:
    """Every mistake in it; if there is none, the fact that it is. `history` holds profiles and what was said before."""
    line = asked(ledger, history, statement, now)
    findings = list(statement.findings(line, now))
    if findings or isinstance(line, Finding):
        return findings, None
    return (), statement.fact(history, line, now, actor)


def in_force(history: History, ledger: Snapshot, now: datetime) -> Sequence[Statement]:
    """Waivers and inspections that count now, of points of the ledger, in the order of ids."""
    said: list[Statement] = []
    for sort, read in ((Sort.WAIVER, _waiver), (Sort.INSPECTION, _inspection)):
        for subject in sorted(history.subjects(sort)):
            stretch = history.look(sort, subject, ms_of(now))
            statement = read(subject, stretch) if stretch.value is not None and subject[0] in ledger.points else None
            said += [statement] if statement is not None else []
    return said


def on_command_line(findings: Iterable[Finding]) -> list[Problem]:
    """Findings, told by the option that each is about."""
    options = {"date": "--on", "point": "point", "measure": "measure"}
    return [
        Problem(COMMAND_LINE, None, options.get(each.field, f"--{each.field}"), each.found, each.expected, each.zh)
        for each in findings
    ]


def _waiver(subject: tuple[str, ...], stretch: Stretch) -> Waiver | None:
    value = stretch.value or stretch.expired
    stop = stretch.stop if stretch.value is not None else stretch.start  # at its own end a stretch of nothing begins
    ends, begins = moment_of(stop), moment_of(stretch.start)
    if value is None or ends is None or begins is None:
        return None
    last = day_of(ends - timedelta(milliseconds=1))
    since = day_of(begins) if stretch.value is not None else None
    return Waiver(subject[0], subject[1], value["reason"].strip(), value["approver"].strip(), last, since)


def _inspection(subject: tuple[str, ...], stretch: Stretch) -> Inspection | None:
    value, begins = stretch.value, moment_of(stretch.start)
    if value is None or begins is None:
        return None
    result, by, remark = "ok" if value["ok"] else "failed", value["by"].strip(), value["remark"].strip()
    return Inspection(subject[0], subject[1], day_of(begins), result, by, remark)


def _begins_on(stretch: Stretch, day: date) -> bool:
    begins = moment_of(stretch.start)
    return stretch.value is not None and begins is not None and day_of(begins) == day


def _text(name: str, text: str) -> Iterator[Finding]:
    if not (text.strip() and text.isprintable() and len(text) <= TEXT_MAX):
        yield Finding(name, f"found {text!r}"[:120], f"1 to {TEXT_MAX} printable characters", "文字过长或为空")
