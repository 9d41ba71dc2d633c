"""Live: the figures of now, kept up to date. A fact costs what it changes; time alone changes things by a heap."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from gateway.coverage.counts import Counts
from gateway.coverage.facts import Fact, Sort
from gateway.coverage.history import NEVER, Change, History, moment_of, ms_of
from gateway.coverage.sums import ALL, nodes_of, shape_of, site_counts
from gateway.coverage.verdict import Verdict, judge, judge_site
from gateway.coverage.view import Rules, View

Spot = tuple[str, str]
"""("point", id), or ("site", id) for what nobody has planned there and for where it belongs."""


class Live:
    """Always what count.tree() would say at `now`, which only goes forward."""

    def __init__(self, history: History, now: datetime, *, rules: Rules) -> None:
        self.history, self.rules = history, rules
        self._now = ms_of(now)
        self._verdicts: dict[Spot, Sequence[Verdict]] = {}
        self._shapes: defaultdict[str, Counter[tuple[object, ...]]] = defaultdict(Counter)
        self._counts: dict[str, tuple[Counts, tuple[str, ...]]] = {}
        """What each site has added, and to which nodes."""
        self._tree: dict[str, Counts] = {}
        self._due: list[tuple[int, Spot]] = []
        self._until: dict[Spot, int] = {}
        """When each has to be looked at again: what else is in the heap is outdated."""
        self.judged = 0
        """Points and sites judged since the start: what all this has cost."""
        self._begin()

    @property
    def tree(self) -> Mapping[str, Counts]:
        """The counts of every node. Not to be kept: it changes."""
        return self._tree

    def counts(self, node: str = ALL) -> Counts:
        """Of one node; of one that is not there, none."""
        return self._tree.get(node, Counts())

    def verdicts(self) -> Iterator[Verdict]:
        """Every requirement, met or not."""
        for found in self._verdicts.values():
            yield from found

    def next_change(self) -> datetime | None:
        """When time alone may next change something; None: never."""
        while self._due and self._until.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        return moment_of(self._due[0][0]) if self._due else None

    def apply(self, facts: Iterable[Fact], now: datetime) -> Sequence[Verdict]:
        """Take up facts and come to `now`; the verdicts on everything that was touched, for better or worse."""
        touched = {spot for change in self.history.add(facts) for spot in self._spots(change)}
        self._now = max(self._now, ms_of(now))
        while self._due and self._due[0][0] <= self._now:
            at, spot = heapq.heappop(self._due)
            if self._until.get(spot) == at:
                touched.add(spot)
        return self._judge(touched)

    def advance(self, now: datetime) -> Sequence[Verdict]:
        """Come to `now`."""
        return self.apply((), now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._tree[ALL] = Counts()
        spots = {("point", point) for (point,) in self.history.subjects(Sort.POINT)}
        spots |= {("site", site) for (site,) in self.history.subjects(Sort.SITE)}
        spots |= {("area", area) for (area,) in self.history.subjects(Sort.AREA)}
        self._judge(spots)

    def _spots(self, change: Change) -> Iterable[Spot]:
        """What a change touches."""
        history, name = self.history, change.subject[0]
        match change.sort:
            case Sort.DEVICE | Sort.STAGE | Sort.HEALTH | Sort.LIVE_TEST:
                found = [("point", point) for point in history.points_of_device.get(name, ())]
            case Sort.ACCEPTANCE | Sort.WAIVER | Sort.INSPECTION:
                found = [("point", name)]
            case Sort.POINT:
                found = [("point", name), *(("site", site) for site in history.sites_of_point.get(name, ()))]
            case Sort.SITE | Sort.PROOF:
                found = self._whole(name)
            case Sort.PROFILE:
                found = [spot for site in history.sites_of_kind.get(name, ()) for spot in self._whole(site)]
            case Sort.AREA:
                found = [("area", name), *(("site", site) for site in history.sites_below(name))]
            case _:
                found = []
        return found

    def _whole(self, site: str) -> list[Spot]:
        return [("site", site), *(("point", point) for point in self.history.points_of_site.get(site, ()))]

    def _judge(self, spots: Iterable[Spot]) -> Sequence[Verdict]:
        view = View(self.history, self._now, self.rules)
        found: list[Verdict] = []
        sites: set[str] = set()
        areas: list[str] = []
        for spot in spots:
            self.judged += 1
            sort, name = spot
            if sort == "area":
                areas.append(name)
                continue
            new = judge(view, name) if sort == "point" else judge_site(view, name)
            if sort == "site":
                sites.add(name)
                nodes_of(view, name)  # where it belongs counts for how long this stands
            for sign, verdicts in ((-1, self._verdicts.get(spot, ())), (1, new)):
                for verdict in verdicts:
                    self._shapes[verdict.site][shape_of(verdict)] += sign
                    sites.add(verdict.site)
            self._verdicts[spot] = new
            self._look_again(spot, view.until)
            found += new
        for site in sites:
            self._add_up(view, site)
        for area in areas:  # once no site is counted in one that is gone
            self._area(view, area)
        return found

    def _look_again(self, spot: Spot, until: int) -> None:
        self._until[spot] = until
        if until < NEVER:
            heapq.heappush(self._due, (until, spot))

    def _area(self, view: View, area: str) -> None:
        view.until = NEVER
        node = f"area:{area}"
        if view.look(Sort.AREA, (area,)).value is not None:
            self._tree.setdefault(node, Counts())
        else:
            self._tree.pop(node, None)
        self._look_again(("area", area), view.until)

    def _add_up(self, view: View, site: str) -> None:
        counted, nodes = self._counts.pop(site, (Counts(), ()))
        for node in nodes:
            self._tree[node] -= counted
        self._tree.pop(f"site:{site}", None)
        place = view.place(site)
        if place is None:
            return
        shapes = self._shapes[site] = +self._shapes[site]
        counted = site_counts(shapes, place.read.kind in self.rules.target_kinds)
        nodes = nodes_of(view, site)
        for node in nodes:
            self._tree[node] = self._tree.get(node, Counts()) + counted
        self._counts[site] = counted, nodes
