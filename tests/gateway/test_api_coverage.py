"""Coverage from the record of facts to the figures, gaps and deficiencies that people and programs read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.access import GATEWAY, Role
from gateway.assurance import Assurance
from gateway.config import CoverageSection
from gateway.coverage.facts import Fact, Sort
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import Area, AreaKind, Device, Point, Site
from tests.gateway.api_box import Box, closed_box

LINE = {"measure": "intrusion", "networking": "must"}
PROFILE = {"version": "1", "source": "test", "requirements": [{"point_kind": "room", **LINE}]}


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A community with two sites of two points each; all works but that the second site was never proved to reach 110."""
    async with closed_box(tmp_path) as parts:
        now = parts.clock.now() - timedelta(days=1)
        registry = parts.registry
        await registry.add(Area("d", "区", AreaKind.DISTRICT), Area("c", "社区", AreaKind.COMMUNITY, "d"))
        facts = [Fact(Sort.PROFILE, ("test_kind",), PROFILE, datetime(2000, 1, 2, tzinfo=UTC))]
        for site, account in (("s1", "A10B"), ("s2", "A10C")):
            await registry.add(Site(site, site, account, "test_kind", area="c", responsible="物业值班室 0535-1234567"))
            for n in (1, 2):
                device, point = f"d{n}-{site}", f"p{n}-{site}"
                await registry.add(Device(device, site, kind="panel"), Point(point, site, n, "门", device, kind="room"))
                facts += [
                    Fact(Sort.ACCEPTANCE, (point, device, ""), {"sheet": "x", "by": "m"}, now),
                    Fact(Sort.HEALTH, (device, ""), {"state": "working", "cause": "", "via": ""}, now),
                ]
        await registry.record([*facts, Fact(Sort.PROOF, ("s1",), {"rung": "test_accepted", "event": "e"}, now)])
        async with parts.open():
            await parts.assurance.look()
            yield parts


def shown(box: Box, name: str) -> dict[str, float]:
    """Series of a metric by their labels."""
    samples = [s for family in box.metrics.registry.collect() for s in family.samples if s.name == f"fangkong_{name}"]
    return {" ".join(sample.labels.values()): sample.value for sample in samples}


async def health(box: Box, device: str, state: str) -> None:
    value = {"state": state, "cause": "silent", "via": ""}
    await box.registry.record([Fact(Sort.HEALTH, (device, ""), value, box.clock.now())])
    await box.assurance.look()


async def test_figures_of_a_node_are_counts_and_name_what_is_below(box: Box) -> None:
    answer = (await box.get("/api/v1/coverage")).json()
    counts = answer["counts"]

    assert [each["node"] for each in answer["children"]] == ["area:d"]
    assert [counts[name] for name in ("required", "installed", "working", "networked", "must_network")] == [
        4,
        4,
        4,
        2,
        4,
    ]
    below = (await box.get("/api/v1/coverage", node="area:c")).json()
    assert [(each["node"], each["kind"]) for each in below["children"]] == [
        ("site:s1", "test_kind"),
        ("site:s2", "test_kind"),
    ]
    assert (await box.get("/api/v1/coverage", node="site:s2")).json()["counts"]["networked"] == 0
    assert shown(box, "coverage_points")["c required"] == 4
    assert shown(box, "coverage_sites_cut_off") == {"c": 1}
    assert {k: v for k, v in shown(box, "coverage_devices").items() if v} == {"panel working": 4}


