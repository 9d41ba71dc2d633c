"""Where a line over IP begins: the host, the port, and for a listener how many peers it may hold."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from gateway.errors import ConfigError, Problem

LISTENING = frozenset({"tcp-listen", "udp-listen"})
PEERS_MAX = 8192
"""A listener's peers where its URL says nothing. 5 000 panels of one district hold their line open all day; each costs a
descriptor and some 20 kB. The service may have 16 384 descriptors (LimitNOFILE)."""
PEERS_POSSIBLE = 65_536
"""More addresses than one box can serve; a number beyond it is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL of the site file, read."""

    host: str
    port: int
    peers_max: int = PEERS_MAX

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Of `tcp://HOST:PORT`, `tcp-listen://HOST:PORT?peers=N` and `udp-listen` likewise. Raises ConfigError."""
        parts = urlsplit(url)
        is_listening = parts.scheme in LISTENING
        try:
            port = parts.port
        except ValueError:
            port = None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        peers = options.pop("peers", str(PEERS_MAX)) if is_listening else str(PEERS_MAX)
        is_number = peers.isascii() and peers.isdigit() and 1 <= int(peers) <= PEERS_POSSIBLE
        if not parts.hostname or port is None or options or not is_number or parts.path not in ("", "/"):
            expected = f"{parts.scheme}://HOST:PORT"
            if is_listening:
                expected += f", perhaps with ?peers=1..{PEERS_POSSIBLE}"
            raise ConfigError([Problem("site file", None, "link", f"found {url!r}", expected)])
        return cls(parts.hostname, port, int(peers))


def why_taken(url: str) -> str:
    """Why the port of a listening URL cannot be had at this moment; empty when it can. Raises ConfigError."""
    endpoint = Endpoint.parse(url)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        if urlsplit(url).scheme == "udp-listen":
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((endpoint.host, endpoint.port))
        else:
            socket.create_server((endpoint.host, endpoint.port), family=family).close()
    except OSError as error:
        return f"{url}: {(error.strerror or str(error)).partition(' (while')[0]}"  # Python adds the address once more
    return ""
