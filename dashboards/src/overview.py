"""The overview board as data. `python -m dashboards.src.overview` writes it, `--check` compares it with the committed file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import VariableRefresh

from dashboards.src.boards import GRAFANA, SOURCE, Look, Panel, Rows, begun, encoded, quantiles, write_or_check

BOARD = GRAFANA / "overview.json"
TO = 'destination=~"$destination"'

ROWS: Rows = (
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
                quantiles("fangkong_delivery_seconds", "destination, le", TO, "{{destination}}"),
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
                quantiles("fangkong_commit_seconds", "le", "", ""),
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


def board() -> str:
    """The board as Grafana's JSON."""
    destination = (
        dashboard.QueryVariable("destination")
        .label("接收方")
        .datasource(SOURCE)
        .query("label_values(fangkong_destination_up, destination)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
    )
    about = "Fangkong overview: the path to 110, deliveries, events, devices and lines, the event log."
    return encoded(begun("防控网关总览", "fangkong-overview", about).with_variable(destination), ROWS)


def main(arguments: Sequence[str] | None = None) -> int:
    """See write_or_check."""
    return write_or_check(BOARD, board(), "dashboards.src.overview", arguments)


if __name__ == "__main__":
    sys.exit(main())
