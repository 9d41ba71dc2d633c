"""A device's way through its life, as far as what it does is evidence of it. The rest is said by people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from gateway.coverage.facts import Fact, Sort

WORKING = ("working", "degraded")


class Stages:
    """Where each device is on its way."""

    def __init__(self) -> None:
        self._stage: dict[str, str] = {}

    def follow(self, facts: Iterable[Fact]) -> None:
        """Take up what was written, by whomever."""
        for fact in facts:
            if fact.sort is Sort.STAGE and fact.value is not None:
                self._stage[fact.subject[0]] = fact.value["stage"]

    def seen(self, device: str, state: str, at: datetime) -> Iterator[Fact]:
        """What is heard was installed; what was accepted and works is in service."""
        stage = self._stage.get(device, "planned")
        if stage == "planned":
            yield self._now(device, "installed", at)
        elif stage == "accepted" and state in WORKING:
            yield self._now(device, "in_service", at)

    def _now(self, device: str, stage: str, at: datetime) -> Fact:
        self._stage[device] = stage
        return Fact(Sort.STAGE, (device,), {"stage": stage}, at, key=f"stage|{device}|{stage}|{at.timestamp():.3f}")
