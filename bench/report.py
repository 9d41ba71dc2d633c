"""One run on one page: a table for the terminal, JSON for machines, HTML with charts for people. Needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from rich.table import Table

from bench.aims import BUSY, FLOOR_A, FLOOR_B, OURS, WATCHED, Answer
from bench.samples import Sample, share, spread

COLUMNS = {
    "p50_ms": "p50 ms", "p99_ms": "p99 ms", "max_ms": "max ms", "per_s": "events/s", "cpu_us": "CPU us/event",
    "syncs": "syncs/event", "rss_mb": "MiB", "kept_back": "kept back", "lost": "lost", "doubled": "doubled", "wrong": "wrong",
}  # fmt: skip
"""Of the loads that go the whole road. `kept back`: stored, and by the rules of storms not sent on. `wrong`: frames or
answers that were none, or out of order."""
COLOURS = {FLOOR_A: "#8a8f98", FLOOR_B: "#b98d4b", OURS: "#1f6fb2", WATCHED: "#7a3fa0"}
LOGARITHMIC = {"type": "log", "dtick": "D2"}
CURVE_PERCENTS = [0.5 * step for step in range(1, 198)] + [99 + 0.1 * step for step in range(1, 10)]

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2128}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid #d0d7de;text-align:right}
td:first-child{white-space:nowrap}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
.met{color:#1a7f37}.missed{color:#b42318;font-weight:600}.facts{color:#57606a}
"""


def short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def road_rows(samples: Sequence[Sample]) -> Iterable[list[str]]:
    """Load, system and the medians of COLUMNS."""
    for load, system in _pairs(sample for sample in samples if "per_s" in sample.figures):
        cells = [spread(samples, load, system, figure) for figure in COLUMNS]
        yield [load, system, *(short(cell.median) if cell else "" for cell in cells)]


def other_rows(samples: Sequence[Sample]) -> Iterable[list[str]]:
    """Load, system, figure, median and range of everything else."""
    for load, system in _pairs(sample for sample in samples if "per_s" not in sample.figures):
        names = next(sample.figures for sample in samples if (sample.load, sample.system) == (load, system))
        for name in names:
            cell = spread(samples, load, system, name)
            if cell is not None:
                yield [load, system, name, short(cell.median), f"{short(cell.lowest)} .. {short(cell.highest)}"]


def aim_rows(answers: Sequence[Answer]) -> Iterable[list[str]]:
    """What, figure, range, aim, verdict."""
    for answer in answers:
        between = f"{short(answer.lowest)} .. {short(answer.highest)}"
        yield [answer.what, short(answer.value), between, answer.aim, "met" if answer.met else "missed"]


AIM_TITLES = ("aim", "figure", "rounds", "set", "")
OTHER_TITLES = ("part", "system", "figure", "median", "range")


def tables(samples: Sequence[Sample], answers: Sequence[Answer]) -> Iterable[Table]:
    """For the terminal."""
    for titles, rows in (
        (("load", "system", *COLUMNS.values()), road_rows(samples)),
        (OTHER_TITLES, other_rows(samples)),
        (AIM_TITLES, aim_rows(answers)),
    ):
        table, before = Table(), ""
        for index, title in enumerate(titles):
            table.add_column(title, justify="left" if index < 1 + (titles is not AIM_TITLES) else "right")
        for row in rows:
            if titles is not AIM_TITLES and before and row[0] != before:
                table.add_section()
            before = row[0]
            table.add_row(*row, style="red" if row[-1] == "missed" else None)
        if table.row_count:
            yield table


