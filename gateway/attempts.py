"""How often somebody may try: a few times at once, then slowly. Pure: times are passed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

KEYS_MAX = 1000
"""Names and addresses remembered, some 100 KB; the one longest unused goes first."""


class Attempts:
    """A bucket of tries per key. A try is taken before it is made, so that many at one moment count too, and given back when
    it was a good one."""

    def __init__(self, *, burst: int, every_s: float) -> None:
        self._burst = burst
        self._every_s = every_s
        self._free_at: OrderedDict[Hashable, float] = OrderedDict()
        """When the key's bucket will be full again."""

    def take(self, key: Hashable, now_s: float) -> float:
        """0: go on, one try is taken. Else the seconds until the next one is free."""
        full_at = max(self._free_at.get(key, now_s), now_s) + self._every_s
        wait_s = full_at - now_s - self._burst * self._every_s
        if wait_s > 0:
            return wait_s
        self._free_at[key] = full_at
        self._free_at.move_to_end(key)
        if len(self._free_at) > KEYS_MAX:
            self._free_at.popitem(last=False)
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """The try was a good one."""
        if key in self._free_at:
            self._free_at[key] -= self._every_s
