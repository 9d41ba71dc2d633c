"""Another configuration while the gateway runs: all of it or nothing, and who is not concerned does not notice."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import aiomqtt
import pytest

from gateway import configuration, logs
from gateway.access import GATEWAY
from gateway.audit import rows
from gateway.clock import RealClock
from gateway.configuration import WISHES_MAX
from gateway.daemon import Daemon
from gateway.difference import Change, Difference, Reload
from gateway.errors import Busy
from gateway.forwarders import Outlet
from gateway.history import History
from gateway.intake import Source
from gateway.model import Device, Kind, Lane, Observation, Qualifier, Site
from gateway.plan import Plan, prepare
from gateway.registry import Registry
from gateway.south import South
from simulators.rf_serial import acknowledged, line
from tests.conftest import tool
from tests.stories.box import free_ports

PATIENCE_S = 30
HEAD = '[gateway]\ndata_dir = "var"\n[api]\nlisten = "127.0.0.1:0"\n'
EACH = "[storms]\nwindow_s = 0\n"
"""Every alarm is sent on, so that they can be counted."""
SENSOR = "ev1527-80650"


def panel(name: str, port: int, receiver: str = "rf-1") -> str:
    return (
        f'[[connection]]\nname = "{name}"\ndriver = "rf_serial"\nlink = "tcp-listen://127.0.0.1:{port}"\n'
        f'[connection.settings]\nreceiver = "{receiver}"\nprofile = "kerui_ev1527"\n'
    )


def destination(name: str, lanes: str = '["life", "alarm"]') -> str:
    return f'[[destination]]\nname = "{name}"\nforwarder = "testing.{name}"\nlanes = {lanes}\n'


@pytest.fixture
def forwarder(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Outlet]]:
    """Register a forwarder; gives the outlets it was started with, in turn."""

    def register(name: str, run: Callable[[Outlet], Awaitable[None]] | None = None) -> list[Outlet]:
        started: list[Outlet] = []

        async def forward(outlet: Outlet) -> None:
            started.append(outlet)
            await (run(outlet) if run else asyncio.Event().wait())

        module = ModuleType(f"testing.{name}")
        vars(module).update(
            NUMBERED=False, RECEIPTS=False, run=forward, wants=lambda event: True, check=lambda settings, base: None
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return started

    return register


class Running:
    """A ready daemon in this process and its site file."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.site, self.daemon = folder / "site.toml", daemon

    async def take(self, text: str) -> Reload:
        self.site.write_text(text, encoding="utf-8")
        return await self.daemon.configuration.reload(GATEWAY, "test")

    def value(self, name: str, **labels: str) -> float | None:
        return self.daemon._metrics.registry.get_sample_value(f"fangkong_{name}", labels)

    async def becomes(self, name: str, value: float | None, **labels: str) -> None:
        while self.value(name, **labels) != value:
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks; bounded by `running`


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Running]:
    """Ended in order at the end of the block."""
    logs.set_up("info")
    (folder / "var").mkdir(exist_ok=True)
    registry = await Registry.open(folder / "var" / "registry.db")
    await registry.put([Site("s1", "阳泗小区", "A101"), Device(SENSOR, "s1", "红外")])
    await registry.close()
    (folder / "site.toml").write_text(text, encoding="utf-8")
    made = Daemon(prepare(folder / "site.toml"), clock=RealClock(), random=Random(1), log=logs.logger())
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(made.run())
        await made.ready.wait()
        yield Running(folder, made)
        made.stop()


