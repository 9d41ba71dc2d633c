"""The coverage view as a duty officer meets it: a real browser, both languages, a desk and a telephone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest

from gateway.coverage.facts import Fact, Sort
from gateway.model import Area, AreaKind, Device, Point, Site
from tests.gateway.api_box import TOKEN, Box, closed_box
from tests.gateway.browser import Browser, browser

pytestmark = pytest.mark.full

HOSTILE = "<img src=x onerror=document.title=1>门"
"""A point's name: nothing but text to whoever shows it."""
NO_OVERFLOW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CLIPPED = """[...document.querySelectorAll("#coverage :is(strong, span, a, td, li, small, select)")]
  .filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 60))"""


FULL_CELLS = """[...document.querySelectorAll("#tree .row:not(.point) .cell")].filter(e => {
  const was = e.lastChild.textContent;
  e.lastChild.textContent = "100.0 % (10000/10000)";
  return /^\\d+$/.test(was) ? false : e.scrollWidth > e.clientWidth || e.getBoundingClientRect().right > innerWidth;
}).map(e => [e.scrollWidth, e.clientWidth])"""
"""Cells of the tree in which the figures of a whole city would not fit."""


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Box]:
    """A district with two street shops: one whole, one with a silent entrance and a waived one; and a bank without anything."""
    async with closed_box(tmp_path) as box:
        long_ago = box.clock.now() - timedelta(days=3)
        registry, facts = box.registry, list[Fact]()
        await registry.add(
            Area("d", "示范区", AreaKind.DISTRICT), Area("z", "东关街道", AreaKind.CONTROL_ZONE, "d"),
            Area("c", "东关街道第一社区", AreaKind.COMMUNITY, "z", 1200),
        )  # fmt: skip
        for site, account in (("s1", "A10B"), ("s2", "A10C")):
            shop = Site(site, f"{site} 便利店", account, "street_shop", area="c", responsible="安保负责岗 0535-5551234")
            await registry.add(shop)
            for n in (1, 2):
                device, point = f"d{n}-{site}", f"p{n}-{site}"
                name = HOSTILE if (site, n) == ("s2", 1) else f"{n} 号门"
                await registry.add(
                    Device(device, site, kind="detector"), Point(point, site, n, name, device, kind="entrance")
                )
                state = {"state": "working", "cause": "", "via": ""}
                if (site, n) == ("s2", 1):
                    state = {"state": "silent", "cause": "silent", "via": ""}
                facts += [
                    Fact(Sort.ACCEPTANCE, (point, device, ""), {"sheet": "x", "by": "安装单位"}, long_ago),
                    Fact(Sort.HEALTH, (device, ""), state, long_ago),
                ]
            facts.append(Fact(Sort.PROOF, (site,), {"rung": "test_accepted", "event": "e"}, long_ago))
        waiver = {"reason": "装修停业", "approver": "防控办"}
        until = box.clock.now() + timedelta(days=30)
        facts.append(Fact(Sort.WAIVER, ("p2-s2", "intrusion"), waiver, long_ago, until))
        await registry.add(
            Site("bank", "城关支行", "A10D", "bank_branch", area="c", responsible="安保负责岗 0535-5551235")
        )
        await registry.record(facts)
        await box.assurance.look()
        yield box


async def turn_to(page: Browser, box: Box, where: str = "", *, width: int = 1280) -> None:
    await page.open(f"http://127.0.0.1:{box.port}/#token={quote(TOKEN)}&view=coverage{where}", width=width)
    await page.until("document.querySelector('#tree .row') && !document.getElementById('coverage').hidden")


async def text(page: Browser, selector: str) -> str:
    """As it is seen: one blank between words."""
    found = await page.evaluate(f"document.querySelector({selector!r}).innerText")
    return " ".join(str(found).split())


