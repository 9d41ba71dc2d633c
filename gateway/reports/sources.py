"""What reports are made from, read from a data directory, whether a daemon runs on it or not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from gateway.config import CoverageSection, ReportsSection
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.verdict import Rules
from gateway.registry import Registry
from gateway.reports import alarms
from gateway.reports.colour import WEEKS
from gateway.reports.figures import Known


async def known(folder: Path, month: Month, coverage: CoverageSection, settings: ReportsSection) -> Known:
    """Everything up to now. Raises ConfigError, StoreError."""
    ledger = await Registry.open(folder / "registry.db")
    try:
        facts = await _all(ledger)
    finally:
        await ledger.close()
    counted = alarms.read(*log_of(folder, month))
    return Known(History(facts), facts, counted, Rules.of(coverage), coverage, settings)


def log_of(folder: Path, month: Month) -> tuple[Path, datetime, datetime]:
    """The event log, and the part of it that a month's figures look at."""
    return folder / "events.db", month.start - timedelta(weeks=WEEKS + 1), month.end


async def _all(registry: Registry) -> Sequence[Fact]:
    found: list[Fact] = []
    while page := await registry.facts(after=found[-1].id if found else 0):
        found += page
    return found
