"""Verdict: of one requirement at one point, what is required, installed, working and networked, and why not.

The rules are written in one table, docs/coverage.md; the ids beside the code (R1 ...) are its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.coverage.facts import Sort
from gateway.coverage.history import EVER, NEVER, PointRead
from gateway.coverage.requirements import Duty, Family, Networking, Requirement
from gateway.coverage.view import Gap, Place, Rules, View

__all__ = ["Gap", "Rules", "Verdict", "judge", "judge_all", "judge_site"]


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


def judge(view: View, point: str) -> Sequence[Verdict]:
    """The verdicts on a point, in the profile's order. `view.until` is set to the moment up to which they stand."""
    view.until = NEVER
    read: PointRead | None = view.look(Sort.POINT, (point,)).read
    if read is None or (place := view.place(read.site)) is None:
        return ()
    requirements = place.profile.get(read.kind)
    if not requirements:
        return ()
    return _Judgement(view, place, point, read).verdicts(requirements)


def judge_site(view: View, site: str) -> Sequence[Verdict]:
    """Verdicts on what nobody has planned for a site (R4). `view.until` as above."""
    view.until = NEVER
    place = view.place(site)
    if place is None:
        return ()
    wanted = [line for lines in place.profile.values() for line in lines if line.every_site]
    if not wanted:
        return ()
    there = set()
    for point in view.history.points_of_site.get(site, ()):
        read = view.look(Sort.POINT, (point,)).read
        if read is not None and read.site == site:
            there.add(read.kind)
    since = max(view.look(Sort.SITE, (site,)).start, view.look(Sort.PROFILE, (place.read.kind,)).start)
    since = max(since, place.read.opens)
    return [
        _verdict(place, "", line, Gap.NOT_PLANNED, since, until=view.until)
        for line in wanted
        if line.point_kind not in there
    ]


def judge_all(view: View) -> Iterator[Verdict]:
    """Everything at a moment: each point, and what no site has planned."""
    for (point,) in view.history.subjects(Sort.POINT):
        yield from judge(view, point)
    for (site,) in view.history.subjects(Sort.SITE):
        yield from judge_site(view, site)


class _Judgement:
    """One point at one moment, while its requirements take their watchers."""

    __slots__ = ("accepted", "place", "point", "read", "taken", "usable", "view")

    def __init__(self, view: View, place: Place, point: str, read: PointRead) -> None:
        self.view, self.place, self.point, self.read = view, place, point, read
        accepted = list(view.accepted(point, read))
        self.accepted = len(accepted)
        self.taken = 0
        self.usable = [watcher for watcher in accepted if not view.unit(watcher[0]).is_out]  # R7
        """Watchers that are accepted and in service, in the point's order, with the moment of acceptance."""

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
                warned = True
                if gap is None:  # a missing proof is not explained by the warning of a device
                    device, because, since = name, health.because, health.since
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
        for device, *_ in self.read.watchers:
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
