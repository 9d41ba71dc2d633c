"""The operator of a scenario: types commands at the gateway, and looks whether it counts what it must."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from simulators._clock import Clock
from simulators.scenario import FigureTable, OperatorTable, Scenario, ScenarioError

LOCAL = timezone(timedelta(hours=8))
ANSWER_WITHIN_S = 10.0
LOOK_S = 0.5
"""Between two looks at figures that are not there yet."""
ITEMS_MAX = 1000
"""On one page: more gaps or deficiencies than a scenario should bring about."""


class Desk:
    """Sits at the box of one site file."""

    def __init__(self, scenario: Scenario, site_file: Path, clock: Clock) -> None:
        """Raises ScenarioError for a file that names no gateway."""
        turns: list[OperatorTable | FigureTable] = [*scenario.operator, *scenario.figure]
        self._turns = sorted(turns, key=lambda each: each.at_s)
        self._site_file = site_file
        self._clock = clock
        try:
            api = tomllib.loads(site_file.read_text(encoding="utf-8"))["api"]
            self._url = f"http://{api['listen']}/api/v1/"
            token = (site_file.parent / api["token_file"]).read_text().strip() if "token_file" in api else ""
        except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
            raise ScenarioError(f"{site_file}: {error!r}; expected a site file with [api] listen") from error
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.complaints: list[str] = []

    async def work(self, until_s: float) -> None:
        """Everything in its turn; what has not come true is in `complaints`."""
        begun_s, begun_at = self._clock.monotonic(), datetime.fromtimestamp(self._clock.now(), UTC)
        for each in self._turns:
            if each.at_s >= until_s:
                return
            await self._clock.sleep(max(0.0, begun_s + each.at_s - self._clock.monotonic()))
            if isinstance(each, OperatorTable):
                await self._type(each, begun_at)
            else:
                await self._see(each, begun_at)

    async def _type(self, wanted: OperatorTable, begun_at: datetime) -> None:
        today = begun_at.astimezone(LOCAL).date()
        days = {"today": today, "tomorrow": today + timedelta(days=1)}
        words = [word.format(**days) for word in wanted.run]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words, "--config", str(self._site_file),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        if process.returncode != 0:
            told = " ".join(said.decode(errors="replace").split())[-300:]
            self.complaints.append(
                f"{wanted.at_s:g} s: fangkong {' '.join(words)}: exit code {process.returncode}: {told}"
            )

    async def _see(self, wanted: FigureTable, begun_at: datetime) -> None:
        """Look until it is so, or for too long."""
        until_s = self._clock.monotonic() + wanted.within_s
        while True:
            found = await asyncio.to_thread(self._lacks, wanted, begun_at)
            if not found:
                return
            if self._clock.monotonic() >= until_s:
                self.complaints.append(f"{wanted.at_s:g} s, {wanted.node}: {found}")
                return
            await self._clock.sleep(LOOK_S)

    def _lacks(self, wanted: FigureTable, begun_at: datetime) -> str:
        """In words, what is not as it must be; "" when all is."""
        try:
            return ", ".join(
                f"{name}: expected {expected}, the gateway has {found}"
                for name, expected, found in self._compared(wanted, begun_at)
                if expected != found
            )
        except (OSError, ValueError, KeyError) as error:
            return f"no answer: {error}"

    def _compared(self, wanted: FigureTable, begun_at: datetime) -> Sequence[tuple[str, object, object]]:
        rows: list[tuple[str, object, object]] = []
        if wanted.counts:
            at = {} if wanted.of_s is None else {"at": (begun_at + timedelta(seconds=wanted.of_s)).isoformat()}
            counts = self._ask("coverage", {"node": wanted.node, **at})["counts"]
            rows += [(name, expected, counts[name]) for name, expected in wanted.counts.items()]
        if wanted.gaps is not None:
            gaps = self._ask("coverage/gaps", {"node": wanted.node})["items"]
            told = Counter(gap["gap"] for gap in gaps)
            rows += [(name, expected, told[name]) for name, expected in wanted.gaps.items()]
            if wanted.via is not None:
                ways = sorted({gap["via"] for gap in gaps if gap["gap"] == "unreachable"})
                rows.append(("via", [wanted.via], ways))
        if wanted.deficiencies is not None:
            tickets = self._ask("deficiencies", {"node": wanted.node})["items"]
            open_ = Counter(ticket["gap"] for ticket in tickets)
            rows += [(f"deficiencies {name}", expected, open_[name]) for name, expected in wanted.deficiencies.items()]
        return rows

    def _ask(self, path: str, query: Mapping[str, str]) -> Any:
        words = urllib.parse.urlencode({**query, **({} if path == "coverage" else {"limit": ITEMS_MAX})})
        request = urllib.request.Request(f"{self._url}{path}?{words}", headers=self._headers)  # noqa: S310  # http
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ANSWER_WITHIN_S) as answer:
            return json.load(answer)
