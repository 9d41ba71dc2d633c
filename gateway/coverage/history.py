"""History: what was true of each subject when, made from the record of facts, and ready to be asked.

Times are whole milliseconds inside; every answer comes with the moment until which it stays true, so that whoever asks
knows how long what he made of it holds.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from gateway.coverage.days import start_of
from gateway.coverage.facts import ZONE_OF_ALL, Fact, Sort
from gateway.coverage.requirements import Duty, Family, Networking, Requirement

Subject = tuple[str, ...]
NEVER = 1 << 60
"""Later than any moment, in ms."""
EVER = -NEVER
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
DAY_MS = 86_400_000


def ms_of(moment: datetime) -> int:
    """Whole milliseconds since 1970; what is less than one is cut off."""
    return (moment - _EPOCH) // _MS


def moment_of(ms: int) -> datetime | None:
    """The moment, in UTC; None for NEVER."""
    return None if abs(ms) >= NEVER else _EPOCH + ms * _MS


# -- what the engine reads in a value ----------------------------------------------------------------------------------


class SiteRead(NamedTuple):
    """Of a site, what counting needs."""

    kind: str
    area: str | None
    is_key_unit: bool
    opens: int
    closes: int
    """The first moment at which it is no longer there."""


class PointRead(NamedTuple):
    """Of a point, what counting needs."""

    site: str
    kind: str
    watchers: tuple[tuple[str, str], ...]
    """Device and zone as facts name them."""


ProfileRead = Mapping[str, tuple[Requirement, ...]]
"""Requirements by kind of point, in the profile's order."""


def _site(value: Mapping[str, Any]) -> SiteRead:
    opens, closes = value.get("opens"), value.get("closes")
    return SiteRead(
        value.get("kind", ""),
        value.get("area"),
        bool(value.get("is_key_unit")),
        ms_of(start_of(date.fromisoformat(opens))) if opens else EVER,
        ms_of(start_of(date.fromisoformat(closes))) + DAY_MS if closes else NEVER,
    )


def _point(value: Mapping[str, Any]) -> PointRead:
    device = value.get("device")
    first = () if device is None else ((device, value.get("zone")),)
    return PointRead(
        value["site"],
        value.get("kind", ""),
        tuple((name, zone_of(zone)) for name, zone in (*first, *value.get("also", ()))),
    )


def zone_of(zone: int | None) -> str:
    """A watcher's zone as facts name it."""
    return ZONE_OF_ALL if zone is None else str(zone)


def _profile(value: Mapping[str, Any]) -> ProfileRead:
    by_kind: defaultdict[str, list[Requirement]] = defaultdict(list)
    for line in value["requirements"]:
        read = {
            **line,
            "family": Family(line.get("family", "technical")),
            "duty": Duty(line.get("duty", "mandatory")),
            "networking": Networking(line.get("networking", "no")),
        }
        by_kind[line["point_kind"]].append(Requirement(**read))
    return {kind: tuple(lines) for kind, lines in by_kind.items()}


_READ: Mapping[Sort, Callable[[Mapping[str, Any]], Any]] = {
    Sort.SITE: _site,
    Sort.POINT: _point,
    Sort.PROFILE: _profile,
}


# -- tracks ------------------------------------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """What was true of one subject from `start` until `stop`, not included. Moments in ms."""

    start: int
    stop: int
    value: Mapping[str, Any] | None
    """None: nothing, or no longer."""
    read: Any = None
    """The value as the engine reads it: SiteRead, PointRead, ProfileRead; else None."""
    expired: Mapping[str, Any] | None = None
    """What it was until its own end was reached, at `start`."""


NOTHING = Stretch(EVER, NEVER, None)


class Line(NamedTuple):
    """One fact in the order that decides; the greatest that has begun holds."""

    start: int
    recorded: int
    id: int
    fact: Fact


class Track:
    """One subject's facts, and the stretches that follow from them."""

    __slots__ = ("_starts", "_stretches", "lines")

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._starts: list[int] = []
        self._stretches: list[Stretch] = []

    def at(self, ms: int) -> Stretch:
        """What was true at this moment."""
        starts = self._starts
        if not starts or starts[-1] <= ms:
            return self._stretches[-1] if starts else NOTHING
        found = bisect_right(starts, ms)
        return self._stretches[found - 1] if found else Stretch(EVER, starts[0], None)

    def add(self, line: Line) -> None:
        """Mostly the newest comes last; else what follows from all is worked out anew."""
        is_last = not self.lines or self.lines[-1][:3] < line[:3]
        if is_last:
            self.lines.append(line)
        else:
            insort(self.lines, line, key=_order)
        if is_last:
            self._append(line)
        else:
            self._work_out()

    def remove(self, line: Line) -> None:
        """It never held."""
        self.lines.remove(line)
        self._work_out()

    def _work_out(self) -> None:
        self._starts.clear()
        self._stretches.clear()
        for line in self.lines:
            self._append(line)

    def _append(self, line: Line) -> None:
        start, fact, value = line.start, line.fact, line.fact.value
        while self._starts and self._starts[-1] >= start:  # as old and recorded sooner, or an end beyond this beginning
            self._starts.pop()
            self._stretches.pop()
        if self._stretches:
            self._stretches[-1] = self._stretches[-1]._replace(stop=start)
        stop = NEVER if fact.valid_to is None else ms_of(fact.valid_to)
        if stop <= start:  # it holds for no moment, and still ends what was before it
            value, stop = None, NEVER
        reader = _READ.get(fact.sort)
        self._push(Stretch(start, stop, value, None if reader is None or value is None else reader(value)))
        if stop < NEVER:
            self._push(Stretch(stop, NEVER, None, None, value))

    def _push(self, stretch: Stretch) -> None:
        self._starts.append(stretch.start)
        self._stretches.append(stretch)


