"""What can be reported: the closed list of kinds, how urgent each is, its code towards 110 and its words.

Codes are Contact ID (SIA DC-05). The list is open at the edge: what a driver cannot name becomes `unknown`
with its raw code kept, and travels on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Lane(IntEnum):
    """Urgency. Lower goes first, always; only FAULT has a small share of its own so that it never starves."""

    LIFE = 0
    ALARM = 1
    FAULT = 2
    STATUS = 3
    BULK = 4


class Kind(StrEnum):
    """What happened, in the words used through code, configuration, metrics and screen."""

    PANIC = "panic"
    DURESS = "duress"
    PANIC_SILENT = "panic_silent"
    MEDICAL = "medical"
    FIRE = "fire"
    SMOKE = "smoke"
    HEAT = "heat"
    GAS = "gas"
    CARBON_MONOXIDE = "carbon_monoxide"
    BURGLARY = "burglary"
    PERIMETER = "perimeter"
    INTERIOR = "interior"
    ZONE_24H = "zone_24h"
    ENTRY_EXIT = "entry_exit"
    TAMPER = "tamper"
    WATER = "water"
    CANCEL = "cancel"
    DOOR_FORCED = "door_forced"
    DENIED_REPEATEDLY = "denied_repeatedly"
    INTERLOCK = "interlock"
    SECURITY = "security"
    VEHICLE_MOVED = "vehicle_moved"
    POWER_CUT = "power_cut"
    ANTENNA_CUT = "antenna_cut"
    GEOFENCE = "geofence"
    COLLISION = "collision"
    RF_JAMMING = "rf_jamming"
    UNKNOWN = "unknown"
    SILENT = "silent"
    COMM_FAULT = "comm_fault"
    AC_LOSS = "ac_loss"
    BATT_LOW = "batt_low"
    RF_BATT_LOW = "rf_batt_low"
    DEVICE_FAULT = "device_fault"
    LOOP_FAULT = "loop_fault"
    TECHNICAL = "technical"
    SUPERVISORY = "supervisory"
    JOURNAL_FAULT = "journal_fault"
    CLOCK_FAULT = "clock_fault"
    CLOCK_SET = "clock_set"
    FLOODING = "flooding"
    DOOR_HELD = "door_held"
    OPEN_CLOSE = "open_close"
    BYPASS = "bypass"
    ACCESS_DENIED = "access_denied"
    ACCESS_GRANTED = "access_granted"
    CREDENTIAL = "credential"
    EXIT_REQUEST = "exit_request"
    DOOR_OPEN = "door_open"
    UNLOCKED = "unlocked"
    OVERSPEED = "overspeed"
    IGNITION = "ignition"
    COMMAND = "command"
    LOG = "log"
    WALK_TEST = "walk_test"
    TEST_MANUAL = "test_manual"
    TEST_PERIODIC = "test_periodic"
    POSITION = "position"
    TELEMETRY = "telemetry"
    HEARTBEAT = "heartbeat"


class Qualifier(StrEnum):
    """Contact ID's Q: a new condition (1), the end of it (3), or the condition still present (6)."""

    NEW = "new"
    RESTORE = "restore"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class KindFacts:
    """What the program needs to know about a kind. `contact_id` is None where no code exists."""

    lane: Lane
    contact_id: str | None
    zh: str
    en: str
    momentary: bool = False
    """A press, not a condition: two equal reports are two events and are never merged by content alone."""


