"""What passes over a line, as lines of JSON while somebody records it: docs/capture.md has the format."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from itertools import count
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.errors import BusRefused, LinkClosed, NoAnswer

VERSION = 1
SIZE_MAX_BYTES = 64 << 20
"""Of one recording: hours of a serial line, minutes of a busy MQTT broker; a box has no more to spare."""
SECONDS_MAX = 3600

Note = Callable[[Mapping[str, Any]], None]
"""Takes one fact of a conversation."""
Mask = Callable[[bytes], bytes]


class Tapped(Protocol):
    """A link that tells what passes while `tap` is set; otherwise it looks there once a read, and nothing else."""

    tap: Tap | None


class Tap:
    """The facts of one conversation on their way into a recording. Links call it, and know no format."""

    def __init__(self, note: Note, mask: Mask) -> None:
        self.note = note
        self._mask = mask

    def came(self, data: bytes) -> None:
        """The driver has read these bytes of a stream."""
        self.note({"dir": "in", "bytes": self._mask(data).hex()})

    def left(self, data: bytes) -> None:
        """These bytes have been given to the line."""
        self.note({"dir": "out", "bytes": self._mask(data).hex()})

    def batch(self, messages: Sequence[Any]) -> None:
        """The driver got these messages at once."""
        for position, message in enumerate(messages, 1):
            more = {"more": True} if position < len(messages) else {}
            self.note(
                {"dir": "in", "topic": message.topic, **self._payload(message.payload), "retained": message.retained}
                | more
            )

    def published(self, topic: str, payload: bytes) -> None:
        """The driver wants this published once what it belongs to is stored."""
        self.note({"dir": "out", "topic": topic, **self._payload(payload)})

    def _payload(self, payload: bytes) -> Mapping[str, str]:
        masked = self._mask(payload)
        try:
            return {"payload": masked.decode()}
        except UnicodeDecodeError:
            return {"payload_hex": masked.hex()}


async def transaction(tap: Tap | None, request: Mapping[str, Any], answer: Awaitable[Any]) -> Any:
    """The answer of a bus, noted with its request or as the error it raises."""
    if tap is None:
        return await answer
    try:
        got = await answer
    except BusRefused as error:
        tap.note({**request, "error": "refused", "code": error.code})
        raise
    except (NoAnswer, LinkClosed) as error:
        tap.note({**request, "error": "no_answer" if isinstance(error, NoAnswer) else "closed", "why": str(error)})
        raise
    tap.note({**request, "answer": got if isinstance(got, bool) else list(got)})
    return got


class Recorder:
    """One recording of one connection: numbers its conversations, stamps each fact, and ends at its size."""

    def __init__(self, clock: Clock, write: Callable[[str], object], *, connection: str, driver: Any) -> None:
        """`write` takes whole lines. `driver` may offer `mask(data) -> data of the same length`, see gateway/driver.py."""
        self._clock = clock
        self._write = write
        self._mask: Mask = getattr(driver, "mask", bytes)
        self._numbers = count(1)
        self._began_s = clock.monotonic()
        self._size_bytes = 0
        self.ended: str | None = None
        """Why it has ended; None while it runs."""
        name = driver.__name__.rpartition(".")[2]
        self._line({"capture": VERSION, "connection": connection, "driver": name})

    def conversation(self, peer: str, *, under_way: bool = False) -> Tap:
        """One more. `under_way`: its beginning was before the recording's."""
        number = next(self._numbers)

        def note(fact: Mapping[str, Any]) -> None:
            self._line({"conversation": number, **fact})

        note({"begin": "under way" if under_way else "open", "peer": peer})
        return Tap(note, self._mask)

    def end(self, why: str) -> None:
        """The last line. What is noted afterwards is dropped."""
        if self.ended is None:
            self._line({"end": why})
            self.ended = why

    def _line(self, fact: Mapping[str, Any]) -> None:
        if self.ended is not None:
            return
        at = self._clock.now().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        stamp = {"t": round(self._clock.monotonic() - self._began_s, 6), "at": at}
        line = json.dumps({**stamp, **fact}, ensure_ascii=False) + "\n"
        self._size_bytes += len(line.encode())
        if self._size_bytes > SIZE_MAX_BYTES and "end" not in fact:
            self.end(f"{SIZE_MAX_BYTES >> 20} MiB are full")
            return
        self._write(line)
