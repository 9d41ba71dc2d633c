"""How each device, and each zone of it, is: a pure fold of events into states. Times come with the events.

| condition | begins and ends with | state |
| --- | --- | --- |
| unreachable | what it is heard through alone is lost: its `parent`, its bridge, its line | unreachable, `via` the topmost lost one |
| silent | `silent`; or its deadline passed while the gateway was off, until it is heard | silent |
| bypass | `bypass`, where it can be believed | bypassed |
| tamper, device_fault, loop_fault, antenna_cut, rf_jamming, comm_fault as its driver says it | the same kinds | fault |
| mains and battery | `ac_loss` or `power_cut`, while `batt_low` stands | fault |
| one of these alone; rf_batt_low, clock_fault, flooding, security; own_line: comm_fault as the device says it | the same | degraded |
| weak_signal, clock_off | what it says beside its events | degraded |
| none of these, and it was heard | | working |

The first row that holds counts. A device is lost while it is silent or its driver says comm_fault; what is heard through it
alone is then unreachable, and is what it was once that one is back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.coverage.facts import ZONE_OF_ALL, Fact, Sort
from gateway.kinds import FACTS, Kind, Lane, Qualifier
from gateway.model import ClockQuality, Event, TimeQuality

FAULTS = (
    Kind.COMM_FAULT, Kind.TAMPER, Kind.DEVICE_FAULT, Kind.LOOP_FAULT, Kind.ANTENNA_CUT, Kind.RF_JAMMING,
)  # fmt: skip
MAINS = (Kind.AC_LOSS, Kind.POWER_CUT)
OWN_LINE = "own_line"
"""What a panel says of a second line of its own: who says so is not lost."""
LAPSED = "lapsed"
"""Its deadline passed while the gateway was off, and it was not heard since."""
WEAK_SIGNAL = "weak_signal"
CLOCK_OFF = "clock_off"
WARNINGS = (
    *MAINS, Kind.BATT_LOW, Kind.RF_BATT_LOW, Kind.SECURITY, Kind.FLOODING, Kind.CLOCK_FAULT, OWN_LINE, WEAK_SIGNAL, CLOCK_OFF,
)  # fmt: skip
STANDING = frozenset({Kind.SILENT, Kind.BYPASS, *FAULTS, *(each for each in WARNINGS if isinstance(each, Kind))})

SEVERITY = ("working", "degraded", "bypassed", "fault", "silent", "unreachable")

NO_TRIGGER = frozenset({Kind.TAMPER, Kind.CANCEL, Kind.UNKNOWN, Kind.SECURITY, Kind.RF_JAMMING})
"""Alarms that prove no detector."""
LIVE_TEST_EVERY = timedelta(hours=1)
"""A detector at a busy door proves itself all day; contracts are in days."""

WEAK_DBM, STRONG_DBM = -105.0, -100.0
"""Below the first most radio receivers lose frames; above the second it is over."""
CLOCK_OFF_MIN = timedelta(minutes=2)
"""Ahead of ours. A time behind is what a late message has."""

SUBJECTS_MAX = 200_000
"""Devices and zones: the ledger's bound with four zones each. Beyond it new zones are not followed."""
DEEPEST = 8
"""From a sensor to the gateway there are four; the ledger of people may name a circle."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is so of a device or zone, and since when."""

    state: str
    since: datetime
    cause: str = ""
    via: str = ""
    open: frozenset[str] = frozenset()
    """Every condition that stands."""
    is_written: bool = True
    """False: `open` is newer than the last fact."""


OWN, RULES = "gateway", "rules"
"""Drivers of what no device has said."""
LOSSES = (Kind.COMM_FAULT, Kind.SILENT)
NONE: frozenset[str] = frozenset()

Parents = Callable[[str], Sequence[str]]
"""What a device is heard through alone, the nearest first: devices, bridges, lines (connection/NAME)."""
Subject = tuple[str, str]


def judged(open_: frozenset[str]) -> tuple[str, str]:
    """State and cause that follow from conditions, without the tree."""
    if Kind.SILENT in open_ or LAPSED in open_:
        return "silent", Kind.SILENT.value
    if Kind.BYPASS in open_:
        return "bypassed", Kind.BYPASS.value
    for kind in FAULTS:
        if kind in open_:
            return "fault", kind.value
    if Kind.BATT_LOW in open_ and not open_.isdisjoint(MAINS):
        return "fault", next(kind.value for kind in MAINS if kind in open_)
    for warning in WARNINGS:
        if warning in open_:
            return "degraded", str(warning)
    return "working", ""


