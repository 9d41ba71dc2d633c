"""`fangkong discover`: proposals from real lines, judged by other hands' servers; nothing is answered, written or enrolled."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import tty
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from pymodbus import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer

from gateway.cli import _discovery, discover
from gateway.cli._device_csv import read_device_list
from gateway.cli._discovery import look_at_ports, scan_modbus
from tests.conftest import tool
from tests.gateway.test_modbus_link import foreign_device
from tests.stories.box import Box, free_ports

ROOT = Path(__file__).parents[2]
WAIT_S = 20


def fangkong(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway", "discover", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_a_scan_finds_the_unit_that_is_there_what_it_answers_and_who_it_is() -> None:
    identity = ModbusDeviceIdentification(
        info_name={"VendorName": "ACME", "ProductCode": "F8", "MajorMinorRevision": "1.2"}
    )
    server = ModbusTcpServer(foreign_device(), address=("127.0.0.1", 0), identity=identity)
    await server.serve_forever(background=True)
    try:
        port = server.transport.sockets[0].getsockname()[1]
        async with asyncio.timeout(WAIT_S):
            found = await scan_modbus(f"modbus+tcp://127.0.0.1:{port}?timeout_ms=100", range(16, 19))
    finally:
        await server.shutdown()

    [unit] = [one for one in found if "answers" in one.what]
    assert (unit.where, unit.device, unit.name) == ("unit 17", "unit-17", "ACME F8 1.2")
    assert "holding_register answers" in unit.what


async def test_a_unit_that_is_not_there_costs_one_request_and_one_that_refuses_is_there() -> None:
    asked: Counter[int] = Counter()
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(6)
                body = await reader.readexactly(head[5])
                asked[body[0]] += 1
                if body[0] == 1:
                    writer.write(head[:4] + bytes([0, 3, 1, body[1] | 0x80, 1]))
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(WAIT_S):
        url = f"modbus+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout_ms=100"
        found = await scan_modbus(url, range(1, 4))
        await closed.wait()

    assert [one.where for one in found] == ["unit 1"]
    assert (asked[2], asked[3]) == (1, 1)


@pytest.mark.full
@pytest.mark.peer("mosquitto")
def test_a_broker_shows_which_profile_knows_which_device(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with subprocess.Popen([tool("mosquitto"), "-p", str(port)], stdout=-3, stderr=-3) as mosquitto:
        try:
            message = (ROOT / "tests/vectors/alarm_json.toml").read_text().split("payload = '")[1].split("'")[0]
            for topic, payload in (
                ("fangkong/v1/a001/event", message),
                ("zigbee2mqtt/hall_door", '{"contact":false,"battery":88}'),
                ("somebody/else", "42"),
            ):
                publish = [tool("mosquitto_pub"), "-p", str(port), "-r", "-q", "1", "-t", topic, "-m", payload]
                for _ in range(100):
                    if subprocess.run(publish, check=False, stderr=-3).returncode == 0:
                        break
            table = tmp_path / "found.csv"
            arguments = ("mqtt", f"mqtt://127.0.0.1:{port}", "--seconds", "3", "--csv", table, "--site", "s1")
            output, complaints = fangkong(*arguments).communicate(timeout=WAIT_S)
        finally:
            mosquitto.terminate()

    assert complaints == ""
    rows = {tuple(line.split()[1:3]) for line in output.splitlines()}
    assert ("alarm_json", "a001") in rows
    assert any(driver == "zigbee2mqtt" and "hall_door" in device for driver, device in rows)
    assert "somebody" not in output
    assert {"a001"} < {thing.id for thing in read_device_list(table).things.values()}


async def test_a_port_is_named_and_who_speaks_there_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    port = os.ttyname(slave)
    monkeypatch.setattr(_discovery, "_ports", lambda: iter([(port, "a pseudo terminal")]))

    async def speak() -> None:
        while True:
            os.write(master, b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\r\n")
            await asyncio.sleep(0.1)  # noqa: TID251  # a receiver says where it is now and then

    [silent] = await look_at_ports(0)
    speaking = asyncio.create_task(speak())  # noqa: TID251  # ended below
    async with asyncio.timeout(WAIT_S):
        found = await look_at_ports(1.0)
    speaking.cancel()
    with suppress(asyncio.CancelledError):
        await speaking
    os.close(master)
    os.close(slave)
    assert (silent.where, silent.what) == (port, "a pseudo terminal")
    assert "nmea" in {one.driver for one in found}
    assert found[0].where.startswith(f"serial://{port}?baud=")


@pytest.mark.full
async def test_a_line_that_the_running_gateway_holds_is_not_scanned(tmp_path: Path) -> None:
    box = Box(tmp_path, centre=free_ports(1)[0])
    await box.enrol()
    await box.start()
    link = f"modbus+tcp://127.0.0.1:{box.modbus}"
    scan = fangkong("modbus", link, "--units", "1-2", "--config", tmp_path / "site.toml")
    _, complaints = await asyncio.to_thread(scan.communicate, timeout=WAIT_S)
    await box.end()

    assert scan.returncode == 1
    assert "connection perimeter" in complaints


@pytest.mark.parametrize("units", ["0-3", "5-4", "1-248", "x", "1-"])
def test_units_that_cannot_be_are_refused(units: str) -> None:
    if units == "1-":
        assert discover._units(units) == range(1, 2)
        return
    with pytest.raises(discover.argparse.ArgumentTypeError, match="expected A-B"):
        discover._units(units)
