"""A duty desk in a process of its own, as fast as plain Python gets: takes every DC-09 frame and notes when.

The simulated centre of `simulators` judges every field; this one only answers, so that a drain of a million events measures the
gateway. `python -m tests.stories.desk PORT RECORD`, port 0 for a free one; says its port, ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from simulators._clock import RealClock
from simulators.police_centre.frames import envelope
from tests.stories.box import until

FRAME = re.compile(rb'"(ADM-CID|NULL)"(\d{4})((?:R[0-9A-F]+)?L[0-9A-F]*#([0-9A-F]+))\[([^\r]*)\r')
EVENT = re.compile(rb"\|([136])([0-9A-F]{3}) \d\d (\d{3})\].*?\{\"id\":\"([^\"]+)\"")
WORD = re.compile(rb" (e\d+)[\] ]")


@dataclass(frozen=True, slots=True)
class Taken:
    """One accepted frame."""

    at_s: float
    """On the machine's monotonic clock, which all processes share."""
    id: str
    account: str
    number: str
    qualifier: str
    code: str
    zone: str
    word: str
    """What the device wrote to find its event again; "-" for none."""


class _Line(asyncio.Protocol):
    def __init__(self, record: list[str], clock: RealClock) -> None:
        self._record, self._clock = record, clock
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end, answers = 0, []
        for frame in FRAME.finditer(data):
            end = frame.end()
            event = EVENT.search(frame[5])
            answers.append(envelope(b'"ACK"%b%b[]' % (frame[2], frame[3])))
            if event is not None:
                word = WORD.search(frame[5])
                parts = (event[4], frame[4], frame[2], event[1], event[2], event[3], word[1] if word else b"-")
                self._record.append(f"{self._clock.monotonic():.6f} {b' '.join(parts).decode()}\n")
        self._rest = data[end:]
        self._transport.write(b"".join(answers))


async def serve(port: int, record: Path) -> None:
    """Take frames until SIGTERM."""
    rows: list[str] = []
    clock, loop = RealClock(), asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: _Line(rows, clock), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    with record.open("a") as file:
        while not stop.is_set():
            await clock.sleep(0.05)
            file.write("".join(rows))
            file.flush()
            rows.clear()
        server.close()


@dataclass(slots=True)
class Desk:
    """The process as a story sees it."""

    port: int
    record: Path

    def taken(self) -> list[Taken]:
        """All it has noted so far, in the order in which it came."""
        if not self.record.exists():
            return []
        whole = self.record.read_text().rpartition("\n")[0]
        return [Taken(float(at), *rest) for at, *rest in (line.split(" ") for line in whole.splitlines())]

    async def until_taken(self, count: int, *, within_s: float) -> None:
        """Return when it has noted so many frames."""
        await until(lambda: _lines(self.record) >= count, within_s=within_s, what=f"{count} events at the desk",
                    tell=lambda: f"{_lines(self.record)} came")  # fmt: skip


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@asynccontextmanager
async def desk(folder: Path, port: int = 0) -> AsyncIterator[Desk]:
    """A desk that is on duty."""
    record = folder / "desk.txt"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.stories.desk", str(port), str(record), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Desk(int(await process.stdout.readline()), record)
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
