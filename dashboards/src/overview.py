"""The overview board as data. `python -m dashboards.src.overview` writes it, `--check` compares it with the committed file.

Titles are Chinese, for the duty desk; descriptions are English.
"""

from __future__ import annotations

import argparse
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

BOARD = Path(__file__).parents[1] / "grafana" / "overview.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TO = 'destination=~"$destination"'
ROW_WIDTH = 24
"""Grafana's grid has 24 columns."""


class Look(Enum):
    """How a panel shows its numbers."""

    NUMBER = "number"
    UP_OR_DOWN = "up or down"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `queries` are pairs of expression and legend; at or above `warn` and `bad` the number changes colour."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    look: Look = Look.LINES
    unit: str = "short"
    warn: float | None = None
    bad: float | None = None


def _quantiles(metric: str, by: str, matchers: str, legend: str) -> Sequence[tuple[str, str]]:
    return [
        (
            f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))",
            f"p{q * 100:.0f} {legend}".strip(),
        )
        for q in (0.5, 0.99)
    ]


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "110通路",
        (
            Panel(
                "110通路状态",
                "Whether each destination answers. Red: the path is down; alert FangkongPathDown after 20 s.",
                [(f"fangkong_destination_up{{{TO}}}", "{{destination}}")],
                Look.UP_OR_DOWN,
            ),
            Panel(
                "未送达警情最长等待",
                "Age of the oldest life or alarm event that a destination has not accepted. Alert above 60 s.",
                [
                    (
                        f'max by (destination) (fangkong_outbox_oldest_seconds{{{TO}, lane=~"life|alarm"}})',
                        "{{destination}}",
                    )
                ],
                Look.NUMBER,
                "s",
                warn=10,
                bad=60,
            ),
            Panel(
                "死信",
                "Events set aside because the receiver refused them. A person must look at each.",
                [(f"fangkong_outbox_dead{{{TO}}}", "{{destination}}")],
                Look.NUMBER,
                warn=1,
                bad=1,
            ),
            Panel(
                "事件存储",
                "Whether events can be made durable. Red: nothing is acknowledged to the devices.",
                [("fangkong_store_up", "{{instance}}")],
                Look.UP_OR_DOWN,
            ),
        ),
    ),
    (
        "送达",
        (
            Panel(
                "各级待送事件",
                "Events still to be accepted, by lane. Life goes first, then alarm; fault never starves.",
                [(f"sum by (lane) (fangkong_outbox_pending{{{TO}}})", "{{lane}}")],
            ),
            Panel(
                "各级最长等待",
                "Age of the oldest event still to be accepted, by lane.",
                [(f"max by (lane) (fangkong_outbox_oldest_seconds{{{TO}}})", "{{lane}}")],
                unit="s",
            ),
            Panel(
                "送达时间",
                "From arrival of an event to its acceptance by the receiver, half and 99 of 100 events.",
                _quantiles("fangkong_delivery_seconds", "destination, le", TO, "{{destination}}"),
                unit="s",
            ),
            Panel(
                "送达速率",
                "Events accepted per second, by destination.",
                [
                    (
                        f"sum by (destination) (rate(fangkong_accepted_total{{{TO}}}[$__rate_interval]))",
                        "{{destination}}",
                    )
                ],
                unit="ops",
            ),
            Panel(
                "对方应答",
                "Answers of the receiver per second: ACK accepted, NAK wrong time or key, DUH refused.",
                [
                    (
                        f"sum by (destination, answer) (rate(fangkong_answers_total{{{TO}}}[$__rate_interval]))",
                        "{{destination}} {{answer}}",
                    )
                ],
                unit="ops",
            ),
            Panel(
                "重发比例",
                "Frames sent again under the same key, of all frames sent in 5 minutes. Rises when answers get lost.",
                [(f"instance_destination:fangkong_resent_per_sent:ratio_rate5m{{{TO}}}", "{{destination}}")],
                unit="percentunit",
            ),
        ),
    ),
    (
        "事件",
        (
            Panel(
                "各类事件",
                "Events stored per minute, the ten busiest kinds.",
                [("topk(10, sum by (kind) (rate(fangkong_events_total[$__rate_interval])) * 60)", "{{kind}}")],
            ),
            Panel(
                "重复与未登记",
                "Repeats recognised, and events of devices that nobody has claimed, per minute.",
                [
                    ("sum(rate(fangkong_repeats_total[$__rate_interval])) * 60", "重复 repeats"),
                    ("sum(rate(fangkong_unclaimed_events_total[$__rate_interval])) * 60", "未登记 unclaimed"),
                ],
            ),
            Panel(
                "无效帧",
                "Frames that were none, per minute, by line and reason. Noise on a bus, a wrong driver, or an attack.",
                [
                    (
                        "sum by (connection, reason) (rate(fangkong_rejected_frames_total[$__rate_interval])) * 60",
                        "{{connection}} {{reason}}",
                    )
                ],
            ),
        ),
    ),
    (
        "设备与线路",
        (
            Panel(
                "设备状态",
                "Devices by state, all sites together.",
                [("sum by (state) (fangkong_devices)", "{{state}}")],
            ),
            Panel(
                "各点位失联比例",
                "Share of a site's devices past their deadline. Their places are unprotected.",
                [("instance_site:fangkong_devices_silent_per_all:ratio", "{{site}}")],
                unit="percentunit",
            ),
            Panel(
                "设备线路",
                "Whether each line to the devices is open. Alert FangkongConnectionDown after 30 s.",
                [("fangkong_connection_up", "{{connection}}")],
                Look.UP_OR_DOWN,
            ),
            Panel(
                "在线对端",
                "Devices connected on each listening line.",
                [("fangkong_connection_peers", "{{connection}}")],
            ),
        ),
    ),
    (
        "存储",
        (
            Panel(
                "事件库占用",
                "Disk in use by the event log, and its budget. At the budget the least urgent lanes are removed.",
                [
                    ("fangkong_store_bytes", "占用 in use {{instance}}"),
                    ("fangkong_store_budget_bytes", "预算 budget {{instance}}"),
                ],
                unit="bytes",
            ),
            Panel(
                "占用比例",
                "Share of the disk budget in use.",
                [("instance:fangkong_store_bytes_per_budget:ratio", "{{instance}}")],
                Look.NUMBER,
                "percentunit",
                warn=0.8,
                bad=0.95,
            ),
            Panel(
                "提交时间",
                "Duration of one group commit. It bounds how fast a device gets its acknowledgement.",
                _quantiles("fangkong_commit_seconds", "le", "", ""),
                unit="s",
            ),
            Panel(
                "已清除事件",
                "Events removed for want of disk, per minute, by lane. Anything above zero needs a person.",
                [("sum by (lane) (rate(fangkong_shed_events_total[$__rate_interval])) * 60", "{{lane}}")],
            ),
            Panel(
                "未转发事件",
                "Events recorded and not sent on, per minute: repeats of an alarm, or of a source over its limit.",
                [("sum by (reason) (rate(fangkong_events_suppressed_total[$__rate_interval])) * 60", "{{reason}}")],
            ),
        ),
    ),
)

