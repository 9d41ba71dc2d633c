"""`fangkong check health`: each check that can fail, failing. The whole of it stands in tests/stories/test_check_health.py."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from gateway.__main__ import main
from gateway.cli._health import BACKLOG_MAX_S, LAG_MAX_S, NAMED_MAX, judged
from gateway.clock import RealClock
from gateway.coverage.facts import Fact, Sort
from gateway.ids import EventIds
from gateway.kinds import Kind, Lane, Qualifier
from gateway.model import Device, Event, Point, Site
from gateway.registry import Registry, migrate
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore
from tests.gateway.test_mqtt_link import certificate
from tests.gateway.test_registry import FIRST

NOW = RealClock().now()
WELL = {
    "store_up": [({}, 1.0)], "audit_ok": [({}, 1.0)], "supervision_up": [({}, 1.0)],
    "coverage_up": [({}, 1.0)],
    "supervision_lag_seconds": [({}, 0.0)], "store_bytes": [({}, 1e6)], "store_budget_bytes": [({}, 1e9)],
    "shed_events_total": [({"lane": "bulk"}, 0.0)], "connection_up": [({"connection": "bus"}, 1.0)],
    "destination_up": [({"destination": "c"}, 1.0)], "outbox_dead": [({"destination": "c"}, 0.0)],
}  # fmt: skip


def test_a_gateway_that_is_well_has_nothing_to_complain_of() -> None:
    assert {each.state for each in judged({}, WELL)} == {"ok"}


@pytest.mark.parametrize(
    ("metric", "series", "what", "state"),
    [
        ("store_up", [({}, 0.0)], "event log", "failed"),
        ("audit_ok", [({}, 0.0)], "audit record", "failed"),
        ("supervision_up", [({}, 0.0)], "recorder of states", "failed"),
        ("coverage_up", [({}, 0.0)], "coverage", "failed"),
        ("supervision_lag_seconds", [({}, LAG_MAX_S + 1)], "recorder lag", "warning"),
        ("store_bytes", [({}, 0.96e9)], "room for events", "warning"),
        ("shed_events_total", [({"lane": "bulk"}, 1.0)], "room for events", "warning"),
        ("connection_up", [({"connection": "bus"}, 0.0)], "line bus", "failed"),
        ("destination_up", [({"destination": "c"}, 0.0)], "destination c", "failed"),
        ("outbox_dead", [({"destination": "c"}, 2.0)], "set aside c", "warning"),
    ],
)
def test_what_the_gateway_says_of_itself(
    metric: str, series: list[tuple[dict[str, str], float]], what: str, state: str
) -> None:
    found = {each.what: each for each in judged({}, WELL | {metric: series}) if each.state != "ok"}
    assert {name: each.state for name, each in found.items()} == {what: state}
    assert found[what].hint


def test_what_is_not_ready_is_named() -> None:
    assert judged({"broker": "the MQTT broker does not run"}, WELL).__next__()[:3] == (
        "broker", "failed", "the MQTT broker does not run",
    )  # fmt: skip


def said(site_file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["check", "health", "--json", "--config", str(site_file)])
    return code, {each["what"]: each for each in json.loads(capsys.readouterr().out)}


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text('[[destination]]\nname = "c"\nforwarder = "dc09"\nsettings = { connect = "127.0.0.1:1" }\n')
    (tmp_path / "var").mkdir()
    return path


@pytest.mark.parametrize(("waits_s", "state"), [(BACKLOG_MAX_S - 60, "ok"), (BACKLOG_MAX_S + 60, "failed")])
def test_how_long_the_oldest_event_waits(
    waits_s: float, state: str, site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare() -> None:
        store = await SqliteStore.open(site_file.parent / "var", RealClock())
        ids = EventIds(RealClock(), Random(1))
        for age_s in (waits_s, 1.0):
            at = RealClock().now() - timedelta(seconds=age_s)
            event = Event(ids.next(), "d", Kind.BURGLARY, Qualifier.NEW, Lane.ALARM, at, "test", "c1")
            await store.append([Entry(event, destinations=("c",))])
        await store.close()

    asyncio.run(prepare())

    _, found = said(site_file, capsys)
    assert found["backlog c"]["state"] == state


def test_devices_that_do_not_work_and_sites_that_110_cannot_hear_are_named(
    site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = [Site(f"s{n}", f"商铺 {n}", f"{n:04X}", "jewelry_store") for n in range(NAMED_MAX + 5)]
    devices = [Device(name, "s0") for name in ("well", "mute", "lost", "planned", "retired")]
    points = [Point(f"p{n}", f"s{n}", 1, "柜台", kind="counter_panic") for n in range(NAMED_MAX + 5)]

    def health(device: str, state: str) -> Fact:
        return Fact(Sort.HEALTH, (device, ""), {"state": state, "cause": "", "via": "", "open": []}, NOW)

    def proof(site: str, age: timedelta) -> Fact:
        return Fact(Sort.PROOF, (site,), {"rung": "test_accepted", "event": "e"}, NOW - age)

    async def prepare() -> None:
        registry = await Registry.open(site_file.parent / "var" / "registry.db")
        await registry.put([*sites, *devices, *points])
        in_use = [Fact(Sort.STAGE, (name,), {"stage": "installed"}, NOW) for name in ("well", "mute", "lost")]
        retired = Fact(Sort.STAGE, ("retired",), {"stage": "retired"}, NOW)
        await registry.record([
            *in_use, retired, health("well", "working"), health("lost", "unreachable"),
            proof("s0", timedelta(days=1)), proof("s1", timedelta(days=8)),
        ])  # fmt: skip
        await registry.close()

    asyncio.run(prepare())

    code, found = said(site_file, capsys)
    assert code == 1
    assert found["devices"]["found"] == "1 working, 1 silent, 1 unreachable"
    assert found["devices"]["hint"].startswith("do not work: lost, mute ")
    assert found["networked sites"]["found"] == "1 of 25 that must be networked are proven"
    assert found["networked sites"]["hint"].startswith("4 more")
    lacking = [what for what in found if what.startswith("network ")]
    assert len(lacking) == NAMED_MAX
    assert "network s0" not in lacking
    assert "window 168 h" in found["network s1"]["found"]


def test_a_gateway_that_runs_and_does_not_answer_has_failed(
    site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    site_file.write_text(f'[api]\nlisten = "127.0.0.1:{port}"\n')
    with (site_file.parent / "var" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, found = said(site_file, capsys)

    assert (code, found["answers of the gateway"]["state"]) == (1, "failed")


@contextmanager
def tls_broker(folder: Path, days: float) -> Iterator[int]:
    """Something that shows a certificate; its port."""
    context = certificate(folder, timedelta(days=days))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                try:
                    context.wrap_socket(line, server_side=True).close()
                except (ssl.SSLError, OSError):
                    return  # the client did not like what it saw

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(("days", "state"), [(60, "ok"), (29, "warning"), (-0.5, "failed")])
def test_certificates_are_looked_at(
    days: float, state: str, site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tls_broker(site_file.parent, days) as port:
        site_file.write_text(f'[broker]\nurl = "mqtts://127.0.0.1:{port}?ca=ca.pem"\n')
        _, found = said(site_file, capsys)

    assert found["broker certificate"]["state"] == state


@pytest.mark.parametrize(("days", "state"), [(60, "ok"), (29, "warning"), (-0.5, "failed")])
def test_what_vouches_for_a_broker_is_looked_at_also_when_the_broker_is_away(
    days: float, state: str, site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate(site_file.parent, timedelta(days=days))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    site_file.write_text(f'[broker]\nurl = "mqtts://127.0.0.1:{port}?ca=ca.pem"\n')
    _, found = said(site_file, capsys)

    assert (found["broker ca"]["state"], found["broker certificate"]["state"]) == (state, "failed")


def test_a_file_that_holds_no_certificate_is_named(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site_file.write_text('[broker]\nurl = "mqtts://127.0.0.1:1?ca=site.toml"\n')
    _, found = said(site_file, capsys)
    assert found["broker ca"]["state"] == "failed"
    assert "site.toml" in found["broker ca"]["found"]


@pytest.mark.parametrize("is_old", [False, True])
def test_the_ledger_stays_as_it_is_and_an_old_one_is_named_with_what_to_do(
    is_old: bool, site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = site_file.parent / "var" / "registry.db"
    if is_old:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # as every ledger that a gateway has opened
            connection.executescript(FIRST)
    else:
        asyncio.run(migrate(path))  # up to date, and nothing in its record yet
    before = path.read_bytes()
    _, found = said(site_file, capsys)

    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["registry.db"]
    if is_old:
        assert "earlier version, without 0002_access" in found["ledger"]["found"]
        assert "fangkong migrate" in found["ledger"]["hint"]
    else:
        assert found["devices"]["state"] == "ok"


def test_a_wrong_site_file_is_named_as_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site_file = tmp_path / "site.toml"
    site_file.write_text("[api]\nlistn = 1\n")
    code, found = said(site_file, capsys)
    assert (code, found["site file"]["state"]) == (2, "failed")
