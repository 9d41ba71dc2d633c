"""One reader's conversation, as the control panel leads it (IEC 60839-11-5, clause 5.9 and annex D). No I/O, no clock.

The panel asks, the reader answers. What was not answered is asked again, byte for byte: the reader knows it by its
sequence number and repeats its answer, so neither a lost command nor a lost answer loses an event.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto

from drivers.osdp.frame import MARK, Command, Frame, Nak, Reply, closed, head
from drivers.osdp.secure import CHALLENGE, CLIENT, DEFAULT_KEY, INITIAL, SERVER, Channel, Handshake
from gateway.driver import FrameError

WRONG_MACS_MAX = 3
"""In a row, before the two sides count as apart and a new session is made."""
FAILURES_MAX = 2
"""Handshakes in a row that end in the same way before a person is told: one may have met an answer that came late."""


class Trouble(StrEnum):
    """Why a reader is not trusted."""

    WRONG_KEY = "wrong key"
    NO_CHANNEL = "reader without secure channel"
    DEFAULT_KEY = "reader with the default key"
    PLAIN_TEXT = "plain text in a secure session"
    NO_KEY = "the reader asks for a secure channel, and no key is set"


class Stage(Enum):
    """How far a session has come."""

    ID = auto()
    CAPABILITIES = auto()
    CHALLENGE = auto()
    CRYPTOGRAM = auto()
    SERVICE = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader in service said, deciphered and proven."""

    code: int
    data: bytes

    @property
    def refusal(self) -> int | None:
        """The NAK code; None: it is no refusal."""
        return (self.data[0] if self.data else 0) if self.code == Reply.NAK else None


Heard = Callable[[Answer | None], None]
"""Who asked is told the answer, or None: the session ended before one came, and nobody knows whether the reader obeyed."""
STATUS = tuple(bytes([command]) for command in (Command.LSTAT, Command.ISTAT, Command.OSTAT, Command.RSTAT))
"""Asked once in every session: what changed while nobody listened is found here."""
DEMANDS_SECURITY = frozenset({Nak.NO_SECURE_CHANNEL, Nak.NOT_SECURED})
POLL = bytes([Command.POLL])


