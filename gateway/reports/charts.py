"""Charts as SVG inside a page: no script, no network, the same bytes for the same figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#2f6db3", "#4c9f70", "#e0a030", "#c2452d")
FONT = '"Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", sans-serif'


def trend(days: Sequence[str], lines: Mapping[str, Sequence[int]], name: str) -> str:
    """Lines over days; few labels, so that they can be read."""
    pygal = _pygal()
    chart = _chart(
        pygal.Line, name, legend_at_bottom=True, legend_at_bottom_columns=len(lines), show_minor_x_labels=False
    )
    chart.x_labels = [day[5:] for day in days]
    chart.x_labels_major = [day[5:] for day in days[:: max(1, len(days) // 4)]]
    most = max((max(line, default=0) for line in lines.values()), default=0)
    least = min((min(line, default=0) for line in lines.values()), default=0)
    chart.range = (max(0, least - max(1, (most - least) // 2)), most + 1)
    for label, line in lines.items():
        chart.add(label, list(line))
    return _svg(chart)


def bars(classes: Mapping[str, int], name: str) -> str:
    """A bar for each class, its number beside it."""
    pygal = _pygal()
    chart = _chart(pygal.HorizontalBar, name, show_legend=False, print_values=True, print_values_position="top")
    chart.x_labels = list(classes)[::-1]
    chart.add("", list(classes.values())[::-1])
    return _svg(chart)


def _pygal() -> Any:
    """The library, without the finder of plug-ins that it hangs into Python's imports: every later import that fails would pass it."""
    import sys

    import pygal

    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != "PluginImportFixer"]
    return pygal


def _chart(kind: Any, name: str, **settings: Any) -> Any:
    from pygal.style import Style

    style = Style(
        background="white", plot_background="white", colors=COLOURS, font_family=FONT, label_font_size=15, major_label_font_size=15,
        legend_font_size=15, value_font_size=15, value_label_font_size=15, opacity=".9", foreground="#1c2430",
        foreground_strong="#1c2430", foreground_subtle="#8a94a2",
    )  # fmt: skip
    chart = kind(
        js=[], width=560, height=230, style=style, disable_xml_declaration=True, margin=6, truncate_label=-1, dots_size=3,
        formatter=lambda value: f"{value:.0f}" if float(value).is_integer() else "", **settings,
    )  # fmt: skip
    chart.uuid = re.sub(r"\W", "-", name)  # else drawn by lot; a colon would end the selector of its styles
    chart.add_xml_filter(_bare)
    return chart


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
