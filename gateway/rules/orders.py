"""The life of a command, decided purely: what may follow what, when one is too late, what a restart makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.acts import ACTS, CommandRecord, CommandState

CLOCKS_APART_MAX_S = 2.0
"""The wall clock slews by less. One that jumped has a moment wrong that devices are told, and a machine that slept has stood
still on its monotonic clock: either way nobody knows how old the command is."""

UNKNOWN = "unknown outcome"
"""Begins the reason of every command that has left, or may have, and of which nothing more was heard."""


def lateness(valid_s: float, *, elapsed_s: float, wall_elapsed_s: float) -> str | None:
    """Why a command must not be sent any more; None while it may. `elapsed_s` by the monotonic clock."""
    if elapsed_s >= valid_s:
        return f"not sent within {valid_s:g} s"
    if abs(wall_elapsed_s - elapsed_s) > CLOCKS_APART_MAX_S:
        return f"the clock jumped by {wall_elapsed_s - elapsed_s:+.0f} s while it waited"
    return None


def after(record: CommandRecord, state: CommandState, at: datetime, detail: str = "") -> CommandRecord | None:
    """The record one step on; None when that step does not follow: an end is final, and what has left does not expire."""
    if not record.is_open or state is CommandState.CREATED:
        return None
    if record.state is CommandState.SENT and state in (CommandState.SENT, CommandState.EXPIRED):
        return None
    if state is CommandState.SENT:
        return replace(record, state=state, taken=True, sent_at=at)
    sent_at = record.sent_at or (at if state is CommandState.EXECUTED else None)
    return replace(record, state=state, sent_at=sent_at, ended_at=at, detail=detail)


def patience_s(record: CommandRecord) -> float:
    """From its creation, how long anything may still be heard of it."""
    return record.command.valid_s + ACTS[record.command.act].evidence_s


def given_up(record: CommandRecord, at: datetime) -> CommandRecord | None:
    """What its patience's end makes of an open command."""
    if record.taken:
        waited = f"{UNKNOWN}: no evidence from the device within {patience_s(record):g} s"
        return after(record, CommandState.FAILED, at, waited)
    return after(record, CommandState.EXPIRED, at, f"not sent within {record.command.valid_s:g} s")


def recalled(record: CommandRecord, now: datetime) -> tuple[CommandRecord, float]:
    """An open command after a restart, and how many seconds its evidence is still waited for. It is never sent again: one
    that no conversation had is over, one that may have left waits for the device's word."""
    if not record.taken:
        expired = after(record, CommandState.EXPIRED, now, "the gateway was started anew before it was sent")
        return expired or record, 0.0
    left = record.created_at + timedelta(seconds=patience_s(record)) - now
    return record, min(max(0.0, left.total_seconds()), patience_s(record))
