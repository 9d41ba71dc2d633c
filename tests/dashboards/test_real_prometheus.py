"""Every expression of rules and board returns data when a real Prometheus scrapes a running gateway."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.demo_community import ALARMS
from gateway.errors import Reason
from gateway.forwarders.dc09._conversation import ANSWERS
from gateway.kinds import Lane
from gateway.metrics import Metrics
from tests.dashboards.prometheus import (
    BOARD,
    COVERAGE,
    FAMILIES,
    Expression,
    RealPrometheus,
    board_expressions,
    expressions,
)
from tests.stories.community import whole_community
from tests.stories.town import town

DATA_WITHIN_S = 30.0
"""Two scrapes of 1 s, then one evaluation of a 5 s group; the rest is for a busy machine."""

SERIES = re.compile(r"fangkong_\w+|\bup\b")
FAMILY_DRIVERS = ("alarm_json", "dc09", "jt808", "modbus_points", "nmea", "osdp", "rf_serial", "zigbee2mqtt")


@asynccontextmanager
async def served(metrics: Metrics) -> AsyncIterator[str]:
    """HOST:PORT of a little HTTP server that answers every request with the metrics."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = metrics.text()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # Prometheus was stopped in the middle of a scrape
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def test_a_gateway_shows_every_series_of_its_destination_and_its_lines_from_the_start(tmp_path: Path) -> None:
    lanes = {lane.name.lower() for lane in Lane}
    per_lane = ("sent_total", "accepted_total", "delivery_seconds_count", "outbox_pending", "outbox_oldest_seconds")
    async with town(tmp_path) as place:
        found = [
            (sample.name, sample.labels)
            for family in text_string_to_metric_families(place.box.text("metrics"))
            for sample in family.samples
        ]

    def values(name: str, label: str) -> set[str]:
        return {labels[label] for found_name, labels in found if found_name == f"fangkong_{name}"}

    assert {name: values(name, "lane") for name in per_lane} == dict.fromkeys(per_lane, lanes)
    assert values("answers_total", "answer") == set(ANSWERS)
    assert values("rejected_frames_total", "reason") == set(get_args(Reason))
    for name in ("destination_up", "outbox_dead", "resent_total"):
        assert values(name, "destination") == {"centre-110"}
    for name in ("connection_up", "connection_lost_total", "driver_errors_total"):
        assert values(name, "connection") == {"alarms", "perimeter", "radio"}


@pytest.mark.full
async def test_every_expression_returns_data_on_a_quiet_community_and_nothing_fires(tmp_path: Path) -> None:
    """No alarm was ever raised here: what is zero must be there as zero."""
    async with town(tmp_path) as place:
        await place.fences()
        await place.radio()
        for n in range(1, ALARMS + 1):
            place.alarm(f"a{n:03}")
        async with RealPrometheus(f"127.0.0.1:{place.box.api}") as prom:
            of_coverage = [each for board in COVERAGE for each in board_expressions(board)]
            assert await prom.missing([*expressions(), *of_coverage], within_s=DATA_WITHIN_S) == []
            assert await prom.firing() == set()


@pytest.mark.full
async def test_every_expression_of_the_families_returns_data_while_all_of_them_are_there(tmp_path: Path) -> None:
    async with whole_community(tmp_path) as place, RealPrometheus(f"127.0.0.1:{place.box.api}") as prom:
        told = [
            Expression("of a driver", f'fangkong_driver_events_total{{driver="{name}"}}') for name in FAMILY_DRIVERS
        ]

        assert await prom.missing([*board_expressions(FAMILIES), *told], within_s=DATA_WITHIN_S) == []


@pytest.mark.full
async def test_a_metric_the_gateway_does_not_have_is_reported_as_missing() -> None:
    """The check itself can fail."""
    bare = Metrics()
    async with served(bare) as target, RealPrometheus(target) as prom:
        assert await prom.missing([e for e in expressions() if e.promql == "fangkong_store_up"], within_s=10) == []

        missing = await prom.missing(expressions(), within_s=0)

        assert "panel 110通路状态" in {expression.origin for expression in missing}


@pytest.mark.full
async def test_of_several_boxes_the_dead_one_is_named_and_each_can_be_looked_at_alone() -> None:
    """The alert itself waits 30 s (promtool has that test); here it is pending, for that box alone."""
    one, other = Metrics(), Metrics()
    one.coverage_points.labels("c1", "required").set(7)
    other.coverage_points.labels("c1", "required").set(5)
    async with served(one) as first, served(other) as second:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            dead = f"127.0.0.1:{taken.getsockname()[1]}"
        async with RealPrometheus(first, second, dead) as prom:
            wanted = [
                Expression("pending", f'ALERTS{{alertname="FangkongScrapeMissing", instance="{dead}"}}'),
                *(Expression(box, f'fangkong_coverage_points{{instance="{box}"}}') for box in (first, second)),
            ]
            assert await prom.missing(wanted, within_s=DATA_WITHIN_S) == []
            named = await prom.query('ALERTS{alertname="FangkongScrapeMissing"}')
            [points] = [each for each in board_expressions(COVERAGE[0], box=first) if each.origin == "panel 点位数"]
            alone = await prom.query(points.promql)

    assert {row["metric"]["instance"] for row in named} == {dead}
    assert [(row["metric"]["state"], row["value"][1]) for row in alone] == [("required", "7")]


def test_every_query_of_every_board_is_of_the_boxes_that_are_chosen() -> None:
    for path in (BOARD, FAMILIES, *COVERAGE):
        board = json.loads(path.read_text(encoding="utf-8"))
        assert "box" in [variable["name"] for variable in board["templating"]["list"]]
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                assert target["expr"].count('instance=~"$box"') == len(SERIES.findall(target["expr"])), target["expr"]
