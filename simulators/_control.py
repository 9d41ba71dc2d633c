"""A control socket for a running simulator: one JSON object a line in, one JSON object a line out."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from simulators._net import host_and_port, stop_listening
from simulators._tasks import Tasks

# Commands are a few dozen bytes; a longer line is somebody talking to the wrong port.
LINE_MAX_BYTES = 4096
# A person and a script or two; more is a leak in the caller.
CONNECTIONS_MAX = 16

Command = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class CommandError(Exception):
    """A command that cannot be obeyed; the text goes back to whoever sent it."""


class ControlSocket:
    """Listens on a loopback port (``"0"`` or ``"127.0.0.1:0"`` takes a free one) or on a UNIX socket path."""

    def __init__(self, where: str, command: Command) -> None:
        self._where = where
        self._command = command
        self._tasks = Tasks()
        self.address: int | str = where

    async def __aenter__(self) -> Self:
        if self._where.isdigit() or ":" in self._where:
            address = self._where if ":" in self._where else f"127.0.0.1:{self._where}"
            host, port = host_and_port(address)
            if host not in {"127.0.0.1", "localhost", "::1"}:
                raise ValueError(f"control address {self._where!r}: it has no password, so only loopback is served")
            self._server = await asyncio.start_server(self._connected, host, port, limit=LINE_MAX_BYTES)
            self.address = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._connected, self._where, limit=LINE_MAX_BYTES)
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await stop_listening(self._server)
        await self._tasks.__aexit__(*error)
        self._remove_path()

    def _remove_path(self) -> None:
        if isinstance(self.address, str):
            Path(self.address).unlink(missing_ok=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._tasks.start(self._converse(reader, writer), name="control")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._reply(line), ensure_ascii=False).encode() + b"\n")
                await writer.drain()
        except ValueError:  # readline's word for a line over the limit
            writer.write(b'{"ok": false, "error": "line longer than %d bytes"}\n' % LINE_MAX_BYTES)
        except OSError:
            pass  # whoever gave the commands has gone; nothing hangs on the answer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            match json.loads(line):
                case dict() as wish:
                    return {"ok": True, **await self._command(wish)}
                case other:
                    return {"ok": False, "error": f"expected a JSON object, found {other!r}"}
        except (CommandError, ValueError, RecursionError) as error:
            return {"ok": False, "error": str(error)}
