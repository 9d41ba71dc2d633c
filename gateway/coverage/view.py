"""View: how sites, devices and watchers are at one moment, and until when that stays so.

The rules are written in one table, docs/coverage.md; the ids beside the code (R1 ...) are its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.coverage.contracts import CONTRACTS, Contract, contract_of, contracts_of
from gateway.coverage.facts import ZONE_OF_ALL, Sort
from gateway.coverage.history import DAY_MS, NEVER, NOTHING, History, PointRead, SiteRead, Stretch, Subject
from gateway.coverage.requirements import Requirement

if TYPE_CHECKING:
    from gateway.config import CoverageSection

HOUR_MS = 3_600_000
TARGET_KINDS = frozenset({"bank_branch", "jewelry_store", "cash_heavy_unit"})
RUNGS = frozenset({"test_accepted", "alarm_accepted"})
"""Proofs that count: the receiving centre has taken an event of this very site."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the rules leave open, as the site file sets it."""

    target_kinds: frozenset[str] = TARGET_KINDS
    """Kinds of site for which the target of 100 % holds, at unit level."""
    proof_key_unit_h: float = 24.0
    """How long a proof of network holds."""
    proof_h: float = 168.0
    contracts: Mapping[str, Contract] = field(default_factory=lambda: CONTRACTS)

    @classmethod
    def of(cls, section: CoverageSection) -> Rules:
        """What the site file says of counting."""
        contracts = contracts_of(section.contract)
        return cls(frozenset(section.target_kinds), section.proof_key_unit_h, section.proof_h, contracts)

    def proof_ms(self, is_key_unit: bool) -> int:
        """How long a proof of network of such a site holds."""
        return round((self.proof_key_unit_h if is_key_unit else self.proof_h) * HOUR_MS)


class Gap(StrEnum):
    """Why a requirement is not met; the first that applies."""

    NOT_PLANNED = "not_planned"
    """The site has no point of a kind that each such site must have."""
    NOT_INSTALLED = "not_installed"
    NOT_ACCEPTED = "not_accepted"
    OUT_OF_SERVICE = "out_of_service"
    SILENT = "silent"
    FAULT = "fault"
    UNREACHABLE = "unreachable"
    BYPASSED = "bypassed"
    UNTESTED = "untested"
    NOT_NETWORKED = "not_networked"
    NOT_INSPECTED = "not_inspected"
    INSPECTION_FAILED = "inspection_failed"


class Place(NamedTuple):
    """A site at a moment, as far as its points need it."""

    site: str
    read: SiteRead
    profile: Mapping[str, tuple[Requirement, ...]]
    proof: tuple[bool, int]
    """Whether its network is proved, and since when that is so."""


class Health(NamedTuple):
    """A watcher, or a device as a whole, at a moment."""

    gap: Gap | None
    since: int
    because: str = ""
    via: str = ""
    is_degraded: bool = False
    is_overdue: bool = False
    is_supervised: bool = True


class Unit(NamedTuple):
    """A device at a moment, as far as all its watchers share it."""

    contract: Contract
    is_out: bool
    health: Health


_GAPS = {
    "fault": Gap.FAULT,
    "silent": Gap.SILENT,
    "unreachable": Gap.UNREACHABLE,
    "bypassed": Gap.BYPASSED,
}
_OUT = frozenset({"out_of_service", "retired"})
_NO_PROFILE: Mapping[str, tuple[Requirement, ...]] = {}


