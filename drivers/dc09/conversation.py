"""Talking to panels: an answer leaves once what it answers is on disk, and silence, NAK, DUH and ACK each have one reason."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from drivers.dc09.meaning import SIA_DCS, XNM, clock_deviation, is_in_window, meant
from drivers.dc09.settings import Deviation, device_of, key_of, profile_of, settings_of
from gateway.codecs import dc09
from gateway.codecs.dc09 import ACK, ADM_CID, DUH, NAK, NULL, RSP, Message
from gateway.codecs.dc09_panels import Reading, account_of, heartbeat, read, split
from gateway.driver import Context, FrameError, Kind, Observation, Qualifier, Receipt, Session, Stream

ACCOUNTS_MAX = 16_384
"""Accounts that one line keeps in mind, listed or not; beyond it strangers are refused. Twice the peers of a listener."""
CLOCK_SET_AFTER = datetime(2025, 1, 1, tzinfo=UTC)
"""Before this our own clock was never set, and NAK would put every panel's clock wrong."""
ANSWERS = frozenset({ACK, NAK, DUH, RSP})
SERVED = frozenset({ADM_CID, SIA_DCS, NULL, XNM})
OPEN_PAD = b"AbCdEfGhIjKlMnOpQrStUvWxYz012345"


class CannotUse(FrameError):
    """A good frame that cannot be processed: its sender is told so, and need not try again."""


class KeyOffered(CannotUse):
    """A frame that carries a key: its bytes are kept nowhere."""


@dataclass(slots=True)
class Memory:
    """What the conversations of one line share."""

    strangers: set[str] = field(default_factory=set)
    """Accounts that are neither listed nor enrolled, and were let in."""
    in_trouble: OrderedDict[str, bool] = field(default_factory=OrderedDict)
    """Accounts with a key: whether the last word about them was that somebody is at the line."""

    def admits(self, account: str) -> bool:
        if account not in self.strangers:
            if len(self.strangers) >= ACCOUNTS_MAX:
                return False
            self.strangers.add(account)
        return True

    def note(self, account: str, *, is_in_trouble: bool) -> None:
        self.in_trouble[account] = is_in_trouble
        self.in_trouble.move_to_end(account)
        if len(self.in_trouble) > ACCOUNTS_MAX:
            self.in_trouble.popitem(last=False)


# -- one frame, without a conversation ---------------------------------------------------------------------------------


def understood(
    frame: bytes, context: Context, now: datetime | None = None
) -> tuple[Reading, list[Observation], list[Deviation]]:
    """A frame as this site's settings let it pass: reading, observations, departures. Raises FrameError, and CannotUse for
    what deserves an answer."""
    reading = read(frame, lambda account: key_of(account, context))
    message = reading.message
    if message.token not in SERVED:
        refusal = (
            FrameError if message.token in ANSWERS else CannotUse
        )  # two receivers must not answer each other for ever
        raise refusal(f"token {message.token}: this receiver serves {', '.join(sorted(SERVED))}")
    is_spoofed = not message.encrypted and not settings_of(context).may_be_plain(message.account)
    if message.extended("K") is not None:
        told = f"account {message.account} asks for a new key: keys are set in the site file alone"
        raise KeyOffered(told, "spoofed" if is_spoofed else "malformed")
    if is_spoofed:
        raise CannotUse(f"account {message.account} has a key, and this frame is in the clear", "spoofed")
    try:
        said = meant(message, frame, context, now)
    except FrameError as error:
        raise CannotUse(f"{message.token} {message.sequence} of account {message.account}: {error}") from error
    deviations: list[Deviation] = [*reading.deviations, *said.deviations]
    accepted = profile_of(context).accepts
    if refused := [name for name in deviations if name not in accepted]:
        told = (
            f"account {message.account}: {', '.join(refused)}: not accepted by profile {settings_of(context).profile}"
        )
        # A frame whose frame is wrong counts as damaged, and damage is met with silence.
        raise (FrameError(told, "checksum") if "crc" in refused[0] or "length" in refused[0] else CannotUse(told))
    return reading, said.observations, deviations


def _life(piece: bytes, context: Context) -> Observation | None:
    """The heartbeat of an Osborne-Hoffman panel. Nothing protects it, so its account must be listed. Raises FrameError."""
    life = heartbeat(piece) if piece[:1] == b"S" else None
    if life is None:
        return None
    if "osborne_hoffman" not in profile_of(context).accepts:
        raise FrameError(f"an Osborne-Hoffman heartbeat: not accepted by profile {settings_of(context).profile}")
    if life.account not in settings_of(context).accounts:
        raise FrameError(
            f"an Osborne-Hoffman heartbeat of account {life.account}, which is not listed", "unknown_device"
        )
    return Observation(device_of(life.account, context), Kind.HEARTBEAT, code="OH", raw=piece)


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """What the frame says. Raises FrameError and nothing else."""
    life = _life(frame, context)
    return [life] if life else understood(frame, context)[1]


def deviations(frame: bytes, context: Context) -> Sequence[str]:
    """Where a good frame departs from the standard. Raises FrameError."""
    return ["osborne_hoffman"] if _life(frame, context) else understood(frame, context)[2]


def answer(frame: bytes, context: Context) -> bytes | None:
    """What goes back once the frame is stored, as at the frame's own time and with a pad that is no secret. Raises FrameError."""
    if _life(frame, context):
        return OSBORNE_HOFFMAN_ACK
    reading = understood(frame, context)[0]
    return _ack(reading, context, reading.message.timestamp, _open_pad)


