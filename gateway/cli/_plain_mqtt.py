"""MQTT for a trial: listens at QoS 0 with a session that ends with it, so that nothing stays behind at the broker."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiomqtt

from gateway.errors import LinkClosed
from gateway.links.mqtt_client import BrokerAddress
from gateway.receipt import Receipt
from gateway.recording import Tap


@dataclass(slots=True)
class PlainMessage:
    """A `driver.Message` that nobody waits for."""

    topic: str
    payload: bytes
    retained: bool

    def accept(self, *, after: Receipt) -> None:
        """It came at QoS 0: the broker has forgotten it."""


class PlainTopics:
    """What `driver.Topics` hears; it says nothing."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.tap: Tap | None = None
        self.peer = "broker"
        self._client = client

    async def batches(self) -> AsyncIterator[Sequence[PlainMessage]]:
        """Each message by itself. Raises LinkClosed."""
        try:
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                batch = [PlainMessage(str(message.topic), payload, message.retain)]
                if self.tap is not None:
                    self.tap.batch(batch)
                yield batch
        except aiomqtt.MqttError as error:
            raise LinkClosed(f"the broker is gone: {error}") from error


@asynccontextmanager
async def open_plain_topics(address: BrokerAddress, subscriptions: Sequence[str]) -> AsyncIterator[PlainTopics]:
    """Connected and subscribed. Raises LinkClosed."""
    client = aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password.reveal() if address.password else None,
        identifier=f"fangkong-try-{secrets.token_hex(4)}",
        tls_context=ssl.create_default_context(cafile=address.ca) if address.tls else None,
    )
    try:
        async with client:
            for subscription in subscriptions:
                await client.subscribe(subscription)
            yield PlainTopics(client)
    except aiomqtt.MqttError as error:
        raise LinkClosed(f"{address.host}:{address.port}: {error}") from error
