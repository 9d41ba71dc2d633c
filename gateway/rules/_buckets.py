"""Token buckets: how many events of one source and lane may be sent on. Pure: times are passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gateway.kinds import Lane

BUCKETS_MAX = 50_000
"""Sources and lanes remembered, some 10 MB; the one longest unused goes first and is full again when it comes back."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Buckets:
    """One bucket per source and lane, so that positions cannot use up what alarms need."""

    def __init__(self, *, burst: int, per_s: float, life_burst: int, life_per_s: float) -> None:
        self._size = {lane: float(life_burst if lane is Lane.LIFE else burst) for lane in Lane}
        self._per_s = {lane: life_per_s if lane is Lane.LIFE else per_s for lane in Lane}
        self._buckets: OrderedDict[tuple[str, Lane], _Bucket] = OrderedDict()

    def take(self, device: str, lane: Lane, now_s: float) -> bool:
        """Whether one more may pass."""
        size = self._size[lane]
        bucket = self._buckets.get((device, lane))
        if bucket is None:
            bucket = self._buckets[device, lane] = _Bucket(size, now_s)
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end((device, lane))
        bucket.tokens = min(size, bucket.tokens + (now_s - bucket.at_s) * self._per_s[lane])
        bucket.at_s = now_s
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True
