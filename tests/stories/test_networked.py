"""Networked follows receipts: a real DC-09 line to a 110 centre that stops and comes back; what the engine says is what counts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.clock import RealClock
from gateway.config import CoverageSection
from gateway.coverage.count import verdicts
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.verdict import Gap, Rules
from gateway.model import Device, Point, Site
from gateway.registry import Registry
from simulators.police_centre import PoliceCentre
from tests.stories.box import LOOK_S, Box
from tests.stories.town import town

WITHIN_S = 30.0
RULES = Rules.of(CoverageSection())
WINDOW = timedelta(hours=RULES.proof_h)
MS = timedelta(milliseconds=1)
LATER = Site("later", "银河珠宝", "A104", "jewelry_store")
LEDGER = [
    Point("p-a029", "zhouji", 29, "柜台紧急按钮", "a029", kind="counter_panic"),
    LATER,
    Device("a901", "later", "柜台紧急按钮", 10.0),
    Point("p-a901", "later", 1, "柜台紧急按钮", "a901", kind="counter_panic"),
]


async def proofs(box: Box, count: int) -> dict[str, datetime]:
    """When each site was proven, once so many are."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = {each.subject[0]: each.valid_from for each in await box.facts() if each.sort is Sort.PROOF}
            if len(found) >= count:
                return found
            await asyncio.sleep(LOOK_S)  # noqa: TID251  # between two looks at another process


async def networked(box: Box, point: str, at: datetime) -> tuple[bool, Gap | None]:
    """The engine's verdict on the panic button at this point."""
    history = History(await box.facts())
    [found] = [each for each in verdicts(history, at, rules=RULES) if (each.point, each.measure) == (point, "panic")]
    assert found.working, found
    return bool(found.networked), found.gap


@pytest.mark.full
async def test_networked_follows_receipts(tmp_path: Path) -> None:
    async with AsyncExitStack() as outside:
        async with AsyncExitStack() as first:
            centre = await first.enter_async_context(PoliceCentre())
            port = centre.port
            place = await outside.enter_async_context(town(tmp_path, *LEDGER, centre=centre, port=port))
            box = place.box
            registry = await Registry.open(tmp_path / "var" / "registry.db")
            sheet = {"sheet": "0" * 64, "by": "installer"}
            for point, device in (("p-a029", "a029"), ("p-a901", "a901")):
                await registry.record([Fact(Sort.ACCEPTANCE, (point, device, ""), sheet, RealClock().now())])
            await registry.close()
            button, other = place.alarm("a029"), place.alarm("a901")
            await button.do("panic")
            proven = await proofs(box, 1)
            assert list(proven) == ["zhouji"]
        # The centre has stopped. The site is networked for its window, to the millisecond, and then no longer.
        last = proven["zhouji"]
        await other.do("panic")
        await button.do("panic")
        assert await networked(box, "p-a029", last + WINDOW - MS) == (True, None)
        assert await networked(box, "p-a029", last + WINDOW) == (False, Gap.NOT_NETWORKED)
        assert await networked(box, "p-a901", RealClock().now()) == (False, Gap.NOT_NETWORKED)

        # It is back: what waited is taken, and its receipt makes the site networked from that moment on.
        await outside.enter_async_context(PoliceCentre(tcp=f"127.0.0.1:{port}"))
        back = (await proofs(box, 2))["later"]
        assert await networked(box, "p-a901", back - MS) == (False, Gap.NOT_NETWORKED)
        assert await networked(box, "p-a901", back) == (True, None)
