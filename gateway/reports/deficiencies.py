"""The deficiencies as they stood at a moment: what the record tells of them, and what follows from the gaps of that moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gateway.coverage.causes import Open, causes, open_gaps
from gateway.coverage.tickets import Terms, Tickets, changes
from gateway.coverage.verdict import Verdict
from gateway.reports.figures import Known


def gaps_of(known: Known, verdicts: Sequence[Verdict], at: datetime) -> Sequence[Open]:
    """Every gap with the deficiency it belongs to."""
    return list(open_gaps(verdicts, known.history, at, known.rules.target_kinds))


def tickets_at(known: Known, gaps: Sequence[Open], at: datetime) -> Tickets:
    """As a gateway that runs would have them, also of a box whose gateway does not."""
    tickets = Tickets(fact for fact in known.facts if fact.valid_from <= at)
    terms = Terms(known.coverage.grace_h.model_dump(), known.coverage.due_days.model_dump())
    tickets.add(changes(causes(gaps), tickets, at, terms))
    return tickets
