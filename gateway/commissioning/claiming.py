"""A device is claimed by triggering it: whoever speaks while the installer listens is bound to the point he stands at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.access import Actor
from gateway.audit import Audit, Deed
from gateway.clock import Clock
from gateway.commissioning.in_test import EXPECTED
from gateway.coverage.facts import Fact, Sort
from gateway.errors import Refused
from gateway.kinds import FACTS, Kind, Qualifier
from gateway.model import Device, Event, Point
from gateway.registry import Registry
from gateway.store import EventFilter, Store

LISTEN_MAX = timedelta(minutes=10)
"""Longer than this nobody stands before a device; what spoke earlier may be anything."""
EVENTS_MAX = 1000
"""Of unclaimed devices looked at; where more speak in ten minutes nobody can say which is meant."""
SPEAKS = EXPECTED | {Kind.TEST_MANUAL, Kind.UNKNOWN}
"""What a triggered device says. One that only checks in was not triggered."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unclaimed device that spoke, by its last trigger."""

    device: str
    zone: int | None
    kind: Kind
    at: datetime
    event: str
    driver: str


class Claiming:
    """Offers what was triggered, and binds it."""

    def __init__(self, *, registry: Registry, store: Store, audit: Audit, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._audit = audit
        self._clock = clock

    async def candidates(self, since: datetime) -> Sequence[Candidate]:
        """Unclaimed devices that were triggered since then, by id. Raises Refused for too long a time, StoreError."""
        now = self._clock.now()
        if not now - LISTEN_MAX <= since <= now + timedelta(seconds=1):
            raise Refused(
                f"since {since.isoformat()}; expected a moment of the last {LISTEN_MAX.seconds // 60} minutes"
            )
        wanted = EventFilter(claimed=False, since=since)
        found: dict[str, Candidate] = {}
        for event in await self._store.events(wanted, limit=EVENTS_MAX):
            if _is_trigger(event) and self._registry.device(event.device) is None:
                found[event.device] = Candidate(
                    event.device, event.zone, event.kind, event.received_at, event.id, event.driver
                )
        return [found[device] for device in sorted(found)]

    async def claim(
        self,
        actor: Actor,
        point_id: str,
        since: datetime,
        *,
        device: str | None = None,
        whole: bool = False,
        kind: str = "",
    ) -> Candidate:
        """Bind the one device that was triggered since then to a planned point; of several, the one that is named. `whole`:
        the point is watched by all of the device, not by the zone that spoke. Raises Refused, naming the choice."""
        point = self._planned(point_id)
        offered = await self.candidates(since)
        chosen = [one for one in offered if device in (None, one.device)]
        if len(chosen) != 1:
            names = ", ".join(one.device for one in offered) or "none"
            raise Refused(f"triggered and unclaimed: {names}; expected one, or its id among several")
        [one] = chosen
        await self._audit.record(
            actor, Deed.REGISTRY, f"device {one.device}", {"point": point.id, "zone": one.zone, "event": one.event}
        )
        bound = replace(point, device=one.device, zone=None if whole else one.zone)
        await self._registry.put([Device(one.device, point.site, point.name, kind=kind), bound], actor=actor.id)
        now = self._clock.now()
        key = f"installed/{one.device}/{one.event}"
        stage = Fact(Sort.STAGE, (one.device,), {"stage": "installed"}, now, actor=actor.id, key=key)
        await self._registry.record([stage])
        return one

    def _planned(self, point_id: str) -> Point:
        point = self._registry.snapshot.points.get(point_id)
        if point is None:
            raise Refused(f"there is no point {point_id}; plan it first")
        if point.device is not None:
            raise Refused(f"{point_id} is watched by {point.device} already; expected a planned point without a device")
        return point


def _is_trigger(event: Event) -> bool:
    return event.kind in SPEAKS and (event.qualifier is not Qualifier.RESTORE or FACTS[event.kind].momentary)
