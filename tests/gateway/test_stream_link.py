"""Streams: answers leave in order and only after their commit, and every queue has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random

import pytest

from gateway.errors import ConfigError, LinkClosed, StoreError
from gateway.links import serial, stream, tcp
from gateway.links.endpoint import Endpoint
from gateway.links.stream import ANSWERS_MAX, ANSWERS_PAUSE, READ_CHUNK_BYTES, StreamLink
from gateway.receipt import Receipt
from tests.driver_cases import closing
from tests.memory import WIRE_BYTES_MAX, memory_pair

WAIT_S = 5.0


async def received(link: StreamLink, size: int) -> bytes:
    got = b""
    async with asyncio.timeout(WAIT_S):
        while len(got) < size:
            got += await link.read()
    return got


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn, waits for nothing


async def pieces_of(link: StreamLink) -> AsyncIterator[bytes]:
    with suppress(LinkClosed):
        while True:
            yield await link.read()


async def why_it_ends(link: StreamLink) -> str:
    try:
        while True:
            await link.read()
    except LinkClosed as closed:
        return str(closed)


def is_waiting(task: asyncio.Task[bytes]) -> bool:
    return not task.done()


async def test_answers_leave_in_the_order_of_the_calls_whatever_settles_first() -> None:
    near, far = memory_pair()
    first, second, third = Receipt(), Receipt(), Receipt()
    near.answer(b"1", after=first)
    near.answer(b"2", after=second)
    near.answer(b"3", after=third)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(far.read())
        second.settle()
        await turn()
        assert is_waiting(reading), "the second answer overtook the first"
        first.settle()
        assert await reading == b"12"
    third.settle()
    assert await far.read() == b"3"


async def test_a_line_closed_in_order_still_answers_what_is_being_stored() -> None:
    near, far = memory_pair()
    receipt = Receipt()
    near.answer(b"ok", after=receipt)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(near.close())
        await turn()
        receipt.settle()

        assert await far.read() == b"ok"


@pytest.mark.parametrize("error", [None, StoreError("disk full")], ids=["never", "fails"])
async def test_a_line_closed_in_order_waits_for_no_commit_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, error: StoreError | None
) -> None:
    monkeypatch.setattr(stream, "SETTLE_WITHIN_S", 0.01)
    near, far = memory_pair()
    receipt = Receipt()
    near.answer(b"ok", after=receipt)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(near.close())
        await turn()
        if error:
            receipt.settle(error)

        with pytest.raises(LinkClosed):
            await far.read()


async def test_an_answer_to_something_already_stored_leaves_at_once() -> None:
    near, far = memory_pair()
    near.answer(b"ok", after=Receipt.settled())

    assert await far.read() == b"ok"


async def test_a_failed_commit_closes_the_line_and_ends_a_waiting_read() -> None:
    near, far = memory_pair()
    failing, later = Receipt(), Receipt()
    near.answer(b"no", after=failing)
    near.answer(b"later", after=later)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(why_it_ends(near))
        await turn()
        failing.settle(StoreError("disk full"))
        later.settle()

        assert await ending == "not stored, so not answered: disk full"
    with pytest.raises(LinkClosed):
        await far.read()
    near.answer(b"too late", after=Receipt.settled())
    with pytest.raises(LinkClosed):
        await near.write(b"too late")


async def test_reading_pauses_while_too_many_answers_wait_for_the_disk() -> None:
    near, far = memory_pair()
    receipt = Receipt()
    for _ in range(ANSWERS_PAUSE):
        near.answer(b"a", after=receipt)
    await far.write(b"more")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(near.read())
        await turn()
        assert is_waiting(reading)
        receipt.settle()
        assert await reading == b"more"
    assert await received(far, ANSWERS_PAUSE) == b"a" * ANSWERS_PAUSE


async def test_a_driver_that_promises_answers_without_end_is_cut_off() -> None:
    near, _ = memory_pair()
    receipt = Receipt()
    for _ in range(ANSWERS_MAX + 1):
        near.answer(b"a", after=receipt)

    with pytest.raises(LinkClosed, match=f"owed {ANSWERS_MAX} answers"):
        await near.read()


async def test_reading_waits_until_the_peer_takes_its_answers() -> None:
    near, far = memory_pair()
    near.answer(b"a" * WIRE_BYTES_MAX, after=Receipt.settled())
    await far.write(b"more")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(near.read())
        await turn()
        assert is_waiting(reading)
        await far.read()
        assert await reading == b"more"


async def test_a_silent_peer_is_given_up_after_the_idle_time() -> None:
    near, _ = memory_pair(idle_s=0.01)

    assert await why_it_ends(near) == "nothing heard from memory device for 0.01 s"


async def test_a_memory_line_can_chop_and_spoil() -> None:
    random = Random(1)
    near, far = memory_pair(alter=lambda data: data if random.random() < 0.5 else b"", read_bytes_max=3)
    for number in range(10):
        await far.write(b"%d234" % number)
    await far.close()
    pieces = [piece async for piece in pieces_of(near)]

    assert max(map(len, pieces)) <= 3
    assert 0 < len(b"".join(pieces)) < 40


# -- TCP ---------------------------------------------------------------------------------------------------------------


async def echo(link: StreamLink) -> None:
    while True:
        data = await link.read()
        link.answer(data, after=Receipt.settled())


async def test_tcp_both_ways() -> None:
    data = Random(2).randbytes(20 * READ_CHUNK_BYTES)
    async with asyncio.timeout(WAIT_S), tcp.listen("tcp-listen://127.0.0.1:0", echo) as listener:
        async with closing(tcp.dial(f"tcp://127.0.0.1:{listener.port}")) as link:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.write(data))
                assert await received(link, len(data)) == data
            assert link.peer == f"127.0.0.1:{listener.port}"
        while listener.peers:
            await turn()


async def test_a_listener_turns_away_more_peers_than_it_may_have() -> None:
    async with asyncio.timeout(WAIT_S), tcp.listen("tcp-listen://127.0.0.1:0?peers=1", echo) as listener:
        url = f"tcp://127.0.0.1:{listener.port}"
        async with closing(tcp.dial(url)) as first:
            await first.write(b"1")
            assert await first.read() == b"1"
            async with closing(tcp.dial(url)) as second:
                with pytest.raises(LinkClosed):
                    await second.read()
            assert (listener.peers, listener.refused) == (1, 1)
        while listener.peers:
            await turn()
        async with closing(tcp.dial(url)) as third:
            await third.write(b"3")
            assert await third.read() == b"3"


async def test_leaving_the_listener_hangs_up_on_everybody() -> None:
    async with asyncio.timeout(WAIT_S):
        async with tcp.listen("tcp-listen://127.0.0.1:0", echo) as listener:
            link = await tcp.dial(f"tcp://127.0.0.1:{listener.port}")
            await link.write(b"1")
            await link.read()
        with pytest.raises(LinkClosed):
            await link.read()


async def test_nobody_there_and_a_taken_port_are_closed_links() -> None:
    async with tcp.listen("tcp-listen://127.0.0.1:0", echo) as listener:
        with pytest.raises(LinkClosed):
            async with tcp.listen(f"tcp-listen://127.0.0.1:{listener.port}", echo):
                pass
    with pytest.raises(LinkClosed):
        async with closing(tcp.dial(f"tcp://127.0.0.1:{listener.port}")):
            pass


@pytest.mark.parametrize("url", ["tcp://", "tcp://host", "tcp://host:99999", "tcp://host:1/path", "tcp://host:1?x=1"])
def test_a_wrong_tcp_url_says_what_is_expected(url: str) -> None:
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "serial://ttyUSB0", "serial:///dev/ttyUSB0?baud=fast", "serial:///dev/ttyUSB0?baud=9601",
        "serial:///dev/ttyUSB0?parity=X", "serial:///dev/ttyUSB0?stop=3", "serial:///dev/ttyUSB0?speed=9600",
    ],
)  # fmt: skip
def test_a_wrong_serial_url_says_what_is_expected(url: str) -> None:
    with pytest.raises(ConfigError, match="expected serial:///dev"):
        serial.SerialUrl.parse(url)


def test_a_serial_url_is_read_whole() -> None:
    found = serial.SerialUrl.parse("serial:///dev/serial/by-id/usb-*?baud=19200&parity=E&stop=2")

    assert found == serial.SerialUrl("/dev/serial/by-id/usb-*", 19200, "E", 2)
