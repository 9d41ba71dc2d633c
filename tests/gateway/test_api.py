"""The API as a client meets it: a real server on a real socket over a real store and ledger."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from gateway.api import app, guard, stream
from gateway.api import server as http_server
from gateway.health import DeviceHealth
from gateway.model import Device, Event, Kind, Lane, Point, Position, Site
from gateway.store import EventFilter, Rejected
from tests.gateway.api_box import AT, TOKEN, UNCLAIMED, Box, closed_box, event


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Box]:
    async with closed_box(tmp_path) as box:
        yield box


@pytest.fixture
async def box(parts: Box) -> AsyncIterator[Box]:
    async with parts.open():
        yield parts


def is_problem(answer: httpx.Response, status: int) -> bool:
    content = answer.json()
    return (
        answer.status_code == status == content["status"]
        and answer.headers["content-type"] == "application/problem+json"
        and {"type", "title", "status", "detail", "instance"} <= set(content)
    )


# -- headers -----------------------------------------------------------------------------------------------------------


async def test_every_answer_carries_the_security_headers_and_no_cors(box: Box) -> None:
    for path in ("/healthz", "/", "/api/v1/events", "/nowhere"):
        answer = await box.client.get(path, headers={"origin": "https://evil.example"})

        assert guard.SECURITY_HEADERS.keys() <= answer.headers.keys()
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    assert "unsafe" not in (await box.get("/")).headers["content-security-policy"]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "after=-1", f"after={2**63}", "kind=earthquake", "lane=fast",
        "claimed=perhaps", "since=yesterday", "since=2027-01-15T08:30:00", "since=0001-01-01T00:00:00%2B08:00",
        "until=9999-12-31T23:59:59-08:00", f"device={'x' * 129}", "device=", "knid=fire",
    ],
)  # fmt: skip
async def test_a_query_that_cannot_be_meant_is_refused_by_name(box: Box, query: str) -> None:
    answer = await box.client.get(f"/api/v1/events?{query}")

    assert is_problem(answer, 422)
    assert query.split("=", maxsplit=1)[0] in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"not json", b'{"destination": "centre"}', b'{"destination": "centre", "seqs": []}',
        b'{"destination": "centre", "seqs": [0]}', b'{"destination": "centre", "seqs": [1e400]}',
        b'{"destination": "centre", "seqs": [1], "force": true}', "{}".encode("utf-16"), b"\xff\x00",
        json.dumps({"destination": "centre", "seqs": list(range(1, 1002))}).encode(),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_meant_is_refused(box: Box, body: bytes) -> None:
    assert is_problem(await post(box, body), 422)


@pytest.mark.parametrize("body", [b"[" * 30_000, b'{"destination": "centre", "seqs": [%b]}' % (b"1" * 5000)])
async def test_a_body_that_no_parser_takes_is_refused(box: Box, body: bytes) -> None:
    assert is_problem(await post(box, body), 400)


async def post(box: Box, body: bytes) -> httpx.Response:
    return await box.client.post(
        "/api/v1/deliveries/requeue", content=body, headers={"content-type": "application/json"}
    )


async def test_what_is_too_long_is_refused_before_it_is_read(box: Box) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1024

    path = "/api/v1/deliveries/requeue"

    assert is_problem(await box.client.post(path, content=b" " * (guard.BODY_MAX_BYTES + 1)), 413)
    assert is_problem(await box.client.post(path, content=endless(), headers={"content-type": "application/json"}), 413)
    assert is_problem(await box.client.get("/api/v1/events", params={"device": "x" * 5000}), 414)


async def test_a_slow_body_and_slow_headers_are_cut_off(parts: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_WITHIN_S", 0.05)
    monkeypatch.setattr(http_server, "HEADERS_WITHIN_S", 0.05)
    async with parts.open() as box, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
        head = f"POST /api/v1/deliveries/requeue HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_what_is_not_there_is_a_problem_too(box: Box) -> None:
    assert is_problem(await box.get("/nowhere"), 404)
    assert is_problem(await box.get("/api/v1/events/nothing"), 404)
    assert is_problem(await box.get("/api/v1/deliveries", destination="elsewhere"), 404)
    assert is_problem(await box.client.put("/api/v1/events"), 405)


async def test_a_fault_of_ours_shows_nothing_of_our_insides(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterable[DeviceHealth]:
        raise RuntimeError("/etc/secret")

    monkeypatch.setattr(box.health, "states", broken)
    answer = await box.get("/api/v1/devices")

    assert is_problem(answer, 500)
    assert "secret" not in answer.text


# -- views -------------------------------------------------------------------------------------------------------------


async def test_an_event_is_shown_whole(box: Box) -> None:
    seen = event(
        zone=3, code="E130", text="围墙 <b>", values={"battery": float("nan"), "count": 2}, raw=b"\x7e\x02",
        position=Position(37.5, 121.4, 30.0), received_at=AT.astimezone(datetime.fromisoformat("2027-01-15T00:00:00+08:00").tzinfo),
    )  # fmt: skip
    await box.keep(seen)

    assert (await box.get(f"/api/v1/events/{seen.id}")).json() == {
        "seq": 1, "id": seen.id, "device": "a001", "kind": "burglary", "kind_zh": "盗警", "kind_en": "burglary",
        "qualifier": "new", "lane": "alarm", "zone": 3, "code": "E130", "text": "围墙 <b>", "values": {"battery": None, "count": 2},
        "received_at": "2027-01-15T08:30:00Z", "device_time": None, "time_quality": "unknown", "clock": "set",
        "position": {"latitude": 37.5, "longitude": 121.4, "speed_kmh": 30.0}, "test": False, "claimed": True,
        "site": "s1", "site_name": "阳泗小区", "point": "p1", "point_name": "东门", "driver": "test", "connection": "c1",
            "suppressed_by": None, "raw": "7e02",
        "withheld": False,
    }  # fmt: skip


@pytest.mark.parametrize("newest_first", [False, True])
async def test_paging_shows_every_event_once(box: Box, newest_first: bool) -> None:
    await box.keep(*(event() for _ in range(25)))
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = (await box.get("/api/v1/events", limit=10, after=after, newest_first=newest_first)).json()
        seen += [item["seq"] for item in page["items"]]
        after = page["next"]

    assert seen == sorted(range(1, 26), reverse=newest_first)


async def test_filters_choose(box: Box) -> None:
    await box.keep(
        event(),
        event(device="b002", kind=Kind.PANIC, lane=Lane.LIFE, received_at=AT + timedelta(hours=1)),
        event(device="stranger", place=None),
    )

    async def chosen(**query: str | bool) -> list[int]:
        return [item["seq"] for item in (await box.get("/api/v1/events", **query)).json()["items"]]

    assert await chosen(device="b002") == [2]
    assert await chosen(site="s1") == [1, 2]
    assert await chosen(kind="panic") == [2]
    assert await chosen(lane="life") == [2]
    assert await chosen(claimed=False) == [3]
    assert await chosen(claimed=True) == [1, 2]
    assert await chosen(since="2027-01-15T17:00:00+08:00") == [2]
    assert await chosen(until="2027-01-15T09:00:00Z") == [1, 3]


async def test_devices_join_ledger_and_health_and_show_the_unclaimed(box: Box) -> None:
    await box.registry.add(
        Site("s1", "x", "A10B"), Device("d1", "s1", "主机"), Device("d2", "s1"), Point("p1", "s1", 1, "门", "d1")
    )
    box.health.known = [UNCLAIMED, DeviceHealth("d1", "silent", AT, AT), DeviceHealth("d2", "unproven", None, None)]
    page = (await box.get("/api/v1/devices")).json()
    first = (await box.get("/api/v1/devices", limit=1)).json()

    assert page["next"] is None
    assert [(item["id"], item["site"], item["state"], item["last_heard"]) for item in page["items"]] == [
        ("d1", "s1", "silent", "2027-01-15T08:30:00Z"),
        ("d2", "s1", "unproven", None),
        ("stranger", None, "unclaimed", "2027-01-15T08:30:00Z"),
    ]
    assert [item["id"] for item in first["items"]] == ["d1"]
    following = (await box.get("/api/v1/devices", after=first["next"], limit=1)).json()
    assert [item["id"] for item in following["items"]] == ["d2"]
    assert [item["id"] for item in (await box.get("/api/v1/devices", state="unclaimed")).json()["items"]] == [
        "stranger"
    ]
    assert [item["account"] for item in (await box.get("/api/v1/sites")).json()["items"]] == ["A10B"]
    assert [item["number"] for item in (await box.get("/api/v1/points", site="s1")).json()["items"]] == [1]


async def test_a_dead_delivery_is_shown_and_can_be_queued_again(box: Box) -> None:
    await box.keep(event(), event(), to=("centre",))
    await box.store.dead("centre", 1, "DUH")
    box.metrics.destination_up.labels("centre").set(1)

    [destination] = (await box.get("/api/v1/destinations")).json()["items"]
    assert (destination["name"], destination["up"], destination["dead"]) == ("centre", True, 1)
    assert (destination["backlog"]["alarm"], destination["oldest"]["alarm"]) == (1, "2027-01-15T08:30:00Z")
    [dead] = (await box.get("/api/v1/deliveries", destination="centre", state="dead")).json()["items"]
    assert (dead["event"]["seq"], dead["reason"]) == (1, "DUH")

    answer = await box.client.post("/api/v1/deliveries/requeue", json={"destination": "centre", "seqs": [1]})
    assert answer.json() == {"asked": 1}
    queued = (await box.get("/api/v1/deliveries", destination="centre", state="queued")).json()["items"]
    assert [item["event"]["seq"] for item in queued] == [1, 2]


@pytest.mark.row("F5")
async def test_a_person_can_send_a_span_of_time_once_more(box: Box) -> None:
    await box.keep(event(), event(), to=("centre",))
    await box.store.accepted("centre", [1, 2])
    span = {"destination": "centre", "since": "2027-01-15T16:00:00+08:00", "until": "2027-01-15T09:00:00Z"}

    with structlog.testing.capture_logs() as lines:
        answer = await box.client.post("/api/v1/deliveries/resend", json=span)
    assert (answer.status_code, answer.json()) == (202, {"queued": 2, "busy": 0})
    assert [line["event"] for line in lines] == ["accepted events are sent once more"]
    assert box.metrics.registry.get_sample_value("fangkong_asked_again_total", {"destination": "centre"}) == 2
    queued = (await box.get("/api/v1/deliveries", destination="centre", state="queued")).json()["items"]
    assert [item["event"]["seq"] for item in queued] == [1, 2]


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2027-01-15T08:00:00", "2027-01-15T09:00:00Z"),
        ("2027-01-15T09:00:00Z", "2027-01-15T09:00:00Z"),
        ("0001-01-01T00:00:00Z", "2027-01-15T09:00:00Z"),
        ("yesterday", "2027-01-15T09:00:00Z"),
    ],
)
async def test_a_span_that_cannot_be_meant_is_refused(box: Box, since: str, until: str) -> None:
    span = {"destination": "centre", "since": since, "until": until}

    assert (await box.client.post("/api/v1/deliveries/resend", json=span)).status_code == 422


async def test_refused_frames_are_shown_as_hex(box: Box) -> None:
    await box.store.reject(Rejected(AT, "c1", "crc", b"\xde\xad"))

    assert (await box.get("/api/v1/rejected")).json()["items"] == [
        {"at": "2027-01-15T08:30:00Z", "connection": "c1", "reason": "crc", "raw": "dead"}
    ]


# -- probes ------------------------------------------------------------------------------------------------------------


async def test_ready_names_what_fails(box: Box) -> None:
    assert (await box.get("/readyz")).json() == {"ready": True, "failing": {}}
    box.failing = {"store": "the disk is full", "broker": None}
    answer = await box.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "failing": {"store": "the disk is full"}}
    assert (await box.get("/healthz")).status_code == 200


async def test_device_series_are_bounded_by_the_ledger_and_escaped(box: Box) -> None:
    await box.registry.add(Site("s1", "x", "A10B"), Device('a"\\b', "s1"), Device("never", "s1"))
    box.health.known = [
        DeviceHealth('a"\\b', "heard", AT, None),
        DeviceHealth("never", "unproven", None, None),
        UNCLAIMED,
    ]
    lines = (await box.get("/metrics/devices")).text.splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        r'fangkong_device_up{site="s1",device="a\"\\b"} 1',
        'fangkong_device_up{site="s1",device="never"} 0',
    ]
    assert "fangkong_store_up 1.0" in (await box.get("/metrics")).text


async def test_between_pieces_of_the_device_series_others_have_a_turn(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that takes everything at once never makes the writer wait."""
    monkeypatch.setattr(app, "SERIES_AT_ONCE", 1)
    await box.registry.add(Site("s1", "x", "A10B"), *(Device(f"a{n}", "s1") for n in range(5)))
    box.health.known = [DeviceHealth(f"a{n}", "heard", AT, None) for n in range(5)]
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    count()
    looks = box.looks
    seen = [turns async for _ in app._device_series(looks)]

    assert len(seen) == 6  # a heading and five devices
    assert seen[1:] == sorted(set(seen[1:]))