def write_json(path: Path, facts: Mapping[str, str], samples: Sequence[Sample], answers: Sequence[Answer]) -> None:
    """Everything but the single latencies."""
    content = {
        "machine": facts,
        "aims": [answer.row() for answer in answers],
        "samples": [
            {"load": sample.load, "system": sample.system, "round": sample.round, **sample.figures}
            for sample in samples
        ],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_html(path: Path, facts: Mapping[str, str], samples: Sequence[Sample], answers: Sequence[Answer]) -> None:
    """One file that opens anywhere, also without a network."""
    told = " · ".join(f"{name}: {html.escape(value)}" for name, value in facts.items())
    charts = "".join(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        for figure in _charts(samples)
    )
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Fangkong bench</title><style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
<h1>Fangkong bench</h1><p class="facts">{told}</p>
<p>Floor a: a bare MQTT reader, one synced group commit, DC-09 frames. Floor b: the same with paho. Both do nothing else.
"Watched" is the gateway while Prometheus scrapes it every second, five live listeners read and a program pages through
its events. Latency is from the moment an event falls due at the sensor to the centre's acknowledgement of its frame,
on one clock. Figures are medians of the rounds; a ratio is taken round by round. Reading a frame is measured beside the packages that
read the same; ours cuts the stream and gives observations as well.</p>
<h2>Aims</h2>{_html_table(AIM_TITLES, aim_rows(answers))}
<h2>Charts</h2>{charts}
<h2>The road</h2>{_html_table(("load", "system", *COLUMNS.values()), road_rows(samples))}
<h2>The box</h2>{_html_table(OTHER_TITLES, other_rows(samples))}
"""
    )


def _html_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return f'<td class="{text}">{text}</td>' if text in ("met", "missed") else f"<td>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _pairs(samples: Iterable[Sample]) -> list[tuple[str, str]]:
    """Each load and system once, in the order of their first sample; the systems of a load together."""
    loads: dict[str, dict[str, None]] = {}
    for sample in samples:
        loads.setdefault(sample.load, {})[sample.system] = None
    return [(load, system) for load, systems in loads.items() for system in systems]


# -- charts ----------------------------------------------------------------------------------------------------------------


def _charts(samples: Sequence[Sample]) -> Iterable[go.Figure]:
    road = [sample for sample in samples if "per_s" in sample.figures]
    steady = [sample for sample in road if sample.load.startswith("steady")]
    if curve := [sample for sample in road if sample.load == BUSY]:
        yield _curve(curve)
    if steady:
        yield _bars(steady, "p50_ms", "Median latency, sensor to 110-ack", "ms", log=True)
        yield _bars(steady, "p99_ms", "99 of 100 latencies are below", "ms", log=True)
    floods = [sample for sample in road if not sample.load.startswith("steady") and sample.load != "devices"]
    if floods:
        yield _bars(floods, "per_s", "Events a second that arrive at 110", "events/s")
    if road:
        yield _bars(road, "cpu_us", "CPU time per event", "us", log=True)
        yield _bars(road, "syncs", "Synced commits per event", "", log=True)
    if polls := [sample for sample in samples if sample.load == "polls"]:
        yield _lateness(polls)
    if decoded := [sample for sample in samples if "us_per_frame" in sample.figures]:
        yield _bars(decoded, "us_per_frame", "CPU time to read one frame", "us")


def _bars(samples: Sequence[Sample], figure: str, title: str, unit: str, *, log: bool = False) -> go.Figure:
    """Grouped by load; whiskers from the lowest to the highest round."""
    pairs = _pairs(samples)
    bars = []
    for system in dict.fromkeys(system for _, system in pairs):
        loads = [load for load, other in pairs if other == system]
        cells = [cell for load in loads if (cell := spread(samples, load, system, figure)) is not None]
        medians = [cell.median for cell in cells]
        whiskers = {
            "array": [cell.highest - cell.median for cell in cells],
            "arrayminus": [cell.median - cell.lowest for cell in cells],
        }
        bars.append(
            go.Bar(name=system, x=loads, y=medians, error_y=whiskers, marker_color=COLOURS.get(system, "#4b9b6b"))
        )
    return _laid_out(go.Figure(bars), title, y=unit, log="y" if log else "")


def _curve(samples: Sequence[Sample]) -> go.Figure:
    """All rounds together."""
    lines = []
    for system in dict.fromkeys(sample.system for sample in samples):
        merged = sorted(latency for sample in samples if sample.system == system for latency in sample.latencies_ms)
        values = [share(merged, percent) for percent in CURVE_PERCENTS]
        lines.append(go.Scatter(name=system, x=values, y=CURVE_PERCENTS, mode="lines", line_color=COLOURS.get(system)))
    return _laid_out(go.Figure(lines), f"Latency at {BUSY.removeprefix('steady ')}", x="ms", y="% of events", log="x")


def _lateness(samples: Sequence[Sample]) -> go.Figure:
    values = [latency for sample in samples for latency in sample.latencies_ms]
    shown = [share(sorted(values), percent) for percent in CURVE_PERCENTS]
    line = go.Scatter(x=shown, y=CURVE_PERCENTS, mode="lines", line_color=COLOURS[OURS])
    return _laid_out(go.Figure([line]), "Modbus TCP: how late polls are", x="ms", y="% of polls", log="x")


def _laid_out(figure: go.Figure, title: str, *, x: str = "", y: str = "", log: str = "") -> go.Figure:
    figure.update_layout(title=title, template="plotly_white", height=380, margin={"t": 60, "b": 50}, barmode="group")
    figure.update_xaxes(title=x, **(LOGARITHMIC if log == "x" else {}))
    figure.update_yaxes(title=y, **(LOGARITHMIC if log == "y" else {}))
    return figure