class View:
    """The history at one moment. `until` is the moment up to which all it was asked since it was last set stays true."""

    def __init__(self, history: History, at: int, rules: Rules) -> None:
        self.history, self.at, self.rules = history, at, rules
        self.until = NEVER
        self._tracks = history.tracks
        self._places: dict[str, tuple[Place | None, int]] = {}
        self._units: dict[str, tuple[Unit, int]] = {}

    def look(self, sort: Sort, subject: Subject) -> Stretch:
        """What is true of a subject."""
        track = self._tracks[sort].get(subject)
        if track is None:
            return NOTHING
        stretch = track.at(self.at)
        self.until = min(self.until, stretch.stop)
        return stretch

    def is_past(self, moment: int) -> bool:
        """Whether a moment is reached; if not, nothing said is true beyond it."""
        if moment <= self.at:
            return True
        self.until = min(self.until, moment)
        return False

    def place(self, site: str) -> Place | None:
        """The site while it is there (R2, R3); None: it is not."""
        known = self._places.get(site)
        if known is None:
            before, self.until = self.until, NEVER
            known = self._places[site] = (self._place(site), self.until)
            self.until = before
        if known[1] < self.until:  # noqa: PLR1730  # as in look
            self.until = known[1]
        return known[0]

    def _place(self, site: str) -> Place | None:
        read: SiteRead | None = self.look(Sort.SITE, (site,)).read
        if read is None or not self.is_past(read.opens) or self.is_past(read.closes):
            return None
        profile = self.look(Sort.PROFILE, (read.kind,)).read
        return Place(site, read, _NO_PROFILE if profile is None else profile, self._proof(site, read))

    def _proof(self, site: str, read: SiteRead) -> tuple[bool, int]:
        """R13, R14."""
        proof = self.look(Sort.PROOF, (site,))
        if proof.value is None or proof.value.get("rung") not in RUNGS:
            return False, proof.start
        end = proof.start + self.rules.proof_ms(read.is_key_unit)
        return (False, end) if self.is_past(end) else (True, proof.start)

    # -- watchers ------------------------------------------------------------------------------------------------------

    def health(self, device: str, zone: str, accepted: int) -> Health:
        """How an accepted watcher is (R9 to R12)."""
        contract, _, health = self.unit(device)
        if health.gap is None and zone != ZONE_OF_ALL:
            of_zone = self._standing(device, zone, contract.is_supervised)
            if of_zone.gap is not None or of_zone.is_degraded:
                health = of_zone
        if health.gap is None and contract.live_test_days is not None:
            health = self._tested(health, device, zone, contract, accepted)
        return health if contract.is_supervised else health._replace(is_supervised=False)

    def unit(self, device: str) -> Unit:
        """A device, asked for by each of its zones."""
        known = self._units.get(device)
        if known is None:
            before, self.until = self.until, NEVER
            known = self._units[device] = (self._unit(device), self.until)
            self.until = before
        if known[1] < self.until:  # noqa: PLR1730  # as in look
            self.until = known[1]
        return known[0]

    def _unit(self, device: str) -> Unit:
        kept = self.look(Sort.DEVICE, (device,)).value
        contract = contract_of("" if kept is None else kept.get("kind", ""), self.rules.contracts)
        stage = self.look(Sort.STAGE, (device,)).value
        return Unit(
            contract, kept is None or is_out(stage), self._standing(device, ZONE_OF_ALL, contract.is_supervised)
        )

    def _standing(self, device: str, zone: str, is_supervised: bool) -> Health:
        stretch = self.look(Sort.HEALTH, (device, zone))
        value = stretch.value
        if value is None:  # R10: of a device nothing heard is silent, of a zone it is well
            return Health(Gap.SILENT if is_supervised and zone == ZONE_OF_ALL else None, stretch.start)
        state = value["state"]
        gap = _GAPS.get(state)
        if gap is Gap.SILENT and not is_supervised:
            return Health(None, stretch.start)  # R12: its silence says nothing
        return Health(gap, stretch.start, value.get("cause", ""), value.get("via", ""), state == "degraded")

    def last_test(self, device: str, zone: str, accepted: int) -> int:
        """When a watcher was triggered and heard; what passed its walk test was tested then."""
        last = accepted
        for tested in self.history.zones_tested.get(device, ()) if zone == ZONE_OF_ALL else (zone,):
            stretch = self.look(Sort.LIVE_TEST, (device, tested))
            if stretch.value is not None:
                last = max(last, stretch.start)
        return last

    def _tested(self, standing: Health, device: str, zone: str, contract: Contract, accepted: int) -> Health:
        """R11."""
        assert contract.live_test_days is not None
        due = self.last_test(device, zone, accepted) + round(contract.live_test_days * DAY_MS)
        if not self.is_past(due):
            return standing
        end = due + round(contract.grace_days * DAY_MS)
        if self.is_past(end):
            return Health(Gap.UNTESTED, end)
        return standing._replace(since=due, because=standing.because, is_degraded=True, is_overdue=True)

    def accepted(self, point: str, read: PointRead) -> Iterator[tuple[str, str, int]]:
        """The watchers of a point that are accepted there, with the moment of acceptance (R6)."""
        for device, zone in read.watchers:
            acceptance = self.look(Sort.ACCEPTANCE, (point, device, zone))
            if acceptance.value is not None:
                yield device, zone, acceptance.start


def is_out(stage: Mapping[str, Any] | None) -> bool:
    """Whether a device at this stage is out of service (R7)."""
    return stage is not None and stage.get("stage") in _OUT
