"""Events and deliveries as rows, and back."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from gateway.kinds import Kind, Lane, Qualifier
from gateway.model import NOTHING, Delivery, DeliveryState, Event, Place, Position, TimeQuality

RAW_MAX_BYTES = 4096
"""Bytes of the original frame kept per event or refused frame: whole for every protocol we speak, a start of hostile ones."""

INTEGER_MAX = 2**63 - 1
"""The largest whole number a column holds."""

FAULT_TEXT_MAX = 256
"""Of what an error says, in the text of an event."""

EVENT_COLUMNS = "id, repeat_key, device, site, kind, qualifier, lane, zone, received_ms, body, raw"
SELECT_EVENT = f"e.seq, {', '.join('e.' + name for name in EVENT_COLUMNS.split(', '))}"
SELECT_DELIVERY = f"{SELECT_EVENT}, o.destination, o.number, o.state, o.reason, o.accepted_ms"

PLACES_KEPT = 4096
"""Places of read events that are made once and shared: a backlog is of a few thousand sites, over and over."""

# Looked up: an Enum called with a value is five times slower, and a page of the outbox holds ten thousand.
_KINDS = {kind.value: kind for kind in Kind}
_QUALIFIERS = {qualifier.value: qualifier for qualifier in Qualifier}
_LANES = {lane.value: lane for lane in Lane}
_TIME_QUALITIES = {quality.value: quality for quality in TimeQuality}
_STATES = {state.value: state for state in DeliveryState}
_place = lru_cache(PLACES_KEPT)(Place)
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` makes one for every call
_DECODE = json.JSONDecoder().decode
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Unix time in milliseconds, the unit of every time in the log. Rounded down: the last moment of 9999 stays in range."""
    return (moment - EPOCH) // MILLISECOND


def moment(value: int) -> datetime:
    """The other way."""
    return EPOCH + value * MILLISECOND


def optional_ms(value: datetime | None) -> int | None:
    """As `milliseconds`, absent stays absent."""
    return None if value is None else milliseconds(value)


def optional_moment(value: int | None) -> datetime | None:
    """As `moment`, absent stays absent."""
    return None if value is None else moment(value)


def event_row(event: Event) -> tuple[object, ...]:
    """The columns of EVENT_COLUMNS."""
    body: dict[str, Any] = {
        "driver": event.driver,
        "connection": event.connection,
        "code": event.code,
        "text": event.text,
        "values": dict(event.values),
        "device_time": optional_ms(event.device_time),
        "time_quality": event.time_quality,
        "test": event.test,
    }
    if event.suppressed_by:
        body["suppressed_by"] = event.suppressed_by
    if event.boot:
        body["boot"] = event.boot
    if event.position:
        body["position"] = [event.position.latitude, event.position.longitude, event.position.speed_kmh]
    place = event.place
    if place:
        body["place"] = [
            place.site, place.account, place.site_name, place.point, place.number, place.point_name, place.address,
        ]  # fmt: skip
    return (
        event.id,
        event.repeat_key,
        event.device,
        place.site if place else None,
        event.kind.value,
        event.qualifier.value,
        int(event.lane),
        event.zone,
        milliseconds(event.received_at),
        _ENCODE(body),
        event.raw[:RAW_MAX_BYTES],
    )


NOT_STORABLE = (
    sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.IntegrityError,
    ValueError, TypeError, OverflowError, AttributeError,
)  # fmt: skip
"""What `event_row` and the database raise for a value that no database takes. None of them is the disk's doing."""


def storable(event: Event, fault: Exception) -> Event:
    """What is left of an event with such a value: who, what, where, how urgent. It came by a mistake of ours, may be an
    alarm, and would come again for ever, ahead of its neighbours, if it were not stored."""
    return replace(
        event,
        device=event.device.encode("utf-8", "backslashreplace").decode(),
        repeat_key=event.repeat_key and event.repeat_key.encode("utf-8", "backslashreplace").decode(),
        zone=event.zone if event.zone is not None and 0 <= event.zone <= INTEGER_MAX else None,
        code=None,
        text=f"the rest of this event cannot be stored: {fault}"[:FAULT_TEXT_MAX],
        values=NOTHING,
        device_time=None,
        time_quality=TimeQuality.UNKNOWN,
        position=None,
        raw=event.raw if isinstance(event.raw, bytes) else b"",
    )


def give_place(event: Event, seq: int) -> None:
    """The event is on disk, at this place of the order. Nobody else writes to an event; a copy costs as much as its row."""
    object.__setattr__(event, "seq", seq)


def event_of(row: tuple[Any, ...]) -> Event:
    """An event from SELECT_EVENT's columns; what is left of it when the disk has changed a bit here and there."""
    try:
        return _whole_event(row)
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
        return _remains(row)


def _remains(row: tuple[Any, ...]) -> Event:
    """A damaged record must not hide the sound ones after it, and may have been an alarm."""
    seq, event_id, _key, device, _site, kind, *_, raw = row[:12]
    return Event(
        id=str(event_id),
        device=str(device),
        kind=Kind.UNKNOWN,
        qualifier=Qualifier.NEW,
        lane=Lane.ALARM,
        received_at=EPOCH,
        driver="",
        connection="",
        code=str(kind),
        text="the stored record of this event is damaged",
        raw=raw if isinstance(raw, bytes) else b"",
        seq=seq,
    )


def _whole_event(row: tuple[Any, ...]) -> Event:
    seq, event_id, repeat_key, device, _site, kind, qualifier, lane, zone, received_ms, text, raw = row[:12]
    body = _DECODE(text)
    position, place = body.get("position"), body.get("place")
    return Event(
        id=event_id,
        device=device,
        kind=_KINDS[kind],
        qualifier=_QUALIFIERS[qualifier],
        lane=_LANES[lane],
        received_at=moment(received_ms),
        driver=body["driver"],
        connection=body["connection"],
        zone=zone,
        code=body["code"],
        text=body["text"],
        values=body["values"],
        device_time=optional_moment(body["device_time"]),
        time_quality=_TIME_QUALITIES[body["time_quality"]],
        position=Position(*position) if position else None,
        test=body["test"],
        place=_place(*place) if place else None,
        raw=raw,
        repeat_key=repeat_key,
        suppressed_by=body.get("suppressed_by"),
        seq=seq,
        boot=body.get("boot", ""),
    )


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    """A delivery from SELECT_DELIVERY's columns."""
    destination, number, state, reason, accepted_ms = row[12:]
    return Delivery(
        destination=destination,
        event=event_of(row),
        number=number,
        # A state that is none is a flipped bit: better sent again than not at all.
        state=_STATES.get(state, DeliveryState.QUEUED),
        reason=reason,
        accepted_at=optional_moment(accepted_ms),
    )
