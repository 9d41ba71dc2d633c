"""The simulated slaves, judged by pymodbus' client, by libmodbus (mbpoll) and by the examples of the specification."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.framer import FramerRTU

from simulators._clock import RealClock
from simulators._modbus_wire import _crc
from simulators._world import Option
from simulators.modbus_points import COILS, HOLDING, INPUT_WORDS, INPUTS, Memory, Slave
from tests.conftest import tool
from tests.modbus_bench import TCP, WAIT_S, running, slave, world


def bits(text: str) -> list[int]:
    """The specification prints bytes with the highest input first."""
    return [int(bit) for byte in text.split() for bit in reversed(byte)]


@pytest.mark.parametrize(
    ("table", "address", "values", "request_hex", "answer_hex"),
    [
        # Modbus Application Protocol V1.1b3, clauses 6.1 to 6.6, 6.11, 6.12; addresses moved into our smaller tables.
        (COILS, 0, bits("11001101 01101011"), "01 0000 0010", "01 02 CD6B"),
        (INPUTS, 4, bits("10101100 11011011 00110101")[:22], "02 0004 0016", "02 03 ACDB35"),
        (HOLDING, 107, [0x022B, 0, 0x0064], "03 006B 0003", "03 06 022B 0000 0064"),
        (INPUT_WORDS, 8, [0x000A], "04 0008 0001", "04 02 000A"),
        (COILS, 0, [0], "05 000C FF00", "05 000C FF00"),
        (HOLDING, 0, [0], "06 0001 0003", "06 0001 0003"),
        (COILS, 0, [0], "0F 0003 000A 02 CD01", "0F 0003 000A"),
        (HOLDING, 0, [0], "10 0001 0002 04 000A 0102", "10 0001 0002"),
        # Clause 7: what is not there, and what cannot be asked.
        (COILS, 0, [0], "01 04A1 0001", "81 02"),
        (COILS, 0, [0], "01 0000 0000", "81 03"),
        (COILS, 0, [0], "05 0000 1234", "85 03"),
        (HOLDING, 0, [0], "10 0001 0002 03 000A 01", "90 03"),
        (HOLDING, 0, [0], "03 00", "83 03"),
        (HOLDING, 0, [0], "2B 0E 01 00", "AB 01"),
    ],
)
def test_requests_are_answered_as_the_specification_shows(
    table: int, address: int, values: list[int], request_hex: str, answer_hex: str
) -> None:
    memory = Memory("fence8", RealClock())
    memory.tables[table][address : address + len(values)] = values

    assert memory.answer(bytes.fromhex(request_hex)) == bytes.fromhex(answer_hex)


def test_written_values_are_read_back_as_written() -> None:
    """Clause 6.11: ten coils from 20 (here 3), CD 01, so that 27..20 = 1100 1101 and 29..28 = 01."""
    memory = Memory("fence8", RealClock())
    memory.answer(bytes.fromhex("0F 0003 000A 02 CD01"))

    assert memory.tables[COILS][3:13] == [*bits("11001101"), 1, 0]


def test_the_checksum_is_that_of_others() -> None:
    for body in (b"", b"\x01", bytes(range(256)), bytes.fromhex("010200000008")):
        assert _crc(body).to_bytes(2, "little") == FramerRTU.compute_CRC(body).to_bytes(2, "big")


async def shown(one: Slave, what: str, zone: int | None) -> Mapping[str, object]:
    rows: list[Mapping[str, Option]] = []
    one._world.ledger.listeners.append(rows.append)
    await one.do(what, zone=zone)
    return dict(rows[-1])


async def test_what_is_raised_stands_in_the_ledger() -> None:
    row = await shown(slave(TCP, world(), "fence-1", model="fence8"), "perimeter", 3)

    assert {key: row[key] for key in ("state", "simulator", "device", "what", "restore", "zone", "ref")} == {
        "state": "raised", "simulator": "modbus_points", "device": "fence-1", "what": "perimeter", "restore": False,
        "zone": 3, "ref": "fence-1-1",
    }  # fmt: skip


async def test_a_condition_with_one_place_needs_no_zone() -> None:
    assert (await shown(slave(TCP, world(), model="fence8"), "ac_loss", None))["zone"] == 101


@pytest.mark.parametrize(
    ("options", "what", "zone", "words"),
    [
        ({"model": "fence9"}, "", None, "one of fence8, relay_io16, .*loop_eol8"),
        ({"model": "fence8"}, "burglary", 1, 'fence8 cannot do "burglary"; it knows ac_loss, back'),
        ({"model": "fence8"}, "perimeter", 9, "no perimeter in zone 9; it has 1 to 8"),
    ],
)
async def test_what_a_model_cannot_do_is_said(
    options: dict[str, Option], what: str, zone: int | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await slave(TCP, world(), **options).do(what, zone=zone)


def test_two_slaves_on_one_wire_have_numbers_of_their_own() -> None:
    here = world()
    first, second = slave(TCP, here, "a"), slave(TCP, here, "b", unit=9)

    assert (first.unit, second.unit) == (1, 9)
    assert first.wire is second.wire
    with pytest.raises(ValueError, match="unit 9 of c is already b on this wire"):
        slave(TCP, here, "c", unit=9)
    assert slave(TCP, world(), "elsewhere").wire is not first.wire


async def test_a_foreign_client_reads_two_slaves_on_one_port() -> None:
    here = world()
    fence, relay = slave(TCP, here, "fence", model="fence8"), slave(TCP, here, "relay")
    async with running(fence, relay):
        client = AsyncModbusTcpClient("127.0.0.1", port=fence.wire.port, timeout=1, retries=0)
        assert await client.connect()
        await fence.do("perimeter", zone=3)
        await relay.do("burglary", zone=16)
        inputs = await client.read_discrete_inputs(0, count=8, device_id=1)
        supply = await client.read_input_registers(30, count=2, device_id=1)
        pulses = await client.read_holding_registers(100, count=2, device_id=2)
        await client.write_coils(0, [True, False, True], device_id=2)
        coils = await client.read_coils(0, count=3, device_id=2)
        beyond = await client.read_coils(900, count=1, device_id=2)
        client.close()

    assert inputs.bits == [False, False, True, False, False, False, False, False]
    assert supply.registers == [2304, 136]
    assert client.convert_from_registers(pulses.registers, client.DATATYPE.UINT32, word_order="little") == 1
    assert coils.bits[:3] == [True, False, True]
    assert beyond.exception_code == 2


async def test_a_foreign_client_reads_a_serial_line(tmp_path: Path) -> None:
    path = tmp_path / "line"
    one = slave(f"modbus+rtu://{path}?baud=115200", world(), model="loop_eol8")
    async with running(one):
        client = AsyncModbusSerialClient(str(path), baudrate=115200, timeout=1, retries=0)
        assert await client.connect()
        await one.do("burglary", zone=2)
        loops = await client.read_input_registers(0, count=8, device_id=1)
        beyond = await client.read_coils(900, count=1, device_id=1)
        client.close()

    assert loops.registers == [2200, 4400, 2200, 2200, 2200, 2200, 2200, 2200]
    assert beyond.exception_code == 2
    assert not path.is_symlink(), "the pseudo terminal is gone with its slave"


async def test_when_the_first_slave_leaves_the_next_keeps_the_wire_open() -> None:
    here = world()
    first, second = slave(TCP, here, "a"), slave(TCP, here, "b")
    async with asyncio.TaskGroup() as group:
        going, staying = group.create_task(first.run()), group.create_task(second.run())
        async with asyncio.timeout(WAIT_S):
            await first.wire.opened.wait()
        port = first.wire.port
        going.cancel()
        await asyncio.wait([going])
        async with asyncio.timeout(WAIT_S):
            await second.wire.opened.wait()
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=1, retries=0)
        assert await client.connect()
        inputs = await client.read_discrete_inputs(0, count=1, device_id=2)
        client.close()
        staying.cancel()

    assert inputs.bits[0] is True
    assert second.wire.port == port


async def mbpoll(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        tool("mbpoll"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(WAIT_S):
        output, _ = await process.communicate()
    return output.decode()


def values_in(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("[")]


@pytest.mark.full
@pytest.mark.peer("libmodbus")
@pytest.mark.parametrize("wire", ["tcp", "rtu"])
async def test_libmodbus_reads_and_writes(wire: str, tmp_path: Path) -> None:
    path = tmp_path / "line"
    one = slave(TCP if wire == "tcp" else f"modbus+rtu://{path}?baud=19200", world(), model="fence8", unit=7)
    async with running(one):
        where = ["-m", "tcp", "-p", str(one.wire.port), "127.0.0.1"] if wire == "tcp" else [
            "-m", "rtu", "-b", "19200", "-P", "none", str(path)
        ]  # fmt: skip
        once = ["-a", "7", "-0", "-1", "-o", "1"]
        await one.do("perimeter", zone=5)
        inputs = await mbpoll(*once, "-t", "1", "-r", "0", "-c", "8", *where)
        supply = await mbpoll(*once, "-t", "3", "-r", "30", "-c", "2", *where)
        written = await mbpoll(*once, "-t", "4", "-r", "20", *where, "1234", "65535")
        held = await mbpoll(*once, "-t", "4", "-r", "20", "-c", "2", *where)
        coils = await mbpoll(*once, "-t", "0", "-r", "2", *where, "1", "0", "1")
        read_coils = await mbpoll(*once, "-t", "0", "-r", "2", "-c", "3", *where)
        beyond = await mbpoll(*once, "-t", "3", "-r", "900", "-c", "1", *where)

    assert values_in(inputs) == ["0", "0", "0", "0", "1", "0", "0", "0"], inputs
    assert values_in(supply) == ["2304", "136"], supply
    assert "Written 2 references" in written
    assert values_in(held) == ["1234", "65535"], held
    assert "Written 3 references" in coils
    assert values_in(read_coils) == ["1", "0", "1"], read_coils
    assert "Illegal data address" in beyond


@pytest.mark.parametrize("junk", ["FF", "01 02 00 00 00 08 79 CD", "00" * 40, "01 10 00 01 00 02 04"])
async def test_rubbish_on_a_serial_line_does_not_stop_the_slave(junk: str, tmp_path: Path) -> None:
    path = tmp_path / "line"
    one = slave(f"modbus+rtu://{path}", world())
    async with running(one):
        client = AsyncModbusSerialClient(str(path), timeout=0.5, retries=3)
        assert await client.connect()
        client.ctx.send(bytes.fromhex(junk))
        inputs = await client.read_discrete_inputs(0, count=8, device_id=1)
        client.close()

    assert inputs.bits == [True] * 8


async def test_a_client_that_speaks_no_modbus_is_hung_up_on() -> None:
    one = slave(TCP, world())
    async with running(one):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.wire.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            end = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert end == b""