OSBORNE_HOFFMAN_ACK = b'"ACK"'


def _open_pad(size: int) -> bytes:
    """An example is better repeatable."""
    return OPEN_PAD[:size]


def _ack(reading: Reading, context: Context, at: datetime | None, pad: dc09.Pad) -> bytes:
    key = key_of(reading.message.account, context) if reading.message.encrypted else None
    return dc09.echo(ACK, reading.head, key=key, at=at, pad=pad)


# -- the conversation --------------------------------------------------------------------------------------------------


async def run(session: Session[Stream]) -> None:
    """Serve one panel, or one bridge with many behind it. Ends by LinkClosed."""
    receiver = Receiver(session)
    buffer = bytearray()
    while True:
        buffer += await session.link.read()
        for piece in split(buffer):
            await receiver.take(piece)


class Receiver:
    """One conversation."""

    def __init__(self, session: Session[Stream]) -> None:
        self._session = session
        self._context = session.context
        self._memory: Memory = session.memory or Memory()

    async def take(self, piece: bytes) -> None:
        """Read one piece of the stream and answer it as it deserves."""
        now = self._session.clock.now()
        try:
            if life := _life(piece, self._context):
                await self._live(life)
                return
            reading, observations, deviations = understood(piece, self._context, now)
        except FrameError as error:
            await self._refuse(piece, error)
            return
        message = reading.message
        if not self._is_known(message.account):
            await self._refuse(piece, CannotUse(f"account {message.account} is not known here", "unknown_device"))
            return
        device = device_of(message.account, self._context)
        if message.encrypted and not self._is_timely(message, now):
            # No proof of life: an old recording, played while the panel's cable is cut, gets as far as this.
            self._session.deviated(device, ["outside_window"])
            self._answer(dc09.build(dc09.nak(now)), Receipt.settled())
            return
        clock = None if message.encrypted else clock_deviation(message.timestamp, now)
        if named := [*deviations, *([clock] if clock else [])]:
            self._session.deviated(device, named)
        if message.encrypted:
            observations = [*await self._trouble_over(message.account), *observations]
        receipt = await self._report(message.account, observations)
        self._answer(_ack(reading, self._context, now, secrets.token_bytes), receipt)

    def _is_known(self, account: str) -> bool:
        """Listed, enrolled, or one of the strangers that may be let in."""
        settings = settings_of(self._context)
        if account in settings.accounts or self._session.is_enrolled(device_of(account, self._context)):
            return True
        return settings.strangers == "keep" and self._memory.admits(account)

    def _is_timely(self, message: Message, now: datetime) -> bool:
        assert message.timestamp is not None, "an encrypted frame without a time is none"
        return now < CLOCK_SET_AFTER or is_in_window(message.timestamp, now)

    async def _live(self, life: Observation) -> None:
        self._session.deviated(life.device, ["osborne_hoffman"])
        self._answer(OSBORNE_HOFFMAN_ACK, await self._session.report([life]))

    # -- refusals --------------------------------------------------------------------------------------------------------

    async def _refuse(self, piece: bytes, error: FrameError) -> None:
        """Count it; tell of somebody at the line once; DUH where the frame was good and its sender waits."""
        account = account_of(piece)
        kept = b"" if isinstance(error, KeyOffered) else piece
        self._session.reject(kept, error)
        receipt = Receipt.settled()
        if error.reason == "spoofed" and account:
            receipt = await self._trouble(account, kept, str(error))
        if isinstance(error, CannotUse):
            self._answer(dc09.echo(DUH, _head(piece)), receipt)

    async def _trouble(self, account: str, kept: bytes, words: str) -> Receipt:
        """Report, once until it is over, that an account with a key is not spoken for with it."""
        device = device_of(account, self._context)
        if not self._is_known(account) or await self._is_in_trouble(account):
            return Receipt.settled()
        return await self._report(account, [Observation(device, Kind.SECURITY, text=words[:256], raw=kept)])

    async def _trouble_over(self, account: str) -> list[Observation]:
        if not await self._is_in_trouble(account):
            return []
        return [Observation(device_of(account, self._context), Kind.SECURITY, Qualifier.RESTORE)]

    async def _is_in_trouble(self, account: str) -> bool:
        """Also across a restart: the store knows how it was."""
        if account not in self._memory.in_trouble:
            latest = await self._session.latest(device_of(account, self._context))
            is_in_trouble = latest.get((Kind.SECURITY, None), Qualifier.RESTORE) is not Qualifier.RESTORE
            if account not in self._memory.in_trouble:  # another conversation has told of it meanwhile
                self._memory.note(account, is_in_trouble=is_in_trouble)
        return self._memory.in_trouble[account]

    async def _report(self, account: str, observations: Sequence[Observation]) -> Receipt:
        receipt = await self._session.report(observations)
        for observation in observations:
            if observation.kind is Kind.SECURITY and observation.zone is None:
                self._memory.note(account, is_in_trouble=observation.qualifier is not Qualifier.RESTORE)
                receipt.when_settled(lambda settled: self._forget(account, settled))
        return receipt

    def _forget(self, account: str, receipt: Receipt) -> None:
        """What was not stored was not told."""
        if receipt.error is not None:
            self._memory.in_trouble.pop(account, None)

    def _answer(self, frame: bytes, after: Receipt) -> None:
        self._session.link.answer(frame, after=after)


def _head(piece: bytes) -> bytes:
    """What the answer to a good frame repeats."""
    return piece[piece.index(b'"', piece.index(b'"') + 1) + 1 : piece.index(b"[")]
