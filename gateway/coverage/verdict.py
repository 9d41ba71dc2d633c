"""Verdict: of one requirement at one point, what is required, installed, working and networked, and why not.

The rules are written in one table, docs/coverage.md; the ids beside the code (R1 ...) are its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.coverage.contracts import CONTRACTS, Contract, contract_of, contracts_of
from gateway.coverage.facts import ZONE_OF_ALL, Sort
from gateway.coverage.history import DAY_MS, EVER, NEVER, NOTHING, History, PointRead, SiteRead, Stretch, Subject
from gateway.coverage.requirements import Duty, Family, Networking, Requirement

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


class Verdict(NamedTuple):
    """One requirement of one point (or of a site that has no such point) at one moment. Moments in ms since 1970."""

    site: str
    site_kind: str
    point: str
    """"": the site has no such point."""
    point_kind: str
    measure: str
    family: Family
    duty: Duty
    required: bool
    """False where it is waived."""
    waived: bool
    installed: bool
    working: bool
    degraded: bool
    networked: bool
    must_network: bool
    unsupervised: bool
    overdue: bool
    gap: Gap | None
    device: str
    """Which watcher makes the gap, or the warning; "" where none does."""
    because: str
    """The cause as its fact names it: an event's kind, the reason of a waiver."""
    via: str
    """What the watcher is unreachable through."""
    since: int | None
    """From when the gap, the waiver or else the state has been; None: not known."""
    until: int | None
    """The next moment at which this may change with no new fact; None: none."""


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

    # -- points --------------------------------------------------------------------------------------------------------

    def judge(self, point: str) -> Sequence[Verdict]:
        """The verdicts on a point, in the profile's order. `until` is set to the moment up to which they stand."""
        self.until = NEVER
        read: PointRead | None = self.look(Sort.POINT, (point,)).read
        if read is None or (place := self.place(read.site)) is None:
            return ()
        requirements = place.profile.get(read.kind)
        if not requirements:
            return ()
        return _Judgement(self, place, point, read).verdicts(requirements)

    def judge_site(self, site: str) -> Sequence[Verdict]:
        """Verdicts on what nobody has planned for a site (R4). `until` as above."""
        self.until = NEVER
        place = self.place(site)
        if place is None:
            return ()
        wanted = [line for lines in place.profile.values() for line in lines if line.every_site]
        if not wanted:
            return ()
        there = set()
        for point in self.history.points_of_site.get(site, ()):
            read = self.look(Sort.POINT, (point,)).read
            if read is not None and read.site == site:
                there.add(read.kind)
        since = max(self.look(Sort.SITE, (site,)).start, self.look(Sort.PROFILE, (place.read.kind,)).start)
        since = max(since, place.read.opens)
        return [
            _verdict(place, "", line, Gap.NOT_PLANNED, since, until=self.until)
            for line in wanted
            if line.point_kind not in there
        ]


def is_out(stage: Mapping[str, Any] | None) -> bool:
    """Whether a device at this stage is out of service (R7)."""
    return stage is not None and stage.get("stage") in _OUT


