"""Bringing readers into service: who is on the line, at which address, with which key. One reader at a time, by hand."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from drivers.osdp.frame import MARK, Command, Frame, Reply, closed, head, parse, split
from drivers.osdp.panel import BYTE_S
from drivers.osdp.reader import Answer, Conversation
from drivers.osdp.secure import DEFAULT_KEY
from gateway.driver import Clock, FrameError, LinkClosed, Stream

LISTEN_S = 0.25
"""A reader may take 200 ms."""
PROBE_S = 0.06
"""What a scan waits at each address, so that 127 of them take eight seconds; nearly every reader has begun by then."""
TRIES = 3
"""Each reader found is asked as often: two at one address seldom collide in the same way three times."""
STEPS_MAX = 24
"""Questions of one session until it stands: eight, and as many again where the line is bad."""
HEARD_BYTES_MAX = 4096
"""Of the answers to one question: a quarter of a second at 115200 baud. A line that babbles on says nothing more."""
AES_CAPABILITY = 9
"""Function code of PDCAP: communication security."""


class Hindrance(Exception):
    """Why it cannot go on."""


class Refused(Hindrance):
    """The reader answers, and there is no session under this key."""


@dataclass(frozen=True, slots=True)
class Found:
    """One address that answers."""

    address: int
    identity: bytes
    """Data of PDID; empty when only noise came."""
    is_alone: bool
    has_channel: bool | None = None
    """None: it does not say."""

    def __str__(self) -> str:
        if not self.is_alone:
            return f"address {self.address}: two readers answer address {self.address}, or the line is bad"
        vendor, model, version = self.identity[:3].hex(), self.identity[3], self.identity[4]
        serial, firmware = self.identity[5:9][::-1].hex(), ".".join(str(byte) for byte in self.identity[9:12])
        channel = {True: "secure channel", False: "reader without secure channel", None: "secure channel unknown"}
        return (
            f"address {self.address}: vendor {vendor} model {model}.{version} serial {serial} firmware {firmware}, "
            f"{channel[self.has_channel]}"
        )


@dataclass(slots=True)
class Probe:
    """Asks one thing and listens to all that comes back."""

    link: Stream
    clock: Clock

    async def ask(self, request: bytes, within_s: float) -> tuple[list[Frame], bool]:
        """Sound frames of readers, and whether there was anything else. Raises LinkClosed."""
        await self.link.write(MARK + request)
        buffer = bytearray()
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(self._hear(buffer))
            await self.clock.sleep(within_s + len(request) * BYTE_S)
            hearing.cancel()
        frames, is_garbled = [], False
        for piece in [*split(buffer), bytes(buffer)]:
            try:
                frame = parse(piece) if piece else None
            except FrameError:
                is_garbled = True
                continue
            if frame is not None and frame.is_reply:
                frames.append(frame)
        return frames, is_garbled

    async def _hear(self, buffer: bytearray) -> None:
        with suppress(LinkClosed):  # which the next question meets too
            while len(buffer) < HEARD_BYTES_MAX:
                buffer += await self.link.read()

    # -- who is there ----------------------------------------------------------------------------------------------------

    async def look(self, address: int, within_s: float = PROBE_S) -> Found | None:
        """What answers this address; None: nothing."""
        frames, is_garbled = await self.ask(_plain(address, 0, bytes([Command.ID, 0])), within_s)
        if not frames and not is_garbled:
            return None
        seen = list(_identities(frames))
        is_clean = not is_garbled and len(frames) == 1
        for _ in range(TRIES - 1):
            more, is_garbled = await self.ask(_plain(address, 0, bytes([Command.ID, 0])), LISTEN_S)
            seen += _identities(more)
            is_clean = is_clean and not is_garbled and len(more) == 1
        if not seen or len(set(seen)) > 1 or not is_clean:
            return Found(address, seen[0] if seen else b"", is_alone=False)
        return Found(address, seen[0], is_alone=True, has_channel=await self._has_channel(address))

    async def _has_channel(self, address: int) -> bool | None:
        frames, _ = await self.ask(_plain(address, 1, bytes([Command.CAP, 0])), LISTEN_S)
        told = next((frame.data for frame in frames if frame.code == Reply.PDCAP), None)
        if told is None:
            return None
        return any(told[at] == AES_CAPABILITY and told[at + 1] & 1 for at in range(0, len(told) - 2, 3))

    async def one(self, address: int) -> Found:
        """The one reader there. Raises Hindrance."""
        found = await self.look(address, LISTEN_S)
        if found is None:
            raise Hindrance(f"nothing answers address {address}: check power, A and B, and the baud rate (scan)")
        if not found.is_alone:
            raise Hindrance(str(found))
        return found

    # -- address and key -------------------------------------------------------------------------------------------------

    async def move(self, old: int, new: int, baud: int, key: bytes | None) -> None:
        """Give the reader at `old` another address, at this baud rate. Raises Hindrance."""
        found = await self.one(old)
        if new != old and await self.look(new, LISTEN_S) is not None:
            raise Hindrance(f"address {new} is taken: something answers there already")
        content = bytes([Command.COMSET, new]) + baud.to_bytes(4, "little")
        if key is not None:
            answer = await self._tell(await self.session(old, key), content)
        else:
            frames, _ = await self.ask(_plain(old, 0, content), LISTEN_S)
            answer = next((Answer(frame.code, frame.data) for frame in frames), None)
        if answer is None or answer.code != Reply.COM:
            raise Hindrance(f"the reader at address {old} does not let itself be moved: {_said(answer)}")
        if answer.data != content[1:]:
            raise Hindrance(f"the reader chose address {answer.data[0]}, not {new}")
        if new != old and (await self.one(new)).identity != found.identity:
            raise Hindrance(f"another reader than before answers address {new}")

    async def session(self, address: int, key: bytes) -> Conversation:
        """A secure session under this key. Raises Refused with its reason, Hindrance where nothing can be told."""
        talk = Conversation(address, key)
        for _ in range(STEPS_MAX):
            if talk.is_free:
                return talk
            await self._step(talk)
            if talk.trouble is not None:
                raise Refused(f"address {address}: {talk.trouble}")
        raise Hindrance(f"address {address}: no session within {STEPS_MAX} questions: a bad line, or nobody there")

    async def _step(self, talk: Conversation) -> None:
        frames, _ = await self.ask(talk.request().removeprefix(MARK), LISTEN_S)
        for frame in frames:
            try:
                talk.answered(frame)
            except FrameError:
                continue
            return

    async def _tell(self, talk: Conversation, content: bytes) -> Answer | None:
        answers: list[Answer | None] = []
        talk.ask(content, answers.append)
        for _ in range(TRIES):
            await self._step(talk)
            if answers:
                return answers[0]
        return None

    async def hand_over(self, address: int, install_key: bytes, key: bytes) -> None:
        """Give the reader its own key, prove it, and prove that the default one is dead. Raises Hindrance."""
        found = await self.one(address)
        if found.has_channel is False:
            raise Hindrance(
                f"address {address}: reader without secure channel; it can only be used with secure = false"
            )
        try:
            talk = await self.session(address, install_key)
        except Hindrance as hindrance:
            if not found.has_channel:
                raise
            taken = "the default key" if install_key == DEFAULT_KEY else "this install key"
            words = f"wrong key: it does not take {taken}; name the key it has with --install-key, or reset it"
            raise Hindrance(f"address {address}: {words}") from hindrance
        await self._tell(talk, bytes([Command.KEYSET, 1, len(key)]) + key)
        await self.session(address, key)
        try:
            await self.session(address, DEFAULT_KEY)
        except Refused:  # a bad line that lets no session come about proves nothing
            return
        raise Hindrance(f"address {address}: the reader still takes the default key; do not put it into service")


def new_key() -> bytes:
    """Sixteen random bytes that are not the default key."""
    return secrets.token_bytes(16)


def _plain(address: int, sequence: int, content: bytes) -> bytes:
    return closed(head(address, sequence, content))


def _identities(frames: list[Frame]) -> Iterator[bytes]:
    return (frame.data for frame in frames if frame.code == Reply.PDID and len(frame.data) == 12)


def _said(answer: Answer | None) -> str:
    if answer is None:
        return "no answer"
    return f"NAK {answer.refusal}" if answer.refusal is not None else f"answer {answer.code:02X}"
