"""An event in the words of DC-09: what each field of the frame holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from gateway.codecs.dc09 import ADM_CID, NULL, Message
from gateway.codecs.dc09_fields import ContactId, json_object, latitude, longitude, plain_text, stamp
from gateway.errors import FrameError
from gateway.forwarders.dc09._settings import Settings
from gateway.model import FACTS, Event, Kind, Place, Qualifier

QUALIFIERS = {Qualifier.NEW: 1, Qualifier.RESTORE: 3, Qualifier.UPDATE: 6}
NO_CODE = "000"  # no event of SIA DC-05 has it; the receiver shows the text, which says 未知


def wants(event: Event) -> bool:
    """Events of claimed devices for which Contact ID has words; positions and telemetry have none."""
    return event.place is not None and (event.kind is Kind.UNKNOWN or FACTS[event.kind].contact_id is not None)


def event_message(event: Event, number: int, settings: Settings, *, at: datetime, encrypted: bool) -> Message:
    """The message that reports this event. Raises FrameError for what DC-09 cannot say."""
    place = event.place
    if place is None or not wants(event):
        raise FrameError(f"{event.kind} has no Contact ID code, or its device is not claimed")
    contact_id = ContactId(QUALIFIERS[event.qualifier], code_of(event), zone=f"{place.number:03d}")
    return Message(
        token=ADM_CID,
        sequence=number,
        account=place.account.upper(),
        receiver=settings.receiver,
        line=settings.line,
        data=contact_id.data(place.account.upper()),
        xdata=tuple(_extended(event, place, settings)),
        timestamp=at,
        encrypted=encrypted,
    )


def null_message(account: str, settings: Settings, *, at: datetime, encrypted: bool) -> Message:
    """The question "are you there". Number 0000, which no event has."""
    return Message(
        token=NULL,
        sequence=0,
        account=account.upper(),
        receiver=settings.receiver,
        line=settings.line,
        timestamp=at,
        encrypted=encrypted,
    )


def code_of(event: Event) -> str:
    """The kind's code; for an unknown kind the device's own where it has the form of one."""
    known = FACTS[event.kind].contact_id
    if known is not None:
        return known
    raw = (event.code or "").upper()
    return raw if re.fullmatch("[0-9A-F]{3}", raw) else NO_CODE


def text_of(event: Event, place: Place) -> str:
    """What the duty desk reads, most important first because receivers cut at the end."""
    words = FACTS[event.kind].zh
    if event.kind is Kind.UNKNOWN and event.code:
        words += f" {event.code}"
    parts = ("【测试】" if event.test else "", words, "恢复" if event.qualifier is Qualifier.RESTORE else "")
    return plain_text(" ".join(filter(None, ("".join(parts), place.point_name, place.site_name, event.text))))


def _extended(event: Event, place: Place, settings: Settings) -> Iterator[tuple[str, str]]:
    if event.occurred_at is not None:  # else the receiver's own time of arrival is the better one
        yield "H", stamp(event.occurred_at)
    if "I" in settings.extended:
        yield "I", text_of(event, place)
    if event.position is not None and "X" in settings.extended:
        yield "X", longitude(event.position.longitude)
    if event.position is not None and "Y" in settings.extended:
        yield "Y", latitude(event.position.latitude)
    if "J" in settings.extended:
        yield "J", json_object({"id": event.id, "test": True} if event.test else {"id": event.id})