class _Judgement:
    """One point at one moment, while its requirements take their watchers."""

    __slots__ = ("accepted", "place", "point", "read", "taken", "usable", "view")

    def __init__(self, view: View, place: Place, point: str, read: PointRead) -> None:
        self.view, self.place, self.point, self.read = view, place, point, read
        self.accepted = 0
        self.taken = 0
        self.usable: list[tuple[str, str, int]] = []
        """Watchers that are accepted and in service, in the point's order, with the moment of acceptance."""
        for device, zone in read.watchers:
            acceptance = view.look(Sort.ACCEPTANCE, (point, device, zone))
            if acceptance.value is None:
                continue  # R6
            self.accepted += 1
            if not view.unit(device).is_out:  # R7
                self.usable.append((device, zone, acceptance.start))

    def verdicts(self, requirements: Sequence[Requirement]) -> Sequence[Verdict]:
        base = self.view.until
        found = []
        least = base
        for line in requirements:
            self.view.until = base
            found.append(self._verdict(line))
            least = min(least, self.view.until)
        self.view.until = least
        return found

    def _verdict(self, line: Requirement) -> Verdict:
        waiver = self.view.look(Sort.WAIVER, (self.point, line.measure))
        # R5: what is waived takes its watchers all the same.
        verdict = self._inspected(line) if line.family is Family.PHYSICAL else self._watched(line)
        if waiver.value is None:
            return verdict
        return verdict._replace(
            required=False, waived=True, gap=None, because=waiver.value.get("reason", ""), since=waiver.start
        )

    def _inspected(self, line: Requirement) -> Verdict:
        """R15."""
        last = self.view.look(Sort.INSPECTION, (self.point, line.measure))
        value = last.value or last.expired
        is_ok = value is not None and bool(value.get("ok"))
        gap = None
        if last.value is None:
            gap = Gap.NOT_INSPECTED
        elif not is_ok:
            gap = Gap.INSPECTION_FAILED
        return _verdict(
            self.place, self.point, line, gap, last.start, until=self.view.until,
            because="" if value is None or is_ok else value.get("remark", ""), installed=is_ok, working=gap is None,
        )  # fmt: skip

    def _watched(self, line: Requirement) -> Verdict:
        view, place = self.view, self.place
        first = 0 if line.shared else self.taken
        counted = self.usable[first : first + line.quantity]
        if not line.shared:
            self.taken += len(counted)
        if len(counted) < line.quantity:
            since = view.look(Sort.POINT, (self.point,)).start
            return _verdict(place, self.point, line, self._missing(line, first), since, until=view.until)
        is_proved, turned = place.proof
        must = line.networking is Networking.MUST
        gap, since = (Gap.NOT_NETWORKED, turned) if must and not is_proved else (None, EVER)
        warned = unsupervised = overdue = False
        device = because = ""
        for name, zone, accepted in counted:  # a plain loop: it is gone through for every point there is
            health = view.health(name, zone, accepted)
            unsupervised = unsupervised or not health.is_supervised
            if health.gap is not None:
                return _verdict(
                    place, self.point, line, health.gap, health.since, until=view.until, device=name,
                    because=health.because, via=health.via, installed=True, unsupervised=unsupervised,
                )  # fmt: skip
            if gap is not None:
                since = max(since, accepted)  # before, nothing was there to be proved
            if health.is_degraded and not warned:
                warned, device, because = True, name, health.because
                since = health.since if gap is None else since
            elif gap is None and not warned:
                since = max(since, health.since)
            overdue = overdue or health.is_overdue
        return _verdict(
            place, self.point, line, gap, since, until=view.until, device=device, because=because,
            installed=True, working=True, degraded=warned, networked=must and is_proved,
            unsupervised=unsupervised, overdue=overdue,
        )  # fmt: skip

    def _missing(self, line: Requirement, first: int) -> Gap:
        """What is missing first: a watcher, its acceptance, its service."""
        need = first + line.quantity
        if self.accepted >= need:
            return Gap.OUT_OF_SERVICE
        there = 0
        for device, _ in self.read.watchers:
            stage = self.view.look(Sort.STAGE, (device,)).value
            there += stage is None or stage.get("stage") != "planned"
        return Gap.NOT_ACCEPTED if there >= need else Gap.NOT_INSTALLED


def _verdict(
    place: Place,
    point: str,
    line: Requirement,
    gap: Gap | None,
    since: int | None,
    *,
    until: int,
    device: str = "",
    because: str = "",
    via: str = "",
    installed: bool = False,
    working: bool = False,
    degraded: bool = False,
    networked: bool = False,
    unsupervised: bool = False,
    overdue: bool = False,
) -> Verdict:
    return Verdict(
        place.site, place.read.kind, point, line.point_kind, line.measure, line.family, line.duty,
        True, False, installed, working, degraded, networked, line.networking is Networking.MUST, unsupervised, overdue,
        gap, device, because, via,
        None if since is None or abs(since) >= NEVER else since, None if until >= NEVER else until,
    )  # fmt: skip


def judge_all(view: View) -> Iterator[Verdict]:
    """Everything at a moment: each point, and what no site has planned."""
    for (point,) in view.history.subjects(Sort.POINT):
        yield from view.judge(point)
    for (site,) in view.history.subjects(Sort.SITE):
        yield from view.judge_site(site)
