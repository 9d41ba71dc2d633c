"""The bus scheduler: every unit at its pace, and a dead one must not cost its neighbours their pace."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from drivers.modbus_points.capture import exception_text
from drivers.modbus_points.outputs import Outputs
from drivers.modbus_points.profile import Profile, Request, Settings, Unit, mistakes, plan
from drivers.modbus_points.readings import Image, PointState, image_of, interpret
from gateway.driver import (
    Bus,
    BusRefused,
    Clock,
    Kind,
    Logger,
    NoAnswer,
    Observation,
    Qualifier,
    Refused,
    Scalar,
    Session,
    Table,
)

MISSES_MAX = 3
"""Polls in a row without (the expected) answer before it is a fault; one or two are noise on an RS-485 line."""
PAUSE_S = 1.0
"""After a miss, before the unit is asked again: on RTU its late answer could be taken for the next one, and what comes
after a second of silence is hardly late."""
DEAD_SHARE = 0.05
"""Of the bus time, for all lost units together: what their timeouts may take from the living."""
MUTE_AFTER = 6
"""Requests in a row that nobody answered, to all units or to MUTE_UNITS of them, before it is the line and no unit."""
MUTE_UNITS = 3
GAP_S_MAX = 30.0
"""A unit that is back is found again within this time, whatever the share says."""


@dataclass(slots=True)
class Memory:
    """Whether anybody on the line answers. Kept when it is opened anew: a bridge may take the call and reach nobody."""

    misses: Counter[str] = field(default_factory=Counter)
    """By device, since anybody was heard."""
    heard_at: float = -math.inf

    def is_mute(self, units: int) -> bool:
        """Who is alone on a line is told by his own name."""
        return units > 1 and self.misses.total() >= MUTE_AFTER and len(self.misses) >= min(units, MUTE_UNITS)


@dataclass(slots=True)
class Polled:
    """One unit and what is known of it."""

    number: int
    device: str
    profile: Profile
    every_s: float
    requests: Sequence[Request]
    states: list[PointState]
    heard_at: float
    missing_since: float = math.inf
    """Its first miss in a row."""
    at_rest: Image | None = None
    """The last image, once it no longer changes the states: read again, it says nothing."""
    faults: dict[Kind, int] = field(default_factory=lambda: {Kind.COMM_FAULT: 0, Kind.DEVICE_FAULT: 0})
    """Polls in a row that ended that way: unanswered, refused."""
    reported: set[Kind] = field(default_factory=set)
    """Of these, what is stored as active."""

    @property
    def is_lost(self) -> bool:
        return self.faults[Kind.COMM_FAULT] >= MISSES_MAX

    @property
    def is_held(self) -> bool:
        """Lost and not told: nobody else was heard either since it fell silent, it may be the line."""
        return self.is_lost and Kind.COMM_FAULT not in self.reported


@dataclass(frozen=True, slots=True)
class Poll:
    """What one round of requests to a unit gave."""

    image: dict[tuple[Table, int], int]
    was_heard: bool
    missed: bool
    refusal: int | None
    cost_s: float


async def run(session: Session[Bus]) -> None:
    """Poll and obey for ever. Ends by LinkClosed, or by StoreError when an edge could not be stored."""
    units = await _units(session)
    outputs = Outputs(session)
    if not outputs.are_there:
        await _poll_units(session, units)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_poll_units(session, units), name="polls")
        tasks.create_task(outputs.run(), name="outputs")


async def _poll_units(session: Session[Bus], units: Sequence[Polled]) -> None:
    memory: Memory = session.memory or Memory()
    start = session.clock.monotonic()
    # Staggered: units of one pace do not queue up behind each other at the same moment.
    due = [(start + unit.every_s * index / len(units), index) for index, unit in enumerate(units)]
    heapq.heapify(due)
    while True:
        moment, index = due[0]
        if (wait_s := moment - session.clock.monotonic()) > 0:
            await session.clock.sleep(wait_s)
        unit = units[index]
        poll = await _poll(session.link, session.clock, unit)
        was_mute = memory.is_mute(len(units))
        _note(memory, unit, poll, session.clock.monotonic())
        await _tell(session, unit, poll, may_be_line=len(units) > 1 and memory.heard_at < unit.missing_since)
        now_s = session.clock.monotonic()
        lost = sum(other.is_lost for other in units)
        if memory.is_mute(len(units)):
            session.mute(f"none of {len(units)} units answers")
            following = now_s + max(unit.every_s, PAUSE_S)  # there is nobody alive who would pay for it
        else:
            following = _next(unit, poll, moment, now_s, lost)
        heapq.heapreplace(due, (following, index))
        if was_mute and poll.was_heard:
            _begin_anew(units)
        if (was_mute and poll.was_heard) or unit.is_held:
            # Who has not been asked meanwhile is asked now: that shows whether it is the unit or the line.
            due = [(at if i == index or units[i].device in memory.misses else now_s, i) for at, i in due]
            heapq.heapify(due)


def _note(memory: Memory, unit: Polled, poll: Poll, now_s: float) -> None:
    if poll.was_heard:
        memory.misses.clear()
        memory.heard_at = now_s
        unit.missing_since = math.inf
    elif poll.missed:
        memory.misses[unit.device] += 1
        unit.missing_since = min(unit.missing_since, now_s)


def _begin_anew(units: Sequence[Polled]) -> None:
    """The line is back. What was missed while it was away says nothing about a unit."""
    for unit in units:
        if Kind.COMM_FAULT not in unit.reported:
            unit.faults[Kind.COMM_FAULT] = 0


async def _units(session: Session[Bus]) -> list[Polled]:
    """The units with the state the store knows. Raises Refused for settings that cannot be polled."""
    if found := mistakes(session.context):
        raise Refused("; ".join(f"{wrong}; expected {expected}" for wrong, expected in found))
    return [await _unit(session, unit) for unit in session.context.settings.units]


async def _unit(session: Session[Bus], unit: Unit) -> Polled:
    settings: Settings = session.context.settings
    profile = settings.profile_of(unit, session.context)
    latest = await session.latest(unit.device)
    stored = {key for key, qualifier in latest.items() if qualifier is not Qualifier.RESTORE}
    states = [
        PointState(active=frozenset(kind for kind in point.kinds if (kind, point.zone) in stored))
        for point in profile.point
    ]
    now_s = session.clock.monotonic()
    polled = Polled(
        unit.unit, unit.device, profile, unit.every_s or profile.every_s, plan(profile), states, heard_at=now_s
    )
    for kind in polled.faults:
        if (kind, None) in stored:
            polled.reported.add(kind)
            polled.faults[kind] = MISSES_MAX  # known before the restart: one probe, not three, tells that it still is
    return polled


async def _poll(bus: Bus, clock: Clock, unit: Polled) -> Poll:
    """All requests of a unit, up to the first that is not answered: a dead unit costs one timeout, not one per range."""
    started = clock.monotonic()
    image: dict[tuple[Table, int], int] = {}
    refusal: int | None = None
    missed = False
    for request in unit.requests:
        try:
            image.update(image_of(request, await bus.read(unit.number, request.table, request.address, request.count)))
        except BusRefused as error:
            refusal = error.code  # it lives; what it does give is still worth having
        except NoAnswer:
            missed = True
            break
    was_heard = bool(image) or refusal is not None
    return Poll(image, was_heard, missed, refusal, clock.monotonic() - started)


async def _tell(session: Session[Bus], unit: Polled, poll: Poll, *, may_be_line: bool) -> None:
    """Report the edges of a poll. What is believed changes only once they are on disk: else a restart reports them again."""
    now_s = session.clock.monotonic()
    if poll.was_heard:
        unit.heard_at = now_s
        session.heard(unit.device)
    faults = _faults(unit, poll, now_s, may_be_line=may_be_line)
    states, edges = unit.states, list[Observation]()
    if poll.image != unit.at_rest:
        states, edges = interpret(unit.device, unit.profile, poll.image, unit.states, now_s)
    if faults or edges:
        await (await session.report([*faults, *edges]))
    unit.at_rest = poll.image if states == unit.states and not unit.profile.depends_on_time else None
    unit.states = states
    for edge in faults:
        is_new = edge.qualifier is Qualifier.NEW
        (unit.reported.add if is_new else unit.reported.discard)(edge.kind)
        _log(session.log, unit, edge, is_new=is_new)


def _faults(unit: Polled, poll: Poll, now_s: float, *, may_be_line: bool) -> list[Observation]:
    """A lost unit, or one that refuses its own map, is one fault; and its end is one restore."""
    counts = unit.faults
    counts[Kind.COMM_FAULT] = counts[Kind.COMM_FAULT] + 1 if poll.missed else 0
    if not poll.missed:  # a poll that was cut short says nothing about the ranges it did not reach
        counts[Kind.DEVICE_FAULT] = counts[Kind.DEVICE_FAULT] + 1 if poll.refusal is not None else 0
    limit_s = unit.profile.heard_within_s
    if poll.missed and limit_s is not None and now_s - unit.heard_at > limit_s:
        counts[Kind.COMM_FAULT] = max(counts[Kind.COMM_FAULT], MISSES_MAX)
    edges = []
    for kind, count in counts.items():
        if count >= MISSES_MAX and kind not in unit.reported:
            if kind is Kind.COMM_FAULT and may_be_line:
                continue
            edges.append(_fault(unit, kind, Qualifier.NEW, poll.refusal))
        elif count == 0 and kind in unit.reported:
            edges.append(_fault(unit, kind, Qualifier.RESTORE, None))
    return edges


def _fault(unit: Polled, kind: Kind, qualifier: Qualifier, refusal: int | None) -> Observation:
    values: dict[str, Scalar] = {"unit": unit.number}
    if kind is Kind.COMM_FAULT:
        return Observation(unit.device, kind, qualifier, text=f"unit {unit.number} on the bus", values=values)
    text = f"unit {unit.number} refuses its register map"
    if refusal is not None:
        values["exception"] = refusal
        text += f", {exception_text(refusal)}"
    return Observation(unit.device, kind, qualifier, text=text, values=values)


def _log(log: Logger, unit: Polled, edge: Observation, *, is_new: bool) -> None:
    if is_new:
        log.warning("unit lost" if edge.kind is Kind.COMM_FAULT else "unit refuses its map", device=unit.device)
    else:
        log.info("unit back" if edge.kind is Kind.COMM_FAULT else "unit accepts its map", device=unit.device)


def _next(unit: Polled, poll: Poll, due_s: float, now_s: float, lost: int) -> float:
    """When to poll this unit again. Its pace, from the moment it was due; what was missed is not caught up."""
    if not unit.is_lost:
        return max(due_s + unit.every_s, now_s + PAUSE_S if poll.missed else now_s)
    doublings = min(unit.faults[Kind.COMM_FAULT] - MISSES_MAX + 1, 10)
    gap_s = max(unit.every_s * (1 << doublings), PAUSE_S, poll.cost_s * lost / DEAD_SHARE)
    return now_s + max(unit.every_s, min(gap_s, GAP_S_MAX))
