"""The page as a person meets it: a real browser in front of a real server, in both languages, and with a wrong token."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest

from gateway.access import GATEWAY, Role
from gateway.model import Kind, Lane, Qualifier, Site
from tests.conftest import tool
from tests.gateway.api_box import TOKEN, UNCLAIMED, Box, closed_box, event

pytestmark = pytest.mark.full

BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=5000",
)  # fmt: skip
SHOWN_WITHIN_S = 60
"""A browser that starts for the first time on a busy machine."""
VOID = {"meta", "link", "input", "br", "img"}
"""Elements without an end (HTML, section 13.1.2), as far as the page may use them."""


class Sight(HTMLParser):
    """What is not `hidden`: the texts, and the ids of the elements."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self.ids: set[str] = set()
        self._hidden: list[bool] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        is_hidden = "hidden" in given or any(self._hidden[-1:])
        if not is_hidden:
            self.ids.add(given.get("id") or "")
        if tag not in VOID:
            self._hidden.append(is_hidden)

    def handle_endtag(self, tag: str) -> None:
        self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if data.strip() and not any(self._hidden[-1:]):
            self.texts.add(data.strip())


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Box]:
    """A panic of an enrolled device, power that came back, and a word from a stranger."""
    async with closed_box(tmp_path) as box:
        box.health.known = [UNCLAIMED]
        box.metrics.destination_up.labels("centre").set(1)
        await box.keep(event(kind=Kind.PANIC, lane=Lane.LIFE), to=("centre",))
        await box.keep(event(kind=Kind.AC_LOSS, lane=Lane.FAULT, qualifier=Qualifier.RESTORE), to=("centre",))
        await box.keep(event(device="stranger", place=None))
        yield box


async def document(box: Box, folder: Path, *, token: str) -> str:
    """What the page has become after its scripts ran."""
    browser = await asyncio.create_subprocess_exec(
        tool("chromium"), *BROWSER, f"--user-data-dir={folder / 'browser'}", "--dump-dom",
        f"http://127.0.0.1:{box.port}/#token={quote(token)}", stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SHOWN_WITHIN_S):
            dumped, _ = await browser.communicate()
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    return dumped.decode()


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("zh-CN", {"防控网关", "转发目的地", "centre", "正常", "实时", "紧急报警", "交流电断电 恢复", "盗警", "未登记"}),
        ("en", {"Fangkong gateway", "Destinations", "centre", "up", "live", "panic", "mains lost restored", "unclaimed"}),
    ],
)  # fmt: skip
async def test_the_page_shows_what_happened_in_the_words_of_its_reader(
    parts: Box, tmp_path: Path, language: Literal["zh-CN", "en"], words: set[str]
) -> None:
    async with parts.open(language=language) as box:
        page = await document(box, tmp_path, token=TOKEN)
    sight = Sight(page)

    assert words | {"阳泗小区 东门", "a001", "stranger"} <= sight.texts
    assert "login" not in sight.ids
    assert TOKEN not in page


async def test_who_is_limited_to_a_site_sees_its_events_and_nothing_of_the_road(parts: Box, tmp_path: Path) -> None:
    await parts.registry.add(Site("s1", "阳泗小区", "A10B"))
    token = await parts.accounts.add_token(GATEWAY, "wall", Role.DUTY_OFFICER, frozenset({"s1"}), days=1)
    async with parts.open() as box:
        sight = Sight(await document(box, tmp_path, token=token))

    assert {"阳泗小区 东门", "紧急报警", "token:wall"} <= sight.texts
    assert not {"stranger", "转发目的地", "centre"} & sight.texts


async def test_a_wrong_token_leads_to_the_form_and_shows_nothing(parts: Box, tmp_path: Path) -> None:
    async with parts.open() as box:
        page = await document(box, tmp_path, token="battery horse")
    sight = Sight(page)

    assert {"请登录", "账号", "密码或一次性口令"} <= sight.texts
    assert "login" in sight.ids
    assert "board" not in sight.ids
    assert "阳泗小区" not in page
    assert "battery horse" not in page


async def test_the_page_names_no_other_host_and_the_browser_is_told_to_ask_none(parts: Box, tmp_path: Path) -> None:
    async with parts.open() as box:
        policy = (await box.get("/")).headers["content-security-policy"].split("; ")
        page = await document(box, tmp_path, token=TOKEN)

    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "form-action 'none'"} <= set(policy)
    assert set(re.findall(r'\b(?:src|href|action)="([^"]*)"', page)) == {
        "/page.js",
        "/page.css",
        "data:,",
        "#view=board",
        "#view=coverage",
    }
