"""A real Prometheus that scrapes one target under our rules, and the expressions of rules and board to ask it."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import httpx
import promql_parser as promql
import yaml

from gateway.clock import RealClock
from tests.conftest import tool

ROOT = Path(__file__).parents[2] / "dashboards"
RULES = ROOT / "prometheus" / "rules.yaml"
BOARD = ROOT / "grafana" / "overview.json"
FAMILIES = ROOT / "grafana" / "families.json"
COVERAGE = [ROOT / "grafana" / f"coverage_{of}.json" for of in ("district", "community")]

START_S = 20.0
"""Prometheus opens its storage and its port well within this."""
POLL_S = 0.2
"""Another process can only be asked; it does not tell."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One PromQL expression and where it stands."""

    origin: str
    promql: str


def rules() -> list[dict[str, Any]]:
    """Every rule of the rules file."""
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def board_expressions(board: Path = BOARD, *, box: str = ".*") -> list[Expression]:
    """Every query of a committed board, Grafana's variables but `box` replaced by values that match everything."""
    found = []
    for panel in json.loads(board.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$destination", ".*")
            text = text.replace("$box", box).replace("$area", ".*")
            found.append(Expression(f"panel {panel['title']}", text))
    return found


def expressions() -> list[Expression]:
    """What must return data on a running gateway: the board, the recorded series, and what each alert watches.

    An alert is silent when all is well, so its comparison is taken off: `up == 0` becomes `up`.
    """
    found = board_expressions()
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        parts = watched(promql.parse(rule["expr"])) if "alert" in rule else [promql.parse(rule["expr"])]
        found += [Expression(f"rule {name}", part.prettify()) for part in parts]
        if "record" in rule:
            found.append(Expression(f"recorded {name}", name))
    return found


def watched(expr: Any) -> list[Any]:
    """The operands an alert compares or looks for."""
    if isinstance(expr, promql.BinaryExpr) and isinstance(expr.rhs, promql.NumberLiteral):
        return [expr.lhs]
    if isinstance(expr, promql.BinaryExpr):
        return watched(expr.lhs) + watched(expr.rhs)
    if isinstance(expr, promql.Call) and expr.func.name == "absent":
        return list(expr.args)
    return [expr]


class RealPrometheus:
    """`async with RealPrometheus("127.0.0.1:8110") as prom: await prom.query("up")`."""

    def __init__(self, *targets: str) -> None:
        self._targets = targets
        self._clock = RealClock()

    async def __aenter__(self) -> Self:
        self._directory = TemporaryDirectory(prefix="fangkong-prometheus-")
        directory = Path(self._directory.name)
        (directory / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "fangkong", "static_configs": [{"targets": list(self._targets)}]}],
                }
            )
        )
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                tool("prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                stdout=log,
                stderr=log,
            )
        try:
            address = await self._address()
        except BaseException:
            await self._stop()
            raise
        self._http = httpx.AsyncClient(base_url=f"http://{address}", timeout=START_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._stop()

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector `expr` gives now; empty when there is none."""
        answer = await self._http.get("/api/v1/query", params={"query": expr})
        content = answer.json()
        assert content["status"] == "success", f"{expr}: {content.get('error')}"
        result: list[dict[str, Any]] = content["data"]["result"]
        return result

    async def missing(self, wanted: list[Expression], *, within_s: float) -> list[Expression]:
        """Those of `wanted` that have returned nothing when `within_s` is over."""
        end = self._clock.monotonic() + within_s
        while True:
            wanted = [expression for expression in wanted if not await self.query(expression.promql)]
            if not wanted or self._clock.monotonic() >= end:
                return wanted
            await self._clock.sleep(POLL_S)

    async def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        return {row["metric"]["alertname"] for row in await self.query('ALERTS{alertstate="firing"}')}

    async def _address(self) -> str:
        """The port the system gave, as Prometheus logs it."""
        end = self._clock.monotonic() + START_S
        while self._process.returncode is None and self._clock.monotonic() < end:
            if found := re.search(r'msg="Listening on".* address=(\S+)', self._log.read_text()):
                return found[1]
            await self._clock.sleep(POLL_S)
        raise AssertionError(f"Prometheus did not start:\n{self._log.read_text()}")

    async def _stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._directory.cleanup()
