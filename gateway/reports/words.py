"""The words of the reports: Chinese first, English beside it. A code without a word is printed as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.kinds import FACTS as FACTS_OF_KINDS
from gateway.kinds import Kind

Lang = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class Said:
    """One text in both languages."""

    zh: str
    en: str

    def __getitem__(self, lang: Lang) -> str:
        return self.zh if lang == "zh" else self.en


def cause(code: str | int | None, lang: Lang) -> str:
    """Why, as people say it: the kind of an event; what a person wrote stays as it is."""
    if code in set(Kind):
        facts = FACTS_OF_KINDS[Kind(str(code))]
        return facts.zh if lang == "zh" else facts.en
    return "" if code is None else str(code)


def _words(lines: str) -> Mapping[str, Said]:
    """One line each: code, Chinese, English."""
    return {
        code: Said(zh, en) for code, zh, en in (line.strip().split(maxsplit=2) for line in lines.strip().splitlines())
    }


NO_REQUIRED_POINTS = Said("n/a (无应装点位)", "n/a (no required points)")
NO_INSTALLED_POINTS = Said("n/a (无已装点位)", "n/a (nothing installed)")
NOTHING = Said("无", "none")
NOT_REPORTED = Said("未上报", "not reported")

GAPS = _words("""
    not_planned        未规划       not planned
    not_installed      未安装       not installed
    not_accepted       未验收       not accepted
    out_of_service     已停用       out of service
    silent             失联         silent
    fault              故障         fault
    unreachable        上级不可达   unreachable
    bypassed           已旁路       bypassed
    untested           超期未测试   untested
    not_networked      未联网       not networked
    not_inspected      未检查       not inspected
    inspection_failed  检查不合格   inspection failed
    target             未装齐       not all installed
""")

MEASURES = _words("""
    intrusion       入侵报警     intrusion alarm
    panic           紧急报警     panic alarm
    access_control  出入口控制   access control
    intercom        楼宇对讲     intercom
    perimeter       周界报警     perimeter alarm
    patrol          电子巡查     electronic patrol
    gps             卫星定位     positioning
    power           电源监测     power supply watch
    door            车门监测     door watch
    fire            火灾报警     fire alarm
    security_door   防盗安全门   security door
    interlocked_door 联动互锁门  interlocking door
    bars            防护栏       bars
    bullet_resistant_screen 防弹复合玻璃 bullet-resistant screen
    fence           围墙(栅栏)   wall or fence
    wall            围墙         wall
    lighting        亮化         lighting
    lock            锁具         lock
    safe            保险柜       safe
""")

SITE_KINDS = _words("""
    bank_branch         银行营业场所   bank branch
    self_service_bank   自助银行       self-service bank
    bank_vault          金库           bank vault
    jewelry_store       金银珠宝店     jewellery shop
    cash_heavy_unit     钱财物集中单位 cash-heavy unit
    residential_estate  住宅小区       residential estate
    house_block         居民楼         house block
    mall                商场           mall
    supermarket         超市           supermarket
    street_shop         沿街商铺       street shop
    hazardous_store     危险品库       hazardous store
    school              学校           school
    kindergarten        幼儿园         kindergarten
    construction_site   建筑工地       construction site
    key_unit_other      其他重点单位   other key unit
    vehicle_cash        运钞车         cash vehicle
    vehicle_taxi        出租车         taxi
""")

DEVICE_KINDS = _words("""
    panel                 报警主机       alarm panel
    detector              探测器         detector
    radio_sensor          无线探测器     radio sensor
    radio_code            无线编码器     radio code transmitter
    panic_button          紧急按钮       panic button
    door_controller       门禁控制器     door controller
    perimeter_controller  周界控制器     perimeter controller
    vehicle_unit          车载终端       vehicle unit
    bus_gateway           总线网关       bus gateway
    mqtt_bridge           无线网桥       radio bridge
    siren                 警号           siren
    other                 其他设备       other equipment
""")

STATES = _words("""
    working      正常         working
    degraded     降级         degraded
    fault        故障         fault
    silent       失联         silent
    unreachable  上级不可达   unreachable
    bypassed     已旁路       bypassed