def _order(line: Line) -> tuple[int, int, int]:
    return line[:3]


# -- the history -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What a fact changed: this subject, from `start` on."""

    sort: Sort
    subject: Subject
    start: int


class History:
    """All facts, by sort and subject. They may be added in any order, and twice."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self.tracks: dict[Sort, dict[Subject, Track]] = {sort: {} for sort in Sort}
        self.points_of_site: defaultdict[str, set[str]] = defaultdict(set)
        """Every point that was ever at a site; and so on."""
        self.sites_of_point: defaultdict[str, set[str]] = defaultdict(set)
        self.sites_of_kind: defaultdict[str, set[str]] = defaultdict(set)
        self.sites_of_area: defaultdict[str, set[str]] = defaultdict(set)
        self.areas_of_area: defaultdict[str, set[str]] = defaultdict(set)
        self.points_of_device: defaultdict[str, set[str]] = defaultdict(set)
        self.zones_tested: defaultdict[str, set[str]] = defaultdict(set)
        self.zones_judged: defaultdict[str, set[str]] = defaultdict(set)
        """Of which its health was ever told, the whole device included."""
        self.facts: list[Fact] = []
        self._lines: dict[int, Line] = {}
        self._withdrawn: defaultdict[int, list[int]] = defaultdict(list)
        """By the id of a fact that never held, when each withdrawal of it was recorded."""
        self.add(facts)

    def add(self, facts: Iterable[Fact]) -> list[Change]:
        """Take these up; what they changed."""
        return [change for fact in facts for change in self._add(fact)]

    def at(self, sort: Sort, subject: Subject, moment: datetime) -> Mapping[str, Any] | None:
        """The value at a moment; as it was known on some day, `as_known` says."""
        return self.look(sort, subject, ms_of(moment)).value

    def look(self, sort: Sort, subject: Subject, ms: int) -> Stretch:
        """What was true of a subject at a moment, and for how long."""
        track = self.tracks[sort].get(subject)
        return NOTHING if track is None else track.at(ms)

    def subjects(self, sort: Sort) -> Iterable[Subject]:
        """All of which anything was ever said."""
        return self.tracks[sort].keys()

    def as_known(self, known_at: datetime) -> History:
        """The history as it was known at a moment: without what was recorded later."""
        limit = ms_of(known_at)
        return History(fact for fact in self.facts if _recorded(fact) <= limit)

    def sites_below(self, area: str) -> Collection[str]:
        """Every site that was ever in an area, or in one that was ever in it."""
        areas, sites = [area], set(self.sites_of_area.get(area, ()))
        for above in areas:
            for below in self.areas_of_area.get(above, ()):
                if below not in areas:
                    areas.append(below)
                    sites |= self.sites_of_area.get(below, set())
        return sites

    def _add(self, fact: Fact) -> Iterable[Change]:
        if fact.id and fact.id in self._lines:
            return
        self.facts.append(fact)
        line = Line(ms_of(fact.valid_from), _recorded(fact), fact.id, fact)
        if fact.id:
            self._lines[fact.id] = line
        if fact.withdraws is not None:
            first = fact.withdraws not in self._withdrawn
            self._withdrawn[fact.withdraws].append(line.recorded)
            mistaken = self._lines.get(fact.withdraws)
            if first and mistaken is not None and self._says(mistaken.fact):
                self.tracks[mistaken.fact.sort][mistaken.fact.subject].remove(mistaken)
                yield Change(mistaken.fact.sort, mistaken.fact.subject, mistaken.start)
        if not self._says(fact) or fact.id in self._withdrawn:
            return
        track = self.tracks[fact.sort].get(fact.subject)
        if track is None:
            track = self.tracks[fact.sort][fact.subject] = Track()
        track.add(line)
        self._index(fact)
        yield Change(fact.sort, fact.subject, line.start)

    @staticmethod
    def _says(fact: Fact) -> bool:
        """A withdrawal without a value says nothing but that; with one, it corrects."""
        return fact.withdraws is None or fact.value is not None

    def _index(self, fact: Fact) -> None:
        if fact.sort is Sort.LIVE_TEST:
            self.zones_tested[fact.subject[0]].add(fact.subject[1])
        elif fact.sort is Sort.HEALTH:
            self.zones_judged[fact.subject[0]].add(fact.subject[1])
        elif fact.value is None:
            return
        elif fact.sort is Sort.SITE:
            self.sites_of_kind[fact.value.get("kind", "")].add(fact.subject[0])
            self.sites_of_area[fact.value.get("area") or ""].add(fact.subject[0])
        elif fact.sort is Sort.AREA:
            self.areas_of_area[fact.value.get("parent") or ""].add(fact.subject[0])
        elif fact.sort is Sort.POINT:
            point = _point(fact.value)
            self.points_of_site[point.site].add(fact.subject[0])
            self.sites_of_point[fact.subject[0]].add(point.site)
            for device, _ in point.watchers:
                self.points_of_device[device].add(fact.subject[0])


def _recorded(fact: Fact) -> int:
    return ms_of(fact.recorded_at or fact.valid_from)
