"""How a connection to a broker comes about: which version it speaks, and what its refusal means."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import aiomqtt

from gateway.errors import LinkClosed, Refused
from gateway.links.mqtt_client import BrokerAddress, Client, reason_of

ANSWER_TIMEOUT_S = 10.0

UNSUPPORTED_VERSION = 132
REFUSALS = {133: "client id", 134: "user name or password", 135: "not authorised", 138: "banned"}
"""CONNACK reasons that trying again cannot change (MQTT 5, 3.2.2.2; paho maps those of 3.1.1 onto them)."""


@dataclass(frozen=True, slots=True)
class Connected:
    """How the connection came about."""

    version: Literal["3.1.1", "5"]
    session_present: bool
    """The broker still had our session: what came while we were away follows now."""


async def connect(address: BrokerAddress, client_id: str) -> tuple[Client, Connected]:
    """In the newest version that both speak, or the one asked for. Raises LinkClosed, Refused."""
    if address.version != "3.1.1":
        try:
            return await _connect_as("5", address, client_id)
        except aiomqtt.MqttCodeError as error:
            if address.version == "5" or reason_of(error) != UNSUPPORTED_VERSION:
                raise _explained(error, address) from error
        except LinkClosed:
            if address.version == "5":
                raise
            # An old broker may take the properties of MQTT 5 for the client id and wait for the rest of it.
    try:
        return await _connect_as("3.1.1", address, client_id)
    except aiomqtt.MqttCodeError as error:
        raise _explained(error, address) from error


async def _connect_as(
    version: Literal["3.1.1", "5"], address: BrokerAddress, client_id: str
) -> tuple[Client, Connected]:
    protocol = aiomqtt.ProtocolVersion.V5 if version == "5" else aiomqtt.ProtocolVersion.V311
    try:
        client = Client(address, protocol, client_id)
    except OSError as error:  # ssl.SSLError among them: the file with the certificates
        raise Refused(f"cannot use the certificates in {address.ca}: {error}") from error
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await client.__aenter__()
    except aiomqtt.MqttCodeError:
        client.abandon()
        raise
    except (aiomqtt.MqttError, TimeoutError) as error:
        client.abandon()
        why = str(error) or f"no answer within {ANSWER_TIMEOUT_S:.0f} s"
        raise LinkClosed(f"cannot reach the MQTT broker at {address.host}:{address.port}: {why}") from error
    except BaseException:  # cancelled: see Client._client_connect
        client.abandon()
        raise
    return client, Connected(version, client.session_present)


def _explained(error: aiomqtt.MqttCodeError, address: BrokerAddress) -> Refused | LinkClosed:
    where = f"{address.host}:{address.port}"
    reason = reason_of(error)
    if reason == UNSUPPORTED_VERSION:
        return Refused(f'the broker at {where} does not speak MQTT {address.version}; try version = "auto"')
    if reason in REFUSALS:
        return Refused(f'the broker at {where} refuses user "{address.username}": {REFUSALS[reason]} (reason {reason})')
    return LinkClosed(f"the broker at {where} is not ready: {error}")
