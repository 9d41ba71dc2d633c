"""From a planned point to one in service: claimed by a trigger, walked through, accepted on a sheet, tested ever after."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.audit import Audit
from gateway.clock import Clock
from gateway.commissioning.acceptance import Acceptance
from gateway.commissioning.claiming import Claiming
from gateway.commissioning.in_test import InTest
from gateway.commissioning.walk import Report, WalkTests
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.store import Store

__all__ = ["Acceptance", "Claiming", "Commissioning", "InTest", "WalkTests"]


@dataclass(frozen=True, slots=True)
class Commissioning:
    """All of it for one box."""

    walks: WalkTests
    acceptance: Acceptance
    claiming: Claiming

    @classmethod
    def of(
        cls,
        *,
        in_test: InTest,
        registry: Registry,
        store: Store,
        report: Report,
        audit: Audit,
        clock: Clock,
        metrics: Metrics,
    ) -> Commissioning:
        """Made of the parts of a box."""
        metrics.walk_tests.set_function(lambda: in_test.count)
        walks = WalkTests(in_test=in_test, registry=registry, store=store, report=report, audit=audit, clock=clock)
        acceptance = Acceptance(walks=walks, registry=registry, store=store, audit=audit, clock=clock)
        return cls(walks, acceptance, Claiming(registry=registry, store=store, audit=audit, clock=clock))
