"""Where somebody else's MQTT broker is, as the site file says it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.config import BrokerSection, read_secret
from gateway.errors import ConfigError, Problem
from gateway.links.mqtt_client import BrokerAddress


def external_address(section: BrokerSection, base: Path = Path()) -> BrokerAddress:
    """`mqtt://HOST[:1883]` or `mqtts://HOST[:8883][?ca=FILE]`. Raises ConfigError."""
    url = section.url or ""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    try:
        port = parts.port
        is_valid = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.username is None
    except ValueError:  # port out of range
        port, is_valid = None, False
    if not is_valid or parts.path.strip("/") or set(query) - {"ca"}:
        expected = "mqtt://HOST:PORT or mqtts://HOST:PORT?ca=FILE"
        shown = url.rpartition("@")[2]  # a password has no business here, and none in an error either
        hint = "user and password belong into broker.username and broker.password_file"
        raise ConfigError([Problem("site file", None, "broker.url", f'found "{shown}"', expected, hint)])
    assert parts.hostname is not None
    tls = parts.scheme == "mqtts"
    return BrokerAddress(
        parts.hostname,
        port or (8883 if tls else 1883),
        section.username,
        read_secret(base / section.password_file) if section.password_file else None,
        section.version,
        tls,
        base / query["ca"][0] if "ca" in query else None,
    )
