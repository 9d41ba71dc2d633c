"""Three small things every simulator with a socket needs."""

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


async def stop_listening(server: asyncio.Server) -> None:
    """Close the listener, after whom it has accepted got a transport: in the tick between, ``close`` would leave the
    accepted socket with nobody to close it."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    handed_over = asyncio.Event()
    loop.call_soon(handed_over.set)  # queued behind the tasks of the accepted
    try:
        await handed_over.wait()
    finally:
        server.close()
