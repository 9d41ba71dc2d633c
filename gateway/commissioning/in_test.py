"""What is in test at this moment. Asked by the intake before each commit, so it never waits; in any doubt an alarm is real."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.clock import PROGRAM_DATE, Clock
from gateway.kinds import Kind
from gateway.model import Observation, Place, Qualifier

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


@dataclass(frozen=True, slots=True)
class _Running:
    test: WalkTest
    points: frozenset[str]
    end_s: float
    """By the monotonic clock: a wall clock that is put back makes no test longer."""
    standing: frozenset[Condition]
    """Real alarms from before, of which 110 waits for the end."""


class InTest:
    """The walk tests that run, in memory."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._running: dict[str, _Running] = {}

    def covers(self, observation: Observation) -> bool:
        """Whether this is what a running test expects, at one of its points."""
        if not self._running or observation.kind not in EXPECTED or self._ledger.error is not None:
            return False
        place = self._ledger.place(observation.device, observation.zone)
        running = self._running.get(place.site) if place else None
        if place is None or running is None or place.point not in running.points or not self._is_running(running):
            return False
        condition = observation.device, observation.kind, observation.zone
        return observation.qualifier is not Qualifier.RESTORE or condition not in running.standing

    def of_site(self, site: str) -> WalkTest | None:
        """The one that runs there."""
        running = self._running.get(site)
        return running.test if running is not None and self._is_running(running) else None

    def begin(self, test: WalkTest, standing: Collection[Condition] = ()) -> None:
        """From now on it counts, and at most until its end."""
        left_s = (test.ends - max(test.begins, self._clock.now())).total_seconds()
        end_s = self._clock.monotonic() + left_s
        self._running[test.site] = _Running(test, frozenset(test.points), end_s, frozenset(standing))

    def stop(self, site: str) -> None:
        """From now on every alarm there is real."""
        self._running.pop(site, None)

    def take_over(self) -> list[WalkTest]:
        """Those whose time is over, each once."""
        over = [running.test for running in self._running.values() if not self._is_running(running)]
        for test in over:
            self.stop(test.site)
        return over

    def _is_running(self, running: _Running) -> bool:
        test, now = running.test, self._clock.now()
        return PROGRAM_DATE <= test.begins <= now < test.ends and self._clock.monotonic() < running.end_s