class Conditions:
    """The state of all devices. Every change is given as the fact that tells of it."""

    def __init__(self, parents: Parents = lambda _: ()) -> None:
        self._parents = parents
        self._standing: dict[Subject, Standing] = {}
        self._zones: defaultdict[str, set[str]] = defaultdict(set)
        self._tested: dict[Subject, datetime] = {}
        self._lost: dict[str, str] = {}
        """Devices, bridges and lines that are lost, with the cause."""

    def restore(self, facts: Iterable[Fact]) -> None:
        """Take up what was written: the newest fact of each subject."""
        for fact in facts:
            if fact.value is None:
                continue
            device, zone = fact.subject
            if fact.sort is Sort.LIVE_TEST:
                self._tested[device, zone] = fact.valid_from
            elif fact.sort is Sort.HEALTH:
                value = fact.value
                open_ = frozenset(value.get("open", ()))
                standing = Standing(value["state"], fact.valid_from, value["cause"], value["via"], open_)
                self._keep((device, zone), standing)

    def standing(self, device: str, zone: str = ZONE_OF_ALL) -> Standing | None:
        """How it is; None: nothing was ever heard of it."""
        return self._standing.get((device, zone))

    # -- what happens --------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> Iterator[Fact]:
        """What follows from an event. To be read to its end."""
        if (is_own_name(event.device) and event.driver != OWN) or (event.place is None and not _is_loss(event)):
            return  # nobody has claimed it; but what is claimed may be heard through it alone
        changes = _changes(event)
        own = self._standing.get((event.device, ZONE_OF_ALL))
        if own is not None and LAPSED in own.open and _proves_life(event) and event.received_at >= own.since:
            begins, ends = changes.get(ZONE_OF_ALL, (NONE, NONE))
            changes[ZONE_OF_ALL] = (begins, ends | {LAPSED})
        if _proves_life(event) and own is None:
            changes.setdefault(ZONE_OF_ALL, (NONE, NONE))
        for zone, (begins, ends) in changes.items():
            before = self._standing.get((event.device, zone))
            if before is not None or begins or _proves_life(event):
                open_ = ((before.open if before else NONE) - ends) | begins
                yield from self._settle((event.device, zone), open_, event.received_at, event.id)
        if _is_trigger(event):
            yield from self._triggered(event)

    def heard(self, device: str, at: datetime, key: str) -> Iterator[Fact]:
        """It was last heard at `at`, perhaps by a sign of life that is no event."""
        before = self._standing.get((device, ZONE_OF_ALL))
        if before is None:
            yield from self._settle((device, ZONE_OF_ALL), NONE, at, key)
        elif at > before.since and (contradicted := before.open & {Kind.COMM_FAULT, LAPSED}):
            # A last will that came late is contradicted by nobody.
            yield from self._settle((device, ZONE_OF_ALL), before.open - contradicted, at, key)

    def lapsed(self, device: str, due_at: datetime) -> Iterator[Fact]:
        """Its deadline passed while the gateway was off. What is known of it since then stands after that."""
        subject, key = (device, ZONE_OF_ALL), f"lapse|{device}|{due_at.timestamp():.3f}"
        before = self._standing.get(subject)
        if before is None:
            return  # silent from the first
        if before.since <= due_at:
            yield from self._settle(subject, before.open | {LAPSED}, due_at, key)
            return
        yield _health(subject, replace(before, state="silent", cause=Kind.SILENT.value, via="", since=due_at), key)
        yield _health(subject, before, f"{key}|since")  # the newest is what a start takes up

    def was_off(self, since: datetime, until: datetime) -> Iterator[Fact]:
        """The gateway itself was away, and is what it was before."""
        subject, key = (OWN, ZONE_OF_ALL), f"off|{until.timestamp():.3f}"
        before = self._standing.get(subject, Standing("working", until))
        self._keep(subject, replace(before, since=until))
        silent = Kind.SILENT.value
        yield _health(subject, Standing("silent", since, silent, open=frozenset({silent})), key)
        yield _health(subject, self._standing[subject], f"{key}|since")

    def moved(self, device: str, now: datetime, key: str) -> Iterator[Fact]:
        """What it is heard through may be another one by now."""
        before = self._standing.get((device, ZONE_OF_ALL))
        if before is not None and before.via != self._lost_above(device):
            yield from self._settle((device, ZONE_OF_ALL), before.open, now, key)

    def corrected(self, device: str, latest: Mapping[tuple[Kind, int | None], Qualifier]) -> None:
        """The last word on each condition of a device that flooded, of which only what made it worse was written."""
        for zone in {ZONE_OF_ALL, *self._zones[device]}:
            before = self._standing[device, zone]
            words = {kind: q for (kind, n), q in latest.items() if kind in STANDING and _zone(n) == zone}
            stands = frozenset(kind.value for kind, qualifier in words.items() if qualifier is not Qualifier.RESTORE)
            open_ = (before.open - {kind.value for kind in words}) | stands
            self._standing[device, zone] = replace(before, open=open_, is_written=False)

    @property
    def flooding(self) -> Sequence[str]:
        """Devices of which not every change is written."""
        return [device for device, zone in self._standing if zone == ZONE_OF_ALL and self._floods(device)]

    def _triggered(self, event: Event) -> Iterator[Fact]:
        subject = (event.device, _zone(event.zone))
        last = self._tested.get(subject)
        if last is not None and timedelta() <= event.received_at - last < LIVE_TEST_EVERY:
            return
        if last is None and len(self._tested) >= SUBJECTS_MAX:
            return
        self._tested[subject] = event.received_at
        yield Fact(Sort.LIVE_TEST, subject, {"event": event.id}, event.received_at, key=f"live|{event.id}")

    # -- what follows --------------------------------------------------------------------------------------------------

    def _settle(self, subject: Subject, open_: frozenset[str], at: datetime, key: str) -> Iterator[Fact]:
        device, zone = subject
        before = self._standing.get(subject)
        if before is None:
            if len(self._standing) >= SUBJECTS_MAX:
                return
        else:
            at = max(at, before.since)  # a clock that went back must not hide what is new behind what is old
        now = self._judged(subject, open_, at)
        if before is not None and self._is_held(subject, before, now):
            self._keep(subject, replace(before, open=open_, is_written=False))
            return
        if before is not None and before.is_written and replace(before, since=now.since) == now:
            return
        was_lost = self._lost.get(device)
        self._keep(subject, now)
        if zone == ZONE_OF_ALL:
            # Before its own fact: a crash between them must find this change still to be made.
            if was_lost != self._lost.get(device):
                yield from self._pass_on(device, at, key)
            if before is not None and Kind.FLOODING in before.open - open_:
                for each in sorted(self._zones[device]):
                    yield from self._settle((device, each), self._standing[device, each].open, at, key)
        yield _health(subject, now, f"health|{key}|{device}|{zone}")

    def _judged(self, subject: Subject, open_: frozenset[str], at: datetime) -> Standing:
        device, zone = subject
        via = self._lost_above(device) if zone == ZONE_OF_ALL else ""
        state, cause = ("unreachable", self._lost[via]) if via else judged(open_)
        return Standing(state, at, cause, via, open_)

    def _pass_on(self, device: str, at: datetime, key: str) -> Iterator[Fact]:
        """What is heard through it alone shares its loss and its return."""
        for other, zone in list(self._standing):
            if zone == ZONE_OF_ALL and other != device:
                standing = self._standing[other, zone]
                via = self._lost_above(other)
                if via != standing.via or via == device:
                    yield from self._settle((other, zone), standing.open, at, key)

    def _lost_above(self, device: str, below: tuple[str, ...] = ()) -> str:
        """The topmost lost one that it is heard through; "" when it can be heard."""
        path = (*below, device)
        if self._lost and len(path) <= DEEPEST:
            for parent in self._parents(device):
                if parent in path:
                    continue
                if top := self._lost_above(parent, path) or (parent if parent in self._lost else ""):
                    return top
        return ""

    def _floods(self, device: str) -> bool:
        standing = self._standing.get((device, ZONE_OF_ALL))
        return standing is not None and Kind.FLOODING in standing.open

    def _is_held(self, subject: Subject, before: Standing, now: Standing) -> bool:
        """Of what chatters, only what makes it worse is written until it is quiet."""
        device, zone = subject
        goes_on = zone != ZONE_OF_ALL or Kind.FLOODING in now.open
        return goes_on and self._floods(device) and SEVERITY.index(now.state) <= SEVERITY.index(before.state)

    def _keep(self, subject: Subject, standing: Standing) -> None:
        self._standing[subject] = standing
        device, zone = subject
        if zone != ZONE_OF_ALL:
            self._zones[device].add(zone)
        elif cause := next((kind for kind in LOSSES if kind in standing.open), None):
            self._lost[device] = cause.value
        else:
            self._lost.pop(device, None)