ZH = (
    "应装 6 个点位", "已装 50.0 % 3/6", "完好 66.6 % 2/3", "联网 0.0 % 0/3", "豁免 1", "n/a (无应装点位)", "n/a (无已装点位)",
    "失联", "设备失联", "未规划该类点位", "高", "安保负责岗 0535-5551234",
)  # fmt: skip
EN = (
    "Required 6 points", "Installed 50.0 % 3/6", "Working 66.6 % 2/3", "Networked 0.0 % 0/3", "waived 1",
    "n/a (nothing required)", "n/a (nothing installed)", "silent", "device silent", "no such point planned", "high",
)  # fmt: skip
"""Of the shops three entrances are required and the fourth is waived; of the bank three lines, of which it has no points."""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("language", "words"), [("zh-CN", ZH), ("en", EN)])
async def test_four_figures_with_their_counts_the_tree_and_the_gaps_fit_the_window(
    parts: Box, tmp_path: Path, language: Literal["zh-CN", "en"], words: tuple[str, ...], width: int
) -> None:
    async with parts.open(language=language) as box, browser(tmp_path / "browser") as page:
        await turn_to(page, box, "&node=area:c", width=width)
        seen = await text(page, "#coverage")

        assert [word for word in words if word not in seen] == []
        assert await page.evaluate(NO_OVERFLOW)
        assert await page.evaluate(CLIPPED) == []
        assert await page.evaluate(FULL_CELLS) == []
        assert await page.evaluate("document.title") in {"防控网关", "Fangkong gateway"}
        assert HOSTILE in seen


async def test_a_deep_link_opens_the_place_and_keeps_the_filters_and_no_token(parts: Box, tmp_path: Path) -> None:
    async with parts.open() as box, browser(tmp_path / "browser") as page:
        await turn_to(page, box, "&node=site:s2&gap=silent")

        assert await text(page, "#place") == "s2 便利店 沿街商铺"
        assert await text(page, "#path") == "全部 示范区 东关街道 东关街道第一社区"
        assert await text(page, "#figure-required strong") == "1"  # one of two is waived
        assert await text(page, "#figure-working") == "完好 0.0 % 0/1"
        points = await text(page, "#tree [aria-current]") + await text(page, "#tree ul ul ul ul ul")
        assert [word for word in (HOSTILE, "失联", "豁免", "装修停业", "2 号门") if word not in points] == []
        rows = await page.evaluate("[...document.querySelectorAll('#gap-rows tr')].map(row => row.innerText)")
        assert len(rows) == 1
        assert await page.evaluate("document.getElementById('of-gap').value") == "silent"
        assert "token" not in await page.evaluate("location.href")

        await page.evaluate("document.querySelector('#path a').click()")
        await page.until("document.getElementById('place').innerText.startsWith('全部')")
        assert await page.evaluate("location.hash") == "#view=coverage&gap=silent"
        await page.evaluate(
            "(k => { k.value = 'bank_branch'; k.dispatchEvent(new Event('change')) })(document.getElementById('of-kind'))"
        )
        await page.until("document.querySelectorAll('#gap-rows tr').length === 0")
        assert await text(page, "#no-gaps") == "此处没有缺口。"


async def test_the_tree_is_walked_by_keys_and_what_changes_is_shown_without_being_asked(
    parts: Box, tmp_path: Path
) -> None:
    async with parts.open() as box, browser(tmp_path / "browser") as page:
        await turn_to(page, box)
        await page.evaluate("document.querySelector('#tree a.name[data-node=\"area:d\"]').focus()")
        await page.press("ArrowDown")
        assert await page.evaluate("document.activeElement.dataset.node") == "area:z"
        await page.press("ArrowRight")
        await page.until("document.querySelector('#tree a.name[data-node=\"area:c\"]')")
        assert await page.evaluate("document.activeElement.dataset.node") == "area:z"
        await page.press("ArrowLeft")
        await page.until("!document.querySelector('#tree a.name[data-node=\"area:c\"]')")

        before = await text(page, "#figure-working")
        value = {"state": "fault", "cause": "batt_low", "via": ""}
        await box.registry.record([Fact(Sort.HEALTH, ("d1-s1", ""), value, box.clock.now())])
        await box.assurance.look()
        await page.until("document.getElementById('gap-rows').innerText.includes('主机电池电压低')")
        assert await text(page, "#figure-working") != before
