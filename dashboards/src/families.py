"""The board of the device families as data. `python -m dashboards.src.families` writes it, `--check` compares it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dashboards.src.boards import GRAFANA, Look, Panel, Rows, begun, encoded, quantiles, write_or_check

BOARD = GRAFANA / "families.json"


def _per_minute(metric: str, by: str, matchers: str = "") -> tuple[str, str]:
    """Expression and legend of a counter, by one label."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval])) * 60", f"{{{{{by}}}}}"


def _of_kinds(*kinds: str) -> Sequence[tuple[str, str]]:
    return [_per_minute("fangkong_events_total", "kind", f'kind=~"{"|".join(kinds)}"')]


ROWS: Rows = (
    (
        "线路",
        (
            Panel(
                "各线路状态",
                "Whether each line to the devices is open. Alert FangkongConnectionDown after 30 s.",
                [("min by (connection) (fangkong_connection_up)", "{{connection}}")],
                Look.UP_OR_DOWN,
            ),
            Panel(
                "接入的对端",
                "Panels, terminals and receivers connected on each listening line.",
                [("sum by (connection) (fangkong_connection_peers)", "{{connection}}")],
            ),
            Panel(
                "断线次数",
                "Times each line was lost, per minute. A line that comes and goes has a bad contact or a bad supply.",
                [_per_minute("fangkong_connection_lost_total", "connection")],
            ),
            Panel(
                "程序故障",
                "Conversations ended by a fault in our own code, per minute. Anything above zero is a defect to be reported.",
                [_per_minute("fangkong_driver_errors_total", "connection")],
            ),
        ),
    ),
    (
        "各类设备",
        (
            Panel(
                "各驱动事件",
                "Events stored per minute, by driver; `rules` is what follows from facts over time, `gateway` its own word.",
                [_per_minute("fangkong_driver_events_total", "driver")],
            ),
            Panel(
                "拒收的帧",
                "Frames refused per minute, by reason: checksum is noise, spoofed a wrong key, unknown_device a stranger.",
                [_per_minute("fangkong_rejected_frames_total", "reason")],
            ),
            Panel(
                "失联设备",
                "Devices past their deadline, by site. Their places are unprotected.",
                [('sum by (site) (fangkong_devices{state="silent"})', "{{site}}")],
                unit="short",
            ),
            Panel(
                "DC-09 偏差",
                "Frames of panels that were accepted although they depart from SIA DC-09, per minute, by panel and departure.",
                [
                    (
                        "topk(10, sum by (device, deviation) (rate(fangkong_deviations_total[$__rate_interval])) * 60)",
                        "{{device}} {{deviation}}",
                    )
                ],
            ),
            Panel(
                "Modbus 请求",
                "Requests on Modbus lines per minute, by outcome. A dead unit shows as timeouts.",
                [_per_minute("fangkong_bus_requests_total", "outcome")],
            ),
            Panel(
                "电池与电源",
                "Batteries and supplies that fail or are back, per minute.",
                _of_kinds("ac_loss", "batt_low", "rf_batt_low", "device_fault"),
            ),
        ),
    ),
    (
        "门禁",
        (
            Panel(
                "门禁报警",
                "Doors forced or held open, interlocks broken, repeated refusals, duress: events per minute, ends included.",
                _of_kinds("door_forced", "door_held", "interlock", "denied_repeatedly", "duress"),
            ),
            Panel(
                "通行",
                "Cards and codes read, grants, refusals and exit buttons per minute. No card number is ever kept.",
                _of_kinds("credential", "access_granted", "access_denied", "exit_request", "door_open", "unlocked"),
            ),
            Panel(
                "通道安全",
                "Wrong keys and broken secure channels (OSDP, DC-09, JT/T 808), and readers that are offline; ends included.",
                _of_kinds("security", "comm_fault", "tamper"),
            ),
        ),
    ),
    (
        "车辆",
        (
            Panel(
                "车辆报警",
                "Borders crossed, parked cars moved, antennas and supplies cut, collisions: events per minute, ends included.",
                _of_kinds("geofence", "vehicle_moved", "antenna_cut", "power_cut", "collision", "overspeed"),
            ),
            Panel(
                "位置",
                "Positions of vehicles on duty that were kept, and reports of which nothing is kept, per minute.",
                [
                    (
                        'sum(rate(fangkong_events_total{kind="position"}[$__rate_interval])) * 60',
                        "保存 kept",
                    ),
                    ("sum(rate(fangkong_not_kept_total[$__rate_interval])) * 60", "未保存 not kept"),
                ],
            ),
        ),
    ),
    (
        "控制指令",
        (
            Panel(
                "指令结果",
                "Commands per minute by how they ended. Expired: it would have come too late and was dropped.",
                [_per_minute("fangkong_commands_total", "outcome")],
            ),
            Panel(
                "各类指令",
                "Commands per minute by what was asked for.",
                [_per_minute("fangkong_commands_total", "act")],
            ),
            Panel(
                "执行时间",
                "From the wish to the device's own evidence, half and 99 of 100 commands.",
                quantiles("fangkong_command_seconds", "le", "", ""),
                unit="s",
            ),
            Panel(
                "未结束的指令",
                "Commands that have neither been executed nor failed nor expired.",
                [("sum(fangkong_commands_open)", "{{instance}}")],
                Look.NUMBER,
                warn=10,
                bad=100,
            ),
        ),
    ),
)


def board() -> str:
    """The board as Grafana's JSON."""
    about = "Fangkong device families: lines, panels, buses, doors, vehicles, commands."
    return encoded(begun("各类设备", "fangkong-families", about), ROWS)


def main(arguments: Sequence[str] | None = None) -> int:
    """See write_or_check."""
    return write_or_check(BOARD, board(), "dashboards.src.families", arguments)


if __name__ == "__main__":
    sys.exit(main())
