"""`fangkong site` and `fangkong device` with what coverage says of them: a table for people, numbers for machines."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.clock import RealClock
from gateway.coverage.days import LOCAL
from gateway.coverage.facts import Fact, Sort
from gateway.model import Area, AreaKind, Device, Point, Site
from gateway.registry import Registry

Fangkong = Callable[..., tuple[int, str, str]]
DAY = timedelta(days=1)


async def entered(folder: Path) -> None:
    """A shop with three entrances: one works, one is silent with a battery that fell, one is waived; and a bank with nothing."""
    folder.mkdir()
    registry = await Registry.open(folder / "registry.db")
    now = RealClock().now() - DAY
    await registry.add(
        Area("d", "示范区", AreaKind.DISTRICT), Area("z", "东关街道", AreaKind.CONTROL_ZONE, "d"),
        Area("c", "第一社区", AreaKind.COMMUNITY, "z"),
        Site("shop", "便利店", "A10B", "street_shop", area="c"), Site("bank", "城关支行", "A10C", "bank_branch"),
    )  # fmt: skip
    facts = []
    for n in (1, 2, 3):
        await registry.add(
            Device(f"d{n}", "shop", kind="detector"), Point(f"p{n}", "shop", n, "门", f"d{n}", kind="entrance")
        )
        value = {"state": "silent" if n == 2 else "working", "cause": "silent" if n == 2 else "", "via": "", "open": []}
        facts += [
            Fact(Sort.ACCEPTANCE, (f"p{n}", f"d{n}", ""), {"sheet": "x", "by": "m"}, now),
            Fact(Sort.HEALTH, (f"d{n}", ""), value, now),
            Fact(Sort.STAGE, (f"d{n}",), {"stage": "in_service"}, now),
        ]
    facts.append(Fact(Sort.WAIVER, ("p3", "intrusion"), {"reason": "装修", "approver": "防控办"}, now, now + 30 * DAY))
    facts += [
        Fact(Sort.SAMPLE, ("d2", "battery_pct"), {"value": 25.0 + 2 * day}, now - day * DAY)
        for day in range(20, -1, -1)
    ]
    await registry.record(facts)
    await registry.close()


@pytest.fixture
def fangkong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fangkong:
    """Runs a command on that box, and returns its exit code and what it said."""
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")
    asyncio.run(entered(tmp_path / "var"))

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words), "--config", str(tmp_path / "site.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def row(table: str, begins: str) -> list[str]:
    """The cells of a line of a table."""
    [line] = [line for line in table.splitlines() if line.startswith(begins)]
    return [cell for cell in line.split("  ") if cell]


def test_sites_are_listed_with_rates_that_stand_beside_their_counts(fangkong: Fangkong) -> None:
    code, said, _ = fangkong("site", "list", "--coverage", "--area", "d")

    assert code == 0
    cells = [cell.strip() for cell in row(said, "shop")]
    assert cells[:8] == [
        "shop", "便利店", "street_shop", "c", "2", "100.0 % (2/2)", "50.0 % (1/2)", "n/a (无应装点位)",
    ]  # fmt: skip
    assert cells[8] == "1"  # waived
    assert "bank" not in said
    [counted] = json.loads(fangkong("site", "list", "--coverage", "--json", "--kind", "street_shop")[1])
    assert [counted["counts"][name] for name in ("required", "installed", "working", "must_network", "waived")] == [
        2, 2, 1, 0, 1,
    ]  # fmt: skip


def test_a_site_is_shown_with_what_is_asked_of_each_point(fangkong: Fangkong) -> None:
    code, said, _ = fangkong("site", "show", "shop", "--coverage")
    shown = json.loads(fangkong("site", "show", "shop", "--coverage", "--json")[1])

    assert code == 0
    lines = [line.split() for line in said.splitlines()]
    assert ["p2", "intrusion", "mandatory", "installed", "silent", "silent", "d2"] in [line[:7] for line in lines]
    asked = {(each["point"], each["measure"]): each for each in shown["points"]}
    assert asked["p1", "intrusion"]["working"]
    assert asked["p1", "intrusion"]["gap"] is None
    assert (asked["p2", "intrusion"]["gap"], asked["p2", "intrusion"]["device"]) == ("silent", "d2")
    assert (asked["p3", "intrusion"]["waived"], asked["p3", "intrusion"]["because"]) == (True, "装修")
    assert asked["p1", "security_door"]["gap"] == "not_inspected"
    assert shown["counts"]["physical"] == 3
    assert json.loads(fangkong("site", "show", "shop", "--json")[1])["name"] == "便利店"


def test_what_was_never_planned_is_named_as_missing(fangkong: Fangkong) -> None:
    _, said, _ = fangkong("site", "show", "bank", "--coverage")

    assert "not_planned" in said
    assert "0.0 % (0/" in said


def test_a_device_is_listed_and_shown_with_its_stage_state_trend_and_coverage(fangkong: Fangkong) -> None:
    listed = {each["id"]: each for each in json.loads(fangkong("device", "list", "--json")[1])}
    assert (listed["d1"]["stage"], listed["d1"]["state"], listed["d1"]["cause"]) == ("in_service", "working", None)
    assert (listed["d2"]["state"], listed["d2"]["cause"]) == ("silent", "silent")
    assert listed["d2"]["since"] is not None

    shown = json.loads(fangkong("device", "show", "d2", "--json")[1])
    assert [(each["point"], each["gap"]) for each in shown["coverage"] if each["measure"] == "intrusion"] == [
        ("p2", "silent")
    ]
    [battery] = shown["trends"]
    # 25 % yesterday, 2 % a day, empty at 5 %: ten days from then.
    assert (battery["quantity"], battery["value"], battery["days_to_empty"]) == ("battery_pct", 25.0, 9)
    code, said, _ = fangkong("device", "show", "d2")
    assert code == 0
    assert "in_service" in said
    assert row(said, "battery_pct")[-2:] == ["9", "-"]
    assert "no measurements" in fangkong("device", "show", "d1")[1]


@pytest.mark.parametrize(
    "words", [("device", "list"), ("device", "show", "d2"), ("site", "show", "shop", "--coverage")]
)
def test_people_read_local_time_and_machines_read_an_offset(fangkong: Fangkong, words: tuple[str, ...]) -> None:
    stamps = re.findall(r'"(?:since|at)": "([^"]+)"', fangkong(*words, "--json")[1])
    moments = [datetime.fromisoformat(stamp) for stamp in stamps]
    said = fangkong(*words)[1]

    assert moments
    assert all(moment.utcoffset() == timedelta() for moment in moments)
    assert all(f"{moment.astimezone(LOCAL):%Y-%m-%d %H:%M:%S}+08:00" in said for moment in moments)
    assert "+00:00" not in said


def test_further_watchers_of_a_point_are_words_and_none_is_a_dash(fangkong: Fangkong, tmp_path: Path) -> None:
    async def watched_twice() -> None:
        registry = await Registry.open(tmp_path / "var" / "registry.db")
        await registry.put([replace(registry.snapshot.points["p1"], also=(("d2", 5), ("d3", 4)))])
        await registry.close()

    assert "()" not in fangkong("device", "show", "d1")[1]
    assert row(fangkong("point", "list")[1], "p1")[-1].strip() == "-"
    asyncio.run(watched_twice())
    assert row(fangkong("point", "list")[1], "p1")[-1].strip() == "d2 5, d3 4"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("site", "show", "shopp"), 'id: \'shopp\' is not in the ledger; expected a site: fangkong site list (did you mean "shop"?'),
        (("site", "list", "--area", "x"), "--area: 'x' is not in the ledger; expected an area: fangkong area list (区域不存在)"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_with_what_was_expected(
    fangkong: Fangkong, words: tuple[str, ...], said: str
) -> None:
    code, _, complaint = fangkong(*words)

    assert code == 2
    assert said in complaint
