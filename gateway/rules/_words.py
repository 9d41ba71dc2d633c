"""What the gateway says about a storm, as events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from gateway.clock import PROGRAM_DATE
from gateway.model import FACTS, NOTHING, Event, Kind, Qualifier, Scalar, TimeQuality

OWN = "gateway"
"""Driver of what is said here, which no connection's driver is called."""


def said(
    example: Event,
    qualifier: Qualifier,
    *,
    of: str,
    event_id: str,
    at: datetime,
    text: str | None = None,
    values: Mapping[str, Scalar] = NOTHING,
) -> Event:
    """The gateway's word, now, about what the example is about. `of`: id of the event that speaks for what was kept back."""
    return replace(
        example, id=event_id, qualifier=qualifier, received_at=at, driver=OWN, connection=OWN, text=text,
        values={"of": of, **values}, device_time=None, time_quality=TimeQuality.UNKNOWN, position=None, raw=b"",
        repeat_key=None, suppressed_by=None, seq=0, boot=example.boot if at < PROGRAM_DATE else "",
    )  # fmt: skip


def flooding(example: Event) -> Event:
    """An example of a word about the whole source: no zone, no point."""
    place = example.place and replace(example.place, point=None, number=0, point_name=example.device)
    facts = FACTS[Kind.FLOODING]
    return replace(example, kind=Kind.FLOODING, lane=facts.lane, zone=None, code=None, test=False, place=place, raw=b"")