class Panel:
    """A receiver that dials in and is answered, or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._seq = 0

    async def alarm(self) -> bool:
        """Whether the gateway acknowledged it; False when it has hung up."""
        self._seq += 1
        self._writer.write(line("RX", "0000000A", f"{self._seq:08X}", "EV1527", "80650A", "-60", "0"))
        answer = await self._reader.readline()
        return acknowledged(answer.decode().strip()) == ("0000000A", f"{self._seq:08X}")


@asynccontextmanager
async def dialled(port: int) -> AsyncIterator[Panel]:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)  # noqa: TID251  # the port is about to open
    try:
        yield Panel(reader, writer)
    finally:
        writer.close()


# -- what is not concerned -----------------------------------------------------------------------------------------------


async def test_a_line_that_did_not_change_keeps_its_peers_whatever_else_comes_goes_and_fails(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]]
) -> None:
    kept, other, taken = free_ports(3)
    first, second = forwarder("first"), forwarder("second")
    base = HEAD + panel("kept", kept) + destination("first")
    async with running(tmp_path, base) as box, dialled(kept) as peer:
        assert await peer.alarm()

        added = await box.take(base + panel("other", other) + destination("second"))
        assert added.difference == Difference(Change(("other",)), Change(("second",)))
        async with dialled(other) as newcomer:
            assert await newcomer.alarm()
            replaced = await box.take(base + panel("other", other, "rf-2") + destination("second", '["life"]'))
            assert replaced.difference == Difference(Change(replaced=("other",)), Change(replaced=("second",)))
            assert not await newcomer.alarm()
        with socket.create_server(("127.0.0.1", taken)):
            assert (await box.take(base + panel("other", taken))).outcome == "refused"
        assert (await box.take(base)).difference == Difference(Change(removed=("other",)), Change(removed=("second",)))
        assert (await box.take(base)).outcome == "unchanged"

        assert await peer.alarm()
        assert (len(first), len(second)) == (1, 2)
        assert box.value("connection_up", connection="other") is None
        assert box.value("connection_lost_total", connection="kept") == 0


# -- all or nothing ------------------------------------------------------------------------------------------------------


@pytest.mark.row("I1")
@pytest.mark.parametrize("seen_before", [True, False], ids=["seen before", "taken in the last moment"])
async def test_a_port_that_is_taken_leaves_the_old_configuration_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seen_before: bool
) -> None:
    before, taken, free = free_ports(3)
    base = HEAD + panel("a", before)
    if not seen_before:
        monkeypatch.setattr("gateway.south.why_taken", lambda link: "")
    with socket.create_server(("127.0.0.1", taken)):
        async with running(tmp_path, base) as box, dialled(before) as peer:
            assert await peer.alarm()
            refused = await box.take(HEAD + panel("a", taken) + panel("b", free))

            (problem,) = refused.problems
            assert (problem.file, problem.line, problem.key) == (str(box.site), 8, "connection.a.link")
            assert "address already in use" in problem.found.lower()
            assert box.daemon.configuration.plan.text == base
            assert box.value("config_last_reload_successful") == 0
            assert await peer.alarm() is seen_before
            async with dialled(before) as again:
                assert await again.alarm()

            assert (await box.take(base)).outcome == "unchanged"
            assert box.value("config_last_reload_successful") == 1
            assert box.value("config_reloads_total", outcome="refused") == 1


BAD: dict[str, tuple[str, list[tuple[int | None, str]]]] = {
    "no TOML": ("[gateway\n", [(1, "syntax")]),
    "several at once": (
        '[gateway]\nnmae = "x"\n[store]\nbudget_mb = "much"\n' + panel("a", 7000).replace("kerui", "keroi"),
        [(2, "gateway.nmae"), (4, "store.budget_mb"), (9, "connection.a.settings")],
    ),
    "a port for two": (HEAD + panel("a", 7000) + panel("b", 7000), [(15, "connection.b.link")]),
    "a name for two": (HEAD + panel("a", 7000) + panel("a", 7001), [(13, "connection.name")]),
    "a secret that is not there": (HEAD + 'token_file = "none"\n', [(None, "secret")]),
    "another data directory": (HEAD.replace("var", "elsewhere"), [(2, "gateway.data_dir")]),
    "a driver with a fault of its own": (
        HEAD + panel("a", 7000).replace("rf_serial", "broken.driver"),
        [(None, "file")],
    ),
}


@pytest.mark.row("I1")
@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
async def test_a_bad_file_leaves_everything_as_it_was_and_every_mistake_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, list[tuple[int | None, str]]]
) -> None:
    text, expected = case
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "driver.py").write_text("this is not Python\n")
    monkeypatch.syspath_prepend(tmp_path)
    (port,) = free_ports(1)
    base = HEAD + panel("kept", port)
    async with running(tmp_path, base) as box, dialled(port) as peer:
        assert await peer.alarm()

        refused = await box.take(text)

        assert refused.outcome == "refused"
        assert [(problem.line, problem.key) for problem in refused.problems] == expected
        assert box.daemon.configuration.plan.text == base
        assert [kept.who for kept in History(tmp_path / "var").kept()] == ["start"]
        assert await peer.alarm()


# -- destinations --------------------------------------------------------------------------------------------------------


async def test_what_waits_for_a_removed_destination_stays_and_shows_until_it_is_there_again(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    forwarder("other")
    delivered: list[int] = []

    async def deliver(outlet: Outlet) -> None:
        if len(started) > 1:  # the first one never gets through
            rows = await outlet.store.pending(outlet.destination, Lane.ALARM, after_seq=0, limit=10)
            await outlet.store.accepted(outlet.destination, [row.event.seq for row in rows])
            delivered.extend(row.event.seq for row in rows)
        await asyncio.Event().wait()

    started = forwarder("gone", deliver)
    base = HEAD + EACH + panel("a", port) + destination("other")
    monkeypatch.setattr("gateway.north.DRAIN_S", 0.1)
    async with running(tmp_path, base + destination("gone")) as box, dialled(port) as peer:
        assert await peer.alarm()
        assert await peer.alarm()

        await box.take(base)
        assert await peer.alarm()
        await box.becomes("destination_configured", 0, destination="gone")
        assert box.value("outbox_pending", destination="gone", lane="alarm") == 2
        assert box.value("destination_up", destination="gone") is None

        await box.take(base + destination("gone"))
        await box.becomes("outbox_pending", 0, destination="gone", lane="alarm")
        await box.becomes("destination_configured", 1, destination="gone")
        assert len(delivered) == 2

        await box.take(base)
        await box.becomes("destination_configured", None, destination="gone")
        assert box.value("outbox_pending", destination="gone", lane="alarm") is None


async def test_what_a_replaced_destination_has_delivered_is_on_disk_before_its_successor_looks(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]]
) -> None:
    (port,) = free_ports(1)
    seen: list[int] = []

    async def deliver(outlet: Outlet) -> None:
        watch = outlet.store.watch()
        try:
            while True:
                rows = await outlet.store.pending(outlet.destination, Lane.ALARM, after_seq=0, limit=10)
                seen.extend(row.event.seq for row in rows)
                if rows:
                    outlet.store.accepted(outlet.destination, [row.event.seq for row in rows])  # and nobody waits
                    await asyncio.Event().wait()
                await watch.wait()
        finally:
            watch.close()

    forwarder("one", deliver)
    base = HEAD + EACH + panel("a", port)
    async with running(tmp_path, base + destination("one")) as box, dialled(port) as peer:
        for n in range(10):
            assert await peer.alarm()
            while len(seen) <= n:
                await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, until the row is handed over
            await box.take(base + destination("one", '["life", "alarm"]' if n % 2 else '["alarm"]'))

        assert len(seen) == len(set(seen)) == 10


async def test_an_event_in_the_middle_of_a_change_goes_to_whoever_is_to_have_it_under_either_plan(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.north.DRAIN_S", 0.1)
    kept, added = free_ports(2)
    for name in ("both", "before", "after"):
        forwarder(name)
    base = HEAD + panel("a", kept) + destination("both")
    listening = South.listening
    async with running(tmp_path, base + destination("before")) as box, dialled(kept) as peer:

        async def meanwhile(south: South, plan: Plan, names: Any) -> None:
            await listening(south, plan, names)
            assert await peer.alarm()

        monkeypatch.setattr(South, "listening", meanwhile)
        await box.take(base + panel("b", added) + destination("after"))

        for name in ("both", "before", "after"):
            await box.becomes("outbox_pending", 1, destination=name, lane="alarm")


async def test_the_fault_of_what_is_removed_ends_with_it(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.supervisor.DOWN_REPORTED_AFTER_S", 0.0)
    monkeypatch.setattr("gateway.supervisor.LOOK_S", 0.05)
    (nobody,) = free_ports(1)

    async def cannot(outlet: Outlet) -> None:
        await outlet.report(Kind.COMM_FAULT, Qualifier.NEW, "nobody answers")
        await asyncio.Event().wait()

    forwarder("deaf", cannot)
    dead = panel("dead", nobody).replace("tcp-listen", "tcp")
    async with running(tmp_path, HEAD + dead + destination("deaf")) as box:
        await box.becomes("events_total", 2, kind="comm_fault", lane="fault")

        await box.take(HEAD)

        await box.becomes("events_total", 4, kind="comm_fault", lane="fault")
        await box.take(HEAD + dead + destination("deaf"))
        await box.becomes("events_total", 6, kind="comm_fault", lane="fault")


# -- bounds --------------------------------------------------------------------------------------------------------------


async def test_a_door_is_declared_and_removed_while_it_runs(tmp_path: Path) -> None:
    """What its contact said before counts, and what stands raised at it ends with it."""
    line = Source("test", "c1")

    def opened(zone: int) -> Observation:
        return Observation(SENSOR, Kind.DOOR_OPEN, zone=zone)

    async with running(tmp_path, HEAD) as box:
        intake, store = box.daemon.configuration._intake, box.daemon.configuration._store

        async def last(zone: int) -> dict[Kind, Qualifier]:
            return {kind: word for (kind, of), word in (await store.latest(SENSOR)).items() if of == zone}

        await (await intake.report(line, [opened(1)]))
        doors = "".join(
            f'[[door]]\nname = "d{zone}"\ngroup = "g"\ncontact = {{ device = "{SENSOR}", zone = {zone} }}\n'
            for zone in (1, 2)
        )
        assert (await box.take(HEAD + doors)).difference == Difference(settings=("door",))
        await (await intake.report(line, [opened(2)]))
        assert await last(1) == {Kind.DOOR_OPEN: Qualifier.NEW}
        raised = {Kind.DOOR_FORCED: Qualifier.NEW, Kind.INTERLOCK: Qualifier.NEW}
        assert await last(2) == {Kind.DOOR_OPEN: Qualifier.NEW, **raised}

        await box.take(HEAD)
        while {kind for kind, word in (await last(2)).items() if word is Qualifier.RESTORE} != set(raised):
            await asyncio.sleep(0.05)  # noqa: TID251  # between two looks; bounded by `running`


@pytest.mark.row("I2")
async def test_a_hundred_changes_leave_no_task_and_no_descriptor_behind(
    tmp_path: Path, forwarder: Callable[..., list[Outlet]]
) -> None:
    forwarder("one")
    forwarder("two")
    kept, other = free_ports(2)
    base = HEAD + panel("kept", kept) + destination("one")
    more = base + panel("other", other) + destination("two")
    counts = []
    async with running(tmp_path, base) as box:
        for n in range(100):
            await box.take(more if n % 2 else base)
            if n % 20 == 10:
                counts.append((len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))))

    assert len(set(counts)) == 1


async def test_who_changed_the_configuration_is_recorded_before_it_counts(tmp_path: Path) -> None:
    text = HEAD
    async with running(tmp_path, text) as box:
        before = box.daemon.configuration.plan.sha256
        assert (await box.take(text + "# another\n")).outcome == "unchanged"
        after = box.daemon.configuration.plan.sha256
        newest = next(row for row in rows(tmp_path / "var" / "audit.db") if row.deed == "configuration")
        (tmp_path / "var" / "audit.db").unlink()
        (tmp_path / "var" / "audit.db").mkdir()
        refused = await box.take(text + "# yet another\n")

    assert (newest.actor, newest.deed, newest.subject) == ("gateway", "configuration", f"sha256:{after}")
    assert json.loads(newest.details) == {"from": f"sha256:{before}", "who": "test"}
    assert (refused.outcome, refused.sha256) == ("refused", after)
    assert "an audit record that can be written was expected" in refused.problems[0].found


async def test_wishes_wait_up_to_a_bound_and_are_then_turned_away(tmp_path: Path) -> None:
    async with running(tmp_path, HEAD) as box:
        answers = [box.daemon.configuration.reload(GATEWAY, "test") for _ in range(WISHES_MAX)]
        with pytest.raises(Busy, match=f"{WISHES_MAX} changes"):
            box.daemon.configuration.reload(GATEWAY, "test")
        box.daemon.reload()  # SIGHUP: those that wait read the file as it stands then

        assert [(await answer).outcome for answer in answers] == ["unchanged"] * WISHES_MAX


async def test_a_stop_in_the_middle_of_a_change_is_an_orderly_end_and_every_wish_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(path: Path) -> Plan:
        loop.call_soon_threadsafe(reading.set)
        go_on.wait(PATIENCE_S)
        return prepare(path)

    monkeypatch.setattr(configuration, "prepare", slow)
    async with running(tmp_path, HEAD) as box:
        answers = [box.daemon.configuration.reload(GATEWAY, "test") for _ in range(3)]
        await reading.wait()
    go_on.set()

    for answer in answers:
        with pytest.raises(Busy, match="stopping"):
            await answer
    with pytest.raises(Busy, match="stopping"):
        box.daemon.configuration.reload(GATEWAY, "test")


async def test_a_fault_in_the_change_itself_is_told_and_the_gateway_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Difference:
        raise ZeroDivisionError("nobody thought of this")

    async with running(tmp_path, HEAD) as box:
        with monkeypatch.context() as patched:
            patched.setattr(configuration, "difference", broken)
            refused = await box.take(HEAD)

        assert "nobody thought of this" in refused.problems[0].found
        assert (await box.take(HEAD)).outcome == "unchanged"


# -- the broker ----------------------------------------------------------------------------------------------------------

ALARMS = '[[connection]]\nname = "alarms"\ndriver = "alarm_json"\nlink = "mqtt://broker"\n'


@pytest.mark.full
async def test_our_own_broker_comes_with_the_first_line_that_needs_it_learns_users_and_goes_with_the_last(
    tmp_path: Path,
) -> None:
    tool("mosquitto")
    mqtt, taken = free_ports(2)

    def broker(port: int, users: str) -> str:
        return HEAD + f'[broker]\nlisten = "127.0.0.1:{port}"\npasswords = {{ {users} }}\n' + ALARMS

    async with running(tmp_path, HEAD) as box:
        assert (await box.take(broker(mqtt, 'd1 = "p1"'))).outcome == "applied"
        await box.becomes("connection_up", 1, connection="alarms")
        lost = box.value("connection_lost_total", connection="alarms")

        assert (await box.take(broker(mqtt, 'd1 = "p1", d2 = "p2"'))).difference == Difference(
            settings=("broker.passwords",)
        )
        password = (tmp_path / "p2").read_text().strip()
        while True:
            with suppress(aiomqtt.MqttError):  # until it has read its files
                async with aiomqtt.Client("127.0.0.1", mqtt, username="d2", password=password):
                    break
        assert box.value("connection_lost_total", connection="alarms") == lost == 0
        (refused,) = (await box.take(broker(taken, 'd1 = "p1"'))).problems
        assert refused.key == "broker.listen"

        assert (await box.take(HEAD)).difference == Difference(Change(removed=("alarms",)))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", mqtt)


@pytest.mark.full
async def test_a_broker_that_does_not_start_is_a_refused_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.broker.PORT_FREE_S", 0.0)
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = HEAD + panel("new", port) + f'[broker]\nlisten = "127.0.0.1:{other.getsockname()[1]}"\n' + ALARMS
        async with running(tmp_path, HEAD) as box:
            (problem,) = (await box.take(text)).problems

            assert (problem.file, problem.line, problem.key) == (str(box.site), 13, "broker.listen")
            assert box.daemon.configuration.plan.text == HEAD
            assert box.value("connection_up", connection="new") is None