FACTS: dict[Kind, KindFacts] = {
    Kind.PANIC: KindFacts(Lane.LIFE, "120", "紧急报警", "panic", momentary=True),
    Kind.DURESS: KindFacts(Lane.LIFE, "121", "胁迫报警", "duress", momentary=True),
    Kind.PANIC_SILENT: KindFacts(Lane.LIFE, "122", "无声劫持报警", "silent hold-up", momentary=True),
    Kind.MEDICAL: KindFacts(Lane.LIFE, "100", "医疗求助", "medical", momentary=True),
    Kind.FIRE: KindFacts(Lane.LIFE, "110", "火警", "fire"),
    Kind.SMOKE: KindFacts(Lane.LIFE, "111", "烟感火警", "smoke"),
    Kind.HEAT: KindFacts(Lane.LIFE, "114", "温感火警", "heat"),
    Kind.GAS: KindFacts(Lane.LIFE, "151", "燃气泄漏报警", "gas"),
    Kind.CARBON_MONOXIDE: KindFacts(Lane.LIFE, "162", "一氧化碳报警", "carbon monoxide"),
    Kind.BURGLARY: KindFacts(Lane.ALARM, "130", "盗警", "burglary"),
    Kind.PERIMETER: KindFacts(Lane.ALARM, "131", "周界报警", "perimeter"),
    Kind.INTERIOR: KindFacts(Lane.ALARM, "132", "内部防区盗警", "interior"),
    Kind.ZONE_24H: KindFacts(Lane.ALARM, "133", "24小时防区盗警", "24-hour zone"),
    Kind.ENTRY_EXIT: KindFacts(Lane.ALARM, "134", "出入防区盗警", "entry/exit"),
    Kind.TAMPER: KindFacts(Lane.ALARM, "144", "防拆报警", "tamper"),
    Kind.WATER: KindFacts(Lane.ALARM, "154", "漏水报警", "water leak"),
    # A person at the panel takes an alarm back: 110 must hear of it as soon as of the alarm.
    Kind.CANCEL: KindFacts(Lane.ALARM, "406", "用户取消报警", "alarm cancelled", momentary=True),
    Kind.DOOR_FORCED: KindFacts(Lane.ALARM, "423", "强行开门", "door forced"),
    Kind.DENIED_REPEATEDLY: KindFacts(Lane.ALARM, "461", "多次刷卡或输码被拒", "denied repeatedly", momentary=True),
    Kind.INTERLOCK: KindFacts(Lane.ALARM, "436", "联动门同时打开", "interlock broken"),
    # Somebody has been at the line itself: a wrong key, a channel that is no longer secure, an unknown terminal.
    Kind.SECURITY: KindFacts(Lane.ALARM, "145", "通信安全异常", "security of the line"),
    # Contact ID has no words for vehicles: 750 to 789 are the users' own (SIA DC-05), and 110 must be told of them.
    Kind.VEHICLE_MOVED: KindFacts(Lane.ALARM, "750", "车辆驻车时被移动", "vehicle moved while parked"),
    Kind.GEOFENCE: KindFacts(Lane.ALARM, "751", "车辆越界", "vehicle outside its area"),
    Kind.ANTENNA_CUT: KindFacts(Lane.ALARM, "752", "定位天线断开或短路", "antenna cut or short"),
    Kind.COLLISION: KindFacts(Lane.LIFE, "753", "车辆碰撞或侧翻", "collision or rollover", momentary=True),
    Kind.POWER_CUT: KindFacts(Lane.ALARM, "337", "终端主电源被切断", "main power cut"),
    Kind.RF_JAMMING: KindFacts(Lane.ALARM, "344", "无线干扰(阻塞)", "radio jamming"),
    # An unknown code may be an alarm: it travels with the alarms until a person has named it.
    Kind.UNKNOWN: KindFacts(Lane.ALARM, None, "未知报警代码", "unknown code", momentary=True),
    Kind.SILENT: KindFacts(Lane.FAULT, "381", "设备失联", "device silent"),
    Kind.COMM_FAULT: KindFacts(Lane.FAULT, "350", "通信故障", "communication fault"),
    Kind.AC_LOSS: KindFacts(Lane.FAULT, "301", "交流电断电", "mains lost"),
    Kind.BATT_LOW: KindFacts(Lane.FAULT, "302", "主机电池电压低", "battery low"),
    Kind.RF_BATT_LOW: KindFacts(Lane.FAULT, "384", "无线探测器电池电压低", "sensor battery low"),
    Kind.DEVICE_FAULT: KindFacts(Lane.FAULT, "380", "探测器故障", "detector fault"),
    Kind.LOOP_FAULT: KindFacts(Lane.FAULT, "370", "防区回路故障", "loop fault"),
    # Cold stores, tanks, ventilation: for the site's own people, not for 110.
    Kind.TECHNICAL: KindFacts(Lane.FAULT, "150", "设备环境异常", "technical alarm"),
    Kind.SUPERVISORY: KindFacts(Lane.FAULT, "200", "消防监管信号", "supervisory signal"),
    Kind.JOURNAL_FAULT: KindFacts(Lane.FAULT, "300", "系统故障(事件存储)", "journal fault"),
    Kind.CLOCK_FAULT: KindFacts(Lane.FAULT, "626", "时钟不准", "clock wrong"),
    Kind.CLOCK_SET: KindFacts(Lane.FAULT, "625", "时钟跳变", "clock set", momentary=True),
    # Swinger trouble, Contact ID's own word for a point that goes off again and again.
    Kind.FLOODING: KindFacts(Lane.FAULT, "377", "设备频繁上报", "flooding source"),
    Kind.DOOR_HELD: KindFacts(Lane.FAULT, "426", "门长时间未关", "door held open"),
    Kind.OPEN_CLOSE: KindFacts(Lane.STATUS, "401", "撤防/布防", "disarm/arm", momentary=True),
    Kind.BYPASS: KindFacts(Lane.STATUS, "570", "防区旁路", "bypass"),
    Kind.ACCESS_DENIED: KindFacts(Lane.STATUS, "421", "门禁拒绝通行", "access denied", momentary=True),
    Kind.ACCESS_GRANTED: KindFacts(Lane.STATUS, "422", "门禁通行", "access granted", momentary=True),
    # A reader only reads: whether the door opens for it is decided elsewhere.
    Kind.CREDENTIAL: KindFacts(Lane.STATUS, None, "刷卡或输码", "card or code presented", momentary=True),
    Kind.EXIT_REQUEST: KindFacts(Lane.STATUS, "425", "出门按钮", "exit request", momentary=True),
    Kind.DOOR_OPEN: KindFacts(Lane.STATUS, None, "门开", "door open"),
    Kind.UNLOCKED: KindFacts(Lane.STATUS, None, "门锁打开", "unlocked"),
    Kind.OVERSPEED: KindFacts(Lane.STATUS, "754", "车辆超速", "overspeed"),
    Kind.IGNITION: KindFacts(Lane.STATUS, None, "车辆点火", "ignition on"),
    # The gateway's own word on what it was told to have a device do.
    Kind.COMMAND: KindFacts(Lane.STATUS, None, "控制指令", "command", momentary=True),
    # What a panel writes into its own log (programming, schedules, listen-in): kept with its code, told to nobody.
    Kind.LOG: KindFacts(Lane.STATUS, None, "主机日志", "panel log", momentary=True),
    # Begun and ended by a person: what of a site is tried out at present, and so is no alarm.
    Kind.WALK_TEST: KindFacts(Lane.STATUS, "607", "步测", "walk test"),
    Kind.TEST_MANUAL: KindFacts(Lane.STATUS, "601", "手动测试", "manual test", momentary=True),
    Kind.TEST_PERIODIC: KindFacts(Lane.STATUS, "602", "定期测试", "periodic test", momentary=True),
    Kind.POSITION: KindFacts(Lane.BULK, None, "位置", "position", momentary=True),
    Kind.TELEMETRY: KindFacts(Lane.BULK, None, "遥测", "telemetry", momentary=True),
    # Proof of life: moves a deadline, is never an event of its own.
    Kind.HEARTBEAT: KindFacts(Lane.BULK, None, "心跳", "heartbeat", momentary=True),
}
