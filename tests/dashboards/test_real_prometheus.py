"""Every expression of rules and board returns data when a real Prometheus scrapes a gateway's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.health import STATES
from gateway.kinds import Lane
from gateway.metrics import Metrics
from tests.dashboards.prometheus import RealPrometheus, expressions

DATA_WITHIN_S = 30.0
"""Two scrapes of 1 s, then one evaluation of a 5 s group; the rest is for a busy machine."""


def touched() -> Metrics:
    """Metrics as a gateway with one line, one destination and one site leaves them after a while."""
    metrics = Metrics()
    metrics.build_info.labels("0.1.0", "box").set(1)
    metrics.store_bytes.set(1 << 20)
    metrics.store_budget_bytes.set(1 << 31)
    metrics.commit_seconds.observe(0.004)
    metrics.rejected.labels("yard", "checksum").inc()
    metrics.connection_up.labels("yard").set(1)
    metrics.connection_peers.labels("yard").set(3)
    for state in STATES:
        metrics.devices.labels("garden-3", state).set(3 if state == "heard" else 0)
    metrics.destination_up.labels("police-110").set(1)
    metrics.dead.labels("police-110").set(0)
    metrics.resent.labels("police-110").inc(0)
    for answer in ("ack", "nak", "duh"):
        metrics.answers.labels("police-110", answer).inc()
    for lane in Lane:
        labels = ("police-110", lane.name.lower())
        metrics.pending.labels(*labels).set(0)
        metrics.oldest_seconds.labels(*labels).set(0)
        metrics.sent.labels(*labels).inc()
        metrics.accepted.labels(*labels).inc()
        metrics.delivery_seconds.labels(*labels).observe(0.02)
    return metrics


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


@pytest.mark.full
async def test_every_expression_of_rules_and_board_returns_data_and_nothing_fires_on_a_sound_gateway() -> None:
    async with served(touched()) as target, RealPrometheus(target=target) as prom:
        assert await prom.missing(expressions(), within_s=DATA_WITHIN_S) == []
        assert await prom.firing() == set()


@pytest.mark.full
async def test_a_metric_the_gateway_does_not_have_is_reported_as_missing() -> None:
    """The check itself can fail."""
    bare = Metrics()
    async with served(bare) as target, RealPrometheus(target=target) as prom:
        assert await prom.missing([e for e in expressions() if e.promql == "fangkong_store_up"], within_s=10) == []

        missing = await prom.missing(expressions(), within_s=0)

        assert "panel 110通路状态" in {expression.origin for expression in missing}
