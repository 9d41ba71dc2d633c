"""What is in test at this moment. Asked by the intake before each commit, so it never waits; in any doubt an alarm is real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.clock import PROGRAM_DATE, Clock
from gateway.kinds import FACTS, Kind
from gateway.model import Event, Observation, Place, Qualifier

PROVES = frozenset(
    {
        Kind.PANIC, Kind.PANIC_SILENT, Kind.MEDICAL, Kind.FIRE, Kind.SMOKE, Kind.HEAT, Kind.GAS, Kind.CARBON_MONOXIDE,
        Kind.BURGLARY, Kind.PERIMETER, Kind.INTERIOR, Kind.ZONE_24H, Kind.ENTRY_EXIT, Kind.WATER, Kind.DOOR_FORCED, Kind.DOOR_OPEN,
    }
)  # fmt: skip
"""What shows that a point does its work."""
EXPECTED = PROVES | {Kind.TAMPER, Kind.DOOR_HELD}
"""What a walk test brings about. Duress is not in it: nobody tries out being forced, and who is forced says so by it alone.
Faults are not either: one found in a test has to be mended all the same."""

TRIED_MAX = 20_000
"""Alarms raised in a test of which the end is still to come: far more than the zones people walk through in a day. What comes
beyond is not remembered, and its end goes to 110, which can make nothing of it and loses nothing by it."""

Condition = tuple[str, Kind, int | None]
"""Device, kind and zone."""


class Ledger(Protocol):
    """What is asked of the registry."""

    @property
    def error(self) -> str | None: ...
    def place(self, device_id: str, zone: int | None) -> Place | None: ...


@dataclass(frozen=True, slots=True)
class WalkTest:
    """Points of one site, tried out by a person for a time."""

    site: str
    points: tuple[str, ...]
    begins: datetime
    ends: datetime
    """At the latest; it counts no longer at this moment."""
    by: str
    """The role of whoever began it."""
    actor: str
    reason: str
    standing: tuple[Condition, ...] = ()
    """Real alarms from before it, of which 110 waits for the end."""


@dataclass(frozen=True, slots=True)
class _Running:
    test: WalkTest
    points: frozenset[str]
    end_s: float
    """By the monotonic clock: a wall clock that is put back makes no test longer."""
    standing: set[Condition]
    """Real alarms that have not ended."""


class InTest:
    """The walk tests that run, in memory. An alarm is a test while its point is in one; its end is what the alarm was."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._tried: set[Condition] = set()
        """Alarms that were tests and have not ended: their end is one as well, also after the walk."""

    @property
    def count(self) -> int:
        """How many run."""
        return sum(map(self._is_running, self._running.values()))

    def covers(self, observation: Observation) -> bool:
        """Whether this is what a running test expects, at one of its points, or the end of what was one."""
        if observation.kind not in EXPECTED or not (self._running or self._tried):
            return False
        condition = observation.device, observation.kind, observation.zone
        is_end = observation.qualifier is Qualifier.RESTORE
        if is_end and condition in self._tried:
            return True
        running = self._around(observation.device, observation.zone)
        return running is not None and not (is_end and condition in running.standing)

    def stored(self, event: Event) -> None:
        """This is on disk: an alarm was raised, or has ended."""
        if (
            event.kind not in EXPECTED
            or FACTS[event.kind].momentary
            or not (event.test or self._running or self._tried)
        ):
            return
        condition = event.device, event.kind, event.zone
        running = self._running.get(event.place.site) if event.place else None
        is_standing = running is not None and condition in running.standing
        if event.qualifier is Qualifier.NEW and event.test:
            if not is_standing and len(self._tried) < TRIED_MAX:
                self._tried.add(condition)
        elif event.qualifier is Qualifier.NEW:
            self._tried.discard(condition)
            if running is not None:
                running.standing.add(condition)
        elif event.qualifier is Qualifier.RESTORE:
            self._tried.discard(condition)
            if is_standing and running is not None and not event.test:
                running.standing.discard(condition)

    def recall(self, events: Iterable[Event]) -> None:
        """Take up what was stored since the tests began, the oldest first."""
        for event in events:
            self.stored(event)

    def of_site(self, site: str) -> WalkTest | None:
        """The one that runs there."""
        running = self._running.get(site)
        return running.test if running is not None and self._is_running(running) else None

    def begin(self, test: WalkTest) -> None:
        """From now on it counts, and at most until its end."""
        left_s = (test.ends - max(test.begins, self._clock.now())).total_seconds()
        end_s = self._clock.monotonic() + left_s
        self._running[test.site] = _Running(test, frozenset(test.points), end_s, set(test.standing))

    def stop(self, site: str) -> None:
        """From now on every alarm there is real."""
        self._running.pop(site, None)

    def take_over(self) -> list[WalkTest]:
        """Those whose time is over, each once."""
        over = [running.test for running in self._running.values() if not self._is_running(running)]
        for test in over:
            self.stop(test.site)
        return over

    def _around(self, device: str, zone: int | None) -> _Running | None:
        """The test that this watcher's point is in; None in any doubt."""
        if not self._running or self._ledger.error is not None:
            return None
        place = self._ledger.place(device, zone)
        running = self._running.get(place.site) if place else None
        is_in = place is not None and running is not None and place.point in running.points
        return running if is_in and running is not None and self._is_running(running) else None

    def _is_running(self, running: _Running) -> bool:
        test, now = running.test, self._clock.now()
        return PROGRAM_DATE <= test.begins <= now < test.ends and self._clock.monotonic() < running.end_s
