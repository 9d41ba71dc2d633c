"""A device is claimed by triggering it: whoever speaks while the installer listens is bound to the point he stands at.

What speaks may also be a zone of a panel that is in the ledger already, and that no point has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType

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
NOTHING_SAID: Mapping[str, str] = MappingProxyType({})
SPEAKS = EXPECTED | {Kind.TEST_MANUAL, Kind.UNKNOWN}
"""What a triggered device says. One that only checks in was not triggered."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unclaimed device, or an unbound zone of one in the ledger, that spoke, by its last trigger."""

    device: str
    zone: int | None
    is_known: bool
    """It is in the ledger: the zone alone is new."""
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

    async def candidates(self, since: datetime, point_id: str | None = None) -> Sequence[Candidate]:
        """Unclaimed devices that were triggered since then, by id; for a planned point also the unbound zones of the devices
        of its site. Raises Refused for too long a time, StoreError."""
        planned = None if point_id is None else self._planned(point_id)
        now = self._clock.now()
        if not now - LISTEN_MAX <= since <= now + timedelta(seconds=1):
            raise Refused(
                f"since {since.isoformat()}; expected a moment of the last {LISTEN_MAX.seconds // 60} minutes"
            )
        found: dict[tuple[str, int], Candidate] = {}
        for event in await self._store.events(EventFilter(claimed=False, since=since), limit=EVENTS_MAX):
            if _is_trigger(event) and self._registry.device(event.device) is None:
                found[event.device, -1] = _candidate(event, is_known=False)
        if planned is not None:
            wanted = EventFilter(site=planned.site, since=since)
            for event in await self._store.events(wanted, limit=EVENTS_MAX):
                if event.zone is not None and _is_trigger(event) and self._is_unbound(event.device, event.zone):
                    found[event.device, event.zone] = _candidate(event, is_known=True)
        return [found[key] for key in sorted(found)]

    def _is_unbound(self, device: str, zone: int) -> bool:
        place = self._registry.place(device, zone)
        return place is not None and place.point is None

    async def claim(
        self,
        actor: Actor,
        point_id: str,
        since: datetime,
        *,
        device: str | None = None,
        zone: int | None = None,
        whole: bool = False,
        said: Mapping[str, str] = NOTHING_SAID,
        point_kind: str = "",
    ) -> Candidate:
        """Bind the one that was triggered since then to a planned point; of several, the one that is named. `whole`: the
        point is watched by all of a new device, not by the zone that spoke. `said`: name, kind, vendor, model and parent of a
        new device. `point_kind`: of a point that has none. Raises Refused, naming the choice; ConfigError, what is wrong."""
        point = self._planned(point_id)
        offered = await self.candidates(since, point_id)
        chosen = [one for one in offered if device in (None, one.device) and zone in (None, one.zone)]
        if len(chosen) != 1:
            names = ", ".join(f"{one.device} zone {one.zone}" if one.is_known else one.device for one in offered)
            raise Refused(
                f"triggered and unclaimed: {names or 'none'}; expected one, or its id (and zone) among several"
            )
        [one] = chosen
        if one.is_known and said:
            raise Refused(f"{one.device} is in the ledger: {', '.join(sorted(said))} can be said of a new device alone")
        if point_kind and point.kind not in ("", point_kind):
            raise Refused(f"{point_id} is planned as {point.kind}; expected that kind, or none said")
        bound = replace(
            point, device=one.device, zone=None if whole and not one.is_known else one.zone, kind=point_kind or point.kind
        )  # fmt: skip
        new = () if one.is_known else (_device(one, point, said),)
        await self._registry.put([*new, bound], dry_run=True)  # a mistake is told before it is audited
        await self._audit.record(
            actor, Deed.REGISTRY, f"device {one.device}", {"point": point.id, "zone": one.zone, "event": one.event}
        )
        stage = Fact(Sort.STAGE, (one.device,), {"stage": "installed"}, self._clock.now(), actor=actor.id)
        await self._registry.put([*new, bound], actor=actor.id, facts=[stage] if new else ())
        return one

    def _planned(self, point_id: str) -> Point:
        point = self._registry.snapshot.points.get(point_id)
        if point is None:
            raise Refused(f"there is no point {point_id}; plan it first")
        if point.device is not None:
            raise Refused(f"{point_id} is watched by {point.device} already; expected a planned point without a device")
        return point


def _device(one: Candidate, point: Point, said: Mapping[str, str]) -> Device:
    return Device(
        one.device, point.site, said.get("name", point.name), kind=said.get("kind", ""), vendor=said.get("vendor", ""),
        model=said.get("model", ""), parent=said.get("parent"),
    )  # fmt: skip


def _candidate(event: Event, *, is_known: bool) -> Candidate:
    return Candidate(event.device, event.zone, is_known, event.kind, event.received_at, event.id, event.driver)


def _is_trigger(event: Event) -> bool:
    return event.kind in SPEAKS and (event.qualifier is not Qualifier.RESTORE or FACTS[event.kind].momentary)
