"""What a receiver says becomes observations: positions now and then, the antenna's state when it changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from drivers.nmea.epoch import Epoch, observation
from drivers.nmea.sentences import Sentence, read, split
from gateway.driver import Context, FrameError, Kind, LinkClosed, Observation, Qualifier, Session, Stream
from gateway.driver import Settings as Base


class Settings(Base):
    """Which vehicle the receiver belongs to, and how often its position is kept."""

    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = "gnss-1"
    every_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """At most one position in this time; what comes between only proves life. A car goes 140 m in 10 s at 50 km/h."""
    antenna: Literal["active", "passive"] = "active"
    """Receivers call a passive antenna open, for ever: then what they say of it means nothing."""


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """What the sentence says alone. Raises FrameError and nothing else."""
    settings: Settings = context.settings or Settings()
    sentence = read(frame)
    antenna = _antenna(sentence, settings)
    return [antenna if antenna is not None else observation([sentence], settings.device)]


def _antenna(sentence: Sentence, settings: Settings) -> Observation | None:
    if sentence.antenna is None or settings.antenna == "passive":
        return None
    return Observation(
        settings.device,
        Kind.ANTENNA_CUT,
        Qualifier.RESTORE if sentence.antenna == "ok" else Qualifier.NEW,
        code=sentence.name,
        values={"antenna": sentence.antenna},
        raw=sentence.raw,
    )


async def run(session: Session[Stream]) -> None:
    """Report until the line is gone. Ends by LinkClosed."""
    listener = Listener(session)
    buffer = bytearray()
    while True:
        try:
            buffer += await session.link.read()
        except LinkClosed:
            await listener.close()
            raise
        for frame in split(buffer):
            await listener.hear(frame)


class Listener:
    """One conversation's memory: the moment that is being told, when a position was reported last, the antenna's state."""

    def __init__(self, session: Session[Stream]) -> None:
        self._session = session
        self._settings: Settings = session.context.settings or Settings()
        self._epoch = Epoch()
        self._reported_s = float("-inf")
        self._antenna: Qualifier | None = None

    async def hear(self, frame: bytes) -> None:
        """One frame, sentence or not."""
        try:
            sentence = read(frame)
        except FrameError as error:
            self._session.reject(frame, error)
            return
        self._session.heard(self._settings.device)
        antenna = _antenna(sentence, self._settings)
        if antenna is not None:
            await self._tell_antenna(antenna)
        elif not self._epoch.takes(sentence):
            await self.close()
            self._epoch.takes(sentence)

    async def close(self) -> None:
        """The moment is over: report its position, if one is due."""
        epoch, self._epoch = self._epoch, Epoch()
        now_s = self._session.clock.monotonic()
        if now_s - self._reported_s < self._settings.every_s:
            return
        seen = epoch.observation(self._settings.device)
        if seen is not None:
            self._reported_s = now_s
            await self._session.report([seen])

    async def _tell_antenna(self, seen: Observation) -> None:
        """Some receivers repeat it every second: only its edges are news, also across a restart."""
        if self._antenna is None:
            latest = await self._session.latest(seen.device)
            self._antenna = latest.get((Kind.ANTENNA_CUT, None), Qualifier.RESTORE)
        if seen.qualifier is not self._antenna:
            self._antenna = seen.qualifier
            await self._session.report([seen])
