"""Rules and board speak only of metrics, labels and values that exist, and are what their tests and sources say."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser as promql
import pytest
import yaml

from dashboards.src import coverage, families, overview
from gateway.coverage import facts
from gateway.coverage.tickets import TARGET
from gateway.coverage.verdict import Gap
from gateway.health import STATES
from gateway.kinds import FACTS, Kind, Lane
from gateway.metrics import BATTERY_DAYS, COVERAGE_POINTS, COVERAGE_SITES, Metrics
from tests.conftest import tool
from tests.dashboards.prometheus import COVERAGE, FAMILIES, ROOT, RULES, Expression, board_expressions, rules, watched

PROMETHEUS = ROOT / "prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))
RUNBOOKS = ROOT / "runbooks"
ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}

ADDED_BY_PROMETHEUS = {"job", "instance"}
BOUNDED_BY = {
    "version": "one release",
    "box": "one name in the site file",
    "kind": "gateway.kinds.Kind; gateway.coverage.contracts.CONTRACTS and other",
    "lane": "gateway.kinds.Lane",
    "driver": "drivers and profiles of the site file, and two names of our own",
    "connection": "[[connection]] names of the site file",
    "destination": "[[destination]] names of the site file",
    "site": "the ledger's sites",
    "state": "gateway.health.State; gateway.metrics.COVERAGE_POINTS and COVERAGE_SITES; gateway.coverage.facts.STATES",
    "area": "the ledger's areas",
    "sort": "gateway.coverage.facts.Sort",
    "gap": "gateway.coverage.verdict.Gap, and target",
    "days": "gateway.metrics.BATTERY_DAYS",
    "answer": "the closed list of a protocol's answers",
    "outcome": "the closed list of request outcomes",
    "hash": "one configuration in force",
    "reason": "gateway.errors.Reason; gateway.rules.storms.Reason",
    "act": "gateway.acts.Act",
    "deviation": "the closed list of a driver's deviations",
    "device": "gateway.intake.DEVIATING_MAX devices, then other",
}
"""Every label and what bounds it. A label that a payload could fill without end (plate, card, event, text) has no place here."""


def metric_labels() -> dict[str, set[str]]:
    """Series name -> its labels, for every metric of the catalogue."""
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        for family in metric.describe() if hasattr(metric, "describe") else ():
            labels = set(metric._labelnames)
            if family.type == "histogram":
                found |= {family.name + "_count": labels, family.name + "_sum": labels}
                found[family.name + "_bucket"] = labels | {"le"}
            else:
                found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


METRICS = metric_labels()
EXPRESSIONS = [
    *board_expressions(),
    *board_expressions(FAMILIES),
    *(expression for board in COVERAGE for expression in board_expressions(board)),
    *(Expression(f"rule {r.get('alert') or r['record']}", r["expr"]) for r in rules()),
]


@dataclass(slots=True)
class Used:
    """What an expression names."""

    selectors: list[Any]
    grouped_by: set[str]


def used(expression: Expression) -> Used:
    """Every selector and grouping label of an expression."""
    found = Used([], set())

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.selectors.append(node)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found.grouped_by.update(node.modifier.labels)
        return True

    promql.walk(promql.parse(expression.promql), pre_visit=visit)
    return found


def named(expression: Expression) -> str:
    return expression.origin


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=named)
def test_every_expression_names_metrics_that_exist(expression: Expression) -> None:
    names = {selector.name for selector in used(expression).selectors}

    assert names
    assert names <= METRICS.keys() | RECORDED | {"up"}


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=named)
def test_every_expression_selects_and_groups_by_labels_its_metrics_have(expression: Expression) -> None:
    of_expression = used(expression)
    known: set[str] = set()
    for selector in of_expression.selectors:
        labels = METRICS.get(selector.name, set(BOUNDED_BY)) | ADDED_BY_PROMETHEUS
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= labels, f"{selector.name} has no label {asked - labels}"
        known |= labels

    assert of_expression.grouped_by <= known


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=named)
def test_every_lane_kind_and_state_an_expression_selects_exists(expression: Expression) -> None:
    values = {
        "lane": {lane.name.lower() for lane in Lane},
        "kind": {kind.value for kind in Kind},
        "state": {*STATES, *COVERAGE_POINTS, *COVERAGE_SITES, *facts.STATES},
        "gap": {*Gap, TARGET},
        "days": {str(days) for days in BATTERY_DAYS},
    }
    for selector in used(expression).selectors:
        for matcher in selector.matchers.matchers:
            assert set(matcher.value.split("|")) <= values.get(matcher.name, {*matcher.value.split("|")})


def test_every_label_of_the_catalogue_has_a_bound() -> None:
    used_labels = set().union(*METRICS.values()) - {"le"}

    assert used_labels == set(BOUNDED_BY)


def test_a_fresh_gateway_shows_every_kind_and_lane_at_zero_and_nothing_else() -> None:
    """rate() sees the first event, and the number of series is known before the first device connects."""
    samples = [sample for family in Metrics().registry.collect() for sample in family.samples]
    kinds = {(s.labels["kind"], s.labels["lane"]) for s in samples if s.name == "fangkong_events_total"}
    lanes = {s.labels["lane"] for s in samples if s.name == "fangkong_shed_events_total"}

    assert kinds == {(kind.value, facts.lane.name.lower()) for kind, facts in FACTS.items() if kind != Kind.HEARTBEAT}
    assert lanes == {lane.name.lower() for lane in Lane}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_every_alert_says_how_bad_what_and_where_to_read_on(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]

    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert annotations.keys() == {"summary", "summary_zh", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"https://runbooks.fangkong.example/{alert['alert']}.md"
    assert (RUNBOOKS / f"{alert['alert']}.md").read_text(encoding="utf-8").startswith(f"# {alert['alert']}\n")


def test_every_runbook_has_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {alert["alert"] for alert in ALERTS}


def test_every_alert_has_a_case_where_it_fires_for_each_severity_and_one_where_it_is_silent() -> None:
    fires: set[tuple[str, str]] = set()
    silent: set[str] = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            checks = test.get("alert_rule_test", ())
            fires |= {(c["alertname"], e["exp_labels"]["severity"]) for c in checks for e in c["exp_alerts"]}
            silent |= {c["alertname"] for c in checks} if all(not c["exp_alerts"] for c in checks) else set()

    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        ("up == 0", ["up"]),
        ('up{job="a"} == 0 or absent(up{job="a"})', ['up{job="a"}', 'up{job="a"}']),
        ("increase(a[10m]) > 0", ["increase(a[10m])"]),
        ("a / b", ["a", "b"]),
    ],
)
def test_what_an_alert_watches_is_its_expression_without_the_comparison(alert: str, expected: list[str]) -> None:
    assert [part.prettify() for part in watched(promql.parse(alert))] == expected


SOURCES = pytest.mark.parametrize("source", [overview, families], ids=["overview", "families"])


@SOURCES
def test_the_committed_board_is_what_its_source_gives(source: ModuleType) -> None:
    assert source.main(["--check"]) == 0


@SOURCES
def test_a_board_edited_by_hand_is_refused(
    source: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = tmp_path / source.BOARD.name
    edited.write_text(source.BOARD.read_text(encoding="utf-8").replace("10s", "5s"), encoding="utf-8")
    monkeypatch.setattr(source, "BOARD", edited)

    assert source.main(["--check"]) == 1
    assert f"run python -m {source.__name__}" in capsys.readouterr().err


@SOURCES
def test_every_panel_is_titled_described_and_numbered(source: ModuleType) -> None:
    panels = json.loads(source.BOARD.read_text(encoding="utf-8"))["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"].isascii() and panel["targets"] for panel in shown)
    assert len({target["expr"] for panel in shown for target in panel["targets"]}) == sum(
        len(panel["targets"]) for panel in shown
    )


def test_the_boards_of_the_coverage_are_what_their_source_gives() -> None:
    assert coverage.main(["--check"]) == 0


@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", str(RULES)),
        ("check", "config", str(PROMETHEUS / "prometheus.yml")),
        ("test", "rules", *map(str, TESTS)),
    ],
    ids=["rules", "config", "tests"],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_promtool_agrees_with_the_names_of_our_metrics() -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=Metrics().text(), capture_output=True, timeout=60, check=False
    )

    assert done.returncode == 0, (done.stdout + done.stderr).decode()