MAPPINGS: list[ValueMap | RangeMap | RegexMap | SpecialValueMap] = [
    ValueMap(options={"0": ValueMappingResult(text="断 down"), "1": ValueMappingResult(text="通 up")}),
]


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if panel.look is Look.UP_OR_DOWN:
        steps = [Threshold(value=None, color="red"), Threshold(value=1, color="green")]
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
        built.with_target(prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref_id))
    return built


def board() -> str:
    """The board as Grafana's JSON."""
    built = (
        dashboard.Dashboard("防控网关总览")
        .uid("fangkong-overview")
        .description("Fangkong overview: the path to 110, deliveries, events, devices and lines, the event log.")
        .tags(["fangkong"])
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("数据源").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("destination")
            .label("接收方")
            .datasource(SOURCE)
            .query("label_values(fangkong_destination_up, destination)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    )
    number = count(1)
    for title, panels in ROWS:
        built.with_row(dashboard.Row(title).id(next(number)))
        per_line = len(panels) if len(panels) <= 4 else 3
        for panel in panels:
            built.with_panel(_built(panel, ROW_WIDTH // per_line).id(next(number)))
    return JSONEncoder(ensure_ascii=False, sort_keys=True, indent=2).encode(built.build()) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the board, or with --check say whether the committed one is up to date (exit 1 when not)."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.src.overview", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the committed board differs")
    options = parser.parse_args(arguments)
    generated = board()
    if not options.check:
        BOARD.write_text(generated, encoding="utf-8")
    elif not BOARD.exists() or BOARD.read_text(encoding="utf-8") != generated:
        print(f"{BOARD}: differs from what its source gives; run python -m dashboards.src.overview", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
