"""Coverage from the record of facts to the figures, gaps and deficiencies that people and programs read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway.access import GATEWAY, Role
from gateway.api.coverage import LEDGER
from gateway.assurance import Assurance
from gateway.config import CoverageSection
from gateway.coverage.facts import Fact, Sort
from gateway.errors import StoreError
from gateway.health import DeviceHealth
from gateway.logs import logger
from gateway.metrics import Metrics
from gateway.model import Area, AreaKind, Device, Point, Site
from gateway.registry import Registry
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


async def ids(box: Box, path: str, **query: str) -> list[str]:
    answer = await box.get(f"/api/v1/{path}", **query)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["items"]]


async def test_sites_points_and_devices_say_how_they_stand_and_are_chosen_by_it(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    await box.registry.record([Fact(Sort.STAGE, ("d1-s1",), {"stage": "in_service"}, box.clock.now())])
    await box.registry.add(Site("bank", "城关支行", "A10D", "bank_branch", area="d"))
    await box.assurance.look()
    for device in ("d1-s1", "d2-s1", "d1-s2", "d2-s2", "stranger"):
        box.health.known.append(DeviceHealth(device, "unclaimed" if device == "stranger" else "heard", None, None))

    assert await ids(box, "sites", gap="silent") == ["s1"]
    assert await ids(box, "sites", node="area:c") == ["s1", "s2"]
    assert await ids(box, "sites", kind="bank_branch") == ["bank"]
    assert len(await ids(box, "sites", limit="1")) == 1
    assert await ids(box, "points", coverage="not_working") == ["p1-s1"]
    assert await ids(box, "points", coverage="not_networked", node="area:d") == ["p1-s2", "p2-s2"]
    assert await ids(box, "points", coverage="covered", kind="test_kind", point_kind="room") == ["p2-s1"]
    assert await ids(box, "points", gap="not_networked", site="s1") == []
    assert await ids(box, "devices", coverage="silent") == ["d1-s1"]
    assert await ids(box, "devices", gap="silent", device_kind="panel", node="site:s1") == ["d1-s1"]
    assert await ids(box, "devices", node="area:d", state="unclaimed") == []
    assert await ids(box, "devices", state="unclaimed") == ["stranger"]
    [device] = (await box.get("/api/v1/devices", coverage="silent")).json()["items"]
    assert (device["stage"], device["kind"], device["gaps"]) == ("in_service", "panel", ["silent"])
    [site] = (await box.get("/api/v1/sites", gap="silent")).json()["items"]
    assert (site["counts"]["required"], site["counts"]["working"], site["gaps"]) == (2, 1, {"silent": 1})
    gaps = [
        ("gap", "silent"),
        ("device_kind", "panel"),
        ("point_kind", "room"),
        ("risk", "medium"),
        ("measure", "intrusion"),
    ]
    [gap] = (await box.get("/api/v1/coverage/gaps", **dict(gaps))).json()["items"]
    assert gap["point"] == "p1-s1"
    assert (await box.get("/api/v1/coverage/gaps", point_kind="safe")).json()["items"] == []


@pytest.mark.parametrize("path", ["sites", "points", "devices", "coverage/gaps", "deficiencies", "ledger"])
@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 1001}, {"after": -1}, {"after": 2**63}])
async def test_pages_have_bounds(box: Box, path: str, page: dict[str, int]) -> None:
    assert (await box.get(f"/api/v1/{path}", **page)).status_code == 422


async def test_a_list_has_the_rows_and_columns_of_the_command_line(box: Box, tmp_path: Path) -> None:
    since = box.clock.now() - timedelta(hours=5)
    await box.registry.record([Fact(Sort.HEALTH, ("d1-s1", ""), {"state": "silent", "cause": "", "via": ""}, since)])
    await box.assurance.look()
    at = box.clock.now().isoformat()
    for name in ("coverage", "gaps", "deficiencies", "zones", "ledger", "schedule"):
        answer = await box.get(f"/api/v1/lists/{name}", at=at)
        printed = await command(tmp_path, name, at)

        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.content == printed
    chosen = (await box.get("/api/v1/lists/gaps", format="json", gap="silent", site_kind="test_kind")).json()["gaps"]
    assert [row["point"] for row in chosen] == ["p1-s1"]
    [task] = (await box.get("/api/v1/lists/deficiencies", format="json", gap="silent")).json()["deficiencies"]
    assert (task["id"], task["state"], task["site_name"]) == ("device:d1-s1:silent", "open", "s1")
    assert (await box.get("/api/v1/lists/ledger", format="xlsx")).content.startswith(b"PK")
    assert (await box.get("/api/v1/lists/gaps", node="area:nowhere")).status_code == 404
    assert (await box.get("/api/v1/lists/people")).status_code == 422


async def command(data_dir: Path, name: str, at: str) -> bytes:
    """What `fangkong report` writes beside the running gateway."""
    site_file, out = data_dir / "site.toml", data_dir / "out.csv"
    site_file.write_text(f'[gateway]\ndata_dir = "{data_dir}"\n', encoding="utf-8")
    words = ["-m", "gateway", "report", name, "--config", str(site_file), "--at", at, "--out", str(out)]
    assert await (await asyncio.create_subprocess_exec(sys.executable, *words)).wait() == 0
    return out.read_bytes()


async def test_a_list_is_of_the_sites_that_its_reader_sees(box: Box) -> None:
    await health(box, "d1-s1", "silent")
    await health(box, "d1-s2", "silent")
    token = await box.accounts.add_token(GATEWAY, "of-s1", Role.MAINTENANCE, frozenset({"s1"}), days=1)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=str(box.client.base_url), headers=headers) as client:
        texts = {
            name: (await client.get(f"/api/v1/lists/{name}", params={"format": "json"})).json()
            for name in ("coverage", "gaps", "zones", "ledger", "deficiencies", "schedule")
        }
        sites = (await client.get("/api/v1/sites")).json()["items"]

    assert [row["node"] for row in texts["coverage"]["coverage"]] == ["all", "area:d", "area:c", "site:s1"]
    assert {row["required"] for row in texts["coverage"]["coverage"]} == {2}
    assert {row["site"] for row in texts["gaps"]["gaps"]} == {"s1"}
    assert {row["site"] for row in texts["ledger"]["devices"]} == {"s1"}
    assert "changes" not in texts["ledger"]
    assert [site["id"] for site in sites] == ["s1"]


async def test_every_change_comes_once_and_in_order_while_others_are_written(box: Box) -> None:
    """One writes, one reads from the cursor, over HTTP; health between them is no change of the ledger."""

    async def write() -> None:
        for n in range(60):
            await box.registry.update(Device("d1-s1", "s1", f"主机{n}", kind="panel"))
            await box.registry.record([Fact(Sort.HEALTH, ("d1-s1", ""), {"state": "working", "n": n}, box.clock.now())])

    cursor, heard = 0, []
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        while True:
            is_last = writing.done()
            page = (await box.get("/api/v1/ledger", after=cursor, limit=7)).json()
            heard += page["items"]
            if page["next"] is None and is_last:
                break
            cursor = cursor if page["next"] is None else page["next"]

    kept: list[Fact] = []
    while more := await box.registry.facts(after=kept[-1].id if kept else 0):
        kept += more
    assert [each["seq"] for each in heard] == [fact.id for fact in kept if fact.sort in LEDGER]
    names = [each["value"]["name"] for each in heard if each["sort"] == "device" and each["about"] == ["d1-s1"]]
    assert names[-60:] == [f"主机{n}" for n in range(60)]


async def test_what_nobody_planned_has_its_grace_before_it_is_a_deficiency(box: Box) -> None:
    await box.registry.add(Site("school", "小学", "A10E", "school", area="c"))
    await box.assurance.look()
    [gap] = (await box.get("/api/v1/coverage/gaps", kind="school", gap="not_planned")).json()["items"][:1]
    assert (gap["gap_since"] is None, gap["deficiency"]) == (False, "")

    box.clock.shift_s = 25 * 3600
    await box.assurance.look()
    [gap] = (await box.get("/api/v1/coverage/gaps", kind="school", gap="not_planned")).json()["items"][:1]
    assert gap["deficiency"] == "site:school:not_planned"


class Unwell:
    """A record of facts that fails for as long as it is told to."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self.error = registry, None

    error: Exception | None

    async def facts(self, *, after: int = 0) -> Sequence[Fact]:
        if self.error is not None:
            raise self.error
        return await self._registry.facts(after=after)

    async def record(self, facts: Sequence[Fact]) -> None:
        await self._registry.record(facts)


@pytest.mark.parametrize("error", [StoreError("disk I/O error"), ZeroDivisionError("a fault of ours")])
async def test_a_coverage_that_stands_still_is_shown_and_goes_on_afterwards(box: Box, error: Exception) -> None:
    record, metrics = Unwell(box.registry), Metrics()
    assurance = Assurance(record, CoverageSection(), clock=box.clock, metrics=metrics, log=logger())

    async def until(up: int) -> None:
        async with asyncio.timeout(20):
            while metrics.registry.get_sample_value("fangkong_coverage_up") != up or not assurance.figures.sites:
                await box.clock.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(assurance.run())
        await until(1)
        record.error = error
        await until(0)
        assert assurance.error is not None
        record.error = None
        await until(1)
        assert assurance.error is None
        assert assurance.figures.counts() == box.assurance.figures.counts()
        running.cancel()
