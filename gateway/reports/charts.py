"""Charts as SVG inside a page: no script, no network, the same bytes for the same figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

COLOURS = ("#2f6db3", "#4c9f70", "#e0a030", "#c2452d")
LABEL_PX = 15
MARGIN = 6
BARS_MIN = 4
"""A single bar would fill the chart."""
FONT = '"Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", sans-serif'


def trend(days: Sequence[str], lines: Mapping[str, Sequence[int]], name: str) -> str:
    """Lines over days; few labels, so that they can be read."""
    chart = _chart(
        _pygal().Line, name, legend_at_bottom=True, legend_at_bottom_columns=len(lines), show_minor_x_labels=False
    )
    chart.x_labels = [day[5:] for day in days]
    chart.x_labels_major = [day[5:] for day in days[:: max(1, len(days) // 4)]]
    most = max((max(line, default=0) for line in lines.values()), default=0)
    least = min((min(line, default=0) for line in lines.values()), default=0)
    step = max(1, -(-(most - least + 2) // 4))
    floor = max(0, (least - 1) // step * step)
    chart.y_labels = [floor + step * number for number in range(-(-(most - floor) // step) + 1)]
    chart.range = (floor, chart.y_labels[-1])
    for label, line in lines.items():
        chart.add(label, list(line))
    return _svg(chart)


def bars(classes: Mapping[str, int], name: str) -> str:
    """A bar for each class, its number beside it."""
    chart = _chart(
        _pygal().HorizontalBar, name, show_legend=False, print_values=True, print_values_position="top",
        show_x_labels=False, show_x_guides=False, show_y_guides=False,
    )  # fmt: skip
    chart.margin_left = MARGIN + max(map(_unmeasured, classes), default=0)
    chart.range = (0, max(classes.values(), default=1) * 1.15)  # room for the number at the longest
    spare = max(0, BARS_MIN - len(classes))
    chart.x_labels = [""] * spare + list(classes)[::-1]
    chart.add("", [None] * spare + list(classes.values())[::-1])
    return _svg(chart)


def towards(
    actual: Sequence[tuple[date, int]],
    target: Sequence[tuple[date, int]],
    until: date | None,
    words: Sequence[str],
    name: str,
) -> str:
    """Shares in thousandths: what is installed, what was promised by when, and how it goes on to 100 % at `until`."""
    chart = _chart(_pygal().DateLine, name, legend_at_bottom=True, legend_at_bottom_columns=3, formatter=None)
    chart.margin_right = 5 * MARGIN  # half of the last day's label
    chart.value_formatter = lambda value: f"{value:.0f} %" if float(value).is_integer() else f"{value:.1f} %"
    chart.x_value_formatter = lambda day: f"{day:%y-%m-%d}"
    onward = [actual[-1], (until, 1000)] if until and actual else []
    lines = [actual, target, onward]
    days = sorted({day for line in lines for day, _ in line})
    if days:
        length = (days[-1] - days[0]).days
        chart.x_labels = sorted({days[0] + timedelta(days=length * quarter // 4) for quarter in range(5)})
    least = min(90, min((share for line in lines for _, share in line), default=0) // 100 * 10)  # an axis has a length
    chart.y_labels = [least + (100 - least) * part // 4 for part in range(5)]
    chart.range = (least, 100)
    for label, line in zip(words, lines, strict=True):
        chart.add(label, [(day, share / 10) for day, share in line])
    return _svg(chart)


def _unmeasured(text: str) -> int:
    """Pixels that a text takes beyond what the library reckons: a Chinese character is as wide as two letters."""
    return round(sum(ord(char) > 0x2E7F for char in text) * LABEL_PX * 0.45)


def _pygal() -> Any:
    """The library, without the finder of plug-ins that it hangs into Python's imports: every later import that fails would pass it."""
    import sys

    import pygal

    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != "PluginImportFixer"]
    return pygal


def _chart(kind: Any, name: str, **settings: Any) -> Any:
    from pygal.style import Style

    sizes = dict.fromkeys(("label", "major_label", "legend", "value", "value_label"), LABEL_PX)
    style = Style(
        background="white", plot_background="white", colors=COLOURS, font_family=FONT, opacity=".9", foreground="#1c2430",
        foreground_strong="#1c2430", foreground_subtle="#8a94a2", **{f"{name}_font_size": px for name, px in sizes.items()},
    )  # fmt: skip
    chart = kind(
        js=[], width=560, height=230, style=style, disable_xml_declaration=True, margin=MARGIN, truncate_label=-1, dots_size=3,
        **{"formatter": _whole, **settings},
    )  # fmt: skip
    chart.uuid = re.sub(r"\W", "-", name)  # else drawn by lot; a colon would end the selector of its styles
    chart.add_xml_filter(_bare)
    return chart


def _whole(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else ""


def _bare(root: Any) -> Any:
    """Without scripts, and without remarks that carry the date."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "script" or not isinstance(child.tag, str):
                parent.remove(child)
    return root


def _svg(chart: Any) -> str:
    made: str = chart.render(is_unicode=True)
    return made
