"""Distances on the ground, in metres, good to a part in a thousand within some hundred kilometres. Pure."""

from __future__ import annotations

import math

from gateway.model import FenceRule, Geofence

METRES_PER_DEGREE = 111_195.0
"""Of a great circle; the earth is 0.3 % flatter at the poles, less than a fix is off."""

Spot = tuple[float, float]
"""Latitude and longitude, degrees."""


def distance_m(one: Spot, other: Spot) -> float:
    """Between two spots."""
    return math.hypot(*_metres(other, one))


def beyond_m(fence: Geofence, spot: Spot) -> float:
    """How far on the wrong side of its border; negative on the right one."""
    outside = _outside_m(fence, spot)
    return outside if fence.rule is FenceRule.STAY_IN else -outside


def _outside_m(fence: Geofence, spot: Spot) -> float:
    if fence.radius_m is not None:
        return distance_m(fence.corners[0], spot) - fence.radius_m
    corners = [_metres(corner, spot) for corner in fence.corners]
    edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    nearest = min(_to_edge_m(start, end) for start, end in edges)
    is_inside = sum(_crosses(start, end) for start, end in edges) % 2 == 1
    return -nearest if is_inside else nearest


def _metres(spot: Spot, origin: Spot) -> tuple[float, float]:
    """East and north of `origin`, the short way round the earth."""
    east = (spot[1] - origin[1] + 180) % 360 - 180
    return east * METRES_PER_DEGREE * math.cos(math.radians(origin[0])), (spot[0] - origin[0]) * METRES_PER_DEGREE


def _to_edge_m(start: Spot, end: Spot) -> float:
    """From the origin to a stretch."""
    (x, y), (dx, dy) = start, (end[0] - start[0], end[1] - start[1])
    length = dx * dx + dy * dy
    along = 0.0 if length == 0 else max(0.0, min(1.0, -(x * dx + y * dy) / length))
    return math.hypot(x + along * dx, y + along * dy)


def _crosses(start: Spot, end: Spot) -> bool:
    """Whether a stretch crosses the ray from the origin to the east."""
    (x, y), (x2, y2) = start, end
    return (y > 0) != (y2 > 0) and x - y * (x2 - x) / (y2 - y) > 0
