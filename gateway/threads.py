"""The threads for what would hold up the loop and has none of its own: so many, by name, all of them from the start."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

HELPERS = 8
"""Who sends work here has one piece under way: configuration, its history, the record of who did what, a look through it, the
ledger, the record of facts, the count of the coverage, the broker's users. What comes beyond waits its turn."""


def helpers() -> ThreadPoolExecutor:
    """For `loop.set_default_executor`. Python would begin another thread whenever all it has are busy, until there are as many as
    it thinks right: whether threads leak, nobody could say, and the first alarm of a busy day would wait for one to begin."""
    pool = ThreadPoolExecutor(HELPERS, "helper")
    together = threading.Barrier(HELPERS)
    for _ in range(HELPERS):  # none is idle before all are there, so each of these begins one
        pool.submit(together.wait)
    return pool