@dataclass(slots=True)
class Conversation:
    """With one reader. `request` gives the bytes to send, `answered` takes what came."""

    address: int
    key: bytes | None = field(repr=False)
    has_crc: bool = True
    random: Callable[[int], bytes] = secrets.token_bytes
    trouble: Trouble | None = None
    identity: bytes = b""
    """Data of PDID: vendor 3, model, version, serial 4, firmware 3."""
    capabilities: bytes = b""
    """Data of PDCAP: function, compliance, count, three bytes each."""
    _stage: Stage = Stage.ID
    _sequence: int = 0
    _pending: bytes | None = field(default=None, repr=False)
    _asked: Heard | None = None
    _status: deque[bytes] = field(default_factory=deque)
    _handshake: Handshake | None = field(default=None, repr=False)
    _channel: Channel | None = field(default=None, repr=False)
    _server: bytes = field(default=b"", repr=False)
    _wrong_macs: int = 0
    _failures: int = 0

    @property
    def in_service(self) -> bool:
        """Whether events come: secure where there is a key."""
        return self._stage is Stage.SERVICE

    @property
    def is_secure(self) -> bool:
        return self._channel is not None

    @property
    def is_new(self) -> bool:
        """Whether the next request begins a session."""
        return self._stage is Stage.ID and self._pending is None

    @property
    def is_free(self) -> bool:
        """Whether the next request may be one of ours."""
        return self.in_service and self._pending is None and not self._status

    @property
    def is_asked(self) -> bool:
        """Whether the answer to one of ours is still to come."""
        return self._asked is not None

    def ask(self, content: bytes, heard: Heard) -> None:
        """Say this next, instead of a poll. Only when free."""
        assert self.is_free
        self._pending, self._asked = self._framed(content), heard

    def restart(self) -> None:
        """Begin a new session: number 0 makes the reader forget the old one."""
        self._stage, self._sequence, self._pending = Stage.ID, 0, None
        self._channel = self._handshake = None
        self._wrong_macs = 0
        self._status.clear()
        self._tell(None)

    # -- asking --------------------------------------------------------------------------------------------------------

    def request(self) -> bytes:
        """The next command, or the last one again while it is unanswered."""
        if self._pending is None:
            self._pending = self._next()
        return MARK + self._pending

    def _next(self) -> bytes:
        match self._stage:
            case Stage.ID:
                return self._plain(bytes([Command.ID, 0]))
            case Stage.CAPABILITIES:
                return self._plain(bytes([Command.CAP, 0]))
            case Stage.CHALLENGE:
                assert self.key is not None
                self._handshake = Handshake(self.key, self.random(8))
                return self._plain(bytes([Command.CHLNG]) + self._handshake.challenge, self._block(CHALLENGE))
            case Stage.CRYPTOGRAM:
                return self._plain(bytes([Command.SCRYPT]) + self._server, self._block(SERVER))
            case Stage.SERVICE:
                return self._framed(self._status.popleft() if self._status else POLL)

    def _framed(self, content: bytes) -> bytes:
        if self._channel is None:
            return self._plain(content)
        return self._channel.sealed(self.address, self._sequence, content, has_crc=self.has_crc)

    def _plain(self, content: bytes, security: bytes = b"") -> bytes:
        return closed(head(self.address, self._sequence, content, has_crc=self.has_crc, security=security))

    def _block(self, kind: int) -> bytes:
        return bytes([kind, 0 if self.key == DEFAULT_KEY else 1])

    # -- listening -----------------------------------------------------------------------------------------------------

    def answered(self, frame: Frame) -> Answer | None:
        """What the reader says to the last request; None: it said so, but nothing of substance. Raises FrameError for
        what is no answer to it; the request stays open then."""
        if not frame.is_reply or frame.address != self.address or frame.has_crc != self.has_crc:
            raise FrameError(f"not an answer of reader {self.address}")
        assert self._pending is not None
        if frame.code == Reply.BUSY and not frame.security:
            return None
        if frame.code == Reply.NAK and not frame.security:
            return self._refused(frame)
        if frame.sequence != self._sequence:
            raise FrameError(f"answer number {frame.sequence}, expected {self._sequence}")
        answer = self._opened(frame)
        self._advance()
        return self._understood(frame, answer)

    def _opened(self, frame: Frame) -> Answer:
        if self._channel is None:
            if self._stage is Stage.SERVICE and frame.security:
                raise FrameError("a secured answer outside a secure session")
            return Answer(frame.code, frame.data)
        if not frame.security:
            self.trouble = Trouble.PLAIN_TEXT
            self.restart()
            raise FrameError("plain text in a secure session", "spoofed")
        try:
            data = self._channel.opened(frame)
        except FrameError:
            self._wrong_macs += 1
            if self._wrong_macs >= WRONG_MACS_MAX:
                self.restart()
            raise
        self._wrong_macs = 0
        return Answer(frame.code, data)

    def _advance(self) -> None:
        self._pending = None
        self._sequence = self._sequence % 3 + 1

    def _understood(self, frame: Frame, answer: Answer) -> Answer | None:
        match self._stage:
            case Stage.ID:
                is_known = bool(self.capabilities) and answer.data == self.identity
                self.identity = answer.data if answer.code == Reply.PDID else self.identity
                self._stage = Stage.CAPABILITIES
                if is_known:
                    self._after_identity()
            case Stage.CAPABILITIES:
                self.capabilities = answer.data if answer.code == Reply.PDCAP else self.capabilities
                self._after_identity()
            case Stage.CHALLENGE:
                self._challenged(frame)
            case Stage.CRYPTOGRAM:
                self._accepted(frame)
            case Stage.SERVICE:
                self._failures, self.trouble = 0, None
                self._tell(answer)
                return answer
        return None

    def _after_identity(self) -> None:
        if self.key is None:
            self._serve()
        else:
            self._stage = Stage.CHALLENGE

    def _tell(self, answer: Answer | None) -> None:
        heard, self._asked = self._asked, None
        if heard is not None:
            heard(answer)

    def _challenged(self, frame: Frame) -> None:
        assert self._handshake is not None
        if frame.code != Reply.CCRYPT or frame.security[:1] != bytes([CLIENT]) or len(frame.data) != 32:
            self._fail(Trouble.NO_CHANNEL)
        elif frame.security != self._block(CLIENT):
            self._fail(Trouble.DEFAULT_KEY)
        elif (server := self._handshake.server_cryptogram(frame.data)) is None:
            self._fail(Trouble.WRONG_KEY)
        else:
            self._server = server
            self._stage = Stage.CRYPTOGRAM

    def _accepted(self, frame: Frame) -> None:
        assert self._handshake is not None
        is_right = frame.code == Reply.RMAC_I and frame.security == bytes([INITIAL, 1])
        self._channel = self._handshake.channel(frame.data) if is_right else None
        if self._channel is None:
            self._fail(Trouble.WRONG_KEY)
        else:
            self._serve()

    def _serve(self) -> None:
        self._stage = Stage.SERVICE
        self._status.extend(STATUS)

    def _refused(self, frame: Frame) -> Answer | None:
        """A NAK in plain text, whatever its number: readers that lost their session have lost count too."""
        reason = frame.data[0] if frame.data else 0
        if reason == Nak.CHECK:
            return None  # our command was garbled on the way: it is repeated
        if self._stage in {Stage.ID, Stage.CAPABILITIES} and reason != Nak.SEQUENCE:
            if self.key is None and reason in DEMANDS_SECURITY:
                self._fail(Trouble.NO_KEY)
            else:  # some say who they are only inside the channel
                self._advance()
                self._after_identity()
        elif self._stage in {Stage.CHALLENGE, Stage.CRYPTOGRAM} and reason != Nak.SEQUENCE:
            self._fail(Trouble.NO_CHANNEL if self._stage is Stage.CHALLENGE else Trouble.WRONG_KEY)
        elif self._stage is Stage.SERVICE and self._channel is None and reason in DEMANDS_SECURITY:
            self._fail(Trouble.NO_KEY)
        elif self._stage is Stage.SERVICE and self._channel is None and reason != Nak.SEQUENCE:
            self._advance()
            return self._understood(frame, Answer(frame.code, frame.data))
        else:
            self.restart()
        return None

    def _fail(self, trouble: Trouble) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self.trouble = trouble
        self.restart()
