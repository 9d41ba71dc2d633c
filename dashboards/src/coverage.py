"""The boards of the coverage, of a district and of a community. `python -m dashboards.src.coverage` writes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dashboards.src.boards import GRAFANA, Look, Panel, Rows, begun, encoded, variable, write_or_check

DISTRICT = GRAFANA / "coverage_district.json"
COMMUNITY = GRAFANA / "coverage_community.json"


def _rows(of: str, by: str) -> Rows:
    """`of`: which series, as matchers with a comma behind; `by`: the label that lines are drawn for."""

    def points(state: str) -> str:
        return f'sum(fangkong_coverage_points{{{of}state="{state}"}})'

    def figure(title: str, about: str, part: str, whole: str) -> Panel:
        share = [(f"floor(1000 * {points(part)} / {points(whole)}) / 1000", "")]  # 9999 of 10000 is not 100 %
        return Panel(title, about, share, Look.NUMBER, "percentunit", warn=1.0, bad=0.95)

    def count(title: str, about: str, expression: str) -> Panel:
        return Panel(title, about, [(f"{expression} or vector(0)", "")], Look.NUMBER, warn=1, bad=10)

    return (
        (
            "四项指标",
            (
                figure("安装率", "Installed of required. Without required points there is no figure.", "installed", "required"),
                figure("完好率", "Working of installed.", "working", "installed"),
                figure("有效覆盖率", "Working of required.", "working", "required"),
                figure("联网率", "Networked of those that must be.", "networked", "must_network"),
            ),
        ),
        (
            "点位数与缺口",
            (
                Panel(
                    "点位数",
                    "The two counts behind every figure: required, installed, working, networked, must be networked, waived.",
                    [
                        (
                            f'sum by (state) (fangkong_coverage_points{{{of}state=~"required|installed|working|networked'
                            '|must_network|waived"})',
                            "{{state}}",
                        )
                    ],
                ),
                count("待整改", "Deficiencies that are open.", f"sum(fangkong_deficiencies{{{of}}})"),
                count("逾期未改", "Deficiencies past their due day.", f"sum(fangkong_deficiencies_overdue{{{of}}})"),
                count("未联网单位", "Sites without a valid proof that they reach 110.", f"sum(fangkong_coverage_sites_cut_off{{{of}}})"),
            ),
        ),
        (
            "趋势与电池",
            (
                Panel(
                    "有效覆盖趋势",
                    "Working requirements; a fall is equipment that stopped.",
                    [(f'sum by ({by}) (fangkong_coverage_points{{{of}state="working"}})', f"{{{{{by}}}}}")],
                ),
                Panel(
                    "各类设备失联",
                    "Devices that are silent, by kind. All areas of the box.",
                    [('sum by (kind) (fangkong_coverage_devices{state="silent"})', "{{kind}}")],
                ),
                Panel(
                    "电池预测",
                    "Devices whose battery is forecast to be empty within 7, 30 and 90 days. All areas of the box.",
                    [('sum by (days) (fangkong_battery_empty_within)', "{{days}} d")],
                ),
            ),
        ),
    )  # fmt: skip


_BOXES = (
    "网关",
    (
        Panel(
            "各网关状态",
            "Whether each box answers. Red: alert FangkongScrapeMissing names it after 30 s.",
            [('up{job="fangkong"}', "{{instance}}")],
            Look.UP_OR_DOWN,
        ),
        Panel(
            "覆盖率计算",
            "Whether each box counts. Red: its figures stand still, alert FangkongCoverageStandsStill.",
            [("fangkong_coverage_up", "{{instance}}")],
            Look.UP_OR_DOWN,
        ),
    ),
)


def district() -> str:
    """All areas of the boxes that are chosen."""
    made = begun("覆盖率(全区)", "fangkong-coverage-district", "Fangkong coverage of a district.")
    return encoded(made, (*_rows("", "area"), _BOXES))


def community() -> str:
    """The area that is chosen."""
    area = variable("area", "社区", "label_values(fangkong_coverage_points, area)")
    made = begun("覆盖率(社区)", "fangkong-coverage-community", "Fangkong coverage of a community.")
    return encoded(made.with_variable(area), _rows('area=~"$area", ', "instance"))


def main(arguments: Sequence[str] | None = None) -> int:
    """See write_or_check."""
    boards = ((DISTRICT, district()), (COMMUNITY, community()))
    return max(write_or_check(path, made, "dashboards.src.coverage", arguments) for path, made in boards)


if __name__ == "__main__":
    sys.exit(main())
