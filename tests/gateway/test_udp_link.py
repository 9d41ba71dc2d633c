"""UDP: one datagram is one read, answers go back to their source after their commit, and neither sources nor their
datagrams pile up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import ConfigError, LinkClosed, StoreError
from gateway.links import udp
from gateway.links.endpoint import Endpoint, why_taken
from gateway.links.stream import StreamLink
from gateway.receipt import Receipt

WAIT_S = 20.0
ANY = "udp-listen://127.0.0.1:0"


@asynccontextmanager
async def source(port: int) -> AsyncIterator[socket.socket]:
    """A sender with an address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        yield sock


async def heard(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def send(sock: socket.socket, *datagrams: bytes) -> None:
    for datagram in datagrams:
        await asyncio.get_running_loop().sock_sendall(sock, datagram)


async def until(is_true: object) -> None:
    assert callable(is_true)
    while not is_true():
        await asyncio.sleep(0)  # noqa: TID251  # gives the loop a turn


async def echo(link: StreamLink) -> None:
    while True:
        link.answer(await link.read(), after=Receipt.settled())


async def test_each_datagram_is_one_read_and_its_answer_goes_to_its_source() -> None:
    async with (
        asyncio.timeout(WAIT_S),
        udp.listen(ANY, echo) as listener,
        source(listener.port) as one,
        source(listener.port) as other,
    ):
        await send(one, b"a" * 5000, b"b")
        await send(other, b"c")

        assert [await heard(one), await heard(one), await heard(other)] == [b"a" * 5000, b"b", b"c"]
        assert listener.peers == 2


async def test_an_answer_waits_for_its_commit_and_fails_with_it() -> None:
    receipts: list[Receipt] = []
    ended: list[str] = []

    async def keep(link: StreamLink) -> None:
        try:
            while True:
                datagram = await link.read()
                receipts.append(Receipt())
                link.answer(datagram, after=receipts[-1])
        except LinkClosed as closed:
            ended.append(str(closed))
            raise

    async with asyncio.timeout(WAIT_S), udp.listen(ANY, keep) as listener, source(listener.port) as sock:
        await send(sock, b"first", b"second")
        await until(lambda: len(receipts) == 2)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        receipts[0].settle()
        assert await heard(sock) == b"first"
        receipts[1].settle(StoreError("disk full"))
        await until(lambda: ended)
        assert "disk full" in ended[0]
        await until(lambda: listener.peers == 0)

        await send(sock, b"third")  # the same source is a new peer
        await until(lambda: len(receipts) == 3)
        receipts[2].settle()
        assert await heard(sock) == b"third"


async def test_answers_under_way_leave_before_the_port_is_given_up() -> None:
    receipts: list[Receipt] = []

    async def keep(link: StreamLink) -> None:
        while True:
            datagram = await link.read()
            receipts.append(Receipt())
            link.answer(datagram, after=receipts[-1])

    async with asyncio.timeout(WAIT_S):
        async with udp.listen(ANY, keep) as listener, source(listener.port) as sock:
            await send(sock, b"late")
            await until(lambda: receipts)
            asyncio.get_running_loop().call_later(0.05, receipts[0].settle)
            port = listener.port
            reading = sock.dup()
        with reading:
            reading.setblocking(False)
            assert await heard(reading) == b"late"
    assert why_taken(f"udp-listen://127.0.0.1:{port}") == ""


async def test_the_longest_silent_source_makes_room_for_another() -> None:
    async with (
        asyncio.timeout(WAIT_S),
        udp.listen(f"{ANY}?peers=2", echo) as listener,
        source(listener.port) as one,
        source(listener.port) as two,
        source(listener.port) as three,
    ):
        for sock in (one, two, one, three):
            await send(sock, b"x")
            assert await heard(sock) == b"x"

        assert (listener.peers, listener.displaced) == (2, 1)
        await send(two, b"y")  # displaced, and served all the same
        assert await heard(two) == b"y"
        assert (listener.peers, listener.displaced) == (2, 2)


async def test_what_one_source_piles_up_is_bounded_and_its_neighbour_is_served() -> None:
    go_on = asyncio.Event()

    async def slow(link: StreamLink) -> None:
        while True:
            datagram = await link.read()
            if datagram == b"slow":
                await go_on.wait()
            link.answer(datagram, after=Receipt.settled())

    async with (
        asyncio.timeout(WAIT_S),
        udp.listen(ANY, slow) as listener,
        source(listener.port) as one,
        source(listener.port) as other,
    ):
        await send(one, b"slow", *[b"%d" % n for n in range(100)])
        await until(lambda: listener.dropped >= 100 - udp.WAITING_MAX - 1)
        await send(other, b"quick")
        assert await heard(other) == b"quick"
        go_on.set()
        got = [await heard(one) for _ in range(1 + udp.WAITING_MAX)]

        assert got[0] == b"slow"
        assert got[1:] == [b"%d" % n for n in range(udp.WAITING_MAX)]


async def test_a_silent_source_is_forgotten_and_an_empty_datagram_is_no_end() -> None:
    begun: list[str] = []

    async def counted(link: StreamLink) -> None:
        begun.append(link.peer)
        await echo(link)

    async with (
        asyncio.timeout(WAIT_S),
        udp.listen(ANY, counted, idle_s=0.5) as listener,
        source(listener.port) as sock,
    ):
        await send(sock, b"", b"x")
        assert await heard(sock) == b"x"
        assert len(begun) == 1
        await until(lambda: listener.peers == 0)


async def test_a_taken_port_is_a_closed_link() -> None:
    async with asyncio.timeout(WAIT_S), udp.listen(ANY, echo) as listener:
        url = f"udp-listen://127.0.0.1:{listener.port}"

        assert "in use" in why_taken(url)
        with pytest.raises(LinkClosed):
            async with udp.listen(url, echo):
                pass


@pytest.mark.parametrize(
    "url",
    [
        "udp-listen://",
        "udp-listen://h:1?peers=0",
        "udp-listen://h:1?peers=70000",
        "tcp-listen://h:1?peers=x",
        "tcp://h:1?peers=2",
    ],
)
def test_a_wrong_url_says_what_is_expected(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected [a-z-]+://HOST:PORT"):
        Endpoint.parse(url)
