"""The acceptance sheet as a page to print and sign: Chinese or English, A4. Times are the site's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from gateway.coverage.days import LOCAL

ROLES_ZH = {
    "duty_officer": "值班员", "maintenance": "运维人员", "test_engineer": "测试工程师", "auditor": "审计员", "administrator": "管理员",
}  # fmt: skip

WORDS: Mapping[str, Mapping[str, str]] = {
    "zh-CN": {
        "title": "安防设施验收单", "draft": "草稿:步测尚未结束", "site": "单位", "address": "地址", "account": "110 接警账号",
        "begun": "步测开始", "ended": "步测结束", "tester": "测试角色", "reason": "事由", "result": "结果", "of": "项,合格",
        "complete": "全部合格,可以验收", "incomplete": "有点位未通过,不予验收", "number": "防区号", "point": "点位", "device": "设备",
        "zone": "设备防区", "alarm": "报警", "restore": "恢复", "measured": "信号与电量", "state": "结论", "press": "按键,无恢复",
        "passed": "合格", "lacks_device": "未装设备", "lacks_alarm": "未触发", "lacks_restore": "未恢复", "whole": "整机",
        "hash": "校验值(SHA-256)", "times": "时间均为北京时间(UTC+8)", "signature": "签字", "tested_by": "测试人", "accepted_by": "验收人",
        "date": "日期", "unknown": "未上报",
    },
    "en": {
        "title": "Acceptance sheet", "draft": "Draft: the walk test has not ended", "site": "Site", "address": "Address",
        "account": "Account at 110", "begun": "Walk test began", "ended": "Walk test ended", "tester": "Tester's role", "reason": "Reason",
        "result": "Result", "of": "rows, passed", "complete": "all have passed: fit for acceptance",
        "incomplete": "some have not passed: no acceptance", "number": "No.", "point": "Point", "device": "Device", "zone": "Zone",
        "alarm": "Alarm", "restore": "Restore", "measured": "Signal, battery", "state": "Verdict", "press": "a press: no restore",
        "passed": "passed", "lacks_device": "no device", "lacks_alarm": "not triggered", "lacks_restore": "not restored",
        "whole": "all of it", "hash": "Check value (SHA-256)", "times": "All times are Beijing time (UTC+8)", "signature": "Signature",
        "tested_by": "Tested by", "accepted_by": "Accepted by", "date": "Date", "unknown": "not reported",
    },
}  # fmt: skip
UNITS = {
    "rssi_dbm": "{} dBm", "margin_db": "+{} dB", "linkquality": "LQI {}", "signal": "{}", "battery_pct": "{} %", "voltage_mv": "{} mV",
    "voltage": "{} V",
}  # fmt: skip
FLAGS = {
    "battery_ok": {True: {"zh-CN": "电池正常", "en": "battery fine"}, False: {"zh-CN": "电池低", "en": "battery low"}},
    "battery_low": {False: {"zh-CN": "电池正常", "en": "battery fine"}, True: {"zh-CN": "电池低", "en": "battery low"}},
}


def page(sheet: Mapping[str, Any], language: Literal["zh-CN", "en"] = "zh-CN") -> str:
    """The whole page, with nothing to load from elsewhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 60 ms, for those who print

    loader = PackageLoader("gateway.commissioning")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.get_template("sheet.html")
    role = sheet["tester"]
    return template.render(
        sheet=sheet,
        words=WORDS[language],
        language=language,
        tester=ROLES_ZH.get(role, role) if language == "zh-CN" else role.replace("_", " "),
        day=lambda moment: _local(moment, "%Y-%m-%d %H:%M:%S"),
        hour=lambda moment: _local(moment, "%H:%M:%S"),
        measured=lambda values: _measured(values, language),
    )


def _local(moment: str | None, form: str) -> str:
    return datetime.fromisoformat(moment).astimezone(LOCAL).strftime(form) if moment else ""


def _measured(values: Mapping[str, Any], language: str) -> str:
    said = [UNITS[name].format(value) for name, value in values.items() if name in UNITS]
    said += [FLAGS[name][value][language] for name, value in values.items() if name in FLAGS and value in (True, False)]
    return ", ".join(said) or WORDS[language]["unknown"]
