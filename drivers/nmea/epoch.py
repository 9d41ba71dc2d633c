"""The sentences of one moment, as one observation. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from drivers.nmea.sentences import Sentence
from gateway.driver import Kind, Observation, Position, Scalar

TALKERS = ("GN", "IN", "GP", "GB", "BD", "GA", "GL")
"""Whose word counts when several say the same: all systems together, integrated navigation, then single ones."""
DETAIL_FIRST = ("ZDA", "GSA", "VTG", "GGA", "RMC")
"""Later ones overrule: course and speed are RMC's, the precision is that of the position's own sentence."""


class Epoch:
    """Collects the sentences of one moment: at most one a name, so it is as bounded as the list of names."""

    def __init__(self) -> None:
        self._said: dict[str, Sentence] = {}

    def takes(self, sentence: Sentence) -> bool:
        """Keep it, if it speaks of the same moment: no other time, and nothing that its talker has said already."""
        known = self._said.get(sentence.name)
        if sentence.name not in DETAIL_FIRST:
            return True
        if sentence.time is None and sentence.fix is None:  # GSA, VTG: in whose company they come
            if known is None or _rank(sentence) < _rank(known):
                self._said[sentence.name] = sentence
            return True
        times = {other.time for other in self._said.values()} - {None}
        if sentence.time is not None and times - {sentence.time}:
            return False
        if known is not None and known.talker == sentence.talker:
            return False
        if known is None or _rank(sentence) < _rank(known):
            self._said[sentence.name] = sentence
        return True

    def observation(self, device: str) -> Observation | None:
        """What they say together; None: nothing of a position."""
        return observation(self._said.values(), device) if any(s.fix is not None for s in self._said.values()) else None


def _rank(sentence: Sentence) -> int:
    return TALKERS.index(sentence.talker) if sentence.talker in TALKERS else len(TALKERS)


def observation(sentences: Iterable[Sentence], device: str) -> Observation:
    """A position, or proof of life where none speaks of one. When one calls the fix void, it is."""
    said = {sentence.name: sentence for sentence in sentences}
    inputs = [said[name] for name in DETAIL_FIRST if name in said]
    judged = [sentence for sentence in inputs if sentence.fix is not None]
    values: dict[str, Scalar] = {}
    for sentence in inputs:
        values.update(sentence.values)
    position = None
    if judged:
        is_fix = all(sentence.fix for sentence in judged)
        speed = values.pop("speed_kmh", None)
        place = judged[-1].place
        if is_fix and place is not None:
            position = Position(*place, speed_kmh=speed if isinstance(speed, float) else None)
        else:
            for name in ("course", "altitude_m"):
                values.pop(name, None)
        values["fix"] = is_fix
    return Observation(
        device,
        Kind.POSITION if judged else Kind.HEARTBEAT,
        at=_moment(inputs),
        code="+".join(said),
        values=values,
        position=position,
        raw=b"".join(sentence.raw for sentence in said.values()),
    )


def _moment(sentences: Iterable[Sentence]) -> datetime | None:
    """Date and time of the sentence that has both: no date is joined to another sentence's time across midnight."""
    for sentence in sentences:
        if sentence.date is not None and sentence.time is not None:
            return datetime.combine(sentence.date, sentence.time, UTC)
    return None
