"""Areas, sites and devices from the command line, and a device's life: its stage, and another one in its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.clock import RealClock
from gateway.coverage.count import counts, verdicts
from gateway.coverage.days import day_of
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import History
from gateway.coverage.verdict import Gap, Rules
from gateway.model import Point, Site
from gateway.registry import Registry, Snapshot

Fangkong = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fangkong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fangkong:
    """Runs a command on an empty box and returns its exit code and what it said."""
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words), "--config", str(tmp_path / "site.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def kept(tmp_path: Path) -> tuple[Snapshot, Sequence[Fact]]:
    """The ledger, and all that was ever said."""

    async def load() -> tuple[Snapshot, Sequence[Fact]]:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        facts = await registry.facts()
        await registry.close()
        return registry.snapshot, facts

    return asyncio.run(load())


@pytest.fixture
def bank(fangkong: Fangkong) -> Fangkong:
    """A bank with a panel, and a counter that its zone 3 watches."""
    assert fangkong("area", "add", "d1", "--name", "芝罘区", "--kind", "district")[0] == 0
    site = ("site", "add", "b1", "--name", "银行", "--account", "1A2B", "--kind", "bank_branch", "--area", "d1")
    assert fangkong(*site, "--key-unit", "--responsible", "保卫科 0535-1", "--closes", "2099-12-31")[0] == 0
    panel = ("device", "add", "panel-1", "--site", "b1", "--kind", "panel", "--vendor", "V", "--model", "M")
    counter = ("--point", "b1-p1", "--number", "1", "--zone", "3", "--point-kind", "counter_panic")
    assert fangkong(*panel, *counter)[0] == 0
    assert fangkong("device", "add", "button-1", "--site", "b1", "--parent", "panel-1")[0] == 0
    return fangkong


def test_what_the_options_say_is_in_the_ledger(tmp_path: Path, bank: Fangkong) -> None:
    ledger, _ = kept(tmp_path)
    site, panel = ledger.sites["b1"], ledger.devices["panel-1"]

    assert json.loads(bank("area", "list", "--json")[1])[0]["name"] == "芝罘区"
    assert (site.area, site.is_key_unit, site.responsible, site.closes) == ("d1", True, "保卫科 0535-1", "2099-12-31")
    assert (panel.kind, panel.vendor, panel.model) == ("panel", "V", "M")
    assert ledger.devices["button-1"].parent == "panel-1"
    assert ledger.points["b1-p1"] == Point("b1-p1", "b1", 1, "", "panel-1", 3, "counter_panic")
    assert "上级区域" in bank("area", "add", "z", "--name", "x", "--kind", "community", "--parent", "gone")[2]


def test_a_stage_is_said_by_hand_and_stays_in_the_record(tmp_path: Path, bank: Fangkong) -> None:
    assert bank("device", "stage", "panel-1", "out_of_service")[0] == 0
    assert bank("device", "stage", "panel-1", "in_service")[0] == 0
    assert "设备不存在" in bank("device", "stage", "nobody", "retired")[2]

    said = [fact.value["stage"] for fact in kept(tmp_path)[1] if fact.sort is Sort.STAGE and fact.value]
    assert said == ["out_of_service", "in_service"]
    assert "out_of_service" in bank("audit", "list", "--json")[1]


def test_a_replaced_device_hands_on_its_points_and_what_was_is_still_known(tmp_path: Path, bank: Fangkong) -> None:
    code, said, _ = bank("device", "replace", "panel-1", "panel-2", "--model", "M2", "--json")
    assert (code, json.loads(said)[0]["device"]) == (0, "panel-2")
    ledger, facts = kept(tmp_path)

    assert ledger.points["b1-p1"].watchers == (("panel-2", 3),)
    assert ledger.devices["button-1"].parent == "panel-2"
    assert (ledger.devices["panel-2"].vendor, ledger.devices["panel-2"].model) == ("V", "M2")
    stages = {fact.subject[0]: fact.value for fact in facts if fact.sort is Sort.STAGE}
    assert stages == {"panel-1": {"stage": "retired"}, "panel-2": {"stage": "installed"}}
    bound = [fact.value["device"] for fact in facts if fact.sort is Sort.POINT and fact.value]
    assert bound == ["panel-1", "panel-2"]


def test_one_that_returns_to_its_point_is_not_installed_until_it_is_walked_again(
    tmp_path: Path, bank: Fangkong
) -> None:
    def at_the_counter() -> list[tuple[bool, Gap | None]]:
        history = History(kept(tmp_path)[1])
        found = verdicts(history, RealClock().now() + timedelta(seconds=1), rules=Rules())
        return [(each.installed, each.gap) for each in found if each.point == "b1-p1" and each.measure == "panic"]

    accepted = Fact(Sort.ACCEPTANCE, ("b1-p1", "panel-1", "3"), {"sheet": "0", "by": "maintenance"}, RealClock().now())

    asyncio.run(said(tmp_path, accepted))
    assert [installed for installed, _ in at_the_counter()] == [True]
    assert bank("device", "replace", "panel-1", "panel-2")[0] == 0
    assert at_the_counter() == [(False, Gap.NOT_ACCEPTED)]
    assert bank("device", "replace", "panel-2", "panel-1")[0] == 0
    assert at_the_counter() == [(False, Gap.NOT_ACCEPTED)]
    asyncio.run(said(tmp_path, replace(accepted, valid_from=RealClock().now())))
    assert [installed for installed, _ in at_the_counter()] == [True]


async def said(tmp_path: Path, fact: Fact) -> None:
    registry = await Registry.open(tmp_path / "var" / "registry.db")
    await registry.record([fact])
    await registry.close()


def test_a_replacement_that_cannot_be_changes_nothing(tmp_path: Path, bank: Fangkong) -> None:
    bank("site", "add", "other", "--name", "x", "--account", "9999")
    bank("device", "add", "far", "--site", "other")

    assert "其他场所" in bank("device", "replace", "panel-1", "far")[2]
    assert "相同" in bank("device", "replace", "panel-1", "panel-1")[2]
    assert "设备不存在" in bank("device", "replace", "gone", "panel-9")[2]
    ledger, facts = kept(tmp_path)
    assert ledger.points["b1-p1"].device == "panel-1"
    assert not [fact for fact in facts if fact.sort is Sort.STAGE]


# -- changed and removed -------------------------------------------------------------------------------------------------


def test_only_what_is_said_of_a_site_and_an_area_changes(tmp_path: Path, bank: Fangkong) -> None:
    said = ("--name", "新名", "--closes", "", "--no-key-unit", "--latitude", "37.5", "--longitude", "121")
    assert bank("site", "set", "b1", *said)[0] == 0
    assert bank("area", "set", "d1", "--name", "福山区")[0] == 0
    ledger, facts = kept(tmp_path)

    assert ledger.sites["b1"] == Site(
        "b1", "新名", "1A2B", "bank_branch", latitude=37.5, longitude=121.0, area="d1", responsible="保卫科 0535-1"
    )
    assert (ledger.areas["d1"].name, ledger.areas["d1"].kind) == ("福山区", "district")
    names = [fact.value["name"] for fact in facts if fact.sort is Sort.SITE and fact.value]
    assert names == ["银行", "新名"]
    assert "账号" in bank("site", "set", "b1", "--account", "xyz")[2]
    for words in (("site", "set", "gone", "--name", "x"), ("area", "set", "gone"), ("point", "set", "gone")):
        assert "台账中没有该编号" in bank(*words)[2]


def test_a_point_is_planned_without_a_device_changed_and_removed(tmp_path: Path, bank: Fangkong) -> None:
    assert bank("point", "add", "b1-p2", "--site", "b1", "--number", "2", "--kind", "counter_panic")[0] == 0
    assert bank("point", "set", "b1-p2", "--name", "二号柜")[0] == 0
    assert kept(tmp_path)[0].points["b1-p2"] == Point("b1-p2", "b1", 2, "二号柜", kind="counter_panic")
    assert [row["id"] for row in json.loads(bank("point", "list", "--site", "b1", "--json")[1])] == ["b1-p1", "b1-p2"]
    assert bank("point", "add", "b1-p3", "--site", "b1", "--number", "2")[0] == 2

    assert bank("point", "remove", "b1-p1")[0] == 0
    ledger, facts = kept(tmp_path)
    assert [*ledger.points] == ["b1-p2"]
    assert [fact.value is None for fact in facts if fact.subject == ("b1-p1",)] == [False, True]
    assert bank("point", "remove", "b1-p1")[0] == 2
    assert "removed" in bank("audit", "list", "--json")[1]


def test_a_site_goes_with_all_that_is_there_and_its_past_is_still_counted(tmp_path: Path, bank: Fangkong) -> None:
    bank("site", "add", "b2", "--name", "x", "--account", "2A2B")
    bank("vehicle", "enrol", "panel-1", "--kind", "taxi")
    before = RealClock().now()
    assert bank("site", "remove", "b1")[0] == 0
    ledger, facts = kept(tmp_path)
    assert ([*ledger.sites], ledger.points, ledger.devices, ledger.vehicles) == (["b2"], {}, {}, {})
    history, rules = History(facts), Rules()
    assert [counts(history, at, rules=rules, node="site:b1").required > 0 for at in (before, RealClock().now())] == [
        True,
        False,
    ]
    assert bank("site", "add", "b1", "--name", "银行", "--account", "1A2B")[0] == 0


def test_who_has_to_be_pressed_is_listed_a_week_before_it_is_due(tmp_path: Path, bank: Fangkong) -> None:
    for name in ("fresh", "soon", "late", "never", "retired"):
        bank("device", "add", name, "--site", "b1", "--kind", "panic_button")
    bank("device", "stage", "retired", "retired")
    now = RealClock().now()
    for name, days in (("fresh", 22.9), ("soon", 23.1), ("late", 31), ("retired", 99)):
        asyncio.run(said(tmp_path, Fact(Sort.LIVE_TEST, (name, ""), {"event": "e"}, now - timedelta(days=days))))

    rows = json.loads(bank("self-test", "due", "--within", "7", "--json")[1])
    assert [row["device"] for row in rows] == ["late", "never", "soon"]
    assert [row["device"] for row in json.loads(bank("self-test", "due", "--within", "0", "--json")[1])] == [
        "late",
        "never",
    ]
    assert json.loads(bank("self-test", "due", "--site", "b1", "--json")[1]) == rows


@pytest.mark.parametrize("verb", ["due", "list"])
def test_self_tests_of_a_site_that_is_not_there_are_refused(bank: Fangkong, verb: str) -> None:
    code, _, complaint = bank("self-test", verb, "--site", "nosuch")

    assert (code, "--site: 'nosuch' is not in the ledger; expected a site" in complaint) == (2, True)


@pytest.mark.parametrize("words", [("self-test", "due"), ("inspection", "due")])
@pytest.mark.parametrize("days", ["-1", "3661", "soon"])
def test_what_is_due_is_asked_of_the_days_to_come(
    bank: Fangkong, capsys: pytest.CaptureFixture[str], words: tuple[str, str], days: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        bank(*words, f"--within={days}")

    assert ended.value.code == 2
    assert f"--within: 0 to 3660 days are expected, not '{days}'" in capsys.readouterr().err


def test_who_carries_the_inventory_away_is_known(tmp_path: Path, bank: Fangkong) -> None:
    assert bank("inventory", "export", tmp_path / "all.csv")[0] == 0

    [*_, newest] = json.loads(bank("audit", "list", "--json")[1])
    assert (newest["deed"], newest["subject"]) == ("export", "inventory")
    assert "all.csv" in json.dumps(newest)


# -- inspections and targets ---------------------------------------------------------------------------------------------


def test_an_inspection_holds_for_the_days_of_its_requirement_and_what_is_due_is_listed(bank: Fangkong) -> None:
    bank("device", "add", "d9", "--site", "b1", "--point", "w1", "--number", "9", "--point-kind", "window")

    def due() -> list[str]:
        return [row["result"] for row in json.loads(bank("inspection", "due", "--json")[1]) if row["point"] == "w1"]

    said = ("inspection", "add", "w1", "bars", "--by", "保卫科")
    assert due() == ["never"]
    assert bank(*said, "--result", "ok", "--on", "2020-01-01")[0] == 0
    assert due() == ["expired"]
    assert bank(*said, "--result", "failed", "--remark", "栏杆松动")[0] == 0
    assert due() == ["failed"]
    assert bank(*said, "--result", "ok")[0] == 0
    assert due() == []
    assert [row["result"] for row in json.loads(bank("inspection", "list", "--json")[1])] == ["ok"]


def test_an_inspection_of_what_nobody_asks_or_telemetry_proves_is_refused(bank: Fangkong) -> None:
    said = ("--result", "ok", "--by", "保卫科")
    assert "技防措施" in bank("inspection", "add", "b1-p1", "panic", *said)[2]
    assert "配置要求中没有" in bank("inspection", "add", "b1-p1", "bars", *said)[2]
    assert "点位不存在" in bank("inspection", "add", "gone", "bars", *said)[2]
    assert "检查日期" in bank("inspection", "add", "b1-p1", "panic", *said, "--on", "2999-01-01")[2]
    assert "--by" in bank("inspection", "add", "b1-p1", "panic", "--result", "ok", "--by", " ")[2]


def test_a_target_is_set_changed_and_dropped(bank: Fangkong) -> None:
    bank("target", "set", "area:d1", "2099-12-31", "--percent", "90")
    bank("target", "set", "area:d1", "2099-12-31", "--percent", "95.5")
    bank("target", "set", "all", "2099-06-30", "--percent", "100")
    assert bank("target", "drop", "all", "2099-06-30")[0] == 0

    wanted = [{"node": "area:d1", "due": "2099-12-31", "percent": 95.5}]
    assert json.loads(bank("target", "list", "--json")[1]) == wanted
    assert "不存在" in bank("target", "set", "area:gone", "2099-12-31", "--percent", "90")[2]
    assert "百分比" in bank("target", "set", "all", "2099-12-31", "--percent", "101")[2]
    assert bank("target", "drop", "all", "2099-06-30")[0] == 2  # dropped above
    assert "日期" in bank("target", "set", "all", "soon", "--percent", "90")[2]
    assert "due: 2020-12-31 is past; expected 2" in bank("target", "set", "all", "2020-12-31", "--percent", "90")[2]
    assert bank("target", "set", "all", day_of(RealClock().now()), "--percent", "90")[0] == 0