# -- the live stream ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(box: Box, **headers: str) -> AsyncIterator[AsyncIterator[int]]:
    """The positions a listener hears, as they come."""
    after = headers.pop("after", None)
    async with box.client.stream(
        "GET", "/api/v1/stream" + (f"?after={after}" if after else ""), headers=headers
    ) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert await anext(lines) == ": fangkong"

        async def positions() -> AsyncIterator[int]:
            async for line in lines:
                if line.startswith("id: "):
                    yield int(line[4:])

        yield positions()


async def take(positions: AsyncIterator[int], count: int) -> list[int]:
    async with asyncio.timeout(10):
        return [await anext(positions) for _ in range(count)]


async def test_a_listener_hears_what_happens_from_now_on(box: Box) -> None:
    await box.keep(event())
    async with listening(box, after="1") as positions:
        await box.keep(event(), event())

        assert await take(positions, 2) == [2, 3]


async def test_a_listener_that_comes_back_misses_nothing_and_hears_nothing_twice(box: Box) -> None:
    """Events keep coming while it is away, while it catches up and afterwards; more than the feed keeps in memory."""
    await box.keep(*(event() for _ in range(1500)))
    async with listening(box, after="0") as positions:
        heard = await take(positions, 700)

    async with asyncio.TaskGroup() as group:
        group.create_task(box.keep(*(event() for _ in range(300))))
        async with listening(box, **{"last-event-id": str(heard[-1])}) as positions:
            heard += await take(positions, 900)
            await box.keep(*(event() for _ in range(200)))
            heard += await take(positions, 400)

    assert heard == list(range(1, 2001))