async def test_a_kind_of_site_is_counted_alone_and_a_node_says_where_it_lies(box: Box) -> None:
    await box.registry.add(
        Site("bank", "城关支行", "A10D", "bank_branch", area="c", responsible="安保负责岗 0535-1234568")
    )
    await box.assurance.look()

    of_kind = (await box.get("/api/v1/coverage", kind="test_kind")).json()
    assert (of_kind["counts"]["required"], of_kind["node"]) == (4, "all")
    alone = (await box.get("/api/v1/coverage", node="area:c", kind="bank_branch")).json()
    assert [each["name"] for each in alone["children"]] == ["城关支行"]
    assert alone["counts"] == alone["children"][0]["counts"]
    assert [each["name"] for each in alone["parents"]] == ["区"]
    site = (await box.get("/api/v1/coverage", node="site:bank")).json()
    assert [each["node"] for each in site["parents"]] == ["area:d", "area:c"]
    assert (site["name"], site["kind"]) == ("城关支行", "bank_branch")


async def test_the_greatest_risk_stands_first_and_says_who_has_to_close_it_by_when(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    await box.registry.record(
        [Fact(Sort.HEALTH, ("d1-s2", ""), {"state": "fault", "cause": "batt_low", "via": ""}, box.clock.now())]
    )
    await box.registry.add(
        Site("bank", "城关支行", "A10D", "bank_branch", area="c", responsible="安保负责岗 0535-1234568")
    )
    box.clock.shift_s = 60
    await box.assurance.look()

    gaps = (await box.get("/api/v1/coverage/gaps")).json()["items"]
    first = gaps[0]
    assert {(gap["site"], gap["risk"]) for gap in gaps if gap["risk"] == "high"} == {("bank", "high")}
    assert sorted(gaps, key=lambda gap: ["high", "medium", "low"].index(gap["risk"])) == gaps
    assert (first["gap"], first["deficiency"]) == ("not_planned", "site:bank:target")
    assert first["responsible"] == "安保负责岗 0535-1234568"
    assert first["due"] is not None
    of_kind = (await box.get("/api/v1/coverage/gaps", kind="test_kind")).json()["items"]
    assert {gap["site"] for gap in of_kind} == {"s1", "s2"}
    [silent] = [gap for gap in of_kind if gap["gap"] == "silent"]
    assert (silent["due"], silent["deficiency"]) == (None, "")  # within its grace
    [fault] = (await box.get("/api/v1/coverage/gaps", kind="test_kind", gap="fault")).json()["items"]
    assert fault["because"] == "batt_low"


async def test_points_of_a_site_say_what_is_asked_of_them_and_how_it_is_met(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    points = (await box.get("/api/v1/coverage/points", site="s1")).json()["items"]

    assert [(each["point"], each["working"], each["networked"], each["gap"]) for each in points] == [
        ("p1-s1", False, False, "silent"),
        ("p2-s1", True, True, None),
    ]
    assert (points[0]["point_name"], points[0]["device"], points[0]["measure"]) == ("门", "d1-s1", "intrusion")


async def test_who_is_limited_to_sites_gets_figures_counted_over_these(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "of-s1", Role.MAINTENANCE, frozenset({"s1"}), days=1)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=str(box.client.base_url), headers=headers) as client:
        figures = (await client.get("/api/v1/coverage", params={"node": "area:d"})).json()
        gaps = (await client.get("/api/v1/coverage/gaps")).json()
        other = await client.get("/api/v1/coverage", params={"node": "site:s2"})
        tickets = (await client.get("/api/v1/deficiencies")).json()
        theirs = await client.get("/api/v1/deficiencies/site:s2:not_networked")
        points = await client.get("/api/v1/coverage/points", params={"site": "s2"})

    assert (figures["counts"]["required"], figures["counts"]["networked"]) == (2, 2)
    assert (gaps["items"], tickets["items"]) == ([], [])
    assert (other.status_code, theirs.status_code, points.status_code) == (404, 404, 404)


async def test_the_past_is_counted_from_the_facts_of_then(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    before = (box.clock.now() - timedelta(hours=1)).isoformat()
    box.clock.shift_s = 60

    assert (await box.get("/api/v1/coverage")).json()["counts"]["working"] == 3
    later = (box.clock.now() + timedelta(minutes=2)).isoformat()
    assert (await box.get("/api/v1/coverage", at=later)).json()["counts"]["working"] == 3
    assert (await box.get("/api/v1/coverage", at=before)).json()["counts"][
        "required"
    ] == 0  # nothing stood in the ledger


async def test_silence_becomes_a_gap_then_a_deficiency_and_its_return_closes_it(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    [gap] = (await box.get("/api/v1/coverage/gaps", node="site:s1")).json()["items"]
    assert (gap["point"], gap["gap"], gap["device"]) == ("p1-s1", "silent", "d1-s1")
    assert "device:d1-s1:silent" not in [each.id for each in box.assurance.tickets]

    box.clock.shift_s = 4 * 3600 + 5
    await box.assurance.look()
    url = "/api/v1/deficiencies"
    ticket = (await box.get(f"{url}/device:d1-s1:silent")).json()
    assert (ticket["state"], ticket["points"], ticket["responsible"]) == ("open", ["p1-s1"], "物业值班室 0535-1234567")
    assert shown(box, "deficiencies")["c silent"] == 1

    told = await box.client.post(f"{url}/told/device:d1-s1:silent", json={"whom": "物业值班室"})
    assert [each["whom"] for each in told.json()["told"]] == ["物业值班室"]
    said = await box.client.post(f"{url}/rectified/device:d1-s1:silent", json={"remark": "换电池"})
    assert said.json()["state"] == "rectified"
    assert (await box.client.post(f"{url}/told/device:d1-s1:silent", json={})).status_code == 422

    await health(box, "d1-s1", "working")
    assert (await box.get(f"{url}/device:d1-s1:silent")).json()["state"] == "closed"
    assert shown(box, "deficiencies").get("c silent") is None
    assert [each["id"] for each in (await box.get(url, state="closed")).json()["items"]] == ["device:d1-s1:silent"]


async def test_a_restart_opens_nothing_twice(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    box.clock.shift_s = 5 * 3600
    await box.assurance.look()
    before = len(await box.registry.facts())
    again = Assurance(box.registry, CoverageSection(), clock=box.clock, metrics=Metrics(), log=logger())
    await again.look()

    assert [each.id for each in again.tickets.open()] == [each.id for each in box.assurance.tickets.open()]
    assert len(await box.registry.facts()) == before


async def test_time_alone_ends_a_proof_at_its_instant(box: Box) -> None:
    week = 6 * 86_400  # it is a day old
    for shift_s, networked in ((week - 5, 2), (week + 5, 0)):
        box.clock.shift_s = shift_s
        await box.assurance.look()
        assert (await box.get("/api/v1/coverage")).json()["counts"]["networked"] == networked


async def test_the_change_feed_goes_on_where_it_was_left(box: Box) -> None:
    first = (await box.get("/api/v1/ledger", limit=1000)).json()
    assert {each["sort"] for each in first["items"]} >= {"area", "site", "point", "device", "acceptance"}
    assert (await box.get("/api/v1/ledger", after=first["next"])).json() == {"items": [], "next": None}
    await box.registry.update(Device("d1-s1", "s1", "门厅主机", kind="panel"))

    [changed] = (await box.get("/api/v1/ledger", after=first["next"])).json()["items"]
    assert (changed["sort"], changed["about"], changed["value"]["name"]) == ("device", ["d1-s1"], "门厅主机")


async def test_a_battery_that_falls_is_forecast(box: Box) -> None:
    now = box.clock.now()
    falls = [(days, 60 - 2 * (20 - days)) for days in range(20, 0, -1)]
    samples = [
        Fact(Sort.SAMPLE, ("d1-s1", "battery_pct"), {"value": value}, now - timedelta(days=days))
        for days, value in falls
    ]
    await box.registry.record(samples)
    await health(box, "d1-s1", "degraded")

    assert shown(box, "battery_empty_within") == {"7": 0, "30": 1, "90": 1}