# -- what an event says ------------------------------------------------------------------------------------------------


def is_own_name(device: str) -> bool:
    """Whether only the gateway itself may speak of it."""
    return device == OWN or device.startswith(("connection/", "destination/", "site/"))


def _health(subject: Subject, standing: Standing, key: str) -> Fact:
    value = {
        "state": standing.state, "cause": standing.cause, "via": standing.via, "open": sorted(standing.open),
    }  # fmt: skip
    return Fact(Sort.HEALTH, subject, value, standing.since, key=key)


def _zone(zone: int | None) -> str:
    return ZONE_OF_ALL if zone is None else str(zone)


def _is_loss(event: Event) -> bool:
    return event.kind in LOSSES and event.zone is None


def _proves_life(event: Event) -> bool:
    is_denial = event.kind in (*LOSSES, Kind.SECURITY) and event.qualifier is not Qualifier.RESTORE
    return event.place is not None and event.driver not in (OWN, RULES) and not is_denial


def _changes(event: Event) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """By zone: conditions that begin, and that end."""
    if event.values.get("assurance") == "low" or event.values.get("late") is True:
        return {}  # anybody can have said it; or it is history
    changes = {}
    if event.kind in STANDING:
        names = _names(event)
        is_over = event.qualifier is Qualifier.RESTORE
        changes[_zone(event.zone)] = (NONE, names) if is_over else (names, NONE)
    begins, ends = _beside(event)
    if begins or ends:
        own_begins, own_ends = changes.get(ZONE_OF_ALL, (NONE, NONE))
        changes[ZONE_OF_ALL] = (own_begins | begins, own_ends | ends)
    return changes