async def test_listeners_at_the_same_place_cost_one_reading(parts: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of them trebled the gateway's work on an event."""
    reads = 0
    encoded = 0
    read, encode = type(parts.store).events, stream._encoded

    async def counted(*args: Any, **wanted: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args, **wanted)

    def counted_encoding(event: Event) -> bytes:
        nonlocal encoded
        encoded += 1
        return encode(event)

    monkeypatch.setattr(type(parts.store), "events", counted)
    monkeypatch.setattr(stream, "_encoded", counted_encoding)
    async with parts.open() as box, AsyncExitStack() as stack:
        everybody = [await stack.enter_async_context(listening(box)) for _ in range(5)]
        reads = 0
        for number in range(1, 41):
            await box.keep(event(text=f"e{number}"))
        for positions in everybody:
            assert await take(positions, 40) == list(range(1, 41))

    assert encoded < 120  # 200 when each has its own; a few more than 40, for a listener may come to its place later
    assert reads < 100


async def test_a_listener_is_not_told_of_an_empty_page_that_was_read_before_the_event(box: Box) -> None:
    """A page is shared only with those who know of no later commit."""
    pages = stream.Pages(box.store)
    await box.keep(event())

    assert await pages.after(EventFilter(), 1) == (b"", 1, False)
    await box.keep(event())
    assert (await pages.after(EventFilter(), 1))[1] == 2
    assert (await pages.after(EventFilter(device="nobody"), 1))[1] == 1
    assert (await pages.after(EventFilter(), 0))[1:] == (2, False)


async def test_a_quiet_stream_beats(parts: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.02)
    async with parts.open() as box, asyncio.timeout(10), box.client.stream("GET", "/api/v1/stream") as answer:
        beats = [line async for line in _first(answer.aiter_lines(), 4) if line]

    assert beats == [": fangkong", ": still here"]


async def _first(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield await anext(lines)


async def test_one_listener_too_many_is_told_so(parts: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CLIENTS_MAX", 1)
    async with parts.open() as box, listening(box):
        answer = await box.get("/api/v1/stream")

        assert is_problem(answer, 503)
        assert "fangkong_stream_clients 1.0" in (await box.get("/metrics")).text


async def test_a_listener_that_takes_nothing_is_dropped_and_the_others_are_served(
    parts: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALL_S", 0.2)
    await parts.keep(*(event(text="x" * 1000) for _ in range(8000)))
    async with parts.open() as box, asyncio.timeout(60):
        with socket.create_connection(("127.0.0.1", box.port)) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            rude.sendall(
                f"GET /api/v1/stream?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
            async with listening(box, after="7990") as polite:
                assert await take(polite, 10) == list(range(7991, 8001))
                while "fangkong_stream_dropped_total 1.0" not in (await box.get("/metrics")).text:
                    pass
                await box.keep(event())
                assert await take(polite, 1) == [8001]


async def test_stopping_sends_listeners_home(parts: Box) -> None:
    async with asyncio.timeout(10), parts.open() as box:
        answer = box.client.stream("GET", "/api/v1/stream")
        response = await answer.__aenter__()

    assert response.status_code == 200


def test_an_answer_does_not_wait_for_acknowledgements() -> None:
    """On the standard loop; uvloop sees to it by itself."""
    with http_server.bind("127.0.0.1:0") as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