""")

STAGES = _words("""
    planned         已规划   planned
    installed       已安装   installed
    accepted        已验收   accepted
    in_service      在用     in service
    out_of_service  停用     out of service
    retired         已报废   retired
    unplanned       计划外   unplanned
""")

STANDINGS = _words("""
    open       未整改   open
    rectified  待复核   said to be put right
    closed     已关闭   closed
""")

DUTIES = _words("""
    mandatory  必须   mandatory
    advised    建议   advised
""")

AREA_KINDS = _words("""
    all           全部     all
    district      区       district
    control_zone  防控区   control zone
    community     社区     community
    site          场所     site
""")

FACTS = _words("""
    area        区域     area
    site        场所     site
    point       防护点   point
    device      设备     device
    profile     配置标准 profile
    stage       阶段     stage
    acceptance  验收     acceptance
    waiver      豁免     waiver
    inspection  检查     inspection
    health      运行状态 health
    live_test   触发测试 live test
    proof       联网证明 proof
    sample      测量值   sample
    ticket      整改单   ticket
    target      目标     target
    edition     通报版本 edition
    walk_test   步测     walk test
    self_test   自检     self-test
    sheet       验收单   acceptance sheet
""")

COLOURS = _words("""
    grey    灰色(无预警)   grey (no warning)
    blue    蓝色(关注)     blue (watch)
    yellow  黄色(预警)     yellow (warning)
    orange  橙色(较重预警) orange (serious warning)
    red     红色(严重预警) red (severe warning)
""")

RISKS = _words("""
    high    高   high
    medium  中   medium
    low     低   low
""")

FORECASTS = _words("""
    reached           已达到             reached
    nothing_required  无应装点位         no required points
    too_short         无法预测(数据不足) no forecast: too few weeks
    not_falling       无法预测(未减少)   no forecast: not falling
    not_a_line        无法预测(无趋势)   no forecast: no trend
    too_far           无法预测(5年以上)  no forecast: beyond 5 years
""")

TIPS = _words("""
    silent  设备失联多因断电或电池耗尽,请检查电源、电池和天线。  Silent equipment has mostly lost its power: check plug, battery and aerial.
    fault  发现设备红灯闪烁或蜂鸣,请及时报修,不要自行拆开。  A red light or a beep means a fault: report it, do not open the case.
    unreachable  请勿切断楼道弱电箱、网关和路由器的电源。  Do not switch off cabinets, gateways and routers in the hallway.
    bypassed  维修后请恢复已旁路的防区,离开前确认布防成功。  After repairs put zones back into service, and see that the place is armed.
    untested  紧急按钮平时无声,请配合每30天一次的测试。  A panic button is silent by nature: help with its test every 30 days.
    not_installed  新开业、新装修的场所请同步安装报警设施并申请验收。  New shops: have the alarm installed and accepted before you open.
    not_accepted  设备装好后请联系验收,未验收的设备不计入安装率。  Have new equipment accepted: until then it is not counted.
    inspect  请检查门窗、护栏、锁具是否牢固,楼道照明是否正常。  Check doors, bars and locks, and the lights of the hallway.
    test  每月按一次测试键,确认报警声和指示灯正常。  Press the test key once a month: sound and light must be there.
    battery  请查看门磁、红外探测器的电池,低电时及时更换。  Check the battery of your door sensor and replace it in time.
    report  发现设备损坏、断电或误报,请及时告知社区。  Tell the community of broken equipment, lost power and false alarms.
""")


def vocabulary(language: str) -> Mapping[str, Mapping[str, str]]:
    """The words of a page in a browser: by list, then by code."""
    lang: Lang = "en" if language == "en" else "zh"
    lists: Mapping[str, Mapping[str, Said]] = {
        "gap": GAPS, "measure": MEASURES, "site_kind": SITE_KINDS, "area_kind": AREA_KINDS, "risk": RISKS, "duty": DUTIES,
        "because": {kind: Said(facts.zh, facts.en) for kind, facts in FACTS_OF_KINDS.items()},
    }  # fmt: skip
    return {name: {code: said[lang] for code, said in words.items()} for name, words in lists.items()}