def _names(event: Event) -> frozenset[str]:
    if event.kind is Kind.SILENT and event.qualifier is Qualifier.RESTORE:
        return frozenset({Kind.SILENT.value, LAPSED})
    if event.kind is not Kind.COMM_FAULT or event.zone is not None:
        return frozenset({event.kind.value})
    if event.qualifier is Qualifier.RESTORE:
        return frozenset({Kind.COMM_FAULT.value, OWN_LINE})
    return frozenset({OWN_LINE if event.code is not None else Kind.COMM_FAULT.value})


def _beside(event: Event) -> tuple[frozenset[str], frozenset[str]]:
    """What the event says beside its kind, of its radio and its clock."""
    begins, ends = set(), set()
    signal_dbm = event.values.get("rssi_dbm")
    if isinstance(signal_dbm, int | float) and not isinstance(signal_dbm, bool):
        if signal_dbm < WEAK_DBM:
            begins.add(WEAK_SIGNAL)
        elif signal_dbm >= STRONG_DBM:
            ends.add(WEAK_SIGNAL)
    if event.device_time is not None and event.clock is ClockQuality.SET:
        is_off = event.device_time - event.received_at > CLOCK_OFF_MIN or event.time_quality is TimeQuality.UNKNOWN
        (begins if is_off else ends).add(CLOCK_OFF)
    return frozenset(begins), frozenset(ends)


def _is_trigger(event: Event) -> bool:
    """Somebody or something was detected, and it was heard: a test or in earnest."""
    return (
        event.place is not None
        and event.driver not in (OWN, RULES)
        and event.qualifier is Qualifier.NEW
        and FACTS[event.kind].lane <= Lane.ALARM
        and event.kind not in NO_TRIGGER
        and event.values.get("late") is not True
    )
