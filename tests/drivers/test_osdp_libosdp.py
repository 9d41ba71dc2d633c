"""libosdp as the reader, over a real serial line: a process of its own behind a cable that can be cut and spoiled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from drivers import osdp as driver
from gateway.acts import Act, Command
from gateway.clock import RealClock
from gateway.driver import Context, Kind
from gateway.links.serial import open_serial
from tests.driver_cases import Desk, FakeOrder, closing
from tests.drivers.osdp_line import context, key
from tests.peers import libosdp_python

pytestmark = [pytest.mark.full, pytest.mark.peer("libosdp")]
WAIT_S = 30.0
BACK_WITHIN_S = 15.0
"""Far below the minutes of a reader that was given up. One second is judged in made-up time: here a busy machine counts too."""


class Cable:
    """Two terminals, and what one writes the other reads; `spoil` is asked about everything the reader says."""

    def __init__(self) -> None:
        self.is_cut = False
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        self._loop = asyncio.get_running_loop()
        self._near, self._near_far = os.openpty()
        self._far, self._far_far = os.openpty()
        for fd in (self._near_far, self._far_far):
            tty.setraw(fd)
        self.gateway_port, self.reader_port = os.ttyname(self._near_far), os.ttyname(self._far_far)
        self._loop.add_reader(self._near, self._carry, self._near, self._far, False)
        self._loop.add_reader(self._far, self._carry, self._far, self._near, True)

    def _carry(self, source: int, target: int, is_up: bool) -> None:
        data = os.read(source, 4096)
        if not self.is_cut:
            os.write(target, self.spoil(data) if is_up else data)

    def close(self) -> None:
        for fd in (self._near, self._far):
            self._loop.remove_reader(fd)
        for fd in (self._near, self._far, self._near_far, self._far_far):
            os.close(fd)


class Peer:
    """The libosdp process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[str] = []
        self.changed = asyncio.Event()

    async def listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.said.append(line.decode().strip())
            self.changed.set()

    def does(self, event: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(event.encode() + b"\n")


class Bench:
    """Cable, reader and the driver on the gateway's end."""

    def __init__(self, cable: Cable, peer: Peer, desk: Desk) -> None:
        self.cable = cable
        self.peer = peer
        self.desk = desk

    async def until(self, claim: Callable[[], bool], within_s: float = WAIT_S) -> float:
        clock = RealClock()
        begun_s = clock.monotonic()
        async with asyncio.timeout(within_s):
            while not claim():
                await clock.sleep(0.005)
        return clock.monotonic() - begun_s

    def kinds(self) -> list[tuple[Kind, str]]:
        return [(seen.kind, str(seen.qualifier)) for seen in self.desk.reported]


@asynccontextmanager
async def bench(reader_key: bytes = key(1), given: Context | None = None) -> AsyncIterator[Bench]:
    cable = Cable()
    python = libosdp_python()
    assert python is not None
    script = Path(__file__).with_name("osdp_peer.py")
    process = await asyncio.create_subprocess_exec(
        python, script, cable.reader_port, "1", reader_key.hex(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    peer, desk = Peer(process), Desk(is_prompt=True)
    try:
        async with (
            closing(open_serial(f"serial://{cable.gateway_port}?baud=9600")) as link,
            asyncio.TaskGroup() as tasks,
        ):
            listening = tasks.create_task(peer.listen())
            session = desk.session(link, given or context(1), RealClock())
            conversation = tasks.create_task(driver.run(session))
            yield Bench(cable, peer, desk)
            conversation.cancel()
            listening.cancel()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        cable.close()


async def test_libosdp_reads_and_obeys_in_a_secure_session() -> None:
    async with bench() as one:
        await one.until(lambda: "secure" in one.peer.said)
        for event in ("card", "code", "tamper", "calm", "open"):
            one.peer.does(event)
        order = one.desk.orders.give(FakeOrder(Command("c1", "door-1", Act.OPEN, seconds=3)))
        await one.until(lambda: len(one.desk.reported) >= 5 and len(order.steps) == 2)

        assert one.kinds()[:5] == [
            (Kind.CREDENTIAL, "new"),
            (Kind.CREDENTIAL, "new"),
            (Kind.TAMPER, "new"),
            (Kind.TAMPER, "restore"),
            (Kind.DOOR_OPEN, "new"),
        ]
        assert one.desk.reported[0].values["credential"] == "8e1cbbfdf0b4f175"  # as the vector of the bare frame
        assert [step for step, _ in order.steps] == ["sent", "executed"]
        assert any("'control_code': 5" in said and "'timer_count': 30" in said for said in one.peer.said), one.peer.said


async def test_a_spoiled_answer_costs_libosdp_its_session_and_us_a_moment() -> None:
    """It does not repeat what it said (the standard asks for it), so that event is gone; the reader is not."""
    async with bench() as one:
        await one.until(lambda: "secure" in one.peer.said)
        spoiled: list[bytes] = []

        def spoil(data: bytes) -> bytes:
            if spoiled or len(data) < 20:
                return data
            spoiled.append(data)
            return data[:12] + bytes([data[12] ^ 1]) + data[13:]

        one.cable.spoil = spoil
        one.peer.does("card")
        await one.until(lambda: bool(spoiled))
        took_s = await one.until(lambda: one.peer.said.count("secure") == 2)
        one.peer.does("card")
        await one.until(lambda: (Kind.CREDENTIAL, "new") in one.kinds())

        print(f"secure again after {took_s * 1000:.0f} ms")
        assert took_s < BACK_WITHIN_S
        assert Kind.SECURITY not in {kind for kind, _ in one.kinds()}


@pytest.mark.parametrize("away_s", [1.0, 10.0])
async def test_libosdp_is_back_and_secure_after_its_cable_was_pulled(away_s: float) -> None:
    async with bench() as one:
        await one.until(lambda: "secure" in one.peer.said)
        one.cable.is_cut = True
        await RealClock().sleep(away_s)
        one.cable.is_cut = False
        one.peer.does("card")
        took_s = await one.until(lambda: (Kind.CREDENTIAL, "new") in one.kinds())

        print(f"away {away_s} s, back with its card after {took_s * 1000:.0f} ms")
        assert took_s < BACK_WITHIN_S
        faults = [(Kind.COMM_FAULT, "new"), (Kind.COMM_FAULT, "restore")] if away_s > 8 else []
        assert [seen for seen in one.kinds() if seen[0] is not Kind.CREDENTIAL] == faults


async def test_libosdp_with_another_key_is_a_security_event() -> None:
    async with bench(reader_key=b"\x11" * 16) as one:
        one.peer.does("card")
        await one.until(lambda: bool(one.desk.reported))

        assert one.kinds() == [(Kind.SECURITY, "new")]
        assert one.desk.reported[0].text == "wrong key"


@contextmanager
def fresh_reader(cable: Cable) -> Iterator[subprocess.Popen[bytes]]:
    python = libosdp_python()
    assert python is not None
    script = Path(__file__).with_name("osdp_peer.py")
    with subprocess.Popen(
        [python, script, cable.reader_port, "1", "none"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


async def test_a_new_libosdp_reader_is_found_and_paired_from_the_command_line(tmp_path: Path) -> None:
    cable = Cable()
    try:
        with fresh_reader(cable) as reader:
            assert reader.stdout is not None
            await asyncio.to_thread(reader.stdout.readline)
            scanned = await _tool("scan", cable.gateway_port, "--baud", "9600", "--to", "2")
            paired = await _tool("pair", cable.gateway_port, "1", str(tmp_path / "door.key"))
            again = await _tool("pair", cable.gateway_port, "1", str(tmp_path / "other.key"))
    finally:
        cable.close()

    assert "address 1: vendor" in scanned[1]
    assert scanned[0] == 0
    assert paired[0] == 0, paired
    assert "the default key is dead" in paired[1]
    assert again[0] == 1
    assert "wrong key" in again[1]


async def _tool(*words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "tool", "osdp", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()
