"""The ledger in memory: what the hot path looks things up in. Never changed, only replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gateway.model import Area, Device, Geofence, Place, Point, Site, Vehicle

NUMBER_MAX = 999
"""Contact ID's CCC field has three digits (SIA DC-05)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything in the ledger at one revision."""

    revision: int
    sites: Mapping[str, Site]
    points: Mapping[str, Point]
    devices: Mapping[str, Device]
    vehicles: Mapping[str, Vehicle]
    geofences: Mapping[str, Geofence]
    areas: Mapping[str, Area]
    watched: Mapping[tuple[str, int | None], Point]
    """The point that a device's zone watches; zone None: the whole device."""

    @classmethod
    def of(
        cls,
        revision: int,
        sites: Iterable[Site] = (),
        points: Iterable[Point] = (),
        devices: Iterable[Device] = (),
        *,
        vehicles: Iterable[Vehicle] = (),
        geofences: Iterable[Geofence] = (),
        areas: Iterable[Area] = (),
    ) -> Snapshot:
        by_id = {point.id: point for point in points}
        return cls(
            revision=revision,
            sites=MappingProxyType({site.id: site for site in sites}),
            points=MappingProxyType(by_id),
            devices=MappingProxyType({device.id: device for device in devices}),
            vehicles=MappingProxyType({vehicle.id: vehicle for vehicle in vehicles}),
            geofences=MappingProxyType({fence.id: fence for fence in geofences}),
            areas=MappingProxyType({area.id: area for area in areas}),
            watched=MappingProxyType({watcher: point for point in by_id.values() for watcher in point.watchers}),
        )

    def geofences_of(self, vehicle: Vehicle) -> Sequence[Geofence]:
        """Where it belongs, and where not."""
        return [self.geofences[fence] for fence in vehicle.geofences if fence in self.geofences]

    def place(self, device_id: str, zone: int | None) -> Place | None:
        """Where an event of this device and zone belongs; None for a device nobody has claimed."""
        device = self.devices.get(device_id)
        if device is None:
            return None
        point = self.watched.get((device_id, zone)) or self.watched.get((device_id, None))
        site = self.sites[point.site if point else device.site]
        number = point.number if point else zone if zone is not None and 0 <= zone <= NUMBER_MAX else 0
        return Place(
            site=site.id,
            account=site.account,
            site_name=site.name,
            point=point.id if point else None,
            number=number,
            point_name=point.name if point else device.name,
            address=site.address,
        )


EMPTY = Snapshot.of(0)
