"""The loop's helpers: all there from the start, and never one more."""

from __future__ import annotations

import threading

from gateway.threads import HELPERS, helpers

PATIENCE_S = 20


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("helper"))


def test_all_helpers_are_there_before_the_first_work_and_none_more_beside_a_crowd() -> None:
    let_go = threading.Event()
    with helpers() as pool:
        from_the_start = names()
        assert len(from_the_start) == HELPERS
        crowd = [pool.submit(let_go.wait, PATIENCE_S) for _ in range(5 * HELPERS)]
        assert names() == from_the_start
        let_go.set()
        assert all(work.result(PATIENCE_S) for work in crowd)
    assert names() == []
