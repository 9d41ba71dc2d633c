"""Two small things every simulator with a socket needs."""

import asyncio
import socket
import struct
from contextlib import suppress


def host_and_port(address: str) -> tuple[str, int]:
    """Split ``host:port``; ValueError says what was expected."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 0xFFFF:
        raise ValueError(f"address {address!r}: expected HOST:PORT with a port of 0..65535, such as 127.0.0.1:0")
    return host.strip("[]"), int(port)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as after a crash: what was not sent yet is lost."""
    with suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
