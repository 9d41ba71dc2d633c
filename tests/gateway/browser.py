"""A real browser, driven over its own pipe (the DevTools protocol): its width, its keys, and what its page says then."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conftest import tool

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
SHOWN_WITHIN_S = 60
"""A browser that starts for the first time on a busy machine."""
ANSWER_MAX_BYTES = 2**24
BECOME = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from descriptor 3 and writes to 4."""


class Browser:
    """One page."""

    def __init__(self, answers: asyncio.StreamReader, asks: int) -> None:
        self._answers, self._asks, self._number, self._session = answers, asks, 0, ""

    async def tell(self, method: str, **params: Any) -> Any:
        """One order, and its answer; what the browser says beside it is passed over."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._asks, json.dumps(order).encode() + b"\0")
        while True:
            answer = json.loads((await self._answers.readuntil(b"\0"))[:-1])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    async def attach(self) -> None:
        [page] = [each for each in (await self.tell("Target.getTargets"))["targetInfos"] if each["type"] == "page"]
        self._session = (await self.tell("Target.attachToTarget", targetId=page["targetId"], flatten=True))["sessionId"]

    async def open(self, url: str, *, width: int) -> None:
        """Another page in a window of this width, in pixels."""
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        await self.tell("Page.navigate", url="about:blank")  # a new fragment alone would load nothing
        await self.tell("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """What a script in the page gives."""
        answer = await self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until a script in the page gives something true."""
        look = f"new Promise(done => {{ const look = () => ({script}) ? done(true) : setTimeout(look, 50); look(); }})"
        async with asyncio.timeout(SHOWN_WITHIN_S):
            await self.evaluate(look)

    async def press(self, key: str) -> None:
        await self.tell("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        await self.tell("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with nothing in its memory."""
    asked, asks = os.pipe()
    answered, answers = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BECOME, str(asked), str(answers),
        tool("chromium"), *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        pass_fds=(asked, answers), stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    os.close(asked)
    os.close(answers)
    reader = asyncio.StreamReader(limit=ANSWER_MAX_BYTES)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answered, "rb")
    )
    try:
        found = Browser(reader, asks)
        async with asyncio.timeout(SHOWN_WITHIN_S):
            await found.attach()
        yield found
    finally:
        os.close(asks)
        pipe.close()
        process.kill()
        await process.wait()
