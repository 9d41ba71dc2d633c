"""What readers get to see of the model. Times are UTC in ISO 8601; raw bytes are hex."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Generic, Self, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from gateway.acts import ZONE_MAX, Act, Command, CommandRecord, CommandState
from gateway.difference import Change, Reload
from gateway.errors import Problem
from gateway.history import WHO
from gateway.kinds import FACTS, Kind, Qualifier
from gateway.metrics import Outcome
from gateway.model import ClockQuality, Delivery, DeliveryState, Event, Scalar, TimeQuality
from gateway.store import Backlog, Rejected

ItemT = TypeVar("ItemT")
ViewT = TypeVar("ViewT")
REQUEUE_MAX = 1000
"""Rows in one request to send again: one transaction of bounded length."""


YEARS = range(1970, 9999)
"""Moments are kept as milliseconds since 1970; the last year has hours that no UTC moment can name."""


def _in_range(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"a time from {YEARS[0]} to {YEARS[-1]} is expected")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_in_range)]


def _in_words(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("printable characters on one line are expected, without blanks around them")
    return text


Words = Annotated[str, AfterValidator(_in_words), Field(min_length=2, max_length=200)]
"""Why something is asked for, in one line."""


class Page(BaseModel, Generic[ItemT]):
    """One page; `next` is the `after` of the following one, None at the end."""

    items: list[ItemT]
    next: int | None = None


def page_of(chosen: Sequence[ItemT], after: int, limit: int, view: Callable[[ItemT], ViewT]) -> Page[ViewT]:
    """The items behind `after`, the cursor of a list that stands still."""
    following = after + limit if after + limit < len(chosen) else None
    return Page(items=[view(each) for each in chosen[after : after + limit]], next=following)


class PositionView(BaseModel):
    latitude: float
    longitude: float
    speed_kmh: float | None


class EventView(BaseModel):
    seq: int
    id: str
    device: str
    kind: Kind
    kind_zh: str
    kind_en: str
    qualifier: Qualifier
    lane: str
    zone: int | None
    code: str | None
    text: str | None
    values: Mapping[str, Scalar]
    device_time: datetime | None
    time_quality: TimeQuality
    received_at: datetime
    clock: ClockQuality
    position: PositionView | None
    test: bool
    claimed: bool
    site: str | None
    site_name: str | None
    point: str | None
    point_name: str | None
    driver: str
    connection: str
    suppressed_by: str | None
    raw: str
    withheld: bool
    """A vehicle's fix: that it came is shown, where it was is not."""


class DeliveryView(BaseModel):
    destination: str
    state: DeliveryState
    number: int | None
    reason: str
    accepted_at: datetime | None
    event: EventView


class CommandView(BaseModel):
    id: str
    device: str
    site: str
    act: Act
    zone: int | None
    seconds: int | None
    until: datetime | None
    valid_s: float
    issuer: str
    reason: str
    state: CommandState
    created_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None
    detail: str


