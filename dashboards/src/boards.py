"""Boards as data: rows of panels become Grafana's JSON. Titles are Chinese, for the duty desk; descriptions are English."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    RangeMap,
    RegexMap,
    SpecialValueMap,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

GRAFANA = Path(__file__).parents[1] / "grafana"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_SERIES = re.compile(r"\b((?:\w+:)?fangkong_[\w:]+|up)\b(\{)?")
"""A series of a box, with or without matchers of its own."""
ROW_WIDTH = 24
"""Grafana's grid has 24 columns."""


Rows = Sequence[tuple[str, Sequence["Panel"]]]


class Look(Enum):
    """How a panel shows its numbers."""

    NUMBER = "number"
    UP_OR_DOWN = "up or down"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `queries` are pairs of expression and legend; at or above `warn` and `bad` the number changes colour,
    or below them where `warn` is the greater."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    look: Look = Look.LINES
    unit: str = "short"
    warn: float | None = None
    bad: float | None = None


def quantiles(metric: str, by: str, matchers: str, legend: str) -> Sequence[tuple[str, str]]:
    return [
        (
            f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))",
            f"p{q * 100:.0f} {legend}".strip(),
        )
        for q in (0.5, 0.99)
    ]


MAPPINGS: list[ValueMap | RangeMap | RegexMap | SpecialValueMap] = [
    ValueMap(options={"0": ValueMappingResult(text="断 down"), "1": ValueMappingResult(text="通 up")}),
]


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if panel.look is Look.UP_OR_DOWN:
        steps = [Threshold(value=None, color="red"), Threshold(value=1, color="green")]
    elif panel.warn is not None and panel.bad is not None and panel.warn > panel.bad:
        steps = [Threshold(value=None, color="red"), Threshold(value=panel.bad, color="orange")]
        steps += [Threshold(value=panel.warn, color="green")]
    elif panel.warn is not None and panel.bad is not None:
        steps += [Threshold(value=panel.warn, color="orange"), Threshold(value=panel.bad, color="red")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _number(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
    )
    return built.mappings(MAPPINGS) if panel.look is Look.UP_OR_DOWN else built


def _lines() -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    return timeseries.Panel().legend(legend).min(0)


def _built(panel: Panel, width: int) -> stat.Panel | timeseries.Panel:
    built = _lines() if panel.look is Look.LINES else _number(panel)
    built.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    built.thresholds(_thresholds(panel)).span(width).height(7)
    for ref_id, (expression, legend) in zip("AB", panel.queries, strict=False):
        built.with_target(prometheus.Dataquery().expr(of_box(expression)).legend_format(legend).ref_id(ref_id))
    return built


def begun(title: str, uid: str, about: str) -> dashboard.Dashboard:
    """A board that knows its data source and the boxes."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["fangkong"])
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("数据源").type("prometheus"))
        .with_variable(variable("box", "网关", "label_values(fangkong_build_info, instance)"))
    )


def of_box(expression: str) -> str:
    """The expression over the boxes that are chosen: each series of ours gets the matcher."""
    chosen = _SERIES.sub(lambda found: f'{found[1]}{{instance=~"$box"{", " if found[2] else "}"}', expression)
    return chosen.replace(", }", "}")


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Something to choose, of which all are chosen at first."""
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True)


def encoded(built: dashboard.Dashboard, rows: Rows) -> str:
    """The board with its rows, as Grafana's JSON."""
    number = count(1)
    for title, panels in rows:
        built.with_row(dashboard.Row(title).id(next(number)))
        per_line = len(panels) if len(panels) <= 4 else 3
        for panel in panels:
            built.with_panel(_built(panel, ROW_WIDTH // per_line).id(next(number)))
    return JSONEncoder(ensure_ascii=False, sort_keys=True, indent=2).encode(built.build()) + "\n"


def write_or_check(path: Path, generated: str, source: str, arguments: Sequence[str] | None = None) -> int:
    """Write the board, or with --check say whether the committed one is up to date (exit 1 when not)."""
    parser = argparse.ArgumentParser(prog=f"python -m {source}", description=f"Writes {path.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the committed board differs")
    options = parser.parse_args(arguments)
    if not options.check:
        path.write_text(generated, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != generated:
        print(f"{path}: differs from what its source gives; run python -m {source}", file=sys.stderr)
        return 1
    return 0
