"""Daemons forked from a process that has imported everything: a restart costs a fork instead of a second of imports.

What is forked is the whole of `fangkong run` from its first line on. `python -m tests.crash.nursery` reads one request
per line and says when a child begins and ends; without its owner it kills them all.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import resource
import selectors
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

ROOT = Path(__file__).parents[2]
SHARED = (
    "_strptime",
    "aiosqlite",
    "drivers.alarm_json",
    "encodings.idna",
    "gateway.__main__",
    "gateway.cli.run",
    "gateway.daemon",
    "gateway.forwarders.dc09",
    "gateway.registry.migrations.0001_initial",
    "gateway.registry.migrations.0002_access",
    "gateway.registry.migrations.0003_vehicles",
    "gateway.registry.migrations.0004_coverage",
    "gateway.registry.migrations.0005_newest_facts",
    "importlib.resources.readers",
    "pydantic.v1",
    "tortoise.backends.sqlite",
    "uvicorn.lifespan.off",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.h11_impl",
    "uvloop",
)
PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
"""prctl(2): strace is no ancestor of a forked daemon, which Yama forbids otherwise."""


@dataclass(slots=True)
class Child:
    """One daemon."""

    pid: int
    _ended: asyncio.Future[int]

    @property
    def is_running(self) -> bool:
        return not self._ended.done()

    def signal(self, number: int) -> None:
        """Nothing happens to one that has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """The exit status, -n when signal n ended it."""
        return await asyncio.shield(self._ended)


class Nursery:
    """The owner's side; `async with` runs the process."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        self._begun: asyncio.Queue[Child] = asyncio.Queue()
        self._children: dict[int, asyncio.Future[int]] = {}
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._group.create_task(self._hear())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._group.__aexit__(None, None, None)  # its task ends with the process
        await self._process.wait()

    async def start(
        self, arguments: Sequence[str], log: Path, *, is_stopped: bool = False, memory_bytes: int = 0
    ) -> Child:
        """A daemon with this command line. `is_stopped`: it waits for SIGCONT; `memory_bytes`: of address space (0: any)."""
        request = {
            "arguments": list(arguments),
            "log": str(log),
            "is_stopped": is_stopped,
            "memory_bytes": memory_bytes,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return await self._begun.get()

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, int] = json.loads(line)
            if "status" in said:
                self._children.pop(said["pid"]).set_result(os.waitstatus_to_exitcode(said["status"]))
            else:
                ended = self._children[said["pid"]] = asyncio.get_running_loop().create_future()
                self._begun.put_nowait(Child(said["pid"], ended))


# -- the process -------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Until standard input ends."""
    _import_everything()
    children: dict[int, int] = {}
    requests = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _say(pid=key.data, status=os.waitpid(children.pop(key.data), 0)[1])
                    continue
                if not (read := os.read(0, 65_536)):
                    for pid in children:
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, requests = (requests + read).split(b"\n")
                for line in lines:
                    pid = _fork(json.loads(line))
                    children[pid] = pid
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    _say(pid=pid)


def _import_everything() -> None:
    """What a daemon of these tests loads in its life, so that it is shared."""
    for name in SHARED:
        importlib.import_module(name)


def _say(**words: int) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(**request)
    return pid


def _become(*, arguments: list[str], log: str, is_stopped: bool, memory_bytes: int) -> NoReturn:
    from gateway.__main__ import main

    status: object = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
        os.dup2(1, 2)
        os.closerange(3, 1024)
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
        if is_stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001  # the child's boundary: nobody above it may run on as a second nursery
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 70)


if __name__ == "__main__":
    serve()