class CommandWish(BaseModel):
    """What a device is to do. What the act needs and what it bounds, `gateway.acts` says."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
    """Made up by the caller, once for each wish: sent again it is answered with how far the first one is."""
    device: Annotated[str, Field(min_length=1, max_length=128)]
    act: Act
    zone: Annotated[int, Field(ge=0, le=ZONE_MAX)] | None = None
    seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    until: Moment | None = None
    valid_s: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] | None = None
    reason: Words
    who: Annotated[str, Field(pattern=f"^{WHO.pattern}$")] | None = None
    """The person at the command line of this box, who comes with the box's token."""

    def command(self) -> Command:
        """What it asks for. Moments are kept in milliseconds."""
        until = self.until and self.until.replace(microsecond=self.until.microsecond // 1000 * 1000)
        return Command(
            self.id, self.device, self.act, zone=self.zone, seconds=self.seconds, until=until, valid_s=self.valid_s or 0
        )


class DestinationView(BaseModel):
    name: str
    configured: bool
    """False for one that left the site file while events wait for it."""
    forwarder: str | None
    up: bool
    backlog: dict[str, int]
    oldest: dict[str, datetime]
    dead: int


class RejectedView(BaseModel):
    at: datetime
    connection: str
    reason: str
    raw: str


class Requeue(BaseModel):
    """Dead rows of one destination that shall go again, under their old numbers."""

    model_config = ConfigDict(extra="forbid")

    destination: Annotated[str, Field(max_length=128)]
    seqs: Annotated[list[Annotated[int, Field(ge=1, lt=2**63)]], Field(min_length=1, max_length=REQUEUE_MAX)]


class Resend(BaseModel):
    """A span of time whose accepted events one destination shall get once more."""

    model_config = ConfigDict(extra="forbid")

    destination: Annotated[str, Field(max_length=128)]
    since: Moment
    until: Moment

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.until <= self.since:
            raise ValueError("until: a time after since is expected")
        return self


class Wish(BaseModel):
    """Who wants the site file to be taken as it stands."""

    model_config = ConfigDict(extra="forbid")

    who: Annotated[str, Field(pattern=f"^{WHO.pattern}$")] = "api"


class ChangeView(BaseModel):
    added: list[str]
    removed: list[str]
    replaced: list[str]


class ReloadView(BaseModel):
    outcome: Outcome
    sha256: str
    connections: ChangeView
    destinations: ChangeView
    settings: list[str]


def event_view(event: Event, *, with_fix: bool = False) -> EventView:
    """An event as readers see it. Where a vehicle was only `with_fix`; where an alarm came from, always."""
    withheld = event.kind is Kind.POSITION and not with_fix
    place, position = event.place, None if withheld else event.position
    return EventView(
        seq=event.seq,
        id=event.id,
        device=event.device,
        kind=event.kind,
        kind_zh=FACTS[event.kind].zh,
        kind_en=FACTS[event.kind].en,
        qualifier=event.qualifier,
        lane=event.lane.name.lower(),
        zone=event.zone,
        code=event.code,
        text=event.text,
        values=event.values,
        device_time=event.device_time,
        time_quality=event.time_quality,
        clock=event.clock,
        received_at=event.received_at,
        position=PositionView(
            latitude=position.latitude, longitude=position.longitude, speed_kmh=position.speed_kmh
        ) if position else None,
        test=event.test,
        claimed=place is not None,
        site=place.site if place else None,
        site_name=place.site_name if place else None,
        point=place.point if place else None,
        point_name=place.point_name if place else None,
        driver=event.driver,
        connection=event.connection,
        suppressed_by=event.suppressed_by,
        raw="" if withheld else event.raw.hex(),
        withheld=withheld,
    )  # fmt: skip


def delivery_view(delivery: Delivery) -> DeliveryView:
    """An outbox row as readers see it."""
    return DeliveryView(
        destination=delivery.destination,
        state=delivery.state,
        number=delivery.number,
        reason=delivery.reason,
        accepted_at=delivery.accepted_at,
        event=event_view(delivery.event),
    )


def destination_view(name: str, forwarder: str | None, backlog: Backlog, *, up: bool) -> DestinationView:
    """A destination with what it still has to get; without a forwarder it is not in the site file any more."""
    return DestinationView(
        name=name,
        configured=forwarder is not None,
        forwarder=forwarder,
        up=up,
        backlog={lane.name.lower(): count for lane, count in backlog.count.items()},
        oldest={lane.name.lower(): at for lane, at in backlog.oldest.items()},
        dead=backlog.dead,
    )


def reload_view(done: Reload) -> ReloadView:
    """What a change of the configuration did."""
    change = done.difference
    return ReloadView(
        outcome=done.outcome,
        sha256=done.sha256,
        connections=change_view(change.connections),
        destinations=change_view(change.destinations),
        settings=list(change.settings),
    )


def change_view(change: Change) -> ChangeView:
    """Which lines or destinations were touched."""
    return ChangeView(added=list(change.added), removed=list(change.removed), replaced=list(change.replaced))


def problem_view(problem: Problem) -> dict[str, str]:
    """A mistake, in the words `fangkong check` has for it."""
    where = {"line": str(problem.line)} if problem.line else {}
    return {
        "file": problem.file, **where, "key": problem.key, "found": problem.found, "expected": problem.expected,
        "hint": problem.hint,
    }  # fmt: skip


def command_view(record: CommandRecord) -> CommandView:
    command = record.command
    return CommandView(
        id=command.id,
        device=command.device,
        site=record.site,
        act=command.act,
        zone=command.zone,
        seconds=command.seconds,
        until=command.until,
        valid_s=command.valid_s,
        issuer=record.issuer,
        reason=record.reason,
        state=record.state,
        created_at=record.created_at,
        sent_at=record.sent_at,
        ended_at=record.ended_at,
        detail=record.detail,
    )


def rejected_view(rejected: Rejected) -> RejectedView:
    """A refused frame."""
    return RejectedView(at=rejected.at, connection=rejected.connection, reason=rejected.reason, raw=rejected.raw.hex())
